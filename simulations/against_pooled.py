"""A federation without privacy against pooled central training, of the same patients and steps.

Both may be a run or the runs of a sweep that differ in their seed alone; runs of equal seeds are
compared. Models are measured on fresh pretend patients (`simulations.fresh_patients`).
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

from shared_model.errors import OurMistake
from simulations.gain import Run, words
from simulations.gain_answers import AUROC, NONE, moved_words, pooled_answer, pooled_rows
from simulations.lab.experiment import Experiment
from simulations.lab.frontiers import with_ends
from simulations.lab.varied import differing, fields_of
from simulations.lab.varied import told as in_words


def against_pooled(federated: Sequence[Run], pooled: Sequence[Run]) -> dict[str, Any]:
    """Task by task: AUROC of the federated over the pooled models', or mean absolute errors.

    Of several seeds the ratio is the mean of each seed's, with Student's t interval over seeds.

    Raises:
        OurMistake: the two are not the same training but for who holds the patients, or the runs
            of one differ in more than their seed, or their seeds are not the same.
    """
    pairs = pairs_of(federated, pooled)
    rows = pooled_rows(
        [
            {
                "task": task,
                "metric": AUROC if kind == "auroc" else "mean absolute error",
                "by_seed": [
                    {
                        "seed": one.experiment.seed,
                        "starting model": one.before.metrics[task],
                        "federated": one.after.metrics[task],
                        "pooled": other.after.metrics[task],
                    }
                    for one, other in pairs
                ],
            }
            for task, kind in pairs[0][0].after.kinds.items()
        ]
    )
    moved = with_ends([other.after.skill - other.before.skill for _, other in pairs])
    trained = _both_trained(*(run.experiment for run in pairs[0]))
    figures = {
        "rows": rows,
        "seeds": [one.experiment.seed for one, _ in pairs],
        "pooled_skill_gain": moved["value"],
        "pooled_skill_gain_interval": moved,
        "trained": trained,
        "in_words": [
            "Fresh SIMULATED patients, probes of frozen fingerprints.",
            f"Trained {trained}. " + _of_seeds([one for one, _ in pairs]),
            "Both share one pool of patients; which few of it each run holds out differs.",
            f"Pooled training moved mean skill by {moved_words(moved)}: where it moves nothing, a "
            "ratio near 1 says nothing.",
            *words([run for pair in pairs for run in pair]),
        ],
    }
    answer = pooled_answer(figures)
    return figures | {
        "worst": {
            "words": "; ".join(part for part in (answer.words, answer.beside) if part),
            "ratios_reached": answer.ratios_reached,
            "reached": answer.reached,
        }
    }


def _of_seeds(runs: Sequence[Run]) -> str:
    if len(runs) == 1:
        return "One seed of each: what another would change is in no interval."
    pretend = runs[0].experiment.federation.source != "folders"
    drawn = "of patients and training" if pretend else "of training, the patients are the same"
    return (
        f"{len(runs)} seeds of each, {drawn}; no seed changes the first weights. Figures are "
        "means, ratios the mean of each seed's, 95 % by Student's t over seeds. The fresh "
        "patients are the same in all: what others would change is in no interval."
    )


def pairs_of(federated: Sequence[Run], pooled: Sequence[Run]) -> list[tuple[Run, Run]]:
    """A federated and a pooled run of each seed. No score is looked at.

    Raises:
        OurMistake: see `against_pooled`.
    """
    ours, theirs = _by_seed(federated, "federated"), _by_seed(pooled, "pooled")
    if set(ours) != set(theirs):
        raise OurMistake(
            f"The federated runs have seeds {sorted(ours)}, the pooled ones {sorted(theirs)}.",
            do="Let all runs finish, or name the folders of single runs.",
        )
    pairs = [(ours[seed], theirs[seed]) for seed in sorted(ours)]
    for pair in pairs:
        _comparable(*pair)
    return pairs


def _by_seed(runs: Sequence[Run], side: str) -> dict[int, Run]:
    found: dict[int, Run] = {}
    for run in runs:
        seed = run.experiment.seed
        if seed in found:
            raise OurMistake(
                f"Two {side} runs have seed {seed}: {found[seed].name}; {run.name}.",
                do="Name a sweep of one point, or the folders of single runs.",
            )
        found[seed] = run
    alike = {run.experiment.with_values({"seed": 0}).identity for run in runs}
    if len(alike) != 1:
        raise OurMistake(
            f"The {side} runs differ in more than their seed.",
            do="Name a sweep of one point, or the folders of single runs.",
        )
    return found


def _both_trained(federated: Experiment, pooled: Experiment) -> str:
    """How, in words: once where both were trained alike."""
    names = [name for name in differing([federated, pooled]) if name.startswith("algorithm.")]
    ways = []
    for told in (federated, pooled):
        fields = fields_of(told)
        further = [in_words(name, fields[name], names) for name in names if name not in _IN_TRAINED]
        ways.append(", ".join([_trained(told), *further]))
    return ways[0] if ways[0] == ways[1] else f"{ways[0]}; pooled {ways[1]}"


_IN_TRAINED = frozenset({"algorithm.steps", "algorithm.optimiser", "algorithm.name"})


def _trained(told: Experiment) -> str:
    """From where, how long and how, in words."""
    begins = "weights of a file" if told.model.weights is not None else told.model.begin_with
    return (
        f"from {begins.replace('-', ' ')}, {told.model.preset}, {told.model.trainable}, "
        f"{told.rounds} rounds of {told.algorithm.steps} {told.algorithm.optimiser} steps, "
        f"{told.algorithm.name}"
    )


_WHO_HOLDS = ("federation.hospitals", "federation.patients", "federation.partition.")
_TOLD_ELSEWHERE = frozenset(
    {"model.begin_with", "model.weights"}  # the first weights' digest is compared
    | {"privacy.mode", "privacy.clipping_norm"}  # neither clips nor adds noise
    | {"participation.minimum_contributors", "participation.sites_per_round"}  # see below
)
_LOSS = frozenset(
    f"algorithm.{name}"
    for name in ("alignment_weight", "contrast_weight", "cross_modal_weight",
                 "segments", "patch_masks")
)  # fmt: skip


def _may_differ(name: str) -> bool:
    """Who holds the patients, and how steps are made of gradients; not whose gradients, nor of
    what. Where the model begins is compared by its digest."""
    how = name == "rounds" or (name.startswith("algorithm.") and name not in _LOSS)
    return how or name in _TOLD_ELSEWHERE or name.startswith(_WHO_HOLDS)


def _comparable(federated: Run, pooled: Run) -> None:
    one, other = federated.experiment, pooled.experiment
    wrong = []
    if one.privacy.mode != NONE or other.privacy.mode != NONE:
        wrong.append("both must be without privacy (mode none)")
    if other.federation.hospitals != 1 or one.federation.hospitals < 2:
        wrong.append("the pooled run has one hospital, the other more")
    if (one.federation.partition.kind == "natural") or (
        other.federation.partition.kind == "natural"
    ):
        wrong.append('both need a partition other than "natural", so that they share one pool')
    total = [told.federation.hospitals * told.federation.patients for told in (one, other)]
    if total[0] != total[1]:
        wrong.append(f"{total[0]} patients against {total[1]}")
    steps = [told.rounds * told.algorithm.steps for told in (one, other)]
    if steps[0] != steps[1]:
        wrong.append(f"{steps[0]} steps against {steps[1]}")
    apart = [name for name in differing([one, other]) if not _may_differ(name)]
    ours, theirs = fields_of(one), fields_of(other)
    wrong += [f"{name} is {ours[name]} and {theirs[name]}" for name in apart]
    asked = one.participation.sites_per_round
    if one.behaviours or (asked is not None and asked < one.federation.hospitals):
        wrong.append("some hospitals sit out of a round, whose patients pooled training has")
    if federated.start != pooled.start:
        wrong.append("they begin with different models")
    if wrong:
        raise OurMistake(
            f"The two runs do not compare: {'; '.join(wrong)}.",
            do="See docs/experiments/pooled.toml and federated-not-private.toml.",
        )
