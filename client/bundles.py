"""Which bundles of a coordinator this hospital takes. It executes none of them.

    check(content, expected(home))       # raises before anything opens the bytes
    guard(start_client_internal, home)   # in the process of Flower's SuperNode

Flower has a slot for bundles that must be signed: it asks `_verify_fab` before it opens one, and
answers the coordinator with its error INVALID_FAB. `guard` puts our question into that slot.
"""

from __future__ import annotations

from collections.abc import Callable, Collection
from functools import partial
from logging import getLogger
from types import ModuleType, SimpleNamespace
from typing import Any

from client.home import NodeHome
from client.policy import Policy
from shared_model.bundle import DIGEST
from shared_model.canonical import digest
from shared_model.errors import Refused

_ASK = {"fedprint": "policy.toml"}
"""Stands for Flower's trusted entities: as long as it is not empty, Flower asks `_verify_fab`. No
key of an entity is of this form, so that Flower's own check would refuse everything."""


def expected(home: NodeHome) -> frozenset[str]:
    """Digests of the bundles that this node takes: the one without code, and what its policy lists.

    Raises:
        OurMistake: there is no valid policy.
    """
    return frozenset({DIGEST, *Policy.from_file(home.policy).allowed_bundle_digests})


def check_digest(found: str, allowed: Collection[str]) -> None:
    """Hold the digest of a bundle against the list.

    Raises:
        Refused: it is not there ("bundle").
    """
    if found not in allowed:
        raise Refused(
            "The coordinator sent a bundle that this node does not take "
            f"(SHA-256 {_short(found)}). Nothing of it was opened or executed.",
            reason="bundle",
            do="Ask the operator what it is: fedprint's own bundle has no code and is the same in "
            "every version. allowed_bundle_digests in policy.toml lists others.",
        )


def check(content: bytes, allowed: Collection[str]) -> None:
    """Hold a bundle against the list, by its bytes; they are not opened.

    Raises:
        Refused: as `check_digest`.
    """
    check_digest(digest(content), allowed)


def admitted(home: NodeHome, content: bytes) -> bool:
    """Whether this node takes these bytes; if not, its log says why."""
    try:
        check(content, expected(home))
    except Exception as error:
        _tell(home, error)
        return False
    return True


def guard(loop: ModuleType, home: NodeHome) -> None:
    """Have Flower's SuperNode ask us before it opens a bundle.

    Args:
        loop: `flwr.supernode.start_client_internal`.
    """
    parts = vars(loop)
    parts["_verify_fab"] = partial(_verify, home)
    parts["_pull_and_store_message"] = partial(_receive, parts["_pull_and_store_message"], home)


def _verify(home: NodeHome, bundle: Any, _: object) -> bool:
    """Stands for Flower's `_verify_fab`. No content: refused already, by its digest."""
    return bundle.content is not None and admitted(home, bundle.content)


def _receive(flowers: Callable[..., Any], home: NodeHome, **given: Any) -> Any:
    fetch = given["get_fab"]

    def get_fab(found: str, run: int) -> Any:
        """What the run names is looked at first: nothing else is downloaded."""
        asked = {"valid_license": "asked of client.bundles"}
        try:
            check_digest(found, expected(home))
        except Exception as error:
            _tell(home, error)
            return SimpleNamespace(content=None, verifications=asked)
        bundle = fetch(found, run)
        bundle.verifications = asked
        return bundle

    return flowers(**{**given, "get_fab": get_fab, "trusted_entities": _ASK})


def _tell(home: NodeHome, error: Exception) -> None:
    from client.round_log import log_to, why

    reason = error.reason if isinstance(error, Refused) else "internal"
    getLogger("flwr").error("a bundle was refused: %s", error)
    entry = {"kind": "bundle", "outcome": "refused", "reason": reason}
    log_to(home.logs / "rounds.log")({**entry, **why(error)})


def _short(found: str) -> str:
    """As much of a coordinator's word as is a digest."""
    known = len(found) == 64 and set(found) <= set("0123456789abcdef")
    return found if known else "none"
