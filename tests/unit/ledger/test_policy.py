"""The hospital's policy: read strictly, and held against a request before any data is read."""

from __future__ import annotations

import stat
from pathlib import Path
from typing import Any

import pytest

from client.policy import (
    AdvanceApproval,
    Policy,
    check_request,
    installed_code,
    rounded_patients,
)
from shared_model.config import LocalTraining, PrivacyPlan
from shared_model.errors import OurMistake, Refused
from shared_model.release_files import code_digest

CODE = "c0" * 32
PLAN = PrivacyPlan(sample_rate=0.1, noise_multiplier=2.0, clipping_norm=1.0, steps=20)


@pytest.fixture
def path(tmp_path: Path) -> Path:
    return tmp_path / "policy.toml"


@pytest.fixture
def policy(path: Path) -> Policy:
    return Policy.write_default(path, declared_patients=437)


def change(path: Path, old: str, new: str) -> None:
    text = path.read_text()
    assert old in text
    path.write_text(text.replace(old, new))


def test_the_default_policy_reads_back_as_written(policy: Policy, path: Path) -> None:
    """Commented TOML, for the owner only, the declared number rounded, delta from it."""
    assert Policy.from_file(path) == policy
    assert policy.declared_patients == 430
    assert policy.delta == 1e-5
    assert policy.colluding_sites == 1
    assert not policy.allow_two_hospitals_who_can_each_compute_the_others_update
    assert policy.minimum_contributors == 3
    assert stat.S_IMODE(path.stat().st_mode) == 0o600


def test_a_policy_is_never_overwritten(policy: Policy, path: Path) -> None:
    """The hospital's own edits stay."""
    with pytest.raises(OurMistake, match="exists"):
        Policy.write_default(path, declared_patients=5)


def test_a_policy_is_frozen(policy: Policy) -> None:
    """Nothing changes it while the node runs."""
    with pytest.raises(Exception, match="frozen"):
        policy.epsilon_lifetime = 100.0


def test_an_absent_policy_says_how_to_make_one(path: Path) -> None:
    """No policy, no training."""
    with pytest.raises(OurMistake, match="init"):
        Policy.from_file(path)


@pytest.mark.parametrize(
    ("old", "new", "match"),
    [
        ("epsilon_lifetime = 8.0", "epsilon_lifetime = inf", "epsilon_lifetime"),
        ("epsilon_lifetime = 8.0", "epsilon_lifetime = nan", "epsilon_lifetime"),
        ("epsilon_lifetime = 8.0", "epsilon_lifetime = -1.0", "epsilon_lifetime"),
        ("epsilon_lifetime = 8.0", 'epsilon_lifetime = "8"', "epsilon_lifetime"),
        ("epsilon_lifetime = 8.0", "", "epsilon_lifetime"),
        ("epsilon_per_run = 3.0", "epsilon_per_run = 9.0", "above epsilon_lifetime"),
        ("minimum_contributors = 3", "minimum_contributors = 1", "minimum_contributors"),
        ("declared_patients = 430", "declared_patients = 437", "rounded .* 430"),
        ("declared_patients = 430", "declared_patients = 0", "declared_patients"),
        ("delta = 1e-05", "delta = 0.0009\n", "1 / declared|delta"),
        ("declared_patients = 430", "declared_patients = 1000000", "promise nothing"),
        ("minimum_contributors = 3", "allow_non_private_noise = true", "not a key"),
        ("= false", "= 1", "allow_two_hospitals"),
        ("= false", "= true", "colluding_sites must be 0"),
        ("colluding_sites = 1", "colluding_sites = -1", "colluding_sites"),
        ("colluding_sites = 1", "colluding_sites = 256", "colluding_sites"),
        ("epsilon_lifetime = 8.0", "epsilon_lifetime = ", "not valid TOML"),
        ('allowed_modes = ["local"]', 'allowed_modes = ["central"]', "allowed_modes"),
        ('allowed_modes = ["local"]', 'allowed_modes = "local"', "allowed_modes"),
        ('allowed_modes = ["local"]', 'allowed_modes = ["local", "local"]', "something twice"),
        ('allowed_purposes = ["pretrain"]', 'allowed_purposes = ["sell"]', "allowed_purposes"),
        ("allowed_code_digests = []", 'allowed_code_digests = ["abc"]', "allowed_code_digests"),
        ("bundle_digests = []", 'bundle_digests = ["abc"]', "allowed_bundle_digests"),
        ("reply_clock_s = 60.0", "reply_clock_s = 0.0", "reply_clock_s"),
        ("reply_clock_s = 60.0", "reply_clock_s = 3601.0", "reply_clock_s"),
        ("reply_clock_s = 60.0", "reply_clock_s = nan", "reply_clock_s"),
        ("# [approve_runs", "[approve_runs", "approve_runs_in_advance.purposes"),
    ],
)
def test_a_bad_policy_is_refused_with_the_key_that_is_bad(
    policy: Policy, path: Path, old: str, new: str, match: str
) -> None:
    """Refused, never repaired."""
    change(path, old, new)
    if "0.0009" in new:
        change(path, "declared_patients = 430", "declared_patients = 4300")
    with pytest.raises(OurMistake, match=match):
        Policy.from_file(path)


