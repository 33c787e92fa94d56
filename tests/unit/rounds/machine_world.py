"""A small world for the coordinator's state machine: nodes that keep their promises, a network that
loses, delays and repeats, and a coordinator that forgets everything that was not stored.

Everything that the machine asks for is checked as it is asked for.
"""

from __future__ import annotations

from collections import Counter
from dataclasses import dataclass, field

from machine_driver import HEAD

from server import rounds
from server.rounds import (
    Accept,
    AcceptAgreement,
    AcceptKey,
    Action,
    Aggregate,
    Aggregated,
    Agree,
    AgreementArrived,
    ClosedRound,
    CloseRound,
    Contribution,
    DeadlinePassed,
    Event,
    FaultyReply,
    KeyArrived,
    NotOpened,
    Open,
    OpenEpoch,
    OpenShares,
    Push,
    PushAgree,
    RefusalArrived,
    ReplyArrived,
    Resumed,
    RoundOpened,
    RunState,
    Settings,
    SharesArrived,
    SiteLost,
    SitesSeen,
    advance,
)
from shared_model.protocol_sum import agreed_digest
from shared_model.protocol_words import TRANSITIONS


class Crash(Exception):
    """The coordinator stops here."""


@dataclass(frozen=True)
class Request:
    """A message to a site. epoch: of the round's transcript, or the one to make a key for."""

    start: int
    site: str
    trip: str
    number: int
    epoch: int
    agreed: str = ""
    survivors: tuple[str, ...] = ()
    signers: tuple[str, ...] = ()
    missing: tuple[str, ...] = ()


@dataclass(frozen=True)
class Answer:
    """What a site sent back."""

    request: Request
    event: Event


@dataclass
class Node:
    """A hospital that keeps the rules of the protocol, and notices if it is asked to break them."""

    world: World
    site: str
    key: int | None = None
    last_epoch: int = 0
    submitted: dict[int, str] = field(default_factory=dict)
    signed: dict[int, str] = field(default_factory=dict)

    def answer(self, request: Request) -> Event:
        run, number = self.world.settings.run, request.number
        if request.trip == "keying":
            if request.epoch > self.last_epoch:
                self.last_epoch = self.key = request.epoch
            if self.key != request.epoch:
                return self.refuse(request, "epoch")
            return KeyArrived(self.site, number)
        if self.key != request.epoch and self.world.settings.masked:
            return self.refuse(request, "epoch")
        if request.trip == "submit":
            if number not in self.submitted and number < max(self.submitted, default=0):
                return self.refuse(request, "conflict")
            digest = self.submitted.setdefault(number, f"u-{self.site}-{number}")
            return ReplyArrived(self.site, run, number, f"q{number}", digest, 1, HEAD)
        assert self.site in request.survivors
        assert number in self.submitted, "asked to agree to a sum that it is not in"
        assert self.signed.get(number, request.agreed) == request.agreed, "two sets of survivors"
        if request.trip == "agree":
            if number < max(self.submitted):
                return self.refuse(request, "late")
            self.signed[number] = request.agreed
            return AgreementArrived(self.site, run, number, request.agreed)
        assert number in self.signed, "asked to open what it did not agree to"
        return SharesArrived(self.site, run, number, frozenset(request.missing))

    def refuse(self, request: Request, reason) -> RefusalArrived:
        return RefusalArrived(self.site, request.trip, request.number, reason)


@dataclass
class Disk:
    """What the coordinator has stored."""

    closed: list[ClosedRound] = field(default_factory=list)
    number: int = 0
    participants: tuple[str, ...] = ()
    replies: dict[str, Contribution] = field(default_factory=dict)
    agree: Agree | None = None
    agreements: dict[str, AgreementArrived] = field(default_factory=dict)
    epoch: int = 0
    keyed: frozenset[str] = frozenset()
    used: int = 0
    resumed_after: int = 0

    def end_round(self, *, aggregated: bool, barred: frozenset[str] = frozenset()) -> None:
        self.closed.append(ClosedRound(self.number, aggregated, barred=barred))
        self.number, self.participants, self.replies = 0, (), {}
        self.agree, self.agreements = None, {}


