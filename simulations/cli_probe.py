"""fedprint-lab probe: how good a fingerprint is, on real patients or on pretend ones."""

from __future__ import annotations

import math
import os
import time
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer

from shared_model import outputs, terminal
from shared_model.errors import OurMistake

if TYPE_CHECKING:
    from simulations.probes.evaluate import Estimate
    from simulations.probes.rows import Row
    from simulations.probes.table import ProbeTable
    from simulations.probes.task import Task

SENSOR_WORDS = {"both": "both sensors", "ecg": "ECG only", "ppg": "PPG only"}
METRIC_WORDS = {"mae": "MAE", "auroc": "AUROC", "verification": "AUROC (same person)"}


def default_data() -> Path:
    """FEDPRINT_DATA, else ../shared/data."""
    return Path(os.environ.get("FEDPRINT_DATA", "../shared/data"))


def register(app: typer.Typer) -> None:
    """Add `probe` to the lab's commands."""

    @app.command()
    def probe(
        release: Annotated[
            str,
            typer.Argument(
                help="A release, `warm-start`, `warm-start:PRESET`, or a safetensors file."
            ),
        ],
        data: Annotated[
            Path | None,
            typer.Option(help="Real recordings (default FEDPRINT_DATA, ../shared/data)."),
        ] = None,
        sites: Annotated[
            list[Path] | None,
            typer.Option(
                "--sites", help="Folders to take instead, whatever their names; repeatable."
            ),
        ] = None,
        signer: Annotated[
            str | None,
            typer.Option(help="Release key (hex) or coordinator.json; else nothing is verified."),
        ] = None,
        row: Annotated[
            list[str] | None,
            typer.Option("--row", help="Another row: NAME=WEIGHTS.safetensors (same model shape)."),
        ] = None,
        unseen_by: Annotated[
            list[Path] | None,
            typer.Option(help="Leave out patients that this run of the lab has read."),
        ] = None,
        pretend: Annotated[
            int | None,
            typer.Option(min=80, help="Probe so many SIMULATED patients in place of recordings."),
        ] = None,
        task: Annotated[list[str] | None, typer.Option("--task", help="Only this task.")] = None,
        random_seeds: Annotated[
            int, typer.Option(min=1, help="Random-init networks averaged.")
        ] = 3,
        draws: Annotated[int, typer.Option(min=20, help="Bootstrap samples of patients.")] = 500,
        repeats: Annotated[
            int, typer.Option(min=1, help="Partitions of patients into folds, averaged.")
        ] = 5,
        seed: Annotated[
            int,
            typer.Option(
                min=0, max=2**32 - 1, help="Seed of folds, bootstrap and pretend patients."
            ),
        ] = 0,
        output: Annotated[
            Path | None,
            typer.Option(
                "-o", "--output", callback=outputs.folder, help="Folder for probe.json, probe.png."
            ),
        ] = None,
        as_json: Annotated[bool, typer.Option("--json", help="One JSON document.")] = False,
    ) -> None:
        """Probe frozen fingerprints on real sites: patient-disjoint, 95 % intervals over patients.

        Tasks are those of the known collections below --data. With --sites they are those that the
        folders' own labels allow: docs/probes.md has the list. With --pretend nothing real is
        read: tasks are the simulator's own truths. No bar counts in these two.

        Rows: random-init, hand-made features, warm start, the release, and any --row. Differences
        to random-init and to hand-made features are paired over the same folds and bootstrap
        samples; a figure is the mean over several partitions into folds. Absent folders are named.
        measured-probe.json is probe.json with what made it, for results.
        A model that was trained on recordings here is probed with --unseen-by its run; without it,
        one that lies in that run's folder is named.

        Example: fedprint-lab probe releases/1 --signer coordinator.json -o probe/
        Example: fedprint-lab probe warm-start:small --sites /mnt/ward-7 --json
        """
        from simulations import measurement, results_figures
        from simulations.probes.bars import summary

        if pretend is not None and (data is not None or unseen_by):
            raise OurMistake("--pretend reads no recordings: leave out --data and --unseen-by.")
        if sites and (data is not None or pretend is not None):
            raise OurMistake("--sites says which recordings: leave out --data and --pretend.")
        began = time.monotonic()
        table, words = measure(
            release,
            data or default_data(),
            signer=signer,
            extra=row or [],
            sites=sites or [],
            unseen_by=unseen_by or [],
            pretend=pretend,
            only=task,
            random_seeds=random_seeds,
            draws=draws,
            repeats=repeats,
            seed=seed,
        )
        digests = words.pop("digests")
        kind = "probe-pretend" if pretend is not None else "probe-sites" if sites else "probe"
        figures = table.as_dict()
        document = {
            **({} if pretend is None else {"data": f"{pretend} SIMULATED patients, no recordings"}),
            "release": words,
            "seed": seed,
            "draws": draws,
            "repeats": repeats,
            **figures,
            "bars": summary(figures) if kind == "probe" else {},
        }
        seconds = time.monotonic() - began
        try:
            if as_json:
                terminal.print_json(document)
            else:
                _print(table, words, repeats)
        finally:  # each is tried whatever became of the other: it was a long computation
            if output is not None:
                measured = measurement.made_now(kind, document, weights=digests, seconds=seconds)
                files = {
                    "probe.json": outputs.document(document).encode(),
                    "measured-probe.json": measured.to_bytes(),
                }
                for picture in results_figures.draw(kind, document, "png").values():
                    files["probe.png"] = picture
                outputs.write_all(output, files)


