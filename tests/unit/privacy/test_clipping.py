"""Per-patient gradients, clipping and noise on a small network that stands in for the model."""

from __future__ import annotations

from fractions import Fraction

import numpy as np
import pytest
import torch
from opacus import GradSampleModule
from scipy import stats
from torch import Tensor, nn

from shared_model import privacy
from shared_model.config import PrivacyPlan
from shared_model.errors import OurMistake
from shared_model.noise import NonPrivateForTests, SystemNoise, grid

PATIENTS, SEGMENTS, SIZE = 6, 3, 10


class Net(nn.Module):
    """Stand-in with the layers that matter: linear, norm, attention, something frozen."""

    def __init__(self) -> None:
        super().__init__()
        generator = torch.Generator().manual_seed(3)
        self.frozen = nn.Linear(SIZE, 8, bias=False)
        self.query = nn.Linear(8, 8)
        self.norm = nn.LayerNorm(8)
        self.out = nn.Linear(8, SIZE)
        with torch.no_grad():
            for value in self.parameters():
                value.copy_(torch.randn(value.shape, generator=generator) * 0.5)

    def forward(self, segments: Tensor) -> Tensor:
        """(..., segment, sample) to a reconstruction of the same shape."""
        hidden = self.norm(self.frozen(segments))
        attention = torch.softmax(self.query(hidden) @ hidden.transpose(-1, -2), dim=-1)
        return torch.as_tensor(self.out(attention @ hidden))


class Unit(nn.Module):
    """Loss of one patient (segment, sample): the mean over segments."""

    def __init__(self) -> None:
        super().__init__()
        self.net = Net()

    def forward(self, segments: Tensor) -> Tensor:
        return torch.as_tensor(((self.net(segments) - segments) ** 2).mean())


@pytest.fixture
def unit() -> Unit:
    return Unit()


@pytest.fixture
def segments() -> Tensor:
    return torch.randn(PATIENTS, SEGMENTS, SIZE, generator=torch.Generator().manual_seed(1))


def trainable(unit: Unit) -> dict[str, Tensor]:
    return {name: value for name, value in unit.named_parameters() if "frozen" not in name}


def plan(**changes: float) -> PrivacyPlan:
    values = {"sample_rate": 0.5, "noise_multiplier": 2.0, "clipping_norm": 0.3, "steps": 1}
    return PrivacyPlan(**(values | changes))  # type: ignore[arg-type]


def test_fast_gradients_equal_one_patient_at_a_time(unit: Unit, segments: Tensor) -> None:
    """vmap(grad) against plain backward, to 1e-5."""
    fast = privacy.per_patient_gradients(unit, trainable(unit), [segments])
    for patient in range(PATIENTS):
        unit.zero_grad()
        unit(segments[patient]).backward()
        for name, value in trainable(unit).items():
            assert value.grad is not None
            torch.testing.assert_close(fast[name][patient], value.grad, rtol=1e-5, atol=1e-5)


def test_fast_gradients_equal_opacus(unit: Unit, segments: Tensor) -> None:
    """vmap(grad) against Opacus' hooks on the same network, patient as axis 0, to 1e-5."""
    fast = privacy.per_patient_gradients(unit, trainable(unit), [segments])
    hooked = GradSampleModule(unit.net, batch_first=True, loss_reduction="sum")
    watched = segments.clone().requires_grad_()  # else torch warns about Opacus' hooks
    ((hooked(watched) - segments) ** 2).flatten(1).mean(dim=1).sum().backward()
    for name, value in unit.net.named_parameters():
        if "frozen" not in name:
            theirs = value.grad_sample  # type: ignore[attr-defined]
            torch.testing.assert_close(fast[f"net.{name}"], theirs, rtol=1e-5, atol=1e-5)


def test_only_trainable_names_get_gradients(unit: Unit, segments: Tensor) -> None:
    """The frozen rest is held constant and never returned."""
    fast = privacy.per_patient_gradients(unit, trainable(unit), [segments])
    assert set(fast) == set(trainable(unit))
    assert all(value.grad is None for value in unit.parameters())


def test_no_patient_contributes_more_than_the_bound(unit: Unit, segments: Tensor) -> None:
    """Large gradients are clipped to C (1 - margin) over all parameters as one vector."""
    for size in (1.0, 1e3, 1e6):
        for patient in range(PATIENTS):
            one = segments[patient : patient + 1] * size
            total = privacy.clipped_sum(unit, trainable(unit), [one], 0.3)
            assert np.linalg.norm(total) <= 0.3 * (1 - privacy.CLIPPING_MARGIN) * (1 + 1e-9)


