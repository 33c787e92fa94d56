"""A hospital takes part in a run after its operator, or its policy in advance, said yes to it."""

from __future__ import annotations

import json
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import pytest
from cryptography.hazmat.primitives.asymmetric.ed25519 import Ed25519PrivateKey
from typer.testing import CliRunner

from client import keys, run_cost
from client.approvals import (
    MAX_PENDING,
    MAX_UNUSED,
    HospitalApprovals,
    approvals_of,
    is_approved,
)
from client.cli import app
from client.home import NodeHome
from client.ledger_store import Budget, LedgerStore
from client.policy import AdvanceApproval, Policy, installed_code
from client.rosters import RosterBook, today_utc
from shared_model import accounting, roster, signing
from shared_model.config import LocalTraining, PrivacyPlan
from shared_model.errors import BudgetExhausted, OurMistake, Refused
from shared_model.ledger import Approved, Booked, Chain
from shared_model.protocol import RunPlan

PRIVACY = PrivacyPlan(sample_rate=0.05, noise_multiplier=2.0, clipping_norm=1.0, steps=10)


@dataclass(frozen=True)
class Card:
    """What a roster takes from an enrolment card."""

    site: str
    identity_key: str
    declared_patients: int


IN_ADVANCE = AdvanceApproval(purposes=("pretrain",), modes=("local",), epsilon_per_run=2.0)


def plan(**changes: Any) -> RunPlan:
    values: dict[str, Any] = {
        "run": "spring",
        "purpose": "pretrain",
        "preset": "tiny",
        "config_digest": "ab" * 32,
        "privacy": PRIVACY,
        "training": LocalTraining(),
        "rounds": 3,
        "bookings": 5,
        "minimum_contributors": 3,
        "aggregation": "secure-sum",
        "server_step": "fedavg",
        "server_learning_rate": 1.0,
        "code_digest": installed_code(),
    }
    return RunPlan(**{**values, **changes})


def epsilon(rounds: int, privacy: PrivacyPlan = PRIVACY) -> float:
    return accounting.epsilon_pld([privacy] * rounds, 1e-5)


@dataclass
class Hospital:
    """A node's folder with a real ledger."""

    home: NodeHome

    @classmethod
    def made(cls, root: Path, **policy: Any) -> Hospital:
        home = NodeHome(root)
        keys.make(home, "north", 430)
        Policy.write_default(home.policy, declared_patients=430, **policy)
        return cls(home)

    @property
    def approvals(self) -> HospitalApprovals:
        """Made anew, as for each message."""
        return approvals_of(self.home)

    @property
    def chain(self) -> Chain:
        with self.store() as store:
            return store.chain

    def store(self) -> LedgerStore:
        key = signing.load_key_file(self.home.identity_key)
        return LedgerStore.open(self.home, "north", key)

    def refused(self, asked: RunPlan) -> Refused:
        with pytest.raises(Refused) as caught:
            self.approvals.check(asked)
        return caught.value

    def book(self, run: str, round: int, **changes: Any) -> None:
        policy = Policy.from_file(self.home.policy)
        draft = Booked(
            **{
                "site": "north",
                "sequence": 1,
                "run": run,
                "round": round,
                "purpose": "pretrain",
                "mode": "local",
                "sample_rate": PRIVACY.sample_rate,
                "noise_multiplier": PRIVACY.noise_multiplier,
                "clipping_norm": PRIVACY.clipping_norm,
                "steps": PRIVACY.steps,
                "declared_patients": 430,
                "delta": policy.delta,
                "noise": "system entropy, AES-256-CTR",
                "private": True,
                "model_in": "ab" * 32,
                "request_digest": "cd" * 32,
                "code_digest": installed_code(),
                "roster_digest": "ef" * 32,
                "transcript": "01" * 32,
                "participants": 3,
                "threshold": 2,
                "colluding_sites": 0,
                "minimum_contributors": 3,
                "dimension": 0,
                "limit_lifetime": None,
                "limit_run": None,
                "epsilon_lifetime": None,
                "epsilon_run": None,
                "outsider_epsilon_lifetime": None,
                "time_s": 0,
                **changes,
            }
        )
        with self.store() as store:
            store.reserve(draft, policy.budget)

    def edit(self, old: str, new: str) -> None:
        text = self.home.policy.read_text()
        assert old in text
        self.home.policy.write_text(text.replace(old, new))

    def run(self, *arguments: str, stdin: str = "") -> Any:
        return CliRunner().invoke(
            app, ["run", *arguments, "--home", str(self.home.root)], input=stdin
        )


