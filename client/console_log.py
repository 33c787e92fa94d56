"""logs/console-audit.log: who did what in the console, one JSON line each.

No count of patients is ever in it. (`logs/console.log` is what the process itself prints.)

log = ConsoleLog(home)
log.write(session, "approve run", "spring")
log.last(50)                                  # the newest first
"""

from __future__ import annotations

import json
import os
import time
from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

from client.home import NodeHome
from shared_model.files import append_line
from shared_model.locks import locked

SIZE_BYTES = 4 * 1024 * 1024
_TAIL_BYTES = 256 * 1024
_LONGEST = 200


@dataclass(frozen=True)
class ConsoleLog:
    """now: seconds since 1970. At 4 MB the file is put aside as console-audit.log.1.

    Its writer renames it itself: `fedprint-node console` and the console's process both write.
    """

    home: NodeHome
    now: Callable[[], float] = time.time

    def write(self, session: str, what: str, more: str = "") -> None:
        """session: its 16 digits; "" for nobody who is logged in."""
        stamp = time.strftime("%Y-%m-%dT%H:%M:%SZ", time.gmtime(self.now()))
        line = {"time": stamp, "session": session or None, "what": what, "more": more[:_LONGEST]}
        data = json.dumps(line, sort_keys=True).encode() + b"\n"
        path = self.home.logs / "console-audit.log"
        path.parent.mkdir(parents=True, exist_ok=True, mode=0o700)
        with locked(path.with_suffix(".lock")):
            if path.exists() and path.stat().st_size + len(data) > SIZE_BYTES:
                path.replace(path.with_name("console-audit.log.1"))
            append_line(path, data)

    def last(self, limit: int = 100) -> list[dict[str, str]]:
        """The last lines, the newest first; what cannot be read is left out."""
        try:
            with (self.home.logs / "console-audit.log").open("rb") as stream:
                size = stream.seek(0, os.SEEK_END)
                stream.seek(max(0, size - _TAIL_BYTES))
                lines = stream.read().splitlines()
        except OSError:
            return []
        found: list[dict[str, str]] = []
        for line in reversed(lines):
            try:
                value: Any = json.loads(line)
            except ValueError:
                continue
            if isinstance(value, dict) and len(found) < limit:
                found.append(
                    {k: str(value.get(k) or "") for k in ("time", "session", "what", "more")}
                )
        return found