def test_a_key_of_an_earlier_version_is_refused_with_the_line_to_remove(
    policy: Policy, path: Path
) -> None:
    """Whoever upgrades is told what to do, and that nothing leaves in clear any more."""
    for value in ("true", "false"):
        change(path, "colluding_sites = 1", f"allow_insecure_aggregation = {value}")
        with pytest.raises(OurMistake, match="always leave masked") as caught:
            Policy.from_file(path)
        assert "Remove the line" in caught.value.do
        assert "allow_insecure_aggregation" in caught.value.do
        change(path, f"allow_insecure_aggregation = {value}", "colluding_sites = 1")
    assert Policy.from_file(path) == policy


def test_a_yes_in_advance_is_read_back_as_written_and_bounded_by_the_limit_of_a_run(
    path: Path,
) -> None:
    """Whoever removes the comment signs of the default's lines has a valid policy."""
    advance = AdvanceApproval(
        purposes=("pretrain",), modes=("local",), epsilon_per_run=1.0, code_digests=(CODE,)
    )
    policy = Policy.write_default(path, declared_patients=430, approve_runs_in_advance=advance)
    assert Policy.from_file(path) == policy
    assert policy.approve_runs_in_advance == advance
    change(path, "epsilon_per_run = 1.0", "epsilon_per_run = 3.5")
    with pytest.raises(OurMistake, match="above epsilon_per_run"):
        Policy.from_file(path)
    path.unlink()
    Policy.write_default(path, declared_patients=430)
    text, table = path.read_text().split("# [approve_runs_in_advance]\n")
    lines = [line.removeprefix("# ") for line in table.splitlines() if " = " in line]
    path.write_text("\n".join([text + "[approve_runs_in_advance]", *lines]))
    found = Policy.from_file(path).approve_runs_in_advance
    assert found == AdvanceApproval(**{**advance.model_dump(), "code_digests": ()})


def test_a_policy_of_an_earlier_version_holds_with_the_defaults_of_run_approval(
    policy: Policy, path: Path
) -> None:
    """No mode but local, no yes in advance, the long tick."""
    new = ("allowed_", "reply_clock_s")
    lines = path.read_text().splitlines(keepends=True)
    path.write_text("".join(line for line in lines if not line.startswith(new)))
    assert Policy.from_file(path) == policy
    assert policy.allowed_modes == ("local",)
    assert policy.approve_runs_in_advance is None
    assert policy.reply_clock_s == 60.0


def test_a_policy_from_before_the_secure_sum_holds_with_its_safe_defaults(
    policy: Policy, path: Path
) -> None:
    """The new keys may be absent."""
    lines = path.read_text().splitlines(keepends=True)
    path.write_text("".join(x for x in lines if not x.startswith(("colluding", "allow_two"))))
    assert Policy.from_file(path) == policy


def test_two_hospitals_are_allowed_by_a_long_name_and_no_promise(path: Path) -> None:
    """Said by name, with no colluders supposed, and read back as written."""
    options: dict[str, Any] = {
        "declared_patients": 430,
        "minimum_contributors": 2,
        "allow_two_hospitals_who_can_each_compute_the_others_update": True,
    }
    with pytest.raises(OurMistake, match="colluding_sites must be 0"):
        Policy.write_default(path, **options)
    policy = Policy.write_default(path, **options, colluding_sites=0)
    assert Policy.from_file(path) == policy
    assert policy.allow_two_hospitals_who_can_each_compute_the_others_update


def test_binary_and_huge_policies_are_refused(path: Path) -> None:
    """A policy is a small text file."""
    path.write_bytes(b"\xff\xfe")
    with pytest.raises(OurMistake, match="not valid TOML"):
        Policy.from_file(path)
    path.write_bytes(b"#" * 100_000)
    with pytest.raises(OurMistake, match="too large"):
        Policy.from_file(path)