@pytest.fixture
def hospital(tmp_path: Path) -> Hospital:
    return Hospital.made(tmp_path / "node")


def test_an_unknown_plan_waits_and_after_the_operator_s_yes_it_passes(hospital: Hospital) -> None:
    """Nothing is booked, nothing is in the ledger before; the yes is an entry of it."""
    assert hospital.refused(plan()).reason == "run-approval"
    assert hospital.chain.length == 0
    assert [kept.plan for kept in hospital.approvals.files.of("pending")] == [plan()]
    hospital.approvals.approve(plan())
    hospital.approvals.check(plan())
    entry, booked = hospital.chain.approval("spring")
    assert isinstance(entry, Approved)
    assert (entry.by, entry.bookings, booked) == ("operator", 5, 0)
    assert entry.plan_digest == plan().digest
    assert entry.epsilon_run == pytest.approx(epsilon(5))
    assert hospital.approvals.files.of("pending") == []


@pytest.mark.parametrize(
    "changes",
    [
        {"privacy": replace(PRIVACY, steps=11)},
        {"rounds": 4},
        {"bookings": 6},
        {"training": LocalTraining(trainable="all")},
        {"code_digest": "00" * 32},
        {"server_learning_rate": 2.0},
    ],
)
def test_another_plan_of_an_approved_run_waits_and_the_approved_one_goes_on(
    hospital: Hospital, changes: dict[str, Any]
) -> None:
    """A coordinator cannot show one plan and train by another."""
    hospital.approvals.approve(plan())
    assert hospital.refused(plan(**changes)).reason == "run-approval"
    hospital.approvals.check(plan())


def test_an_approval_is_for_so_many_bookings_and_then_the_run_needs_another(
    hospital: Hospital,
) -> None:
    """Rounds of other runs do not count, and the same plan may be approved again."""
    asked = plan(rounds=2, bookings=2)
    hospital.approvals.approve(asked)
    hospital.book("autumn", 1)
    for round in (1, 2):
        hospital.approvals.check(asked)
        hospital.book("spring", round)
    assert hospital.refused(asked).reason == "run-approval"
    hospital.approvals.approve(asked)
    hospital.approvals.check(asked)
    hospital.book("spring", 3)
    assert hospital.chain.approval("spring")[1] == 1


def test_a_booked_round_goes_on_under_the_yes_that_it_was_booked_with(hospital: Hospital) -> None:
    """After a restart the last approved round is finished; the operator's no holds at once."""
    asked = plan(rounds=1, bookings=1)
    hospital.approvals.approve(asked)
    hospital.book("spring", 1)
    assert hospital.refused(asked).reason == "run-approval"
    before = hospital.chain.length
    hospital.approvals.check(asked, booked=True)
    assert hospital.chain.length == before
    with pytest.raises(Refused) as caught:
        hospital.approvals.check(plan(rounds=1, bookings=1, server_learning_rate=0.5), booked=True)
    assert caught.value.reason == "run-approval"
    hospital.approvals.refuse("spring")
    with pytest.raises(Refused) as caught:
        hospital.approvals.check(asked, booked=True)
    assert caught.value.reason == "run-approval"


def test_a_yes_that_is_not_in_the_ledger_is_none(hospital: Hospital, tmp_path: Path) -> None:
    """A file that somebody copies into the folder approves nothing."""
    other = Hospital.made(tmp_path / "other")
    other.approvals.approve(plan())
    (hospital.home.runs / "approved").mkdir(parents=True)
    stolen = (other.home.runs / "approved" / "spring.json").read_bytes()
    (hospital.home.runs / "approved" / "spring.json").write_bytes(stolen)
    assert hospital.refused(plan()).reason == "run-approval"
    assert not is_approved(hospital.chain, plan())


def test_a_refused_run_stays_refused_until_it_is_approved(hospital: Hospital) -> None:
    """Also one that was approved before, and also in another plan; no new one is kept."""
    hospital.approvals.approve(plan())
    hospital.book("spring", 1)
    hospital.approvals.refuse("spring")
    for asked in (plan(), plan(rounds=1)):
        assert hospital.refused(asked).reason == "run-approval"
    assert hospital.approvals.files.of("pending") == []
    assert hospital.approvals.shown("spring") == (plan(), "refused")
    hospital.approvals.approve(plan())
    hospital.approvals.check(plan())
    assert hospital.approvals.files.of("refused") == []


