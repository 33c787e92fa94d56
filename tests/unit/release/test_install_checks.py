"""A node holds a release against what it knows itself: its rosters and its own booked rounds."""

from __future__ import annotations

import pytest
from books_stand_ins import draft
from cryptography.hazmat.primitives import serialization
from release_stand_ins import DECLARED, PLAN, Story, approve, key_of, node_at, public
from sum_stand_ins import roster_of

from client import install, install_checks, ledger_file
from client.home import NodeHome
from client.ledger_store import Budget, LedgerStore
from shared_model import signing
from shared_model.config import PrivacyPlan
from shared_model.errors import Refused
from shared_model.release_checks import verify
from shared_model.release_files import read_release
from shared_model.release_signed import Release
from shared_model.roster import Roster

SITES = ("alpha", "beta", "gamma")
BUDGET = Budget(1000.0, 1000.0, 1e-5)


@pytest.fixture
def released(make):
    """released(story) -> the release, as it was verified."""

    def made(story: Story | None = None) -> Release:
        found = make(story)
        return verify(read_release(found.path), public("release"))

    return made


def reason_of(call) -> str:
    with pytest.raises(Refused) as caught:
        call()
    return caught.value.reason


def rosters_of(version: int, sites=SITES, keys=key_of, threshold: int = 2) -> Roster:
    return roster_of(sites, DECLARED, keys, threshold, version)


# ---------------------------------------------------------------- rosters


def test_a_release_over_a_roster_that_was_not_approved_is_refused(node, released):
    """A newer version than the approved one, of the same hospitals; the root key signed it."""
    found = released(Story(rounds=1, version=2))
    with pytest.raises(Refused, match="version 2 of the roster") as caught:
        install_checks.check_rosters(node, found)
    assert caught.value.reason == "roster-approval"
    approve(node, rosters_of(2))
    install_checks.check_rosters(node, found)


def test_a_release_of_puppets_of_a_stolen_root_key_is_refused_whatever_its_version(
    tmp_path, released
):
    """docs/root-key.md: a stolen root key is not enough. The names of the strangers are told."""
    node = node_at(tmp_path / "node", tmp_path)
    approve(node, rosters_of(5))
    for version in (2, 6):
        found = released(
            Story(run=f"r{version}", rounds=1, version=version, sites=("alpha", "delta", "gamma"))
        )
        with pytest.raises(Refused, match="names delta") as caught:
            install_checks.check_rosters(node, found)
        assert caught.value.reason == "roster-approval"


def test_a_known_name_with_another_key_is_a_stranger(node, released):
    """The roster that was approved has other keys under the same names."""
    for path in node.rosters.iterdir():
        path.unlink()
    approve(node, rosters_of(3, keys=lambda site: key_of(f"other {site}")))
    found = released(Story(rounds=1))
    with pytest.raises(Refused, match="names alpha, beta, gamma"):
        install_checks.check_rosters(node, found)


def test_an_older_roster_of_hospitals_that_were_approved_later_is_taken(node, released):
    """This hospital joined with version 4; the first rounds were over version 2."""
    for path in node.rosters.iterdir():
        path.unlink()
    approve(node, rosters_of(4, sites=(*SITES, "delta"), threshold=3))
    install_checks.check_rosters(node, released(Story(rounds=1, version=2)))


def test_an_operator_can_vouch_for_a_roster_by_its_digest(node, released):
    """For hospitals that left before this one joined; nothing else makes that exception."""
    found = released(Story(rounds=1, sites=("alpha", "delta", "gamma")))
    digest = rosters_of(1, sites=("alpha", "delta", "gamma")).digest
    install_checks.check_rosters(node, found, [digest])
    assert reason_of(lambda: install_checks.check_rosters(node, found, ["0" * 64])) == (
        "roster-approval"
    )


def test_a_node_without_any_approved_roster_installs_nothing(node, make):
    """`check` asks it, not only the test."""
    for path in node.rosters.iterdir():
        path.unlink()
    made = make(Story(rounds=1))
    assert reason_of(lambda: install.check(node, made.path)) == "roster-approval"
    assert reason_of(lambda: install.opened(node, made.path)) == "roster-approval"


def test_every_roster_that_counted_is_kept_and_one_of_another_root_says_nothing(tmp_path):
    """`roster.json` is replaced; what releases name must not be lost with it."""
    from client.rosters import RosterBook
    from shared_model import roster

    home = NodeHome.find(tmp_path / "node")
    home.make()
    book = RosterBook(home)
    first, second = rosters_of(1), rosters_of(2)
    home.roster.write_bytes(roster.sign(first, key_of("root")).to_bytes())
    book._take(roster.sign(second, key_of("root")))
    other = rosters_of(3)
    book._take(roster.sign(other, key_of("mallory")))
    kept = [one.digest for one in book.ever_approved(public("root"))]
    assert kept == [first.digest, second.digest]
    assert [one.version for one in book.ever_approved(public("mallory"))] == [3]


