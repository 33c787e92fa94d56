"""fedprint-node registry, roster fetch, releases, rotate-key, leave; and joining with a token."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated, Any

import typer

from client import cli_mail, cli_roster
from client.cli_registry_parts import AsJson, Home, Yes, now, print_lines
from client.cli_registry_verified import show_epoch, show_ledgers
from client.home import NodeHome
from shared_model import terminal
from shared_model.errors import OurMistake, Refused

status_app = typer.Typer(
    help="The coordinator's registry: enrolment, rosters, releases, mail.", no_args_is_help=True
)
releases_app = typer.Typer(help="Signed releases at the registry.", no_args_is_help=True)


def register(app: typer.Typer) -> None:
    """Add this part's commands."""
    app.add_typer(status_app, name="registry")
    app.add_typer(releases_app, name="releases")
    app.add_typer(cli_mail.app, name="mail")
    cli_roster.app.command("fetch")(fetch_roster)
    app.command("rotate-key")(rotate_key)
    app.command()(leave)


def join_with_token(place: NodeHome, data: bytes, *, patients: int | None, yes: bool) -> bool:
    """`fedprint-node join token.json`; False if the file is no token."""
    from client import registry_join

    if not registry_join.is_token(data):
        if patients is not None:
            raise OurMistake("--patients goes with a token.", do="See: fedprint-node init --help")
        return False
    from client import keys
    from client.policy import Policy, rounded_patients
    from shared_model import signing
    from shared_model.enrolment import RootCard

    site = keys.load_config(place).site if place.config.exists() else None
    token = registry_join.read_token(data, site, now())
    if site is None:
        if patients is None:
            raise OurMistake(
                "This node is new: it needs the number of patients that it declares.",
                do="Run: fedprint-node join token.json --patients N",
            )
        card = keys.make(place, token.site, rounded_patients(patients))
        if not place.policy.exists():
            Policy.write_default(place.policy, declared_patients=card.declared_patients)
    elif patients is not None and rounded_patients(patients) != keys.card(place).declared_patients:
        raise OurMistake(
            f"This node declares {keys.card(place).declared_patients} patients already.",
            do="Leave --patients out.",
        )
    card = keys.card(place)
    joined = registry_join.offer(place, token)
    pinned = joined.invitation
    root = RootCard(root_key=pinned.root_key)
    print_lines(
        [
            f"{card.site}, {card.declared_patients} declared patients. TELEPHONE, and compare:",
            "",
            "1. You read to the coordinator's operator: this hospital's key",
            f"   {card.words_key}",
            f"   ({signing.key_digest(card.identity)})",
            f"2. The operator reads to you: the coordinator at {pinned.address}",
            f"   {pinned.words}",
            f"   ({pinned.digest})",
            "3. The holder of the root key (not the operator) reads to you: the root key",
            f"   {root.words_key}",
            f"   ({signing.key_digest(root.root)})",
            "",
        ]
    )
    if not yes and not typer.confirm("Were all three the same, word by word?"):
        raise Refused(
            "The coordinator was not pinned.",
            reason="not-compared",
            do="Run the same command again once you have compared; the token stays good for it.",
        )
    registry_join.pin(place, token, joined)
    print_lines(
        [
            "Joined. The token is used: delete it."
            if joined.admitted
            else "Joined; the operator has yet to admit this hospital. Delete the token.",
            f"Next: read {place.policy}; then fedprint-node roster approve, "
            "fedprint-node data add FOLDER, fedprint-node start",
        ]
    )
    return True


@status_app.command("status")
def show_status(home: Home = None, as_json: AsJson = False) -> None:
    """Ask the registry how it sees this node: admitted or not, certificate, newest roster.

    Example: fedprint-node registry status
    """
    from client import keys, registry_client
    from client.rosters import RosterBook
    from shared_model import registry
    from shared_model.spoken_words import words_of

    place = NodeHome.find(home)
    with registry_client.opened(place, now()) as session:
        health = session.call("Health", registry.Ask(), registry.Health)
        standing = session.call("Standing", registry.Ask(), registry.Standing)
        address = session.address
    approved = RosterBook(place).approved()
    facts: dict[str, Any] = {
        "registry": address,
        "version": health.fedprint,
        "site": standing.site,
        "state": standing.state,
        "key in words": keys.card(place).words_key,
        "key at the registry": words_of(standing.identity),
        "certificate ends": standing.expires,
        "newest roster": standing.roster or None,
        "approved roster": approved.roster.version if approved else None,
    }
    if as_json:
        terminal.print_json({name.replace(" ", "_"): value for name, value in facts.items()})
        return
    own, known = facts.pop("key in words"), facts.pop("key at the registry")
    terminal.show("Registry", [facts], as_json=False)
    print_lines([f"This hospital's key in words:\n  {own}"])
    if known != own:
        print_lines([f"The key that the registry has ADMITTED is another one:\n  {known}"])


status_app.command("ledgers")(show_ledgers)
status_app.command("epoch")(show_epoch)


@status_app.command("renew")
def renew(home: Home = None) -> None:
    """Take a new certificate now; every other command does it by itself 60 days before the end.

    Example: fedprint-node registry renew
    """
    from client import registry_client

    place = NodeHome.find(home)
    with registry_client.opened(place, now()) as session:
        until = registry_client.renew(place, session)
    print_lines([f"The new certificate is good until {until.date().isoformat()}."])


def fetch_roster(home: Home = None) -> None:
    """Fetch the newest signed roster; it waits for approval, as one that the coordinator relays.

    Example: fedprint-node roster fetch
    """
    from client import registry_client

    place = NodeHome.find(home)
    with registry_client.opened(place, now()) as session:
        data = registry_client.fetch_roster(session)
    _offer(place, data)


