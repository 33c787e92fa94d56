"""The round that is open, read from its folder while the run's process works on it. Reads only."""

from __future__ import annotations

from collections.abc import Mapping

from server.checkpoints import RunFolder
from server.dashboard_rounds import Absent, OpenNow, absent_words
from server.round_folder import RoundFolder
from server.run_records import AbsentRecord, RunRecord
from shared_model import protocol, protocol_open
from shared_model.errors import FedprintError
from shared_model.protocol import Refusal


def open_now(folder: RunFolder, record: RunRecord) -> OpenNow | None:
    """The round after the last one that ended, if its request is stored; None if there is none, or
    it ends at this moment."""
    number = record.rounds[-1].round + 1 if record.rounds else 1
    files = folder.round(number)
    try:
        header = files.request
        if header is None or record.state == "finished":
            return None
        request = protocol_open.open_train_request(header, bytes.fromhex(record.run_key))
        opened_s = (files.open / "request.header").stat().st_mtime
        return _of(files, record, request, opened_s)
    except (FedprintError, OSError, ValueError, KeyError):
        return None


def _of(
    files: RoundFolder, record: RunRecord, request: protocol.TrainRequest, opened_s: float
) -> OpenNow:
    refused = _refused(files.refusals, record, request)
    chosen = files.chosen
    openings = files.openings
    if chosen is None:
        stage, asked, answered = "submit", request.sites, files.submitted
    elif not openings:
        stage, asked, answered = "agree", chosen.survivors, tuple(sorted(files.agreements))
    else:
        stage, asked = "open", openings[-1].signers
        answered = tuple(sorted({reply.site for _, reply in files.shares}))
    gone = {one.site for one in refused}
    return OpenNow(
        number=request.round,
        stage=stage,
        opened_s=opened_s,
        asked=request.sites,
        answered=tuple(site for site in asked if site in answered),
        awaited=tuple(site for site in asked if site not in answered and site not in gone),
        survivors=() if chosen is None else chosen.survivors,
        refused=refused,
    )


def _refused(
    headers: Mapping[str, bytes], record: RunRecord, request: protocol.TrainRequest
) -> tuple[Absent, ...]:
    roster, found = record.roster_named(request.sum.roster_digest), []
    for site, header in sorted(headers.items()):
        said = protocol_open.open_answer(header, roster.entry(site).identity, site=site)
        if isinstance(said, Refusal):
            ended = AbsentRecord(site=site, ending="refused", reason=said.reason)
            found.append(Absent(site, "refused", absent_words(ended)))
    return tuple(found)
