"""The lab as a library: a dozen names, each what it says."""

from __future__ import annotations

import importlib
import pkgutil
from pathlib import Path

import pytest

from shared_model.errors import OurMistake, Refused
from simulations import lab


def small(**values: object) -> lab.Experiment:
    """Three hospitals of waves, two rounds."""
    base = lab.Experiment.from_dict(
        {
            "name": "api",
            "rounds": 2,
            "model": {"begin_with": "random-weights"},
            "federation": {
                "source": "waves",
                "hospitals": 3,
                "patients": 6,
                "windows_per_patient": 2,
            },
            "algorithm": {"steps": 1, "segments": 1},
            "privacy": {"noise_multiplier": 1.0, "sample_rate": 0.3},
            "evaluation": {"every": 2, "draws": 20, "reconstructions": 0},
            "engine": {"workers": 1},
        }
    )
    return base.with_values(values)


def test_no_module_takes_the_place_of_a_name() -> None:
    """Importing every module below the package leaves its dozen names as they were."""
    for found in pkgutil.iter_modules(lab.__path__):
        assert found.name not in lab.__all__
        importlib.import_module(f"simulations.lab.{found.name}")
    assert len(lab.__all__) == 12
    assert all(callable(getattr(lab, name)) for name in lab.__all__)


def test_an_unknown_name_is_an_attribute_error() -> None:
    """As of any module."""
    with pytest.raises(AttributeError, match="nothing"):
        _ = lab.nothing


def test_the_names_carry_an_experiment_from_plan_to_report(tmp_path: Path) -> None:
    """Plan, patients, run, result, check, report; and a run of the same again is refused."""
    experiment = small()
    planned = lab.plan(experiment)
    assert planned.privacy.noise_multiplier == pytest.approx(1.0)
    data = lab.federation(experiment, tmp_path / "patients")
    assert [site.declared for site in data.sites] == [5, 5, 5]
    result = lab.run(experiment, tmp_path / "out")
    assert result.state == "done"
    assert result.rounds().num_rows == 2
    assert lab.open_result(tmp_path / "out").digest == result.digest
    errors = {one.figure: one.error_percent for one in lab.check(tmp_path / "out")}
    assert errors["noise multiplier"] == pytest.approx(0.0, abs=1e-9)
    page = lab.report(tmp_path / "out")
    assert page.path.is_file()
    assert any("NO PRIVACY" in words for words in result.words)
    with pytest.raises(Refused):
        lab.run(experiment, tmp_path / "out")
    assert lab.resume(experiment, tmp_path / "out").digest == result.digest
    with pytest.raises((OurMistake, Refused)):
        lab.resume(small(rounds=3), tmp_path / "out")
