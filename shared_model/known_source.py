"""Is a function of another package the one that we know? For the few that ours stand in for.

check({module.function: "0f3a5c..."}, "Flower")
"""

from __future__ import annotations

import hashlib
import inspect
from collections.abc import Callable, Mapping
from typing import Any

from shared_model.errors import OurMistake


def source_digest(function: Callable[..., Any]) -> str:
    """First 16 hexadecimal digits of the SHA-256 of the source text; "" where there is none.

    They tell another version, not an adversary, who could as well change ours.
    """
    try:
        return hashlib.sha256(inspect.getsource(function).encode()).hexdigest()[:16]
    except (OSError, TypeError):
        return ""


def check(known: Mapping[Callable[..., Any], str], what: str) -> None:
    """Return if each of these functions has the source that it had when ours was written.

    Args:
        known: function -> `source_digest`.
        what: the package, for the error ("Flower").

    Raises:
        OurMistake: names those that have not.
    """
    others = [
        f"{function.__module__}.{function.__qualname__}"
        for function, digest in known.items()
        if source_digest(function) != digest
    ]
    if others:
        raise OurMistake(
            f"This {what} is not one that fedprint knows: {', '.join(sorted(others))}.",
            do="Install the versions that constraints.txt names.",
        )
