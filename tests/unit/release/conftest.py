"""Fixtures of the release: a coordinator that releases, a node that has pinned it."""

from __future__ import annotations

import sys
import warnings
from collections.abc import Callable
from pathlib import Path

import pytest

sys.path.insert(0, str(Path(__file__).parent))
sys.path.insert(0, str(Path(__file__).parents[1] / "ledger"))
sys.path.insert(0, str(Path(__file__).parents[1] / "rounds"))  # real ledgers in memory

with warnings.catch_warnings():
    # Typer imports names that Click 8.3 deprecates; nothing of ours does.
    warnings.simplefilter("ignore", DeprecationWarning)
    import typer.testing  # noqa: F401

from release_stand_ins import DAY, Story, key_of, node_at, write_run

from client.home import NodeHome
from server.home import CoordinatorHome
from server.release import Made, make_release
from shared_model.config import ModelConfig
from shared_model.weights import Weights

Maker = Callable[..., Made]


@pytest.fixture
def coordinator(tmp_path: Path) -> CoordinatorHome:
    return CoordinatorHome.find(tmp_path / "coordinator")


@pytest.fixture
def make(coordinator: CoordinatorHome) -> Maker:
    """make(story, output=None, key="release") -> Made."""

    def maker(
        story: Story | None = None,
        *,
        model: tuple[ModelConfig, Weights] | None = None,
        key: str = "release",
        output: Path | None = None,
        origin: str | None = "random initialisation of a test",
    ) -> Made:
        return make_release(
            coordinator,
            write_run(coordinator, story or Story(), model),
            key=key_of(key),
            created=DAY,
            origin=origin,
            output=output,
        )

    return maker


@pytest.fixture
def node(tmp_path: Path) -> NodeHome:
    """A node that has pinned the coordinator "release"."""
    return node_at(tmp_path / "node", tmp_path)


@pytest.fixture(autouse=True)
def no_packaged_warm_start(monkeypatch: pytest.MonkeyPatch) -> None:
    """These runs begin from toy weights; tests that want a packaged start set it again."""
    monkeypatch.setattr("shared_model.release_origin.packaged_warm_start", lambda preset: None)


@pytest.fixture(autouse=True)
def what_toy_models_train(monkeypatch: pytest.MonkeyPatch) -> None:
    """Toy models are no preset of this version; their runs train "head" (`release_stand_ins`)."""
    monkeypatch.setattr("auditor.sum.trained_names", lambda request: ("head",))