# ---------------------------------------------------------------- cost


def test_the_cost_is_of_all_bookings_composed_with_everything_spent(hospital: Hospital) -> None:
    """An upper bound: the rounds that may fail count, and rounds of other runs for life."""
    for round in (1, 2):
        hospital.book("autumn", round)
    cost, booked = hospital.approvals.cost(plan())
    assert booked == 0
    assert cost.before == pytest.approx(epsilon(2))
    assert cost.of_run == pytest.approx(epsilon(5))
    assert cost.after == pytest.approx(epsilon(7))
    assert (cost.next_after, cost.next_of_run) == pytest.approx((epsilon(3), epsilon(1)))
    assert cost.left == pytest.approx(8.0 - epsilon(7))
    assert cost.fraction_left == pytest.approx(cost.left / 8.0)
    assert (cost.needed, cost.rounds_left) == (3, 5)


def test_a_plan_that_cannot_be_afforded_is_refused_with_budget_and_nobody_is_asked(
    hospital: Hospital,
) -> None:
    """Neither kept as pending nor approved by hand."""
    dear = plan(privacy=replace(PRIVACY, noise_multiplier=0.5))
    error = hospital.refused(dear)
    assert isinstance(error, BudgetExhausted)
    assert error.reason == "budget"
    assert "policy.toml" in error.do
    assert hospital.approvals.files.of("pending") == []
    with pytest.raises(BudgetExhausted):
        hospital.approvals.approve(dear)
    assert hospital.chain.length == 0


def test_what_was_spent_for_life_makes_a_plan_unaffordable(hospital: Hospital) -> None:
    """The limit of a run would hold; that for life does not."""
    limit = epsilon(2)
    hospital.edit("epsilon_lifetime = 8.0", f"epsilon_lifetime = {limit!r}")
    hospital.edit("epsilon_per_run = 3.0", f"epsilon_per_run = {limit!r}")
    assert hospital.refused(plan()).reason == "run-approval"
    hospital.book("autumn", 1)
    assert hospital.refused(plan()).reason == "run-approval"
    hospital.book("autumn", 2)
    error = hospital.refused(plan())
    assert error.reason == "budget"
    assert f"to {epsilon(3):.2f} for life" in error.message


def test_a_budget_for_part_of_a_run_is_the_operator_s_to_spend(hospital: Hospital) -> None:
    """Said in words and in numbers; what is booked already counts as done."""
    hospital.edit("epsilon_per_run = 3.0", f"epsilon_per_run = {epsilon(2)!r}")
    asked = plan(rounds=4, bookings=6)
    assert hospital.refused(asked).reason == "run-approval"
    words = "The budget holds for {} of {} rounds: this hospital stops before the run ends."
    assert words.format(2, 4) in " ".join(hospital.run("show", "spring").stdout.split())
    facts = json.loads(hospital.run("show", "spring", "--json").stdout)
    assert (facts["affordable"], facts["covers_run"]) == (True, False)
    assert (facts["rounds_left"], facts["rounds_needed"]) == (2, 4)
    said = hospital.run("approve", "spring", "--yes").stdout
    assert "takes part in run spring: at most 2 rounds." in " ".join(said.split())
    hospital.approvals.check(asked)
    hospital.book("spring", 1)
    shown = " ".join(hospital.run("show", "spring").stdout.split())
    assert words.format(1, 3) in shown
    hospital.book("spring", 2)
    with pytest.raises(BudgetExhausted):
        hospital.book("spring", 3)
    assert "DOES NOT HOLD for one more round" in hospital.run("show", "spring").stdout


def test_a_policy_says_no_yes_in_advance_to_a_run_that_it_cannot_see_to_its_end(
    tmp_path: Path,
) -> None:
    """For life it would not hold; if the planned rounds fit, failures may still end it."""
    limit = epsilon(5)
    hospital = Hospital.made(
        tmp_path,
        epsilon_lifetime=limit,
        epsilon_per_run=limit,
        approve_runs_in_advance=IN_ADVANCE.model_copy(update={"epsilon_per_run": limit}),
    )
    for round in (1, 2):
        hospital.book("autumn", round)
    length = hospital.chain.length
    assert hospital.refused(plan(rounds=4, bookings=5)).reason == "run-approval"
    assert hospital.chain.length == length
    hospital.approvals.check(plan(rounds=3, bookings=5))


