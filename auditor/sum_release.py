"""Is a release the release of this run's folder? Both as they are on disk, round by round.

The folder was or will be checked by `auditor.sum`, the release by `auditor.verify`; here it is only
asked whether they tell the same rounds, the same messages, the same sums and the same models.
"""

from __future__ import annotations

from auditor.sum_folder import ReadRound, ReadRun, SumFolder
from auditor.verify import Finding
from shared_model import canonical, protocol
from shared_model.release import Manifest, Round

CHECK = "release"


def compared(folder: SumFolder, manifest: Manifest) -> list[Finding]:
    """One finding for each round that differs, or one that says that none does.

    Raises:
        OurMistake, Refused: as `SumFolder.run`.
    """
    run = folder.run()
    told = [step for step in manifest.lineage.rounds if step.run == run.run]
    if not told:
        return [_failed(f"its lineage has no round of run {run.run}")]
    findings: list[Finding] = []
    if run.run_key != manifest.run_key:
        findings.append(_failed("its requests are signed by another run key than the folder's"))
    if told[0].model_in != run.initial_model:
        findings.append(_failed("it began from another model than the folder's"))
    kept = {item.round: item for item in run.rounds}
    last = max(step.number for step in told)
    present = {step.number for step in told}
    findings += [
        _failed(f"round {number} is in the folder and not in the release")
        for number in sorted(kept)
        if number <= last and number not in present
    ]
    for step in told:
        item = kept.get(step.number)
        if item is None:
            findings.append(_failed(f"round {step.number} is in the release and not in the folder"))
            continue
        different = _differences(folder, step, item)
        if different:
            findings.append(_failed(f"round {step.number}: other {', '.join(different)}"))
    if findings:
        return findings
    return [Finding(CHECK, "OK", _words(run, told, last, manifest))]


def _words(run: ReadRun, told: list[Round], last: int, manifest: Manifest) -> str:
    later = sum(item.round > last for item in run.rounds)
    more = f"; the run went on for {later} rounds that are not in it" if later else ""
    return (
        f"release {manifest.number} tells the {len(told)} rounds of this folder up to round "
        f"{last}: the same requests, submissions, sums and models{more}"
    )


def _differences(folder: SumFolder, step: Round, item: ReadRound) -> list[str]:
    """What the release and the folder tell differently about a round, in words."""
    statement = folder.statement(item.round)
    summed = folder.summed(item.round)
    found = {
        "outcome": step.outcome == item.outcome,
        "request": step.request_digest == protocol.header_digest(item.request_bytes),
        "model before": step.model_in == item.model_in,
        "model after": step.model_out == item.model_out,
        "submissions": {one.site: one.reply_digest for one in step.contributors}
        == {site: protocol.header_digest(header) for site, header in item.submitted.items()},
    }
    if step.sum is not None:
        found["statement"] = step.sum.statement_digest == canonical.digest(statement or b"")
        # a sum that is not here is said to be missing by `auditor.sum`
        found["sum"] = summed is None or step.sum.sum_digest == canonical.digest(summed)
    return [what for what, same in found.items() if not same]


def _failed(detail: str) -> Finding:
    return Finding(CHECK, "FAILED", detail)
