"""In pieces of what size a body travels: what was cut off goes on with the piece that was missing.

A cut costs what was on the way, at most `AT_ONCE` pieces. Smaller pieces cost more round trips: on
a long line a piece takes at least one, whatever its size.
"""

from __future__ import annotations

AT_ONCE = 2
"""Pieces on their way at the same time; Flower's own number."""
PARTS = 32
SMALLEST_BYTES = 16 * 1024
LARGEST_BYTES = 1024 * 1024


SMALLEST_DOWN_BYTES = 256 * 1024
"""Of a model on its way to a site: each piece costs the coordinator's machine, once a site."""


def piece_bytes(size_bytes: int, smallest_bytes: int = SMALLEST_BYTES) -> int:
    """Size of the pieces of a body: a 32nd of it, in whole KiB, from 16 KiB to 1 MiB."""
    share = -(-size_bytes // PARTS)
    return max(smallest_bytes, min(LARGEST_BYTES, -(-share // 1024) * 1024))
