"""Noise alone: what the dashboard draws beside the model's moves is what noise really does."""

from __future__ import annotations

import math

import numpy as np
import pytest
from dashboard_stand_ins import rewritten
from release_stand_ins import Story, write_run

from client.training import _Optimiser
from server import curves, public_loss
from server.home import CoordinatorHome
from server.public_loss import PublicLoss, PublicPoint
from server.run_records import from_base64
from shared_model import distributed, protocol_open
from shared_model.config import LocalTraining, PrivacyPlan, ServerMoments
from shared_model.errors import OurMistake
from shared_model.protocol import TrainRequest
from shared_model.secure_sum.numbers import mean_of

D = 3000
WEIGHTS = {"alpha": 4, "beta": 1, "gamma": 2}


def request_of(
    tmp_path, plan: PrivacyPlan, training: LocalTraining, norm_bound: float = 1e6
) -> TrainRequest:
    """A signed request with another plan and size; only what the curve reads."""
    folder = write_run(CoordinatorHome(tmp_path / "c"), Story(rounds=1))
    header = from_base64(folder.record().rounds[0].request)
    key = bytes.fromhex(folder.record().run_key)
    request = protocol_open.open_train_request(header, key)
    plan_of_sum = request.sum.model_copy(
        update={"dimension": D, "norm_bound": norm_bound, "threshold": 2}
    )
    return request.model_copy(
        update={
            "privacy": plan,
            "training": training,
            "sum": plan_of_sum,
            "server_learning_rate": 0.5,
        }
    )


def trained_on_noise(request: TrainRequest, rng: np.random.Generator) -> float:
    """Length of the server's step if every hospital's gradients are noise alone, as it is done."""
    plan, total = request.privacy, np.zeros(D)
    for one in request.participants:
        optimiser, update = _Optimiser(request.training, D), np.zeros(D)
        std = plan.noise_multiplier * plan.clipping_norm
        for _ in range(plan.steps):
            gradient = std * rng.standard_normal(D) / (plan.sample_rate * one.declared_patients)
            update += optimiser.step(gradient)
        norm = float(np.linalg.norm(update))
        update *= min(1.0, request.sum.norm_bound / norm)
        total += WEIGHTS[one.site] * update
    mean = total / sum(WEIGHTS[one.site] for one in request.participants)
    return request.server_learning_rate * float(np.linalg.norm(mean))


@pytest.mark.parametrize("optimiser", ["adam", "sgd"])
@pytest.mark.parametrize("steps", [1, 10])
@pytest.mark.parametrize("bound", [1e6, 1e-3])
def test_noise_alone_is_as_long_as_training_on_noise(tmp_path, optimiser, steps, bound) -> None:
    """Mode local, three hospitals of different sizes and weights, with and without the bound."""
    training = LocalTraining(optimiser=optimiser, learning_rate=0.01)
    request = request_of(tmp_path, PrivacyPlan(0.1, 1.5, 0.8, steps), training, bound)
    expected = curves.noise_alone(request, request.sites, WEIGHTS)
    seen = trained_on_noise(request, np.random.default_rng(3))
    assert seen == pytest.approx(expected, rel=0.05)


def test_noise_alone_in_mode_distributed_is_the_noise_of_the_sum(tmp_path) -> None:
    """The hospitals' integer shares of the noise, summed, turned back and divided."""
    plan = PrivacyPlan(0.1, 1.5, 0.8, 1, "distributed")
    training = LocalTraining(optimiser="sgd", learning_rate=0.1)
    request = request_of(tmp_path, plan, training)
    declared = [one.declared_patients for one in request.participants]
    numbers = distributed.Shares.of_plan(plan, dimension=D, threshold=2, declared=declared)
    rng = np.random.default_rng(4)
    std = math.sqrt(numbers.variance)
    summed = sum(
        np.rint(std * rng.standard_normal(numbers.padded)).astype(np.int64) for _ in declared
    )
    words = (summed % (1 << numbers.modulus_bits)).astype(np.uint32)
    divisor = numbers.divisor(range(len(declared)))
    mean = mean_of(words, numbers, bytes(32), divisor)
    seen = 0.1 * 0.5 * float(np.linalg.norm(mean))
    expected = curves.noise_alone(request, request.sites, WEIGHTS)
    assert seen == pytest.approx(expected, rel=0.05)


def test_nobody_in_the_sum_makes_no_noise(tmp_path) -> None:
    request = request_of(tmp_path, PrivacyPlan(0.1, 1.0, 1.0, 2), LocalTraining())
    assert curves.noise_alone(request, (), WEIGHTS) == 0.0


def test_no_length_of_noise_alone_is_drawn_where_it_depends_on_the_rounds_before(tmp_path) -> None:
    """A formula of FedAvg beside a run of FedAdam, or of FedProx, would be a made-up figure."""
    request = request_of(tmp_path, PrivacyPlan(0.1, 1.5, 0.8, 3), LocalTraining())
    assert curves.noise_alone(request, ("alpha", "beta"), WEIGHTS) > 0.0
    held = LocalTraining(proximal_weight=0.1)
    for changed in ({"server_moments": ServerMoments()}, {"training": held}):
        with pytest.raises(OurMistake, match="no expected length"):
            curves.noise_alone(request.model_copy(update=changed), ("alpha", "beta"), WEIGHTS)


def test_how_far_a_model_moved_counts_trained_parameters_only() -> None:
    before = {"a": np.zeros(3, np.float32), "b": np.zeros(2, np.float32)}
    after = {"a": np.array([3, 0, 4], np.float32), "b": np.ones(2, np.float32)}
    assert curves.moved(before, after, ("a",)) == 5.0


def test_a_public_point_of_another_model_is_not_shown(tmp_path) -> None:
    """Whoever writes a file cannot put another model's error under this run's name."""
    folder = write_run(CoordinatorHome(tmp_path / "c"), Story(rounds=2))
    record = rewritten(folder)
    points = tuple(
        PublicPoint(round=number, model=model, masked=0.5, cross_modal=0.9)
        for number, model in (
            (2, record.rounds[1].model_out),
            (0, record.initial_model),
            (1, record.initial_model),
            (9, record.initial_model),
        )
    )
    public_loss.write(folder.path, PublicLoss(windows=4, patients=2, seed=0, points=points))
    found = public_loss.read(folder.path)
    assert found is not None
    assert [one.round for one in public_loss.of_lineage(found, record)] == [0, 2]


def test_a_file_that_is_no_curve_is_refused(tmp_path) -> None:
    assert public_loss.read(tmp_path) is None
    for text in ("", "[]", '{"format": 1, "windows": 0, "patients": 1, "seed": 0, "points": []}'):
        public_loss.path_in(tmp_path).write_text(text)
        with pytest.raises(OurMistake, match="is no curve"):
            public_loss.read(tmp_path)


def test_the_lab_writes_a_curve_of_the_models_as_they_are(tmp_path) -> None:
    """Of the packaged warm start: what `docs/model.md` promises of simulated windows, about."""
    from shared_model import warm_start
    from simulations.public_loss import curve_of

    config, weights, _ = warm_start.load("tiny")
    folder = write_run(CoordinatorHome(tmp_path / "c"), Story(rounds=1), (config, dict(weights)))
    curve = curve_of(folder, patients=4, seed=1)
    record = folder.record()
    assert [one.model for one in curve.points] == [
        record.initial_model,
        record.rounds[0].model_out,
    ]
    assert curve.windows == 16
    assert 0.0 < curve.points[0].masked < 1.0
    assert curve == curve_of(folder, patients=4, seed=1)
