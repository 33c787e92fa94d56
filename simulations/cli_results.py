"""fedprint-lab results: the results page, generated from measured files, and held against them."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated, Any

import typer

from shared_model import outputs, terminal
from shared_model.errors import OurMistake, Refused
from shared_model.files import write_atomic

PAGE = Path("docs/results.md")


def register(app: typer.Typer) -> None:
    """Add `results` to the lab's commands."""
    app.command()(results)


def results(
    page: Annotated[
        Path, typer.Option(help="The page; files lie in the folder of its name.")
    ] = PAGE,
    check: Annotated[
        bool, typer.Option("--check", help="Write nothing; refuse if the page is another.")
    ] = False,
    measure: Annotated[
        str | None,
        typer.Option(help="First run the cheap measurements (cross-modal, probe) of this model."),
    ] = None,
    data: Annotated[
        Path | None, typer.Option(help="Real recordings (default FEDPRINT_DATA, ../shared/data).")
    ] = None,
    as_json: Annotated[bool, typer.Option("--json", help="One JSON document.")] = False,
) -> None:
    """Generate docs/results.md and its figures from docs/results/**/measured-*.json.

    Files are written by probe, cross-modal, bench, gain, private-stage, against-pooled and ablate
    with -o, and by head train and head federate beside the head. No figure is typed: with --check
    the page is made again and compared, byte by byte.

    Example: fedprint-lab results --check
    """
    from simulations import results_page

    if page.is_dir():
        raise OurMistake(f"{page} is a folder.", do="Name the page's file.")
    if not check:
        outputs.file(page)
    folder = page.with_suffix("")
    if measure is not None:
        if check:
            raise typer.BadParameter("--check writes nothing, so it measures nothing.")
        _measure(measure, folder, data)
    made = results_page.make(folder)
    if check:
        wrong = results_page.differences(made, page, folder)
        if wrong:
            raise Refused(
                f"The page is not what the files give: {'; '.join(wrong)}.",
                reason="results",
                do="Make it again: fedprint-lab results",
            )
    else:
        for old in sorted((folder / results_page.FIGURES).glob("*.svg")):
            if f"{results_page.FIGURES}/{old.name}" not in made.figures:
                old.unlink()
        for place, content in made.figures.items():
            write_atomic(folder / place, content)
        write_atomic(page, made.text.encode())
    files = list(results_page.read_all(folder))
    document: dict[str, Any] = {
        "page": str(page),
        "files": files,
        "figures": list(made.figures),
        "checked": check,
    }
    if as_json:
        terminal.print_json(document)
    else:
        done = "is what the files give" if check else "written"
        terminal.out.print(f"{page} {done}: {len(files)} files, {len(made.figures)} figures")


def _measure(model: str, folder: Path, data: Path | None) -> None:
    """Those that take minutes; each a process, so that its file names its own command."""
    import subprocess
    import sys

    stem = model.replace(":", "-") if not model.endswith(".safetensors") else Path(model).stem
    more = [] if data is None else ["--data", str(data)]
    for command in ("cross-modal", "probe"):
        out = folder / f"{command}-{Path(stem).name}"
        terminal.err.print(f"measuring: fedprint-lab {command} {model} -o {out}")
        words = [command, model, *more, "-o", str(out)]
        program = "from simulations.cli import main; main()"
        done = subprocess.run([sys.executable, "-c", program, *words], check=False, stdout=2)
        if done.returncode:
            raise Refused(
                f"fedprint-lab {command} ended with {done.returncode}; what it said is above.",
                reason="measurement",
            )
