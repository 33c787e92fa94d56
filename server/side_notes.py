"""What a run's record keeps beside its rounds: submissions that came too late, and sites that
cannot work with this software.

Nothing here decides anything about a round; all of it is for `status` and the console.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Literal

from server.checkpoints import Journal
from server.post import Answer
from server.progress import other_version
from server.run_records import LateRecord, as_base64
from shared_model import protocol, protocol_open
from shared_model.errors import OurMistake, PeerFault
from shared_model.protocol import Refusal


class SideNotes:
    """Written to the journal and told, each once.

    tell: kind, site, words. wall_clock: seconds since 1970.
    """

    def __init__(
        self,
        journal: Journal,
        wall_clock: Callable[[], float],
        tell: Callable[[str, str, str], None],
    ) -> None:
        self.journal = journal
        self.wall_clock = wall_clock
        self.tell = tell

    def late(self, answer: Answer) -> None:
        """A submission after its time: nothing is made of it, and it is written down."""
        site, number, record = answer.letter.site, answer.letter.number, self.journal.record
        if any((one.site, one.round) == (site, number) for one in record.late):
            return
        request = protocol.header_digest(answer.letter.header)
        try:
            identity = record.roster.entry(site).identity
            said = protocol_open.open_answer(answer.header, identity, site=site)
        except (PeerFault, OurMistake):
            return  # not the site's word, or the site has left the roster
        asked = (record.run, number, request)
        if isinstance(said, Refusal) or (said.run, said.round, said.request_digest) != asked:
            return
        late = LateRecord(
            site=site, round=number, at=self.wall_clock(), header=as_base64(answer.header)
        )
        self.journal.save(late=(*record.late, late))
        self.tell("late", site, f"its submission to round {number} came too late and is void")

    def not_taken(self, site: str, word: str) -> None:
        """What the transport says of a letter: a bundle that is refused is told."""
        if word == "bundle-refused":
            self.turn_away(site, "bundle")

    def turn_away(
        self, site: str, reason: Literal["bundle", "version"] | None, speaks: int | None = None
    ) -> None:
        """Tell, once, and keep for `status` that a site cannot work with this software, or can."""
        record = self.journal.record
        found = record.turning_away(site, reason, speaks)
        if found == record.turned_away:
            return
        known = {(one.site, one.reason, one.speaks) for one in record.turned_away}
        self.journal.save(turned_away=found)
        if reason is not None and (site, reason, speaks) not in known:
            words = reason if speaks is None else other_version(speaks)
            self.tell("refused", site, words)

    def known_away(self, site: str) -> bool:
        """Whether the site is among those that cannot work with this software."""
        return site in {one.site for one in self.journal.record.turned_away}