class World:
    """The coordinator's process, its disk, the network and the nodes."""

    def __init__(self, settings: Settings) -> None:
        self.settings = settings
        self.nodes = {site: Node(self, site) for site in settings.sites}
        self.disk = Disk()
        self.state = RunState(settings)
        self.network: list[Request | Answer] = []
        self.now = 0.0
        self.starts = 1
        self.ends: Counter[int] = Counter()
        self.survivors_of: dict[int, set[str]] = {}
        self.missing: frozenset[str] = frozenset()
        self.crash_after: int | None = None
        self.cheat: str | None = None
        self.close_reasons: list[str] = []
        self.taken: set[tuple[str, str, str]] = set()

    # ------------------------------------------------------------ coordinator

    def feed(self, event: Event) -> None:
        """Tell the machine, check the step, carry out what it asks for; crash where planned."""
        try:
            self._feed(event)
        except Crash:
            self.restart()

    def _feed(self, event: Event) -> None:
        before = self.state
        self.state, actions = advance(before, event)
        name = type(event).__name__
        legal = TRANSITIONS[before.phase].get(name)
        assert self.state.phase in (legal or {before.phase})
        if legal:
            self.taken.add((before.phase, name, self.state.phase))
        for action in actions:
            if self.crash_after is not None:
                if self.crash_after == 0:
                    self.crash_after = None
                    raise Crash
                self.crash_after -= 1
            self.do(action, event)

    def do(self, action: Action, event: Event) -> None:
        disk, settings = self.disk, self.settings
        match action:
            case OpenEpoch():
                assert disk.number == 0, "an epoch in the middle of a round"
                disk.epoch, disk.keyed, disk.used = disk.epoch + 1, frozenset(), 0
                self.send("keying", action.number, action.sites)
            case AcceptKey():
                assert self.nodes[action.site].last_epoch >= disk.epoch
                disk.keyed |= {action.site}
            case Open():
                assert action.number > max((item.number for item in disk.closed), default=0)
                assert len(action.participants) >= settings.needed
                assert set(action.participants) <= disk.keyed or not settings.masked
                assert not set(action.participants) & self.state.barred
                disk.number, disk.participants = action.number, action.participants
                disk.used += 1
                assert disk.used <= settings.epoch_rounds or not settings.masked
                self.missing = frozenset()
                self._feed(RoundOpened(self.now, f"q{action.number}"))
            case Push():
                waiting = [site for site in action.sites if site not in disk.replies]
                self.send("submit", action.number, waiting)
            case Accept():
                site = action.contribution.site
                assert site in disk.participants
                assert self.nodes[site].submitted[action.number] == action.contribution.submission
                disk.replies[site] = action.contribution
            case Agree():
                assert disk.agree is None, "a second set of survivors"
                assert disk.number == action.number
                assert settings.masked
                assert len(action.survivors) >= settings.needed
                assert set(action.survivors) == set(disk.replies)
                assert set(action.survivors) | set(action.ended) == set(disk.participants)
                disk.agree = action
            case PushAgree():
                self.check_survivors(action.number)
                waiting = [site for site in action.sites if site not in disk.agreements]
                self.send("agree", action.number, waiting)
            case AcceptAgreement():
                assert isinstance(event, AgreementArrived)
                assert self.nodes[action.site].signed[action.number] == event.agreed
                disk.agreements[action.site] = event
            case OpenShares():
                self.check_open(action)
                self.send("open", action.number, action.sites, action)
            case Aggregate():
                self.check_aggregate(action)
                self.ends[action.number] += 1
                if self.cheat in self.state.current.survivors:
                    disk.end_round(aggregated=False, barred=frozenset({self.cheat}))
                    self._feed(NotOpened(action.number, self.cheat))
                else:
                    disk.end_round(aggregated=True)
                    self._feed(Aggregated(action.number, f"m{action.number}"))
            case CloseRound():
                self.close_reasons.append(action.reason)
                if disk.number == action.number:  # else NotOpened has stored it
                    self.ends[action.number] += 1
                    disk.end_round(aggregated=False, barred=frozenset(action.barred))

    def check_survivors(self, number: int) -> None:
        """What is sent names the stored U, and never another."""
        agree, current = self.disk.agree, self.state.current
        assert agree is not None
        assert (agree.number, agree.survivors) == (number, current.survivors)
        assert current.agreed == agreed_digest(agree.survivors, agree.submissions, current.heads)
        self.survivors_of.setdefault(number, set()).add(current.agreed)
        assert len(self.survivors_of[number]) == 1

    def check_open(self, action: OpenShares) -> None:
        self.check_survivors(action.number)
        assert len(set(action.signers)) == len(action.signers) >= self.settings.threshold
        assert set(action.signers) <= set(self.disk.agreements)
        assert set(action.sites) <= set(action.signers)
        assert set(action.missing) <= set(self.state.current.survivors)
        assert self.missing <= set(action.missing), "`missing` shrank"
        self.missing = frozenset(action.missing)

    def check_aggregate(self, action: Aggregate) -> None:
        """Every seed that hides something in the sum can be known."""
        sites = [item.site for item in action.contributions]
        assert sites == sorted(set(sites))
        assert len(sites) >= self.settings.needed
        assert not set(sites) & set(action.ended)
        assert set(sites) | set(action.ended) == set(self.disk.participants)
        if not self.settings.masked:
            return
        assert tuple(sites) == self.disk.agree.survivors
        opened = self.state.current.opened
        assert set(action.openers) == set(opened) <= set(self.disk.agreements)
        assert len(opened) >= self.settings.threshold
        for dealer in sites:
            holders = [item for item in opened.values() if dealer not in item.unreadable]
            assert len(holders) >= self.settings.threshold
            if self.state.current.dropped and dealer not in opened:
                covering = [item for item in holders if dealer in item.missing]
                assert len(covering) >= self.settings.threshold

    def restart(self) -> None:
        """A new process: only the disk is left."""
        self.starts += 1
        self.missing = frozenset()
        self.state = rounds.replay(
            self.settings, self.disk.closed, resumed_after=self.disk.resumed_after
        )
        disk = self.disk
        if not disk.number:
            return
        agreed = tuple(disk.replies[s] for s in disk.agree.survivors) if disk.agree else ()
        self.state = rounds.reopened(
            self.state,
            disk.number,
            disk.participants,
            agreed=agreed,
            ended=disk.agree.ended if disk.agree else {},
        )
        number, epoch = disk.number, self.starts
        self.feed(RoundOpened(self.now, f"q{number}"))
        stored: list[Event] = list(disk.agreements.values())
        if not agreed:
            stored = [
                ReplyArrived(
                    c.site, self.settings.run, number, f"q{number}", c.submission, 1, c.ledger
                )
                for c in disk.replies.values()
            ]
        for event in stored:
            if (self.starts, disk.number) == (epoch, number):
                self.feed(event)

    def resume(self) -> None:
        """The operator has read why the run is paused."""
        self.disk.resumed_after = max((item.number for item in self.disk.closed), default=0)
        self.feed(Resumed())

    # ------------------------------------------------------------ network

    def send(self, trip, number, sites, opening: OpenShares | None = None) -> None:
        current = self.state.current
        for site in sites:
            self.network.append(
                Request(
                    self.starts,
                    site,
                    trip,
                    number,
                    self.disk.epoch,
                    current.agreed if trip in ("agree", "open") else "",
                    current.survivors if trip in ("agree", "open") else (),
                    opening.signers if opening else (),
                    opening.missing if opening else (),
                )
            )

    def deliver(self, index: int, *, keep: bool = False) -> None:
        """A message arrives; with `keep` it will arrive once more."""
        message = self.network[index] if keep else self.network.pop(index)
        if isinstance(message, Request):
            self.network.append(Answer(message, self.nodes[message.site].answer(message)))
            return
        if message.request.trip == "keying" and message.request.epoch != self.disk.epoch:
            return  # a key of another epoch; the loop does not take it for one of this
        self.feed(message.event)
        if not keep:
            self.had_its_turn(message.request)

    def garble(self, index: int) -> None:
        message = self.network.pop(index)
        request = message.request if isinstance(message, Answer) else message
        self.feed(FaultyReply(request.site, request.trip, request.number))

    def lose(self, index: int) -> None:
        message = self.network.pop(index)
        request = message.request if isinstance(message, Answer) else message
        self.feed(SiteLost(request.site, request.trip, request.number))

    def refuse(self, index: int, reason) -> None:
        """The site refuses, if it has not answered yet."""
        message = self.network[index]
        if isinstance(message, Request):
            refusal = self.nodes[message.site].refuse(message, reason)
            self.network[index] = Answer(message, refusal)

    def go_on(self) -> None:
        """What happens if nothing goes wrong: the next message arrives, or time passes."""
        if self.network:
            self.deliver(0)
        else:
            self.now += 25.0
            self.look(frozenset(self.settings.sites))
        self.feed(DeadlinePassed(self.now))

    def had_its_turn(self, request: Request) -> None:
        """As the loop does: an answer that did not count ends the site's turn."""
        here = request.start == self.starts and request.trip == self.state.phase
        if here and request.site in self.state.awaited:
            self.feed(SiteLost(request.site, request.trip, request.number))

    def look(self, sites: frozenset[str]) -> None:
        self.feed(SitesSeen(self.now, sites, self.disk.keyed, self.disk.used))
