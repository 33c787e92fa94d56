"""fedprint-coordinator invite, waiting, admit, revoke, registry, mail."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer

from server.home import CoordinatorHome
from server.registry_limits import TOKEN_DAYS
from shared_model import terminal
from shared_model.errors import OurMistake, Refused

if TYPE_CHECKING:
    import datetime

Home = Annotated[
    Path | None,
    typer.Option(help="The coordinator's folder (else FEDPRINT_COORDINATOR_HOME)."),
]
Site = Annotated[str, typer.Argument(help="Name of the hospital.")]
AsJson = Annotated[bool, typer.Option("--json", help="Print JSON.")]
Yes = Annotated[bool, typer.Option("--yes", help="It was compared already: do not ask.")]

_HOW = {
    "new": "a new hospital",
    "replaces": "REPLACES the enrolled keys, not signed by them",
    "rotation": "the next key, signed by the enrolled one",
}

app = typer.Typer(
    help="The registry: enrolment, rosters, releases and mail for the hospitals' nodes.",
    no_args_is_help=True,
)


def register(app_: typer.Typer) -> None:
    """Add this part's commands."""
    for command in (invite, waiting, admit, revoke):
        app_.command()(command)
    app_.add_typer(app, name="registry")


def invite(
    site: Annotated[
        str, typer.Argument(help="Name: lower-case letters, digits, inner hyphens, at most 32.")
    ],
    output: Annotated[Path, typer.Option("--output", "-o", help="Token file to write.")],
    replaces: Annotated[
        bool, typer.Option("--replaces", help="The hospital lost its keys and makes new ones.")
    ] = False,
    days: Annotated[int, typer.Option(min=1, max=90, help="Days until it expires.")] = TOKEN_DAYS,
    home: Home = None,
    as_json: AsJson = False,
) -> None:
    """Write a token with which one hospital can join, once. An earlier unused one is void.

    Example: fedprint-coordinator invite north-clinic -o north-clinic-token.json
    """
    from server import registry_enrolment
    from server.registry_book import RegistryBook
    from shared_model.signing import write_secret

    place = CoordinatorHome.find(home)
    if output.exists():
        raise OurMistake(f"{output} exists already.", do="Choose another name with -o.")
    pinned, _ = registry_enrolment.invitation(place)
    with RegistryBook(place) as book:
        token = registry_enrolment.invite(
            place, book, site, replaces=replaces, days=days, now=_now()
        )
    write_secret(output, token.to_bytes())
    if as_json:
        facts = {"site": site, "registry": token.address, "expires": token.expires}
        terminal.print_json({**facts, "replaces": replaces, "file": str(output)})
        return
    _print(
        [
            f"Wrote {output}, good for {site} until {token.expires}, once. Whoever has it can "
            "offer keys in the hospital's name: send it to one person there.",
            f"There: fedprint-node join {output.name} --patients N",
            "On the telephone you read to them, the coordinator in words:",
            f"  {pinned.words}",
            "and they read to you the words that fedprint-coordinator waiting shows.",
        ]
    )


def waiting(home: Home = None, as_json: AsJson = False) -> None:
    """Show the cards that wait to be admitted, with the words to compare by telephone.

    Example: fedprint-coordinator waiting
    """
    from server.registry_book import RegistryBook
    from shared_model import enrolment, signing

    place = CoordinatorHome.find(home)
    rows: list[dict[str, Any]] = []
    with RegistryBook(place) as book:
        for item in book.waiting():
            card = enrolment.open_site_card(item.card)
            rows.append(
                {
                    "site": item.site,
                    "patients": card.declared_patients,
                    "what": _HOW[item.how],
                    "since": item.since,
                    "key in words": card.words_key,
                    "key digest": signing.key_digest(card.identity),
                }
            )
    if as_json:
        terminal.print_json(rows)
        return
    for row in rows:  # no table: words are read aloud, line by line
        _print(
            [
                f"{row['site']}: {row['what']}, {row['patients']} declared patients, since "
                f"{row['since']}, key",
                f"  {row['key in words']}",
            ]
        )
    if not rows:
        _print(["Nobody waits."])


def admit(site: Site, home: Home = None, yes: Yes = False) -> None:
    """Enrol the card that waits, after the hospital read the words of its key to you.

    Example: fedprint-coordinator admit north-clinic
    """
    from server import registry_enrolment
    from server.registry_book import RegistryBook
    from shared_model import enrolment

    place = CoordinatorHome.find(home)
    with RegistryBook(place) as book:
        waits = book.waiting_of(site)
        if waits is None:
            raise registry_enrolment.nobody_waits(site)
        card = enrolment.open_site_card(waits.card)
        _print(
            [
                f"{site}: {_HOW[waits.how]}, {card.declared_patients} declared patients, key",
                f"  {card.words_key}",
            ]
        )
        if not yes and not typer.confirm(
            f"Did {site} read these words to you, on a number that you knew before?"
        ):
            raise Refused(f"{site} was not admitted.", reason="not-compared")
        registry_enrolment.admit(place, book, site, card)
    _print([f"{site} is enrolled. Next: fedprint-coordinator roster draft -o draft.json"])


