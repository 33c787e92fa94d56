"""`fedprint-lab plan`: what a federation would cost and give, before anything is trained."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer

from shared_model import outputs, terminal
from shared_model.config import TRAINABLE
from shared_model.errors import OurMistake

if TYPE_CHECKING:
    from simulations.lab.experiment import Experiment
    from simulations.lab.planner import Plan


def register(app: typer.Typer) -> None:
    """Add this part's commands."""
    app.command(name="plan")(plan_command)


def plan_command(
    hospitals: Annotated[int | None, typer.Option(min=1, help="How many; 8.")] = None,
    patients: Annotated[
        int | None,
        typer.Option(min=2, help="Of each hospital; 500. All train, but for an --experiment's."),
    ] = None,
    epsilon: Annotated[
        float | None, typer.Option(help="What each patient may lose in all rounds; 3.")
    ] = None,
    mode: Annotated[
        str | None, typer.Option(help="Trust model: local, distributed, none; local.")
    ] = None,
    rounds: Annotated[int | None, typer.Option(min=1, help="20 by default.")] = None,
    steps: Annotated[
        int | None, typer.Option(min=1, help="In a round; 5. Mode distributed: always 1.")
    ] = None,
    sample_rate: Annotated[
        float | None, typer.Option(help="Probability of a patient in a step; 0.1.")
    ] = None,
    preset: Annotated[str | None, typer.Option(help="tiny, small or base; tiny.")] = None,
    trainable: Annotated[str | None, typer.Option(help=f"{', '.join(TRAINABLE)}; head.")] = None,
    threshold: Annotated[
        int | None, typer.Option(min=2, help="Mode distributed: fewest survivors of a round.")
    ] = None,
    colluding: Annotated[
        int | None, typer.Option(min=0, help="Mode distributed: hospitals supposed to collude.")
    ] = None,
    experiment: Annotated[
        Path | None, typer.Option(help="Plan this file; other options change it.")
    ] = None,
    bandwidth_mbit: Annotated[float, typer.Option(help="Of a hospital's line.")] = 20.0,
    delay_ms: Annotated[float, typer.Option(help="Of that line, one way.")] = 50.0,
    coordinator_mbit: Annotated[float, typer.Option(help="Of the coordinator's line.")] = 1000.0,
    budget: Annotated[float, typer.Option(help="A hospital's epsilon for life.")] = 8.0,
    timing: Annotated[
        bool, typer.Option(help="Time two steps of training here, for the hours.")
    ] = True,
    plot: Annotated[
        Path | None,
        typer.Option(
            callback=outputs.file, help="Draw epsilon against noise-to-signal (pdf, svg, png)."
        ),
    ] = None,
    check: Annotated[
        list[Path] | None, typer.Option(help="Compare the prediction with this run's folder.")
    ] = None,
    as_json: Annotated[bool, typer.Option("--json", help="Machine-readable output.")] = False,
) -> None:
    """Predict noise, bytes and hours of a federation; nothing is trained.

    With --check OUT (more than once for more runs) the prediction is held against what the run's
    folder says, in percent.

    Example: fedprint-lab plan --hospitals 8 --patients 500 --epsilon 3 --plot plan.pdf
    """
    from simulations.lab import calibrate
    from simulations.lab.advice import advice, around
    from simulations.lab.planner import plan
    from simulations.lab.traffic import Line

    if check:
        _check(check, timing, as_json)
        return
    asked = _asked(
        experiment,
        {
            "hospitals": hospitals,
            "patients": patients,
            "epsilon": epsilon,
            "mode": mode,
            "rounds": rounds,
            "algorithm__steps": steps,
            "privacy__sample_rate": sample_rate,
            "model__preset": preset,
            "model__trainable": trainable,
            "privacy__threshold": threshold,
            "privacy__colluding": colluding,
        },
    )
    line = Line(bandwidth_mbit, delay_ms, coordinator_mbit)
    speed = None
    with terminal.err.status("timing two steps of training on this machine") as status:
        if timing:
            speed = calibrate.speed_of(
                asked.model.preset, asked.algorithm.training(asked.model.trainable)
            )
        status.update("asking the accountant")
        found = plan(asked, line=line, speed=speed, budget=budget)
        said = advice(found)
        status.update("asking the accountant about what stands around it")
        rows = around(found, line)
        if plot is not None:
            from simulations.lab.plan_plot import draw

            draw(found, plot, told=lambda text: status.update(f"drawing: {text}"))
    if as_json:
        content = found.as_dict()
        content |= {"advice": said, "around": rows, "plot": None if plot is None else str(plot)}
        terminal.print_json(content)
        return
    _show(found, said, rows)
    if plot is not None:
        terminal.out.print(f"Drawn: {plot}", soft_wrap=True)


