"""The doors through which anything signed can leave a hospital, by name: a new one fails here."""

from __future__ import annotations

import ast
from collections.abc import Iterator, Mapping
from pathlib import Path

import pytest

from client import egress
from shared_model import protocol, protocol_base, protocol_sum
from shared_model.protocol import kind_of

ROOT = Path(__file__).resolve().parents[3]
SIGNS = {"sign", "seal", "sign_head", "countersign", "seal_submission", "unmasked_submission"}
DOORS: Mapping[str, set[str]] = {
    # every message to the coordinator
    "client/egress.py": {"shared_model.protocol.seal"},
    # the body of a submission, which egress sends: masked vector and shares sealed for peers
    "client/submit.py": {
        "shared_model.secure_sum.submission.seal_submission",
        "shared_model.secure_sum.submission.unmasked_submission",
    },
    # site.json, carried by hand
    "client/keys.py": {"shared_model.enrolment.seal"},
    # the operator's word about a roster, carried by hand
    "client/rosters.py": {"shared_model.roster.countersign"},
    # lines of the ledger and its head; they leave in replies (egress) and in exports
    "client/ledger_chain.py": {"shared_model.ledger.seal"},
    "client/ledger_store.py": {"shared_model.ledger.sign_head"},
    # questions and answers about a ledger that was lost, carried by hand
    "client/ledger_recovery.py": {"shared_model.ledger_recovery.seal"},
    # the ledger's export, carried by hand
    "client/ledger_file_export.py": {"shared_model.ledger_export.seal"},
    # the hospital's card, when it is enrolled at the registry
    "client/registry_client.py": {"shared_model.enrolment.seal"},
}
SPEAKS_TO_THE_NETWORK = {
    "client/app.py": {"httpx", "flwr"},  # Flower's adapter: bytes that `client.round` answered
    # Flower's SuperNode: carries what client/app.py has handed to it; looks at no content
    "client/supernode.py": {"httpx", "flwr"},
    "client/supernode_delivery.py": {"httpx", "flwr"},
    "client/node.py": {"socket"},  # asks for a free port of this machine
    # doctor: name, CONNECT, TLS handshake and GET /health; not a byte of this hospital
    "client/doctor_net.py": {"socket", "ssl", "urllib"},
    "client/notify.py": {"socket"},  # tells systemd how the node is: a datagram on this machine
    # the console: listens at 127.0.0.1 for the hospital's own browser, connects to nothing
    "client/console_app.py": {"socket", "uvicorn"},
    # the registry: cards, rosters, releases, a ledger's question or answer; no message of a round
    "client/registry_client.py": {"grpc", "urllib"},
}
NETWORK = {
    "socket",
    "ssl",
    "http",
    "urllib",
    "requests",
    "httpx",
    "grpc",
    "asyncio",
    "flwr",
    "uvicorn",
}
BUILT_BY_EGRESS = {
    model.__name__: model
    for module in (protocol, protocol_sum)
    for model in vars(module).values()
    if isinstance(model, type)
    and issubclass(model, protocol_base.SignedMessage)
    and "kind" in model.model_fields
    and kind_of(model) in egress.ALLOWED
}


def modules() -> dict[str, ast.Module]:
    return {
        str(path.relative_to(ROOT)): ast.parse(path.read_text())
        for path in sorted((ROOT / "client").rglob("*.py"))
    }


def names(tree: ast.Module) -> dict[str, str]:
    """What each imported name stands for."""
    found: dict[str, str] = {}
    for node in ast.walk(tree):
        if isinstance(node, ast.Import):
            found |= {a.asname or a.name.split(".")[0]: a.name for a in node.names}
        elif isinstance(node, ast.ImportFrom):
            found |= {a.asname or a.name: f"{node.module}.{a.name}" for a in node.names}
    return found


def calls(tree: ast.Module) -> Iterator[str]:
    """Every function that is called, or handed on, by its full name where that is known."""
    known = names(tree)
    for node in ast.walk(tree):
        if isinstance(node, ast.Attribute):
            owner = node.value
            if isinstance(owner, ast.Name) and owner.id in known:
                yield f"{known[owner.id]}.{node.attr}"
            else:
                yield f"?.{node.attr}"
        elif isinstance(node, ast.Name) and node.id in known:
            yield known[node.id]


def signers(tree: ast.Module) -> set[str]:
    return {name for name in calls(tree) if name.rsplit(".", 1)[-1] in SIGNS}


def own(found: set[str]) -> set[str]:
    """Without methods of our own objects, which are looked at where they are defined."""
    return {name for name in found if not name.startswith("?.countersign")}


def test_nothing_signs_but_the_listed_doors() -> None:
    """A private key's own `sign` counts too."""
    found = {path: own(signers(tree)) for path, tree in modules().items()}
    assert {path: what for path, what in found.items() if what} == {
        path: what for path, what in DOORS.items() if (ROOT / path).exists()
    }


def test_messages_to_the_coordinator_are_built_in_egress_only() -> None:
    """Whatever sends, sends what egress has marked."""
    assert {kind_of(model) for model in BUILT_BY_EGRESS.values()} == set(egress.ALLOWED)
    for path, tree in modules().items():
        made = {
            node.func.id
            for node in ast.walk(tree)
            if isinstance(node, ast.Call) and isinstance(node.func, ast.Name)
        }
        assert path == "client/egress.py" or not made & set(BUILT_BY_EGRESS), path


def test_only_the_listed_adapters_speak_to_the_network() -> None:
    for path, tree in modules().items():
        tops = {name.split(".")[0] for name in names(tree).values()}
        assert tops & NETWORK == SPEAKS_TO_THE_NETWORK.get(path, set()), path


@pytest.mark.parametrize(
    ("code", "found"),
    [
        (
            "from shared_model import signing\nsigning.sign(k, 't', b)",
            {"shared_model.signing.sign"},
        ),
        ("from shared_model.protocol import seal as s\ns(m, k)", {"shared_model.protocol.seal"}),
        (
            "from shared_model.protocol import seal\nf = map(seal, ms)",
            {"shared_model.protocol.seal"},
        ),
        ("key.sign(body)", {"?.sign"}),
        ("load().private.sign(body)", {"?.sign"}),
        ("import shared_model\nshared_model.protocol.seal(m, k)", {"?.seal"}),
    ],
)
def test_the_search_for_doors_finds_one(code: str, found: set[str]) -> None:
    assert signers(ast.parse(code)) == found
