"""Plain values and arrays in one block of bytes: checkpoints, rounds' inputs, what sites keep.

It is a safetensors file; the plain values lie in its metadata as JSON. No pickle.
"""

from __future__ import annotations

import json
from collections.abc import Mapping
from typing import Any

import numpy as np
import numpy.typing as npt

from shared_model.errors import Refused

Arrays = dict[str, npt.NDArray[Any]]
_META = "lab"


def pack(meta: Mapping[str, Any], arrays: Mapping[str, npt.NDArray[Any]]) -> bytes:
    """`meta` must survive JSON. Equal content gives equal bytes."""
    from safetensors.numpy import save

    ordered = {name: np.ascontiguousarray(arrays[name]) for name in sorted(arrays)}
    return bytes(save(ordered, {_META: json.dumps(meta, sort_keys=True)}))


def unpack(data: bytes) -> tuple[dict[str, Any], Arrays]:
    """The reverse of `pack`.

    Raises:
        Refused: this is no such block (reason "files").
    """
    from safetensors.numpy import load

    try:
        size = int.from_bytes(data[:8], "little")
        header = json.loads(data[8 : 8 + size])
        meta: dict[str, Any] = json.loads(header["__metadata__"][_META])
        arrays: Arrays = load(data)
    except Exception as error:
        raise Refused("This is no file of a lab run, or it is damaged.", reason="files") from error
    return meta, arrays


def part(arrays: Mapping[str, npt.NDArray[Any]], prefix: str) -> Arrays:
    """Arrays whose name begins with `prefix` and a colon, without it."""
    head = f"{prefix}:"
    return {
        name.removeprefix(head): value for name, value in arrays.items() if name.startswith(head)
    }


def named(prefix: str, arrays: Mapping[str, npt.NDArray[Any]]) -> Arrays:
    """The reverse of `part`."""
    return {f"{prefix}:{name}": value for name, value in arrays.items()}
