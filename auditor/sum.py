"""Were the published sums the sums of what the hospitals signed, and the models made of them?

Every check is one line: OK, FAILED, or CANNOT CHECK with the reason in words. A line FAILED ends
the round that it is about; later rounds are checked all the same. What each line takes for granted
was verified in the lines before it, back to the root key and the roster that the auditor holds.

The line "all sums" is OK only if every sum was verified: by the hospitals (answers and receipts),
or here (added again, and the model made of it). If not, it says INCOMPLETE, and so does the whole.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass, field
from typing import TypeVar

import numpy as np

from auditor.sum_folder import ReadClosing, ReadRound, ReadRun, SumFolder, decoded
from auditor.verify import Finding, pinned_key
from shared_model import canonical, protocol, protocol_open, sum_evidence
from shared_model import weights as weights_io
from shared_model.errors import FedprintError, Refused
from shared_model.protocol import TrainReply
from shared_model.protocol_sum import Statement
from shared_model.roster import Roster
from shared_model.secure_sum.numbers import unpack
from shared_model.secure_sum.primitives import Words
from shared_model.secure_sum.submission import Submission
from shared_model.secure_sum.unmask import sum_of
from shared_model.secure_sum.verification import check_equation, check_own, seeds_of
from shared_model.server_step import model_after, trained_names
from shared_model.sum_evidence import Asked

_T = TypeVar("_T")


class _RoundEndsError(Exception):
    """A check failed; nothing more can be said about the round."""


@dataclass
class _Lines:
    """The findings about one round."""

    number: int
    found: list[Finding] = field(default_factory=list)

    @property
    def verified(self) -> bool:
        """Whether this round's sum and model were verified, by its hospitals or here."""
        good = {item.check.split(": ", 1)[1] for item in self.found if item.verdict == "OK"}
        return {"hospitals' answers", "receipts"} <= good or {"added again", "model"} <= good

    def ok(self, check: str, detail: str) -> None:
        self.found.append(Finding(f"round {self.number}: {check}", "OK", detail))

    def cannot(self, check: str, detail: str) -> None:
        self.found.append(Finding(f"round {self.number}: {check}", "CANNOT CHECK", detail))

    def failed(self, check: str, detail: str) -> None:
        self.found.append(Finding(f"round {self.number}: {check}", "FAILED", detail))
        raise _RoundEndsError

    def must(self, check: str, act: Callable[[], _T]) -> _T:
        """What `act` returns; FAILED if it finds a fault."""
        try:
            return act()
        except FedprintError as error:
            self.found.append(Finding(f"round {self.number}: {check}", "FAILED", error.message))
            raise _RoundEndsError from error


def audit_sums(
    folder: SumFolder, rosters: Mapping[str, Roster], *, run_key: bytes | None = None
) -> list[Finding]:
    """All findings about the sums of a run.

    Args:
        rosters: by digest, verified with the root key that the auditor was given
            (`sum_evidence.opened_rosters`).
        run_key: 32 raw bytes, the key that hospitals have pinned, if the auditor was given it.

    Raises:
        OurMistake: no run there.
        Refused: its record cannot be read.
    """
    run = folder.run()
    findings = [pinned_key("run key", "requests", run.run_key, run_key)]
    if findings[0].verdict == "FAILED":
        return findings
    standing, checkpoint = run.initial_model, 0
    sums, open_sums = 0, []
    for item in run.rounds:
        lines = _Lines(item.round)
        try:
            if item.model_in != standing:
                lines.failed("lineage", "it did not start from the model of the round before")
            if item.outcome == "closed":
                _closed(folder, run, item, rosters, lines)
            else:
                _aggregated(folder, run, item, rosters, lines, checkpoint)
                checkpoint = item.round
        except _RoundEndsError:
            checkpoint = item.round if item.outcome == "aggregated" else checkpoint
        standing = item.model_out
        findings += lines.found
        if item.outcome == "aggregated":
            sums += 1
            open_sums += [] if lines.verified else [item.round]
    return [*findings, _all_sums(sums, open_sums), *_what_no_sum_shows()]


def _all_sums(sums: int, not_verified: list[int]) -> Finding:
    if not sums:
        return Finding("all sums", "INCOMPLETE", "the run has no sum: nothing was verified")
    if not not_verified:
        return Finding("all sums", "OK", f"all {sums} were verified, by the hospitals or here")
    rounds = ", ".join(str(number) for number in not_verified)
    return Finding(
        "all sums",
        "INCOMPLETE",
        f"{len(not_verified)} of {sums} were verified neither by the hospitals nor here: those of "
        f"rounds {rounds}",
    )


