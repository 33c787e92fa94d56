"""Terms and masks of the warm start that ablations look at; none of them is in private training."""

from __future__ import annotations

import math
from typing import Literal

import numpy as np
import numpy.typing as npt
import torch
from torch import Tensor, nn
from torch.nn import functional as F

from shared_model import losses
from shared_model.config import FINGERPRINT_SIZE, FS_HZ
from shared_model.mae import ECG, PPG, MaskedAutoencoder, Views
from shared_model.patches import draw_patch_masks, fold
from simulations.cohort import draw_windows
from simulations.designs import regrouped

Masking = Literal["complementary", "independent"]
Target = Literal["samples", "per-patch"]
PERSON_TEMPERATURE = 0.1
LAGS_S = tuple(round(0.2 + 0.1 * k, 1) for k in range(19))
"""0.2 to 2.0 s: from within a beat to the second next."""


def draw_hidden(
    rng: np.random.Generator,
    count: int,
    *,
    span_share: float,
    masking: Masking,
    hidden_share: float,
) -> npt.NDArray[np.bool_]:
    """Patch masks of `count` windows, one each.

    "complementary": those of `shared_model.patches`, half of each channel. "independent": each
    channel has a mask of its own, in which so many more tokens are hidden that `hidden_share` is
    reached; so it is with a share that is not one half. The model decodes half of the tokens; those
    hidden beyond are looked at by nobody.

    Returns:
        bool (window, mask=1, channel, token).
    """
    first = draw_patch_masks(rng, (count, 1), span_share=span_share)
    if masking == "complementary" and hidden_share == 0.5:
        return first
    second = draw_patch_masks(rng, (count, 1), span_share=span_share)
    hidden = np.stack([first[..., 0, :], second[..., 0, :]], axis=-2)
    tokens = hidden.shape[-1]
    more = round(hidden_share * tokens) - tokens // 2
    order = np.where(hidden, 2.0, rng.random(hidden.shape))  # hidden ones last
    also = np.argsort(order, axis=-1)[..., :more]
    np.put_along_axis(hidden, also, True, axis=-1)
    return hidden


def per_patch(patches: Tensor) -> Tensor:
    """Each patch with mean 0 and deviation 1, as a target (MAE, 2111.06377, section 4.1).

    Args:
        patches: (..., token, patch_sample).
    """
    mean = patches.mean(-1, keepdim=True)
    return (patches - mean) / (patches.var(-1, keepdim=True, unbiased=False) + 1e-6).sqrt()


def self_similarity(signal: npt.NDArray[np.float32]) -> npt.NDArray[np.float32]:
    """Autocorrelation at `LAGS_S`: how alike a window is to itself some beats later.

    Args:
        signal: (window, channel, sample), 0 where invalid.

    Returns:
        (window, channel, lag), 0 where the channel is empty.
    """
    size = signal.shape[-1]
    spectrum = np.fft.rfft(signal, 2 * size, axis=-1)
    alike = np.fft.irfft(np.abs(spectrum) ** 2, axis=-1)
    lags = [round(lag * FS_HZ) for lag in LAGS_S]
    return np.asarray(alike[..., lags] / np.maximum(alike[..., :1], 1e-6), dtype=np.float32)


def same_person(fingerprint: Tensor, person: Tensor, use: Tensor) -> Tensor:
    """Supervised contrast (2004.11362, eq. 2) between pretend patients: which windows of the batch
    are the same person's?

    Args:
        fingerprint: (window, 128), unit norm.
        person: (window,), equal for windows of one person.
        use: bool (window,); others are neither anchors nor candidates.

    Returns:
        Mean over the used windows that have a partner; 0 if there is none.
    """
    alike = fingerprint @ fingerprint.T / PERSON_TEMPERATURE
    itself = torch.eye(len(person), dtype=torch.bool, device=person.device)
    candidate = use[None, :] & ~itself
    alike = alike.masked_fill(~candidate, -1e4)
    partner = (person[:, None] == person[None, :]) & candidate & use[:, None]
    lost = torch.logsumexp(alike, dim=1) - (alike * partner).sum(1) / partner.sum(1).clamp(min=1)
    has = partner.any(1).float()
    return (has * lost).sum() / has.sum().clamp(min=1.0)


