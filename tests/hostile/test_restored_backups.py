"""A hospital whose folder was put back: from an ordinary back-up, and from a snapshot that had the
epoch's key. Its memory of what it signed and answered is gone; the coordinator tries all of it."""

from __future__ import annotations

from collections.abc import Callable

from consortium import Consortium

from client import ledger_file
from shared_model.ledger import NOTHING
from shared_model.protocol_sum import SharesReply

World = Callable[..., Consortium]


def whole_round(world: Consortium, number: int, survivors: tuple[str, ...]) -> None:
    request = world.request(number)
    world.submit(request, survivors)
    world.agree(request, survivors)
    world.open(request, survivors)


def test_restored_backup_that_is_asked_an_old_round_again_has_no_key(consortium: World) -> None:
    """Copied before the round, put back after it: same request, other participants, old epoch."""
    world = consortium(5, threshold=3, colluding_sites=0)
    copy = world.back_up("s00", with_epoch_key=False)
    whole_round(world, 1, world.names)
    world.restore("s00", copy)
    for participants in (world.names, ("s00", "s01", "s02")):
        heard = world.submit(world.request(1, participants), ["s00"])
        assert heard["s00"].refused == "epoch"
    # nobody there knows whether its ledger is the newest: no new key either
    assert world.ask_epoch_key("s00", world.epoch, world.signed).refused == "ledger"
    assert world.hospitals["s00"].trained == 1
    assert world.adversary.learned(world.truth) == [world.adversary.places(*world.names)]


def test_restored_backup_opens_and_agrees_to_nothing_of_an_open_round(consortium: World) -> None:
    """Copied after it submitted, put back before trip 2, and again before trip 3: no second set."""
    world = consortium(5, threshold=3, colluding_sites=0)
    request = world.request(1)
    world.submit(request)
    copy = world.back_up("s00", with_epoch_key=False)
    world.agree(request, world.names)
    world.restore("s00", copy)
    fewer = ("s00", "s01", "s02")
    assert world.agree(request, fewer)["s00"].refused == "epoch"
    # an incident that its ledger, which may be an older one, does not take
    assert world.open(request, world.names, ["s00"])["s00"].refused == "secure-sum"
    world.open(request, world.names)
    assert world.adversary.learned(world.truth) == [world.adversary.places(*world.names)]


def test_new_epoch_after_a_restore_lets_an_old_round_begin_but_never_end(consortium: World) -> None:
    """The restored hospital has forgotten round 1, and does not know whether its ledger has; all
    others refuse the round, so that nobody's agreements are enough."""
    world = consortium(5, threshold=3, colluding_sites=0)
    copy = world.back_up("s00", with_epoch_key=False)
    whole_round(world, 1, world.names)
    first = world.adversary.places(*world.names)
    world.restore("s00", copy)
    # as if never-back-up/ had come from the same backup: its ledger passes for the newest
    ledger_file.write_notes(world.hospitals["s00"].home, 0, NOTHING)
    world.new_epoch()
    request = world.request(1, ("s00", "s01", "s02"))
    heard = world.submit(request)
    assert {site: item.refused for site, item in heard.items()} == {
        "s00": "",
        "s01": "conflict",
        "s02": "conflict",
    }
    survivors = ("s00", "s01", "s02")
    assert {item.refused for item in world.agree(request, survivors).values()} == {"", "secure-sum"}
    assert {item.refused for item in world.open(request, survivors).values()} == {"secure-sum"}
    assert world.adversary.learned(world.truth) == [first]


def test_epoch_of_a_lost_key_never_comes_back(consortium: World) -> None:
    """Restored from before the last two epochs: any number that it makes a key for is new to it,
    and old rounds of the numbers it forgot stay closed, because the key is another one."""
    world = consortium(5, threshold=3, colluding_sites=0)
    copy = world.back_up("s00", with_epoch_key=False)
    world.new_epoch()
    request = world.request(1)
    world.submit(request)
    world.agree(request, world.names)
    world.restore("s00", copy)
    assert world.ask_epoch_key("s00", world.epoch, world.signed).refused == "ledger"
    assert world.submit(request, ["s00"])["s00"].refused == "epoch"  # its key is not that one
    world.open(request, world.names)
    assert world.adversary.learned(world.truth) == [world.adversary.places(*world.names)]


