"""Letters to sites: sent, sent again where the transport loses them, given up in the end.

Every request of the coordinator is a `Letter`. The same bytes go out again; what a site answers
comes back together with the letter that it answers. Nothing here is stored: after a restart the
letters are written again from what is stored, to the same bytes.
"""

from __future__ import annotations

from collections.abc import Callable, Collection, Iterator, Sequence
from dataclasses import dataclass, field

from server.transport import Outgoing, Transport

ACTION = "train"
"""The one entry of the node's app; what is asked stands in the header."""
MAX_PUSHES = 3
"""How often one letter is sent, if the transport loses it."""


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
    """What came back for a letter, as bytes."""

    letter: Letter
    header: bytes = field(repr=False)
    body: bytes = field(repr=False)


@dataclass
class _Sent:
    """unsent: since when the transport has not got it through; None while it is on its way."""

    letter: Letter
    pushes: int = 0
    unsent: float | None = None


class Post:
    """All letters on their way.

    Args:
        gather_s: a letter to a site that is not there is given up after this time.
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
        """What comes for these letters is not looked at any more. None: of all."""
        gone = {
            topic
            for topic in self._by_topic
            if topic[0] in trips and number in (None, topic[1]) and site in (None, topic[2])
        }
        for topic in gone:
            del self._by_topic[topic]
        self._by_id = {key: topic for key, topic in self._by_id.items() if topic not in gone}

    def collect(self) -> Iterator[Answer]:
        """What has arrived. A letter that is forgotten in between is skipped."""
        if not self._by_id:
            return
        for incoming in self._transport.pull(sorted(self._by_id)):
            topic = self._by_id.pop(incoming.id, None)
            sent = self._by_topic.get(topic) if topic is not None else None
            if sent is None:
                continue  # forgotten, or the transport's own confusion
            if incoming.error:
                self._on_fault(sent.letter.site, incoming.error)
                sent.unsent = self._clock() if sent.unsent is None else sent.unsent
            elif incoming.site == sent.letter.site:
                del self._by_topic[sent.letter.topic]
                yield Answer(sent.letter, incoming.header, incoming.body)
            # else it is not from whom it was asked of: the transport's own confusion

    def retry(self) -> list[Letter]:
        """Send again what the transport has lost; the letters that are given up."""
        waiting = [sent for sent in self._by_topic.values() if sent.unsent is not None]
        if not waiting:
            return []
        online = self._transport.sites()
        self._push(
            [
                sent.letter
                for sent in waiting
                if sent.letter.site in online and sent.pushes < MAX_PUSHES
            ]
        )
        lost = []
        for sent in waiting:
            if sent.unsent is None:
                continue
            gone = self._clock() - sent.unsent >= self._gather_s
            if sent.pushes >= MAX_PUSHES or (gone and sent.letter.site not in online):
                del self._by_topic[sent.letter.topic]
                lost.append(sent.letter)
        return lost

    def _push(self, letters: Sequence[Letter]) -> None:
        if not letters:
            return
        messages = [Outgoing(item.site, ACTION, item.header, item.body) for item in letters]
        for letter, identifier in zip(letters, self._transport.push(messages), strict=True):
            sent = self._by_topic[letter.topic]
            sent.pushes += 1
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
