"""The synthetic warm start: train everything on simulated windows. No patient, no privacy cost.

Loss of a step: masked reconstruction + cross-modal reconstruction + alignment, as in
`shared_model.losses` but over a batch of simulated windows, and an auxiliary one that only exists
here: linear heads on the fingerprints (of both sensors and of each alone) predict what the
simulator knows (heart rate, variability, rhythm, blood pressure, ...). The heads are thrown away.
"""

from __future__ import annotations

import math
import multiprocessing as mp
import signal as signals
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import asdict, dataclass
from multiprocessing.connection import Connection
from typing import Any, Literal, get_args

import numpy as np
import torch
from torch import Tensor, nn
from torch.nn import functional as F

from shared_model import losses
from shared_model.config import FINGERPRINT_SIZE, ModelConfig
from shared_model.errors import FedprintError, OurMistake
from shared_model.mae import (
    ECG,
    PPG,
    MaskedAutoencoder,
    build,
    load_weights,
    weights_of,
)
from shared_model.patches import fold
from shared_model.weights import Weights
from simulations.cohort_sites import RHYTHMS
from simulations.designs import regrouped
from simulations.pretrain_terms import (
    Masking,
    NegativeBank,
    SelfSimilarityHeads,
    Target,
    contrast,
    draw_heads,
    draw_hidden,
    per_patch,
    same_person,
    self_similarity,
)

LARGEST_BATCH = 4096
"""Windows of a step; all of them are in memory, several times."""
BothSeen = Literal["masked", "whole"]
Batch = tuple[np.ndarray, np.ndarray, dict[str, np.ndarray]]


NUMBERS = (
    "hr_bpm", "sdnn_ms", "rmssd_ms", "pnn50", "rr_spread", "ectopic_count", "beat_count", "age",
    "sbp", "dbp", "stiffness", "reflected", "diastolic_delay_s", "respiration_hz",
    "noise_ecg", "noise_ppg",
)  # fmt: skip
CLASSES = {"rhythm": len(RHYTHMS), "block": 3, "hypertension": 4, "male": 2, "lvh": 2}
"""What the auxiliary heads predict of the simulator's labels: numbers, classes with their size."""


@dataclass(frozen=True)
class Recipe:
    """How the warm start is trained. AdamW; `learning_rate` is reached after `warm_up` steps and
    falls to zero along a cosine."""

    steps: int
    seed: int
    batch: int = 64
    learning_rate: float = 3e-3
    beta2: float = 0.95
    weight_decay: float = 0.05
    warm_up: int = 60
    gradient_norm: float = 1.0
    cross_modal_weight: float = 0.5
    alignment_weight: float = 0.1
    auxiliary_weight: float = 0.3
    single_share: float = 0.1
    short_share: float = 0.1
    precision: Literal["float32", "bfloat16"] = "float32"
    """Of the matrix products; weights, losses and sums are float32 in both."""
    contrast_weight: float = 0.0
    """Of InfoNCE among a patient's own windows; needs `windows_per_patient` above 1, or a bank."""
    bank_size: int = 0
    """Pretend strangers, drawn once, who are further negatives of `contrast_weight`."""
    windows_per_patient: int = 1
    """Windows in a row of one pretend patient; `batch` is a multiple."""
    person_weight: float = 0.0
    """Of telling pretend patients apart (see `same_person`); needs `windows_per_patient` above 1.
    Only here: a loss over other patients is refused in private training."""
    span_share: float = 0.5
    """Share of patch masks that hide spans; the others hide single tokens."""
    masking: Masking = "complementary"
    hidden_share: float = 0.5
    """Of a channel's tokens. Only halves can be complementary: with another share the two channels'
    masks are independent, whatever `masking` says."""
    target: Target = "samples"
    """What is reconstructed from both sensors: the samples, or each patch normalised."""
    self_similarity_weight: float = 0.0
    """Of predicting the window's autocorrelation from its fingerprint."""
    both_seen: BothSeen = "masked"
    """What labels, person contrast and self-similarity look at of both sensors: the view with half
    of each channel hidden, which is there anyway, or the whole window, as a fingerprint is made of
    it."""

    def rate(self, step: int) -> float:
        """Learning rate at a step."""
        if step < self.warm_up:
            return self.learning_rate * (step + 1) / self.warm_up
        done = (step - self.warm_up) / max(1, self.steps - self.warm_up)
        return self.learning_rate * 0.5 * (1.0 + math.cos(math.pi * min(1.0, done)))

    def as_dict(self) -> dict[str, Any]:
        return asdict(self)