def test_a_budget_that_holds_for_the_rounds_but_not_for_failures_is_said_in_words(
    hospital: Hospital,
) -> None:
    """The operator decides: if too many rounds fail, this hospital stops before the end."""
    hospital.edit("epsilon_per_run = 3.0", f"epsilon_per_run = {epsilon(4)!r}")
    cost, _ = hospital.approvals.cost(plan())
    assert cost.covers_run
    assert cost.rounds_left == 4
    shown = run_cost.in_words(plan(), cost, code=installed_code(), weights={}, booked=0)
    assert any("holds for 4 of 5 rounds" in line for line in shown)


def test_a_million_hostile_bookings_are_priced_without_a_list_of_them(hospital: Hospital) -> None:
    """A plan must not cost the node its memory; nobody says yes to it in advance."""
    huge = plan(rounds=1_000_000, bookings=1_000_000)
    assert hospital.refused(huge).reason == "run-approval"
    assert hospital.approvals.cost(huge)[0].rounds_left < 1000


def test_a_billion_cheap_steps_are_priced_without_composing_them(
    hospital: Hospital, monkeypatch: pytest.MonkeyPatch
) -> None:
    """They stay far below epsilon 60, where PLD would take minutes for each look at the plan."""

    compose = accounting._epsilon_pld

    def watched(groups: accounting.Groups, delta: float, interval: float) -> float:
        assert sum(steps for _, _, steps in groups) <= 1_000_000, "a billion steps were composed"
        return compose(groups, delta, interval)

    monkeypatch.setattr(accounting, "_epsilon_pld", watched)
    cheap = replace(PRIVACY, sample_rate=1e-6, noise_multiplier=9999.0, steps=1000)
    huge = plan(privacy=cheap, rounds=1_000_000, bookings=1_000_000)
    assert hospital.refused(huge).reason == "run-approval"


def test_in_mode_distributed_the_roster_decides_what_a_run_costs(tmp_path: Path) -> None:
    """Against the colluders that the roster bounds, and for outsiders; in words, both."""
    shared = PrivacyPlan(0.05, 4.0, 1.0, 1, "distributed")
    hospital = Hospital.made(tmp_path / "node", allowed_modes=("local", "distributed"))
    asked = plan(privacy=shared)
    assert hospital.refused(asked).reason == "roster-approval"
    root_key = Ed25519PrivateKey.generate()
    cards = [keys.card(hospital.home), *(Card(f"h{n}", f"{n:064x}", 430) for n in range(4))]
    drafted = roster.draft(cards, 1, None, valid_from="2020-01-01", valid_until="2099-01-01")
    policy = Policy.from_file(hospital.home.policy)
    RosterBook(hospital.home).approve(
        roster.sign(drafted, root_key).to_bytes(),
        signing.public_bytes(root_key),
        policy,
        today_utc(),
    )
    error = hospital.refused(asked)
    assert error.reason == "run-approval", error
    cost, _ = hospital.approvals.cost(asked)
    assert cost.colluding_sites == drafted.collusion_bound > 0
    assert 0.0 < cost.outsider < cost.of_run
    shown = " ".join(hospital.run("show", "spring").stdout.split())
    assert f"against {cost.colluding_sites} colluding hospitals" in shown
    assert f"Against all others the run costs epsilon {cost.outsider:.2f}" in shown
    assert "holds only while the secure sum does" in shown
    whisper = plan(privacy=replace(shared, noise_multiplier=1e-9))
    assert hospital.refused(whisper).reason in ("policy", "budget")


def test_a_hospital_that_allows_mode_local_only_is_not_asked_about_the_other(
    hospital: Hospital,
) -> None:
    error = hospital.refused(plan(privacy=PrivacyPlan(0.05, 4.0, 1.0, 1, "distributed")))
    assert error.reason == "policy"
    assert "allowed_modes" in error.message


# ---------------------------------------------------------------- policy


def test_a_policy_says_yes_in_advance_and_the_ledger_says_that_it_did(tmp_path: Path) -> None:
    hospital = Hospital.made(tmp_path, approve_runs_in_advance=IN_ADVANCE)
    hospital.approvals.check(plan())
    entry, _ = hospital.chain.approval("spring")
    assert entry is not None
    assert entry.by == "policy"
    length = hospital.chain.length
    hospital.approvals.check(plan())
    assert hospital.chain.length == length


