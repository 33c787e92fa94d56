"""The node's own logs of JSON lines: how a line is appended, and what it keeps of a fault."""

from __future__ import annotations

import json
import sys
import time
import traceback
from collections.abc import Callable
from pathlib import Path

from shared_model.errors import FedprintError
from shared_model.files import append_line


def why(error: Exception) -> dict[str, object]:
    """What the node's own log keeps of a fault: our own texts, which never name a patient; of
    foreign errors only their type and where they arose, because their texts might."""
    frames = [
        f"{Path(frame.filename).name}:{frame.lineno} {frame.name}"
        for frame in traceback.extract_tb(error.__traceback__)[-4:]
    ]
    text = str(error) if isinstance(error, FedprintError) else ""
    return {"error": type(error).__name__, "message": text, "where": frames}


def log_to(path: Path) -> Callable[[dict[str, object]], None]:
    """Append JSON lines to the node's own log.

    A line that the disk does not take is told on standard error: it keeps no answer back.
    """

    def write(entry: dict[str, object]) -> None:
        stamp = time.strftime("%Y-%m-%dT%H:%M:%SZ", time.gmtime())
        line = json.dumps({"time": stamp, **entry}, sort_keys=True).encode() + b"\n"
        try:
            path.parent.mkdir(parents=True, exist_ok=True, mode=0o700)
            append_line(path, line)
        except OSError as error:
            sys.stderr.write(f"{path.name} could not be written: {error.strerror}\n")

    return write