def check(recipe: Recipe) -> None:
    """What would fail only in mid-training, or not at all.

    Raises:
        OurMistake: says what cannot be trained.
    """
    numbers = (recipe.learning_rate, recipe.gradient_norm, recipe.batch, recipe.windows_per_patient)
    shares = (recipe.single_share, recipe.short_share, recipe.span_share)
    weights = (recipe.cross_modal_weight, recipe.alignment_weight, recipe.auxiliary_weight,
               recipe.contrast_weight, recipe.person_weight, recipe.weight_decay,
               recipe.self_similarity_weight)  # fmt: skip
    wrong = ""
    if not all(math.isfinite(one) and one >= 0 for one in weights):
        wrong = "weights are finite and not below 0"
    elif not all(map(math.isfinite, numbers)) or min(numbers) <= 0:
        wrong = "learning_rate, gradient_norm, batch and windows_per_patient must be above 0"
    elif not all(0 <= one <= 1 for one in shares) or not 0 <= recipe.beta2 < 1:
        wrong = "shares are in 0 ... 1, and beta2 is below 1"
    elif recipe.batch > LARGEST_BATCH:
        wrong = f"batch is at most {LARGEST_BATCH}"
    elif recipe.batch % recipe.windows_per_patient:
        wrong = "batch must be a multiple of windows_per_patient"
    elif not 0 <= recipe.bank_size <= 65_536 or (recipe.bank_size and not recipe.contrast_weight):
        wrong = "bank_size is 0 ... 65536, and needs contrast_weight above 0"
    elif recipe.windows_per_patient < 2 and (
        recipe.person_weight or (recipe.contrast_weight and not recipe.bank_size)
    ):
        wrong = "contrast_weight (without a bank) and person_weight need windows_per_patient >= 2"
    elif recipe.person_weight and recipe.batch < 2 * recipe.windows_per_patient:
        wrong = "person_weight needs at least two patients in a batch"
    elif recipe.precision not in {"float32", "bfloat16"}:
        wrong = "precision is float32 or bfloat16"
    elif recipe.masking not in get_args(Masking):
        wrong = "masking is complementary or independent"
    elif not 0.5 <= recipe.hidden_share <= 0.9:
        wrong = "hidden_share is in 0.5 ... 0.9"
    elif recipe.target not in get_args(Target):
        wrong = "target is samples or per-patch"
    elif recipe.both_seen not in get_args(BothSeen):
        wrong = "both_seen (--both-seen) is masked or whole"
    if wrong:
        raise OurMistake(f"The recipe cannot be trained: {wrong}.")


@dataclass(frozen=True)
class Point:
    """One point of the training curve; errors over the trivial predictor's (about 1)."""

    step: int
    masked: float
    cross_modal: float
    auxiliary: float


class AuxiliaryHeads(nn.Module):
    """Linear heads from a fingerprint to the simulator's labels: numbers regressed (standardised),
    classes by cross entropy."""

    def __init__(self, labels: dict[str, np.ndarray]) -> None:
        super().__init__()
        self.numbers = [name for name in NUMBERS if name in labels]
        self.classes = {n: size for n, size in CLASSES.items() if n in labels}
        known = np.stack([labels[name] for name in self.numbers], axis=1)
        centre, scale = np.nanmean(known, axis=0), np.nanstd(known, axis=0) + 1e-6
        self.register_buffer("centre", torch.from_numpy(centre).float(), persistent=False)
        self.register_buffer("scale", torch.from_numpy(scale).float(), persistent=False)
        self.centre: Tensor
        self.scale: Tensor
        size = len(self.numbers) + sum(self.classes.values())
        self.head = nn.ModuleList(nn.Linear(FINGERPRINT_SIZE, size) for _ in range(3))

    def forward(
        self, which: int, fingerprint: Tensor, labels: dict[str, Tensor], use: Tensor
    ) -> Tensor:
        """Mean loss over windows in `use` bool (n,); which: 0 both, 1 ECG alone, 2 PPG alone."""
        made = self.head[which](fingerprint * math.sqrt(FINGERPRINT_SIZE))
        weight = use.float() / use.float().sum().clamp(min=1.0)
        count = len(self.numbers)
        truth = torch.stack([labels[name].float() for name in self.numbers], dim=1)
        truth = ((truth - self.centre) / self.scale).clamp(-4.0, 4.0)
        known = torch.isfinite(truth)
        error = F.smooth_l1_loss(made[:, :count], torch.nan_to_num(truth), reduction="none")
        loss = (error * known * weight[:, None]).sum() / max(1, count)
        for name, size in self.classes.items():
            target = labels[name].long().clamp(0, size - 1)
            entropy = F.cross_entropy(made[:, count : count + size], target, reduction="none")
            loss = loss + 0.2 * (entropy * weight).sum() / max(1, len(self.classes))
            count += size
        return loss


