"""fedprint-lab head federate: a head that hospitals train together, with differential privacy."""

from __future__ import annotations

import os
import time
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer

from shared_model import outputs, terminal
from shared_model.errors import OurMistake
from simulations.cli_head import (
    LARGEST_SEED,
    OVERALL,
    AsJson,
    Draws,
    Level,
    Saying,
    TaskName,
    command_line,
    free,
    plots,
    promise,
    reason,
    said_of,
    today,
)

if TYPE_CHECKING:
    from shared_model.heads.arrays import Head

SIMULATED = "the patients are simulated"


def add(app: typer.Typer) -> None:
    """Add `federate` to the commands of heads."""
    app.command()(federate)


def federate(
    task: TaskName,
    output: Annotated[
        Path, typer.Option("-o", "--output", callback=outputs.folder, help="Folder to write.")
    ],
    mode: Annotated[str, typer.Option(help="local, distributed, or none.")] = "distributed",
    epsilon: Annotated[
        float, typer.Option(min=0.01, max=1e4, help="Of each hospital's patients.")
    ] = 3.0,
    hospitals: Annotated[
        int | None, typer.Option(min=2, max=100, help="Deal patients out among so many.")
    ] = None,
    simulated: Annotated[
        int | None, typer.Option(min=20, help="Simulated patients of each hospital.")
    ] = None,
    windows: Annotated[int, typer.Option(min=1, max=20, help="Of a simulated patient.")] = 3,
    on: Annotated[str, typer.Option(help="The frozen model, as for train.")] = "warm-start",
    signer: Annotated[str | None, typer.Option(help="Of the model's release.")] = None,
    data: Annotated[Path | None, typer.Option(help="Real recordings, as for train.")] = None,
    sites: Annotated[
        list[Path] | None, typer.Option("--sites", help="A hospital's folder; repeatable.")
    ] = None,
    sensors: Annotated[
        str | None, typer.Option(help="both, ecg or ppg; default: the usual.")
    ] = None,
    rounds: Annotated[int, typer.Option(min=1, max=10_000, help="Rounds of the training.")] = 60,
    steps: Annotated[int, typer.Option(min=1, max=100_000, help="Of a round in mode local.")] = 1,
    sample_rate: Annotated[
        float, typer.Option(min=0.0, max=1.0, help="Poisson rate of a patient; above 0.")
    ] = 0.2,
    clipping_norm: Annotated[
        float,
        typer.Option(min=0.0, max=1e4, help="L2 bound on what a patient adds to a step; above 0."),
    ] = 1.0,
    learning_rate: Annotated[
        float | None,
        typer.Option(
            min=0.0, max=10.0, help="Of plain steps; above 0. Default: 0.5, less for much noise."
        ),
    ] = None,
    delta: Annotated[
        float | None, typer.Option(min=0.0, max=1.0, help="Default: that of a policy.")
    ] = None,
    threshold: Annotated[int | None, typer.Option(min=2, help="Mode distributed.")] = None,
    colluding: Annotated[int, typer.Option(min=0, help="Mode distributed.")] = 1,
    components: Annotated[
        int, typer.Option(min=1, max=128, help="Public directions of the fingerprint.")
    ] = 32,
    repeatable: Annotated[
        bool, typer.Option("--repeatable-non-private", help="Seeded noise: NO PRIVACY.")
    ] = False,
    level: Level = 0.9,
    overall: Annotated[bool, typer.Option("--overall", help=OVERALL)] = False,
    draws: Draws = 500,
    seed: Annotated[int, typer.Option(min=0, max=LARGEST_SEED, help="Of parts and bootstrap.")] = 0,
    declared: Annotated[
        list[int] | None, typer.Option(help="Closed data: a hospital's patients.")
    ] = None,
    licence: Annotated[str, typer.Option(help="Licence of the data, for the card.")] = "",
    open_data: Annotated[str, typer.Option("--open-data", help="Why everybody has them.")] = "",
    figures_public: Annotated[
        str, typer.Option(help="Who decided that held-out figures may be in the head.")
    ] = "",
    as_json: AsJson = False,
) -> None:
    """Train a head over several hospitals with differential privacy. LAB ONLY: no secure sum.

    The unit is the patient. Standardisation and directions are of simulated windows; temperature,
    sets, band, distance and the head's figures come from a noisy histogram of other patients.
    Figures of held-out patients have no noise: they go to OUTPUT.report.json, beside the folder,
    which stays; into the head only if the data are open. measured-head-OUTPUT.json beside it has
    what may be in the head, for results; of open data and simulated patients all rows.

    Of folders without --open-data patients decide nothing together: sensors are the usual ones or
    those said, each folder is read by its own fedprint-mapping.toml (no guess), a file that cannot
    be read stops the run, and --declared says, once a hospital in the order of --sites, how many
    patients it has, as in its policy (about 9 of 16 are in the steps): nobody counts them.

    Example: fedprint-lab head federate vt -o heads/vt --open-data "ODC-By 1.0, CinC 2015"
    """
    from simulations.cli_probe import default_data
    from simulations.heads import closed, measured
    from simulations.heads import hospitals as parts
    from simulations.heads.compare import compare, refuse_identity
    from simulations.heads.data import load
    from simulations.heads.federate import Ask, refuse_found_classes
    from simulations.heads.public import space_of
    from simulations.heads.tasks import known, task_named
    from simulations.heads.train import Asked
    from simulations.models import open_model
    from simulations.probes.site_tasks import unreadable_words

    began = time.monotonic()
    if mode not in ("local", "distributed", "none"):
        raise OurMistake(f"There is no mode {mode!r}.", do="Say local, distributed or none.")
    chosen = task_named(task)
    refuse_identity(chosen.kind)
    if simulated and (sites or data):
        raise OurMistake(
            "--simulated reads no recordings.", do="Leave out --sites and --data, or --simulated."
        )
    open_data = reason(open_data, "--open-data")
    figures_public = reason(figures_public, "--figures-public")
    used = known(sensors or "both") if simulated else chosen.sensors(sensors, sites or ())
    free(output)
    for beside in (report_file(output), measured.file_of(output)):
        outputs.new_file(beside)
    ask = Ask(
        mode=mode,  # type: ignore[arg-type]  # checked above
        epsilon=epsilon,
        rounds=rounds,
        steps=steps,
        sample_rate=sample_rate,
        clipping_norm=clipping_norm,
        learning_rate=learning_rate,
        delta=delta,
        threshold=threshold,
        colluding=colluding,
        noise="NonPrivateForTests" if repeatable else "system",
    )
    ask.experiment(seed)  # refuses what no training can be
    opened = SIMULATED if simulated else open_data
    refuse_found_classes(chosen.name, mode, opened)
    folders, numbers = [], declared or []
    shut = closed.is_closed(mode, opened)
    unreadable: dict[str, int] | None = None
    if shut:
        folders = chosen.folders(used, data or default_data(), sites or ())
        closed.refuse_guesses(folders)
        if folders:  # of none `load` says more
            closed.refuse_declared(numbers, hospitals or len(folders), delta)
    elif numbers:
        raise OurMistake(
            "Declared numbers are of closed data, with privacy; here patients are counted.",
            do="Leave out --declared.",
        )
    model = open_model(on, signer)
    asked = Asked(5, seed, draws, command_line(), today(), licence, opened, level, promise(overall))
    with Saying() as say:
        if simulated:
            count = hospitals or 10
            found = parts.simulated(
                chosen, used, model, hospitals=count, patients=simulated, windows=windows,
                seed=seed, say=say,
            )  # fmt: skip
            borders = "SIMULATED PATIENTS of pretend hospitals: no figure here is of a real one"
        else:
            whole = load(
                chosen, used, model, data or default_data(),
                sites=sites or (), alone=True, closed=shut, say=say,
            )  # fmt: skip
            read = [] if shut else chosen.folders(used, data or default_data(), sites or ())
            found, borders = parts.shared_out(whole, hospitals, seed, read, named=bool(sites))
            unreadable = None if shut else dict(whole.unreadable)
            borders = "; ".join((borders, *unreadable_words(whole.unreadable)))
            found = closed.declared(found, numbers, folders) if shut else found
        say("public directions: simulated windows")
        space = space_of(model, used, components, seed)
        made = compare(
            found, model, space, ask, asked,
            borders=borders, figures_public=figures_public, say=say,
        )  # fmt: skip
    told = made.report if unreadable is None else {**made.report, "unreadable": unreadable}
    write(output, made.head, told)
    figures = measured.write(
        output, made.head, model, seconds=time.monotonic() - began, report=told
    )
    own = made.head.manifest.figures_from == "patients"
    drawn = plots(output, made.head) if made.head.manifest.figures and own else []
    _print(told, output, made.head, drawn, figures, as_json)