def test_small_gradients_pass_unclipped() -> None:
    """Below the bound nothing is scaled."""
    gradients = {"b": torch.tensor([[3.0, 0.0], [0.0, 0.0]]), "a": torch.tensor([[4.0], [1.0]])}
    assert privacy.clip_and_sum(gradients, 100.0).tolist() == [5.0, 3.0, 0.0]
    clipped = privacy.clip_and_sum(gradients, 5.0)
    scale = 1 - privacy.CLIPPING_MARGIN
    np.testing.assert_allclose(clipped, [4.0 * scale + 1.0, 3.0 * scale, 0.0])


def test_zero_gradients_stay_zero() -> None:
    """Nothing is divided by nothing."""
    assert privacy.clip_and_sum({"a": torch.zeros(4, 3)}, 1.0).tolist() == [0.0] * 3


@pytest.mark.parametrize("bad", [float("nan"), float("inf"), -float("inf")])
def test_a_non_finite_patient_contributes_zero(bad: float) -> None:
    """And leaves the others as they are: an error would reveal that one patient."""
    gradients = {"a": torch.tensor([[0.1, 0.2], [bad, 0.2], [0.3, 0.4]]), "b": torch.ones(3, 1) / 9}
    good = {name: value[[0, 2]] for name, value in gradients.items()}
    np.testing.assert_array_equal(
        privacy.clip_and_sum(gradients, 1.0), privacy.clip_and_sum(good, 1.0)
    )


def test_a_non_finite_patient_changes_no_bit_of_what_the_others_bring() -> None:
    """All finite is the fast way, one that is not the slow: the same sums, and keep as well."""
    generator = torch.Generator().manual_seed(7)
    found = {
        name: torch.randn(8, *shape, generator=generator)
        for name, shape in {"a": (40, 30), "b": (30,)}.items()
    }
    clean = {name: value.clone() for name, value in found.items()}
    for name in found:
        found[name][5], clean[name][5] = float("nan"), 0.0
    fast = privacy.clip_and_sum(clean, 0.5)
    assert fast.any()
    assert np.array_equal(privacy.clip_and_sum(found, 0.5), fast)
    keep = torch.ones(8, dtype=torch.bool)
    assert np.array_equal(privacy.clip_and_sum(clean, 0.5, keep), fast)
    keep[5] = False
    assert np.array_equal(privacy.clip_and_sum(clean, 0.5, keep), fast)


def test_a_patient_with_non_finite_signal_contributes_zero(unit: Unit, segments: Tensor) -> None:
    """End to end: NaN samples of one patient change nothing but that patient's term."""
    broken = segments.clone()
    broken[2, 0, 0] = float("nan")
    rest = [0, 1, 3, 4, 5]
    np.testing.assert_allclose(
        privacy.clipped_sum(unit, trainable(unit), [broken], 0.3),
        privacy.clipped_sum(unit, trainable(unit), [segments[rest]], 0.3),
        atol=1e-7,
    )


def test_gradients_whose_squares_overflow_are_clipped_and_not_lost() -> None:
    """float32 squares of 1e30 are infinite, the norm is not."""
    total = privacy.clip_and_sum({"a": torch.full((1, 4), 1e30)}, 1.0)
    assert np.linalg.norm(total) == pytest.approx(1 - privacy.CLIPPING_MARGIN)


@pytest.mark.parametrize("chunk", [1, 2, 4, 5, 6, 100])
def test_chunks_and_their_padding_change_nothing(unit: Unit, segments: Tensor, chunk: int) -> None:
    """The same sum however many patients are held at once."""
    whole = privacy.clip_and_sum(
        privacy.per_patient_gradients(unit, trainable(unit), [segments]), 0.3
    )
    parts = privacy.clipped_sum(unit, trainable(unit), [segments], 0.3, chunk=chunk)
    np.testing.assert_allclose(parts, whole, atol=1e-6)


def test_nobody_sampled_gives_zero_and_the_step_is_noise(unit: Unit, segments: Tensor) -> None:
    """An empty sample still adds noise of the full size."""
    total = privacy.clipped_sum(unit, trainable(unit), [segments[:0]], 0.3)
    assert not total.any()
    step = privacy.noisy_mean(total, plan(), 10, SystemNoise())
    assert np.count_nonzero(step) == step.size


def test_noise_has_the_accounted_deviation() -> None:
    """Chi-square of (step - mean) against sigma C / (q N)."""
    size, patients = 200_000, 40
    total = np.linspace(-0.1, 0.1, size)
    chosen = plan()
    step = privacy.noisy_mean(total, chosen, patients, SystemNoise())
    assert step.dtype == np.float32
    divisor = chosen.sample_rate * patients
    std = chosen.noise_multiplier * chosen.clipping_norm / divisor
    standard = (step - total / divisor) / std
    low, high = stats.chi2.ppf([5e-7, 1 - 5e-7], size)
    assert low < float(np.sum(standard**2)) < high
    assert stats.kstest(standard, "norm").pvalue > 1e-6


