"""A node that is killed at any write: one submission, one agreement, one epoch key, or none."""

from __future__ import annotations

import contextlib
from dataclasses import replace

import pytest
from killer import MODES, Killed, Killer
from node_stand_ins import RUN_KEY, SITES, Consortium, FakeRosters, key_of, make_node

import client.epochs
import client.outbox
from client.round import answer
from shared_model import signing
from shared_model.noise import NonPrivateForTests
from shared_model.protocol import Refusal, TrainReply, open_answer, open_answer_of, seal
from shared_model.protocol_sum import Agreement, EpochKey


def other_noise(request):
    return NonPrivateForTests(request.run, "alpha", request.round, 99)


def opened(pair, kind=TrainReply):
    return open_answer_of(pair[0], signing.public_bytes(key_of("alpha")), kind, site="alpha")


@pytest.mark.parametrize("mode", MODES)
def test_a_node_killed_at_any_write_never_sends_two_updates_for_one_round(
    tmp_path, monkeypatch, mode
):
    """Two vectors under the same pairwise masks would give away their difference."""
    outcomes = set()
    for count in range(10):
        consortium = Consortium.of(tmp_path / f"{count}", SITES)
        message, body = consortium.request()
        header = seal(message, RUN_KEY)
        node = consortium.nodes["alpha"]
        killer = Killer(count, mode)
        left = []
        with monkeypatch.context() as patch:
            patch.setattr(client.outbox, "write_atomic", killer.write)
            with contextlib.suppress(Killed):
                left.append(answer(node, header, body))
        # another process, other noise: what it would compute now differs from what it did before
        after = replace(node, noise=other_noise)
        left += [answer(after, header, body), answer(after, header, body)]
        assert left[-1] == left[-2]
        final = open_answer(left[-1][0], signing.public_bytes(key_of("alpha")), site="alpha")
        outcomes.add("interrupted" if isinstance(final, Refusal) else "replied")
        if isinstance(final, Refusal):
            assert final.reason == "interrupted"
        replies = {item for item in left if item[1]}
        assert len(replies) <= 1
        assert len(node.books.reserved) == 1 or (not replies and not node.books.reserved)
        if replies:
            assert node.books.settled == {("spring", 1): final.body_digest}
        if not killer.fired:
            break
    assert outcomes == {"interrupted", "replied"}
    assert count >= 4


@pytest.mark.parametrize("mode", MODES)
def test_a_node_killed_at_any_write_never_signs_two_sets_of_survivors(tmp_path, monkeypatch, mode):
    """Whatever left before the kill is all that ever leaves."""
    left_before = set()
    for count in range(4):
        consortium = Consortium.of(tmp_path / f"{count}", ("alpha", "beta", "delta", "gamma"))
        played = consortium.submit()
        first = seal(played.agree_request(), RUN_KEY)
        other = seal(played.agree_request(survivors=SITES), RUN_KEY)
        links = played.links
        node = consortium.nodes["alpha"]
        killer = Killer(count, mode)
        left = []
        with monkeypatch.context() as patch:
            patch.setattr(client.outbox, "write_atomic", killer.write)
            with contextlib.suppress(Killed):
                left.append(answer(node, first, links))
        left_before.add(bool(left))
        node.books.incident("later", 1, "conflict")  # the head of the ledger moves on
        left += [answer(node, header, links) for header in (other, first, other)]
        found = [opened(pair, Agreement) for pair in left]
        signed = [item for item in found if isinstance(item, Agreement)]
        assert signed
        assert len({item.agreed for item in signed}) == 1
        assert len({pair for pair, item in zip(left, found, strict=True)
                    if isinstance(item, Agreement)}) == 1  # fmt: skip
        assert {item.reason for item in found if isinstance(item, Refusal)} == {"conflict"}
        if not killer.fired:
            break
    assert left_before == {False, True}


@pytest.mark.parametrize("mode", MODES)
def test_a_node_killed_while_it_makes_an_epoch_key_comes_out_with_one_or_none(
    tmp_path, monkeypatch, mode
):
    """One epoch has one key, and nothing of a torn write stays behind."""
    fired = 0
    for count in range(8):
        root = tmp_path / f"{count}"
        node = make_node("alpha", root, rosters=FakeRosters("alpha"))
        consortium = Consortium({"alpha": node}, node.rosters.signed)
        consortium.begin_epoch(1)
        message, body = consortium.epoch_request(2)
        header = seal(message, RUN_KEY)
        killer = Killer(count, mode)
        left = []
        with monkeypatch.context() as patch:
            patch.setattr(client.epochs, "write_atomic", killer.write)
            with contextlib.suppress(Killed):
                left.append(answer(node, header, body))
        fired += killer.fired
        left += [answer(node, header, body), answer(node, header, body)]
        assert len(set(left)) == 1
        found = opened(left[0], EpochKey)
        if isinstance(found, Refusal):  # killed between the number and the key: none, for good
            assert found.reason == "epoch"
            assert killer.fired
        else:
            assert node.epochs.last == 2
        consortium.begin_epoch(3)
        here = {path.name for path in node.epochs.folder.iterdir()}
        assert here == {"epoch.json", "CACHEDIR.TAG", "README"}
        if not killer.fired:
            break
    assert fired >= 2
