"""Fingerprints: 128 numbers of unit length for a 10-s window of ECG, PPG or both."""

from __future__ import annotations

import numpy as np
import torch

from shared_model.config import FINGERPRINT_SIZE
from shared_model.mae import MaskedAutoencoder, all_tokens, pool
from shared_model.patches import fold


def fingerprints(
    model: MaskedAutoencoder, signal: np.ndarray, valid: np.ndarray, batch_size: int = 256
) -> np.ndarray:
    """Frozen fingerprints.

    Args:
        signal: float32 (window, channel=2, sample=1250); valid: bool (window, channel=2, token=50).

    Returns:
        float32 (window, 128), unit length; zero where nothing is valid.
    """
    out = np.zeros((len(signal), FINGERPRINT_SIZE), dtype=np.float32)
    with torch.inference_mode():
        for start in range(0, len(signal), batch_size):
            part = slice(start, start + batch_size)
            patches = fold(torch.from_numpy(np.ascontiguousarray(signal[part], dtype=np.float32)))
            known = torch.from_numpy(np.ascontiguousarray(valid[part]))
            index = all_tokens(len(patches))
            out[part] = pool(*model.encode(patches, known, (index, index))).numpy()
    return out
