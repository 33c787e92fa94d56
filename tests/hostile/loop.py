"""The real coordinator's loop over real nodes, with a network that loses and peers that lie.

    result = play(world, rounds=1, fate=..., lie=...)
    result.record      what the coordinator keeps; result.sums[n]: the packed sum of round n

The adversary hears everything that reaches the coordinator, as an honest but curious one would.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any

import numpy as np
from consortium import NORM_BOUND, PLAN, ROOT_KEY, RUN, RUN_KEY, Consortium, key_of
from ledger_stand_ins import rebooked

from server import rounds as machine
from server.checkpoints import RunFolder
from server.coordinate import begin, run
from server.run_config import RunConfig
from server.run_records import RoundRecord, RunRecord
from server.run_start import StartingModel, closed_round, settings_of
from server.transport import Incoming, Outgoing
from shared_model import canonical, protocol_open, signing
from shared_model.config import ModelConfig
from shared_model.ledger import NOTHING
from shared_model.protocol import LedgerNote
from shared_model.secure_sum.numbers import unpack

MODEL = ModelConfig("tiny", 8, 2, 1, 1, 8, 1)

Fate = Callable[[str, str, int], str]
"""(site, kind of request, round) -> what becomes of it: "" arrives and is answered; "unsent" the
site never hears it; "lost" it hears it and its answer is lost; "mute" as "unsent", and not even
the transport says so; "late 70" it answers at once, and its answer arrives 70 seconds later."""


@dataclass(frozen=True)
class Told:
    """What a site was asked, and its true answer: what a liar makes its lie from."""

    site: str
    kind: str
    round: int
    asked: bytes = field(repr=False)
    header: bytes = field(repr=False)
    body: bytes = field(repr=False)

    @property
    def said(self) -> dict[str, Any]:
        """The true answer as plain values."""
        return protocol_open.readable(self.header)


Lie = Callable[[Told], tuple[bytes, bytes] | None]
"""What arrives instead of the true answer; None: the true answer."""


def all_arrives(site: str, kind: str, number: int) -> str:
    return ""


def no_lies(told: Told) -> None:
    return None


def signed_anew(told: Told, body: bytes | None = None, **changes: Any) -> tuple[bytes, bytes]:
    """The site's answer with fields or the body changed, signed with its own key."""
    said = told.said
    if body is not None:
        changes["body_digest"] = canonical.digest(body)
        if said["kind"] == "train-reply":  # a liar's ledger is in order
            known = {
                item["site"]: item["head"]
                for item in protocol_open.readable(told.asked)["ledger_heads"]
            }
            note = LedgerNote.model_validate_json(canonical.encode(said["ledger"]))
            made = rebooked(
                note, key_of(told.site), changes["body_digest"], known.get(told.site, NOTHING)
            )
            changes["ledger"] = made.model_dump(mode="json")
    data = canonical.encode({**said, **changes})
    signature = signing.sign(key_of(told.site), str(said["kind"]), data)
    return signature + data, told.body if body is None else body


@dataclass
class Clock:
    """Seconds that pass only when somebody waits."""

    now: float = 1000.0

    def __call__(self) -> float:
        return self.now

    def wait(self, seconds: float) -> None:
        self.now += seconds


@dataclass
class Network:
    """A transport to the hospitals of a world."""

    world: Consortium
    clock: Clock
    fate: Fate
    lie: Lie
    liars: Sequence[str] = ()
    waiting: dict[str, tuple[Outgoing, str, str, int]] = field(default_factory=dict)
    sent: int = 0
    gone: set[str] = field(default_factory=set)
    """Sites that are no longer connected."""

    def sites(self) -> Mapping[str, int]:
        return {site: n for n, site in enumerate(self.world.names) if site not in self.gone}

    def push(self, messages: Sequence[Outgoing]) -> list[str]:
        ids = []
        for message in messages:
            said = protocol_open.readable(message.header)
            kind, number = str(said["kind"]), int(said.get("round", 0))
            self.sent += 1
            identifier = f"m{self.sent}" if message.site not in self.gone else ""
            if identifier:
                fate = self.fate(message.site, kind, number)
                self.waiting[identifier] = (message, fate, kind, number)
            ids.append(identifier)
        return ids

    def pull(self, ids: Sequence[str]) -> list[Incoming]:
        arrived = []
        for identifier in [item for item in ids if item in self.waiting]:
            message, fate, kind, number = self.waiting[identifier]
            if fate.startswith("late "):
                arrival = self.clock.now + float(fate.removeprefix("late "))
                fate = f"at {arrival}"
                self.waiting[identifier] = (message, fate, kind, number)
            if fate == "mute" or (
                fate.startswith("at ") and self.clock.now < float(fate.removeprefix("at "))
            ):
                continue
            del self.waiting[identifier]
            if fate == "unsent":
                arrived.append(Incoming(identifier, message.site, error="unreachable"))
                continue
            reply = self.world.hospitals[message.site].answer(message.header, message.body)
            if fate == "lost":
                arrived.append(Incoming(identifier, message.site, error="unreachable"))
                continue
            own = message.site in self.liars
            self.world.adversary.hear(message.site, message.header, message.body, reply, own)
            told = self.lie(Told(message.site, kind, number, message.header, *reply))
            arrived.append(Incoming(identifier, message.site, *(told or reply)))
        return arrived


