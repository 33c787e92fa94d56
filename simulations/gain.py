"""What privacy leaves of a federation's gain.

Finished run folders of the lab are read, and their models measured on fresh pretend patients
(`simulations.fresh_patients`), not on the runs' own held-out ones, which differ from run to run.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any, Protocol

import numpy as np

from shared_model import weights as weights_io
from shared_model.config import ModelConfig
from shared_model.errors import OurMistake
from shared_model.weights import Weights
from simulations.fresh_patients import Scores, draw, score
from simulations.gain_answers import BARS, NONE, gain_rows
from simulations.lab.experiment import Experiment
from simulations.lab.frontiers import with_ends
from simulations.lab.result import Result
from simulations.lab.varied import batch, differing, fields_of
from simulations.lab.varied import told as in_words

UNIT_LOSS, SKILL = "unit loss", "skill"
MEASURES = (UNIT_LOSS, SKILL)
"""What training lowers; and what linear probes make of the fingerprint. A share of one is no share
of the other: a loss can fall while no probe moves."""
ASKED, ASKED_BATCH, ASKED_EPSILON, ASKED_SEEDS = (10, 2000, 2), 256, 3.0, 5
"""Hospitals, patients of each, segments of a patient; expected batch; the bar is for these."""
DRAWS = 2000


class Scored(Protocol):
    """A finished run and the scores of its models. start, digest: of its first and last weights."""

    @property
    def name(self) -> str: ...
    @property
    def experiment(self) -> Experiment: ...
    @property
    def start(self) -> str: ...
    @property
    def digest(self) -> str: ...
    @property
    def mode(self) -> str: ...


@dataclass(frozen=True)
class Run:
    """A finished run: what it was, and the scores of its first and last model."""

    name: str
    experiment: Experiment
    start: str
    digest: str
    before: Scores
    after: Scores

    @property
    def mode(self) -> str:
        return self.experiment.privacy.mode

    def gain(self, measure: str) -> float:
        """Of the last model over the first: above zero is better, in any of `MEASURES`."""
        if measure == UNIT_LOSS:
            return self.before.loss - self.after.loss
        return self.after.skill - self.before.skill


Groups = dict[tuple[str, float | None, str], dict[int, Run]]
"""Mode, epsilon and how it was trained; then the seed."""
UNSCORED = Scores({}, {}, {}, {}, {}, math.nan)
"""Of a run that is to be compared first."""


def read_runs(
    folders: Sequence[Path],
    *,
    patients: int,
    seed: int,
    check: Callable[[list[Run]], object] | None = None,
    on_done: Callable[[str], None] | None = None,
) -> list[Run]:
    """Score the models of finished runs.

    Args:
        check: told all runs before the first is scored (`UNSCORED`), to raise where they do not
            compare: scoring takes minutes.

    Raises:
        OurMistake: a folder holds no run, or one that has not ended, or is named twice.
    """
    from simulations.lab.beginning import starting_model

    refuse_twice(folders)
    results = [Result.open(folder) for folder in folders]
    runs: list[Run] = []
    models: dict[str, tuple[ModelConfig, Weights]] = {}  # a digest's, loaded once
    for result in results:
        told = result.experiment
        model = starting_model(told)
        start = weights_io.digest(model[1])
        models.setdefault(start, model)
        runs.append(Run(name_of(told), told, start, result.digest, UNSCORED, UNSCORED))
    if check is not None:
        check(runs)
    fresh = draw(patients, seed)
    starts: dict[str, Scores] = {}
    scored = []
    for result, run in zip(results, runs, strict=True):
        config, first = models[run.start]
        if run.start not in starts:
            starts[run.start] = score(config, first, fresh, seed)
        after = score(config, result.weights(), fresh, seed)
        scored.append(replace(run, before=starts[run.start], after=after))
        if on_done is not None:
            on_done(result.folder.name)
    return scored


def refuse_twice(folders: Sequence[Path]) -> None:
    """Raises OurMistake: a run is named twice."""
    if len({folder.resolve() for folder in folders}) != len(folders):
        raise OurMistake("A run is named twice.")


def name_of(experiment: Experiment) -> str:
    """What tells runs of a sweep apart in a file."""
    return f"{experiment.privacy.mode}, seed {experiment.seed}, {experiment.identity[:12]}"


def finished_below(folder: Path) -> list[Path]:
    """The folder itself if it holds a finished run, else the finished runs below it.

    Raises:
        OurMistake: there is none.
    """
    runs = sorted(path.parent for path in folder.rglob("experiment.toml"))
    found = [run for run in runs if (run / "result.json").is_file()]
    if not found:
        raise OurMistake(
            f"No finished run is in {folder}.",
            do="Name folders of: fedprint-lab run, sweep or frontier.",
        )
    return found


def shares(runs: Sequence[Run]) -> dict[str, Any]:
    """Share of the gain that each private mode keeps of that of the best runs without privacy.

    Runs of equal seeds are compared; the share is the ratio of mean gains over seeds, its interval
    a percentile bootstrap over seeds. Without a gain of the reference there is no share.

    Raises:
        OurMistake: runs begin with different models, or none is without privacy, or the seeds of
            a group are not those of the reference.
    """
    groups = groups_of(runs)
    rows, as_asked, references = [], [], []
    for measure in MEASURES:
        best = _best(groups, measure)
        references.append(f"{measure}: {best[2]}")
        for key, group in sorted(groups.items(), key=str):
            rows.append(_row(key, group, groups[best], measure))
            as_asked.append(_as_asked(group))
    rows = gain_rows(rows)
    answers = [
        {"mode": row["mode"], "epsilon": row["epsilon"], "measure": row["measure"],
         "reached": row["reached"], "words": f"{row['measure']}: {row['words']}",
         "as_asked": asked}
        for row, asked in zip(rows, as_asked, strict=True) if row["mode"] in BARS
    ]  # fmt: skip
    first = runs[0].before
    return {
        "rows": rows,
        "shares": answers,
        "in_words": [
            "Gain on fresh SIMULATED patients, last model over first. Unit loss: what training "
            f"lowers, first {first.loss:.4f}. Skill: mean over probe tasks of the frozen "
            f"fingerprint, first {first.skill:.4f}. Two answers to one bar: neither speaks for the "
            "other.",
            f"Reference: the runs without privacy that gain most ({'; '.join(references)}).",
            *words(runs),
        ],
        "plotted": [
            {"name": f"{row['mode']}, {row['trained']}" + (
                "" if row["epsilon"] is None else f", epsilon {row['epsilon']:g}"),
             **row["gain"]}
            for row in rows if row["measure"] == UNIT_LOSS
        ],
        "plotted_words": "fall of the unit loss from the starting model's, 95 % over seeds",
    }  # fmt: skip


def groups_of(runs: Sequence[Run]) -> Groups:
    """Runs by how they were trained, and then by seed. No score is looked at.

    Raises:
        OurMistake: see `shares`.
    """
    if len({run.start for run in runs}) != 1:
        raise OurMistake("The runs begin with different models: their gains do not compare.")
    names = differing([run.experiment for run in runs])
    groups: Groups = {}
    for run in runs:
        group = groups.setdefault(_key(run, names), {})
        if run.experiment.seed in group:
            raise OurMistake(
                f"{run.name} and {group[run.experiment.seed].name} are the same experiment.",
                do="Name the folders of one sweep.",
            )
        group[run.experiment.seed] = run
    free = [group for key, group in groups.items() if key[0] == NONE]
    if not free:
        raise OurMistake("No run is without privacy (mode none): there is nothing to keep.")
    reference = free[0]  # whichever will be the reference: all are to have the same seeds
    for key, group in sorted(groups.items(), key=str):
        if set(group) != set(reference):
            raise OurMistake(
                f"Mode {key[0]} has seeds {sorted(group)}, the reference {sorted(reference)}.",
                do="Let all runs of the sweep finish.",
            )
    return groups


def _best(groups: Groups, measure: str) -> tuple[str, float | None, str]:
    """The way of training without privacy that gains most: of several, a hard reference. The
    interval of a share does not know that it was chosen."""
    return max((key for key in groups if key[0] == NONE), key=lambda k: _mean(groups[k], measure))


_TOLD = frozenset(
    {"privacy.mode", "privacy.epsilon", "privacy.sample_rate"}
    | {"federation.hospitals", "federation.patients", "rounds"}
    | {"algorithm.steps", "algorithm.optimiser", "algorithm.learning_rate"}
    | {"algorithm.name", "algorithm.server_learning_rate"}
)
"""Fields that a group's key has in any case."""


