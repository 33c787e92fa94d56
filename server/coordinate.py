"""The coordinator's loop: sites -> keys -> submissions -> agreements -> openings -> sum -> model.

Used alike by the deployed ServerApp, by simulations and by tests: what differs is the `Transport`.

    folder = RunFolder(home.run_folder("spring"))
    begin(folder, config, roster, root_key, run_key, starting_model(config))       # once
    record = run(transport, folder, run_key, EpochBook(path), on_progress=print)   # after any stop

`run` continues whatever the folder holds: a round that was open is continued with the very same
requests (a node that had answered sends its stored answer again), answers that had been stored are
not asked again. Once the survivors of a round are chosen it goes on with these or is closed for
good. `run` returns when the run is finished or paused, or when `stop()` says so; the record says
which. A run that is finished is continued too: sums that are not verified are asked about again.

What a restart costs: nothing if the round was open; a round that cannot be continued is closed and
the next number is used. What sites had spent on it stays spent.
"""

from __future__ import annotations

import time
from collections import deque
from collections.abc import Callable

from cryptography.hazmat.primitives.asymmetric.ed25519 import Ed25519PrivateKey

from server import epochs, rounds
from server.answers import event_of, key_event, trip_of
from server.checkpoints import Journal, RunFolder
from server.closing import Closings
from server.desk import NOT_CONTINUED, abandoned
from server.epochs import Epoch, EpochBook
from server.ledgers import LedgerArchive
from server.post import Answer, Letter, Pace, Post
from server.progress import PAUSES, UNMASKED, Progress, counts, spare
from server.restart import taken_up
from server.round_work import TRIPS, RoundWork
from server.run_records import RunRecord, from_base64
from server.run_start import (
    StartingModel,
    begin,
    plan_of,
    refuse_bare,
    replayed,
    settings_of,
    starting_model,
    with_roster,
)
from server.side_notes import SideNotes
from server.transport import Transport
from shared_model import protocol, signing
from shared_model import weights as weights_io
from shared_model.errors import OurMistake, PeerFault, Refused
from shared_model.ledger_note import LedgerMismatch
from shared_model.protocol import EpochKeyEntry
from shared_model.protocol_open import OtherVersion

__all__ = ["UNMASKED", "Progress", "StartingModel", "begin", "run", "settings_of", "starting_model"]


def run(
    transport: Transport,
    folder: RunFolder,
    key: Ed25519PrivateKey,
    book: EpochBook | None = None,
    ledgers: LedgerArchive | None = None,
    *,
    roster: Callable[[], bytes | None] = lambda: None,
    clock: Callable[[], float] = time.monotonic,
    wall_clock: Callable[[], float] = time.time,
    wait: Callable[[float], None] = time.sleep,
    stop: Callable[[], bool] = lambda: False,
    on_progress: Callable[[Progress], None] = lambda _: None,
    resume_paused: bool = False,
    non_private_for_tests: bool = False,
) -> RunRecord:
    """Continue the run in `folder` until it is finished or paused, or `stop()` is true.

    Args:
        book: the coordinator's epochs; by default a book of this run alone.
        ledgers: what is held of the hospitals' privacy ledgers; by default of this run alone.
        roster: the newest signed roster that the operator has imported; looked at between rounds.
        clock: seconds, monotonic; deadlines. wall_clock: seconds since 1970; for the record and
            the numbers of epochs.
        wait: sleeps between two looks at the transport.
        resume_paused: the operator has read why rounds failed and wants to go on.
        non_private_for_tests: take replies without private noise also under masks; no release can
            be made of such a run.

    Raises:
        Refused: another coordinator holds the folder ("busy"), the run is paused after failed
            rounds ("paused"), or a roster has the version of another one ("roster").
        PeerFault: of "coordinator"; a roster that the run's root key did not sign.
        OurMistake: the folder is damaged, or the key is not the one that the run began with.
    """
    with folder.locked():
        journal = Journal(folder, folder.record())
        if signing.public_bytes(key).hex() != journal.record.run_key:
            raise OurMistake("This is not the run key that the run began with.")
        config = journal.record.config
        if not non_private_for_tests:
            refuse_bare(config)
        epochs_of_run = book or EpochBook(folder.path / "epochs.json")
        archive = ledgers or LedgerArchive(folder.path / "ledgers")
        loop = _Loop(
            transport, journal, key, epochs_of_run, archive, clock, wall_clock, on_progress
        )
        loop.imported = roster
        loop.private = not non_private_for_tests
        loop.restore(resume_paused)
        paused_before = loop.state.phase == "paused"
        pace = Pace(journal.record.config.poll_s, wait)
        while loop.state.phase not in ("finished", "paused") and not stop():
            pace.after(loop.turn())
        loop.finish(pace, stop)
        if paused_before:
            raise Refused(
                f"Run {journal.record.run} is paused: {loop.state.failed_in_row} rounds in a row "
                "failed.",
                reason="paused",
                do="Read the last rounds in the run's record, then start with resume.",
            )
        return journal.record


