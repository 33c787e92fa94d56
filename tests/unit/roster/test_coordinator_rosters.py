"""The root key's machine and the coordinator: drafts, signatures, versions, where keys may live."""

from __future__ import annotations

from pathlib import Path

import pytest
from cryptography.hazmat.primitives.asymmetric.ed25519 import Ed25519PrivateKey
from roster_stand_ins import TODAY, Hospital, bent, countersigned, roster_of

from client import keys
from client.home import NodeHome
from server import root, rosters, sites
from server.home import CoordinatorHome
from server.root import RootHome
from shared_model import enrolment, roster, signing
from shared_model.enrolment import RootCard
from shared_model.errors import OurMistake, PeerFault, Refused
from shared_model.roster import CountersignatureFile, Roster

Hospitals = tuple[Hospital, ...]


@pytest.fixture
def root_home(tmp_path: Path) -> RootHome:
    home = RootHome(tmp_path / "root")
    root.make(home)
    return home


@pytest.fixture
def nodes(tmp_path: Path) -> dict[str, NodeHome]:
    homes = {site: NodeHome(tmp_path / site) for site in ("alpha", "beta", "gamma")}
    for site, home in homes.items():
        keys.make(home, site, 100)
    return homes


@pytest.fixture
def coordinator(tmp_path: Path, root_home: RootHome, nodes: dict[str, NodeHome]) -> CoordinatorHome:
    home = CoordinatorHome(tmp_path / "coordinator")
    home.make()
    rosters.pin_root(home, root_home.public.read_bytes())
    for node in nodes.values():
        sites.enrol(home, keys.card_bytes(node))
    return home


def countersignature(made: Roster, site: str, key: Ed25519PrivateKey) -> bytes:
    return CountersignatureFile(
        roster_digest=made.digest,
        site=site,
        signature=roster.countersign(made, site, key).hex(),
    ).to_bytes()


def signed_next(home: CoordinatorHome, root_home: RootHome) -> bytes:
    return root.sign(root_home, rosters.draft(home, today=TODAY), TODAY)


def test_a_root_key_is_made_once_and_for_its_owner_only(root_home: RootHome) -> None:
    before = root_home.key.read_bytes()
    card = root.make(root_home)
    assert root_home.key.read_bytes() == before
    assert root_home.key.stat().st_mode & 0o077 == 0
    assert enrolment.open_root_card(root_home.public.read_bytes()) == card
    assert card.root == signing.public_bytes(signing.load_key_file(root_home.key))


@pytest.mark.parametrize("below", [".", "root", "a/b"])
@pytest.mark.parametrize("name", ["coordinator.toml", "node.toml"])
def test_a_root_key_does_not_live_in_an_online_home(tmp_path: Path, below: str, name: str) -> None:
    """Neither in the folder of a coordinator or a node nor anywhere below it."""
    (tmp_path / name).write_text("")
    with pytest.raises(Refused) as caught:
        root.make(RootHome(tmp_path / below))
    assert caught.value.reason == "online"
    assert not list(tmp_path.rglob("root.pem"))


def test_a_root_key_does_not_live_above_a_coordinator_or_behind_a_link(tmp_path: Path) -> None:
    (tmp_path / "coordinator").mkdir()
    (tmp_path / "coordinator" / "coordinator.toml").write_text("")
    (tmp_path / "link").symlink_to(tmp_path / "coordinator")
    for folder in (tmp_path, tmp_path / "link" / "root"):
        with pytest.raises(Refused):
            root.make(RootHome(folder))


@pytest.mark.parametrize("below", [".", "coordinator"])
def test_a_coordinator_does_not_settle_where_a_root_key_is(root_home: RootHome, below: str) -> None:
    with pytest.raises(Refused) as caught:
        root.refuse_beside(CoordinatorHome(root_home.root / below))
    assert caught.value.reason == "online"
    root.refuse_beside(CoordinatorHome(root_home.root.parent / "other"))


