"""The body of an `AgreeRequest`: how the survivors' ledgers lead to the heads that it names.

Canonical JSON, site -> entry digests of its ledger (`ledger.entry_digest`), oldest first, ending
with the entry of the new head. They may begin earlier than the reader needs. A site without links
is left out.
"""

from __future__ import annotations

import json
from collections.abc import Mapping, Sequence

from shared_model import canonical
from shared_model.errors import OurMistake, Refused

MAX_LINKS_BYTES = 64 * 1024 * 1024
_DIGITS = frozenset("0123456789abcdef")


def links_body(links: Mapping[str, Sequence[str]]) -> bytes:
    """The body of these links; what is empty is left out."""
    return canonical.encode({site: list(found) for site, found in links.items() if found})


def read_links_body(body: bytes) -> dict[str, tuple[str, ...]]:
    """Site -> links, from a hostile body.

    Raises:
        Refused: not such a body ("ledger").
    """
    try:
        if len(body) > MAX_LINKS_BYTES:
            raise ValueError("too long")
        plain = json.loads(body)
        if not isinstance(plain, dict):
            raise ValueError("not an object")
        links = {site: tuple(found) for site, found in plain.items()}
        sound = all(
            found and all(isinstance(one, str) and _is_digest(one) for one in found)
            for found in links.values()
        )
        if not sound or links_body(links) != body:
            raise ValueError("not canonical")
    except (ValueError, TypeError, RecursionError, OurMistake) as error:
        raise Refused("The links of the ledgers cannot be read.", reason="ledger") from error
    return links


def _is_digest(text: str) -> bool:
    return len(text) == 64 and _DIGITS.issuperset(text)