def train(
    config: ModelConfig,
    recipe: Recipe,
    *,
    start_from: Weights | None = None,
    on_point: Callable[[Point], None] | None = None,
    on_keep: Callable[[int, Weights], None] | None = None,
    keep_every: int = 250,
    device: torch.device | str = "cpu",
) -> tuple[Weights, list[Point]]:
    """Train from scratch or on from `start_from`; a second process simulates the windows.

    All draws are the CPU's, whatever the device, and the batches depend on the seed alone. Sums in
    torch depend on the thread count: equal weights need as many threads. A GPU adds gradients of
    gathered tokens in no fixed order: there they are alike, not equal. Weights are given as
    float32 of the CPU.
    """
    model = build(config, recipe.seed)
    if start_from is not None:
        load_weights(model, start_from)
    model.to(device)
    masks = np.random.default_rng([recipe.seed, 1])
    points: list[Point] = []
    with simulated_batches(recipe) as batches:
        first = next(batches)
        with torch.random.fork_rng(devices=[]):
            heads = AuxiliaryHeads(first[2])
            alike = SelfSimilarityHeads() if recipe.self_similarity_weight else None
        drawn = torch.Generator().manual_seed(recipe.seed)
        for each in (heads, alike):
            draw_heads(each, drawn)
            if each is not None:
                each.to(device)
        parameters = [*model.parameters(), *heads.parameters()]
        parameters += [] if alike is None else [*alike.parameters()]
        optimiser = torch.optim.AdamW(
            parameters,
            lr=recipe.learning_rate,
            betas=(0.9, recipe.beta2),
            weight_decay=recipe.weight_decay,
        )
        bank = NegativeBank(recipe.bank_size, recipe.seed, device) if recipe.bank_size else None
        sums = np.zeros(3)
        for step in range(recipe.steps):
            for group in optimiser.param_groups:
                group["lr"] = recipe.rate(step)
            loss, parts = step_loss(
                model, heads, alike, first if step == 0 else next(batches), recipe, masks, bank
            )
            optimiser.zero_grad(set_to_none=True)
            loss.backward()  # type: ignore[no-untyped-call]
            nn.utils.clip_grad_norm_(parameters, recipe.gradient_norm)
            optimiser.step()
            sums += parts
            if (step + 1) % 25 == 0 or step + 1 == recipe.steps:
                since = (step % 25) + 1
                points.append(Point(step + 1, *(float(v) for v in sums / since)))
                sums[:] = 0.0
                if on_point is not None:
                    on_point(points[-1])
            if on_keep is not None and (step + 1) % keep_every == 0:
                on_keep(step + 1, weights_of(model))
    return weights_of(model), points