def _key(run: Run, names: Sequence[str]) -> tuple[str, float | None, str]:
    """Mode, epsilon and how it was trained: all that tells groups apart but the seed.

    names: fields that are not the same in all runs. Those that a run does not have are not told.
    """
    told = run.experiment
    trained = (
        f"{told.federation.hospitals} hospitals x {told.federation.patients}, {told.rounds} rounds "
        f"of {told.algorithm.steps} {told.algorithm.optimiser} steps at "
        f"{told.algorithm.learning_rate:g}, sample rate {told.privacy.sample_rate:g}"
    )
    server = (told.algorithm.name, told.algorithm.server_learning_rate)
    if server != ("fedavg", 1.0):  # the mean is added as it is: nothing to say
        trained += f", {server[0]} at {server[1]:g}"
    fields = fields_of(told)
    further = [name for name in names if name not in _TOLD and fields[name] is not None]
    words = ", ".join([trained, *(in_words(name, fields[name], names) for name in further)])
    return told.privacy.mode, told.privacy.epsilon, words


def _as_asked(group: dict[int, Run]) -> bool:
    """Whether these are the sizes of the issue's bar; other sizes do not answer it."""
    told = next(iter(group.values())).experiment
    sizes = (told.federation.hospitals, told.federation.patients, told.algorithm.segments)
    size = batch(told)
    known = size is not None and abs(size - ASKED_BATCH) < 1
    fits = sizes == ASKED and told.privacy.epsilon == ASKED_EPSILON and known
    return fits and told.model.preset == "tiny" and len(group) >= ASKED_SEEDS


