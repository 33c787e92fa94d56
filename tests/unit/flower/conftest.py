"""Flower and Typer warn about themselves when they are imported; that is not ours to fix."""

from __future__ import annotations

import warnings

with warnings.catch_warnings():
    warnings.simplefilter("ignore")
    import client.app  # noqa: F401
    import server.app  # noqa: F401
    import simulations.in_process_grid  # noqa: F401
