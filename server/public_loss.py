"""runs/RUN/public_loss.json: how well the run's models reconstruct public, simulated windows.

Written by `fedprint-lab public-loss`, read by the dashboard. No hospital's data is in it. A point
counts only if its model is the lineage's.
"""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import Annotated, Literal

from pydantic import BaseModel, ConfigDict, Field, ValidationError

from server.run_records import RunRecord
from shared_model import canonical
from shared_model.errors import OurMistake
from shared_model.files import write_atomic
from shared_model.protocol import Digest

LIMIT_BYTES = 16 * 1024 * 1024
_Score = Annotated[float, Field(ge=0.0, le=1e9)]


class _Frozen(BaseModel):
    model_config = ConfigDict(frozen=True, extra="forbid", strict=True, allow_inf_nan=False)


class PublicPoint(_Frozen):
    """round 0: the starting model. Errors over the trivial predictor's: below 1 beats it.

    masked: hidden halves of both sensors. cross_modal: one sensor from the other.
    """

    round: Annotated[int, Field(ge=0, le=1_000_000)]
    model: Digest
    masked: _Score
    cross_modal: _Score


class PublicLoss(_Frozen):
    """windows: how many simulated windows of how many simulated patients were looked at."""

    format: Literal[1] = 1
    windows: Annotated[int, Field(ge=1, le=10**9)]
    patients: Annotated[int, Field(ge=1, le=10**9)]
    seed: int
    points: Annotated[tuple[PublicPoint, ...], Field(max_length=1_000_001)]


def path_in(run: Path) -> Path:
    return run / "public_loss.json"


def write(run: Path, curve: PublicLoss) -> None:
    """Put the curve into a run's folder, in place of an earlier one."""
    write_atomic(path_in(run), canonical.encode(curve.model_dump(mode="json")), mode=0o600)


def read(run: Path) -> PublicLoss | None:
    """The curve of a run; None if there is none.

    Raises:
        OurMistake: the file is no such curve.
    """
    path = path_in(run)
    try:
        with path.open("rb") as stream:
            return PublicLoss.model_validate_json(stream.read(LIMIT_BYTES))
    except FileNotFoundError:
        return None
    except (OSError, ValidationError) as error:
        raise OurMistake(
            f"{path} is no curve.", do="Write it again: fedprint-lab public-loss HOME RUN"
        ) from error


def of_lineage(curve: PublicLoss, record: RunRecord) -> tuple[PublicPoint, ...]:
    """The points whose model is this run's, by round."""
    models: Mapping[int, str] = {
        0: record.initial_model,
        **{item.round: item.model_out for item in record.rounds},
    }
    good = (point for point in curve.points if models.get(point.round) == point.model)
    return tuple(sorted(good, key=lambda point: point.round))
