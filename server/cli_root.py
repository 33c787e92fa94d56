"""fedprint-coordinator root: the ceremony on the offline machine. Needs no coordinator."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

from shared_model import terminal
from shared_model.errors import PeerFault, Refused

if TYPE_CHECKING:
    from shared_model.roster import Roster

Home = Annotated[Path | None, typer.Option(help="The root key's folder (else FEDPRINT_ROOT_HOME).")]
Draft = Annotated[Path, typer.Argument(help="draft.json or roster.json", exists=True)]

app = typer.Typer(
    help="The root key, which signs rosters: on a machine without network, files by hand.",
    no_args_is_help=True,
)


@app.command()
def init(home: Home = None) -> None:
    """Make the root key and root.json, its public part. Nothing is ever overwritten.

    Example: fedprint-coordinator root init --home /media/root-key
    """
    from server import root

    place = root.RootHome.find(home)
    card = root.make(place)
    terminal.out.print(
        f"The root key is {place.key}: keep this machine off every network, and a copy of the "
        f"folder in a second safe.\nDigest of the root key:\n  {card.spoken_key}\nin words, "
        f"for the hospitals that join:\n  {card.words_key}\n"
        f"Next: carry {place.public} to the coordinator and run there: "
        "fedprint-coordinator init --root root.json",
        soft_wrap=True,
    )


@app.command()
def show(draft: Draft, home: Home = None) -> None:
    """Show a draft or a signed roster in words, and what changes since the last one signed here.

    Example: fedprint-coordinator root show draft.json
    """
    from server import root
    from shared_model import roster

    place = root.RootHome.find(home)
    offered = _read(draft)
    _print(roster.in_words(offered))
    if place.key.exists():
        last = root.last_signed(place)
        _print_differences(last.roster if last else None, offered)


@app.command()
def sign(
    draft: Draft,
    output: Annotated[Path, typer.Option("--output", "-o", help="Signed roster to write.")],
    home: Home = None,
    yes: Annotated[bool, typer.Option("--yes", help="All of it was read already.")] = False,
) -> None:
    """Sign a draft, after it was read. Never a second roster of one version, nor a lower one.

    Example: fedprint-coordinator root sign draft.json -o roster.json
    """
    from server import root, rosters
    from shared_model import roster
    from shared_model.files import write_atomic

    place = root.RootHome.find(home)
    offered = _read(draft)
    today = rosters.today_utc()
    root.check(place, offered, today)
    _print(roster.in_words(offered))
    last = root.last_signed(place)
    _print_differences(last.roster if last else None, offered)
    terminal.out.print(f"This machine's day is {today}.")
    if not yes and not typer.confirm(
        "Did each hospital read its key's digest to you by telephone? Sign?"
    ):
        raise Refused("The roster was not signed.", reason="not-compared")
    write_atomic(output, root.sign(place, offered, today))
    terminal.out.print(
        f"Wrote {output}. Next: carry it to the coordinator and run there: "
        "fedprint-coordinator roster import roster.json",
        soft_wrap=True,
    )


def _read(path: Path) -> Roster:
    """The roster in a draft or a signed file; signatures are not looked at."""
    from shared_model.roster import Roster, SignedRoster

    data = path.read_bytes()
    try:
        return SignedRoster.from_bytes(data).roster
    except PeerFault:
        return Roster.from_bytes(data)


def _print_differences(old: Roster | None, new: Roster) -> None:
    from shared_model import roster

    _print(["Since the last roster that this key signed:" if old else "New here:"])
    _print([f"- {line}" for line in roster.differences(old, new)])


def _print(lines: list[str]) -> None:
    for line in lines:
        terminal.out.print(line, soft_wrap=True, highlight=False)