def test_restored_command_erases_the_key_of_a_full_snapshot(consortium: World) -> None:
    """What `fedprint-node restored` does: then a snapshot is worth no more than a back-up."""
    world = consortium(5, threshold=3, colluding_sites=0)
    copy = world.back_up("s00", with_epoch_key=True)
    whole_round(world, 1, world.names)
    world.restore("s00", copy)
    assert world.node("s00").epochs.erase()
    assert world.submit(world.request(1), ["s00"])["s00"].refused == "epoch"
    assert world.ask_epoch_key("s00", world.epoch, world.signed).refused == "epoch"
    assert world.adversary.learned(world.truth) == [world.adversary.places(*world.names)]


def test_full_snapshot_with_the_key_between_submit_and_agree_counts_as_a_colluder(
    consortium: World,
) -> None:
    """n = 5, t = 4, one colluder and one hospital that signs twice: still one sum (bound 2)."""
    world = consortium(5, threshold=4, colluders=("s04",))
    request = world.request(1)
    world.submit(request)
    copy = world.back_up("s00", with_epoch_key=True)
    first, second = ("s00", "s01", "s02", "s04"), ("s00", "s01", "s03", "s04")
    world.agree(request, first, ["s00", "s01", "s02"])
    world.open(request, first, missing=first)
    world.restore("s00", copy)
    assert world.agree(request, second, ["s00"])["s00"].refused == ""  # it has forgotten
    world.agree(request, second, ["s03"])
    heard = world.open(request, second, missing=second)
    assert {item.refused for item in heard.values()} == {"secure-sum", "conflict"}
    assert world.adversary.learned(world.truth) == [world.adversary.places("s00", "s01", "s02")]


def test_full_snapshot_with_the_key_before_it_submitted_does_not_give_two_updates(
    consortium: World,
) -> None:
    """The hospital submits twice under one transcript, so with equal pairwise masks. Whoever gets
    both self seeds has the difference of the two vectors: openers open one set of rows only."""
    world = consortium(5, threshold=4)
    request = world.request(1)
    copy = world.back_up("s00", with_epoch_key=True)
    world.submit(request)
    transcript = world.transcript(request).digest
    old = world.adversary.newest(transcript)["s00"].submission
    world.restore("s00", copy)
    assert world.submit(request, ["s00"])["s00"].refused == ""
    assert world.hospitals["s00"].trained == 2
    new = world.adversary.newest(transcript)["s00"].submission
    assert bytes(old.packed) != bytes(new.packed)
    survivors = world.names
    world.agree(request, survivors)
    for site in survivors:
        for submission in (new, old):
            rows = {"s00": submission.salt + submission.row(site)}
            heard = world.open(request, survivors, [site], rows=rows)[site]
            assert heard.refused == ("" if submission is new else "conflict")
    assert world.adversary.learned(world.truth) == [
        {place: 1 for place, seen in enumerate(world.adversary.targets()) if seen.submission != old}
    ]


def test_rows_of_two_submissions_split_over_the_openers_open_neither(consortium: World) -> None:
    """Some openers are given the rows of the first submission, some those of the second."""
    world = consortium(5, threshold=4)
    request = world.request(1)
    copy = world.back_up("s00", with_epoch_key=True)
    world.submit(request)
    transcript = world.transcript(request).digest
    old = world.adversary.newest(transcript)["s00"].submission
    world.restore("s00", copy)
    world.submit(request, ["s00"])
    new = world.adversary.newest(transcript)["s00"].submission
    world.agree(request, world.names)
    for place, site in enumerate(world.names):
        submission = new if place < 3 else old
        rows = {"s00": submission.salt + submission.row(site)}
        answer = world.open(request, world.names, [site], rows=rows)[site].answer
        assert isinstance(answer, SharesReply)
        assert answer.unreadable == answer.accused == ()
    assert world.adversary.learned(world.truth) == []


def test_snapshot_before_submission_with_other_participants_has_no_agreements(
    consortium: World,
) -> None:
    """Rolled back with its key, the hospital answers the same round with another P; nobody else
    does."""
    world = consortium(5, threshold=3, colluding_sites=0)
    copy = world.back_up("s00", with_epoch_key=True)
    whole_round(world, 1, world.names)
    first = world.adversary.places(*world.names)
    world.restore("s00", copy)
    request = world.request(1, ("s00", "s01", "s02"))
    heard = world.submit(request)
    assert sorted(item.refused for item in heard.values()) == ["", "conflict", "conflict"]
    world.agree(request, ("s00", "s01", "s02"))
    assert world.open(request, ("s00", "s01", "s02"))["s00"].refused == "secure-sum"
    assert world.adversary.learned(world.truth) == [first]