def test_a_draft_is_signed_imported_and_usable(
    coordinator: CoordinatorHome, root_home: RootHome
) -> None:
    draft = rosters.draft(coordinator, today=TODAY)
    assert (draft.version, draft.threshold, draft.names) == (1, 3, ("alpha", "beta", "gamma"))
    assert (draft.valid_from, draft.valid_until) == (TODAY, "2027-11-21")
    assert Roster.from_bytes(draft.to_bytes()) == draft
    data = root.sign(root_home, draft, TODAY)
    assert rosters.take(coordinator, data, today=TODAY).roster == draft
    assert rosters.usable(coordinator, TODAY).roster == draft
    assert coordinator.roster.read_bytes() == data
    assert rosters.gaps(coordinator, draft) == []
    assert rosters.draft(coordinator, today=TODAY).version == 2


def test_without_a_roster_or_a_root_key_the_coordinator_says_what_to_do(
    coordinator: CoordinatorHome, tmp_path: Path
) -> None:
    assert rosters.current(coordinator) is None
    with pytest.raises(OurMistake, match="roster draft"):
        rosters.usable(coordinator, TODAY)
    with pytest.raises(OurMistake, match="root init"):
        rosters.root_card(CoordinatorHome(tmp_path / "empty"))


def test_an_expired_roster_is_not_usable(coordinator: CoordinatorHome, root_home: RootHome) -> None:
    data = signed_next(coordinator, root_home)
    rosters.take(coordinator, data, today=TODAY)
    with pytest.raises(Refused, match="expired"):
        rosters.usable(coordinator, "2027-11-22")


def test_a_draft_out_of_bounds_is_refused(coordinator: CoordinatorHome) -> None:
    for threshold in (1, 4):
        with pytest.raises(Refused) as caught:
            rosters.draft(coordinator, today=TODAY, threshold=threshold)
        assert caught.value.reason == "threshold"
    sites.remove(coordinator, "beta")
    sites.remove(coordinator, "gamma")
    with pytest.raises(Refused):
        rosters.draft(coordinator, today=TODAY)


def test_the_root_never_signs_a_version_twice_or_lower(
    coordinator: CoordinatorHome, root_home: RootHome
) -> None:
    """Only the very same draft again, which gives the very same bytes."""
    second = rosters.draft(coordinator, today=TODAY, version=2)
    data = root.sign(root_home, second, TODAY)
    assert root.sign(root_home, second, TODAY) == data
    others = [
        rosters.draft(coordinator, today=TODAY, version=1),
        rosters.draft(coordinator, today=TODAY, version=2, valid_days=400),
    ]
    for other in others:
        with pytest.raises(Refused, match="--version 3") as caught:
            root.sign(root_home, other, TODAY)
        assert caught.value.reason == "roster"
    assert root_home.last.read_bytes() == data
    root.sign(root_home, rosters.draft(coordinator, today=TODAY, version=3), TODAY)


def test_the_root_signs_nothing_that_bends_the_rules(
    root_home: RootHome, hospitals: Hospitals
) -> None:
    """A coordinator that writes drafts by hand gets no signature for its weights."""
    right = roster_of(hospitals)
    for wrong, reason in (
        (bent(right, "alpha", weight=8), "roster"),
        (roster_of(hospitals, threshold=2), "threshold"),
        (roster_of(hospitals, threshold=6), "threshold"),
        (roster_of(hospitals[:1]), "threshold"),
        (roster_of(hospitals, last=TODAY), "roster"),
    ):
        with pytest.raises(Refused) as caught:
            root.sign(root_home, wrong, "2026-11-22")
        assert caught.value.reason == reason
    assert root.last_signed(root_home) is None


def test_a_draft_for_later_may_be_signed(root_home: RootHome, hospitals: Hospitals) -> None:
    root.sign(root_home, roster_of(hospitals), "2026-11-01")


def test_a_damaged_record_of_the_last_roster_stops_the_root(
    root_home: RootHome, hospitals: Hospitals, other_root: Ed25519PrivateKey
) -> None:
    """Without it the root could sign a version twice."""
    for data in (b"{}", roster.sign(roster_of(hospitals), other_root).to_bytes()):
        root_home.last.write_bytes(data)
        with pytest.raises(OurMistake, match="last"):
            root.sign(root_home, roster_of(hospitals), TODAY)


def test_another_root_key_is_refused(
    coordinator: CoordinatorHome, root_home: RootHome, other_root: Ed25519PrivateKey
) -> None:
    data = root_home.public.read_bytes()
    rosters.pin_root(coordinator, data)
    other = RootCard(root_key=signing.public_bytes(other_root).hex())
    with pytest.raises(Refused, match="another root key"):
        rosters.pin_root(coordinator, enrolment.seal(other, other_root))
    assert coordinator.root_public.read_bytes() == data


