"""Private heads of made-up patients, dealt out to made-up hospitals."""

from __future__ import annotations

from typing import Any

from head_stand_ins import MODEL, asked

from simulations.heads.data import HeadData
from simulations.heads.federate import Ask, PrivateHead, private_head
from simulations.heads.hospitals import Hospital, shared_out
from simulations.heads.public import PublicSpace

ROUNDS = 12


def hospitals_of(data: HeadData, count: int = 3) -> list[Hospital]:
    """The patients dealt out."""
    return shared_out(data, count, 0)[0]


def ask(**changes: Any) -> Ask:
    """Few rounds, noise that repeats."""
    usual: dict[str, Any] = {
        "mode": "distributed", "epsilon": 3.0, "rounds": ROUNDS, "sample_rate": 0.5,
        "noise": "NonPrivateForTests",
    }  # fmt: skip
    return Ask(**(usual | changes))


def made(space: PublicSpace, data: HeadData, asks: Ask, **changes: Any) -> PrivateHead:
    """A private head of made-up patients."""
    return private_head(hospitals_of(data), MODEL, space, asks, asked(**changes), borders="made up")