def report_file(output: Path) -> Path:
    """Where the report of a head lies: beside its folder, which may be sent as it is."""
    whole = Path(os.path.abspath(output))
    return whole.parent / f"{whole.name}.report.json"


def write(output: Path, head: Head, report: dict[str, Any]) -> None:
    """The head, and beside its folder what was measured, which stays here."""
    from shared_model.heads import files

    files.write(output, head)
    outputs.write(report_file(output), outputs.document(report, indent=1).encode())


def _print(
    report: dict[str, Any],
    output: Path,
    head: Head,
    drawn: list[Any],
    figures: Path,
    as_json: bool,
) -> None:
    stays = f"figures of patients without noise, NOT PROTECTED: {report_file(output)} stays here"
    if as_json:
        where = {"folder": str(output), "digest": head.manifest.digest}
        where |= {"report": str(report_file(output)), "measured": str(figures)}
        terminal.print_json({**where, "report_is": stays, **report})
        return
    rows = [
        {"row": "" if place else row["row"], "figure": name, **_interval(row[name])}
        for row in report["rows"]
        for place, name in enumerate(name for name in row if name != "row")
    ]
    terminal.show(f"{report['task']}: {report['measured_on']}", rows, as_json=False)
    spent = [
        {**one, "epsilon": f"{one['epsilon']:.4g}", "delta": f"{one['delta']:.3g}"}
        for one in report["hospitals"]
    ]
    if spent:
        terminal.show("Spent, as a ledger would book it", spent, as_json=False)
    for line in report["words"]:
        terminal.out.print(line, highlight=False)
    if report["figures_from"] != "patients":
        of = "come from the noisy histogram" if report["figures_in_manifest"] else "are none"
        terminal.out.print(
            f"The head's own figures {of}; those above are of held-out patients, without noise.",
            highlight=False,
        )
    for plot in drawn:
        terminal.out.print(f"plot {plot.name}: {plot.caption}", highlight=False)
    terminal.out.print(f"head {head.manifest.digest} in {output}", highlight=False)
    terminal.out.print(stays, highlight=False)
    said_of(figures, head)


def _interval(one: dict[str, Any]) -> dict[str, str]:
    if one["value"] is None:
        return {"value": one["why"], "95 % interval": ""}
    from shared_model.intervals import form

    low, high = one["low"], one["high"]
    if low is None or high is None:
        return {"value": terminal.figure(one["value"], "z.3f"), "95 % interval": "not estimable"}
    as_text = form(low, high)
    interval = f"{low:{as_text}} to {high:{as_text}}"
    return {"value": terminal.figure(one["value"], as_text), "95 % interval": interval}