def _closed(
    folder: SumFolder,
    run: ReadRun,
    item: ReadRound,
    rosters: Mapping[str, Roster],
    lines: _Lines,
) -> None:
    if item.model_out != item.model_in:
        lines.failed("closed", "the round was closed and yet changed the model")
    if folder.statement(item.round) is not None or folder.summed(item.round) is not None:
        lines.failed("closed", "the round is said to be closed, but a sum of it is stored")
    signers = len(item.agreements)
    if signers:
        key = bytes.fromhex(run.run_key)
        asked = lines.must("closed", lambda: sum_evidence.ask(item.request_bytes, key, rosters))
        if signers >= asked.roster.threshold:
            lines.cannot(
                "closed",
                f"whether it was opened: {signers} hospitals have signed who is in its sum, which "
                "is enough to open it. It changed no model; that no sum is stored shows nothing",
            )
            return
    lines.ok(
        "closed",
        f"it changed no model; {signers} agreements are recorded, too few to open a sum of it",
    )


def _aggregated(
    folder: SumFolder,
    run: ReadRun,
    item: ReadRound,
    rosters: Mapping[str, Roster],
    lines: _Lines,
    checkpoint: int,
) -> None:
    asked, replies = _signed(run, item, rosters, lines)
    data = folder.statement(item.round)
    if data is None:
        lines.failed("statement", "there is none")
        return
    digests = {site: protocol.header_digest(header) for site, header in item.replies.items()}

    def stated() -> Statement:
        found = sum_evidence.stated(asked, data, digests)
        headers = {site: decoded(text) for site, text in item.agreements.items()}
        sum_evidence.agreed(asked, found, headers, replies)
        return found

    statement = lines.must("statement", stated)
    dropped = f"; {', '.join(statement.dropped)} dropped out" if statement.dropped else ""
    lines.ok(
        "statement",
        f"{len(item.agreements)} hospitals signed that these {len(statement.survivors)} are in the "
        f"sum (threshold {asked.roster.threshold}){dropped}",
    )
    total = _published(folder, item, statement, lines)
    _answers(folder.closing(item.round), asked, statement, data, total, item.model_out, lines)
    _added_again(folder, item, asked, statement, replies, total, lines)
    _model(folder, item, asked, statement, total, lines, checkpoint)


def _signed(
    run: ReadRun, item: ReadRound, rosters: Mapping[str, Roster], lines: _Lines
) -> tuple[Asked, dict[str, TrainReply]]:
    """Request, roster, epoch keys, transcript and trip 1."""
    key = bytes.fromhex(run.run_key)

    def verified() -> tuple[Asked, dict[str, TrainReply]]:
        asked = sum_evidence.ask(item.request_bytes, key, rosters)
        request = asked.request
        if (request.run, request.round, request.model_digest) != (
            run.run,
            item.round,
            item.model_in,
        ):
            raise Refused("The request is of another round or model.", reason="lineage")
        replies = {
            site: sum_evidence.replied(asked, site, header) for site, header in item.replies.items()
        }
        return asked, replies

    asked, replies = lines.must("signatures", verified)
    lines.ok(
        "signatures",
        f"request, {len(asked.request.sum.epoch_keys)} epoch keys and {len(replies)} submissions "
        f"are signed by the keys of roster version {asked.roster.version}; transcript "
        f"{asked.transcript_digest[:16]}",
    )
    return asked, replies


def _published(
    folder: SumFolder, item: ReadRound, statement: Statement, lines: _Lines
) -> Words | None:
    packed = folder.summed(item.round)
    if packed is None:
        lines.cannot("published sum", "it is not here")
        return None
    if canonical.digest(packed) != statement.sum_digest:
        lines.failed("published sum", "it is not the one that the statement names")
    return lines.must(
        "published sum", lambda: unpack(packed, statement.modulus_bits, statement.padded)
    )


