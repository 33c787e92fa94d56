"""The ledger as a hospital hands it out: one signed file without patient data. Pure.

    export = build(site=..., lines=..., rosters=..., ...)      the hospital
    data = seal(export, identity_key)

    sealed = open_export(data)                                 everyone else; nothing verified yet
    key, rosters = sealed.verified(root_key)                   who signed it, by the root's rosters

The file is canonical JSON of `Export` and `signature`, made with the hospital's identity key over
(tag "ledger-export", canonical JSON without the signature). Whose key that is, only a roster says
that the consortium's root key has signed; rosters are in the file. The entries are hostile until
`ledger.Chain.verified`, heads and countersignatures until somebody has verified them.
"""

from __future__ import annotations

import json
from collections.abc import Iterable, Mapping
from dataclasses import dataclass, field
from functools import cached_property
from typing import Annotated, Any, Literal

from cryptography.hazmat.primitives.asymmetric.ed25519 import Ed25519PrivateKey
from pydantic import BaseModel, ConfigDict, Field, ValidationError, model_validator

from shared_model import canonical, signing
from shared_model.enrolment import SiteName
from shared_model.errors import FedprintError, OurMistake, Refused
from shared_model.ledger_entries import (
    MAX_LINE_BYTES,
    Digest,
    LedgerHead,
    RoundNumber,
    RunId,
    Words,
)
from shared_model.ledger_recovery import MAX_BYTES, evidence, opened_evidence
from shared_model.protocol import MAX_HEADER_BYTES, MAX_PARTICIPANTS, KnownHead
from shared_model.roster import MAX_ROSTER_BYTES, Roster
from shared_model.roster_files import Day
from shared_model.sum_evidence import opened_rosters

TAG = "ledger-export"
MAX_EXPORT_BYTES = 256 * 2**20
MAX_LINES = 200_000
MAX_ROSTERS = 1000
MAX_ROUNDS = 16
"""Rounds whose countersignatures a file carries; a node keeps the newest three."""
MAX_RELEASES = 1000
MAX_RECOVERIES = 1000

Line = Annotated[str, Field(min_length=2, max_length=MAX_LINE_BYTES, pattern=r"^[ -~]+$")]
HexHeader = Annotated[
    str, Field(min_length=2, max_length=2 * MAX_HEADER_BYTES, pattern=r"^(?:[0-9a-f]{2})+$")
]
HexRoster = Annotated[
    str, Field(min_length=2, max_length=2 * MAX_ROSTER_BYTES, pattern=r"^(?:[0-9a-f]{2})+$")
]


HexFile = Annotated[
    str, Field(min_length=2, max_length=2 * MAX_BYTES, pattern=r"^(?:[0-9a-f]{2})+$")
]


class _Strict(BaseModel):
    model_config = ConfigDict(frozen=True, extra="forbid", strict=True, allow_inf_nan=False)


class SignedAgreement(_Strict):
    """Header of the `Agreement` of one site, in hexadecimal."""

    site: SiteName
    header: HexHeader


class CountersignedRound(_Strict):
    """A round's `AgreeRequest`, which the coordinator signed, and who agreed to it."""

    run: RunId
    round: RoundNumber
    request: HexHeader
    agreements: Annotated[tuple[SignedAgreement, ...], Field(max_length=MAX_PARTICIPANTS)]

    @model_validator(mode="after")
    def _sorted(self) -> CountersignedRound:
        _sorted_once([item.site for item in self.agreements], "agreements")
        return self


class RecoveryEvidence(_Strict):
    """What this hospital asked after a restore, and what others answered, as they signed it."""

    question: HexFile
    answers: Annotated[tuple[HexFile, ...], Field(max_length=MAX_PARTICIPANTS)]

    @cached_property
    def digest(self) -> str:
        """What the `recovered` entry names."""
        files = [bytes.fromhex(one) for one in self.answers]
        return canonical.digest(evidence(bytes.fromhex(self.question), files))

    @model_validator(mode="after")
    def _text(self) -> RecoveryEvidence:
        _sorted_once(list(self.answers), "answers")
        try:
            self.digest  # noqa: B018
        except UnicodeDecodeError as error:
            raise ValueError("questions and answers are text") from error
        return self


class Export(_Strict):
    """What the hospital signs.

    created: day of the hospital's clock. code_digest: of the code that wrote the file. lines:
    all entries, oldest first. rosters: every one that its operator has approved, signed by the
    root. witnessed: the newest head that it holds of each other hospital's ledger. releases:
    digests of those that it has installed. recoveries: those that `recovered` entries name, as far
    as they are kept. head: after the last line, signed as others keep it; absent in files of
    earlier versions.
    """

    kind: Literal["fedprint-ledger-export"] = "fedprint-ledger-export"
    version: Literal[1] = 1
    site: SiteName
    created: Day
    software: Words
    code_digest: Digest
    lines: Annotated[tuple[Line, ...], Field(max_length=MAX_LINES)]
    rosters: Annotated[tuple[HexRoster, ...], Field(min_length=1, max_length=MAX_ROSTERS)]
    witnessed: Annotated[tuple[KnownHead, ...], Field(max_length=MAX_PARTICIPANTS)]
    countersigned: Annotated[tuple[CountersignedRound, ...], Field(max_length=MAX_ROUNDS)]
    releases: Annotated[tuple[Digest, ...], Field(max_length=MAX_RELEASES)]
    recoveries: Annotated[tuple[RecoveryEvidence, ...], Field(max_length=MAX_RECOVERIES)]
    head: LedgerHead | None = None

    @model_validator(mode="after")
    def _each_once(self) -> Export:
        _sorted_once([head.site for head in self.witnessed], "witnessed heads")
        if self.site in {head.site for head in self.witnessed}:
            raise ValueError("a hospital witnesses others")
        _sorted_once(list(self.releases), "releases")
        rounds = [(item.run, item.round) for item in self.countersigned]
        if len(set(rounds)) != len(rounds) or len(set(self.rosters)) != len(self.rosters):
            raise ValueError("rounds and rosters are there once")
        if len({one.digest for one in self.recoveries}) != len(self.recoveries):
            raise ValueError("recoveries are there once")
        return self


