"""fedprint-node: install, release, fingerprint."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer

from shared_model import terminal
from shared_model.errors import DataFault, OurMistake

if TYPE_CHECKING:
    from client.fingerprints import Fault, Fingerprinter, Summary
    from client.home import NodeHome
    from shared_model.mae import MaskedAutoencoder
    from shared_model.release_signed import Release

Home = Annotated[
    Path | None, typer.Option("--home", help="The node's folder (else FEDPRINT_NODE_HOME).")
]
AsJson = Annotated[bool, typer.Option("--json", help="One JSON document instead of text.")]
WarmStart = Annotated[
    bool,
    typer.Option(
        "--warm-start", help="Use a packaged warm start: no release, simulated signals only."
    ),
]
Preset = Annotated[
    str | None,
    typer.Option(
        metavar="tiny|small",
        help="With --warm-start: which one, that on which the head stands (default tiny).",
    ),
]


def register(app: typer.Typer) -> None:
    """Add this part's commands."""
    for command in (install, release, fingerprint):
        app.command()(command)


def install(
    source: Annotated[
        Path, typer.Argument(metavar="RELEASE", help="A release folder or .fedprint file.")
    ],
    home: Home = None,
    yes: Annotated[bool, typer.Option("--yes", help="Install without asking.")] = False,
    confirm_roster: Annotated[
        list[str] | None,
        typer.Option(
            metavar="DIGEST",
            help="A roster from before this hospital joined, whose hospitals you have asked; again "
            "for each.",
        ),
    ] = None,
    confirm_origin: Annotated[
        list[str] | None,
        typer.Option(
            metavar="DIGEST",
            help="A first model that this version does not know, of which you know that no "
            "patient's data made it.",
        ),
    ] = None,
    as_json: AsJson = False,
) -> None:
    """Verify a release against the coordinator's pinned key, show what it cost, install it.

    Refused: another signer, a wrong signature or digest, a lineage that does not hang together or
    leaves out a round that this hospital answered, a roster that it has not approved, an older
    release than the installed one, a model that this version does not know.

    Example: fedprint-node install heart-1.fedprint
    """
    from client import install as installation
    from client.home import NodeHome
    from shared_model.release_words import describe, words

    place = NodeHome.find(home)
    checked = installation.check(place, source, confirm_roster or (), confirm_origin or ())
    manifest = checked.release.manifest
    if not as_json:
        for line in words(manifest):
            typer.echo(line)
    if not checked.again and not yes:
        typer.confirm("Install this release?", abort=True, err=True)
    folder = installation.install(place, checked)
    if as_json:
        terminal.print_json({**describe(manifest), "folder": str(folder), "already": checked.again})
        return
    typer.echo("It was installed already." if checked.again else f"installed: {folder}")


def release(home: Home = None, as_json: AsJson = False) -> None:
    """Show the installed release and what it cost each patient; its files are verified again.

    Example: fedprint-node release --json
    """
    from client import install as installation
    from client.home import NodeHome
    from shared_model.release_words import describe, words

    place = NodeHome.find(home)
    found = installation.current(place)
    if found is None:
        raise OurMistake("No release is installed.", do="Run: fedprint-node install RELEASE")
    if as_json:
        told = {**describe(found.manifest), "before": installation.previous(place)}
        terminal.print_json(told)
        return
    for line in words(found.manifest):
        typer.echo(line)


def fingerprint(
    source: Annotated[
        Path, typer.Argument(metavar="INPUT", help="A recording, or a folder of recordings.")
    ],
    output: Annotated[Path, typer.Option("-o", "--output", help="Parquet file to write.")],
    mapping: Annotated[
        Path | None, typer.Option(help="TOML mapping of channels, patients; default: guessed.")
    ] = None,
    release_folder: Annotated[
        Path | None,
        typer.Option("--release", help="Use this release (verified) instead of the installed one."),
    ] = None,
    warm_start: WarmStart = False,
    preset: Preset = None,
    sensors: Annotated[
        str | None,
        typer.Option(
            help="ecg, ppg: the model sees this sensor alone; both: windows with both alone. "
            "Windows without them are left out, and counted. Default: what each window has."
        ),
    ] = None,
    with_refused: Annotated[
        bool,
        typer.Option("--with-refused", help="Also list refused windows, without a fingerprint."),
    ] = False,
    home: Home = None,
    as_json: AsJson = False,
) -> None:
    """Turn recordings into fingerprints: 128 numbers for every usable window of 10 seconds.

    Patients appear under this node's pseudonyms. Files that cannot be read are listed with their
    cause, the rest goes in, and the exit status is 4. A head of one sensor answers for
    fingerprints of that sensor: make them with --sensors.

    Example: fedprint-node fingerprint /data/icu -o icu.parquet
    Example: fedprint-node fingerprint /data/icu -o icu-ecg.parquet --sensors ecg
    """
    from client.cli_data import Progress
    from client.fingerprints import SENSORS, NothingRead, describe_source, fingerprint_file
    from client.home import NodeHome
    from client.mapping import Mapping
    from client.pseudonyms import load_or_create_key
    from client.records import count_recordings, guess_mapping, read_folder

    if sensors not in (None, *SENSORS):
        raise OurMistake(f"--sensors is one of {', '.join(SENSORS)}.")
    packaged = preset_in_use(warm_start, preset)
    place = NodeHome.find(home)
    used, model_digest, run = model_in_use(place, release_folder, packaged)
    if used is None:
        terminal.err.print(
            f"NO RELEASE: fingerprints of the packaged warm start ({packaged}), trained on "
            "simulated signals only."
        )
    chosen = guess_mapping(source) if mapping is None else Mapping.from_file(mapping)
    if not as_json:
        origin = "guessed from the files" if mapping is None else f"from {mapping}"
        terminal.err.print(f"Mapping, {origin}:", style="bold", highlight=False)
        terminal.err.print(chosen.to_toml(), highlight=False)
    try:
        with Progress(count_recordings(source), hidden=as_json) as progress:
            summary = fingerprint_file(
                read_folder(source, chosen),
                output,
                fingerprint=run,
                pseudonym_key=load_or_create_key(place),
                metadata=describe_source(used, model_digest, sensors),
                sensors=sensors,
                with_refused=with_refused,
                on_recording=progress.advance,
            )
    except NothingRead as error:
        show_faults(error.faults, as_json)
        raise
    _report(summary, output, used, sensors, as_json)
    if summary.faults:
        raise DataFault(
            f"{len(summary.faults)} recordings could not be read; the rest is in {output}.",
            cause="partly",
            do="Read the causes above; correct or leave out those files.",
        )