def _answers(
    closing: ReadClosing | None,
    asked: Asked,
    statement: Statement,
    data: bytes,
    total: Words | None,
    model_out: str,
    lines: _Lines,
) -> None:
    """The closing exchange: signatures, and the equation if the sum is here."""
    answers = {site: decoded(text) for site, text in closing.answers.items()} if closing else {}
    receipts = {site: decoded(text) for site, text in closing.receipts.items()} if closing else {}
    if not set(statement.survivors) <= set(answers):
        missing = sorted(set(statement.survivors) - set(answers))
        lines.cannot("hospitals' answers", f"UNVERIFIED: none of {', '.join(missing)}")
        return
    sums = lines.must(
        "hospitals' answers",
        lambda: sum_evidence.answered(asked, statement, data, answers),
    )
    if total is None:
        lines.cannot("hospitals' answers", "they are all signed; the sum that they fit is not here")
    else:
        lines.must("hospitals' answers", lambda: check_equation(statement, sums, total))
        lines.ok(
            "hospitals' answers",
            f"128 random subset sums that {len(sums)} hospitals signed fit the published sum",
        )
    if len(receipts) < asked.roster.threshold:
        lines.cannot(
            "receipts",
            f"UNVERIFIED: {len(receipts)} of {asked.roster.threshold} hospitals have signed that "
            "they checked the sum",
        )
        return
    lines.must(
        "receipts", lambda: sum_evidence.received(asked, statement, data, receipts, model_out)
    )
    lines.ok(
        "receipts",
        f"{len(receipts)} hospitals have signed that they checked the sum, and that it makes the "
        "model after the round",
    )


def _added_again(
    folder: SumFolder,
    item: ReadRound,
    asked: Asked,
    statement: Statement,
    replies: Mapping[str, TrainReply],
    total: Words | None,
    lines: _Lines,
) -> None:
    """Take the signed submissions, strip the opened masks, compare to the bit."""
    missing = [s for s in statement.survivors if not folder.has_submission(item.round, s)]
    if missing:
        lines.cannot("added again", f"the submissions of {', '.join(missing)} were forgotten")
        return

    def bodies() -> Iterator[tuple[str, memoryview]]:
        for place, site in enumerate(statement.survivors):
            body = folder.submission(item.round, site) or b""
            protocol_open.check_body(replies[site].body_digest, body, site=site)
            submission = Submission.parse(body, asked.transcript, site)
            check_own(statement, submission, statement.submissions[place], statement.survivors)
            yield site, submission.packed

    again = lines.must(
        "added again", lambda: sum_of(bodies(), asked.transcript, seeds_of(statement))
    )
    if total is None:
        lines.cannot("added again", "the published sum is not here to compare with")
        return
    if not np.array_equal(again, total):
        lines.failed(
            "added again", "the published sum is NOT the sum of what the hospitals submitted"
        )
    lines.ok(
        "added again",
        f"the {len(replies)} signed submissions, without the opened masks, add up to the published "
        "sum to the bit",
    )


def _model(
    folder: SumFolder,
    item: ReadRound,
    asked: Asked,
    statement: Statement,
    total: Words | None,
    lines: _Lines,
    checkpoint: int,
) -> None:
    """The server step of the signed request on the model before gives the model after."""
    data = folder.model(checkpoint)
    if total is None or data is None:
        lines.cannot("model", "the published sum or the model before the round is not here")
        return
    request = asked.request
    made = "the model before plus"
    if request.server_moments is not None:
        made = f"what {request.server_step} makes of the model before, its state and"
    try:
        names = trained_names(request)
    except Refused as error:
        lines.cannot("model", error.message)
        return

    def stepped() -> str:
        before = weights_io.from_bytes(data)
        if weights_io.digest(before) != item.model_in:
            raise Refused("The model before the round is not the one it names.", reason="digest")
        if checkpoint == 0 and weights_io.parts(before)[1]:
            raise Refused("The run began with a state of the server step.", reason="lineage")
        survivors = statement.survivors
        after = model_after(request, asked.transcript, survivors, total, before, names)
        return weights_io.digest(after)

    if lines.must("model", stepped) != item.model_out:
        lines.failed("model", f"it is NOT {made} the mean of the sum")
    lines.ok(
        "model",
        f"it is {made} the weighted mean of the sum, to the bit (signed request: "
        f"{request.server_step}, learning rate {request.server_learning_rate:g}, trains "
        f"{request.training.trainable}: {len(names)} arrays)",
    )


def _what_no_sum_shows() -> list[Finding]:
    return [
        Finding(
            "collusion",
            "CANNOT CHECK",
            "whether more hospitals than the roster's bound opened single updates together with "
            "the coordinator: that leaves no trace in its files",
        ),
        Finding(
            "submissions",
            "CANNOT CHECK",
            "whether what a hospital submitted was an honest update: the sum is of what was "
            "submitted",
        ),
    ]
