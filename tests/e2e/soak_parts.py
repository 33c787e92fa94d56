"""A line that loses, doubles, delays, reorders and corrupts; nodes and a coordinator that die.

Everything is drawn from one seed, and time is virtual: it passes only while the coordinator waits.
Death is an exception that nothing catches, at one of the durable writes (`os.fsync`, the ledger's
transaction): what was written by then is all that is left. What nodes quantised is kept aside, so
that sums can be added again without any of the code under test.
"""

from __future__ import annotations

import collections
import contextlib
import os
import random
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path

import numpy as np

import client.submit
import client.training
from client.ledger_store import LedgerStore
from server.checkpoints import RunFolder
from server.ledgers import LedgerArchive
from server.run_records import RoundRecord, RunRecord
from server.transport import Incoming, Outgoing
from shared_model import mae, protocol_open, signing
from shared_model.errors import PeerFault
from shared_model.ledger import Booked
from simulations.federation import Federation


class Killed(BaseException):
    """Stands for kill -9: nothing catches it."""


class Reaper:
    """Counts durable writes and kills at the one that is due; `left` None: nobody is to die."""

    def __init__(self) -> None:
        self.left: int | None = None

    def strike(self, *_: object) -> None:
        if self.left is None:
            return
        self.left -= 1
        if self.left < 0:
            self.left = None
            raise Killed

    @contextlib.contextmanager
    def armed(self, count: int | None) -> Iterator[None]:
        """Whoever runs in here dies at the write after so many."""
        before, self.left = self.left, count
        try:
            yield
        finally:
            self.left = before


@dataclass(frozen=True)
class Odds:
    """Probability of each fault, for each message; `away` and its length for each push."""

    lost_there: float = 0.02
    lost_back: float = 0.02
    twice: float = 0.03
    late: float = 0.03
    very_late: float = 0.01
    corrupt_there: float = 0.01
    corrupt_back: float = 0.01
    node_killed: float = 0.02
    away: float = 0.01

    def draw(self, rng: random.Random) -> str:
        """A fault's name, or "" for none."""
        point = rng.random()
        for name in FATES:
            point -= getattr(self, name)
            if point < 0.0:
                return name
        return ""


UNASKED_S = 300.0
FATES = (
    *("lost_there", "lost_back", "twice", "late", "very_late"),
    *("corrupt_there", "corrupt_back", "node_killed"),
)


@dataclass
class _Due:
    """Something on its way: a request to a site (`reply` None), or what comes back."""

    at: float
    identifier: str
    message: Outgoing = field(repr=False)
    fate: str = ""
    reply: Incoming | None = None


@dataclass(frozen=True)
class Handed:
    """A submission that reached the coordinator whole, while it listened."""

    run: str
    round: int
    site: str
    body_digest: str


