"""Where torch computes: the CPU, or a GPU that is there and can."""

from __future__ import annotations

import re

import torch

from shared_model.errors import OurMistake

_CUDA = re.compile(r"cuda(?::([0-9]{1,3}))?")


def device_of(name: str, *, bfloat16: bool = False) -> torch.device:
    """The device of "cpu", "cuda" (the first that torch sees; ROCm, too) or "cuda:N".

    Args:
        bfloat16: products in it are wanted, which not every GPU has.

    Raises:
        OurMistake: no such device is known, or is here, or it cannot compute. The CPU does not take
            its place: it would take weeks where hours were planned.
    """
    if name == "cpu":
        return torch.device("cpu")
    asked = _CUDA.fullmatch(name)
    if asked is None:
        raise OurMistake(
            f"No device {name!r} is known.", do="Name cpu, cuda (the first GPU) or cuda:N."
        )
    number = int(asked[1] or 0)
    seen = torch.cuda.device_count() if torch.cuda.is_available() else 0
    if number >= seen:
        raise OurMistake(
            f"{name} is not here: torch sees {_count(seen)} on this machine.",
            do="Install torch's build for your cards (the versions of constraints.txt), name "
            "another, or leave --device out.",
        )
    device = torch.device("cuda", number)
    _try(device, bfloat16)
    return device


def in_words(device: torch.device) -> str:
    """ "cpu", or "cuda:0 (the card's name)"."""
    if device.type == "cpu":
        return "cpu"
    return f"{device} ({torch.cuda.get_device_name(device)})"


def _count(gpus: int) -> str:
    return {0: "no GPU", 1: "one GPU"}.get(gpus, f"{gpus} GPUs")


def _try(device: torch.device, bfloat16: bool) -> None:
    """One product of ones on the device.

    Raises:
        OurMistake: it fails, or gives something else.
    """
    cause = ""
    try:
        with torch.cuda.device(device):
            if bfloat16 and not torch.cuda.is_bf16_supported(including_emulation=False):
                raise OurMistake(f"{device} has no bfloat16.", do="Leave out --bfloat16.")
            ones = torch.ones(16, 16, device=device)
            with torch.autocast(device.type, torch.bfloat16, enabled=bfloat16):
                found = float((ones @ ones).float().mean())
        if found != 16.0:
            cause = "a wrong product"
    except RuntimeError as error:
        cause = type(error).__name__
    if cause:
        raise OurMistake(
            f"{device} cannot compute: {cause}.",
            do="See whether the driver fits torch's build, and whether others use the card.",
        )
