"""A node that is killed at any write: one submission, one agreement, one epoch key, or none."""

from __future__ import annotations

import contextlib
import hashlib
import os
from dataclasses import replace

import pytest
from killer import MODES, Killed, Killer
from ledger_stand_ins import FakeBooks
from node_stand_ins import RUN_KEY, SITES, Consortium, FakeRosters, key_of, make_node

import client.epochs
import client.outbox
from client.outbox import Outbox
from client.round import answer
from shared_model import signing
from shared_model.noise import NonPrivateForTests
from shared_model.protocol import Refusal, TrainReply, seal
from shared_model.protocol_open import open_answer_of
from shared_model.protocol_sum import Agreement, EpochKey


def other_noise(request):
    return NonPrivateForTests(request.run, "alpha", request.round, 99)


def asked(root):
    """The one request of these tests; it is the same in every consortium."""
    message, body = Consortium.of(root / "asks", SITES, entropy=repeating()).request()
    return seal(message, RUN_KEY), body


def opened(pair, kind=TrainReply):
    return open_answer_of(pair[0], signing.public_bytes(key_of("alpha")), kind, site="alpha")


@pytest.fixture(autouse=True)
def a_disk_that_keeps_everything(monkeypatch):
    """A killed process loses nothing that it has written; only a power cut does. Much faster."""
    monkeypatch.setattr(os, "fsync", lambda descriptor: None)


class KilledBooks(FakeBooks):
    """A ledger that is killed before or after its two appends, which are whole or absent."""

    killer: Killer | None = None

    def _append(self, make):
        if self.killer is None or not self.killer.strikes():
            return make()
        if self.killer.mode == "after":
            make()
        raise Killed

    def reserve(self, *args, **options):
        return self._append(lambda: super(KilledBooks, self).reserve(*args, **options))

    def settle(self, *args):
        return self._append(lambda: super(KilledBooks, self).settle(*args))


def repeating():
    """Stands for the operating system's entropy where runs are compared; begins with a process."""
    counter = iter(range(1000))
    return lambda size: hashlib.shake_256(bytes([next(counter)])).digest(size)


def killed(root, monkeypatch, killer, *, after=lambda node: node):
    """What left a node that was killed by this killer, and was asked twice again.

    after: what another process has in the place of the first one's parts.
    """
    consortium = Consortium.of(root, SITES, entropy=repeating())
    node = consortium.nodes["alpha"]
    node = replace(node, outbox=Outbox(root / "outbox", root / "outside"), books=KilledBooks())
    node.books.site = "alpha"
    message, body = consortium.request()
    header = seal(message, RUN_KEY)
    left = []
    node.books.killer = killer
    with monkeypatch.context() as patch:
        patch.setattr(client.outbox, "write_atomic", killer.write)
        with contextlib.suppress(Killed):
            left.append(answer(replace(node, entropy=repeating()), header, body))
    node.books.killer = None
    node = after(replace(node, entropy=repeating()))
    assert not node.outbox.was_rolled_back()
    left += [answer(node, header, body), answer(node, header, body)]
    return node, left


@pytest.mark.parametrize("mode", MODES)
@pytest.mark.parametrize("changed", [False, True])
def test_a_node_killed_at_any_write_sends_one_submission_and_books_it_once(
    tmp_path, monkeypatch, mode, changed
):
    """Two vectors under the same pairwise masks would give away their difference."""
    # another process, other noise: what it would compute now differs from what it did before
    other = {"after": lambda node: replace(node, noise=other_noise, entropy=os.urandom)}
    kept = set()
    for count in range(100):
        killer = Killer(count, mode)
        root = tmp_path / f"{count}"
        node, left = killed(root, monkeypatch, killer, **(other if changed else {}))
        assert len(set(left)) == 1
        final = opened(left[0])
        assert isinstance(final, TrainReply), final
        assert node.books.reserved == [("spring", 1)]
        assert node.books.settled == {("spring", 1): final.body_digest}
        here = {path.name for path in (root / "outbox" / "spring" / "0000001").iterdir()}
        assert here - {"taken-up"} == {
            *("request", "round.json", "reply.body", "reply.header", "prepared"),
            *("model.safetensors", "trained.json"),
        }
        kept.add("taken-up" in here)
        if not killer.fired:
            break
    assert kept == {False, True}
    assert count >= 20 + 4  # each of four steps has three


@pytest.mark.parametrize("mode", MODES)
def test_a_resumed_submission_is_the_undisturbed_one_bit_for_bit(tmp_path, monkeypatch, mode):
    """With noise that repeats; ledger and all. Killed once, and again while it goes on."""
    never = Killer(1000, mode)
    _, undisturbed = killed(tmp_path / "undisturbed", monkeypatch, never)
    writes = 1000 - never.left
    for count in range(writes):
        again = Killer((7 * count) % writes, "after")

        def after(node, again=again, count=count):
            with monkeypatch.context() as patch:
                patch.setattr(client.outbox, "write_atomic", again.write)
                with contextlib.suppress(Killed):
                    answer(node, *asked(tmp_path / f"{count}"))
            return replace(node, entropy=repeating())

        _, left = killed(tmp_path / f"{count}", monkeypatch, Killer(count, mode), after=after)
        assert set(left) == set(undisturbed)


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
