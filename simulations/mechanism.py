"""The node's private training as an examiner sees it: data put in, updates and bookings come out.

For `fedprint-audit selftest`, which may not import `client` by itself. Everything here and in
`simulations.mechanism_round` runs the code that a node runs (`client.training.train_round`,
`client.ledger_store`, `SystemNoise`, whole rounds through `simulations.federation`); nothing
computes a gradient, a clip or a noise of its own. Only the data are made up, and they are made to
be difficult.

With SGD an update is a sum of noised means, so that `-update x q N / learning rate` is the sum over
steps of (clipped sum + noise): the quantity about which the guarantee speaks.
"""

from __future__ import annotations

import math
import multiprocessing
import warnings
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from typing import Any

import numpy as np
import torch

from client.training import train_round
from shared_model import distributed, mae, privacy
from shared_model.config import LocalTraining, ModelConfig, PrivacyPlan
from shared_model.errors import OurMistake
from shared_model.noise import NoiseSource, NonPrivateForTests, SystemNoise
from shared_model.secure_sum.numbers import rotate

SMALL = ModelConfig(
    preset="selftest", width=16, heads=2, encoder_blocks=1, bottleneck_blocks=1,
    decoder_width=16, decoder_blocks=1,
)  # fmt: skip
"""The same layers as every preset, cheap enough for hundreds of steps."""
PROCESS_S = 300.0
"""How long another process may take for one round."""
_SAMPLES, _TOKENS = 1250, 50
_ROTATION = bytes(range(32))
"""Public in a real round too; any will do."""


@dataclass
class Patients:
    """A store of made-up patients that writes down whom training asks for.

    signal: float32 (patient, segment, 2, 1250); valid: bool (patient, segment, 2, 50).
    asked: patient indices of each call of `segments` since the last `step_ended`.
    """

    signal: np.ndarray
    valid: np.ndarray
    asked: list[np.ndarray] = field(default_factory=list)
    by_step: list[np.ndarray] = field(default_factory=list)

    @property
    def patient_count(self) -> int:
        return len(self.signal)

    def segments(
        self, patients: np.ndarray, segments: int, rng: np.random.Generator
    ) -> tuple[np.ndarray, np.ndarray]:
        """The first `segments` windows of each patient; nothing is drawn."""
        self.asked.append(np.array(patients))
        return self.signal[patients][:, :segments], self.valid[patients][:, :segments]

    def step_ended(self, step: int, steps: int) -> None:
        """Told by training after each step."""
        taken = np.concatenate(self.asked) if self.asked else np.zeros(0, dtype=np.int64)
        self.by_step.append(taken)
        self.asked.clear()

    def first(self, count: int) -> Patients:
        """The store with the first patients only."""
        return Patients(self.signal[:count], self.valid[:count])


def silent_patients(count: int, segments: int = 1) -> Patients:
    """Patients without one valid token: whatever the weights, their gradient is zero."""
    return Patients(
        np.zeros((count, segments, 2, _SAMPLES), dtype=np.float32),
        np.zeros((count, segments, 2, _TOKENS), dtype=bool),
    )


def loud_patients(sizes: Sequence[float], segments: int) -> Patients:
    """One patient of each size, all segments alike, so that gradients of segments add up.

    A size that is not finite makes one sample of the patient so.
    """
    wave = np.random.default_rng(11).standard_normal((1, 1, 2, _SAMPLES)).astype(np.float32)
    signal = np.repeat(np.repeat(wave, len(sizes), axis=0), segments, axis=1)
    for patient, size in enumerate(sizes):
        if math.isfinite(size):
            signal[patient] *= np.float32(size)
        else:
            signal[patient, 0, 0, 7] = size
    return Patients(signal, np.ones((*signal.shape[:3], _TOKENS), dtype=bool))


ODD_ONES = ("fits all", "fits all, 50-fold", "silence", "sine", "another")
"""What the last patient of an adversarial batch may be."""


