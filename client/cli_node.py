"""fedprint-node: init, join, start, status, pause, resume, logs."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated, Any

import typer

from client.home import NodeHome
from shared_model import terminal
from shared_model.errors import Refused

Home = Annotated[Path | None, typer.Option(help="The node's folder (else FEDPRINT_NODE_HOME).")]
AsJson = Annotated[bool, typer.Option("--json", help="Print JSON.")]


def register(app: typer.Typer) -> None:
    """Add this part's commands."""
    for command in (init, join, start, status, pause, resume, logs):
        app.command()(command)


def init(
    site: Annotated[
        str, typer.Option(help="Name: lower-case letters, digits, inner hyphens, at most 32.")
    ],
    patients: Annotated[
        int,
        typer.Option(
            min=1, help="Declared number of patients; public, fixed, not a count of data."
        ),
    ],
    home: Home = None,
) -> None:
    """Make this hospital's keys, node.toml, policy.toml, and site.json for the coordinator.

    Nothing is ever overwritten.

    Example: fedprint-node init --site north-clinic --patients 1200
    """
    from client import keys
    from client.policy import Policy, rounded_patients

    place = NodeHome.find(home)
    card = keys.make(place, site, rounded_patients(patients))
    if not place.policy.exists():
        Policy.write_default(place.policy, declared_patients=card.declared_patients)
    terminal.out.print(
        f"The node of {card.site} is at {place.root}; it declares {card.declared_patients} "
        "patients (rounded down to two digits).\n"
        f"Next: read {place.policy}, then send {place.root / 'site.json'} to the coordinator's "
        f"operator and compare its digest by telephone:\n  {card.spoken}",
        soft_wrap=True,
    )


def join(
    invitation: Annotated[
        Path, typer.Argument(metavar="FILE", help="token.json, or coordinator.json.", exists=True)
    ],
    home: Home = None,
    yes: Annotated[bool, typer.Option("--yes", help="The digest was compared already.")] = False,
    patients: Annotated[
        int | None,
        typer.Option(
            min=1, help="With a token, for a new node: declared number of patients; public, fixed."
        ),
    ] = None,
) -> None:
    """Join with the operator's token, or pin a coordinator.json; digests are compared by telephone.

    With a token it makes this hospital's keys, if there are none, and sends the public ones.

    Example: fedprint-node join token.json --patients 1200
    """
    from client import cli_registry, keys
    from shared_model import enrolment, signing

    place = NodeHome.find(home)
    data = invitation.read_bytes()
    if cli_registry.join_with_token(place, data, patients=patients, yes=yes):
        return
    keys.load_config(place)
    offered = enrolment.open_invitation(data)
    terminal.out.print(
        f"Coordinator at {offered.address}\n"
        f"digest of the file:        {offered.spoken}\n"
        f"digest of its run key:     {signing.key_digest(offered.run)}\n"
        f"digest of its release key: {signing.key_digest(offered.release)}\n"
        "digest of the root key (its holder reads it to you, not the coordinator's operator):\n"
        f"  {enrolment.RootCard(root_key=offered.root_key).spoken_key}\n"
        f"  {enrolment.RootCard(root_key=offered.root_key).words_key}",
        soft_wrap=True,
    )
    if not yes and not typer.confirm(
        "Did the operator read the same digest of the file to you by telephone, and the holder of "
        "the root key that of the root key?"
    ):
        raise Refused("The coordinator was not pinned.", reason="not-compared")
    keys.join(place, data)
    terminal.out.print(
        "Pinned. Next: fedprint-node data add FOLDER, fedprint-node roster approve roster.json "
        "(the operator sends it, or it waits once the node was started), fedprint-node start",
        soft_wrap=True,
    )


def start(home: Home = None) -> None:
    """Run and supervise the node until interrupted: SuperNode, training, console.

    A process that ends is started again. Only this installed package is executed, never code that
    the coordinator sends. Limits are in node.toml, [training]; a change counts at once.

    Example: fedprint-node start
    """
    from client import node

    place = NodeHome.find(home)

    def started() -> None:
        terminal.err.print(f"The node is started. Logs: {place.logs}. Stop it with Ctrl-C.")

    node.serve(place, started, terminal.err.print)


