"""fedprint-node data: add, show, remove; every command leaves a whole store behind.

How the store is encrypted and verified is in `client.cli_data_key`, who withdraws in
`client.cli_withdraw`.
"""

from __future__ import annotations

from collections import Counter
from dataclasses import asdict
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer

from client import cli_data_key, cli_withdraw, withdrawals
from client.cli_data_parts import AsJson, Home, Yes, confirm, done
from client.home import NodeHome
from shared_model import terminal
from shared_model.errors import DataFault, OurMistake

if TYPE_CHECKING:
    from client.ingest import AddReport
    from client.mapping import Mapping

app = typer.Typer(no_args_is_help=True)
cli_data_key.register(app)
cli_withdraw.register(app)

NAMED_BEFORE = (
    "Named by an earlier version: some identifiers were spelled otherwise. Nothing can be added "
    "until everything is removed (data remove --all) and added again."
)
_SHOWN_FINDINGS = 20
_SHOWN_FAULTS = 50


@app.command()
def add(
    path: Annotated[Path, typer.Argument(help="Folder of recordings, or one file.")],
    mapping: Annotated[
        Path | None, typer.Option(help="TOML mapping; without it, one is guessed and shown.")
    ] = None,
    name: Annotated[
        str | None, typer.Option(help="Name of the data set (else set-1, set-2, ...).")
    ] = None,
    withdrawals_hold: Annotated[
        bool,
        typer.Option(
            "--withdrawals-hold",
            help="After an upgrade or a restore: who had withdrawn is withdrawn again.",
        ),
    ] = False,
    home: Home = None,
    yes: Yes = False,
    as_json: AsJson = False,
) -> None:
    """Read recordings, cut and judge windows, put them into the node's store. Nothing leaves.

    The mapping and all identifiers found are shown before anything is stored; identifiers are
    never stored. Exit status: 0 everything went in, 4 some files did not (the rest did).

    Example: fedprint-node data add /mnt/ward7 --mapping ward7.toml --yes
    """
    from client.ingest import add_recordings
    from client.records import count_recordings, read_folder

    place = NodeHome.find(home)
    chosen = _agree_on_mapping(path, mapping, yes=yes, as_json=as_json)

    def look(report: AddReport) -> None:
        progress.stop()
        _agree_on_findings(report, yes=yes, as_json=as_json)

    with Progress(count_recordings(path), hidden=as_json) as progress:
        report = add_recordings(
            place,
            path,
            read_folder(path, chosen),
            name=name,
            withdrawals_hold=withdrawals_hold,
            on_item=progress.advance,
            before_commit=look,
        )
    if as_json:
        terminal.print_json({**report.as_dict(), "mapping": chosen.model_dump(mode="json")})
    else:
        _print_report(report)
    if report.faults:
        raise typer.Exit(DataFault.exit_code)


@app.command()
def show(
    home: Home = None,
    sheet: Annotated[
        Path | None, typer.Option(help="Write a PNG of good and refused windows here.")
    ] = None,
    patients: Annotated[
        bool, typer.Option("--patients", help="Also the catalogue, one row a patient.")
    ] = False,
    as_json: AsJson = False,
) -> None:
    """Check the whole store, then print patients, windows, refusals by reason, and encryption.

    Example: fedprint-node data show --sheet windows.png
    """
    from client.store import open_store, withdrawals_are_known

    place = NodeHome.find(home)
    store = open_store(place, full=True)
    summary = summary_of_store(store)
    summary["withdrawals_known"] = withdrawals_are_known(place)
    if sheet is not None:
        from client.contact_sheet import write_sheet

        good, refused = write_sheet(store, sheet)
        summary["sheet"] = {"file": str(sheet), "good": good, "refused": refused}
    if patients:
        summary["catalogue"] = [asdict(row) for row in store.catalogue()]
    if as_json:
        terminal.print_json(summary)
        return
    terminal.show("Data sets", summary["data_sets"], as_json=False)
    rows = [
        {"patients": summary["patients"], "with usable windows": summary["trainable_patients"],
         "recordings": summary["recordings"], "windows": summary["windows"],
         "usable windows": summary["usable_windows"], "withdrawn": summary["withdrawn"]}
    ]  # fmt: skip
    terminal.show("Window store", rows, as_json=False)
    _show_refusals(summary["refusals"], summary["windows"])
    terminal.out.print(cli_data_key.in_words(store), highlight=False)
    if store.former:
        terminal.out.print(NAMED_BEFORE, highlight=False)
    if not summary["withdrawals_known"]:
        terminal.out.print(
            "Restored from a backup: who has withdrawn since may be in it, and nothing trains. "
            f"{withdrawals.DO_FORMER if store.former else withdrawals.DO}",
            highlight=False,
        )
    if patients:
        rows = [
            {"pseudonym": row.pseudonym, "data sets": ", ".join(row.data_sets),
             "recordings": row.recordings, "windows": row.windows, "usable": row.usable}
            for row in store.catalogue()
        ]  # fmt: skip
        terminal.show("Patients", rows, as_json=False)
    if sheet is not None:
        terminal.out.print(f"Contact sheet: {good} good and {refused} refused windows in {sheet}")


