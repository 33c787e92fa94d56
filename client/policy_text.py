"""policy.toml as it is first written: every limit with what it means."""

from __future__ import annotations

from collections.abc import Sequence
from typing import TYPE_CHECKING

from shared_model.config import MINIMUM_CONTRIBUTORS

if TYPE_CHECKING:
    from client.policy import AdvanceApproval, Policy

_NOT_IN_ADVANCE = """# [approve_runs_in_advance]
# purposes = ["pretrain"]
# modes = ["local"]
# epsilon_per_run = 1.0
# Of the coordinator's code. Empty: any.
# code_digests = []
"""


def as_toml(policy: Policy) -> str:
    """The whole file; `Policy.from_file` reads the same policy from it."""
    two = "true" if policy.allow_two_hospitals_who_can_each_compute_the_others_update else "false"
    return f"""# What this hospital allows. The hospital edits this file; the coordinator cannot.
# epsilon bounds what anyone can learn about one patient from everything this node ever sends:
# the odds of a correct guess "this patient was in" change by at most a factor exp(epsilon),
# except with probability delta. Smaller is safer; what is spent never comes back.

# Sum over every run, for as long as this node lives.
epsilon_lifetime = {policy.epsilon_lifetime!r}

# Limit of one training run.
epsilon_per_run = {policy.epsilon_per_run!r}

# Fixed for life at the first round. Default: min(1e-5, 1 / (10 x declared_patients)).
delta = {policy.delta!r}

# Number of patients as told to the others, rounded to two digits. Noised sums are divided by
# it, so it must not follow the true number from day to day.
declared_patients = {policy.declared_patients}

# Fewest hospitals in a sum that this one takes part in (never below {MINIMUM_CONTRIBUTORS}).
minimum_contributors = {policy.minimum_contributors}

# Work that one round may ask for.
maximum_steps_per_round = {policy.maximum_steps_per_round}
maximum_windows_per_patient = {policy.maximum_windows_per_patient}

# Hospitals that may work together with the coordinator and still learn nothing of this one's
# update but the sum. Rosters whose threshold does not hold against so many are refused.
colluding_sites = {policy.colluding_sites}

# A sum of two hospitals shows each of them the (noised) update of the other. true: this hospital
# takes part in such sums all the same; colluding_sites must then be 0.
allow_two_hospitals_who_can_each_compute_the_others_update = {two}

# Trust models that this hospital trains under. "local": it adds all of the noise itself, and trusts
# nobody. "distributed": the noise is shared out among the hospitals of a sum; the promise then
# holds only while the secure sum does.
allowed_modes = {_words(policy.allowed_modes)}

# What models may be trained for.
allowed_purposes = {_words(policy.allowed_purposes)}

# Digests of the fedprint code that may train here, as `fedprint-node status` prints them, beside
# what `fedprint-node approve` has approved. Both empty: whatever this hospital has installed.
allowed_code_digests = {_words(policy.allowed_code_digests)}

# SHA-256 of Flower bundles of a coordinator that are taken beside fedprint's own, which has no code
# and is the same in every version. No bundle is ever executed; others are refused unopened.
allowed_bundle_digests = {_words(policy.allowed_bundle_digests)}

# Seconds. The reply to a request to train leaves at a whole multiple of it after the request came,
# so that its time does not tell how many patients were drawn. Make it longer than the longest
# round; logs/rounds.log says when it was not.
reply_clock_s = {policy.reply_clock_s!r}

# Each run waits for the operator's yes (fedprint-node run show RUN). These lines give it in
# advance, to runs that cost at most this epsilon in all their rounds.
{_advance_as_toml(policy.approve_runs_in_advance)}"""


def _words(values: Sequence[str]) -> str:
    return "[" + ", ".join(f'"{value}"' for value in values) + "]"


def _advance_as_toml(advance: AdvanceApproval | None) -> str:
    if advance is None:
        return _NOT_IN_ADVANCE
    return f"""[approve_runs_in_advance]
purposes = {_words(advance.purposes)}
modes = {_words(advance.modes)}
epsilon_per_run = {advance.epsilon_per_run!r}
# Of the coordinator's code. Empty: any.
code_digests = {_words(advance.code_digests)}
"""