def test_bad_default_limits_make_no_file(path: Path) -> None:
    """Checked before it is written."""
    with pytest.raises(OurMistake, match="no policy"):
        Policy.write_default(path, declared_patients=10, epsilon_lifetime=-1.0)
    assert not path.exists()


@pytest.mark.parametrize(
    ("count", "rounded"), [(1, 1), (99, 99), (100, 100), (129, 120), (4_567, 4_500), (10**6, 10**6)]
)
def test_the_declared_number_is_rounded_down(count: int, rounded: int) -> None:
    """To two digits; rounding again changes nothing."""
    assert rounded_patients(count) == rounded
    assert rounded_patients(rounded) == rounded


def test_nobody_is_no_declared_number() -> None:
    """At least one patient."""
    with pytest.raises(OurMistake):
        rounded_patients(0)


def test_the_budget_carries_the_limits(policy: Policy) -> None:
    """As the spend table takes them."""
    budget = policy.budget
    assert (budget.epsilon_lifetime, budget.epsilon_per_run, budget.delta) == (8.0, 3.0, 1e-5)


def test_advice_on_the_declared_number_stays_on_this_screen(policy: Policy) -> None:
    """A text for the operator; nothing is raised, so nothing is told."""
    assert policy.declared_fits(430) == ""
    assert "more than twice" in policy.declared_fits(1000)
    assert "less than half" in policy.declared_fits(100)


def ask(policy: Policy, **changes: Any) -> None:
    request: dict[str, Any] = {
        "site": "a",
        "purpose": "pretrain",
        "code": CODE,
        "plan": PLAN,
        "training": LocalTraining(),
        "participants": ("a", "b", "c"),
        "minimum_contributors": 3,
    }
    check_request(policy, **(request | changes))


def test_a_round_within_the_policy_passes(policy: Policy) -> None:
    """Nothing is raised."""
    ask(policy)


@pytest.mark.parametrize(
    ("changes", "reason"),
    [
        ({"participants": ("a", "b")}, "contributors"),
        ({"minimum_contributors": 2}, "contributors"),
        ({"minimum_contributors": 4}, "contributors"),
        ({"participants": ("b", "c", "d")}, "roster"),
        ({"participants": ("a", "a", "b")}, "roster"),
        ({"plan": PrivacyPlan(0.1, 2.0, 1.0, 1001)}, "policy"),
        ({"plan": PrivacyPlan(0.1, 2.0, 1e-9, 10)}, "policy"),
        ({"plan": PrivacyPlan(1e-9, 2.0, 1.0, 10)}, "policy"),
        ({"training": LocalTraining(segments=64, patch_masks=2)}, "policy"),
    ],
)
def test_a_round_outside_the_policy_is_refused(
    policy: Policy, changes: dict[str, Any], reason: str
) -> None:
    """With a word that may be sent back, before data is read."""
    with pytest.raises(Refused) as caught:
        ask(policy, **changes)
    assert caught.value.reason == reason


@pytest.mark.parametrize(
    ("limits", "key"),
    [
        ({"allowed_modes": ()}, "allowed_modes"),
        ({"allowed_purposes": ()}, "allowed_purposes"),
        ({"allowed_code_digests": ("ab" * 32,)}, f"fedprint-node approve {CODE}"),
        ({"maximum_steps_per_round": 19}, "maximum_steps_per_round"),
        ({"maximum_windows_per_patient": 1}, "maximum_windows_per_patient"),
    ],
)
def test_what_the_policy_does_not_allow_is_refused_with_the_key_to_edit(
    policy: Policy, limits: dict[str, Any], key: str
) -> None:
    """Purpose, trust model, installed code, work."""
    with pytest.raises(Refused) as caught:
        ask(policy.model_copy(update=limits))
    assert caught.value.reason == "policy"
    assert key in caught.value.do
    ask(policy.model_copy(update={"allowed_code_digests": ("ab" * 32, CODE)}))


def test_the_installed_code_is_what_is_imported(monkeypatch: pytest.MonkeyPatch) -> None:
    """Digested once a process: the same at every round."""
    assert installed_code() == code_digest()
    monkeypatch.setattr("client.policy.code_digest", lambda: "ff" * 32)
    assert installed_code() != "ff" * 32


def test_no_policy_lets_a_sum_of_one_through(policy: Policy) -> None:
    """The floor holds even against a policy made without its checks."""
    loose = policy.model_copy(update={"minimum_contributors": 0})
    with pytest.raises(Refused):
        ask(loose, participants=("a",), minimum_contributors=1)