def revoke(site: Site, home: Home = None, yes: Yes = False) -> None:
    """End a hospital's certificates, tokens, card and mail at once.

    The roster lists it until the root signs the next one; a running coordinator refuses its node
    from its next start on.

    Example: fedprint-coordinator revoke north-clinic
    """
    from server import registry_enrolment
    from server.registry_book import RegistryBook

    place = CoordinatorHome.find(home)
    if not yes and not typer.confirm(f"Revoke all that {site} has here?"):
        raise Refused("Nothing was revoked.", reason="not-confirmed")
    with RegistryBook(place) as book:
        count = registry_enrolment.revoke(place, book, site)
    if count == 0:
        raise OurMistake(
            f"{site} has nothing here.", do="See: fedprint-coordinator registry status"
        )
    _print(
        [
            f"Revoked: {site}. Next: fedprint-coordinator roster draft -o draft.json, for a roster "
            "without it; restart the coordinator if it runs."
        ]
    )


@app.command()
def start(home: Home = None) -> None:
    """Serve the hospitals' nodes until Ctrl-C or SIGTERM; run it under the service manager.

    Example: fedprint-coordinator registry start
    """
    from server import registry

    place = CoordinatorHome.find(home)

    def started(port: int) -> None:
        terminal.err.print(
            f"The registry is at port {port}. Log: {place.logs / 'registry.log'}. Stop: Ctrl-C.",
            soft_wrap=True,
        )

    registry.serve(place, started)


@app.command()
def status(home: Home = None, as_json: AsJson = False) -> None:
    """Show whether the registry runs, its certificate's end, and every site's certificates.

    Example: fedprint-coordinator registry status --json
    """
    from cryptography import x509

    from server import registry, sites, superlink
    from server.registry_book import RegistryBook

    place = CoordinatorHome.find(home)
    config = superlink.load_config(place)
    server = x509.load_pem_x509_certificate(place.server_certificate.read_bytes())
    enrolled = {card.site for card in sites.roster(place)}
    rows: list[dict[str, Any]] = []
    with RegistryBook(place) as book:
        waits = {item.site: item.how for item in book.waiting()}
        for item in book.certificates():
            if item.state in ("open", "used", "valid"):
                mail = len(book.mail(item.site)) if item.kind == "site" else None
                rows.append(
                    {
                        "site": item.site,
                        "kind": item.kind,
                        "state": item.state,
                        "expires": item.expires,
                        "enrolled": "yes" if item.site in enrolled else "no",
                        "waits": waits.get(item.site, ""),
                        "mail": mail,
                        "certificate": item.fingerprint[:16],
                    }
                )
    facts = {
        "running": registry.is_running(place),
        "address": config.registry_address,
        "server_certificate_ends": server.not_valid_after_utc.date().isoformat(),
    }
    if as_json:
        terminal.print_json({**facts, "certificates": rows})
        return
    _print(
        [
            f"Registry at {facts['address']}: {'running' if facts['running'] else 'not running'}; "
            f"its certificate ends on {facts['server_certificate_ends']}."
        ]
    )
    terminal.show("Tokens and certificates", rows, as_json=False)


@app.command("renew-certificate")
def renew_certificate(home: Home = None) -> None:
    """Make a new server certificate by the same authority; restart registry and coordinator after.

    Example: fedprint-coordinator registry renew-certificate
    """
    from server import superlink, tls

    place = CoordinatorHome.find(home)
    made = tls.renew_server(place, superlink.load_config(place).address, now=_now())
    _print(
        [
            f"Good until {made.not_valid_after_utc.date().isoformat()}. Next: restart the "
            "registry, and the coordinator if it runs."
        ]
    )


@app.command()
def mail(
    site: Site,
    file: Annotated[Path, typer.Argument(help="Entries of its ledger, to be sent.", exists=True)],
    home: Home = None,
) -> None:
    """Put ledger entries into a hospital's mailbox, for its recovery (docs/adr/0012).

    Example: fedprint-coordinator registry mail north-clinic entries.json
    """
    from server import sites
    from server.registry_book import RegistryBook
    from server.registry_limits import RegistryLimits
    from shared_model.files import read_regular
    from shared_model.protocol import COORDINATOR
    from shared_model.registry import MAX_MAIL_BYTES

    place = CoordinatorHome.find(home)
    if sites.card_of(place, site) is None:
        raise OurMistake(f"No site {site} is enrolled.", do="See: fedprint-coordinator status")
    data = read_regular(file, MAX_MAIL_BYTES)
    with RegistryBook(place) as book:
        book.post(COORDINATOR, site, "entries", data, RegistryLimits(), _now())
    _print([f"{len(data)} bytes lie in the mailbox of {site}: fedprint-node mail fetch"])


def _now() -> datetime.datetime:
    import datetime

    return datetime.datetime.now(datetime.UTC)


def _print(lines: list[str]) -> None:
    for line in lines:
        terminal.out.print(line, soft_wrap=True, highlight=False)
