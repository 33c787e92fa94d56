"""Made-up fingerprints with a truth in them, and heads of them: no recording, no model."""

from __future__ import annotations

from typing import Any

import numpy as np

from shared_model.canonical import digest
from shared_model.config import FINGERPRINT_SIZE
from shared_model.heads.arrays import Head
from shared_model.mae import PRESETS
from simulations.heads.data import HeadData
from simulations.heads.train import Asked, train
from simulations.models import NamedModel
from simulations.probes.task import People

MODEL = NamedModel(
    PRESETS["tiny"], {"made-up": np.zeros(1, dtype=np.float32)}, {"source": "made up for a test"}
)
OTHER_DIGEST = digest(b"another model")


def asked(**changes: Any) -> Asked:
    """What a command would ask, with few bootstrap samples."""
    usual: dict[str, Any] = {
        "folds": 3, "seed": 0, "draws": 30, "command": "fedprint-lab head train",
        "created": "2026-11-29",
    }  # fmt: skip
    return Asked(**(usual | changes))


def made_up(
    kind: str = "classes",
    *,
    patients: int = 60,
    items: int = 3,
    strength: float = 5.0,
    own: float = 0.5,
    classes: tuple[str, ...] = ("no", "yes"),
    seed: int = 0,
    folders: tuple[str, ...] = ("made-up",),
) -> HeadData:
    """Patients whose fingerprints tell the truth along a few directions; half are women.

    strength: of the truth over a window's noise, in standard deviations. own: of what is the
    patient's own.
    """
    rng = np.random.default_rng(seed)
    patient = np.repeat(np.arange(patients), items)
    x = rng.normal(size=(len(patient), FINGERPRINT_SIZE))
    x += own * rng.normal(size=(patients, FINGERPRINT_SIZE))[patient]
    if kind == "number":
        truth = rng.uniform(20.0, 80.0, size=patients)
        x[:, 0] += strength * (truth[patient] - 50.0) / 20.0
    else:
        truth = (np.arange(patients) % len(classes)).astype(float)
        for place in range(len(classes)):
            x[:, place] += strength * (truth[patient] == place)
    if kind == "identity":
        x += strength * rng.normal(size=(patients, FINGERPRINT_SIZE))[patient]
    unit = x / np.linalg.norm(x, axis=1, keepdims=True)
    people = People(
        folders,
        np.arange(patients) % len(folders),
        np.where(np.arange(patients) % 2 == 0, "F", "M"),
        rng.uniform(30.0, 80.0, size=patients),
        rng.random(patients),
    )
    task = {"classes": "sex", "number": "age", "identity": "identity"}[kind]
    return HeadData(
        task=task,
        kind=kind,  # type: ignore[arg-type]
        classes=classes if kind == "classes" else (),
        unit="years" if kind == "number" else "",
        item="window",
        sensors="ecg",
        fingerprints=unit.astype(np.float32),
        truth=truth[patient],
        patient=patient,
        session=np.tile(np.arange(items), patients),
        people=people,
        windows=len(patient),
        left_out=0,
    )


def made_head(kind: str = "classes", **changes: Any) -> Head:
    """A head trained on made-up patients."""
    return train(made_up(kind), MODEL, asked(**changes))
