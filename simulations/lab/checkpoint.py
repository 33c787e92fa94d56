"""What a run needs to go on: one file after each round, and one journal that it measures off.

    state/round-000012.safetensors   weights, server state, last mean; in its header the round, what
                                     sites have booked, and how long the journal was then
    state/journal.jsonl              rows of metrics, a JSON value a line, appended
    state/sites/00007/000012.safetensors   what a site keeps (local norms, control variates)

Order: the rows are appended and flushed, then the checkpoint is renamed into its place. Whatever is
killed when: the newest checkpoint is whole, and what the journal has beyond its length belongs to a
round that is computed again, from the same numbers.
"""

from __future__ import annotations

import json
import os
from collections.abc import Iterable, Iterator, Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from shared_model.errors import Refused
from shared_model.files import read_regular, write_atomic
from shared_model.weights import Weights
from simulations.lab import packet

KEPT = 2
_LARGEST_BYTES = 1 << 34


@dataclass(frozen=True)
class Checkpoint:
    """A run after a round.

    booked: rounds that each site has spent privacy in, in the sites' order. journal: its length in
    bytes. virtual_s: virtual time so far. model: digest of the weights.
    """

    round: int
    weights: Weights = field(repr=False)
    state: Weights = field(repr=False)
    mean: Weights = field(repr=False)
    booked: tuple[int, ...]
    journal: int
    virtual_s: float
    model: str

    def save(self, folder: Path) -> None:
        """Write it, and remove all but the newest two."""
        meta = {
            "round": self.round,
            "booked": list(self.booked),
            "journal": self.journal,
            "virtual_s": self.virtual_s,
            "model": self.model,
        }
        arrays = packet.named("weights", self.weights) | packet.named("state", self.state)
        data = packet.pack(meta, arrays | packet.named("mean", self.mean))
        write_atomic(folder / f"round-{self.round:06d}.safetensors", data)
        for old in _found(folder)[:-KEPT]:
            old.unlink(missing_ok=True)

    @classmethod
    def newest(cls, folder: Path) -> Checkpoint | None:
        """The newest one; None if there is none.

        Raises:
            Refused: it cannot be read, or the journal is shorter than it says (reason "files").
        """
        found = _found(folder)
        if not found:
            return None
        meta, arrays = packet.unpack(read_regular(found[-1], _LARGEST_BYTES))
        return cls(
            round=meta["round"],
            weights=packet.part(arrays, "weights"),
            state=packet.part(arrays, "state"),
            mean=packet.part(arrays, "mean"),
            booked=tuple(meta["booked"]),
            journal=meta["journal"],
            virtual_s=meta["virtual_s"],
            model=meta["model"],
        )


def _found(folder: Path) -> list[Path]:
    return sorted(folder.glob("round-*.safetensors"))


class Journal:
    """Rows in the order in which they came to be. A line is {"kind": ..., ...}."""

    def __init__(self, path: Path) -> None:
        self.path = path
        path.parent.mkdir(parents=True, exist_ok=True)

    @property
    def size(self) -> int:
        """Bytes."""
        return self.path.stat().st_size if self.path.exists() else 0

    def cut(self, size: int) -> None:
        """Take off what came after the checkpoint.

        Raises:
            Refused: it is shorter (reason "files").
        """
        if self.size < size:
            raise Refused(
                "The run's journal is shorter than its checkpoint says.",
                reason="files",
                do="The folder was changed, or the disk lost what was written. Start anew.",
            )
        if self.size > size:
            os.truncate(self.path, size)

    def append(self, lines: Iterable[Mapping[str, Any]]) -> None:
        """Add lines, and flush them to the disk."""
        with self.path.open("ab") as stream:
            for line in lines:
                stream.write(json.dumps(line, separators=(",", ":")).encode() + b"\n")
            stream.flush()
            os.fsync(stream.fileno())

    def lines(self, kind: str, size: int | None = None) -> Iterator[dict[str, Any]]:
        """Those of a kind, of the first `size` bytes."""
        if not self.path.exists():
            return
        read, head = 0, f'{{"kind":"{kind}"'.encode()
        with self.path.open("rb") as stream:
            for line in stream:
                read += len(line)
                if size is not None and read > size:
                    return
                if line.startswith(head):
                    value: dict[str, Any] = json.loads(line)
                    yield value


class SiteStates:
    """What sites keep from round to round. Their newest of the rounds before counts."""

    def __init__(self, folder: Path) -> None:
        self.folder = folder

    def before(self, site: int, round: int) -> Weights:
        """What the site brings to this round; {} if it has kept nothing."""
        found = [path for path in self._of(site) if int(path.stem) < round]
        if not found:
            return {}
        return packet.unpack(read_regular(found[-1], _LARGEST_BYTES))[1]

    def keep(self, site: int, round: int, local: Weights) -> None:
        """After this round. What a resumed run could still ask for stays."""
        write_atomic(self._folder(site) / f"{round:06d}.safetensors", packet.pack({}, local))
        for old in [path for path in self._of(site) if int(path.stem) < round][:-1]:
            old.unlink(missing_ok=True)

    def _folder(self, site: int) -> Path:
        return self.folder / f"{site:05d}"

    def _of(self, site: int) -> list[Path]:
        return sorted(self._folder(site).glob("*.safetensors"))