class _Loop:
    """Carries out the machine's actions; owns nothing that is not in the folder or replaceable."""

    def __init__(
        self,
        transport: Transport,
        journal: Journal,
        key: Ed25519PrivateKey,
        book: EpochBook,
        ledgers: LedgerArchive,
        clock: Callable[[], float],
        wall_clock: Callable[[], float],
        on_progress: Callable[[Progress], None],
    ) -> None:
        config, roster = journal.record.config, journal.record.roster
        self.transport = transport
        self.journal = journal
        self.key = key
        self.book = book
        self.clock = clock
        self.wall_clock = wall_clock
        self.on_progress = on_progress
        self.state = rounds.RunState(settings_of(config, roster))
        self.epoch: Epoch | None = book.of(roster, config.run)
        self.ledgers = ledgers
        self.notes = SideNotes(journal, wall_clock, self._tell)
        self.post = Post(transport, clock, config.gather_s, self.notes.not_taken)
        times = config.gather_s, self.state.settings.keying_s
        self.closings = Closings(journal.folder, key, self.post, clock, *times, self._tell)
        self.work = RoundWork(
            journal, key, self.post, self.closings, wall_clock, self._tell, ledgers
        )
        self.imported: Callable[[], bytes | None] = lambda: None
        self.private = True
        self.seen_roster: bytes | None = None
        self.keys: dict[str, EpochKeyEntry] = {}
        self.events: deque[rounds.Event] = deque()

    # ------------------------------------------------------------ start and end

    def restore(self, resume_paused: bool) -> None:
        """Bring machine and model to where the folder stands."""
        record = self.journal.record
        state = replayed(record)
        if resume_paused and state.phase != "finished":
            last = record.rounds[-1].round if record.rounds else 0
            record = record.model_copy(update={"resumed_after": last})
            state = replayed(record)
        self.state = state
        self.closings.restore(record)
        stored = self.journal.folder.stored_open_round(record)
        if state.phase == "finished" and record.state != "finished":
            self.journal.save(state="finished", pause="")
        if state.phase in ("finished", "paused"):
            return
        self.journal.save(
            resumed_after=record.resumed_after, starts=record.starts + 1, state="running", pause=""
        )
        self.work.weights = self.journal.folder.standing(record)
        self.work.tell_if_diverged()
        if not state.settings.masked:
            self._tell("unmasked", detail=UNMASKED)
        if stored is not None:
            self._continue(stored.number, stored.request)

    def _continue(self, number: int, header: bytes) -> None:
        """Take up a round that was open, with the same requests and the answers that had come."""
        record, files = self.journal.record, self.journal.folder.round(number)
        body = weights_io.to_bytes(self.work.weights)
        found = taken_up(files, record, self.key, header, body, self.wall_clock(), self.ledgers)
        if found is None:
            run_key = signing.public_bytes(self.key)
            ended = abandoned(files, record, header, run_key, self.wall_clock())
            self.journal.save(rounds=(*record.rounds, ended))
            files.forget_open()
            files.forget_submissions()
            self.journal.folder.forget_sum(number)
            self.state = replayed(self.journal.record)
            self._tell("closed", detail=NOT_CONTINUED)
            return
        self.work.take_up(found.desk, found.shares)
        self.state = rounds.reopened(
            self.state, number, found.desk.request.sites, agreed=found.agreed, ended=found.ended
        )
        self._tell("continued", detail=f"{len(files.submitted)} submissions were stored")
        self._step(rounds.RoundOpened(self.clock(), found.desk.digest))
        for answer in found.answers:
            self._receive(answer)

    def finish(self, pace: Pace, stop: Callable[[], bool]) -> None:
        """At the end, wait for the sites to verify what is not verified yet: as long as for
        submissions, but in a run that paused only as long as for new keys."""
        phase, config = self.state.phase, self.journal.record.config
        if phase not in ("finished", "paused"):
            return
        end = self.clock() + (
            config.deadline_s if phase == "finished" else self.state.settings.keying_s
        )
        self.closings.turn(self.transport.sites)
        while self.closings.waiting and self.clock() < end and not stop():
            pace.after(self._mail())
            self.closings.turn(self.transport.sites)
        for number, words in self.closings.unverified.items():
            self._tell("unverified", detail=f"round {number}: {words}")
        if phase == "finished":
            self._tell("finished")

    # ------------------------------------------------------------ one turn

    def turn(self) -> bool:
        """Look once at the transport; True if something happened."""
        before = self.state
        moved = self._mail()
        if self.state.phase == "waiting":
            self._adopt()
            self._gather()
        elif self.state.phase not in ("finished", "paused"):
            self._step(rounds.DeadlinePassed(self.clock()))
        changed = self.state != before
        if self.state.phase == "submit" or (
            self.state.phase in ("waiting", "keying") and not changed
        ):  # else sites are about to be asked for something that a round waits for
            self.closings.turn(self.transport.sites)
        return moved or changed

    def _gather(self) -> None:
        before = self.state.waiting_since
        names = self.journal.record.roster.names
        sites = frozenset(self.transport.sites()) & set(names)
        keyed = self.epoch.sites if self.epoch is not None else frozenset()
        used = self.epoch.used if self.epoch is not None else 0
        self._step(rounds.SitesSeen(self.clock(), sites, keyed, used))
        if self.state.phase == "waiting" and before is None:
            needed = spare(len(names), self.state.settings.needed)
            self._tell("waiting", detail=f"{len(sites)} of {len(names)} sites are there; {needed}")

    def _adopt(self) -> None:
        """Go over to a newer roster that the operator has imported. Between rounds only."""
        data = self.imported()
        if data is None or data == self.seen_roster:
            return
        record = self.journal.record
        held, newer = with_roster(record, data)
        self.seen_roster = data
        if held != record.rosters:
            self.journal.save(rosters=held)
        if newer is not None:
            self.state = replayed(self.journal.record)
            self.epoch = self.book.of(newer, record.run)
            self._tell("roster", detail=f"version {newer.version}, {len(newer.sites)} sites")

    # ------------------------------------------------------------ actions

    def _step(self, event: rounds.Event) -> None:
        self.events.append(event)
        while self.events:
            self.state, actions = rounds.advance(self.state, self.events.popleft())
            for action in actions:
                self._do(action)

    def _do(self, action: rounds.Action) -> None:
        match action:
            case rounds.OpenEpoch():
                self._open_epoch(action)
            case rounds.AcceptKey():
                self.epoch = self.book.accept(self.keys.pop(action.site))
                self._tell("keyed", action.site)
            case rounds.Open():
                if self.state.settings.masked:
                    self.epoch = self.book.use()
                digest = self.work.open(action, self.epoch if self.state.settings.masked else None)
                self._tell("opened", detail=", ".join(action.participants))
                self.events.append(rounds.RoundOpened(self.clock(), digest))
            case rounds.Incident():
                self.work.note(action.site, action.reason)
            case rounds.Pause():
                self.journal.save(state="paused", pause=action.reason)
                self._tell("paused", detail=PAUSES[action.reason])
            case rounds.Finish():
                self.journal.save(state="finished", pause="")
            case _:
                self.events.extend(self.work.do(action))

    def _open_epoch(self, action: rounds.OpenEpoch) -> None:
        record = self.journal.record
        self.epoch = self.book.begin(record.roster, record.run, self.wall_clock())
        self.keys = {}
        document = from_base64(record.rosters[-1])
        message = epochs.request(self.epoch, document, plan_of(record), record.software)
        header = protocol.seal(message, self.key)
        self.post.forget(("keying",))
        self.post.send(
            [Letter(site, "keying", action.number, header, document) for site in action.sites]
        )
        self._tell("keying", detail=f"{len(action.sites)} sites are asked for a new key")

    # ------------------------------------------------------------ messages

    def _mail(self) -> bool:
        """Take what has arrived, send again what was lost; True if there was anything."""
        moved = False
        if self.state.phase == "open" and self.work.stored_shares:
            stored, self.work.stored_shares = self.work.stored_shares, []
            for answer in stored:
                self._receive(answer)
            moved = True
        for answer in self.post.collect():
            moved = True
            if answer.late:
                self.notes.late(answer)
            elif answer.letter.trip in ("close", "verify"):
                self.closings.receive(answer)
            else:
                self._receive(answer)
        for letter in self.post.retry():
            moved = True
            self._had_its_turn(letter)
        return moved

    def _receive(self, answer: Answer) -> None:
        """What came as a site's answer; whatever it is, the site has had its turn."""
        letter = answer.letter
        if letter.trip in TRIPS and letter.number != self.state.round:
            return
        try:
            event = self._event(answer)
            if not (isinstance(event, rounds.RefusalArrived) and event.reason == "version"):
                self.notes.turn_away(letter.site, None)
        except OtherVersion as fault:  # signed by the site, and made by another version
            self.notes.turn_away(letter.site, "version", fault.version)
            event = rounds.RefusalArrived(letter.site, trip_of(letter), letter.number, "version")
        except PeerFault as fault:
            self._tell("incident", letter.site, fault.message)
            other = isinstance(fault, LedgerMismatch)
            event = rounds.FaultyReply(letter.site, trip_of(letter), letter.number, other)
            if other:
                self.work.bar(letter.site)
        if isinstance(event, rounds.RefusalArrived):
            if event.reason != "version":
                self._tell("refused", letter.site, event.reason)
            elif not self.notes.known_away(letter.site):
                self.notes.turn_away(letter.site, "version")
        self._step(event)
        self._had_its_turn(letter)

    def _event(self, answer: Answer) -> rounds.Event:
        letter = answer.letter
        if letter.trip != "keying":
            return event_of(answer, self.work.desk, private=self.private)
        if self.epoch is None:
            raise OurMistake("No epoch has begun.")
        record = self.journal.record
        event, key = key_event(answer, self.epoch, record.roster)
        if key is not None:
            self.keys[letter.site] = key
        elif event == rounds.RefusalArrived(letter.site, "keying", letter.number, "budget"):
            self.journal.save(refused_keys=record.refusing_key(letter.site, answer.header))
        return event

    def _had_its_turn(self, letter: Letter) -> None:
        """No answer to this letter will come; unless the site was asked again, it is lost."""
        if letter.trip not in (*TRIPS, "keying"):
            return
        keying = self.state.keying
        number = keying.number if keying is not None else self.state.round
        if (self.state.phase, number) != (letter.trip, letter.number):
            return
        again = self.post.awaits(letter.trip, letter.number, letter.site)
        if letter.site in self.state.awaited and not again:
            self._step(rounds.SiteLost(letter.site, trip_of(letter), letter.number))

    def _tell(self, kind: str, site: str = "", detail: str = "") -> None:
        record = self.journal.record
        about = (self.state.round, record.completed, record.config.rounds)
        self.on_progress(Progress(kind, *about, site, detail, *counts(self.state)))