def _asked(path: Path | None, given: dict[str, Any]) -> Experiment:
    """The experiment of these options; a file's fields stay where an option is not given."""
    from simulations.lab.experiment import Experiment
    from simulations.lab.plan_question import asked

    base = None if path is None else Experiment.from_toml(path)
    values = {name: value for name, value in given.items() if value is not None}
    real = base is not None and base.federation.source == "folders"
    if real and not {"hospitals", "patients"} <= set(values):
        raise OurMistake(
            "How many patients the folders hold is not in the experiment.",
            do="Give --hospitals and --patients.",
        )
    if values.get("mode") == "none" and "epsilon" in values:
        raise OurMistake("Mode none has no epsilon.", do="Leave --epsilon away.")
    if base is not None:
        values.setdefault("hospitals", base.federation.hospitals)
        values.setdefault("patients", base.federation.patients)
        values.setdefault("mode", base.privacy.mode)
    elif values.get("mode") != "none":
        values.setdefault("epsilon", 3.0)
    if values.get("mode") == "distributed" and values.pop("algorithm__steps", 1) != 1:
        raise OurMistake("A round of mode distributed is one step.", do="Leave --steps away.")
    return asked(
        values.pop("hospitals", 8),
        values.pop("patients", 500),
        epsilon=values.pop("epsilon", None),
        mode=values.pop("mode", "local"),
        base=base,
        **values,
    )


def _show(found: Plan, said: tuple[str, ...], rows: list[dict[str, Any]]) -> None:
    privacy, noise = found.privacy, found.noise
    lines: list[tuple[str, Any]] = [
        ("trust model", privacy.mode),
        ("hospitals, of which a round asks", f"{found.hospitals}, {found.participants}"),
        ("patients that train, a hospital", found.declared),
        ("rounds, steps in all", f"{found.rounds}, {privacy.steps}"),
        ("epsilon of all rounds", privacy.epsilon),
        ("epsilon if all failures are booked too", privacy.with_failures),
        ("epsilon against outsiders only", privacy.outsider),
        ("delta", privacy.delta),
        ("noise multiplier sigma", privacy.noise_multiplier),
        ("threshold, colluding hospitals", f"{privacy.threshold}, {privacy.colluding}"),
        ("patients that a step expects, a hospital", noise.sampled),
        ("parameters trained", noise.parameters),
        ("noise-to-signal of a step, one hospital", noise.one_site),
        ("noise-to-signal of a step, mean of all", noise.mean),
        ("  over all steps, if they all agreed", noise.all_steps),
    ]
    if privacy.mode != "distributed":
        lines = [one for one in lines if "outsiders" not in one[0] and "threshold" not in one[0]]
    if found.traffic is not None:
        sent = found.traffic
        lines += [
            ("MB down to a hospital, a round", sent.down / 1e6),
            ("MB up from a hospital, a round", sent.up / 1e6),
            ("of which the masked vector", sent.packed_vector / 1e6),
            ("most bytes are", sent.dominates),
            ("GB in all, all hospitals", sent.total / 1e9),
        ]
    if found.time is not None:
        spent = found.time
        lines += [
            ("seconds of a round", spent.round_s),
            ("  training (largest hospital)", spent.training_s),
            ("  until the reply clock", spent.reply_clock_s),
            ("  transfer", spent.transfer_s),
            ("  delays of three trips", spent.trips_s),
            ("longest is", spent.dominates),
            ("hours of the run", spent.hours),
        ]
    if found.simulation_s is not None:
        lines.append(("minutes to simulate it here, one core", found.simulation_s / 60.0))
    if found.budget is not None and found.budget.left is not None:
        lines += [
            (f"left of a budget of {found.budget.epsilon:g}", found.budget.left),
            ("such runs that the budget has room for", found.budget.runs),
        ]
    terminal.show(
        "Plan: nothing was trained",
        [{"what": name, "value": value} for name, value in lines],
        as_json=False,
    )
    shown = ("what", "sigma", "noise-to-signal", "MB a round", "hours")
    terminal.show(
        "Around it, one thing changed at a time",
        [{name: row[name] for name in shown} for row in rows],
        as_json=False,
    )
    for text in said:
        terminal.out.print(f"* {text}", soft_wrap=True, highlight=False)
    for text in found.words:
        terminal.out.print(f"- {text}", soft_wrap=True, highlight=False)


def _check(folders: list[Path], timing: bool, as_json: bool) -> None:
    from simulations.lab.plan_check import check

    found = {str(folder): check(folder, timed=timing) for folder in folders}
    if as_json:
        terminal.print_json({name: [vars(row) for row in rows] for name, rows in found.items()})
        return
    for name, rows in found.items():
        terminal.show(f"Predicted and seen: {name}", [vars(row) for row in rows], as_json=False)