def _offer(place: NodeHome, data: bytes) -> None:
    """Hold a roster against the approved one; what is new waits."""
    from client import keys
    from client.policy import Policy
    from client.rosters import RosterBook, today_utc

    book, policy = RosterBook(place), Policy.from_file(place.policy)
    try:
        taken = book.offer(data, keys.pinned(place).root, policy, today_utc())
    except Refused as error:
        if error.reason != "roster-approval":
            raise
        print_lines([f"{error.message} Next: fedprint-node roster approve"])
        return
    print_lines([f"This hospital goes by version {taken.version}, the newest."])


@releases_app.command("list")
def list_releases(home: Home = None, as_json: AsJson = False) -> None:
    """Show the releases that can be fetched.

    Example: fedprint-node releases list
    """
    from client import registry_client, registry_releases

    with registry_client.opened(NodeHome.find(home), now()) as session:
        rows = [entry.content() for entry in registry_releases.listed(session)]
    terminal.show("Releases", rows, as_json=as_json)


@releases_app.command("fetch")
def fetch_release(
    number: Annotated[int | None, typer.Argument(help="Its number; else the newest.")] = None,
    home: Home = None,
    as_json: AsJson = False,
) -> None:
    """Fetch a release into inbox/; goes on where an earlier fetch stopped. Then install it.

    Example: fedprint-node releases fetch 3
    """
    import time

    from rich.progress import BarColumn, DownloadColumn, Progress, TimeRemainingColumn

    from client import registry_client, registry_releases
    from shared_model.registry_reasons import refusal

    place = NodeHome.find(home)
    with registry_client.opened(place, now()) as session:
        found = registry_releases.listed(session)
        chosen = [entry for entry in found if number in (None, entry.number)]
        if not chosen:
            raise refusal("no-release")
        entry = chosen[-1]
        hidden = as_json or not terminal.err.is_terminal
        columns = (BarColumn(), DownloadColumn(), TimeRemainingColumn())
        with Progress(*columns, console=terminal.err, disable=hidden, transient=True) as bar:
            task = bar.add_task("fetching", total=entry.size_bytes)
            path = registry_releases.fetch(
                place,
                session,
                entry,
                on_bytes=lambda have: bar.update(task, completed=have),
                pause=time.sleep,
            )
    if as_json:
        terminal.print_json({**entry.content(), "file": str(path)})
        return
    print_lines([f"Fetched {path}. Next: fedprint-node install {path}"])


def rotate_key(
    home: Home = None,
    finish: Annotated[
        bool, typer.Option("--finish", help="Go over to the new key: the new roster lists it.")
    ] = False,
    roster: Annotated[
        Path | None,
        typer.Option(help="With --finish: roster.json by hand, instead of fetching.", exists=True),
    ] = None,
) -> None:
    """Make a new identity key, signed by the present one; it holds from the next roster on.

    First without --finish; the present key stays in use. After the operator has admitted the new
    card and the root has signed a roster with it: again, with --finish.

    Example: fedprint-node rotate-key
    """
    from client import node, registry_client, registry_join
    from shared_model import enrolment
    from shared_model.spoken_words import words_of

    place = NodeHome.find(home)
    if not finish:
        with registry_client.opened(place, now()) as session:
            message = registry_client.rotate(place, session)
        card = enrolment.open_site_card(message.card.encode())
        print_lines(
            [
                "The new key waits at the registry. Read its words to the coordinator's operator:",
                f"  {card.words_key}",
                "This node goes on with its present key. Once the operator has admitted the new "
                "one and the root has signed the next roster: fedprint-node rotate-key --finish",
            ]
        )
        return
    if node.is_running(place):
        raise OurMistake("The node is running.", do="Stop it first; start it again afterwards.")
    if roster is not None:
        data = roster.read_bytes()
    else:
        with registry_client.opened(place, now()) as session:
            data = registry_client.fetch_roster(session)
    digest = registry_join.switch_identity(place, data)
    print_lines(
        [f"This hospital's key is now\n  {words_of(digest)}\nThe old one is kept in keys/."]
    )
    _offer(place, data)


def leave(
    home: Home = None,
    yes: Yes = False,
    offline: Annotated[
        bool,
        typer.Option("--offline", help="Only here: the registry is gone; tell the operator."),
    ] = False,
) -> None:
    """Leave the consortium: the registry forgets this node, the node forgets the coordinator.

    Keys, budget, data and finished work stay. What was spent stays spent. The roster lists this
    hospital until the root signs the next one.

    Example: fedprint-node leave
    """
    from client import keys, node, registry_client, registry_join
    from client.node_parts import epoch_keys, outbox_of

    place = NodeHome.find(home)
    site = keys.load_config(place).site
    if node.is_running(place):
        raise OurMistake("The node is running.", do="Stop it first.")
    if not yes and not typer.confirm(
        f"Take {site} out? A round that it took part in and has not verified yet cannot be "
        "released without it: ask the operator first (fedprint-coordinator status)."
    ):
        raise Refused("Nothing was changed.", reason="not-confirmed")
    if not offline:
        with registry_client.opened(place, now()) as session:
            registry_client.leave(place, session)
    with outbox_of(place).locked():
        epoch_keys(place).erase()
    registry_join.forget(place)
    print_lines(
        [
            f"{site} has left. Its keys, budget and outbox are still here."
            + (" TELEPHONE the operator: fedprint-coordinator revoke " + site if offline else ""),
            "To come back: fedprint-node join token.json, with a new token.",
        ]
    )