def near_duplicates(count: int, segments: int, odd_one: str) -> Patients:
    """An adversarial batch: patients nearly alike, and a last one that differs from them all.

    If patients are coupled (in a loss, in a normalisation), taking the last one out moves every
    other patient's term, and all in the same direction; on random patients that hardly shows.

    Args:
        odd_one: of `ODD_ONES`. "fits all": its PPG is everybody's ECG.
    """
    rng = np.random.default_rng(12)
    base = rng.standard_normal((1, 1, 2, _SAMPLES))
    signal = base + 1e-4 * rng.standard_normal((count, segments, 2, _SAMPLES))
    match odd_one:
        case "fits all":
            signal[-1, :, 1] = base[0, 0, 0]
        case "fits all, 50-fold":
            signal[-1, :, 1] = base[0, 0, 0]
            signal[-1] *= 50.0
        case "silence":
            signal[-1] = 0.0
        case "sine":
            signal[-1] = 50.0 * np.sin(np.arange(_SAMPLES) / 5.0)
        case "another":
            signal[-1] = rng.standard_normal((segments, 2, _SAMPLES))
        case _:
            raise OurMistake(f"There is no odd one {odd_one!r}.")
    signal = signal.astype(np.float32)
    return Patients(signal, np.ones((*signal.shape[:3], _TOKENS), dtype=bool))


def model_of(config: ModelConfig) -> mae.MaskedAutoencoder:
    """Random weights, always the same; without training every patient has a large gradient."""
    return mae.build(config, 7)


@dataclass(frozen=True)
class Taken:
    """What was seen of one round.

    total: float64 (d,), sum over steps of clipped sum + noise; parameters in sorted order.
    parts: size of each parameter tensor, in that order.
    steps: how often training said that a step was over.
    """

    total: np.ndarray
    parts: tuple[int, ...]
    steps: int


def take_round(
    config: ModelConfig,
    data: Patients,
    plan: PrivacyPlan,
    training: LocalTraining,
    declared_patients: int,
    noise: NoiseSource | None = None,
) -> Taken:
    """One round of the node's training, with the noise that the node makes unless another is given.

    Raises:
        OurMistake: the optimiser is not SGD: its update would not be linear in the noised sums.
    """
    if training.optimiser != "sgd":
        raise OurMistake("A round can be taken apart only if its optimiser is SGD.")
    outcome = train_round(
        model_of(config),
        data,
        plan,
        training,
        declared_patients,
        SystemNoise() if noise is None else noise,
        data.step_ended,
    )
    names = sorted(outcome.update)
    flat = np.concatenate([outcome.update[name].ravel() for name in names]).astype(np.float64)
    scale = plan.sample_rate * declared_patients / training.learning_rate
    parts = tuple(int(outcome.update[name].size) for name in names)
    return Taken(-flat * scale, parts, len(data.by_step))


def contribution(
    config: ModelConfig,
    data: Patients,
    plan: PrivacyPlan,
    training: LocalTraining,
    declared_patients: int,
) -> np.ndarray:
    """What the last patient of the store adds to a step: float64 (d,).

    The step is taken with and without that patient, with the same noise, which cancels, and the
    same patch masks for everybody. Everyone is sampled.

    Raises:
        OurMistake: the plan is not of one step with sample rate 1.
    """
    if plan.steps != 1 or plan.sample_rate != 1.0:
        raise OurMistake("A contribution is measured in one step with sample rate 1.")
    with_and_without = [
        take_round(config, data.first(count), plan, training, declared_patients, _Repeated()).total
        for count in (data.patient_count, data.patient_count - 1)
    ]
    return np.asarray(with_and_without[0] - with_and_without[1])


class _Repeated(NonPrivateForTests):
    """The same noise and the same public choices for each patient, whoever else is there."""

    def __init__(self) -> None:
        super().__init__("selftest", "selftest", 1, 1)

    def public_generator(self) -> np.random.Generator:
        return _AlikeForAll(np.random.PCG64(5))


class _AlikeForAll(np.random.Generator):
    """Draws for one row of axis 0 and repeats it."""

    def random(self, size: Any = None, *rest: Any) -> Any:  # type: ignore[override]
        row = super().random((1, *size[1:]), *rest)
        return np.repeat(row, size[0], axis=0)

    def integers(self, low: Any, high: Any = None, size: Any = None, **rest: Any) -> Any:  # type: ignore[override]
        row = super().integers(low, high, size=(1, *size[1:]), **rest)
        return np.repeat(row, size[0], axis=0)


def integers(
    total: np.ndarray, numbers: distributed.Shares, place: int, noise: NoiseSource
) -> np.ndarray:
    """float64 (padded,): what a hospital would add in mode distributed, around 0."""
    vector = distributed.share(total, numbers, place, _ROTATION, noise).vector
    return centred(vector, numbers)


def centred(values: np.ndarray, numbers: distributed.Shares) -> np.ndarray:
    """float64: the representatives mod 2^m that are nearest to 0."""
    half = 1 << (numbers.modulus_bits - 1)
    whole = np.asarray(values).astype(np.int64)
    return np.asarray(((whole + half) % (2 * half) - half).astype(np.float64))