@app.command()
def remove(
    data_set: Annotated[
        str | None, typer.Argument(help="Name of a data set, or the folder it was added from.")
    ] = None,
    everything: Annotated[bool, typer.Option("--all", help="Remove every data set.")] = False,
    home: Home = None,
    yes: Yes = False,
    as_json: AsJson = False,
) -> None:
    """Erase a data set (or everything) from the store. What was spent of the budget stays spent.

    Example: fedprint-node data remove set-1 --yes
    """
    from client.ingest import find_data_set, open_writer

    if (data_set is None) != everything:
        raise OurMistake("Name one data set, or give --all.", do="See: fedprint-node data show")
    place = NodeHome.find(home)
    name = None if data_set is None else find_data_set(place, data_set)
    what = "every data set" if name is None else f"data set {name!r}"
    confirm(f"Erase {what} of this node?", yes=yes)
    with open_writer(place) as writer:
        erased = writer.remove(name)
    done({"removed": name or "all", "recordings": erased}, f"Erased {what}: {erased} recordings. "
          "The privacy budget already spent on them stays spent.", as_json=as_json)  # fmt: skip


@app.command("mapping")
def write_mapping(
    path: Annotated[Path, typer.Argument(help="Folder of recordings, or one file.")],
    output: Annotated[
        Path | None, typer.Option("--output", "-o", help="Write here instead of stdout.")
    ] = None,
) -> None:
    """Guess how a folder is to be read and write it as TOML, to be edited and given to `add`.
    Comments name the columns of tables that are no labels, and why.

    Example: fedprint-node data mapping /mnt/ward7 -o ward7.toml
    """
    from client.records import guess_folder
    from shared_model.files import write_atomic

    text = guess_folder(path).to_toml()
    if output is None:
        typer.echo(text, nl=False)
        return
    write_atomic(output, text.encode())
    terminal.err.print(f"Wrote {output}. Next: fedprint-node data add PATH --mapping {output}")


class Progress:
    """A bar on stderr with the time left; silent where `hidden` or where stderr is no terminal.

    `expected` is an estimate: a table holds more recordings than files, a record several files.
    """

    def __init__(self, expected: int, *, hidden: bool) -> None:
        from rich import progress

        self._bar = progress.Progress(
            progress.TextColumn("reading"),
            progress.BarColumn(),
            progress.TextColumn("{task.completed:.0f} of about {task.total:.0f} recordings"),
            progress.TimeRemainingColumn(),
            console=terminal.err,
            disable=hidden or not terminal.err.is_terminal,
            transient=True,
        )
        self._task = self._bar.add_task("reading", total=max(1, expected))

    def __enter__(self) -> Progress:
        self._bar.start()
        return self

    def __exit__(self, *error: object) -> None:
        self._bar.stop()

    def advance(self) -> None:
        """One recording or fault more."""
        self._bar.advance(self._task)
        task = self._bar.tasks[0]
        if task.total is not None and task.completed > task.total:
            self._bar.update(self._task, total=2 * task.total)

    def stop(self) -> None:
        self._bar.stop()


def _agree_on_mapping(path: Path, given: Path | None, *, yes: bool, as_json: bool) -> Mapping:
    """The mapping to use, shown before anything is read with it."""
    from client.mapping import Mapping
    from client.records import guess_folder

    if given is None:
        guess = guess_folder(path)
        chosen, text = guess.mapping(), guess.to_toml()
    else:
        chosen = Mapping.from_file(given)
        text = chosen.to_toml()
    if not as_json:
        source = "guessed from the files" if given is None else f"from {given}"
        terminal.err.print(f"Mapping, {source}:", style="bold", highlight=False)
        terminal.err.print(text, highlight=False)
        confirm("Read the recordings with this mapping?", yes=yes)
    elif not yes:
        raise OurMistake("With --json nobody is asked.", do="Give --yes as well.")
    return chosen