def step_loss(
    model: MaskedAutoencoder,
    heads: AuxiliaryHeads,
    alike: SelfSimilarityHeads | None,
    batch: Batch,
    recipe: Recipe,
    rng: np.random.Generator,
    bank: NegativeBank | None = None,
) -> tuple[Tensor, np.ndarray]:
    """The loss of one step; masked and cross-modal error and auxiliary loss for the curve.

    Computed where the model's weights are; heads and bank are there, too.
    """
    signal, valid, labels = batch
    device = next(model.parameters()).device
    patches = fold(torch.from_numpy(signal)).to(device)
    known = torch.from_numpy(regrouped(valid, patches.shape[-1])).to(device)
    drawn = draw_hidden(
        rng, len(signal), span_share=recipe.span_share, masking=recipe.masking,
        hidden_share=recipe.hidden_share,
    )  # fmt: skip
    hidden = torch.from_numpy(drawn).to(device)
    truth = {name: torch.from_numpy(value).to(device) for name, value in labels.items()}
    with torch.autocast(device.type, torch.bfloat16, enabled=recipe.precision == "bfloat16"):
        views = model(patches, known, hidden)
        whole = model.fingerprint(patches, known) if recipe.both_seen == "whole" else None
        strangers = None if bank is None else bank.fingerprints(model)
    views = views._replace(
        fingerprint=views.fingerprint.float(),
        predicted=(views.predicted[ECG].float(), views.predicted[PPG].float()),
    )
    target = per_patch(patches) if recipe.target == "per-patch" else patches
    every = losses.terms(views, target, known)
    has = known.any(-1)
    uses = (has.any(-1), has[:, ECG], has[:, PPG])  # of both sensors, ECG alone, PPG alone
    looked_at = [*views.fingerprint.unbind(dim=1)]
    if whole is not None:
        looked_at[0] = whole.float()
    seen = list(zip(looked_at, uses, strict=True))
    told = [heads(k, one, truth, use) for k, (one, use) in enumerate(seen)]
    auxiliary = sum(told, torch.zeros((), device=device))
    masked, cross = every.masked.mean(), every.cross_modal.mean()
    loss = (
        masked
        + recipe.cross_modal_weight * cross
        + recipe.alignment_weight * every.alignment.mean()
        + recipe.auxiliary_weight * auxiliary
    )
    if recipe.contrast_weight:
        apart = contrast(views, known, recipe.windows_per_patient, strangers)
        loss = loss + recipe.contrast_weight * apart
    if recipe.person_weight:
        person = torch.arange(len(signal), device=device) // recipe.windows_per_patient
        apart = torch.stack([same_person(one, person, use) for one, use in seen])
        loss = loss + recipe.person_weight * apart.mean()
    if alike is not None:
        right = torch.from_numpy(self_similarity(signal)).to(device)
        missed = [alike(k, one, right, has * use[:, None]) for k, (one, use) in enumerate(seen)]
        loss = loss + recipe.self_similarity_weight * torch.stack(missed).mean()
    return loss, np.array([masked.item(), cross.item(), auxiliary.item()])


@contextmanager
def simulated_batches(recipe: Recipe) -> Iterator[Iterator[Batch]]:
    """Batches of simulated windows in seed order, made by a child process that ends with us.

    Raises:
        FedprintError: from an iteration, if the child has ended before it was done.
    """
    context = mp.get_context("spawn")
    ours, theirs = context.Pipe(duplex=False)
    child = context.Process(target=_simulate, args=(theirs, recipe), daemon=True)
    child.start()
    theirs.close()

    def receive() -> Iterator[Batch]:
        while True:
            try:
                yield ours.recv()
            except (EOFError, OSError) as error:  # between two batches, in the middle of one
                child.join()
                raise FedprintError(
                    f"The process that simulates windows has ended (status {child.exitcode}).",
                    do="What it said stands above; a negative status is a signal: 9 may be memory.",
                ) from error

    try:
        yield receive()
    finally:
        child.terminate()
        child.join()
        ours.close()


def _simulate(out: Connection, recipe: Recipe) -> None:
    """Child: draw batch after batch until the parent goes away."""
    signals.signal(signals.SIGINT, signals.SIG_IGN)  # a Ctrl-C is for the parent, which ends us
    from simulations.cohort import draw_windows

    torch.set_num_threads(1)
    for step in range(recipe.steps):
        rng = np.random.default_rng([recipe.seed, 0, step])
        signal, valid, labels = draw_windows(
            rng,
            recipe.batch,
            single_share=recipe.single_share,
            short_share=recipe.short_share,
            windows_per_patient=recipe.windows_per_patient,
        )
        kept = {name: labels[name].astype(np.float64) for name in NUMBERS}
        kept |= {name: labels[name].astype(np.int64) for name in CLASSES}
        try:
            out.send((signal, valid, kept))
        except (BrokenPipeError, OSError):
            return


def timed() -> Callable[[], float]:
    """Seconds since this call."""
    began = time.monotonic()
    return lambda: time.monotonic() - began