def test_a_root_card_proves_possession_of_its_key(
    root_home: RootHome, other_root: Ed25519PrivateKey
) -> None:
    data = root_home.public.read_bytes()
    changed = data.replace(
        root.make(root_home).root_key.encode(), signing.public_bytes(other_root).hex().encode()
    )
    assert changed != data
    with pytest.raises(PeerFault, match="own key"):
        enrolment.open_root_card(changed)


def test_a_roster_of_another_root_is_not_imported(
    coordinator: CoordinatorHome, other_root: Ed25519PrivateKey
) -> None:
    forged = roster.sign(rosters.draft(coordinator, today=TODAY), other_root).to_bytes()
    with pytest.raises(PeerFault, match="not signed"):
        rosters.take(coordinator, forged, today=TODAY)
    with pytest.raises(PeerFault):
        rosters.take(coordinator, b"{}", today=TODAY)
    with pytest.raises(PeerFault):
        rosters.take(coordinator, rosters.draft(coordinator, today=TODAY).to_bytes(), today=TODAY)
    assert rosters.current(coordinator) is None


def test_lower_versions_and_other_rosters_of_a_version_are_not_imported(
    coordinator: CoordinatorHome, root_home: RootHome
) -> None:
    """The second of one version is signed behind the tool's back."""
    first = signed_next(coordinator, root_home)
    rosters.take(coordinator, first, today=TODAY)
    second = signed_next(coordinator, root_home)
    rosters.take(coordinator, second, today=TODAY)
    with pytest.raises(Refused, match="behind"):
        rosters.take(coordinator, first, today=TODAY)
    key = signing.load_key_file(root_home.key)
    twin = roster.sign(
        rosters.draft(coordinator, today=TODAY, version=2, valid_days=9), key
    ).to_bytes()
    with pytest.raises(Refused, match="Another roster"):
        rosters.take(coordinator, twin, today=TODAY)
    assert coordinator.roster.read_bytes() == second


@pytest.mark.parametrize("today", ["2026-11-20", "2027-11-22"])
def test_a_roster_out_of_its_days_is_not_imported(
    coordinator: CoordinatorHome, root_home: RootHome, today: str
) -> None:
    """Nodes would remember it as seen and refuse the one that still holds."""
    data = signed_next(coordinator, root_home)
    with pytest.raises(Refused):
        rosters.take(coordinator, data, today=today)


def test_countersignatures_are_gathered_and_kept(
    coordinator: CoordinatorHome, root_home: RootHome, nodes: dict[str, NodeHome]
) -> None:
    rosters.take(coordinator, signed_next(coordinator, root_home), today=TODAY)
    second = signed_next(coordinator, root_home)
    made = rosters.take(coordinator, second, today=TODAY).roster
    for site in ("beta", "alpha", "beta"):
        key = signing.load_key_file(nodes[site].identity_key)
        rosters.take(coordinator, countersignature(made, site, key), today=TODAY)
    rosters.take(coordinator, second, today=TODAY)
    signed = rosters.usable(coordinator, TODAY)
    assert [item.site for item in signed.countersignatures] == ["alpha", "beta"]
    assert rosters.countersigned(coordinator, signed) == {1: ["alpha", "beta"]}


def test_a_countersignature_with_a_key_of_no_earlier_roster_is_refused(
    coordinator: CoordinatorHome, root_home: RootHome
) -> None:
    rosters.take(coordinator, signed_next(coordinator, root_home), today=TODAY)
    made = rosters.take(coordinator, signed_next(coordinator, root_home), today=TODAY).roster
    stranger = Ed25519PrivateKey.generate()
    for site in ("alpha", "puppet"):
        with pytest.raises(PeerFault) as caught:
            rosters.take(coordinator, countersignature(made, site, stranger), today=TODAY)
        assert caught.value.site == site


