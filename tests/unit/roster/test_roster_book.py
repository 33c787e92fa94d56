"""A node's book of rosters: what it refuses, what waits, what counts, and what survives."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest
from cryptography.hazmat.primitives.asymmetric.ed25519 import Ed25519PrivateKey
from roster_stand_ins import (
    LAST_DAY,
    TODAY,
    TOMORROW,
    Hospital,
    Policy,
    bent,
    countersigned,
    hospitals_of,
    roster_of,
)

from client import keys
from client.home import NodeHome
from client.rosters import RosterBook, today_utc
from shared_model import roster, signing
from shared_model.errors import OurMistake, PeerFault, Refused
from shared_model.roster import CountersignatureFile, Roster

Hospitals = tuple[Hospital, ...]


class Node:
    """The node of alpha in a folder, and four other hospitals."""

    def __init__(self, root: Path, others: Hospitals, root_key: Ed25519PrivateKey) -> None:
        self.home = NodeHome(root / "alpha")
        keys.make(self.home, "alpha", 100)
        own = Hospital("alpha", signing.load_key_file(self.home.identity_key), 100)
        self.hospitals = (own, *others)
        self.root_key = root_key
        self.root = signing.public_bytes(root_key)
        self.book = RosterBook(self.home)

    def signed(self, made: Roster, by: Hospitals = ()) -> bytes:
        return countersigned(roster.sign(made, self.root_key), by).to_bytes()

    def offer(self, data: bytes, **changes: Any) -> Roster:
        given = {"root": self.root, "policy": Policy(), "today": TODAY, **changes}
        return self.book.offer(data, **given)

    def approve(self, data: bytes | None, **changes: Any) -> Roster:
        given = {"root": self.root, "policy": Policy(), "today": TODAY, **changes}
        return self.book.approve(data, **given)

    def current(self, today: str = TODAY, policy: Policy | None = None) -> Roster:
        return self.book.current(self.root, policy or Policy(), today)

    def refused(self, data: bytes, **changes: Any) -> Refused:
        """Refused both when offered and when the operator would approve it."""
        with pytest.raises(Refused) as offered:
            self.offer(data, **changes)
        with pytest.raises(Refused) as approved:
            self.approve(data, **changes)
        assert offered.value.reason == approved.value.reason
        return offered.value


@pytest.fixture
def node(tmp_path: Path, hospitals: Hospitals, root_key: Ed25519PrivateKey) -> Node:
    return Node(tmp_path, hospitals[1:], root_key)


def waits(node: Node, data: bytes) -> None:
    with pytest.raises(Refused, match="waits") as caught:
        node.offer(data)
    assert caught.value.reason == "roster-approval"


def test_the_first_roster_waits_for_the_operator(node: Node) -> None:
    """Whoever countersigned: nobody is known yet."""
    made = roster_of(node.hospitals)
    data = node.signed(made, node.hospitals)
    waits(node, data)
    assert node.book.approved() is None
    pending = node.book.pending()
    assert pending is not None
    assert pending.roster == made
    assert node.approve(None) == made
    assert node.book.pending() is None
    assert node.offer(data) == made
    assert node.current() == made


def test_before_any_approval_no_roster_counts(node: Node) -> None:
    with pytest.raises(Refused) as caught:
        node.current()
    assert caught.value.reason == "roster-approval"
    assert node.book.before() is None
    with pytest.raises(OurMistake, match="No roster waits"):
        node.approve(None)


def test_a_file_brought_by_hand_is_approved_without_waiting(node: Node) -> None:
    made = roster_of(node.hospitals)
    assert node.approve(node.signed(made)) == made
    assert node.approve(node.signed(made)) == made
    assert node.book.before() == made


def test_a_change_waits_and_the_old_roster_counts_meanwhile(node: Node) -> None:
    old, new = roster_of(node.hospitals), roster_of(node.hospitals[:4], 2)
    node.approve(node.signed(old))
    waits(node, node.signed(new))
    assert node.current() == old
    node.approve(None)
    assert node.current() == new


def test_a_countersigned_change_counts_without_the_operator(node: Node) -> None:
    """Four of the five of the previous roster, its threshold."""
    node.approve(node.signed(roster_of(node.hospitals)))
    new = roster_of([*node.hospitals, *hospitals_of("zeta")], 2)
    data = node.signed(new, node.hospitals[1:])
    assert node.offer(data) == new
    assert node.current() == new
    assert node.book.pending() is None


def test_one_countersignature_too_few_waits(node: Node) -> None:
    node.approve(node.signed(roster_of(node.hospitals)))
    new = roster_of(node.hospitals, 2, last="2028-01-01")
    waits(node, node.signed(new, node.hospitals[2:]))
    assert node.current().version == 1
    assert node.offer(node.signed(new, node.hospitals[1:])) == new


def test_the_threshold_of_the_previous_roster_counts_not_of_the_new(node: Node) -> None:
    """Else a roster could lower the number of those who must agree to it."""
    node.approve(node.signed(roster_of(node.hospitals, threshold=5)))
    new = roster_of(node.hospitals, 2, threshold=4)
    waits(node, node.signed(new, node.hospitals[1:]))
    assert node.offer(node.signed(new, node.hospitals)) == new


def test_puppets_cannot_countersign_themselves_in(node: Node) -> None:
    """Whoever captures the root surrounds a hospital with puppets: it waits for its operator."""
    node.approve(node.signed(roster_of(node.hospitals)))
    puppets = hospitals_of("puppet-a", "puppet-b", "puppet-c", "puppet-d")
    waits(node, node.signed(roster_of([node.hospitals[0], *puppets], 2), puppets))
    assert node.current().version == 1


def test_swapped_keys_cannot_countersign_themselves_in(node: Node) -> None:
    """The signatures count with the keys of the previous roster."""
    node.approve(node.signed(roster_of(node.hospitals)))
    swapped = tuple(hospital.with_other_key() for hospital in node.hospitals[1:])
    new = roster_of([node.hospitals[0], *swapped], 2)
    waits(node, node.signed(new, swapped))
    approved = node.book.approved()
    assert approved is not None
    words = "\n".join(roster.differences(approved.roster, new))
    assert words.count("SWAPPED") == 4


def test_countersigners_of_a_roster_never_approved_do_not_count(node: Node) -> None:
    """Version 2 waits; sites that only it has cannot vouch for version 3."""
    node.approve(node.signed(roster_of(node.hospitals)))
    puppets = hospitals_of("p-a", "p-b", "p-c", "p-d", "p-e", "p-f")
    waits(node, node.signed(roster_of([node.hospitals[0], *puppets], 2)))
    waits(node, node.signed(roster_of([node.hospitals[0], *puppets], 3), puppets))


def test_a_lower_version_than_the_approved_is_refused(node: Node) -> None:
    old = node.signed(roster_of(node.hospitals))
    node.approve(node.signed(roster_of(node.hospitals, 3)))
    fault = node.refused(old)
    assert (fault.reason, "seen version 3" in fault.message) == ("roster", True)


def test_a_lower_version_than_one_only_seen_is_refused(node: Node) -> None:
    """Also where the higher one still waits, and where it is the approved one that comes again."""
    old = node.signed(roster_of(node.hospitals))
    node.approve(old)
    waits(node, node.signed(roster_of(node.hospitals, 5)))
    assert node.refused(old).reason == "roster"
    assert node.refused(node.signed(roster_of(node.hospitals, 4))).reason == "roster"


def test_another_roster_of_a_seen_version_is_refused(node: Node) -> None:
    """Two nodes would go by two rosters of one version."""
    waits(node, node.signed(roster_of(node.hospitals, 2)))
    fault = node.refused(node.signed(roster_of(node.hospitals[:4], 2)))
    assert (fault.reason, "another roster" in fault.message) == ("roster", True)


def test_a_refused_roster_is_remembered_as_seen(node: Node) -> None:
    """What the root signed is behind us, usable or not."""
    old = node.signed(roster_of(node.hospitals))
    node.approve(old)
    wrong = bent(roster_of(node.hospitals, 2), "beta", weight=8)
    assert node.refused(node.signed(wrong)).reason == "roster"
    assert node.book.pending() is None
    assert node.current().version == 1
    assert node.refused(node.signed(roster_of(node.hospitals, 2))).reason == "roster"
    assert node.refused(old).reason == "roster"


def test_a_roster_that_the_root_did_not_sign_leaves_no_trace(
    node: Node, other_root: Ed25519PrivateKey
) -> None:
    """A forged high version must not shut the true ones out."""
    forged = roster.sign(roster_of(node.hospitals, 1000), other_root).to_bytes()
    for take in (node.offer, node.approve):
        with pytest.raises(PeerFault, match="not signed") as caught:
            take(forged)
        assert caught.value.site == "coordinator"
    assert node.book.seen() is None
    assert not node.home.pending_roster.exists()
    with pytest.raises(PeerFault):
        node.offer(b"{}")


@pytest.mark.parametrize("today", ["2026-11-20", "2027-11-22"])
def test_a_roster_out_of_its_days_is_refused(node: Node, today: str) -> None:
    assert node.refused(node.signed(roster_of(node.hospitals)), today=today).reason == "roster"


def test_an_approved_roster_expires(node: Node) -> None:
    data = node.signed(roster_of(node.hospitals))
    node.approve(data)
    assert node.current(LAST_DAY).version == 1
    with pytest.raises(Refused, match="expired"):
        node.current("2027-11-22")
    with pytest.raises(Refused, match="expired"):
        node.offer(data, today="2027-11-22")


def test_another_own_key_is_refused_even_if_all_others_countersigned(node: Node) -> None:
    node.approve(node.signed(roster_of(node.hospitals)))
    new = roster_of([node.hospitals[0].with_other_key(), *node.hospitals[1:]], 2)
    fault = node.refused(node.signed(new, node.hospitals[1:]))
    assert (fault.reason, "key" in fault.message) == ("roster", True)


def test_another_own_declared_number_is_refused(node: Node) -> None:
    own = Hospital("alpha", node.hospitals[0].key, 110)
    fault = node.refused(node.signed(roster_of([own, *node.hospitals[1:]])))
    assert (fault.reason, "declares 100" in fault.message) == ("roster", True)


def test_a_roster_without_this_hospital_is_refused(node: Node) -> None:
    """Also if t others agree to leave it out: it takes part in nothing then."""
    node.approve(node.signed(roster_of(node.hospitals)))
    fault = node.refused(node.signed(roster_of(node.hospitals[1:], 2), node.hospitals[1:]))
    assert (fault.reason, "does not list" in fault.message) == ("roster", True)


def test_weights_that_were_not_computed_are_refused(node: Node) -> None:
    wrong = bent(roster_of(node.hospitals), "gamma", weight=1)
    fault = node.refused(node.signed(wrong, node.hospitals))
    assert (fault.reason, "weight of gamma" in fault.message) == ("roster", True)


@pytest.mark.parametrize("threshold", [2, 6])
def test_a_threshold_out_of_bounds_is_refused(node: Node, threshold: int) -> None:
    made = roster_of(node.hospitals, threshold=threshold)
    assert node.refused(node.signed(made), policy=Policy(0)).reason == "threshold"


def test_a_lowered_threshold_is_refused_by_policy_though_all_countersigned(node: Node) -> None:
    node.approve(node.signed(roster_of(node.hospitals)))
    low = node.signed(roster_of(node.hospitals, 2, threshold=3), node.hospitals)
    assert node.refused(low).reason == "threshold"
    assert node.refused(low, policy=Policy(1)).reason == "threshold"
    assert node.offer(low, policy=Policy(0)).threshold == 3


def test_a_stricter_policy_stops_an_approved_roster(node: Node) -> None:
    """An edited policy holds at once."""
    node.approve(node.signed(roster_of(node.hospitals)))
    with pytest.raises(Refused) as caught:
        node.current(policy=Policy(3))
    assert caught.value.reason == "threshold"


def test_two_hospitals_are_refused_unless_the_policy_names_it(node: Node) -> None:
    data = node.signed(roster_of(node.hospitals[:2]))
    assert node.refused(data).reason == "threshold"
    assert node.approve(data, policy=Policy(0, True)).names == ("alpha", "beta")


def test_the_next_operator_sees_the_same_after_a_restart(node: Node) -> None:
    """All of it is in files; a book holds nothing."""
    made = roster_of(node.hospitals)
    node.approve(node.signed(made))
    waits(node, node.signed(roster_of(node.hospitals, 2)))
    again = RosterBook(NodeHome(node.home.root))
    approved, pending = again.approved(), again.pending()
    assert approved is not None
    assert pending is not None
    assert (approved.roster, pending.roster.version) == (made, 2)


def test_a_newer_offer_takes_the_place_of_the_one_that_waits(node: Node) -> None:
    waits(node, node.signed(roster_of(node.hospitals, 1)))
    waits(node, node.signed(roster_of(node.hospitals, 2)))
    assert node.approve(None).version == 2


def test_under_another_root_key_everything_begins_anew(
    node: Node, other_root: Ed25519PrivateKey
) -> None:
    """Versions of another root say nothing, and nor does what was approved under it."""
    node.approve(node.signed(roster_of(node.hospitals, 7)))
    root = signing.public_bytes(other_root)
    new = roster_of(node.hospitals)
    data = countersigned(roster.sign(new, other_root), node.hospitals).to_bytes()
    with pytest.raises(Refused) as caught:
        node.book.current(root, Policy(), TODAY)
    assert caught.value.reason == "roster-approval"
    with pytest.raises(Refused, match="waits"):
        node.offer(data, root=root)
    assert node.book.approved() is None
    assert node.book.before() == roster_of(node.hospitals, 7)
    with pytest.raises(Refused, match="no roster"):
        node.current()
    assert node.approve(data, root=root) == new
    assert node.book.current(root, Policy(), TODAY) == new


@pytest.mark.parametrize("name", ["roster.json", "pending_roster.json", "roster_seen.json"])
def test_a_damaged_file_stops_the_node(node: Node, name: str) -> None:
    node.approve(node.signed(roster_of(node.hospitals)))
    waits(node, node.signed(roster_of(node.hospitals, 2)))
    path = node.home.root / name
    path.write_bytes(path.read_bytes()[:-20])
    with pytest.raises(OurMistake, match="damaged"):
        node.book.pending() if "pending" in name else node.current()


def test_files_that_do_not_belong_together_stop_the_node(node: Node) -> None:
    """A record of versions from an older back-up would let old rosters in again."""
    node.approve(node.signed(roster_of(node.hospitals)))
    old = node.home.seen_roster.read_bytes()
    node.approve(node.signed(roster_of(node.hospitals, 2)))
    node.home.seen_roster.write_bytes(old)
    with pytest.raises(OurMistake, match="belong together"):
        node.current()


def test_a_hospital_countersigns_with_its_present_key(node: Node) -> None:
    previous = roster_of(node.hospitals)
    node.approve(node.signed(previous))
    data = node.signed(roster_of(node.hospitals, 2, last="2028-01-01"))
    made = CountersignatureFile.from_bytes(
        node.book.countersign(data, node.root, Policy(), TOMORROW)
    )
    signed = roster.open_signed(data, node.root)
    signed = signed.with_countersignature(made.site, bytes.fromhex(made.signature))
    assert made.roster_digest == signed.roster.digest
    assert roster.countersigners(signed, previous) == {"alpha"}
    assert node.current().version == 1


def test_a_hospital_may_countersign_its_own_new_key_or_leave(node: Node) -> None:
    """The old machine vouches for the new one; it does not go by that roster itself."""
    node.approve(node.signed(roster_of(node.hospitals)))
    moved = roster_of([node.hospitals[0].with_other_key(), *node.hospitals[1:]], 2)
    node.book.countersign(node.signed(moved), node.root, Policy(), TODAY)
    left = roster_of(node.hospitals[1:], 3)
    node.book.countersign(node.signed(left), node.root, Policy(), TODAY)
    assert node.refused(node.signed(left)).reason == "roster"


def test_a_hospital_countersigns_one_roster_of_a_version(node: Node) -> None:
    node.approve(node.signed(roster_of(node.hospitals)))
    node.book.countersign(node.signed(roster_of(node.hospitals, 2)), node.root, Policy(), TODAY)
    other = node.signed(roster_of(node.hospitals[:4], 2))
    with pytest.raises(Refused, match="another roster"):
        node.book.countersign(other, node.root, Policy(), TODAY)


def test_a_hospital_countersigns_nothing_that_bends_the_rules(
    node: Node, other_root: Ed25519PrivateKey
) -> None:
    node.approve(node.signed(roster_of(node.hospitals)))
    wrong = node.signed(bent(roster_of(node.hospitals, 2), "beta", weight=8))
    with pytest.raises(Refused, match="weight"):
        node.book.countersign(wrong, node.root, Policy(), TODAY)
    forged = roster.sign(roster_of(node.hospitals, 3), other_root).to_bytes()
    with pytest.raises(PeerFault):
        node.book.countersign(forged, node.root, Policy(), TODAY)


def test_without_an_approved_roster_there_is_nothing_to_countersign(node: Node) -> None:
    with pytest.raises(OurMistake, match="roster before"):
        node.book.countersign(node.signed(roster_of(node.hospitals)), node.root, Policy(), TODAY)


def test_the_day_is_the_same_for_all() -> None:
    assert len(today_utc()) == 10
    roster.RosterEntry(
        site="a",
        identity_key="00" * 32,
        declared_patients=1,
        weight=8,
        valid_from=today_utc(),
        valid_until=today_utc(),
    )