# ---------------------------------------------------------------- own rounds


def book(node: NodeHome, release: Release, number: int, settled: bool = True, **changes) -> None:
    """Book a round as this node does when it answers it."""
    steps = {step.number: step for step in release.manifest.lineage.rounds}
    model_in = steps[number].model_in if number in steps else "0" * 64
    values = {"plan": PLAN, "model_digest": model_in, "run": "spring", **changes}
    be_alpha(node)
    with LedgerStore.open(node, "alpha", key_of("alpha")) as store:
        booked = draft(
            values["run"],
            number,
            site="alpha",
            model_in=values["model_digest"],
            **values["plan"].as_dict(),
        )
        store.reserve(booked, BUDGET)
        if settled:
            store.answered(values["run"], number, "1" * 64)


def be_alpha(node: NodeHome) -> None:
    """As `fedprint-node init` leaves a folder, with the key that the stories know."""
    if node.config.exists():
        return
    pem = key_of("alpha").private_bytes(
        serialization.Encoding.PEM,
        serialization.PrivateFormat.PKCS8,
        serialization.NoEncryption(),
    )
    signing.write_secret(node.identity_key, pem)
    node.config.write_text('site = "alpha"\ndeclared_patients = 1000\n')
    ledger_file.create(node, never_trained=True)


def test_a_release_that_tells_all_rounds_of_this_hospital_is_taken(node, released):
    """Closed ones included; other runs and rounds that were never answered do not count."""
    found = released(Story(rounds=3, closed=(2,)))
    for number in (1, 2, 3):
        book(node, found, number)
    book(node, found, 1, run="another")
    book(node, found, 4, settled=False)
    install_checks.check_own_rounds(node, found)


def test_a_node_that_never_trained_has_nothing_to_compare(node, released):
    """Its ledger is empty, or there is no node at all."""
    install_checks.check_own_rounds(node, released(Story(rounds=1)))
    be_alpha(node)
    install_checks.check_own_rounds(node, released(Story(rounds=1)))


def test_a_release_that_leaves_out_a_round_that_this_hospital_answered_is_refused(node, make):
    """Three rounds were paid, the release tells two: epsilon would be told too low."""
    made = make(Story(rounds=2))
    found = verify(read_release(made.path), public("release"))
    for number in (1, 2, 3):
        book(node, found, number)
    with pytest.raises(Refused, match="leaves out round 3") as caught:
        install.check(node, made.path)
    assert caught.value.reason == "lineage"


def test_a_round_in_the_middle_must_not_be_left_out_either(node, released):
    """Whatever model it began from."""
    found = released(Story(rounds=3))
    steps = found.manifest.lineage.rounds
    shorter = found.manifest.model_copy(
        update={
            "lineage": found.manifest.lineage.model_copy(update={"rounds": (steps[0], steps[2])})
        }
    )
    book(node, found, 2)
    with pytest.raises(Refused, match="leaves out round 2"):
        install_checks.check_own_rounds(node, Release(shorter, found.weights, found.evidence))


def test_rounds_that_began_from_the_released_model_came_after_the_release(node, released):
    """A run that was paused, released and resumed: its release can still be installed."""
    found = released(Story(rounds=2))
    for number in (1, 2):
        book(node, found, number)
    book(node, found, 3, model_digest=found.manifest.model_digest)
    book(node, found, 4)
    install_checks.check_own_rounds(node, found)


def test_a_round_that_is_told_otherwise_than_it_was_asked_is_refused(node, released):
    """Another plan, or another model before it, than this node's own books have."""
    found = released(Story(rounds=1))
    cheaper = PrivacyPlan(PLAN.sample_rate, PLAN.noise_multiplier, PLAN.clipping_norm, 11)
    book(node, found, 1, plan=cheaper)
    with pytest.raises(Refused, match="otherwise than this hospital was asked"):
        install_checks.check_own_rounds(node, found)


def test_another_model_before_a_round_than_this_node_was_sent_is_refused(node, released):
    """The chain of models is the one that this node was asked along."""
    found = released(Story(rounds=1))
    book(node, found, 1, model_digest="f" * 64)
    assert reason_of(lambda: install_checks.check_own_rounds(node, found)) == "lineage"