def measure(
    release: str,
    data: Path,
    *,
    signer: str | None,
    extra: list[str],
    sites: list[Path],
    unseen_by: list[Path],
    pretend: int | None,
    only: list[str] | None,
    random_seeds: int,
    draws: int,
    repeats: int,
    seed: int,
) -> tuple[ProbeTable, dict[str, Any]]:
    """Load the rows and the tasks, run the table with a progress bar on stderr."""
    from rich.progress import (
        BarColumn,
        MofNCompleteColumn,
        Progress,
        TextColumn,
        TimeRemainingColumn,
    )

    from simulations.probes.pretend import pretend_tasks
    from simulations.probes.site_tasks import require_read, site_tasks
    from simulations.probes.table import run_table
    from simulations.probes.tasks import load_tasks, require_data
    from simulations.probes.trained_here import folders_in, trained_here, weights_files
    from simulations.probes.unseen import Seen, without

    if pretend is None and not sites:
        require_data(data)
    seen = [Seen.by(run) for run in unseen_by]
    if sites:
        require_read(sites, [(one.run, one.folders) for one in seen])
    for one in seen:
        one.refuse_read_otherwise(sites or [path for path in data.iterdir() if path.is_dir()])
    rows, words = _rows(release, signer, extra, random_seeds)
    columns = (
        TextColumn("{task.description}", markup=False),
        BarColumn(),
        MofNCompleteColumn(),
        TimeRemainingColumn(),
    )
    with Progress(*columns, console=terminal.err, transient=True) as progress:
        bar = progress.add_task("reading recordings", total=None)

        def reading(name: str) -> None:
            progress.update(bar, description=f"reading: {name}")

        words["sites"] = None
        if sites:
            tasks, skipped, read = site_tasks(sites, only=only, on_task=reading)
            words["sites"] = read.words(sites)
        elif pretend is None:
            tasks, skipped = load_tasks(data, only=only, on_task=reading)
        else:
            progress.update(bar, description="simulating patients")
            tasks, skipped = pretend_tasks(pretend, seed, only), {}
        measured = folders_in(tasks)
        words["trained_here"] = trained_here(weights_files(release, extra), measured, seen)
        gone: dict[str, str] = {}
        if seen:
            left = {task.name: without(task, seen) for task in tasks}
            tasks = [task for task, _ in left.values() if task is not None]
            skipped |= {name: why for name, (task, why) in left.items() if task is None}
            gone = {name: why for name, (task, why) in left.items() if task is not None}
        where = ", ".join(str(one) for one in sites) or str(data)
        if not tasks:
            raise _nothing(where, skipped, words)
        total = sum(len(one.sensors) for one in tasks) * len(rows)
        progress.update(bar, total=total, completed=0)
        table = run_table(
            tasks,
            rows,
            seed=seed,
            draws=draws,
            repeats=repeats,
            skipped=skipped,
            on_done=lambda what: progress.update(bar, advance=1, description=what),
        )
    if not table.cells:
        raise _nothing(where, table.skipped, words)
    words["unseen_by"] = {"runs": [one.words() for one in seen], "left_out": gone} if seen else None
    words["notes"] = {one.name: told for one in tasks if (told := _note(one, bool(sites)))}
    words["pretend_patients"] = pretend
    return table, words


def _note(task: Task, told: bool) -> str:
    """What is to be known of a task; told: files that could not be read are counted elsewhere."""
    from simulations.probes.site_tasks import unreadable_words

    faults = [] if told else unreadable_words(task.unreadable)
    return "; ".join(filter(None, (task.note, *faults)))


def _nothing(where: str, skipped: dict[str, str], words: dict[str, Any]) -> OurMistake:
    """No task could be measured, and why, files that could not be read among it."""
    from simulations.probes.site_tasks import NOT_TAKEN, unreadable_words
    from simulations.site_mapping import HOW_READ

    met = words.get("sites")
    reasons = [f"{name}: {why}" for name, why in skipped.items()]
    read = ""
    if met:
        read = f": {met['recordings']} recordings were read"
        faults = unreadable_words(met["unreadable"])
        said = reasons if met["recordings"] else []  # of nothing read, no label is missing
        reasons = [*faults, *said]
        if faults or any(NOT_TAKEN in why for why in skipped.values()):
            reasons.append(HOW_READ)
        elif not met["recordings"]:
            reasons.append("name recordings; formats that are read: docs/data-formats.md")
    return OurMistake(f"No probe task can be measured with {where}{read}.", do="; ".join(reasons))