def status(home: Home = None, as_json: AsJson = False) -> None:
    """Show this node: how it is and why, what it trains, site, coordinator, roster, epoch, data.

    Example: fedprint-node status --json
    """
    from client import cli_code, cli_run, keys, node
    from client.policy import installed_code

    place = NodeHome.find(home)
    config = keys.load_config(place)
    rows: list[dict[str, Any]] = [
        {"what": "site", "value": config.site},
        {"what": "declared patients", "value": config.declared_patients},
        {"what": "site.json digest", "value": keys.card(place).spoken},
        {"what": "running", "value": "yes" if node.is_running(place) else "no"},
    ]
    rows += _of_the_processes(place)
    if place.coordinator.exists():
        pinned = keys.pinned(place)
        rows.append({"what": "coordinator", "value": pinned.address})
        rows.append({"what": "coordinator.json digest", "value": pinned.spoken})
    else:
        rows.append({"what": "coordinator", "value": "none joined"})
    rows += _of_the_secure_sum(place)
    rows.append({"what": "data", "value": "ingested" if place.store.exists() else "none"})
    rows.append({"what": "runs waiting for approval", "value": cli_run.waiting(place)})
    code = installed_code()
    rows.append({"what": "code digest", "value": code})
    rows.append({"what": "code", "value": cli_code.standing(place, code)})
    rows.append({"what": "folder", "value": str(place.root)})
    if as_json:
        terminal.print_json({row["what"].replace(" ", "_"): row["value"] for row in rows})
        return
    terminal.show("Node", rows, as_json=False)


def pause(
    why: Annotated[str, typer.Option(help="A word for who looks later.")] = "",
    home: Home = None,
) -> None:
    """Begin nothing new; a round that was begun is finished, then the node goes offline.

    It holds over restarts, until `resume`.

    Example: fedprint-node pause --why "ward round needs the machine"
    """
    from client import keys, state

    place = NodeHome.find(home)
    keys.load_config(place)
    state.pause(place, why)
    terminal.out.print("Paused. Go on with: fedprint-node resume")


def resume(home: Home = None) -> None:
    """Let training go on after `pause`.

    Example: fedprint-node resume
    """
    from client import keys, state

    place = NodeHome.find(home)
    keys.load_config(place)
    was = state.paused(place) is not None
    state.resume(place)
    terminal.out.print("Resumed." if was else "It was not paused.")


def logs(
    lines: Annotated[
        int, typer.Option("--lines", "-n", min=0, help="So many of the last lines.")
    ] = 100,
    follow: Annotated[
        bool, typer.Option("--follow", "-f", help="Go on with what comes, until Ctrl-C.")
    ] = False,
    home: Home = None,
    as_json: Annotated[bool, typer.Option("--json", help="One JSON object a line.")] = False,
) -> None:
    """All logs of the node, merged by time: supervisor, SuperNode, training, console, rounds.

    Example: fedprint-node logs --follow
    """
    from client.log_view import followed, last

    place = NodeHome.find(home)
    for entry in followed(place.logs, lines) if follow else last(place.logs, lines):
        typer.echo(entry.as_json() if as_json else entry.as_text())


def _of_the_processes(place: NodeHome) -> list[dict[str, Any]]:
    """Phase, why, progress and restarts, as far as they are known."""
    import time

    from client import node, state

    rows: list[dict[str, Any]] = []
    seen, paused = state.node_state(place), state.paused(place)
    running = node.is_running(place)
    if seen is not None:
        crashed = not running and seen.phase != "stopped"
        rows.append({"what": "phase", "value": "stopped" if crashed else seen.phase})
        rows.append({"what": "why", "value": "it was killed" if crashed else seen.why or "-"})
    elif paused is not None:
        rows.append({"what": "why", "value": "paused"})
    if running and seen is not None:
        for item in seen.processes:
            up = "down" if item.pid is None else f"pid {item.pid}"
            value = f"{up}, restarted {item.restarts} times" if item.restarts else up
            rows.append({"what": item.name, "value": value})
    shown = state.progress(place) if running else None
    if shown is not None:
        value = f"run {shown.run}, round {shown.round}: step {shown.step} of {shown.steps}"
        if shown.stage == "holding":
            left_s = max(0.0, (shown.leaves_s or 0.0) - time.time())
            value = f"run {shown.run}, round {shown.round}: done, leaves in {left_s:.0f} s"
        rows.append({"what": "progress", "value": value})
    return rows


def _of_the_secure_sum(place: NodeHome) -> list[dict[str, Any]]:
    """Which roster and epoch this node goes by, and what waits for its operator."""
    from client.node_parts import epoch_keys
    from client.rosters import APPROVE, RosterBook

    book, epochs = RosterBook(place), epoch_keys(place)
    approved, pending = book.approved(), book.pending()
    waits = "none" if pending is None else f"version {pending.roster.version}. {APPROVE}"
    if epochs.held:
        epoch = f"{epochs.held}"
    else:
        epoch = f"no key; the last was {epochs.last}" if epochs.last else "none yet"
    return [
        {
            "what": "roster",
            "value": "none approved" if approved is None else f"version {approved.roster.version}",
        },
        {"what": "roster waiting for approval", "value": waits},
        {"what": "epoch", "value": epoch},
    ]