def test_the_mean_is_over_the_declared_patients() -> None:
    """Twice the declared number, half the step: the sampled number plays no part."""

    def step(declared: int) -> np.ndarray:
        return privacy.noisy_mean(np.ones(50), plan(), declared, NonPrivateForTests("r", "s", 1, 1))

    np.testing.assert_allclose(step(10), 2.0 * step(20), rtol=1e-6)


class Given:
    """A noise source that gives what it was told."""

    def __init__(self, drawn: np.ndarray) -> None:
        self.drawn = drawn

    def normal(self, count: int, std: float) -> np.ndarray:
        return self.drawn


def test_data_are_rounded_to_the_noises_grid_before_it_is_added() -> None:
    """So float64 can show nothing of them between two steps of the grid."""
    chosen = plan(sample_rate=1.0)
    step = grid(chosen.noise_multiplier * chosen.clipping_norm)
    whole = np.arange(-500.0, 500.0)
    for off in (-0.49, 0.0, 0.3, 0.49):
        found = privacy.noisy_mean((whole + off) * step, chosen, 1, Given(np.zeros(1000)))
        np.testing.assert_array_equal(found.astype(np.float64), whole * step)


def test_the_mean_is_the_exact_sum_rounded() -> None:
    """Data and noise of any size: float64 gives the nearest number to the exact sum of both."""
    chosen = plan(sample_rate=1.0)
    std = chosen.noise_multiplier * chosen.clipping_norm
    drawn = NonPrivateForTests("r", "s", 1, 1).normal(2000, std)
    total = np.linspace(-1.0, 1.0, 2000) ** 9 * 1e9
    found = privacy.noisy_mean(total, chosen, 1, Given(drawn))
    step = Fraction(grid(std))
    for mean, data, noise in zip(found, total, drawn, strict=True):
        exact = round(Fraction(float(data)) / step) * step + Fraction(float(noise))
        assert mean == np.float32(float(exact))


def test_rounding_to_the_grid_stays_within_its_margin(monkeypatch: pytest.MonkeyPatch) -> None:
    """The noisiest plan with 10^7 parameters fits; what would not fit is refused."""
    assert np.sqrt(1e7) * grid(9999.0 * 0.3) <= privacy.ROUNDING_MARGIN * 0.3
    monkeypatch.setattr(privacy, "ROUNDING_MARGIN", 1e-12)
    with pytest.raises(OurMistake, match="coarse"):
        privacy.noisy_mean(np.zeros(1), plan(noise_multiplier=9.0), 5, SystemNoise())


def test_impossible_means_are_refused() -> None:
    """No patient declared, a clipping norm near the smallest numbers, a sum that is not finite."""
    noise = SystemNoise()
    with pytest.raises(OurMistake, match="declared"):
        privacy.noisy_mean(np.zeros(3), plan(), 0, noise)
    with pytest.raises(OurMistake, match="clipping"):
        privacy.noisy_mean(np.zeros(3), plan(clipping_norm=1e-300), 5, noise)
    for bad in (np.full(3, np.nan), np.zeros(3, dtype=np.float32)):
        with pytest.raises(OurMistake, match="finite"):
            privacy.noisy_mean(bad, plan(), 5, noise)


@pytest.mark.parametrize(
    "layer",
    [
        nn.BatchNorm1d(3),
        nn.SyncBatchNorm(3),
        nn.InstanceNorm1d(3, track_running_stats=True),
        nn.Dropout(0.1),
        nn.GRU(3, 3),
    ],
)
def test_layers_that_couple_patients_are_refused(layer: nn.Module) -> None:
    """Wherever they are nested."""
    with pytest.raises(OurMistake, match="couple"):
        privacy.refuse_coupling(nn.Sequential(nn.Linear(3, 3), nn.Sequential(layer)))


def test_harmless_layers_pass() -> None:
    """LayerNorm, and dropout that never drops."""
    privacy.refuse_coupling(nn.Sequential(nn.Linear(3, 3), nn.LayerNorm(3), nn.Dropout(0.0)))


def test_randomness_inside_forward_is_an_error() -> None:
    """Masks are drawn outside: torch refuses random numbers under vmap."""

    class Noisy(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.layer = nn.Linear(2, 2)

        def forward(self, x: Tensor) -> Tensor:
            return torch.as_tensor((self.layer(x) * torch.rand(2)).sum())

    noisy = Noisy()
    with pytest.raises(RuntimeError, match="random"):
        privacy.per_patient_gradients(noisy, dict(noisy.named_parameters()), [torch.ones(3, 2)])
