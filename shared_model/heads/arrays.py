"""`head.safetensors`: the coefficients of a head, and a head as manifest and coefficients.

head = opened(manifest, data)        # hostile bytes in, or Refused

mean, scale (feature=128)            standardisation: x = (fingerprint - mean) / scale
weight (output, 128), bias (output)  logits of the classes, or the number; not of identity
far_mean (128)                       of x of the patients trained on, or of simulated windows
far_factor (128, 128)                squared distance = |far_factor (x - far_mean)|^2 / 128
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field

import numpy as np
import numpy.typing as npt

from shared_model import canonical
from shared_model import weights as weights_io
from shared_model.config import FINGERPRINT_SIZE
from shared_model.errors import Refused
from shared_model.heads.manifest import ARRAYS_LIMIT_BYTES, HeadManifest

LARGEST = 1e9
"""Magnitude of a coefficient; more is a sign of a file made to overflow."""
SMALLEST_SCALE = 1e-9

Array = npt.NDArray[np.float32]


@dataclass(frozen=True)
class Head:
    """A head that was checked: names, shapes and finiteness of the arrays are as they must be."""

    manifest: HeadManifest
    arrays: dict[str, Array] = field(repr=False)


def shapes(outputs: int) -> dict[str, tuple[int, ...]]:
    """Names and shapes of a head's arrays."""
    size = FINGERPRINT_SIZE
    found: dict[str, tuple[int, ...]] = {
        "mean": (size,),
        "scale": (size,),
        "far_mean": (size,),
        "far_factor": (size, size),
    }
    return found | ({"weight": (outputs, size), "bias": (outputs,)} if outputs else {})


def check(arrays: Mapping[str, Array], outputs: int) -> None:
    """Raises Refused (reason "arrays") unless these are the arrays of so many outputs."""
    if {name: value.shape for name, value in arrays.items()} != shapes(outputs):
        raise Refused("The arrays are not those of such a head.", reason="arrays")
    for name, value in arrays.items():
        if value.dtype != np.float32 or not np.isfinite(value).all():
            raise Refused(f"Array {name} is not finite float32.", reason="arrays")
        if float(np.abs(value).max()) > LARGEST:
            raise Refused(f"Array {name} has numbers beyond any head's.", reason="arrays")
    if float(arrays["scale"].min()) < SMALLEST_SCALE:
        raise Refused("A scale of the head is not above zero.", reason="arrays")


def to_bytes(arrays: Mapping[str, Array]) -> bytes:
    """Safetensors bytes, names sorted."""
    return weights_io.to_bytes(arrays)


def opened(manifest: HeadManifest, data: bytes) -> Head:
    """The head of a manifest and the bytes of its arrays, which are hostile.

    Raises:
        Refused: reasons "size", "digest" (not the file that the manifest names), "weights",
            "arrays" (other names, shapes or types; a number that is not finite).
    """
    if len(data) > ARRAYS_LIMIT_BYTES or len(data) != manifest.arrays.size_bytes:
        raise Refused("head.safetensors has another size than head.json says.", reason="size")
    if canonical.digest(data) != manifest.arrays.digest:
        raise Refused("head.safetensors is not the file that head.json names.", reason="digest")
    arrays = weights_io.from_bytes(data)
    check(arrays, manifest.outputs)
    return Head(manifest, arrays)
