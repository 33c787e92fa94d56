"""Fingerprints of windows: 128 numbers for 10 seconds of ECG, PPG or both."""

from __future__ import annotations

import numpy as np
import torch

from shared_model.config import CHANNELS, FINGERPRINT_SIZE, TOKENS, WINDOW_SAMPLES
from shared_model.errors import OurMistake
from shared_model.mae import MaskedAutoencoder
from shared_model.patches import fold


def fingerprints(
    model: MaskedAutoencoder, signal: np.ndarray, valid: np.ndarray, batch_size: int = 256
) -> np.ndarray:
    """Fingerprint of each window; a modality counts where `valid` says so.

    For ECG only, give `valid` with the PPG row all False, and the other way round.

    Args:
        signal: float32 (window, channel=2, sample=1250), z-scored, 0 where invalid.
        valid: bool (window, channel=2, token=50).
        batch_size: windows held in the model at once.

    Returns:
        float32 (window, 128), each of unit norm.

    Raises:
        OurMistake: wrong shapes, a value that is not finite, or a window without a valid token.
    """
    count = signal.shape[0]
    if signal.shape != (count, len(CHANNELS), WINDOW_SAMPLES):
        raise OurMistake("The signal must be (window, channel=2, sample=1250).")
    if valid.shape != (count, len(CHANNELS), TOKENS) or valid.dtype != np.bool_:
        raise OurMistake("'valid' must be bool (window, channel=2, token=50).")
    if not valid.any(axis=(1, 2)).all():
        raise OurMistake(
            "A window has no valid token, so it has no fingerprint.",
            do="Leave out windows that the quality gate refused in both channels.",
        )
    if not np.isfinite(signal).all():
        raise OurMistake("The signal has values that are not finite.")
    result = np.empty((count, FINGERPRINT_SIZE), dtype=np.float32)
    device = next(model.parameters()).device
    with torch.inference_mode():
        for start in range(0, count, batch_size):
            rows = slice(start, start + batch_size)
            patches = fold(torch.tensor(signal[rows], dtype=torch.float32, device=device))
            ok = torch.tensor(valid[rows], device=device)
            result[rows] = model.fingerprint(patches, ok).cpu().numpy()
    return result
