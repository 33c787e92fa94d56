"""fedprint-coordinator roster: draft it for the root, take it back signed, show it."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

import typer

from server.home import CoordinatorHome
from shared_model import terminal
from shared_model.errors import OurMistake

Home = Annotated[
    Path | None,
    typer.Option(help="The coordinator's folder (else FEDPRINT_COORDINATOR_HOME)."),
]

app = typer.Typer(
    help="The roster: which hospitals take part. The root key signs it, each hospital approves.",
    no_args_is_help=True,
)


@app.command()
def draft(
    output: Annotated[Path, typer.Option("--output", "-o", help="File to write.")],
    home: Home = None,
    threshold: Annotated[
        int | None,
        typer.Option(min=1, help="How many must open a sum; default floor(2n/3) + 1."),
    ] = None,
    valid_days: Annotated[int, typer.Option(min=1, max=3650, help="Days until it expires.")] = 365,
    version: Annotated[
        int | None, typer.Option(min=1, help="Default: one above the roster here.")
    ] = None,
) -> None:
    """Write the next roster, unsigned, from all enrolled cards.

    Example: fedprint-coordinator roster draft -o draft.json
    """
    from server import rosters
    from shared_model import roster
    from shared_model.files import write_atomic

    place = CoordinatorHome.find(home)
    made = rosters.draft(
        place,
        today=rosters.today_utc(),
        version=version,
        threshold=threshold,
        valid_days=valid_days,
    )
    write_atomic(output, made.to_bytes())
    _print(roster.in_words(made))
    signed = rosters.current(place)
    _print([f"- {line}" for line in roster.differences(signed.roster if signed else None, made)])
    _print(
        [
            f"Wrote {output}. Next: carry it to the root's machine and run there: "
            f"fedprint-coordinator root sign {output.name} -o roster.json"
        ]
    )


@app.command("import")
def take(
    file: Annotated[Path, typer.Argument(help="roster.json or countersignature.json", exists=True)],
    home: Home = None,
) -> None:
    """Take a roster that the root signed, or a hospital's countersignature of it.

    Example: fedprint-coordinator roster import roster.json
    """
    from server import rosters

    place = CoordinatorHome.find(home)
    signed = rosters.take(place, file.read_bytes(), today=rosters.today_utc())
    approved = ", ".join(item.site for item in signed.countersignatures) or "nobody"
    _print(
        [
            f"Roster version {signed.roster.version}, countersigned by {approved}. Its digest:",
            f"  {signed.roster.spoken}",
            "Next: each hospital approves it (fedprint-node roster approve), or as many as the "
            "threshold of the roster before countersign it.",
        ]
    )


@app.command()
def show(
    home: Home = None,
    as_json: Annotated[bool, typer.Option("--json", help="Print JSON.")] = False,
) -> None:
    """Show the newest roster, who countersigned, and enrolled sites that it does not fit.

    Example: fedprint-coordinator roster show
    """
    from server import rosters
    from shared_model import roster

    place = CoordinatorHome.find(home)
    root = rosters.root_card(place)
    signed = rosters.current(place)
    if signed is None:
        raise OurMistake("The root has signed no roster yet.", do=rosters.DRAFT)
    gaps = rosters.gaps(place, signed.roster)
    by_version = rosters.countersigned(place, signed)
    if as_json:
        terminal.print_json(
            {
                "root_key": root.root_key,
                "roster": roster.facts(signed.roster),
                "countersigned": {str(version): sites for version, sites in by_version.items()},
                "gaps": gaps,
            }
        )
        return
    _print([f"Root key: {root.spoken_key}", *roster.in_words(signed.roster)])
    for version, sites in by_version.items():
        if sites:
            _print([f"Countersigned with keys of version {version}: {', '.join(sites)}"])
    _print(gaps)


def _print(lines: list[str]) -> None:
    for line in lines:
        terminal.out.print(line, soft_wrap=True, highlight=False)
