"""Questions and answers by which a restored hospital learns how long its own ledger was. Pure.

    question = Question(site=..., nonce=<32 random hexadecimal digits>, length=..., head=...)
    answer   = Answer(witness=..., question=question.digest, nonce=..., subject=..., held=<head>)

Each is flat JSON, signed by the identity key of who says it; `held` carries the subject's own
signature as well. An answer counts for one question only, because it names its digest and nonce.
`vouched` holds the answers against the approved roster: at least min(t, n - 1) distinct other
hospitals, so that an honest one is among them as long as no more than the secure sum's bound lie.
"""

from __future__ import annotations

import json
from collections.abc import Collection, Sequence
from dataclasses import dataclass
from typing import Annotated, Literal, TypeVar

from cryptography.hazmat.primitives.asymmetric.ed25519 import Ed25519PrivateKey
from pydantic import BaseModel, ConfigDict, Field, ValidationError

from shared_model import canonical, signing
from shared_model.enrolment import SiteName
from shared_model.errors import FedprintError, OurMistake, PeerFault, Refused
from shared_model.ledger import NOTHING, Chain, Digest, LedgerHead
from shared_model.roster import Roster

MAX_BYTES = 16 * 1024
Nonce = Annotated[str, Field(pattern=r"^[0-9a-f]{32}$")]


class _Signed(BaseModel):
    model_config = ConfigDict(frozen=True, extra="forbid", strict=True)

    @property
    def digest(self) -> str:
        return canonical.digest_of(self.model_dump(mode="json"))


class Question(_Signed):
    """`site` asks what others hold of its ledger; it has `length` entries itself."""

    kind: Literal["fedprint-ledger-question"] = "fedprint-ledger-question"
    version: Literal[1] = 1
    site: SiteName
    nonce: Nonce
    length: Annotated[int, Field(ge=0)]
    head: Digest


class Answer(_Signed):
    """`witness` holds this newest head of the subject's ledger; None: it has seen none."""

    kind: Literal["fedprint-ledger-answer"] = "fedprint-ledger-answer"
    version: Literal[1] = 1
    witness: SiteName
    subject: SiteName
    question: Digest
    nonce: Nonce
    held: LedgerHead | None


@dataclass(frozen=True)
class Vouched:
    """What the answers say: the longest head, and who answered. No head: length 0."""

    length: int
    head: str
    witnesses: tuple[str, ...]
    heads: tuple[tuple[int, str, str], ...]
    """(length, head, witness) of every answer that holds one."""


_S = TypeVar("_S", Question, Answer)


def seal(message: Question | Answer, key: Ed25519PrivateKey) -> bytes:
    """The file's bytes."""
    return signing.signed_document(message.kind, message.model_dump(mode="json"), key)


def open_question(data: bytes, roster: Roster) -> Question:
    """A question of a site of the approved roster, signed by it.

    Raises:
        PeerFault: it is not.
    """
    question, signature = _parsed(Question, data, "the hospital that asks")
    _verify(question, signature, question.site, roster)
    return question


def open_answer(data: bytes, roster: Roster, earlier_keys: Collection[bytes] = ()) -> Answer:
    """An answer of a site of the approved roster, signed by it, and the head in it by its subject.

    Args:
        earlier_keys: with which the subject's ledger was signed before its present key.

    Raises:
        PeerFault: it is not; names the witness.
    """
    answer, signature = _parsed(Answer, data, "a hospital that answers")
    _verify(answer, signature, answer.witness, roster)
    if answer.held is not None:
        _check_held(answer, answer.held, roster, earlier_keys)
    return answer


def _check_held(
    answer: Answer, held: LedgerHead, roster: Roster, earlier_keys: Collection[bytes]
) -> None:
    present = [one.identity for one in roster.sites if one.site == answer.subject]
    if not held.is_signed_by(answer.subject, (*present, *earlier_keys)):
        raise PeerFault(
            f"{answer.witness} shows a head that {answer.subject} has not signed.",
            site=answer.witness,
        )


def needed(roster: Roster) -> int:
    """How many other hospitals must answer."""
    return min(roster.threshold, len(roster.sites) - 1)


