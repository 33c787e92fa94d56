"""fedprint-node: personalise, personal list, apply, remove. Nothing here is ever sent."""

from __future__ import annotations

import csv
import io
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

from client.cli_release import Preset, WarmStart, model_in_use, preset_in_use
from shared_model import outputs, terminal
from shared_model.errors import OurMistake, Refused

if TYPE_CHECKING:
    from client.home import NodeHome
    from client.personal import FigureSaid, PersonalHead
    from client.personal_labels import Labels
    from client.personal_rows import Counted
    from client.site_fingerprints import Patients

Home = Annotated[
    Path | None, typer.Option("--home", help="The node's folder (else FEDPRINT_NODE_HOME).")
]
AsJson = Annotated[bool, typer.Option("--json", help="One JSON document instead of text.")]
STAYS = "It stays on this machine: nothing that this node sends can carry it."

app = typer.Typer(no_args_is_help=True, help="Heads on this hospital's own labels; never sent.")


def register(parent: typer.Typer) -> None:
    """Add this part's commands."""
    parent.command()(personalise)
    parent.add_typer(app, name="personal")


def personalise(
    labels: Annotated[
        Path, typer.Argument(metavar="LABELS.csv", help="One row a patient: patient,LABEL.")
    ],
    name: Annotated[str, typer.Option(help="Of the head; small letters, digits, hyphens.")] = "",
    label: Annotated[str | None, typer.Option(help="Column of the labels, if several.")] = None,
    patient_column: Annotated[
        str | None, typer.Option(help="Column of the patients, as in the recordings.")
    ] = None,
    kind: Annotated[
        str | None, typer.Option(help="class or number; by default what the labels look like.")
    ] = None,
    missing: Annotated[
        list[str] | None,
        typer.Option(
            metavar="WORD", help="A word that is no label, as an empty cell is; may be repeated."
        ),
    ] = None,
    sensors: Annotated[str, typer.Option(help="both, ecg or ppg.")] = "both",
    output: Annotated[
        Path | None,
        typer.Option(
            "-o",
            "--output",
            callback=outputs.file,
            help="Write what was measured here, as JSON.",
        ),
    ] = None,
    warm_start: WarmStart = False,
    preset: Preset = None,
    home: Home = None,
    as_json: AsJson = False,
) -> None:
    """Make a linear head on this hospital's own labels, over the installed release's fingerprints.

    Measured by cross-validation over patients, each answer by a head that never saw that patient,
    with a 95 % interval over patients. It abstains from patients far from those it was made of; a
    number gets an interval. Kept in the node's folder, encrypted if the window store is.

    Example: fedprint-node personalise af.csv --name af -o af.json
    """
    from client import personal
    from client.home import NodeHome
    from client.personal_labels import read_labels
    from client.personal_rows import joined, refuse_few
    from client.pseudonyms import load_key

    if kind not in (None, "class", "number"):
        raise OurMistake("--kind is class or number.")
    packaged = preset_in_use(warm_start, preset)
    place = NodeHome.find(home)
    read = read_labels(
        labels, load_key(place.pseudonym_key), label, patient_column, missing=missing or (),
        kind=kind,
    )  # fmt: skip
    patients, digest, source = site_patients(place, sensors, packaged, None)
    features, values, counted = joined(read, patients)
    refuse_few(counted, sensors, lambda other: _labelled_having(place, read, other))
    made = personal.make(
        name or _name_of(read.column),
        read.column,
        features,
        values,
        kind=kind,  # type: ignore[arg-type]
        sensors=sensors,
        model_digest=digest,
    )
    sealed = personal.save(place, made)
    told = {**personal.described(made), "source": source, "rows": _rows(counted), "sealed": sealed}
    if counted.named_before:
        told["names"] = counted.named_before
    if as_json:
        terminal.print_json(told)
    else:
        _show(made, counted, source, sealed)
    if output is not None:  # the head is kept and told, whatever becomes of the file
        outputs.write(output, (outputs.document(told) + "\n").encode())


@app.command("list")
def list_heads(home: Home = None, as_json: AsJson = False) -> None:
    """Show this node's personal heads and what was measured of them. A file that is refused is a
    row, too: which, and why.

    Example: fedprint-node personal list
    """
    from client import personal
    from client.home import NodeHome

    place = NodeHome.find(home)
    rows = [_listed(place, name, as_json) for name in personal.names(place)]
    terminal.show("Personal heads; they stay here", rows, as_json=as_json)


def _listed(place: NodeHome, name: str, whole: bool) -> dict[str, object]:
    """A row of the list; one bad file does not hide the others."""
    from client import personal

    try:
        head = personal.load(place, name)
    except (Refused, OurMistake) as error:
        return {"name" if whole else "head": name, "refused": str(error)}
    if whole:
        return personal.described(head)
    return {
        "head": head.name, "label": head.label, "patients": head.patients,
        "sensors": head.sensors, "model": head.model_digest[:12], "abstains from": head.far_words,
        "measured": "; ".join(f"{what} {text}" for what, text in _figures(head).items()),
    }  # fmt: skip


