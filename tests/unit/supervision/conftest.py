"""Flower warns about itself when it is imported; that is not ours to fix."""

from __future__ import annotations

import warnings

with warnings.catch_warnings():
    warnings.simplefilter("ignore")
    import client.app  # noqa: F401