def _agree_on_findings(report: AddReport, *, yes: bool, as_json: bool) -> None:
    """Show what the identifier scan found, before anything is in the catalogue."""
    if as_json:
        return
    findings = list(report.findings)
    if not findings:
        terminal.err.print("Identifier scan: nothing found.")
        return
    counts = Counter(finding.kind for finding in findings)
    told = ", ".join(f"{count} x {kind}" for kind, count in sorted(counts.items()))
    terminal.err.print(
        f"Identifier scan: {told}. None of it is stored; the store keeps keyed pseudonyms.",
        highlight=False,
    )
    for finding in findings[:_SHOWN_FINDINGS]:
        terminal.err.print(
            f"  {finding.file}: {finding.field}: {finding.kind} ({finding.length} characters)",
            highlight=False,
        )
    if len(findings) > _SHOWN_FINDINGS:
        terminal.err.print(f"  and {len(findings) - _SHOWN_FINDINGS} more (all with --json)")
    confirm(f"Put {report.added} recordings into the store?", yes=yes)


def _print_report(report: AddReport) -> None:
    rows = [
        {"data set": report.data_set, "version": report.version, "patients": report.patients,
         "recordings": report.recordings, "new": report.added, "already in": report.already_in,
         "withdrawn": report.withdrawn, "windows": report.windows, "usable": report.usable,
         "faults": len(report.faults)}
    ]  # fmt: skip
    terminal.show("Added", rows, as_json=False)
    refusals = {channel: dict(counts) for channel, counts in report.refusals.items()}
    _show_refusals(refusals, report.windows)
    if report.withdrawn:
        terminal.out.print(
            f"{report.withdrawn} recordings belong to patients who withdrew; they stay out."
        )
    if report.same_bytes:
        terminal.out.print(
            f"{report.same_bytes} recordings are byte by byte those of another patient in the same "
            "folder: check whose they are. A person under two identifiers is two privacy units."
        )
    if report.faults:
        shown = [
            {"file": one.file, "cause": one.cause, "what": one.message, "do": one.do}
            for one in report.faults[:_SHOWN_FAULTS]
        ]
        terminal.show("Faults (everything else went in)", shown, as_json=False)
        if len(report.faults) > len(shown):
            terminal.out.print(f"and {len(report.faults) - len(shown)} more (all with --json)")


def summary_of_store(store: Any) -> dict[str, Any]:
    """What `data show --json` prints: counts only."""
    rows = store.catalogue()
    refusals: dict[str, Counter[str]] = {"ecg": Counter(), "ppg": Counter()}
    for row in rows:
        for channel, counts in row.refusals.items():
            refusals[channel].update(counts)
    return {
        "patients": len(rows),
        "trainable_patients": store.patient_count,
        "recordings": sum(row.recordings for row in rows),
        "windows": sum(row.windows for row in rows),
        "usable_windows": store.window_count,
        "refusals": {channel: dict(sorted(counts.items())) for channel, counts in refusals.items()},
        "labels": sorted({name for row in rows for name in row.labels}),
        "withdrawn": store.withdrawn_count,
        **({"names": NAMED_BEFORE} if store.former else {}),
        "data_sets": [
            {
                "data set": one.name,
                "version": one.version,
                "patients": sum(one.name in row.data_sets for row in rows),
            }
            for one in store.data_sets
        ],
        "version": store.version,
        **cli_data_key.encryption(store),
    }


def _show_refusals(refusals: dict[str, dict[str, int]], windows: int) -> None:
    reasons = sorted({reason for counts in refusals.values() for reason in counts})
    rows: list[dict[str, Any]] = [
        {"reason": reason, **{c: counts.get(reason, 0) for c, counts in refusals.items()}}
        for reason in reasons
    ]
    kept = {c: windows - sum(counts.values()) for c, counts in refusals.items()}
    terminal.show(
        "Windows by channel and reason", [{"reason": "accepted", **kept}, *rows], as_json=False
    )