class NegativeBank:
    """Fixed windows of pretend strangers, further negatives of the contrast inside a patient.

    They depend on a seed and on nobody's data, so a loss with them stays a function of one patient,
    the weights and public things.
    """

    def __init__(self, size: int, seed: int, device: torch.device | str = "cpu") -> None:
        """Draw `size` strangers, a window each; those who lack a sensor are left out. They stay on
        the device, which is the model's."""
        signal, valid, _ = draw_windows(np.random.default_rng([seed, 2]), size)
        kept = valid.any(-1).all(-1)
        self._patches = fold(torch.from_numpy(signal[kept])).to(device)
        valid_tokens = regrouped(valid[kept], self._patches.shape[-1])
        self._valid = torch.from_numpy(valid_tokens).to(device)

    @torch.no_grad()
    def fingerprints(self, model: MaskedAutoencoder) -> tuple[Tensor, Tensor]:
        """(stranger, 128) from ECG alone and from PPG alone, with today's weights, held still."""
        alone = []
        for channel in (ECG, PPG):
            seen = torch.zeros_like(self._valid)
            seen[:, channel] = self._valid[:, channel]
            alone.append(model.fingerprint(self._patches, seen).float())
        return alone[ECG], alone[PPG]


def contrast(
    views: Views,
    known: Tensor,
    windows_per_patient: int,
    strangers: tuple[Tensor, Tensor] | None,
) -> Tensor:
    """Mean over pretend patients of the contrast of `shared_model.losses`, the windows of one of
    them together; with `strangers`, the fingerprints of a bank, `contrast_with_bank`."""
    shape = (-1, windows_per_patient)
    alone = views.fingerprint.unflatten(0, shape)  # type: ignore[no-untyped-call]
    ecg, ppg = alone[..., -2, :], alone[..., -1, :]  # (patient, segment, 128)
    has = known.any(-1).all(-1)  # (window,): both sensors
    both = has.unflatten(0, shape).to(ecg.dtype)  # type: ignore[no-untyped-call]
    if strangers is None:
        return losses.contrast(ecg, ppg, both).mean()
    return contrast_with_bank(ecg, ppg, both, strangers).mean()


def contrast_with_bank(
    ecg: Tensor, ppg: Tensor, both: Tensor, bank: tuple[Tensor, Tensor]
) -> Tensor:
    """InfoNCE (1807.03748) in the patient, as `shared_model.losses` has it, with the strangers of a
    bank among the negatives.

    Args:
        ecg, ppg: (patient, segment, 128) unit norm.
        both: (patient, segment), 1.0 where both modalities are there.
        bank: fingerprints of `NegativeBank`, (stranger, 128) each.

    Returns:
        (patient,); 0 without a segment of both, and without a bank with fewer than two.
    """
    pair = both[..., :, None] * both[..., None, :]
    own = ecg @ ppg.transpose(-1, -2) / losses.CONTRAST_TEMPERATURE + (pair - 1.0) * 1e4
    right = torch.diagonal(own, dim1=-2, dim2=-1)
    lost = torch.zeros_like(both)
    for anchor, others, strangers in ((ecg, own, bank[PPG]), (ppg, own.mT, bank[ECG])):
        further = anchor @ strangers.T / losses.CONTRAST_TEMPERATURE  # (patient, segment, stranger)
        lost = lost + 0.5 * (torch.logsumexp(torch.cat([others, further], -1), -1) - right)
    enough = (both.sum(-1) >= (1.0 if len(bank[ECG]) else 2.0)).to(ecg.dtype)
    return enough * (both * lost).sum(-1) / both.sum(-1).clamp(min=1.0)


def draw_heads(heads: nn.Module | None, generator: torch.Generator) -> None:
    """First weights of linear heads, as torch draws them, from a generator of our own: the global
    one begins every process otherwise."""
    for one in heads.modules() if heads is not None else ():
        if isinstance(one, nn.Linear):
            bound = 1.0 / math.sqrt(one.in_features)
            nn.init.uniform_(one.weight, -bound, bound, generator=generator)
            nn.init.uniform_(one.bias, -bound, bound, generator=generator)


class SelfSimilarityHeads(nn.Module):
    """Linear heads from a fingerprint (both sensors, ECG alone, PPG alone) to `self_similarity`."""

    def __init__(self) -> None:
        super().__init__()
        self.head = nn.ModuleList(nn.Linear(FINGERPRINT_SIZE, 2 * len(LAGS_S)) for _ in range(3))

    def forward(self, which: int, fingerprint: Tensor, alike: Tensor, use: Tensor) -> Tensor:
        """Mean loss over the channels in `use` bool (window, channel); alike: the targets."""
        made = self.head[which](fingerprint * math.sqrt(FINGERPRINT_SIZE)).reshape(alike.shape)
        error = F.smooth_l1_loss(made, alike, reduction="none").mean(-1)  # (window, channel)
        return torch.as_tensor((error * use).sum() / use.sum().clamp(min=1.0))
