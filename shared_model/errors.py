"""The faults that fedprint raises. Two trees: what we did wrong, and what a peer did wrong.

Every error says in `message` what happened and in `do` what the reader can do next. Neither ever
carries a signal value or a patient's identifier. Only the command line turns an error into an exit
status.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import ClassVar


class FedprintError(Exception):
    """Base of all faults that are expected and explained.

    Args:
        message: what happened, one sentence, no patient identifier, no signal value.
        do: what to do next, one sentence, may be empty.
    """

    exit_code: ClassVar[int] = 1

    def __init__(self, message: str, *, do: str = "") -> None:
        super().__init__(message)
        self.message = message
        self.do = do

    def __str__(self) -> str:
        return f"{self.message} {self.do}".strip()


class OurMistake(FedprintError):
    """A wrong call, file or configuration on this side."""

    exit_code = 2


class Refused(FedprintError):
    """Policy, budget or verification says no. Nothing was done.

    `reason` is a short fixed word (for example "budget", "signature", "downgrade") that may be
    sent to a peer; the message stays here.
    """

    exit_code = 3

    def __init__(self, message: str, *, reason: str, do: str = "") -> None:
        super().__init__(message, do=do)
        self.reason = reason


class BudgetExhausted(Refused):
    """The round would cross the hospital's privacy budget."""

    def __init__(self, message: str, *, do: str = "") -> None:
        super().__init__(message, reason="budget", do=do)


class CannotTell(Refused):
    """A check that has no answer: neither yes nor no.

    counts: what there was and what it needs, by name; numbers of patients, none of one patient.
    """

    exit_code = 6

    def __init__(
        self, message: str, *, reason: str, do: str = "", counts: Mapping[str, int] | None = None
    ) -> None:
        super().__init__(message, reason=reason, do=do)
        self.counts = dict(counts or {})


class DataFault(FedprintError):
    """A file is not a usable recording. `cause` is one of a closed set of short words."""

    exit_code = 4

    def __init__(self, message: str, *, cause: str, do: str = "") -> None:
        super().__init__(message, do=do)
        self.cause = cause


class PeerFault(FedprintError):
    """Another party sent something wrong. `site` names it ("coordinator" for the coordinator)."""

    exit_code = 5

    def __init__(self, message: str, *, site: str, do: str = "") -> None:
        super().__init__(message, do=do)
        self.site = site
