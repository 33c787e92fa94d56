"""Which roster this hospital goes by: seen, pending, approved.

    book = RosterBook(home)
    book.offer(data, root, policy, today)     what the coordinator relays, at each epoch
    book.approve(data, root, policy, today)   the operator's decision
    book.current(root, policy, today)         before each round

A roster counts here when the operator approved it, or when t sites of the roster approved before
countersigned it with the keys that they had there (t of that roster). Of the highest version ever
seen, version and digest are kept: lower ones and another one of the same version are refused,
also where the higher one was not approved. Every roster that ever counted here is kept, in
`rosters/`: releases name them. Each file is replaced in one step; a lock keeps the running node and
the operator's command apart.
"""

from __future__ import annotations

import datetime
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from typing import Annotated, Literal, Protocol

from pydantic import BaseModel, ConfigDict, Field, ValidationError

from client import keys
from client.home import NodeHome
from shared_model import canonical, roster, signing
from shared_model.enrolment import RawKey
from shared_model.errors import OurMistake, PeerFault, Refused
from shared_model.files import write_atomic
from shared_model.locks import locked
from shared_model.protocol import Digest
from shared_model.roster import CountersignatureFile, Roster, SignedRoster

APPROVE = "Read it and decide: fedprint-node roster approve"
_REPAIR = "Put the file back from a back-up; the node takes no part until then."


def today_utc() -> str:
    """Today in Greenwich, YYYY-MM-DD: the same day for every machine of the consortium."""
    return datetime.datetime.now(datetime.UTC).date().isoformat()


class RosterPolicy(Protocol):
    """What a hospital's policy says about rosters; `client.policy.Policy` is one."""

    @property
    def colluding_sites(self) -> int: ...
    @property
    def allow_two_hospitals_who_can_each_compute_the_others_update(self) -> bool: ...


class Seen(BaseModel):
    """The highest version of a roster that this root key signed and this node has met."""

    model_config = ConfigDict(frozen=True, extra="forbid", strict=True)

    kind: Literal["seen-roster"] = "seen-roster"
    root_key: RawKey
    version: Annotated[int, Field(ge=1)]
    digest: Digest


