"""Runs of an ablation as small files: scores, what made them, and a digest over both.

    origin = Origin.here()                       # commit, code, versions, machine
    found, why = kept(folder, key, origin)       # None and a reason: it is to be trained
    keep(folder, sealed(key, made, origin, seconds, threads))
    made_of(runs, kept=3)                        # for the measured document: what made them all

A run is kept if it has the same key and was made by the same code and versions. The digest finds
what was cut, mixed up or typed over. It is no security against who owns the folder: whoever can
write there can make a digest too.
"""

from __future__ import annotations

import hashlib
import json
from collections import Counter
from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Literal

from shared_model.errors import Refused
from shared_model.files import read_regular, write_atomic
from shared_model.release_files import code_digest
from simulations import measurement

Run = dict[str, Any]
Why = Literal["kept", "absent", "other", "unsaid", "changed"]
_LARGEST = 2**20
_BECAUSE: dict[Why, str] = {
    "other": "of other code or other versions of packages",
    "unsaid": "without a word of what made them",
    "changed": "changed since they were made: the digest does not fit",
    "absent": "not there yet",
}


@dataclass(frozen=True)
class Origin:
    """What makes runs here and now. code: digest of the five packages, as --version prints it."""

    commit: str
    code: str
    versions: Mapping[str, str]
    processor: str

    @classmethod
    def here(cls) -> Origin:
        """Of this process and the files that it was started from."""
        return cls(
            measurement.commit_of(Path(__file__).parent),
            code_digest(),
            measurement.versions(),
            measurement.processor(),
        )


def refuse_other_code(code: str) -> None:
    """Processes begin in mid-ablation, and read the package's files then.

    Raises:
        Refused: they are no longer those of this digest.
    """
    if code_digest() != code:
        raise Refused(
            "The package's files have changed since this ablation began: what makes its runs "
            "could not be said.",
            reason="code",
            do="Let nobody edit them meanwhile: train from a checkout of its own. --resume keeps "
            "the runs of the code that is there then.",
        )


def sealed(
    key: Mapping[str, Any], made: Run, origin: Origin, *, seconds: float, threads: int
) -> Run:
    """A run with what made it, just now, and its digest."""
    run = {
        "key": dict(key),
        "made_by": {
            "commit": origin.commit,
            "code": origin.code,
            "versions": dict(origin.versions),
            "processor": origin.processor,
            "date": measurement.now(),
            "seconds": round(seconds, 1),
            "threads": threads,
        },
        **made,
    }
    return run | {"digest": digest_of(run)}


def digest_of(run: Run) -> str:
    """SHA-256 of all that a run says but this."""
    told = {name: value for name, value in run.items() if name != "digest"}
    return hashlib.sha256(json.dumps(told, sort_keys=True).encode()).hexdigest()


def path_of(folder: Path, key: Mapping[str, Any]) -> Path:
    """Where a run of this key is."""
    return (
        folder / f"{hashlib.sha256(json.dumps(key, sort_keys=True).encode()).hexdigest()[:24]}.json"
    )


def keep(folder: Path, run: Run) -> None:
    """Write a run whole, or not at all."""
    write_atomic(path_of(folder, run["key"]), (json.dumps(run, indent=1) + "\n").encode())


def kept(folder: Path, key: Mapping[str, Any], origin: Origin) -> tuple[Run | None, Why]:
    """The run of this key that the same code made; or None, and why it is to be trained.

    Raises:
        Refused: the file is a link, no regular file, or too large.
    """
    path = path_of(folder, key)
    if not path.exists():
        return None, "absent"
    try:
        run: Run = json.loads(read_regular(path, _LARGEST))
        if "digest" not in run:
            return None, "unsaid"
        if run["digest"] != digest_of(run) or run["key"] != key:
            return None, "changed"
        by = run["made_by"]
        same = (by["code"], by["versions"]) == (origin.code, dict(origin.versions))
    except (ValueError, KeyError, TypeError, AttributeError, RecursionError):
        return None, "changed"
    return (run, "kept") if same else (None, "other")


def words_of(reasons: Iterable[Why]) -> str:
    """How many are kept, and why the others are trained."""
    found = Counter(reasons)
    total, stay = found.total(), found["kept"]
    why = [f"{found[name]} {words}" for name, words in _BECAUSE.items() if found[name]]
    said = f"{stay} of {total} runs are kept"
    return f"{said}; {total - stay} trained: {', '.join(why)}." if why else f"{said}."


def made_of(runs: Mapping[str, Run], *, kept: int) -> dict[str, Any]:
    """What made all runs, for the measured document; all are of one code.

    Args:
        runs: by the words that name them.
        kept: how many were there already.
    """
    made = [run["made_by"] for run in runs.values()]
    dates = sorted(by["date"] for by in made)
    return {
        "count": len(made),
        "kept": kept,
        "seconds": round(sum(by["seconds"] for by in made), 1),
        "commits": sorted({by["commit"] for by in made}),
        "code": made[0]["code"],
        "processors": sorted({by["processor"] for by in made}),
        "first": dates[0],
        "last": dates[-1],
        "models": {words: run["model"] for words, run in runs.items()},
    }
