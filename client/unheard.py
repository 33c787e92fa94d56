"""Notes a submission of which this hospital heard nothing more.

When a submission to a later round of the run leaves, and the node was never asked to agree to the
last one before, that one came too late, or its round was closed, or the hospital's line was down:
`logs/rounds.log` says so. The spend of that round stays either way.
"""

from __future__ import annotations

from pathlib import Path

from client.home import NodeHome
from client.outbox import Outbox
from shared_model import protocol_open
from shared_model.errors import OurMistake


def unheard(root: Path, run: str, round: int) -> int | None:
    """Number of the last round before this one that the node submitted to, if nothing followed.

    root: the outbox's folder.
    """
    folder = root / run
    if not folder.is_dir():
        return None
    earlier = [
        int(item.name)
        for item in folder.iterdir()
        if item.name.isdecimal() and int(item.name) < round and (item / "reply.header").is_file()
    ]
    if not earlier or Outbox(root).signed(run, last := max(earlier), "asked") is not None:
        return None
    masked = (folder / f"{last:07d}" / "round.json").is_file()  # else there is no second trip
    return last if masked else None


def note(home: NodeHome, header: bytes) -> None:
    """Look, when this message of the node's own is about to leave; a line in rounds.log."""
    from client.round_log import log_to

    try:
        said = protocol_open.readable(header)
    except OurMistake:
        return
    run, number = said.get("run"), said.get("round")
    if said.get("kind") != "train-reply" or not isinstance(run, str) or type(number) is not int:
        return
    last = unheard(home.outbox, run, number)
    if last is None:
        return
    log_to(home.logs / "rounds.log")(
        {
            "run": run,
            "round": last,
            "outcome": "void",
            "message": "Nobody asked this hospital to agree to the sum of this round: its "
            "submission came too late, or the round was closed, or the line was down. What it "
            "spent stays spent.",
        }
    )