@pytest.mark.parametrize(
    ("limits", "asked"),
    [
        ({"epsilon_per_run": epsilon(5) * 0.99}, plan()),
        ({"code_digests": ("00" * 32,)}, plan()),
        ({"modes": ("distributed",)}, plan()),
    ],
)
def test_a_policy_s_yes_ends_at_its_own_limits(
    tmp_path: Path, limits: dict[str, Any], asked: RunPlan
) -> None:
    """Beyond them the operator is asked."""
    advance = AdvanceApproval(**{**IN_ADVANCE.model_dump(), **limits})
    hospital = Hospital.made(tmp_path, approve_runs_in_advance=advance)
    assert hospital.refused(asked).reason == "run-approval"
    assert hospital.chain.length == 0
    hospital.approvals.approve(asked)
    hospital.approvals.check(asked)


def test_invented_names_of_runs_do_not_fill_a_ledger(tmp_path: Path) -> None:
    """A yes in advance is an entry for ever; after 32 of which nothing was booked people decide."""
    hospital = Hospital.made(tmp_path, approve_runs_in_advance=IN_ADVANCE)
    for number in range(MAX_UNUSED):
        hospital.approvals.check(plan(run=f"r{number}"))
    assert hospital.refused(plan()).reason == "run-approval"
    hospital.book("r0", 1)
    hospital.approvals.check(plan())