def vouched(question: Question, answers: Sequence[Answer], roster: Roster) -> Vouched:
    """The longest head that enough other hospitals hold.

    Raises:
        Refused: too few answers to this question, or two witnesses hold different heads of one
            length: the ledger was forked ("ledger").
    """
    counted: dict[str, Answer] = {}
    for answer in answers:
        to_this = (answer.subject, answer.question, answer.nonce) == (
            question.site,
            question.digest,
            question.nonce,
        )
        if not to_this:
            raise Refused(
                f"The answer of {answer.witness} is to another question.",
                reason="ledger",
                do="Answers count for the last question only: send that hospital ask.json again.",
            )
        if answer.witness == question.site:
            raise Refused("A hospital cannot answer its own question.", reason="ledger")
        if counted.setdefault(answer.witness, answer) != answer:
            raise Refused(f"{answer.witness} has given two answers.", reason="ledger")
    if len(counted) < needed(roster):
        raise Refused(
            f"{len(counted)} other hospitals have answered; {needed(roster)} are needed.",
            reason="ledger",
            do="Each runs: fedprint-node ledger witness ask.json -o answer.json",
        )
    heads = [(a.held.length, a.held.head, site) for site, a in counted.items() if a.held]
    seen: dict[int, tuple[str, str]] = {}
    for length, head, site in sorted(heads):
        before = seen.setdefault(length, (head, site))
        if before[0] != head:
            raise Refused(
                f"{before[1]} and {site} hold two different ledgers of {length} entries of this "
                "hospital: it was forked.",
                reason="ledger",
                do="No entry can settle this. Show both answers to the other hospitals.",
            )
    length, head, _ = max(heads, default=(0, NOTHING, ""))
    return Vouched(length, head, tuple(sorted(counted)), tuple(sorted(heads)))


def evidence(asked: bytes, answers: Sequence[bytes]) -> bytes:
    """What a hospital keeps of a recovery, as one file; a `recovered` entry names its digest."""
    return canonical.encode([asked.decode(), *sorted(data.decode() for data in answers)])


def opened_evidence(data: bytes) -> tuple[bytes, tuple[bytes, ...]]:
    """Question and answers of such a file; nothing in them is verified.

    Raises:
        OurMistake: it is not such a file.
    """
    try:
        asked, *answers = (text.encode() for text in json.loads(data))
        if evidence(asked, answers) != data:
            raise ValueError("another spelling")
    except (FedprintError, ValueError, TypeError, AttributeError, RecursionError) as error:
        raise OurMistake("What was kept of a recovery is damaged.") from error
    return asked, tuple(answers)


def check_holds(chain: Chain, found: Vouched) -> None:
    """Every head that a witness holds, and that this chain could have had, is one of this chain.

    Raises:
        Refused: a fork; names the witness ("ledger").
    """
    for length, head, witness in found.heads:
        known = chain.head_at(length)
        if length <= chain.length and known not in (None, head):
            raise Refused(
                f"{witness} holds another entry {length} of this hospital's ledger than the one "
                "here: it was forked or rewritten.",
                reason="ledger",
                do="Keep ledger.sqlite, move it aside, and recover with the coordinator's entries; "
                "tell the other hospitals.",
            )


def _verify(message: _S, signature: bytes, site: str, roster: Roster) -> None:
    try:
        if site not in roster.names:
            raise Refused("Not in the roster.", reason="roster")
        body = canonical.encode(message.model_dump(mode="json"))
        signing.verify(roster.entry(site).identity, message.kind, body, signature)
    except Refused as error:
        raise PeerFault(
            f"The file is not signed by {site} with its key of the approved roster.",
            site=site,
            do="Compare the rosters of both hospitals: fedprint-node roster show",
        ) from error


def _parsed(model: type[_S], data: bytes, who: str) -> tuple[_S, bytes]:
    try:
        if len(data) > MAX_BYTES:
            raise ValueError("too long")
        document = json.loads(data)
        signature = bytes.fromhex(document.pop("signature"))
        return model.model_validate_json(canonical.encode(document)), signature
    except (
        ValidationError,
        FedprintError,
        ValueError,
        KeyError,
        TypeError,
        AttributeError,
        RecursionError,
    ) as error:
        raise PeerFault(f"This is not a file of {who}.", site="unknown") from error
