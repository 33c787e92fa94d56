"""What the registry's log says of each hospital: its last call, what was refused."""

from __future__ import annotations

import datetime
import json
from collections import Counter
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path

from pydantic import BaseModel, ConfigDict, ValidationError

from server.dashboard_view import Call
from shared_model.enrolment import SiteName

TAIL_BYTES = 2**18
"""Some two thousand calls."""


@dataclass(frozen=True)
class Calls:
    """last: by site. refused: (site, reason, how often), of those calls that are looked at."""

    last: Mapping[str, Call]
    refused: tuple[tuple[str, str, int], ...]


class _Line(BaseModel):
    model_config = ConfigDict(frozen=True, strict=True)

    time: str
    method: str
    site: SiteName
    outcome: str


def last_calls(logs: Path) -> Calls:
    """From the last `TAIL_BYTES` of logs/registry.log; a line that is none of ours is passed by."""
    last: dict[str, Call] = {}
    refused: Counter[tuple[str, str]] = Counter()
    for text in _tail(logs / "registry.log"):
        try:
            line = _Line.model_validate(json.loads(text))
            at = datetime.datetime.fromisoformat(line.time).timestamp()
        except (ValueError, ValidationError, RecursionError, OverflowError):
            continue
        if line.site == "unknown":
            continue
        last[line.site] = Call(at, line.method, line.outcome)
        if line.outcome not in ("ok", "cut"):
            refused[line.site, line.outcome] += 1
    rows = tuple((site, why, count) for (site, why), count in sorted(refused.items()))
    return Calls(last, rows)


def _tail(path: Path) -> list[bytes]:
    try:
        with path.open("rb") as stream:
            size = stream.seek(0, 2)
            stream.seek(max(0, size - TAIL_BYTES))
            lines = stream.read(TAIL_BYTES).split(b"\n")
    except OSError:
        return []
    return lines[1:] if size > TAIL_BYTES else lines
