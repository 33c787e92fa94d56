"""Rosters that a coordinator, or whoever stole the root key, would like a hospital to go by.

The stolen root signs them, so the signature is right; what stops them is the hospital's approval.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import pytest
from consortium import NOW, ROOT_KEY, Consortium, key_of

from client.rosters import RosterBook
from shared_model import roster, signing
from shared_model.errors import PeerFault, Refused
from shared_model.protocol_sum import EpochKey
from shared_model.roster import Roster, SignedRoster
from shared_model.secure_sum.numbers import Numbers

World = Callable[..., Consortium]


def assert_nothing_learned(world: Consortium) -> None:
    """No hospital trained for this, nothing was opened, nothing can be computed."""
    assert [hospital.trained for hospital in world.hospitals.values()] == [0] * len(world.honest)
    assert world.adversary.opened == []
    assert world.adversary.learned(world.truth) == []


def take_over(world: Consortium, signed: SignedRoster) -> None:
    """The adversary has the key of every site of a roster that has no node here."""
    for site in signed.roster.names:
        if site not in world.hospitals:
            world.adversary.identities.setdefault(site, key_of(site))


def offered(world: Consortium, signed: SignedRoster, site: str) -> str:
    """What a hospital says to a new epoch of this roster, and to a round of it."""
    take_over(world, signed)
    epoch = world.epoch + 1
    first = world.ask_epoch_key(site, epoch, signed).refused
    keys = []
    for name in signed.roster.names:
        if name not in world.hospitals:
            keys.append(world.colluders_key(name, world.epoch, signed))
        else:
            keys += [item for item in world.epoch_keys if item.site == name]
    request = world.request(
        1,
        signed.roster.names,
        plan={
            "roster_digest": signed.roster.digest,
            "threshold": max(2, signed.roster.threshold),
            "epoch_keys": tuple(keys),
        },
        declare={entry.site: entry.declared_patients for entry in signed.roster.sites},
    )
    assert world.submit(request, [site])[site].refused == "roster"
    return first


def all_say(world: Consortium, signed: SignedRoster, reason: str) -> None:
    for site in world.honest:
        assert offered(world, signed, site) == reason
    assert_nothing_learned(world)


def test_puppet_sites_wait_for_the_operators_approval(consortium: World) -> None:
    """A stolen root surrounds one hospital with nine puppets; it gives no key and no update."""
    world = consortium(4)
    puppets = [f"p{index}" for index in range(9)]
    assert offered(world, world.roster_of(["s00", *puppets], version=2), "s00") == "roster-approval"
    assert_nothing_learned(world)
    all_say(world, world.roster_of([*world.names, *puppets], version=3), "roster-approval")
    for site in world.honest:
        assert RosterBook(world.hospitals[site].home).pending() is not None


def test_puppet_in_a_round_of_the_true_roster_is_refused(consortium: World) -> None:
    """A participant, or an epoch key, of a site that the approved roster does not have."""
    world = consortium(3)
    world.adversary.identities["p0"] = key_of("p0")
    puppet = world.colluders_key("p0", world.epoch, world.signed)
    keys = (puppet, *world.epoch_keys)
    for names in (world.names, ("p0", *world.names), ("p0", "s00", "s01")):
        heard = world.submit(world.request(1, names, plan={"epoch_keys": keys}), world.honest)
        wanted = {site: "roster" for site in heard}
        assert {site: item.refused for site, item in heard.items()} == wanted
    assert "p0" in str(world.logged("s00")[-1]["message"])
    assert_nothing_learned(world)


def test_removed_honest_sites_wait_for_approval(consortium: World) -> None:
    """Three of seven are left, two of them colluders, with a threshold to match."""
    world = consortium(7, colluders=("s05", "s06"))
    signed = world.roster_of(["s00", "s05", "s06"], version=2)
    assert offered(world, signed, "s00") == "roster-approval"
    assert offered(world, signed, "s01") == "roster"  # it is no longer in it
    assert_nothing_learned(world)


def test_key_swapped_under_an_old_id_waits_for_approval(consortium: World) -> None:
    """The coordinator speaks as s01 in version 2; s01 itself sees another key than its own."""
    world = consortium(4)
    signed = world.roster_of(world.names, version=2, keys={"s01": key_of("mallory")})
    assert offered(world, signed, "s00") == "roster-approval"
    assert offered(world, signed, "s01") == "roster"
    # nor does an epoch key that is signed with the swapped identity key count
    world.adversary.identities["s01"] = key_of("mallory")
    swapped = world.colluders_key("s01", world.epoch, world.signed)
    keys = tuple(swapped if item.site == "s01" else item for item in world.epoch_keys)
    heard = world.submit(world.request(1, plan={"epoch_keys": keys}), ["s00", "s02", "s03"])
    assert {item.refused for item in heard.values()} == {"secure-sum"}
    assert "s01" in str(world.logged("s00")[-1]["message"])
    assert_nothing_learned(world)


def test_key_swapped_in_the_same_version_is_refused(consortium: World) -> None:
    """A second roster of a version that was seen is refused for good, not kept for approval."""
    world = consortium(4)
    all_say(world, world.roster_of([*world.names, "p0"], version=1), "roster")


def test_lowered_threshold_in_a_request_is_refused(consortium: World) -> None:
    """The threshold comes from the approved roster, whatever the request says."""
    world = consortium(5, threshold=4)
    for threshold in (2, 3, 5):
        heard = world.submit(world.request(1, plan={"threshold": threshold}))
        assert {item.refused for item in heard.values()} == {"threshold"}
    assert_nothing_learned(world)


def test_lowered_threshold_in_a_new_roster_waits_for_approval(consortium: World) -> None:
    """Version 2 with t = 4 instead of 5; and t = 3, which the policy does not allow at all."""
    world = consortium(5, threshold=5)
    all_say(world, world.roster_of(world.names, version=2, threshold=4), "roster-approval")
    all_say(world, world.roster_of(world.names, version=3, threshold=3), "threshold")


@pytest.mark.parametrize("threshold", [1, 2, 3, 6])
def test_no_operator_can_approve_a_threshold_out_of_bounds(
    consortium: World, threshold: int
) -> None:
    """Six sites: from a majority to all of them, and the collusion bound of the policy holds."""
    world = consortium(6, threshold=5)
    drafted = world.roster_of(world.names, version=2, threshold=threshold)
    if threshold == 6:
        world.approve("s00", drafted)
        return
    with pytest.raises(Refused) as caught:
        world.approve("s00", drafted)
    assert caught.value.reason == "threshold"


def test_few_participants_of_a_large_roster_are_refused(consortium: World) -> None:
    """n and t count the roster: three of ten are no round, and no survivors of one."""
    world = consortium(10, colluders=("s08", "s09"))
    assert world.threshold == 7
    small = world.request(1, ("s00", "s08", "s09"))
    assert world.submit(small, ["s00"])["s00"].refused == "threshold"
    assert_nothing_learned(world)
    request = world.request(1)
    world.submit(request)
    survivors = ("s00", "s08", "s09")
    assert world.agree(request, survivors)["s00"].refused == "threshold"
    assert world.open(request, survivors)["s00"].refused == "secure-sum"
    assert world.adversary.opened == []


def test_stale_roster_is_refused_after_a_newer_one(consortium: World) -> None:
    """Version 1, in which a key was since given up, is neither offered nor used again."""
    world = consortium(4)
    stale = world.signed
    newer = world.roster_of(world.names, version=2, keys={"s03": key_of("a new key of s03")})
    for site in ("s00", "s01", "s02"):
        world.approve(site, newer)
        assert world.ask_epoch_key(site, world.epoch + 1, stale).refused == "roster"
    heard = world.submit(world.request(1), ["s00", "s01", "s02"])  # still names version 1
    assert {item.refused for item in heard.values()} == {"roster"}
    assert_nothing_learned(world)


def test_roster_seen_but_not_approved_still_bars_older_ones(consortium: World) -> None:
    """After version 3 was offered, version 2 is stale, although 3 waits."""
    world = consortium(4)
    second = world.roster_of([*world.names, "p0"], version=2)
    third = world.roster_of([*world.names, "p1"], version=3)
    assert world.ask_epoch_key("s00", world.epoch + 1, third).refused == "roster-approval"
    assert world.ask_epoch_key("s00", world.epoch + 1, second).refused == "roster"
    assert_nothing_learned(world)


def test_roster_of_another_root_is_refused(consortium: World) -> None:
    """Signed by the coordinator itself, by a colluder, or changed after it was signed."""
    world = consortium(4, colluders=("s03",))
    wanted = world.roster_of([*world.names, "p0"], version=2)
    for key in (key_of("run"), world.adversary.identities["s03"]):
        forged = roster.sign(wanted.roster, key)
        assert world.ask_epoch_key("s00", world.epoch + 1, forged).refused == "roster"
    stretched = SignedRoster(roster=wanted.roster, root_signature=world.signed.root_signature)
    assert world.ask_epoch_key("s00", world.epoch + 1, stretched).refused == "roster"
    with pytest.raises(PeerFault) as caught:
        roster.open_signed(stretched.to_bytes(), signing.public_bytes(ROOT_KEY))
    assert caught.value.site == "coordinator"
    assert_nothing_learned(world)


def test_countersignatures_of_fewer_than_the_threshold_do_not_count(consortium: World) -> None:
    """All colluders, puppets and copies countersign: the operator is asked all the same; with t
    true countersignatures of the previous roster it is not."""
    world = consortium(5, threshold=4, colluders=("s03", "s04"), colluding_sites=2)
    wanted = world.roster_of([*world.names, "p0"], version=2, threshold=5)
    signed = wanted
    for site in ("s03", "s04"):
        signature = roster.countersign(wanted.roster, site, key_of(site))
        signed = signed.with_countersignature(site, signature)
    signed = signed.with_countersignature(
        "p0", roster.countersign(wanted.roster, "p0", key_of("p0"))
    )
    for site in ("s01", "s02"):  # a colluder's signature under honest names
        signature = roster.countersign(wanted.roster, site, key_of("s03"))
        signed = signed.with_countersignature(site, signature)
    assert world.ask_epoch_key("s00", world.epoch + 1, signed).refused == "roster-approval"
    for site in ("s01", "s02"):
        signature = roster.countersign(wanted.roster, site, key_of(site))
        signed = signed.with_countersignature(site, signature)
    assert isinstance(world.ask_epoch_key("s00", world.epoch + 1, signed).answer, EpochKey)
    assert_nothing_learned(world)


def test_weights_that_silence_all_but_one_are_refused(consortium: World) -> None:
    """Other declared numbers in the request; a roster with weights that do not follow from them;
    a roster that declares one site very large."""
    world = consortium(4)
    for victim in ("s00", "s01"):
        heard = world.submit(world.request(1, declare={victim: 100_000_000}))
        assert {item.refused for item in heard.values()} == {"roster"}
    content: dict[str, Any] = world.signed.roster.model_dump()
    content["version"] = 2
    for entry in content["sites"]:
        entry["weight"] = 8 if entry["site"] == "s00" else 1
    silenced = roster.sign(Roster.model_validate(content), ROOT_KEY)
    all_say(world, silenced, "roster")
    declared = world.roster_of(world.names, version=3, declare={"s00": 100_000_000})
    assert offered(world, declared, "s01") == "roster-approval"
    assert offered(world, declared, "s00") == "roster"
    assert_nothing_learned(world)


@pytest.mark.parametrize(
    "plan",
    [
        {"modulus_bits": 20},
        {"modulus_bits": 32},
        {"bits": 8},
        {"dimension": 32},
        {"dimension": 2**20},
        {"epoch": 7},
        {"aggregation": "UnmaskedForSimulation"},
    ],
)
def test_sum_parameters_of_the_coordinators_choice_are_refused(
    consortium: World, plan: dict[str, Any]
) -> None:
    """A modulus in which sums wrap, a vector longer than its mask, masks off: all refused."""
    world = consortium(4)
    heard = world.submit(world.request(1, plan=plan))
    assert {item.refused for item in heard.values()} <= {"secure-sum", "epoch", "model"}
    assert_nothing_learned(world)


@pytest.mark.parametrize(("bound", "bits"), [(2e-12, 20), (9e11, 20), (1.0, 14), (1.0, 24)])
def test_bits_and_bound_of_the_coordinators_choice_spoil_the_sum_and_tell_nothing_more(
    consortium: World, bound: float, bits: int
) -> None:
    """The nodes take them, as the page of attacks says: both come after their own noise. Nothing is
    learned from the submissions."""
    world = consortium(4)
    numbers = Numbers.of(1024, sum(world.weights.values()), bound, bits)
    plan = {"norm_bound": bound, "bits": bits, "modulus_bits": numbers.modulus_bits}
    heard = world.submit(world.request(1, plan=plan))
    assert {item.refused for item in heard.values()} == {""}
    assert world.adversary.learned(world.truth) == []


def test_roster_that_expired_is_not_used(consortium: World) -> None:
    """An entry of yesterday: no epoch, no round, until a new roster is approved."""
    world = consortium(4)
    content: dict[str, Any] = world.signed.roster.model_dump()
    content["version"] = 2
    for entry in content["sites"]:
        entry["valid_from"] = entry["valid_until"] = "2026-01-01"
    expired = roster.sign(Roster.model_validate(content), ROOT_KEY)
    assert NOW.date().isoformat() > "2026-01-01"
    all_say(world, expired, "roster")


def test_two_hospitals_are_refused_unless_the_policy_names_the_danger(consortium: World) -> None:
    """A sum of two is the other one's update; t = 2 and n = 2 is refused by default."""
    with pytest.raises(Refused) as caught:
        consortium(2, colluding_sites=0)
    assert caught.value.reason == "threshold"