def _rows(
    release: str, signer: str | None, extra: list[str], random_seeds: int
) -> tuple[list[Row], dict[str, Any]]:
    from shared_model import warm_start, weights
    from simulations.models import PACKAGED, open_model, read_weights
    from simulations.probes import rows as make

    opened = open_model(release, signer)
    config, trained = opened.config, opened.weights
    rows = [make.random_init(config, random_seeds), make.hand_made_row()]
    digests = {release: opened.digest}
    packaged = release.partition(":")[0] == PACKAGED
    if packaged:
        rows.append(make.weights_row(make.WARM_START, config, trained))
    else:
        if config.preset in warm_start.packaged():
            rows.append(make.warm_start_row(config.preset))
        else:
            opened.words["warm_start"] = f"no row: none is packaged of preset {config.preset}"
        rows.append(make.weights_row("release", config, trained))
    for item in extra:
        name, _, path = item.partition("=")
        if not name or not path:
            raise OurMistake(f"--row {item!r} is not NAME=FILE.")
        if name in {row.name for row in rows}:
            raise OurMistake(f"There is a row {name!r} already.", do="Call this --row otherwise.")
        loaded = read_weights(Path(path), like=trained)
        rows.append(make.weights_row(name, config, loaded))
        digests[name] = weights.digest(loaded)
    opened.words["digests"] = digests
    return rows, opened.words


def _print(table: ProbeTable, words: dict[str, Any], repeats: int) -> None:
    from simulations.probes.bars import sentences
    from simulations.probes.few import cells_of, mean_words, no_interval_words
    from simulations.probes.pooled import ratios
    from simulations.probes.site_tasks import NOT_TAKEN, sites_words
    from simulations.probes.trained_here import trained_words
    from simulations.probes.unseen import unseen_words
    from simulations.site_mapping import HOW_READ

    pretend = words.get("pretend_patients")
    whose = "" if pretend is None else f" · {pretend} SIMULATED patients drawn, nobody's recordings"
    terminal.heading("Probes of frozen fingerprints", f" · {words['source']}{whose}")
    if "signature" in words:
        terminal.out.print(f"signature: {words['signature']}")
    if isinstance(words.get("warm_start"), str):
        terminal.out.print(f"warm start: {words['warm_start']}")
    names = list(dict.fromkeys(cell.row for cell in table.cells))
    lines: dict[tuple[str, str], dict[str, str]] = {}
    for cell in table.cells:
        line = lines.setdefault(
            (cell.task, cell.sensors),
            {
                "task": f"{cell.task}\n{METRIC_WORDS[cell.kind]}, {SENSOR_WORDS[cell.sensors]}",
                "patients": str(cell.patients),
            },
        )
        above = "*" if cell.gain is not None and cell.gain.low > 0 else ""
        above += "+" if cell.over_hand_made is not None and cell.over_hand_made.low > 0 else ""
        line[cell.row] = _two_lines(cell.estimate) + above
    terminal.show(
        f"95 % intervals over patients, mean over {repeats} partition(s) into folds; paired "
        "gain wholly above zero: * over random-init, + over hand-made",
        [{**line, **{name: line.get(name, "-") for name in names}} for line in lines.values()],
        as_json=False,
    )
    counted = pretend is None and not words.get("sites")
    figures = table.as_dict()
    for sentence in sentences(figures) if counted else []:
        terminal.out.print(sentence)
    whom = {cell["task"]: cell["no_interval"] for cell in cells_of(figures)}
    few = no_interval_words({task: why for task, why in whom.items() if why})
    if few:
        terminal.out.print(few)
    against = ratios(figures)
    if against is not None:
        said = "; ".join(one for one in (against.words, against.beside) if one)
        terminal.out.print(f"federated against pooled: {said}")
    whose = mean_words(table.not_in_means)
    for name, value in table.overall.items():
        terminal.out.print(f"mean gain over random-init, {whose}: {name}: {_three(value)}")
    for one in table.not_above():
        terminal.out.print(
            f"not above random-init: {one['row']} on {one['task']} ({one['sensors']})"
            + ("" if one["interval"] else ", there being no interval")
        )
    trained = trained_words(words.get("trained_here", []))
    for sentence in (*trained, *sites_words(words), *unseen_words(words)):
        terminal.out.print(sentence)
    for name, note in words.get("notes", {}).items():
        terminal.out.print(f"note: {name}: {note}")
    for name, why in table.skipped.items():
        terminal.out.print(f"not measured: {name}: {why}")
    if any(NOT_TAKEN in why for why in table.skipped.values()):
        terminal.out.print(HOW_READ)


def _two_lines(estimate: Estimate) -> str:
    return "\n".join(_parts(estimate))


def _three(estimate: Estimate) -> str:
    return " ".join(_parts(estimate))


def _parts(estimate: Estimate) -> tuple[str, str]:
    """A value and its interval; with few patients there may be none of either."""
    from shared_model.intervals import form

    low, high = estimate.low, estimate.high
    if not (math.isfinite(low) and math.isfinite(high)):
        return terminal.figure(estimate.value, "z.3f"), "(no interval)"
    as_text = form(low, high)
    return terminal.figure(estimate.value, as_text), f"[{low:{as_text}}, {high:{as_text}}]"