@app.command()
def apply(
    name: Annotated[str, typer.Argument(help="Of the head; see: fedprint-node personal list")],
    output: Annotated[
        Path | None,
        typer.Option(
            "-o", "--output", callback=outputs.file, help="CSV to write, for this user alone."
        ),
    ] = None,
    warm_start: WarmStart = False,
    preset: Preset = None,
    home: Home = None,
    as_json: AsJson = False,
) -> None:
    """Answer for every patient in the window store, by pseudonym; abstain, and say why, from those
    far from whom it was made of. Those it was made of are answered too: their answers look better
    than they are. A number has an interval. Not a medical device.

    Example: fedprint-node personal apply af -o answers.csv
    """
    from client import personal
    from client.home import NodeHome

    packaged = preset_in_use(warm_start, preset)
    place = NodeHome.find(home)
    head = personal.load(place, name)
    personal.limit_of(head)  # one of before is refused before the work
    patients, _, _ = site_patients(place, head.sensors, packaged, head)
    found = personal.answers(head, patients.mean)
    rows = [
        {"pseudonym": one, **answer} for one, answer in zip(patients.pseudonyms, found, strict=True)
    ]
    abstained = sum(bool(row["why"]) for row in rows)
    told = f"{len(rows) - abstained} answers, {abstained} abstained"
    if output is not None:
        text = io.StringIO(newline="")
        writer = csv.DictWriter(text, list(rows[0]) if rows else ["pseudonym"])
        writer.writeheader()
        writer.writerows(rows)
        outputs.write(output, text.getvalue().encode())
        terminal.err.print(f"{told}, in {output}", highlight=False)
    elif as_json:
        terminal.print_json(rows)
    else:
        terminal.show(f"Answers of {head.name}", rows, as_json=False)
        interval = f" Interval: {_interval(head)}." if head.band else ""
        terminal.out.print(f"{told}.{interval}", highlight=False)


@app.command()
def remove(
    name: Annotated[str, typer.Argument(help="Of the head; see: fedprint-node personal list")],
    home: Home = None,
) -> None:
    """Erase a personal head.

    Example: fedprint-node personal remove af
    """
    from client import personal
    from client.home import NodeHome

    personal.remove(NodeHome.find(home), name)
    terminal.out.print("removed")


def site_patients(
    place: NodeHome, sensors: str, packaged: str | None, head: PersonalHead | None
) -> tuple[Patients, str, str]:
    """Fingerprints of the store's patients, the model's digest, and what model it is in words.

    Args:
        packaged: as `preset_in_use` has it.

    Raises:
        OurMistake: no such sensors, no release, no store.
        Refused: the head is of another model.
    """
    from client import personal
    from client.cli_progress import counting_bar
    from client.fingerprints import FROM_WARM_START, SENSORS
    from client.site_fingerprints import of_store
    from client.store import open_for_use

    if sensors not in SENSORS:
        raise OurMistake(f"--sensors is one of {', '.join(SENSORS)}.")
    used, digest, run = model_in_use(place, None, packaged)
    if head is not None:
        again = place.command("personal", "apply", head.name)
        personal.refuse_other_model(head, digest, f"{again} --warm-start --preset ")
    store = open_for_use(place)
    with counting_bar("fingerprints") as on_patient:
        found = of_store(store, run, sensors, on_patient=on_patient)
    source = FROM_WARM_START if used is None else f"release {used.manifest.number}"
    return found, digest, source


def _labelled_having(place: NodeHome, labels: Labels, sensors: str) -> int:
    """Labelled patients of whom there is a fingerprint of these sensors."""
    from client.site_fingerprints import patients_having
    from client.store import open_for_use

    return len(patients_having(open_for_use(place), sensors) & set(labels.values))


def _name_of(column: str) -> str:
    made = "".join(one if one.isascii() and one.isalnum() else "-" for one in column.casefold())
    return made.strip("-")[:40]


def _rows(counted: Counted) -> dict[str, int]:
    return {
        "labelled": counted.labelled,
        "used": counted.used,
        "not in the store": counted.not_in_store,
        "without a usable window of these sensors": counted.without_windows,
        "without a label": counted.unlabelled,
    }


def _interval(head: PersonalHead) -> str:
    if head.band is None:
        return ""
    band = head.band
    measured = "" if band.coverage is None else f", measured {band.coverage:.0%}"
    return (
        f"{band.half_width:.4g} either way holds {band.level:.0%} of new patients like those it "
        f"was made of{measured}"
    )


def _figures(head: PersonalHead) -> dict[str, str]:
    return {one.name: _with_ends(one) for one in head.figures}


def _with_ends(one: FigureSaid) -> str:
    from shared_model.intervals import form

    as_text, between = ".3f", "no interval"
    if one.low is not None and one.high is not None:
        as_text = form(one.low, one.high)
        between = f"{one.low:{as_text}} to {one.high:{as_text}}"
    value, reference = (
        "-" if number is None else format(number, as_text) for number in (one.value, one.reference)
    )
    return f"{value} ({between}; without the signal {reference})"


def _show(head: PersonalHead, counted: Counted, source: str, sealed: bool) -> None:
    rows: list[dict[str, object]] = [
        {"what": "head", "value": head.name},
        {"what": "label", "value": f"{head.label}, {head.kind}"},
        {"what": "classes", "value": ", ".join(f"{k} {v}" for k, v in head.counts.items()) or "-"},
        {"what": "fingerprints of", "value": f"{source}; {head.sensors}"},
        *({"what": name, "value": value} for name, value in _rows(counted).items()),
    ]
    rows += [{"what": name, "value": text} for name, text in _figures(head).items()]
    rows.append({"what": "abstains from", "value": head.far_words})
    if head.band is not None:
        rows.append({"what": "interval", "value": _interval(head)})
    kept = "encrypted" if sealed else "plain, as the window store is"
    rows.append({"what": "kept", "value": kept})
    terminal.show("Personal head, by cross-validation over patients", rows, as_json=False)
    if counted.named_before:
        terminal.out.print(counted.named_before, highlight=False)
    terminal.out.print(f"{STAYS} Not a medical device.", highlight=False)
