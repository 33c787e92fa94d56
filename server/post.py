"""Letters to sites: sent, and sent again where the transport loses them, while they are waited for.

Every request of the coordinator is a `Letter`. The same bytes go out again; what a site answers
comes back together with the letter that it answers. Nothing here is stored: after a restart the
letters are written again from what is stored, to the same bytes.
"""

from __future__ import annotations

from collections.abc import Callable, Collection, Iterator, Sequence
from dataclasses import dataclass, field, replace

from server.transport import Outgoing, Transport

ACTION = "train"
"""The one entry of the node's app; what is asked stands in the header."""
MAX_PUSHES = 3
"""How often one letter is sent at once after the transport has lost it; then every `AGAIN_S`. A
letter outside a round is given up instead."""
AGAIN_S = 30.0
MAX_FAILURES = 10
"""How often a node may answer one letter of a round with a crash, or with what cannot be read."""
ROUND_TRIPS = frozenset({"submit", "agree", "open"})
"""What a site has paid for: its letters are sent until the round does not wait any more."""
LATE_KEPT = 256
"""Letters whose answers are still taken, as late ones, after nobody waits for them."""
LINE = frozenset({"unreachable", "expired", "restarted"})
"""Words of the transport that say nothing against the node."""


@dataclass(frozen=True)
class Letter:
    """One request to one site.

    trip: what it belongs to ("keying", "submit", "agree", "open", "close", "verify"); number: of
    the round, or of the keying; attempt: K of the K-th asking of trip "open".
    """

    site: str
    trip: str
    number: int
    header: bytes = field(repr=False)
    body: bytes = field(repr=False)
    attempt: int = 0

    @property
    def topic(self) -> tuple[str, int, str, int]:
        """What no two letters on their way have in common."""
        return (self.trip, self.number, self.site, self.attempt)


@dataclass(frozen=True)
class Answer:
    """What came back for a letter, as bytes. late: nobody waits for it any more."""

    letter: Letter
    header: bytes = field(repr=False)
    body: bytes = field(repr=False)
    late: bool = False


@dataclass
class _Sent:
    """One letter on its way.

    unsent: since when the transport has not got it through; None while it is on its way. away:
    since when its site is not there. last: when it was sent last.
    """

    letter: Letter
    pushes: int = 0
    failures: int = 0
    unsent: float | None = None
    away: float | None = None
    last: float = 0.0

    @property
    def patient(self) -> bool:
        return self.letter.trip in ROUND_TRIPS


