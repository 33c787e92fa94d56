"""The closing exchange: the hospitals verify a published sum, while later rounds run.

For each aggregated round, beside everything else:

1. `CloseRequest` with the statement to every survivor; each answers, signed, with 128 subset sums
   of what it submitted;
2. once all have answered, the coordinator holds the sum against the answers itself, and sends them
   with the sum to all: whoever finds it right signs a `SumReceipt`;
3. with the receipts of t survivors the round is verified. A receipt names the model that the site
   has computed of the sum; one for another model than the stored one is not taken.

What comes is stored as it comes (`ClosingRecord`), so that any later start of the run goes on where
this one was. A site that does not answer is asked again from time to time; nothing waits for it but
the end of the run.
"""

from __future__ import annotations

import hashlib
from collections.abc import Callable, Container, Mapping
from dataclasses import dataclass, field

from cryptography.hazmat.primitives.asymmetric.ed25519 import Ed25519PrivateKey

from server.checkpoints import RunFolder
from server.post import Answer, Letter, Post
from server.run_records import ClosingRecord, RoundRecord, RunRecord, as_base64, from_base64
from shared_model import canonical, protocol, protocol_open
from shared_model.errors import OurMistake, PeerFault, Refused
from shared_model.protocol import Refusal
from shared_model.protocol_sum import (
    CloseReply,
    CloseRequest,
    Statement,
    SumReceipt,
    VerifyRequest,
)
from shared_model.secure_sum.numbers import unpack
from shared_model.secure_sum.verification import (
    challenge,
    check_equation,
    read_statement,
    subset_sums,
)
from shared_model.verify_body import verify_body

Told = Callable[[str, str, str], None]
"""kind, site, words."""


@dataclass
class _Open:
    """One round whose sum is not verified yet.

    bodies: digests of the survivors' submissions, as they signed them. model_out: of the model
    that was made of the sum.
    silent: sites that refused or answered wrongly in this start. asked: when a site was last asked,
    by trip. right: the coordinator itself has held the sum against all answers; None: not yet.
    """

    record: ClosingRecord
    statement: bytes = field(repr=False)
    transcript: str
    keys: Mapping[str, bytes]
    bodies: Mapping[str, str]
    model_out: str
    silent: set[str] = field(default_factory=set)
    asked: dict[tuple[str, str], float] = field(default_factory=dict)
    right: bool | None = None

    @property
    def trip(self) -> str:
        """What is asked now."""
        return "verify" if self.right else "close"

    @property
    def missing(self) -> tuple[str, ...]:
        """Survivors whose answer to the present question is not here and may still come."""
        have = self.record.receipts if self.trip == "verify" else self.record.answers
        return tuple(
            site for site in self.record.survivors if site not in have and site not in self.silent
        )

    @property
    def waits(self) -> bool:
        """Whether it is not verified yet and may still be, in this start."""
        record = self.record
        if record.state == "verified" or self.right is False:
            return False
        if len(record.answers) < len(record.survivors):
            open_answers = set(record.survivors) - set(record.answers)
            return not open_answers & self.silent
        return self.right is None or len(record.receipts) + len(self.missing) >= record.needed


