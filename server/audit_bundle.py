"""What the coordinator hands to an auditor: the run's folder without what is in the works.

    run.json, checkpoints/, sums/, submissions/    as in the run's folder
    rosters/VERSION.json                           the signed rosters of the run

Nothing in it is secret from the consortium: submissions are masked, and what was opened stands in
the statements. The root key and the hospitals' keys the auditor has from elsewhere.
"""

from __future__ import annotations

import os
import shutil
import tempfile
from pathlib import Path

from server.checkpoints import RunFolder, RunRecord
from server.run_records import from_base64
from shared_model.errors import OurMistake
from shared_model.files import sync_folder, write_atomic


def write_bundle(run: RunFolder, output: Path, *, submissions: bool = True) -> RunRecord:
    """Make the folder `output` whole or not at all.

    Args:
        submissions: copy the submissions, without which an auditor cannot add them again.

    Raises:
        OurMistake: no such run, or `output` exists.
        Refused: the run is being worked on (reason "busy").
    """
    if os.path.lexists(output):
        raise OurMistake(f"{output} exists already.", do="Choose another folder.")
    if not run.exists:
        raise OurMistake(f"There is no run in {run.path}.", do="See: fedprint-coordinator status")
    output.parent.mkdir(parents=True, exist_ok=True)
    fresh = Path(tempfile.mkdtemp(dir=output.parent, prefix=f".{output.name}.", suffix=".new"))
    try:
        with run.locked():
            record = run.record()
            for name in _names(run, record, submissions=submissions):
                target = fresh / name
                target.parent.mkdir(parents=True, exist_ok=True)
                shutil.copyfile(run.path / name, target)
        for signed, text in zip(record.signed_rosters, record.rosters, strict=True):
            write_atomic(fresh / "rosters" / f"{signed.roster.version}.json", from_base64(text))
        fresh.chmod(0o755)
        sync_folder(fresh)
        os.rename(fresh, output)
    except BaseException:
        shutil.rmtree(fresh, ignore_errors=True)
        raise
    return record


def _names(run: RunFolder, record: RunRecord, *, submissions: bool) -> list[str]:
    """Files of ended rounds that are there, relative to the run's folder."""
    wanted = ["run.json", "checkpoints/round-0000.safetensors"]
    for item in record.rounds:
        number = f"{item.round:04d}"
        wanted += [f"sums/{number}.{kind}" for kind in ("sum", "statement", "closing.json")]
        wanted.append(f"checkpoints/round-{number}.safetensors")
        if submissions:
            wanted += [
                f"submissions/{number}/{one.site}.{kind}"
                for one in item.contributors
                for kind in ("header", "body")
            ]
    return [name for name in wanted if (run.path / name).is_file()]