class Post:
    """All letters on their way.

    Args:
        gather_s: a letter outside a round to a site that is not there is given up after this time.
        on_fault: called with the site and the transport's word for why a letter got no answer.
    """

    def __init__(
        self,
        transport: Transport,
        clock: Callable[[], float],
        gather_s: float,
        on_fault: Callable[[str, str], None] = lambda site, word: None,
    ) -> None:
        self._transport = transport
        self._clock = clock
        self._gather_s = gather_s
        self._on_fault = on_fault
        self._by_topic: dict[tuple[str, int, str, int], _Sent] = {}
        self._by_id: dict[str, tuple[str, int, str, int]] = {}
        self._late: dict[str, Letter] = {}

    def send(self, letters: Sequence[Letter]) -> None:
        """Send each once now. One that is on its way already is left alone."""
        fresh = [letter for letter in letters if letter.topic not in self._by_topic]
        for letter in fresh:
            self._by_topic[letter.topic] = _Sent(letter)
        self._push(fresh)

    def awaits(self, trip: str, number: int, site: str) -> bool:
        """Whether an answer of this site may still come."""
        return any(topic[:3] == (trip, number, site) for topic in self._by_topic)

    def forget(
        self, trips: Collection[str], number: int | None = None, site: str | None = None
    ) -> None:
        """What comes for these letters is not waited for any more. None: of all.

        Submissions that come for them are still told of, as late.
        """
        gone = {
            topic
            for topic in self._by_topic
            if topic[0] in trips and number in (None, topic[1]) and site in (None, topic[2])
        }
        for key, topic in self._by_id.items():
            if topic in gone and topic[0] == "submit":
                self._late[key] = replace(self._by_topic[topic].letter, body=b"")
        for key in list(self._late)[:-LATE_KEPT]:
            del self._late[key]
        for topic in gone:
            del self._by_topic[topic]
        self._by_id = {key: topic for key, topic in self._by_id.items() if topic not in gone}

    def collect(self) -> Iterator[Answer]:
        """What has arrived. A letter that is forgotten in between is skipped, or late."""
        if not self._by_id and not self._late:
            return
        for incoming in self._transport.pull(sorted((*self._by_id, *self._late))):
            late = self._late.pop(incoming.id, None)
            if late is not None:
                if not incoming.error and incoming.site == late.site:
                    yield Answer(late, incoming.header, incoming.body, late=True)
                continue
            topic = self._by_id.pop(incoming.id, None)
            sent = self._by_topic.get(topic) if topic is not None else None
            if sent is None:
                continue  # forgotten, or the transport's own confusion
            if incoming.error:
                self._on_fault(sent.letter.site, incoming.error)
                sent.unsent = self._clock() if sent.unsent is None else sent.unsent
                sent.failures += incoming.error not in LINE
            elif incoming.site == sent.letter.site:
                del self._by_topic[sent.letter.topic]
                yield Answer(sent.letter, incoming.header, incoming.body)
            # else it is not from whom it was asked of: the transport's own confusion

    def retry(self) -> list[Letter]:
        """Send again what the transport has lost; the letters that are given up."""
        waiting = [sent for sent in self._by_topic.values() if sent.unsent is not None]
        if not waiting and all(sent.patient for sent in self._by_topic.values()):
            return []
        now, online = self._clock(), self._transport.sites()
        for sent in self._by_topic.values():
            if sent.letter.site in online:
                sent.away = None
            elif sent.away is None:
                sent.away = now if sent.unsent is None else sent.unsent
        lost = [sent.letter for sent in self._by_topic.values() if self._given_up(sent, now)]
        for letter in lost:
            self._drop(letter.topic)
        self._push(
            [
                sent.letter
                for sent in self._by_topic.values()
                if sent.unsent is not None
                and sent.away is None
                and (sent.pushes < MAX_PUSHES or now - sent.last >= AGAIN_S)
            ]
        )
        return lost

    def _given_up(self, sent: _Sent, now: float) -> bool:
        if sent.patient:
            return sent.failures >= MAX_FAILURES
        gone = sent.away is not None and now - sent.away >= self._gather_s
        return gone or (sent.unsent is not None and sent.pushes >= MAX_PUSHES)

    def _drop(self, topic: tuple[str, int, str, int]) -> None:
        del self._by_topic[topic]
        self._by_id = {key: other for key, other in self._by_id.items() if other != topic}

    def _push(self, letters: Sequence[Letter]) -> None:
        if not letters:
            return
        messages = [Outgoing(item.site, ACTION, item.header, item.body) for item in letters]
        for letter, identifier in zip(letters, self._transport.push(messages), strict=True):
            sent = self._by_topic[letter.topic]
            sent.pushes += 1
            sent.last = self._clock()
            if identifier:
                sent.unsent = None
                self._by_id[identifier] = letter.topic
            elif sent.unsent is None:
                sent.unsent = self._clock()


class Pace:
    """How long to wait between two looks at the transport: shortly after something came, then
    longer and longer up to `poll_s`, for most trips are over in a moment."""

    def __init__(self, poll_s: float, wait: Callable[[float], None]) -> None:
        self._poll_s = poll_s
        self._wait = wait
        self._next_s = poll_s / 16.0

    def after(self, moved: bool) -> None:
        """Wait if nothing happened at the last look."""
        if moved:
            self._next_s = self._poll_s / 16.0
            return
        self._wait(self._next_s)
        self._next_s = min(2.0 * self._next_s, self._poll_s)
