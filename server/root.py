"""The consortium's root key: the only thing that signs rosters. Offline, files by hand.

    root.pem         the private key, mode 0600; on a machine without network
    root.json        its public part, for the coordinator
    last_roster.json the last roster that this key signed

See docs/root-key.md.
"""

from __future__ import annotations

import os
from dataclasses import dataclass
from pathlib import Path

from server.home import CoordinatorHome
from shared_model import enrolment, roster, signing
from shared_model.enrolment import RootCard
from shared_model.errors import OurMistake, PeerFault, Refused
from shared_model.files import write_atomic
from shared_model.roster import Roster, SignedRoster

_ONLINE = ("coordinator.toml", "node.toml")


@dataclass(frozen=True)
class RootHome:
    """The folder of the root key."""

    root: Path

    @classmethod
    def find(cls, home: Path | None = None) -> RootHome:
        """`--home`, else FEDPRINT_ROOT_HOME, else ~/.fedprint/root."""
        chosen = home or Path(os.environ.get("FEDPRINT_ROOT_HOME", "~/.fedprint/root"))
        return cls(chosen.expanduser().absolute())

    @property
    def key(self) -> Path:
        return self.root / "root.pem"

    @property
    def public(self) -> Path:
        return self.root / "root.json"

    @property
    def last(self) -> Path:
        return self.root / "last_roster.json"


def make(home: RootHome) -> RootCard:
    """Make the key and root.json. What exists already stays as it is.

    Raises:
        Refused: the folder belongs to a coordinator or a node (reason "online").
    """
    for folder in (home.root.resolve(), *home.root.resolve().parents):
        if any((folder / name).exists() for name in _ONLINE):
            raise Refused(
                f"{folder} is the folder of a coordinator or a node.",
                reason="online",
                do="The root key lives on a machine without network; see docs/root-key.md.",
            )
    if any(found for name in _ONLINE for found in home.root.glob(f"*/{name}")):
        raise Refused(
            f"A coordinator or a node lives below {home.root}.",
            reason="online",
            do="The root key lives on a machine without network; see docs/root-key.md.",
        )
    if not home.key.exists():
        signing.create_key_file(home.key)
    key = signing.load_key_file(home.key)
    card = RootCard(root_key=signing.public_bytes(key).hex())
    write_atomic(home.public, enrolment.seal(card, key))
    return card


def refuse_beside(home: CoordinatorHome) -> None:
    """A coordinator does not settle where a root key is.

    Raises:
        Refused: reason "online".
    """
    for folder in (home.root.resolve(), *home.root.resolve().parents):
        if (folder / "root.pem").exists():
            raise Refused(
                f"{folder} holds a root key; a coordinator must never have it.",
                reason="online",
                do="Choose another machine for the coordinator; see docs/root-key.md.",
            )


def last_signed(home: RootHome) -> SignedRoster | None:
    """The last roster that this key signed; None before the first.

    Raises:
        OurMistake: the file is damaged, or this key did not sign it.
    """
    if not home.last.exists():
        return None
    public = signing.public_bytes(signing.load_key_file(home.key))
    try:
        return roster.open_signed(home.last.read_bytes(), public)
    except PeerFault as error:
        raise OurMistake(
            f"{home.last} is damaged, or another key signed it.",
            do="Put the roster.json that was signed last in its place.",
        ) from error


def check(home: RootHome, draft: Roster, today: str) -> None:
    """Whether this key may sign a draft. A draft may begin to be valid later than today.

    Raises:
        OurMistake: no key here, or the record of the last roster is damaged.
        Refused: out of the protocol's bounds, weights that do not follow, expired, or a version
            that is not above the last one signed ("roster"); the last draft again is allowed.
    """
    roster.check(
        draft,
        colluding_sites=0,
        allow_two=True,
        today=max(today, draft.valid_from),
        own=None,
    )
    last = last_signed(home)
    if last is None or last.roster.digest == draft.digest:
        return
    if draft.version <= last.roster.version:
        raise Refused(
            f"This key has signed version {last.roster.version}; the draft is version "
            f"{draft.version}.",
            reason="roster",
            do="At the coordinator: fedprint-coordinator roster draft --version "
            f"{last.roster.version + 1}",
        )


def sign(home: RootHome, draft: Roster, today: str) -> bytes:
    """Sign a draft. The record of it is on the disk before the signature is returned.

    Raises:
        OurMistake, Refused: as `check`.
    """
    check(home, draft, today)
    data = roster.sign(draft, signing.load_key_file(home.key)).to_bytes()
    write_atomic(home.last, data)
    return data
