"""What `doctor` finds: one line a check, with what to do. Pure; the shells read the facts.

findings = [check_disk(...), tried("ledger", lambda: check_ledger(home))]
exit_code(findings)
"""

from __future__ import annotations

from collections.abc import Callable, Iterable
from dataclasses import asdict, dataclass
from typing import Literal

from shared_model.errors import FedprintError

State = Literal["ok", "attention", "broken"]
BROKEN = 3
_LONGEST = 80


@dataclass(frozen=True)
class Finding:
    """One check. broken: no round can be answered, or one would be answered wrongly.

    Neither `found` nor `do` ever has a secret, a patient's identifier or unfiltered text of a peer.
    """

    check: str
    state: State
    found: str
    do: str = ""

    def content(self) -> dict[str, str]:
        """As `--json` prints it."""
        return {name: str(value) for name, value in asdict(self).items()}


def ok(check: str, found: str) -> Finding:
    """Nothing to do."""
    return Finding(check, "ok", found)


def attention(check: str, found: str, do: str) -> Finding:
    """Works, or will for a while; somebody should look."""
    return Finding(check, "attention", found, do)


def broken(check: str, found: str, do: str) -> Finding:
    """Does not work."""
    return Finding(check, "broken", found, do)


def tried(check: str, look: Callable[[], Finding]) -> Finding:
    """The finding; a fault of ours that the look meets is one, too.

    Of an exception that nobody foresaw only the kind is told: its text could hold anything.
    """
    try:
        return look()
    except FedprintError as error:
        return broken(check, error.message, error.do or "See docs/hospital-it.md.")
    except Exception as error:
        return broken(
            check,
            f"the check itself failed ({type(error).__name__})",
            "Report this line to whoever maintains fedprint for you.",
        )


def exit_code(findings: Iterable[Finding]) -> int:
    """0: all ok or attention. 3: something is broken."""
    return BROKEN if any(finding.state == "broken" for finding in findings) else 0


def printable(text: str, longest: int = _LONGEST) -> str:
    """Text that a peer chose, as it may be shown: ASCII letters, digits and plain signs."""
    kept = "".join(c if c.isascii() and (c.isalnum() or c in " .,-_:/()@&'") else "?" for c in text)
    return kept[:longest] + ("..." if len(kept) > longest else "")