@dataclass(frozen=True)
class Played:
    """How a run went."""

    world: Consortium
    folder: RunFolder
    record: RunRecord

    def round(self, number: int = 1) -> RoundRecord:
        return self.record.rounds[number - 1]

    def named(self, number: int = 1) -> set[str]:
        """Sites that are named for something in a round."""
        return {item.site for item in self.round(number).incidents if not item.about}

    def accused(self, number: int = 1) -> set[tuple[str, str]]:
        """(who says it, of whom): what sites say about dealers in a round."""
        return {(one.site, one.about) for one in self.round(number).incidents if one.about}

    def counted(self) -> set[str]:
        """Sites against which anything is counted at the next start."""
        settings = settings_of(self.record.config, self.record.roster)
        closed = [closed_round(item) for item in self.record.rounds]
        return set(machine.replay(settings, closed).incidents)


def play(
    world: Consortium,
    *,
    rounds: int = 1,
    fate: Fate = all_arrives,
    lie: Lie = no_lies,
    liars: Sequence[str] = (),
    heard: list[str] | None = None,
    minimum_contributors: int = 3,
    seeded: bool = True,
    **changes: object,
) -> Played:
    """A run of the real loop, until it is finished or paused.

    liars: sites that collude with whoever reads along: their keys are the adversary's. heard: is
    filled with the sites that the operator is told of, also outside of rounds. seeded: the
    coordinator takes the seeded noise of these hospitals.
    """
    folder = RunFolder(world.root / "runs" / RUN)
    config = RunConfig.from_dict(
        {
            "run": RUN,
            "preset": "tiny",
            "rounds": rounds,
            "privacy": PLAN.as_dict(),
            "minimum_contributors": minimum_contributors,
            "update_norm_bound": NORM_BOUND,
            "deadline_s": 60.0,
            "gather_s": 5.0,
            "patience_s": 100.0,
            "trip_s": 30.0,
            "rekey_s": 10.0,
            "poll_s": 1.0,
            **changes,
        }
    )
    model = StartingModel(MODEL, world.model, ("head",))
    root = signing.public_bytes(ROOT_KEY)
    begin(folder, config, world.signed.to_bytes(), root, RUN_KEY, model)
    clock = Clock()
    network = Network(world, clock, fate, lie, liars)
    record = run(
        network,
        folder,
        RUN_KEY,
        clock=clock,
        wall_clock=clock,
        wait=clock.wait,
        non_private_for_tests=seeded,
        on_progress=lambda item: (
            None if heard is None or item.kind != "incident" else heard.append(item.site)
        ),
    )
    for site in liars:
        epochs = world.node(site).epochs
        world.adversary.private_keys.append(epochs.key(epochs.held, world.signed.roster.digest))
    return Played(world, folder, record)


def assert_exact_or_closed(played: Played, number: int) -> bool:
    """A round's sum is the survivors' vectors added, to the bit, and nothing else is in clear; or
    it was closed and nothing is. Returns whether it was summed."""
    world, item = played.world, played.round(number)
    learned = world.adversary.learned(world.truth, number=number)
    if item.outcome == "closed":
        assert learned == []
        return False
    transcript = next(
        seen.transcript
        for seen in world.adversary.targets()
        if seen.transcript.digest.hex() == item.transcript
    )
    numbers = transcript.numbers
    found = unpack(played.folder.summed(number), numbers.modulus_bits, numbers.padded)
    assert tuple(part.site for part in item.contributors) == item.survivors
    wanted = sum(world.truth[part.body_digest] for part in item.contributors)
    assert np.array_equal(found, wanted & np.uint32((1 << numbers.modulus_bits) - 1))
    assert learned == [world.adversary.places(*item.survivors, number=number)]
    return True
