"""The coordinator's epochs: which public keys the sites have now, in one file.

    book = EpochBook(home.root / "epochs.json")
    book.begin(roster, run, now_s)            # a new number; all keys before are worthless
    header = book.accept(statement, roster)   # each key as it comes, verified, durably

The file holds public keys and the sites' signatures over them, nothing secret. Losing it costs a
new epoch: numbers are at least the seconds since 1970, and so increase even then.
"""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path
from typing import Annotated, Literal

from pydantic import BaseModel, ConfigDict, Field, ValidationError

from shared_model import canonical, protocol, protocol_open, signing
from shared_model.errors import OurMistake, PeerFault, Refused
from shared_model.files import write_atomic
from shared_model.protocol import SIGNATURE_BYTES, Digest, EpochKeyEntry, Refusal, RunPlan
from shared_model.protocol_base import RunId
from shared_model.protocol_sum import EpochKey, EpochNumber, EpochRequest, epoch_key_statement
from shared_model.roster import Roster
from shared_model.secure_sum.keys import is_public_key

REMOVE = "Remove it: the next start begins a new epoch."


class Epoch(BaseModel):
    """One epoch of one roster: number and the keys that have come, sorted by site.

    run: whose plan the sites were shown with the request for their key. used: rounds that were
    opened with these keys.
    """

    model_config = ConfigDict(frozen=True, extra="forbid", strict=True)

    format: Literal[2] = 2
    run: RunId
    number: EpochNumber
    roster_digest: Digest
    keys: Annotated[tuple[EpochKeyEntry, ...], Field(max_length=protocol.MAX_PARTICIPANTS)] = ()
    used: Annotated[int, Field(ge=0)] = 0

    @property
    def sites(self) -> frozenset[str]:
        """Sites that have given their key."""
        return frozenset(entry.site for entry in self.keys)


@dataclass(frozen=True)
class EpochBook:
    """The file of the present epoch."""

    path: Path

    @property
    def current(self) -> Epoch | None:
        """The present epoch, None before the first.

        Raises:
            OurMistake: the file is damaged.
        """
        if not self.path.is_file():
            return None
        try:
            return Epoch.model_validate_json(self.path.read_bytes())
        except (OSError, ValidationError) as error:
            raise OurMistake(
                f"{self.path} is not a book of epochs.",
                do=REMOVE,
            ) from error

    def of(self, roster: Roster, run: str) -> Epoch | None:
        """The present epoch if it is one of this roster and run; each key is verified again.

        Raises:
            OurMistake: the file is damaged, or holds a key that its site has not signed, that
                nobody can use, or that two sites have.
        """
        epoch = self.current
        if epoch is None or (epoch.roster_digest, epoch.run) != (roster.digest, run):
            return None
        for entry in epoch.keys:
            try:
                _verify(entry, epoch, roster)
            except Refused as error:
                raise OurMistake(
                    f"{self.path} holds a key that {entry.site} has not signed.",
                    do=REMOVE,
                ) from error
            if not is_public_key(bytes.fromhex(entry.public_key)):
                raise OurMistake(
                    f"{self.path} holds a key of {entry.site} that nobody can use.", do=REMOVE
                )
        if len({entry.public_key for entry in epoch.keys}) < len(epoch.keys):
            raise OurMistake(f"{self.path} holds one key for two sites.", do=REMOVE)
        return epoch

    def begin(self, roster: Roster, run: str, now_s: float) -> Epoch:
        """A new epoch without keys; its number is larger than any before."""
        last = self.current
        number = max(0 if last is None else last.number + 1, int(now_s), 1)
        return self._save(Epoch(number=number, run=run, roster_digest=roster.digest))

    def accept(self, entry: EpochKeyEntry) -> Epoch:
        """Store a key that `read_key` has verified.

        Raises:
            OurMistake: no epoch has begun.
        """
        epoch = self.current
        if epoch is None:
            raise OurMistake("No epoch has begun.")
        kept = {item.site: item for item in epoch.keys}
        kept[entry.site] = entry
        keys = tuple(kept[site] for site in sorted(kept))
        return self._save(epoch.model_copy(update={"keys": keys}))

    def use(self) -> Epoch:
        """A round is opened with the keys of the present epoch: count it, before it is asked.

        Raises:
            OurMistake: no epoch has begun.
        """
        epoch = self.current
        if epoch is None:
            raise OurMistake("No epoch has begun.")
        return self._save(epoch.model_copy(update={"used": epoch.used + 1}))

    def _save(self, epoch: Epoch) -> Epoch:
        data = canonical.encode(epoch.model_dump(mode="json"))
        write_atomic(self.path, data, mode=0o600)
        return epoch


def request(epoch: Epoch, roster_document: bytes, plan: RunPlan, software: str) -> EpochRequest:
    """What sites are asked; the signed roster goes with it, and what the run will ask of them."""
    return EpochRequest(
        version=plan.lowest_version,
        epoch=epoch.number,
        roster_digest=epoch.roster_digest,
        body_digest=canonical.digest(roster_document),
        plan=plan,
        software=software,
    )


def read_key(
    header: bytes, body: bytes, *, site: str, epoch: Epoch, roster: Roster
) -> EpochKeyEntry | Refusal:
    """A site's answer to an `EpochRequest`, verified against the roster.

    Raises:
        PeerFault: of the site: not its signature, another epoch or roster, a body, a key that
            X25519 cannot use, or one that another site has given.
    """
    identity = roster.entry(site).identity
    answer = protocol_open.open_answer_of(header, identity, EpochKey, site=site)
    if body:
        raise PeerFault(f"The epoch key of {site} has a body.", site=site)
    if isinstance(answer, Refusal):
        return answer
    if (answer.epoch, answer.roster_digest) != (epoch.number, epoch.roster_digest):
        raise PeerFault(f"{site} gave a key of another epoch.", site=site)
    if not is_public_key(bytes.fromhex(answer.public_key)):
        # with it in the list every other site would refuse every round
        raise PeerFault(f"{site} gave an epoch key that nobody can use.", site=site)
    if any(item.public_key == answer.public_key and item.site != site for item in epoch.keys):
        raise PeerFault(f"{site} gave the epoch key of another site.", site=site)
    entry = EpochKeyEntry(
        site=site,
        public_key=answer.public_key,
        signature=header[:SIGNATURE_BYTES].hex(),
    )
    _verify(entry, epoch, roster)
    return entry


def _verify(entry: EpochKeyEntry, epoch: Epoch, roster: Roster) -> None:
    signing.verify(
        roster.entry(entry.site).identity,
        protocol.kind_of(EpochKey),
        epoch_key_statement(entry, epoch.number, epoch.roster_digest),
        bytes.fromhex(entry.signature),
    )