def build(
    *,
    site: str,
    created: str,
    software: str,
    code_digest: str,
    lines: Iterable[bytes],
    rosters: Iterable[bytes],
    witnessed: Mapping[str, LedgerHead],
    countersigned: Iterable[tuple[str, int, bytes, Mapping[str, bytes]]],
    releases: Iterable[str],
    head: LedgerHead | None = None,
    recoveries: Iterable[bytes] = (),
) -> Export:
    """An export of these bytes.

    Args:
        created: YYYY-MM-DD.
        lines: of the ledger, oldest first.
        rosters: documents of `roster_files.SignedRoster`.
        witnessed: by site, of other hospitals; one of its own is left out.
        countersigned: (run, round, header of AgreeRequest, site -> header of its Agreement).
        releases: digests of manifests.
        head: after the last line.
        recoveries: files of `ledger_recovery.evidence`.

    Raises:
        OurMistake: what is given makes no export.
    """
    try:
        return Export(
            site=site,
            created=created,
            software=software,
            code_digest=code_digest,
            lines=tuple(line.decode("ascii") for line in lines),
            rosters=tuple(dict.fromkeys(document.hex() for document in rosters)),
            witnessed=tuple(
                KnownHead(site=name, **witnessed[name].model_dump())
                for name in sorted(witnessed)
                if name != site
            ),
            countersigned=tuple(
                CountersignedRound(
                    run=run,
                    round=number,
                    request=request.hex(),
                    agreements=tuple(
                        SignedAgreement(site=name, header=agreements[name].hex())
                        for name in sorted(agreements)
                    ),
                )
                for run, number, request, agreements in countersigned
            ),
            releases=tuple(sorted(set(releases))),
            head=head,
            recoveries=tuple(
                RecoveryEvidence(
                    question=asked.hex(), answers=tuple(sorted(one.hex() for one in answers))
                )
                for asked, answers in map(opened_evidence, recoveries)
            ),
        )
    except (ValidationError, UnicodeDecodeError) as error:
        raise OurMistake("This ledger cannot be written as an export.") from error


def seal(export: Export, key: Ed25519PrivateKey) -> bytes:
    """The file.

    Raises:
        OurMistake: its own parser would not take it.
    """
    plain = _plain(export)
    signature = signing.sign(key, TAG, canonical.encode(plain)).hex()
    data = canonical.encode({**plain, "signature": signature})
    try:
        open_export(data)
    except Refused as error:
        raise OurMistake(f"This ledger cannot be exported: {error.message}") from error
    return data


@dataclass(frozen=True)
class Sealed:
    """A file that is an export by its form. Nothing in it is verified."""

    export: Export
    digest: str
    """SHA-256 of the file."""
    body: bytes = field(repr=False)
    """What was signed."""
    signature: bytes = field(repr=False)

    def verified(self, root_key: bytes) -> tuple[bytes, dict[str, Roster]]:
        """Identity key of the hospital that signed the file, and its rosters by digest.

        Args:
            root_key: 32 raw bytes; the only thing that is believed.

        Raises:
            PeerFault: a roster that the root key did not sign.
            Refused: no roster names this hospital ("roster"), or it is not signed by the key that
                one of them names ("signature").
        """
        rosters = opened_rosters((bytes.fromhex(one) for one in self.export.rosters), root_key)
        newest_first = sorted(rosters.values(), key=lambda one: one.version, reverse=True)
        site = self.export.site
        keys = [one.entry(site).identity for one in newest_first if site in one.names]
        if not keys:
            raise Refused(
                f"No roster in the file that the root key signed names {site}.", reason="roster"
            )
        for key in dict.fromkeys(keys):
            try:
                signing.verify(key, TAG, self.body, self.signature)
            except Refused:
                continue
            return key, rosters
        raise Refused(
            f"The file is not signed by {site}: by no key that a signed roster names.",
            reason="signature",
        )


def open_export(data: bytes) -> Sealed:
    """A hostile file, if it is an export and written as `seal` writes it.

    Raises:
        Refused: larger than any real one ("size"), or not such a file ("export").
    """
    if len(data) > MAX_EXPORT_BYTES:
        raise Refused("The export is larger than any real one.", reason="size")
    try:
        plain: dict[str, Any] = json.loads(data)
        signature = bytes.fromhex(plain.pop("signature"))
        body = canonical.encode(plain)
        export = Export.model_validate_json(body)
        again = canonical.encode({**plain, "signature": signature.hex()})
        same = again == data and canonical.encode(_plain(export)) == body
    except (
        ValidationError,
        FedprintError,
        ValueError,
        TypeError,
        KeyError,
        AttributeError,
        RecursionError,
    ):
        raise Refused(
            "This is not an exported ledger.",
            reason="export",
            do="Ask the hospital for it again: fedprint-node ledger export -o FILE",
        ) from None
    if not same or len(signature) != 64:
        raise Refused("The export is not in its canonical spelling.", reason="export")
    return Sealed(export, canonical.digest(data), body, signature)


def _plain(export: Export) -> dict[str, Any]:
    """What is signed: without `head` where there is none, as before there was one."""
    return export.model_dump(mode="json", exclude_none=True)


def _sorted_once(names: list[str], what: str) -> None:
    if names != sorted(set(names)):
        raise ValueError(f"{what} must be sorted, each once")