@dataclass(frozen=True)
class RosterBook:
    """The rosters in a node's folder."""

    home: NodeHome

    def approved(self) -> SignedRoster | None:
        """The roster that this hospital approved under the root key it goes by; None if none.

        It may have expired since: `current` says.

        Raises:
            OurMistake: the file is damaged, or not what was approved.
        """
        seen = self.seen()
        if seen is None or not self.home.roster.exists():
            return None
        signed = _own(self.home.roster.read_bytes(), self.home.roster.name)
        try:
            signed.verify(bytes.fromhex(seen.root_key))
        except PeerFault:
            # Approved under the root key before: it says nothing under this one.
            return None
        newest = (signed.roster.version, signed.roster.digest) == (seen.version, seen.digest)
        if not newest and signed.roster.version >= seen.version:
            raise OurMistake("roster_seen.json and roster.json do not belong together.", do=_REPAIR)
        return signed

    def ever_approved(self, root: bytes) -> tuple[Roster, ...]:
        """Every roster that counted here under this root key, by version."""
        return tuple(roster.open_signed(data, root).roster for data in self.documents(root))

    def documents(self, root: bytes) -> tuple[bytes, ...]:
        """The same as the root signed them."""
        files = sorted(self.home.rosters.glob("*.json")) if self.home.rosters.is_dir() else []
        if self.home.roster.exists():
            files.append(self.home.roster)
        found: dict[str, tuple[int, bytes]] = {}
        for path in files:
            data = path.read_bytes()
            try:
                signed = roster.open_signed(data, root)
            except PeerFault:
                continue  # of an earlier root key, or damaged: it says nothing
            found[signed.roster.digest] = (signed.roster.version, data)
        return tuple(data for _, data in sorted(found.values()))

    def before(self) -> Roster | None:
        """What the operator knows: the roster approved last, under whichever root key."""
        if not self.home.roster.exists():
            return None
        return _own(self.home.roster.read_bytes(), self.home.roster.name).roster

    def pending(self) -> SignedRoster | None:
        """The roster that waits for the operator; None if none."""
        seen = self.seen()
        if seen is None or not self.home.pending_roster.exists():
            return None
        signed = _own(self.home.pending_roster.read_bytes(), self.home.pending_roster.name)
        return signed if signed.roster.digest == seen.digest else None

    def seen(self) -> Seen | None:
        """The highest roster ever met under the root key that this node goes by.

        Raises:
            OurMistake: the file is damaged.
        """
        try:
            data = self.home.seen_roster.read_bytes()
        except FileNotFoundError:
            return None
        try:
            return Seen.model_validate_json(data)
        except ValidationError as error:
            raise OurMistake(f"{self.home.seen_roster} is damaged.", do=_REPAIR) from error

    def current(self, root: bytes, policy: RosterPolicy, today: str) -> Roster:
        """The approved roster, if it holds today under this policy.

        Raises:
            Refused: none is approved ("roster-approval"), or as `shared_model.roster.check`.
        """
        seen, signed = self.seen(), self.approved()
        if seen is None or seen.root_key != root.hex() or signed is None:
            raise Refused(
                "This hospital has approved no roster.", reason="roster-approval", do=APPROVE
            )
        self._check(signed.roster, policy, today)
        return signed.roster

    def offer(self, data: bytes, root: bytes, policy: RosterPolicy, today: str) -> Roster:
        """Hold a relayed roster against what this hospital approved.

        Args:
            data: the file that the root signed.
            root: public root key that this node has pinned, 32 bytes.
            today: YYYY-MM-DD.

        Returns:
            The roster, approved: before, or now by t sites of the one approved before.

        Raises:
            PeerFault: of the coordinator: not a signed roster, or not signed by this root.
            Refused: a lower version than one seen, or another roster of a seen version ("roster");
                what `shared_model.roster.check` refuses; it waits for approval
                ("roster-approval"), and is kept as pending.
        """
        signed = roster.open_signed(data, root)
        with self._locked():
            self._meet(signed, root)
            self._check(signed.roster, policy, today)
            before = self.approved()
            if before is not None:
                if before.roster.digest == signed.roster.digest:
                    return before.roster
                if len(roster.countersigners(signed, before.roster)) >= before.roster.threshold:
                    self._take(signed)
                    return signed.roster
            write_atomic(self.home.pending_roster, data)
        raise Refused(
            f"Version {signed.roster.version} of the roster waits for this hospital's approval.",
            reason="roster-approval",
            do=APPROVE,
        )

    def approve(self, data: bytes | None, root: bytes, policy: RosterPolicy, today: str) -> Roster:
        """The operator's decision for a roster: this file, or the pending one.

        Raises:
            OurMistake: nothing is pending.
            PeerFault, Refused: as `offer`, except that nothing waits any more.
        """
        with self._locked():
            if data is None:
                waiting = self.pending()
                if waiting is None:
                    raise OurMistake(
                        "No roster waits for approval.",
                        do="Give the file: fedprint-node roster approve roster.json",
                    )
                data = waiting.to_bytes()
            signed = roster.open_signed(data, root)
            self._meet(signed, root)
            self._check(signed.roster, policy, today)
            self._take(signed)
        return signed.roster

    def countersign(self, data: bytes, root: bytes, policy: RosterPolicy, today: str) -> bytes:
        """Say to the others that this hospital approves of a roster, with its present key.

        The new roster may give this hospital another key, or leave it out: the operator has read
        so. This node does not go by it because of that; `approve` says so.

        Returns:
            The file for the coordinator, which adds it to the roster.

        Raises:
            OurMistake: no roster is approved here that lists this node's key.
            PeerFault, Refused: as `offer`, except for this hospital's own entry.
        """
        signed = roster.open_signed(data, root)
        identity = signing.load_key_file(self.home.identity_key)
        site = keys.load_config(self.home).site
        with self._locked():
            self._meet(signed, root)
            before = self.approved()
        self._check(signed.roster, policy, today, own=False)
        own = before.roster.entry(site) if before and site in before.roster.names else None
        if own is None or own.identity != signing.public_bytes(identity):
            raise OurMistake(
                "Only a hospital of the roster before can countersign the next.",
                do="Approve the roster that lists this hospital first.",
            )
        return CountersignatureFile(
            roster_digest=signed.roster.digest,
            site=site,
            signature=roster.countersign(signed.roster, site, identity).hex(),
        ).to_bytes()

    def _meet(self, signed: SignedRoster, root: bytes) -> None:
        """Remember a roster that the root signed; refuse it if it is behind one seen before."""
        seen = self.seen()
        new = Seen(root_key=root.hex(), version=signed.roster.version, digest=signed.roster.digest)
        if seen is not None and seen.root_key == new.root_key:
            if new.version < seen.version:
                raise Refused(
                    f"Version {new.version} of the roster is offered; this node has seen version "
                    f"{seen.version}.",
                    reason="roster",
                    do="The coordinator imports the newest roster.",
                )
            if new.version == seen.version and new.digest != seen.digest:
                raise Refused(
                    f"This node has seen another roster of version {new.version}.",
                    reason="roster",
                    do="The root key signed two rosters of one version: call its holder.",
                )
        if new != seen:
            write_atomic(self.home.seen_roster, canonical.encode(new.model_dump()))

    def _check(
        self, offered: Roster, policy: RosterPolicy, today: str, *, own: bool = True
    ) -> None:
        card = keys.card(self.home)
        roster.check(
            offered,
            colluding_sites=policy.colluding_sites,
            allow_two=policy.allow_two_hospitals_who_can_each_compute_the_others_update,
            today=today,
            own=(card.site, card.identity_key, card.declared_patients) if own else None,
        )

    def _take(self, signed: SignedRoster) -> None:
        self.home.rosters.mkdir(exist_ok=True, mode=0o700)
        if self.home.roster.exists():  # perhaps approved before this folder was kept
            self._keep(_own(self.home.roster.read_bytes(), self.home.roster.name))
        self._keep(signed)
        write_atomic(self.home.roster, signed.to_bytes())
        self.home.pending_roster.unlink(missing_ok=True)

    def _keep(self, signed: SignedRoster) -> None:
        name = f"{signed.roster.version:06d}-{signed.roster.digest}.json"
        write_atomic(self.home.rosters / name, signed.to_bytes())

    @contextmanager
    def _locked(self) -> Iterator[None]:
        self.home.make()
        with locked(self.home.root / "roster.lock"):
            yield


def _own(data: bytes, name: str) -> SignedRoster:
    try:
        return SignedRoster.from_bytes(data)
    except PeerFault as error:
        raise OurMistake(f"{name} is damaged.", do=_REPAIR) from error