def test_plans_of_one_run_in_turn_do_not_fill_a_ledger(tmp_path: Path) -> None:
    """Each change of plan is an entry for ever as well, before and after rounds of the run."""
    hospital = Hospital.made(tmp_path, approve_runs_in_advance=IN_ADVANCE)
    hospital.approvals.check(plan())
    hospital.book("spring", 1)
    one, other = plan(bookings=6), plan(bookings=7)
    for _ in range(MAX_UNUSED // 2):
        hospital.approvals.check(one)
        hospital.approvals.check(other)
    length = hospital.chain.length
    assert hospital.refused(one).reason == "run-approval"
    assert hospital.chain.length == length
    hospital.approvals.check(other)


def test_invented_names_of_runs_do_not_fill_the_disk(hospital: Hospital) -> None:
    """The oldest of 32 that wait makes room."""
    for number in range(MAX_PENDING + 5):
        files = replace(hospital.approvals.files, clock=lambda number=number: float(number))
        with pytest.raises(Refused):
            replace(hospital.approvals, files=files).check(plan(run=f"r{number}"))
    waiting = [kept.plan.run for kept in hospital.approvals.files.of("pending")]
    assert waiting == [f"r{number}" for number in range(5, MAX_PENDING + 5)]


@pytest.mark.parametrize(
    ("old", "new", "asked", "reason"),
    [
        ('allowed_modes = ["local"]', "allowed_modes = []", plan(), "policy"),
        ('allowed_purposes = ["pretrain"]', "allowed_purposes = []", plan(), "policy"),
        ("code_digests = []", f'code_digests = ["{"00" * 32}"]', plan(), "policy"),
        ("steps_per_round = 1000", "steps_per_round = 9", plan(), "policy"),
        ("contributors = 3", "contributors = 4", plan(), "contributors"),
    ],
)
def test_what_the_policy_forbids_is_not_asked_and_cannot_be_approved(
    hospital: Hospital, old: str, new: str, asked: RunPlan, reason: str
) -> None:
    """The policy is changed first, by whoever may."""
    hospital.edit(old, new)
    error = hospital.refused(asked)
    assert error.reason == reason
    assert error.do
    with pytest.raises(Refused):
        hospital.approvals.approve(asked)
    assert not hospital.home.runs.exists()


def test_infinite_limits_of_simulations_cost_no_time(
    hospital: Hospital, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Repeatable noise promises nothing; a policy cannot say such limits."""
    monkeypatch.setattr(run_cost.ledger_cost, "epsilon", None)
    policy = Policy.from_file(hospital.home.policy)
    policy = policy.model_copy(update={"approve_runs_in_advance": IN_ADVANCE})
    unlimited = Budget.unlimited_non_private_for_tests(policy.delta)
    approvals_of(hospital.home, policy, unlimited).check(plan(rounds=1000, bookings=1000))
    entry, _ = hospital.chain.approval("spring")
    assert entry is not None
    assert entry.epsilon_run is None


@pytest.mark.parametrize("damage", ["{}", "", '{"kind":"run-plan"}', "[" * 100_000, "x" * 100_000])
def test_a_damaged_file_is_named_and_nothing_passes(hospital: Hospital, damage: str) -> None:
    """The node's own file is not believed either."""
    hospital.refused(plan())
    path = hospital.home.runs / "pending" / "spring.json"
    path.write_text(damage)
    with pytest.raises(OurMistake, match=r"spring\.json is damaged") as caught:
        hospital.approvals.check(plan(rounds=1))
    assert "Remove it" in caught.value.do


def test_a_file_under_another_run_s_name_is_damaged(hospital: Hospital) -> None:
    hospital.refused(plan())
    folder = hospital.home.runs / "pending"
    (folder / "spring.json").rename(folder / "summer.json")
    with pytest.raises(OurMistake, match="damaged"):
        hospital.approvals.files.of("pending")


# ---------------------------------------------------------------- commands


def test_the_operator_reads_the_plan_in_words(hospital: Hospital) -> None:
    """Purpose, rounds, trust model, cost, what is left, code, minimum, digest."""
    hospital.refused(plan(code_digest="00" * 32))
    shown = hospital.run("show", "spring").stdout
    cost = epsilon(5)
    for words in (
        "State: pending",
        "to pretrain the model tiny, its head",
        "3 rounds, and up to 2 more for rounds that fail; none booked here so far",
        "10 steps; a patient is in a step with probability 0.05",
        "Trust model: local",
        f"cost epsilon {cost:.2f} if all 5 rounds are booked (limit of a run: 3), at delta 1e-05",
        "unit: one patient at one hospital",
        f"0.00 until now, {cost:.2f} after it, of 8. Left then: {8 - cost:.2f}",
        f"{100 * (8 - cost) / 8:.0f} % of the limit",
        "at least 3 hospitals",
        "OTHER CODE",
        installed_code(),
        "00" * 32,
        plan(code_digest="00" * 32).digest,
    ):
        assert words in shown, words


def test_the_same_for_machines(hospital: Hospital) -> None:
    hospital.refused(plan())
    shown = json.loads(hospital.run("show", "spring", "--json").stdout)
    assert shown["state"] == "pending"
    assert shown["plan_digest"] == plan().digest
    assert shown["epsilon_of_run"] == pytest.approx(epsilon(5), abs=1e-6)
    assert shown["trust_model"] == "local"
    assert shown["same_code"] is True
    (row,) = json.loads(hospital.run("list", "--json").stdout)
    assert (row["run"], row["state"], row["by"], row["plan"]) == (
        *("spring", "pending", None),
        plan().digest,
    )


def test_approving_asks_and_a_no_leaves_the_run_waiting(hospital: Hospital) -> None:
    hospital.refused(plan())
    result = hospital.run("approve", "spring", stdin="n\n")
    assert isinstance(result.exception, Refused)
    assert hospital.refused(plan()).reason == "run-approval"
    assert hospital.run("approve", "spring", stdin="y\n").exit_code == 0
    hospital.approvals.check(plan())
    (row,) = json.loads(hospital.run("list", "--json").stdout)
    assert (row["state"], row["by"], row["bookings_left"]) == ("approved", "operator", 5)


def test_a_plan_that_was_exchanged_after_it_was_read_is_not_approved(hospital: Hospital) -> None:
    """`--plan` holds a script to what a person has read."""
    hospital.refused(plan())
    hospital.refused(plan(rounds=4))
    result = hospital.run("approve", "spring", "--yes", "--plan", plan().digest)
    assert isinstance(result.exception, Refused)
    assert hospital.chain.length == 0
    read = plan(rounds=4).digest
    assert hospital.run("approve", "spring", "--yes", "--plan", read).exit_code == 0


def test_a_run_is_refused_by_name_and_status_shows_what_waits(hospital: Hospital) -> None:
    hospital.refused(plan())
    home = str(hospital.home.root)
    status = CliRunner().invoke(app, ["status", "--home", home, "--json"])
    shown = json.loads(status.stdout)
    assert (
        "spring. Read it and decide: fedprint-node run show" in shown["runs_waiting_for_approval"]
    )
    assert shown["code_digest"] == installed_code()
    assert hospital.run("refuse", "spring").exit_code == 0
    status = CliRunner().invoke(app, ["status", "--home", home, "--json"])
    assert json.loads(status.stdout)["runs_waiting_for_approval"] == "none"


@pytest.mark.parametrize("name", ["autumn", "../keys/identity", "A", ""])
def test_a_run_that_nobody_has_shown_is_said_to_be_unknown(hospital: Hospital, name: str) -> None:
    result = hospital.run("show", name)
    assert isinstance(result.exception, OurMistake)