class Closings:
    """All closing exchanges of a run.

    Args:
        again_s: how long after a question that was lost it is asked again; lost_s: how long after
            one that the transport seems to have carried.
        told: for the operator.
    """

    def __init__(
        self,
        folder: RunFolder,
        key: Ed25519PrivateKey,
        post: Post,
        clock: Callable[[], float],
        again_s: float,
        lost_s: float,
        told: Told,
    ) -> None:
        self._folder = folder
        self._key = key
        self._post = post
        self._clock = clock
        self._again_s = again_s
        self._lost_s = max(lost_s, again_s)
        self._told = told
        self._open: dict[int, _Open] = {}

    def restore(self, record: RunRecord) -> None:
        """Take up every exchange that an earlier start left."""
        for item in record.rounds:
            if item.outcome == "aggregated":
                self.begin(record, item)

    def begin(self, record: RunRecord, item: RoundRecord) -> None:
        """A round was aggregated: its sum is to be verified. Rounds without masks have no
        statement and stay unverified."""
        closing = self._folder.closing(item.round)
        if closing.state == "verified" or not closing.statement_digest:
            return
        request = protocol_open.open_train_request(
            item.request_bytes, bytes.fromhex(record.run_key)
        )
        roster = record.roster_named(request.sum.roster_digest)
        self._open[item.round] = _Open(
            record=closing,
            statement=self._folder.statement(item.round),
            transcript=str(item.transcript),
            keys={site: roster.entry(site).identity for site in closing.survivors},
            bodies={one.site: one.body_digest for one in item.contributors},
            model_out=item.model_out,
        )

    @property
    def waiting(self) -> tuple[int, ...]:
        """Rounds that are not verified and may still be, in this start."""
        return tuple(number for number, found in sorted(self._open.items()) if found.waits)

    @property
    def unverified(self) -> Mapping[int, str]:
        """Rounds that are not verified, and why, in words."""
        return {
            number: found.record.in_words
            for number, found in sorted(self._open.items())
            if found.record.state == "unverified"
        }

    def turn(self, online: Callable[[], Container[str]]) -> None:
        """Ask whom is to be asked. Who was asked before is asked again only if it is there."""
        letters: list[Letter] = []
        there: Container[str] | None = None
        made: dict[int, tuple[bytes, bytes]] = {}
        for number, found in list(self._open.items()):
            if not found.waits:
                continue
            self._hold(number, found)
            for site in found.missing if found.waits else ():
                trip, now = found.trip, self._clock()
                last = found.asked.get((trip, site))
                if last is not None:
                    awaited = self._post.awaits(trip, number, site)
                    if now - last < (self._lost_s if awaited else self._again_s):
                        continue
                    self._post.forget((trip,), number, site)
                    there = online() if there is None else there
                    if site not in there:
                        found.asked[trip, site] = now
                        continue
                found.asked[trip, site] = now
                if number not in made:
                    made[number] = self._question(number, found)
                letters.append(Letter(site, trip, number, *made[number]))
        self._post.send(letters)

    def receive(self, answer: Answer) -> None:
        """A site's answer to one of these letters."""
        letter = answer.letter
        found = self._open.get(letter.number)
        if found is None or letter.site not in found.keys:
            return
        try:
            self._take(found, letter, answer)
        except PeerFault as fault:
            found.silent.add(letter.site)
            self._told("incident", letter.site, f"closing of round {letter.number}: {fault}")

    # ------------------------------------------------------------ parts

    def _take(self, found: _Open, letter: Letter, answer: Answer) -> None:
        site, number, record = letter.site, letter.number, found.record
        key = found.keys[site]
        said: CloseReply | SumReceipt | Refusal
        if letter.trip == "close":
            said = protocol_open.open_answer_of(answer.header, key, CloseReply, site=site)
        else:
            said = protocol_open.open_answer_of(answer.header, key, SumReceipt, site=site)
        if answer.body:
            raise PeerFault(f"An answer of {site} has a body that it should not have.", site=site)
        header = as_base64(answer.header)
        if isinstance(said, Refusal):
            if said.request_digest != protocol.header_digest(letter.header):
                raise PeerFault(f"{site} refuses something that it was not asked.", site=site)
            found.silent.add(site)
            self._save(found, refusals={**record.refusals, site: header})
            wrong = "; it does not find the sum right" if said.reason == "secure-sum" else ""
            self._told("refused", site, f"closing of round {number}: {said.reason}{wrong}")
            return
        self._check(said, found, letter)
        refusals = {other: text for other, text in record.refusals.items() if other != site}
        if isinstance(said, CloseReply):
            self._save(found, answers={**record.answers, site: header}, refusals=refusals)
            return
        receipts = {**record.receipts, site: header}
        verified = len(receipts) >= record.needed
        was = record.state
        self._save(
            found,
            receipts=receipts,
            refusals=refusals,
            state="verified" if verified else "unverified",
        )
        if verified and (was == "unverified" or len(receipts) == len(record.survivors)):
            self._told("verified", "", f"round {number} {found.record.in_words}")
        if len(receipts) == len(record.survivors):
            del self._open[number]

    def _check(self, said: CloseReply | SumReceipt, found: _Open, letter: Letter) -> None:
        run = protocol_open.readable(letter.header)["run"]
        named = (said.run, said.round, said.transcript, said.statement_digest)
        if named != (run, letter.number, found.transcript, found.record.statement_digest):
            raise PeerFault(f"{said.site} answers about another sum.", site=said.site)
        if isinstance(said, SumReceipt) and said.model_out != found.model_out:
            raise PeerFault(
                f"{said.site} has signed that the sum makes another model than the stored one.",
                site=said.site,
                do="Run: fedprint-audit sum RUN_FOLDER; it says which of the two is wrong.",
            )

    def _hold(self, number: int, found: _Open) -> None:
        """Hold the published sum against the answers, once all are here."""
        record = found.record
        if found.right is not None or set(record.answers) != set(record.survivors):
            return
        statement = read_statement(found.statement)
        answers = {
            site: protocol_open.open_signed(
                from_base64(header), found.keys[site], CloseReply, site=site
            ).sums
            for site, header in record.answers.items()
        }
        packed = self._folder.summed(number)
        try:
            check_equation(
                statement, answers, unpack(packed, statement.modulus_bits, statement.padded)
            )
        except Refused as wrong:
            liars = self._wrong_answers(number, found, statement, answers)
            if not liars:
                found.right = False
                self._told("incident", "", f"round {number} cannot be verified: {wrong.message}")
                return
            kept = {site: text for site, text in record.answers.items() if site not in liars}
            self._save(found, answers=kept)
            for site in liars:
                found.silent.add(site)
                words = f"closing of round {number}: its sums are not those of what it submitted"
                self._told("incident", site, words)
        else:
            found.right = True

    def _wrong_answers(
        self,
        number: int,
        found: _Open,
        statement: Statement,
        answers: Mapping[str, tuple[int, ...]],
    ) -> list[str]:
        """Sites whose answer is not that of the submission which they signed.

        Looked for only where the equation does not hold: it takes a second a site for a large
        model. A submission that is gone, or has changed on the disk, accuses nobody.
        """
        digest = bytes.fromhex(found.record.statement_digest)
        asked = challenge(bytes.fromhex(found.transcript), digest, statement.padded)
        liars = []
        for site in found.record.survivors:
            try:
                body = memoryview(self._folder.round(number).mapped(site))
            except OurMistake:
                continue
            if hashlib.sha256(body).hexdigest() != found.bodies[site]:
                continue
            size = statement.modulus_bits * statement.padded // 8
            vector = unpack(body[:size], statement.modulus_bits, statement.padded)
            if subset_sums(asked, vector, statement.modulus_bits) != answers[site]:
                liars.append(site)
        return liars

    def _question(self, number: int, found: _Open) -> tuple[bytes, bytes]:
        """Header and body of what all survivors are asked now."""
        record = found.record
        run = read_statement(found.statement).run
        if found.trip == "close":
            asked = CloseRequest(
                run=run,
                round=number,
                transcript=found.transcript,
                statement_digest=record.statement_digest,
            )
            return protocol.seal(asked, self._key), found.statement
        answers = [from_base64(record.answers[survivor]) for survivor in record.survivors]
        body = verify_body(found.statement, self._folder.summed(number), answers)
        verify = VerifyRequest(
            run=run,
            round=number,
            transcript=found.transcript,
            statement_digest=record.statement_digest,
            body_digest=canonical.digest(body),
        )
        return protocol.seal(verify, self._key), body

    def _save(self, found: _Open, **changes: object) -> None:
        found.record = found.record.model_copy(update=changes)
        self._folder.save_closing(found.record)