class Line:
    """The transport between a coordinator and hospitals; outlives both.

    handle: (site, header, body) -> answer. counts: how often each fault was played.
    """

    def __init__(
        self,
        sites: Sequence[str],
        handle: Callable[[str, bytes, bytes], tuple[bytes, bytes]],
        clock: Callable[[], float],
        rng: random.Random,
        odds: Odds,
        reaper: Reaper,
    ) -> None:
        self._names, self._handle, self._clock = tuple(sites), handle, clock
        self._rng, self._odds, self._reaper = rng, odds, reaper
        self._back_at = dict.fromkeys(sites, 0.0)
        self._due: list[_Due] = []
        self._sent = 0
        self.counts: collections.Counter[str] = collections.Counter()
        self.handed: list[Handed] = []

    def sites(self) -> Mapping[str, int]:
        return {site: n for n, site in enumerate(self._names) if self._is_there(site)}

    def _is_there(self, site: str) -> bool:
        return self._clock() >= self._back_at[site]

    @property
    def held_bytes(self) -> int:
        """Of messages that are on their way: of no process, though here they lie in this one."""
        bodies = {id(one.message.body): one.message.body for one in self._due}
        bodies |= {id(one.reply.body): one.reply.body for one in self._due if one.reply}
        return sum(map(len, bodies.values()))

    def push(self, messages: Sequence[Outgoing]) -> list[str]:
        if self._rng.random() < self._odds.away:
            self._back_at[self._rng.choice(self._names)] = self._clock() + self._rng.uniform(5, 120)
            self.counts["away"] += 1
        return [self._push(message) for message in messages]

    def _push(self, message: Outgoing) -> str:
        if not self._is_there(message.site):
            return ""
        self._sent += 1
        fate = self._odds.draw(self._rng)
        if fate:
            self.counts[fate] += 1
        identifier = f"m{self._sent}"
        at = self._clock() + self._rng.uniform(0.0, 0.5)
        if fate == "lost_there":
            self._ends(identifier, message, "expired")
        else:
            self._due.append(_Due(at, identifier, message, fate))
        if fate == "twice":
            self._due.append(_Due(at + self._rng.uniform(0.0, 30.0), "", message))
        return identifier

    def _ends(self, identifier: str, message: Outgoing, word: str) -> None:
        """After a while the transport says that no answer will come, or it never does."""
        if self._rng.random() < 0.8:
            at = self._clock() + self._rng.uniform(1.0, 10.0)
            told = Incoming(identifier, message.site, error=word)
            self._due.append(_Due(at, identifier, message, reply=told))

    def pull(self, ids: Sequence[str]) -> list[Incoming]:
        now = self._clock()
        while True:
            asked = [one for one in self._due if one.reply is None and one.at <= now]
            asked = [one for one in asked if self._is_there(one.message.site)]
            if not asked:
                break
            first = min(asked, key=lambda one: one.at)
            self._due.remove(first)
            self._deliver(first)
        wanted = set(ids)
        ready = [x for x in self._due if x.reply and x.at <= now and x.identifier in wanted]
        taken = {id(one) for one in ready}
        self._due = [  # what nobody has asked for in a while is of a coordinator that died
            one
            for one in self._due
            if id(one) not in taken and (one.reply is None or now - one.at < UNASKED_S)
        ]
        self._rng.shuffle(ready)
        return [self._arrived(one) for one in ready]

    def _arrived(self, one: _Due) -> Incoming:
        assert one.reply is not None
        if not one.reply.error and one.fate != "corrupt_back":
            said = protocol_open.readable(one.reply.header)
            if said["kind"] == "train-reply":
                digest = str(said["body_digest"])
                self.handed.append(
                    Handed(str(said["run"]), int(str(said["round"])), one.reply.site, digest)
                )
        return one.reply

    def _deliver(self, one: _Due) -> None:
        message, fate = one.message, one.fate
        header, body = message.header, message.body
        if fate == "corrupt_there":
            header, body = self._flipped(header, body)
        left = self._rng.randrange(24) if fate == "node_killed" else None
        try:
            with self._reaper.armed(left):
                answered = self._handle(message.site, header, body)
        except Killed:
            self._ends(one.identifier, message, "restarted")
            return
        if not one.identifier:  # the second delivery: Flower has no place for a second answer
            return
        if fate == "lost_back":
            self._ends(one.identifier, message, "expired")
            return
        if fate == "corrupt_back":
            answered = self._flipped(*answered)
        wait = {"late": (1.0, 6.0), "very_late": (20.0, 90.0)}.get(fate, (0.0, 0.5))
        at = self._clock() + self._rng.uniform(*wait)
        reply = Incoming(one.identifier, message.site, *answered)
        self._due.append(_Due(at, one.identifier, message, fate, reply))

    def _flipped(self, header: bytes, body: bytes) -> tuple[bytes, bytes]:
        """One bit is wrong, in one of the two."""
        parts = [bytearray(header), bytearray(body)]
        part = parts[1] if body and self._rng.random() < 0.5 else parts[0]
        part[self._rng.randrange(len(part))] ^= 1 << self._rng.randrange(8)
        return bytes(parts[0]), bytes(parts[1])


# ---------------------------------------------------------------- what nodes quantised


@dataclass
class Aside:
    """Keeps what each node quantised, by transcript and site; the last one counts."""

    folder: Path

    def patch(self, monkeypatch) -> None:
        real = client.submit._integers

        def kept(update, transcript, site, noise):
            vector, counts = real(update, transcript, site, noise)
            np.save(self._path(transcript.digest.hex(), site), vector, allow_pickle=False)
            return vector, counts

        self.folder.mkdir()
        monkeypatch.setattr(client.submit, "_integers", kept)

    def _path(self, transcript: str, site: str) -> Path:
        return self.folder / f"{transcript}-{site}.npy"

    def added(self, done: RoundRecord, modulus_bits: int) -> np.ndarray:
        """Plain integers, added and reduced: uint64 (padded,)."""
        vectors = [
            np.load(self._path(done.transcript, one.site), allow_pickle=False).astype(np.uint64)
            for one in done.contributors
        ]
        return np.sum(vectors, axis=0, dtype=np.uint64) % np.uint64(1 << modulus_bits)

    def forget(self) -> None:
        for path in self.folder.iterdir():
            path.unlink()


def unpacked(packed: bytes, modulus_bits: int) -> np.ndarray:
    """Values of m bits each, lowest bit first, read without the code under test: uint64."""
    bits = np.unpackbits(np.frombuffer(packed, np.uint8), bitorder="little")
    places = np.uint64(1) << np.arange(modulus_bits, dtype=np.uint64)
    return (bits.reshape(-1, modulus_bits) * places).sum(axis=1, dtype=np.uint64)


