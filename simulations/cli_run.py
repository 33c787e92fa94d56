"""`fedprint-lab run` and `fedprint-lab new`: one experiment from one file."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer

from shared_model import outputs, terminal
from simulations.cli_ended import again, going_on
from simulations.lab import example

if TYPE_CHECKING:
    from simulations.lab.conduct import Progress
    from simulations.lab.experiment import Experiment
    from simulations.lab.result import Result


def register(app: typer.Typer) -> None:
    """Add this part's commands."""
    app.command()(run)
    app.command(help=_about_new())(new)


def _about_new() -> str:
    first = "Write a commented example of an experiment; every field is in it, with its default."
    last = "Example: fedprint-lab new exp.toml"
    return "\n\n".join([first, "\b\n" + _plain("\n".join(example.fields())), last])


def _plain(text: str) -> str:
    """Without a meaning for Rich; one paragraph, so that its lines stay lines."""
    return text.strip("\n").replace("\n\n", "\n\n\b\n").replace("[", "\\[")


def new(
    file: Annotated[
        Path, typer.Argument(callback=outputs.file, help="The file to write; it must not exist.")
    ],
) -> None:
    """See `_about_new`."""
    from shared_model.errors import Refused
    from shared_model.files import write_atomic

    if file.exists():
        raise Refused(f"{file} is there already.", reason="exists", do="Choose another name.")
    write_atomic(file, example.written().encode())
    terminal.err.print(f"Written: {file}. Run it: fedprint-lab run {file} -o OUT", soft_wrap=True)


def run(
    file: Annotated[Path, typer.Argument(help="The experiment, TOML; see: fedprint-lab new.")],
    out: Annotated[
        Path,
        typer.Option(
            "-o", "--out", callback=outputs.folder, help="Folder for all that comes of it."
        ),
    ],
    resume: Annotated[
        bool,
        typer.Option("--resume", help="Go on with the run in OUT; begin it if there is none."),
    ] = False,
    workers: Annotated[
        int | None, typer.Option(min=0, help="In place of engine.workers; 0: all cores.")
    ] = None,
    as_json: Annotated[bool, typer.Option("--json", help="One JSON object on stdout.")] = False,
) -> None:
    """Run an experiment: thousands of virtual hospitals, the same model for any number of workers.

    After any interruption the same command with --resume goes on, to the same model. Exit status:
    0 done, 2 the file is wrong or there is no room, 3 refused (the folder holds something else),
    130 after Ctrl-C, 143 after SIGTERM.
    A model that hospitals would refuse to train from ends no run here: the result says it.

    Example: fedprint-lab run exp.toml -o out --workers 2
    """
    from simulations.lab import conduct, lab_report, tracking
    from simulations.lab.experiment import Experiment

    experiment = Experiment.from_toml(file)
    if workers is not None:
        experiment = experiment.with_values({"engine.workers": workers})
    with (
        going_on(out, again("run", str(file), "-o", str(out), workers=workers)),
        _progress(experiment.rounds) as on_progress,
    ):
        observers = [*tracking.observers(experiment, out), _Refusals()]
        result = conduct.run(
            experiment, out, resume=resume, observers=observers, on_progress=on_progress
        )
        report = lab_report.write(result.folder)
    _show(result, as_json=as_json)
    terminal.err.print(f"Report: {report.path}", highlight=False, soft_wrap=True)


class _Refusals:
    """Says at once, and once, that hospitals would not go on. Implements `result.Observer`."""

    def __init__(self) -> None:
        self._said = False

    def on_start(self, folder: Path, experiment: Experiment) -> None:
        """Nothing is known yet."""

    def on_round(self, row: dict[str, Any], sites: list[dict[str, Any]]) -> None:
        """Of the model that this round has made."""
        from simulations.lab.run_words import refused, refused_words

        found = refused([row])
        if found is not None and not self._said:
            self._said = True
            terminal.err.print(refused_words(found), highlight=False, soft_wrap=True)

    def on_evaluation(self, rows: list[dict[str, Any]]) -> None:
        """Nothing that is measured refuses."""

    def on_end(self, result: Result) -> None:
        """The result's own words say it again."""


def _show(result: Result, *, as_json: bool) -> None:
    about = result.about
    if as_json:
        terminal.print_json({"folder": str(result.folder), **about})
        return
    words = about.pop("in_words")
    rows = [{"what": name, "value": value} for name, value in about.items()]
    terminal.show(f"Experiment {about['name']}: {result.folder}", rows, as_json=False)
    for line in words:
        terminal.out.print(f"- {line}", soft_wrap=True, highlight=False)


@contextmanager
def _progress(rounds: int) -> Iterator[Callable[[Progress], None]]:
    """A bar over all rounds with the time left, on standard error."""
    from rich.progress import BarColumn, TextColumn, TimeElapsedColumn
    from rich.progress import Progress as Bar
    from rich.progress import TimeRemainingColumn as Left

    columns: Any = (
        TextColumn("{task.description}", markup=False),
        BarColumn(),
        TextColumn("{task.percentage:>3.0f} %"),
        TimeElapsedColumn(),
        TextColumn("left"),
        Left(),
    )
    words = {"patients": "preparing patients", "report": "writing tables, model and report"}
    bar = Bar(*columns, console=terminal.err)
    task = bar.add_task("begin", total=float(rounds))
    try:

        def tell(step: Progress) -> None:
            if step.stage != "patients" or step.sites:
                bar.start()  # not before: what is refused at once has no progress to show
            about = f"round {step.round}/{step.rounds}"
            if step.stage == "round":
                done = step.round - 1 + step.done / step.sites
                about += f", hospital {step.done}/{step.sites}"
                bar.update(task, completed=done, description=about)
            elif step.stage == "measuring":
                bar.update(task, description=f"{about}, measuring")
            else:
                about = f" ({step.done}/{step.sites})" if step.sites else ""
                bar.update(task, description=f"{words[step.stage]}{about}")

        yield tell
    finally:
        bar.stop()
