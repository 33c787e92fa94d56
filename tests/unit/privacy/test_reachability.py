"""Nothing that gives up privacy can be reached from what a hospital or a coordinator runs."""

from __future__ import annotations

import ast
from pathlib import Path

import pytest

from client import round as rounds
from shared_model.errors import Refused
from shared_model.ledger import LedgerFault

ROOT = Path(__file__).resolve().parents[3]
MAY_NAME = {
    "NonPrivateForTests": {"shared_model/noise.py"},
    "Keystream": {"shared_model/noise.py"},
    "unlimited_non_private_for_tests": {"client/budget.py", "client/node_parts.py"},
    "unlimited_budget": {"client/node_interfaces.py", "client/node_parts.py"},
    "PretendNode": {"client/node_interfaces.py", "client/node_parts.py", "client/round.py"},
    "allow_unmasked": {
        "client/node_interfaces.py",
        "client/node_parts.py",
        "client/planned_round.py",
    },
    "unmasked_submission": {"client/submit.py", "shared_model/secure_sum/submission.py"},
}
"""Where each is made and where it is taken; nowhere else in the product, not even in a string."""
BOOKKEEPING = (
    "books",
    "budget",
    "ledger_chain",
    "ledger_file",
    "ledger_peers",
    "ledger_store",
    "policy",
    "outbox",
    "planned_round",
    "round",
    "submit",
    "sum_round",
    "epochs",
    "rosters",
    "node_parts",
    "node_training",
)


def product() -> list[Path]:
    packages = ("client", "server", "shared_model", "auditor")
    return sorted(path for package in packages for path in (ROOT / package).rglob("*.py"))


def words(path: Path) -> set[str]:
    """Names, attributes, keywords, imports and short strings (`getattr` takes those)."""
    found: set[str] = set()
    for node in ast.walk(ast.parse(path.read_text())):
        match node:
            case ast.Name(id=name) | ast.Attribute(attr=name) | ast.ClassDef(name=name):
                found.add(name)
            case ast.keyword(arg=str(name)) | ast.alias(name=name) | ast.FunctionDef(name=name):
                found.add(name)
            case ast.AnnAssign(target=ast.Name(id=name)):
                found.add(name)
            case ast.Constant(value=str(name)):
                found.add(name)
    return found


@pytest.mark.parametrize("word", MAY_NAME)
def test_what_gives_up_privacy_is_named_nowhere_else_in_the_product(word: str) -> None:
    found = {str(path.relative_to(ROOT)) for path in product() if word in words(path)}
    assert found == MAY_NAME[word]


def test_no_product_code_passes_a_pretended_part_to_a_round() -> None:
    for path in product():
        for node in ast.walk(ast.parse(path.read_text())):
            if isinstance(node, ast.Call):
                given = {keyword.arg for keyword in node.keywords}
                assert "pretend" not in given, path


def test_the_deployed_app_hands_over_bytes_and_nothing_else() -> None:
    """`client.app` binds the home alone, so that no message can choose a part of the node."""
    text = (ROOT / "client" / "app.py").read_text()
    assert "partial(rounds.handle, NodeHome.find())" in text


def reasons_raised() -> set[str]:
    found: set[str] = set()
    for name in BOOKKEEPING:
        for node in ast.walk(ast.parse((ROOT / "client" / f"{name}.py").read_text())):
            if isinstance(node, ast.Call) and getattr(node.func, "id", "") == "Refused":
                found |= {
                    keyword.value.value
                    for keyword in node.keywords
                    if keyword.arg == "reason"
                    and isinstance(keyword.value, ast.Constant)
                    and isinstance(keyword.value.value, str)
                }
    return found


def test_every_reason_that_a_node_can_raise_has_a_word() -> None:
    raised = reasons_raised()
    assert {"replay", "delta", "ledger", "conflict", "policy"} <= raised
    assert raised <= set(rounds.REASONS)
    assert rounds.refusal_reason(LedgerFault("")) == "ledger"
    assert rounds.refusal_reason(Refused("", reason="unheard-of")) == "internal"