def noise_alone(model, data, plan, training, declared_patients, noise, *rest, **more):
    """In place of private training, which takes half of a round's time: its noise."""
    names = set(mae.trainable_names(model, training.trainable))
    update = {
        name: noise.normal(value.numel(), 0.001).reshape(tuple(value.shape)).astype(np.float32)
        for name, value in model.named_parameters()
        if name in names
    }
    return client.training.TrainingOutcome(update, plan.steps, noise.name)


def dying(reaper: Reaper, monkeypatch) -> None:
    """Every durable write of either side is a place to die at.

    A killed process loses nothing that it has written: so nothing needs to be flushed here.
    """
    real = LedgerStore._append

    def append(self, *arguments, **more):
        reaper.strike()
        done = real(self, *arguments, **more)
        reaper.strike()
        return done

    monkeypatch.setattr(os, "fsync", reaper.strike)
    monkeypatch.setattr(LedgerStore, "_append", append)


# ---------------------------------------------------------------- checks


@dataclass
class Verdict:
    """What was counted over all runs; faults: in words, none if all is well."""

    aggregated: int = 0
    closed: int = 0
    verified: int = 0
    handed: int = 0
    in_a_sum: int = 0
    late: int = 0
    faults: list[str] = field(default_factory=list)

    def check_sums(self, folder: RunFolder, record: RunRecord, aside: Aside) -> None:
        """Every published sum is the sum of what its contributors quantised."""
        key = bytes.fromhex(record.run_key)
        for done in record.rounds:
            if done.outcome != "aggregated":
                self.closed += 1
                continue
            self.aggregated += 1
            self.verified += folder.closing(done.round).state == "verified"
            request = protocol_open.open_train_request(done.request_bytes, key)
            bits = request.sum.modulus_bits
            published = unpacked(folder.summed(done.round), bits)
            if not np.array_equal(published, aside.added(done, bits)):
                self.faults.append(f"{record.run} round {done.round}: a wrong sum")

    def check_updates(self, record: RunRecord, handed: Sequence[Handed]) -> None:
        """Every submission that came whole is in its sum, or the record says why not."""
        rounds = {done.round: done for done in record.rounds}
        late = {(one.site, one.round) for one in record.late}
        for one in {one for one in handed if one.run == record.run}:
            self.handed += 1
            done = rounds.get(one.round)
            where = f"{record.run} round {one.round}, {one.site}"
            if done is None:
                self.faults.append(f"{where}: its round is in no record")
                continue
            counted = {item.site: item.body_digest for item in done.contributors}
            absent = {item.site: item for item in done.absent}
            if counted.get(one.site) == one.body_digest:
                self.in_a_sum += 1
            elif one.site in counted:
                self.faults.append(f"{where}: another submission is in the sum")
            elif (one.site, one.round) in late:
                self.late += 1
            elif done.outcome == "closed":
                if not done.reason:
                    self.faults.append(f"{where}: its round was closed without a reason")
            elif one.site not in absent or absent[one.site].ending not in ("faulty", "refused"):
                ending = absent[one.site].ending if one.site in absent else "nothing"
                self.faults.append(f"{where}: lost, the record says {ending}")

    def check_ledgers(self, made: Federation, record: RunRecord) -> None:
        """The archive holds the beginning of each ledger; what is in sums is booked there once."""
        archive = LedgerArchive(made.coordinator.ledgers)
        for site in made.sites:
            key = signing.load_key_file(made.home(site).identity_key)
            with LedgerStore.open(made.home(site), site, key) as store:
                chain = store.chain
            held = archive.chain(site, signing.public_bytes(key))
            both = zip(held.links, chain.links, strict=False)  # read from both disks, line by line
            if held.length > chain.length or not all(one == other for one, other in both):
                self.faults.append(f"the archive of {site} is not the beginning of its ledger")
            booked = collections.Counter((row.run, row.round) for row in chain.entries(Booked))
            for done in record.rounds:
                for one in done.contributors:
                    answer = chain.answer(record.run, done.round)
                    same = answer is not None and answer.update_digest == one.body_digest
                    once = booked[record.run, done.round] == 1
                    if one.site == site and not (same and once):
                        self.faults.append(
                            f"{record.run} round {done.round}: the ledger of {site} disagrees"
                        )

    def check_models(self, folder: RunFolder, record: RunRecord) -> None:
        """The last model is the one that the record names."""
        try:
            folder.weights(record)
        except PeerFault as error:
            self.faults.append(error.message)


def growth(rss_bytes: Sequence[int], first: int) -> tuple[float, float]:
    """Resident memory by round: its mean (bytes), and how much a fitted line rises from round
    `first` to the last one, over that mean."""
    rounds = np.arange(first, len(rss_bytes))
    taken = np.asarray(rss_bytes[first:], dtype=np.float64)
    slope = np.polyfit(rounds, taken, 1)[0]
    return float(taken.mean()), float(slope * (rounds[-1] - rounds[0]) / taken.mean())