def _mean(group: dict[int, Run], measure: str) -> float:
    return math.fsum(run.gain(measure) for run in group.values()) / len(group)


def _row(
    key: tuple[str, float | None, str],
    group: dict[int, Run],
    reference: dict[int, Run],
    measure: str,
) -> dict[str, Any]:
    mode, epsilon, trained = key
    seeds = sorted(group)
    ours = np.array([group[seed].gain(measure) for seed in seeds])
    free = np.array([reference[seed].gain(measure) for seed in seeds])
    gain = with_ends(ours.tolist())
    share, ends = share_of(ours, free)
    return {
        "measure": measure,
        "mode": mode,
        "epsilon": epsilon,
        "trained": trained,
        "seeds": len(seeds),
        "gain": gain,
        "share": share,
        "share_interval": ends,
    }


def share_of(ours: np.ndarray, free: np.ndarray) -> tuple[float | None, tuple[float, float] | None]:
    """Ratio of mean gains (seed,), and its interval over seeds, paired; None where the reference
    gains nothing, or in a tenth of the bootstrap samples nothing."""
    if free.mean() <= 0:
        return None, None
    share = float(ours.mean() / free.mean())
    if len(ours) < 2:
        return share, None
    chosen = np.random.default_rng(0).integers(0, len(ours), size=(DRAWS, len(ours)))
    below = free[chosen].mean(axis=1)
    if (below <= 0).mean() > 0.1:
        return None, None
    ratio = ours[chosen].mean(axis=1)[below > 0] / below[below > 0]
    low, high = np.percentile(ratio, [2.5, 97.5])
    return share, (float(low), float(high))


def words(runs: Sequence[Scored]) -> list[str]:
    """What must be said beside the figures: mock noise, and what the patients are."""
    said = []
    private = [run for run in runs if run.mode != NONE]
    if any(run.experiment.privacy.noise == "NonPrivateForTests" for run in private):
        said.append("Noise of the private runs REPEATS (NonPrivateForTests): its size is true, its "
                    "protection is none.")  # fmt: skip
    sources = sorted({run.experiment.federation.source for run in runs})
    called = {"folders": "REAL, of folders of recordings"}
    trained = ", ".join(called.get(one, one) for one in sources)
    said.append(f"Patients that trained: {trained}.")
    return said