def test_a_countersignature_of_another_roster_is_refused(
    coordinator: CoordinatorHome, root_home: RootHome, nodes: dict[str, NodeHome]
) -> None:
    key = signing.load_key_file(nodes["alpha"].identity_key)
    draft = rosters.draft(coordinator, today=TODAY)
    with pytest.raises(Refused, match="another roster"):
        rosters.take(coordinator, countersignature(draft, "alpha", key), today=TODAY)
    rosters.take(coordinator, root.sign(root_home, draft, TODAY), today=TODAY)
    second = rosters.draft(coordinator, today=TODAY)
    with pytest.raises(Refused, match="another roster"):
        rosters.take(coordinator, countersignature(second, "alpha", key), today=TODAY)


def test_a_roster_file_may_bring_countersignatures(
    coordinator: CoordinatorHome, root_home: RootHome, nodes: dict[str, NodeHome]
) -> None:
    """And keeps those that were here."""
    rosters.take(coordinator, signed_next(coordinator, root_home), today=TODAY)
    data = signed_next(coordinator, root_home)
    signed = rosters.take(coordinator, data, today=TODAY)
    own = {site: signing.load_key_file(home.identity_key) for site, home in nodes.items()}
    rosters.take(coordinator, countersignature(signed.roster, "gamma", own["gamma"]), today=TODAY)
    more = countersigned(signed, [Hospital("beta", own["beta"], 100)])
    merged = rosters.take(coordinator, more.to_bytes(), today=TODAY)
    assert [item.site for item in merged.countersignatures] == ["beta", "gamma"]


def test_gaps_between_cards_and_roster_are_named(
    coordinator: CoordinatorHome, root_home: RootHome, tmp_path: Path
) -> None:
    signed = rosters.take(coordinator, signed_next(coordinator, root_home), today=TODAY)
    sites.remove(coordinator, "alpha")
    sites.remove(coordinator, "beta")
    gamma = keys.card(NodeHome(tmp_path / "gamma")).model_copy(update={"declared_patients": 90})
    sites.remove(coordinator, "gamma")
    key = signing.load_key_file(NodeHome(tmp_path / "gamma").identity_key)
    sites.enrol(coordinator, enrolment.seal(gamma, key))
    for site, patients in (("beta", 100), ("delta", 100)):
        keys.make(NodeHome(tmp_path / "new" / site), site, patients)
        sites.enrol(coordinator, keys.card_bytes(NodeHome(tmp_path / "new" / site)))
    text = "\n".join(rosters.gaps(coordinator, signed.roster))
    assert "alpha is in the roster but not enrolled" in text
    assert "beta is enrolled with another key" in text
    assert "delta is enrolled but not in the roster" in text
    assert "gamma is enrolled with other declared patients" in text


def test_more_sites_than_a_roster_has_are_not_enrolled(
    coordinator: CoordinatorHome, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(sites, "MAX_PARTICIPANTS", 3)
    home = NodeHome(tmp_path / "delta")
    keys.make(home, "delta", 10)
    with pytest.raises(Refused, match="3 hospitals"):
        sites.enrol(coordinator, keys.card_bytes(home))
    assert len(sites.roster(coordinator)) == 3


def test_a_simulation_signs_on_one_machine(
    tmp_path: Path, nodes: dict[str, NodeHome], root_key: Ed25519PrivateKey
) -> None:
    home = CoordinatorHome(tmp_path / "simulated")
    for node in nodes.values():
        sites.enrol(home, keys.card_bytes(node))
    data = rosters.sign_here(home, root_key, today=TODAY)
    signed = roster.open_signed(data, signing.public_bytes(root_key))
    assert signed == rosters.usable(home, TODAY)
    again = roster.open_signed(
        rosters.sign_here(home, root_key, today=TODAY, threshold=2), signing.public_bytes(root_key)
    )
    assert (again.roster.version, again.roster.threshold) == (2, 2)
    assert not list(home.root.rglob("*.pem"))


def test_a_simulation_of_two_hospitals_has_a_roster(
    tmp_path: Path, nodes: dict[str, NodeHome], root_key: Ed25519PrivateKey
) -> None:
    """The nodes' own policies refuse two, not the tool."""
    home = CoordinatorHome(tmp_path / "two")
    for site in ("alpha", "beta"):
        sites.enrol(home, keys.card_bytes(nodes[site]))
    rosters.sign_here(home, root_key, today=TODAY)
    assert rosters.usable(home, TODAY).roster.threshold == 2