def preset_in_use(warm_start: bool, preset: str | None) -> str | None:
    """The preset of the packaged warm start that was asked for; None: a release.

    Raises:
        OurMistake: a preset without --warm-start, or one of which none is packaged.
    """
    from shared_model.warm_start import packaged

    if not warm_start:
        if preset is not None:
            raise OurMistake(
                "--preset is of the packaged warm start; a release has its own.",
                do="Say --warm-start, too, or leave out --preset.",
            )
        return None
    chosen = preset or "tiny"
    if chosen not in packaged():
        raise OurMistake(
            f"No warm start of preset {chosen!r} is packaged.",
            do=f"--preset is one of {', '.join(packaged())}.",
        )
    return chosen


def model_in_use(
    place: NodeHome, folder: Path | None, packaged: str | None
) -> tuple[Release | None, str, Fingerprinter]:
    """The release (None for a packaged warm start), the model's digest, and what makes
    fingerprints. packaged: as `preset_in_use` has it."""
    from shared_model import fingerprint as fingerprints

    used, digest, model = opened_model(place, folder, packaged)
    return used, digest, lambda signal, valid: fingerprints.fingerprints(model, signal, valid)


def opened_model(
    place: NodeHome, folder: Path | None, packaged: str | None
) -> tuple[Release | None, str, MaskedAutoencoder]:
    """The release (None for a packaged warm start), the model's digest, and the model."""
    from client import install as installation
    from shared_model import warm_start
    from shared_model import weights as weights_io

    if packaged is not None:
        if folder is not None:
            raise OurMistake("--warm-start and --release exclude each other.")
        config, weights, _ = warm_start.load(packaged)
        return None, weights_io.digest(weights), installation.model_of(config, weights)
    used = installation.opened(place, folder) if folder is not None else installation.current(place)
    if used is None:
        raise OurMistake(
            "No release is installed at this node.",
            do="Run: fedprint-node install RELEASE. To use the packaged model that has seen "
            "simulated signals only, say --warm-start.",
        )
    return used, used.manifest.model_digest, installation.load_model(used)


def show_faults(faults: Sequence[Fault], as_json: bool) -> None:
    """What could not be read, where there is nothing else to be told."""
    from client.fingerprints import fault_rows

    if as_json:
        terminal.print_json({"faults": fault_rows(faults)})
    elif faults:
        terminal.show("Not read", fault_rows(faults), as_json=False)


def _report(
    summary: Summary, output: Path, used: Release | None, sensors: str | None, as_json: bool
) -> None:
    from client.fingerprints import FROM_WARM_START, fault_rows

    told: dict[str, Any] = {
        "output": str(output),
        "source": FROM_WARM_START if used is None else f"release {used.manifest.number}",
        "patients": len(summary.patients),
        "recordings": summary.recordings,
        "sensors": sensors or "as recorded",
        "fingerprints": summary.windows,
        "refused_windows": summary.refused_windows,
        "windows_without_these_sensors": summary.other_sensors,
        "modalities": dict(sorted(summary.modalities.items())),
        "refusals": dict(sorted(summary.refusals.items())),
        "faults": fault_rows(summary.faults),
    }
    if as_json:
        terminal.print_json(told)
        return
    if summary.faults:
        show_faults(summary.faults, as_json=False)
    rows = [
        {"": name.replace("_", " "), "value": _flat(value)}
        for name, value in told.items()
        if name != "faults"
    ]
    terminal.show("Fingerprints", rows, as_json=False)


def _flat(value: Any) -> str:
    if isinstance(value, dict):
        return ", ".join(f"{name} {number}" for name, number in value.items()) or "-"
    return str(value)
