"""fedprint-node mail: ledger questions and answers between hospitals, by the registry."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

from client.home import NodeHome
from shared_model import terminal
from shared_model.errors import OurMistake, Refused

if TYPE_CHECKING:
    import datetime

Home = Annotated[Path | None, typer.Option(help="The node's folder (else FEDPRINT_NODE_HOME).")]
AsJson = Annotated[bool, typer.Option("--json", help="Print JSON.")]

_SENDABLE = {"ask": "fedprint-ledger-question", "witness": "fedprint-ledger-answer"}
"""What a hospital may send, and the `kind` that such a file has (ADR 0012)."""
_SENDABLE_BYTES = 64 * 1024

app = typer.Typer(
    help="A ledger's questions, answers and entries, carried between hospitals unopened.",
    no_args_is_help=True,
)


@app.command("send")
def send(
    to: Annotated[str, typer.Argument(help="The hospital that it is for.")],
    what: Annotated[str, typer.Argument(help="ask or witness.")],
    file: Annotated[Path, typer.Argument(help="The file.", exists=True)],
    home: Home = None,
) -> None:
    """Put a ledger's question or answer into another hospital's mailbox; nothing else is sent.

    Example: fedprint-node mail send south-hospital ask ask.json
    """
    import json

    from client import registry_client
    from shared_model import registry
    from shared_model.files import read_regular

    data = read_regular(file, _SENDABLE_BYTES)
    try:
        document = json.loads(data)
        kind = document.get("kind") if isinstance(document, dict) else None
    except (ValueError, RecursionError):
        kind = None
    if kind is None or kind != _SENDABLE.get(what):
        raise Refused(
            f"{file} is not a file of the kind {what!r}: it stays here.",
            reason="files",
            do="ask: a question of fedprint-node ledger recover; witness: an answer of "
            "fedprint-node ledger witness.",
        )
    try:
        message = registry.Send.model_validate(
            {"to": to, "what": what, "file": registry.encoded(data)}
        )
    except ValueError as error:
        raise OurMistake(
            f"{to!r} is no name of a hospital.", do="See: fedprint-node roster show"
        ) from error
    with registry_client.opened(NodeHome.find(home), _now()) as session:
        session.call("Send", message, registry.Done)
    _print([f"Sent to {to}: {what}, {len(data)} bytes."])


@app.command("list")
def list_mail(home: Home = None, as_json: AsJson = False) -> None:
    """Show what lies in this hospital's mailbox.

    Example: fedprint-node mail list --json
    """
    from client import registry_client
    from shared_model import registry

    with registry_client.opened(NodeHome.find(home), _now()) as session:
        mail = session.call("Mail", registry.Ask(), registry.Mail)
    terminal.show("Mail", [item.content() for item in mail.items], as_json=as_json)


@app.command("fetch")
def fetch_mail(home: Home = None, as_json: AsJson = False) -> None:
    """Bring all mail into inbox/ and empty the mailbox. Nothing in the files is believed.

    Example: fedprint-node mail fetch
    """
    from client import registry_client
    from shared_model import canonical, registry
    from shared_model.errors import PeerFault
    from shared_model.files import write_atomic

    place, paths = NodeHome.find(home), []
    with registry_client.opened(place, _now()) as session:
        for item in session.call("Mail", registry.Ask(), registry.Mail).items:
            ask = registry.Collect(id=item.id, remove=False)
            got = session.call("Collect", ask, registry.MailContent)
            if canonical.digest(got.data) != item.sha256:
                raise PeerFault("A file of the mailbox is not as it was listed.", site=item.sender)
            path = place.inbox / f"{item.what}-{item.sender}-{item.sha256[:16]}.json"
            write_atomic(path, got.data, mode=0o600)
            session.call("Collect", registry.Collect(id=item.id, remove=True), registry.MailContent)
            paths.append({"sender": item.sender, "what": item.what, "file": str(path)})
    terminal.show("Fetched", paths, as_json=as_json)


def _now() -> datetime.datetime:
    import datetime

    return datetime.datetime.now(datetime.UTC)


def _print(lines: list[str]) -> None:
    for line in lines:
        terminal.out.print(line, soft_wrap=True, highlight=False)
