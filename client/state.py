"""What the node does now, in small files that its processes write and its console reads.

    state/node.json       the supervisor: phase, processes, why
    state/progress.json   the training process: run, round, step; absent when it does nothing
    state/paused.json     the operator said pause; absent otherwise

Nothing in them is computed from recordings: numbers of runs, rounds and steps are the plan's. They
say nothing that counts: a lost or stale file costs a display, never a round.
"""

from __future__ import annotations

import time
from pathlib import Path
from typing import Annotated, Literal, TypeVar

from pydantic import BaseModel, ConfigDict, Field, ValidationError

from client.home import NodeHome
from shared_model.files import write_atomic

Phase = Literal["starting", "running", "paused", "outside-hours", "trouble", "stopping", "stopped"]
Stage = Literal["training", "holding", "answering"]
_Text = Annotated[str, Field(max_length=300)]
_LIMIT_BYTES = 64 * 1024


class _Frozen(BaseModel):
    model_config = ConfigDict(frozen=True, extra="forbid", strict=True, allow_inf_nan=False)


class ProcessState(_Frozen):
    """pid: None while it does not run. restarts: since the node was started."""

    name: _Text
    pid: int | None = None
    since_s: float = 0.0
    restarts: int = 0


class NodeState(_Frozen):
    """Times are seconds since 1970. why: a sentence for people, or ""."""

    phase: Phase
    since_s: float
    written_s: float
    pid: int
    why: _Text = ""
    processes: tuple[ProcessState, ...] = ()


class Progress(_Frozen):
    """stage "holding": the reply is done and leaves at `leaves_s`."""

    run: _Text
    round: int
    stage: Stage
    step: int = 0
    steps: int = 0
    begun_s: float = 0.0
    written_s: float = 0.0
    leaves_s: float | None = None


class Paused(_Frozen):
    """The operator's word."""

    since_s: float
    why: _Text = ""


_Model = TypeVar("_Model", NodeState, Progress, Paused)


def node_state(home: NodeHome) -> NodeState | None:
    """What the supervisor wrote last; None if nothing that can be read."""
    return _read(home.state / "node.json", NodeState)


def progress(home: NodeHome) -> Progress | None:
    """What is being answered now; None if nothing."""
    return _read(home.state / "progress.json", Progress)


def paused(home: NodeHome) -> Paused | None:
    """Since when the operator wants nothing trained; None: it may be."""
    found = _read(home.state / "paused.json", Paused)
    if found is None and (home.state / "paused.json").exists():
        return Paused(since_s=0.0, why="state/paused.json cannot be read")  # the careful reading
    return found


def write_node_state(home: NodeHome, state: NodeState) -> None:
    """Replace it."""
    _write(home.state / "node.json", state)


def write_progress(home: NodeHome, value: Progress | None) -> None:
    """Replace it; None: nothing is being answered."""
    if value is None:
        (home.state / "progress.json").unlink(missing_ok=True)
    else:
        _write(home.state / "progress.json", value)


def pause(home: NodeHome, why: str = "") -> None:
    """The operator wants no new training; what was begun is finished."""
    _write(home.state / "paused.json", Paused(since_s=time.time(), why=why[:300]))


def resume(home: NodeHome) -> None:
    """The operator lets training go on."""
    (home.state / "paused.json").unlink(missing_ok=True)


def _write(path: Path, value: BaseModel) -> None:
    path.parent.mkdir(parents=True, exist_ok=True, mode=0o700)
    write_atomic(path, value.model_dump_json().encode(), mode=0o600)


def _read(path: Path, model: type[_Model]) -> _Model | None:
    try:
        with path.open("rb") as stream:
            data = stream.read(_LIMIT_BYTES + 1)
        return model.model_validate_json(data) if len(data) <= _LIMIT_BYTES else None
    except (OSError, ValidationError):
        return None