def integer_changes(numbers: distributed.Shares) -> list[tuple[str, float]]:
    """L2 change of one hospital's integers by a patient that the product clips, in integer steps.

    Each patient is a gradient a thousand times too long in a direction made to do harm, beside a
    sum that stands just before a rounding edge in every rotated coordinate, and is pushed over it.
    The noise is the same with and without the patient.
    """
    rng = np.random.default_rng(13)
    matrix = np.stack(
        [rotate(row, numbers, _ROTATION) for row in np.eye(numbers.dimension)], axis=1
    )  # (padded, d), orthonormal columns: its transpose turns back
    directions = {
        "random": rng.standard_normal(numbers.padded),
        "one coordinate": np.eye(1, numbers.padded, 3)[0],
        "all coordinates alike": np.ones(numbers.padded),
        "all coordinates, either sign": rng.choice([-1.0, 1.0], numbers.padded),
    }
    told = []
    for kind, turned in directions.items():
        gradient = matrix.T @ turned
        gradient *= 1e3 * numbers.norm_bound / np.linalg.norm(gradient)
        patient = privacy.clip_and_sum(
            {"all": torch.from_numpy(gradient[None])}, numbers.norm_bound
        )
        step = (matrix @ patient) * numbers.scale
        for grid in (1, 2, 4, 8, 16):  # just before its edge: coarser rounding shows too
            edge = np.sign(step) * (grid / 2 - 0.1)
            base = (matrix.T @ edge) / numbers.scale
            before, after = (integers(x, numbers, 0, _Repeated()) for x in (base, base + patient))
            change = np.linalg.norm(centred(after - before, numbers))
            told.append((f"{kind}, at an edge of {grid}", float(change)))
    return told


def drawn_samples(count: int, rate: float, times: int) -> list[np.ndarray]:
    """Samples of the node's sampler by itself."""
    noise = SystemNoise()
    return [noise.poisson_sample(count, rate) for _ in range(times)]


def noise_alone(config: ModelConfig) -> np.ndarray:
    """float64 (d,): one step of a round on an empty store, divided by its noise's deviation."""
    plan = PrivacyPlan(sample_rate=1.0, noise_multiplier=1.0, clipping_norm=1.0, steps=1)
    training = LocalTraining(optimiser="sgd", learning_rate=1.0, trainable="all")
    return take_round(config, silent_patients(0), plan, training, 1).total


def noise_in_processes(config: ModelConfig, how: str, count: int) -> list[np.ndarray]:
    """`noise_alone` of some processes that were started from this one and are otherwise alike.

    Args:
        how: "fork": they inherit everything that is in memory; "spawn": they begin anew.
    """
    return [_elsewhere(how, noise_alone, config) for _ in range(count)]


def noise_of_carried_source() -> tuple[np.ndarray, np.ndarray] | None:
    """Draws of one source in a forked process and in this one; None if it refuses the former."""
    noise = SystemNoise()
    told: np.ndarray = _elsewhere("fork", _draw_or_nothing, noise)
    if told.size == 0:
        return None
    return told, noise.normal(told.size, 1.0)


def _draw_or_nothing(noise: SystemNoise) -> np.ndarray:
    try:
        return noise.normal(4096, 1.0)
    except OurMistake:
        return np.zeros(0)


def can(how: str) -> bool:
    """Whether processes can be started so on this machine."""
    return how in multiprocessing.get_all_start_methods()


def _elsewhere(how: str, work: Callable[[Any], np.ndarray], argument: Any) -> np.ndarray:
    context: Any = multiprocessing.get_context(how)
    ours, theirs = context.Pipe(duplex=False)
    process = context.Process(target=_tell, args=(theirs, work, argument), daemon=True)
    with warnings.catch_warnings():
        # Python 3.12 warns of forks beside threads; the child here uses one thread and ends.
        warnings.simplefilter("ignore", DeprecationWarning)
        process.start()
    theirs.close()
    try:
        if not ours.poll(PROCESS_S):
            raise OurMistake(f"A process ({how}) did not answer in {PROCESS_S:g} s.")
        data: bytes = ours.recv_bytes()
    except EOFError as error:
        raise OurMistake(f"A process ({how}) ended without an answer.") from error
    finally:
        process.kill()
        process.join()
        ours.close()
    return np.frombuffer(data, dtype=np.float64)


def _tell(pipe: Any, work: Callable[[Any], np.ndarray], argument: Any) -> None:
    torch.set_num_threads(1)  # a forked process must not wait for threads that it does not have
    pipe.send_bytes(np.asarray(work(argument), dtype=np.float64).tobytes())
