"""Bytes of a deployed round, from the messages themselves: built, sealed, measured, thrown away.

    made = round_of(config, declared=(500, 500, 500), threshold=3)
    made.down, made.up                                   # at one site

Every header is made by the functions that coordinator and nodes make theirs with, signed with keys
made here, and every body has the length of a real one: a parser of the protocol is given it where
there is one. What a site computes is zeros. All sites answer; nothing is sent twice.

Not in it: what Flower, HTTP and TLS put around a message. Digits of numbers vary from round to
round, so that a header may be a few bytes longer or shorter.
"""

from __future__ import annotations

import os
from collections.abc import Mapping, Sequence
from dataclasses import dataclass

import numpy as np
from cryptography.hazmat.primitives.asymmetric.ed25519 import Ed25519PrivateKey

from client import egress
from server.epochs import Epoch
from server.run_config import RunConfig
from server.run_records import RunRecord, as_base64
from server.run_start import plan_of, train_request
from shared_model import adapters, canonical, mae, protocol, roster, signing
from shared_model import weights as weights_io
from shared_model.errors import OurMistake
from shared_model.ledger_entries import Answered, Booked, LedgerHead, seal, sign_head
from shared_model.ledger_links import links_body
from shared_model.noise import SystemNoise
from shared_model.protocol import (
    EpochKeyEntry,
    KnownHead,
    LedgerNote,
    PrivacyStatement,
    TrainRequest,
)
from shared_model.protocol_sum import (
    SUBSETS,
    AgreeRequest,
    CloseRequest,
    EpochKey,
    EpochRequest,
    OpenRequest,
    VerifyRequest,
)
from shared_model.roster import Roster
from shared_model.secure_sum.opening import Opened, Seeds, read_shares, rows_body
from shared_model.secure_sum.primitives import DIGEST_BYTES, SEED_BYTES
from shared_model.secure_sum.submission import SALT_BYTES, Submission, row_bytes
from shared_model.secure_sum.transcript import Transcript, of_request
from shared_model.secure_sum.verification import make_statement, statement_bytes
from shared_model.verify_body import verify_body
from simulations.lab.deployed_messages import MODEL, DeployedRound, Message, Trip

FEWEST, MOST = 2, protocol.MAX_PARTICIPANTS
_ROUND, _EPOCH = 10, 1_750_000_000
"""A round in the middle of a run; epochs are numbered by the seconds since 1970."""
_DAY, _LAST_DAY = "2026-01-01", "2027-01-01"
_DIGEST = "0" * 64
_EPSILON = 2.718281828459045
"""As many digits as a computed one."""
_ENTRIES_BEFORE = 2 + 2 * (_ROUND - 1)
"""Of a ledger: opened, approved, and two a round."""


def round_of(
    config: RunConfig, *, declared: Sequence[int], threshold: int, participants: int | None = None
) -> DeployedRound:
    """One round at the first of the participants.

    Args:
        declared: patients of each hospital of the roster. participants: how many of them a round
            asks; all by default. threshold: of the roster.

    Raises:
        OurMistake: fewer than 2 or more than 255 hospitals, or a sum that does not fit 32 bits.
    """
    if not FEWEST <= len(declared) <= MOST:
        raise OurMistake(f"A deployed round has {FEWEST} to {MOST} hospitals, not {len(declared)}.")
    return _Consortium(config, declared, threshold).round(participants or len(declared))


@dataclass(frozen=True)
class _Enrolled:
    """What a roster takes of a hospital."""

    site: str
    identity_key: str
    declared_patients: int


class _Consortium:
    """Pretend coordinator and hospitals, with one key each, that exist for a second."""

    def __init__(self, config: RunConfig, declared: Sequence[int], threshold: int) -> None:
        names = [f"site-{place:03d}" for place in range(1, len(declared) + 1)]
        self.keys = {name: Ed25519PrivateKey.generate() for name in names}
        self.coordinator = Ed25519PrivateKey.generate()
        cards = [
            _Enrolled(name, signing.public_bytes(self.keys[name]).hex(), patients)
            for name, patients in zip(names, declared, strict=True)
        ]
        drawn = roster.draft(cards, 1, threshold, valid_from=_DAY, valid_until=_LAST_DAY)
        self.signed = roster.sign(drawn, self.coordinator)
        model = mae.build(mae.PRESETS[config.preset], 0)
        self.weights = mae.weights_of(model)
        names_trained = mae.trainable_names(model, config.training.trainable)
        public = signing.public_bytes(self.coordinator).hex()
        self.record = RunRecord(
            run=config.run,
            config=config,
            model=model.config,
            root_key=public,
            rosters=(as_base64(self.signed.to_bytes()),),
            run_key=public,
            software=protocol.software(),
            initial_model=weights_io.digest(self.weights),
            trainable=names_trained,
            starts=1,
        )
        trained = adapters.trained_part(self.weights, names_trained)
        self.state = plan_of(self.record).step.begin(trained)

    @property
    def roster(self) -> Roster:
        return self.signed.roster

    def round(self, participants: int) -> DeployedRound:
        sites = self.roster.names[:participants]
        request, found = self._submit_request(sites)
        transcript = of_request(request, self.roster.weights)
        submissions = self._submissions(transcript)
        reply = self._reply(request, transcript, sites[0], len(submissions[sites[0]].body))
        found.append(_answer("submit", reply, "masked update, sealed shares, ledger entries"))
        found += self._agree_and_open(request, transcript, submissions)
        found += self._closing(request, transcript)
        state = len(weights_io.to_bytes(self.weights | self.state)) - len(
            weights_io.to_bytes(self.weights)
        )
        epoch_rounds = self.record.config.epoch_rounds
        return DeployedRound(tuple(found), transcript.numbers, epoch_rounds, state)

    # ------------------------------------------------------------ trip 1

    def _submit_request(self, sites: tuple[str, ...]) -> tuple[TrainRequest, list[Message]]:
        """The request for a key of the epoch and its answer, then the request to train."""
        plan = plan_of(self.record)
        ask = EpochRequest(
            version=plan.lowest_version,
            epoch=_EPOCH,
            roster_digest=self.roster.digest,
            body_digest=_DIGEST,
            plan=plan,
            software=protocol.software(),
        )
        document = self.signed.to_bytes()
        own = egress.epoch_key(
            self.keys[sites[0]], ask, site=sites[0], public_key=os.urandom(SEED_BYTES)
        )
        found = [
            _request("epoch", protocol.seal(ask, self.coordinator), document, "signed roster"),
            _answer("epoch", own, "public key"),
        ]
        body = weights_io.to_bytes(self.weights | self.state)
        request = train_request(
            self.record,
            _ROUND,
            sites,
            adapters.trained_part(self.weights, self.record.trainable),
            canonical.digest(body),
            Epoch(
                run=self.record.run,
                number=_EPOCH,
                roster_digest=self.roster.digest,
                keys=tuple(self._epoch_key(site) for site in self.roster.names),
            ),
            tuple(KnownHead(site=site, **self._head(site).model_dump()) for site in sites),
        )
        header = protocol.seal(request, self.coordinator)
        found.append(_request("submit", header, body, MODEL))
        return request, found

    def _epoch_key(self, site: str) -> EpochKeyEntry:
        public = os.urandom(SEED_BYTES).hex()
        said = EpochKey(
            site=site, epoch=_EPOCH, roster_digest=self.roster.digest, public_key=public
        )
        signature = protocol.seal(said, self.keys[site])[: protocol.SIGNATURE_BYTES]
        return EpochKeyEntry(site=site, public_key=public, signature=signature.hex())

    def _head(self, site: str) -> LedgerHead:
        return sign_head(self.keys[site], site, _ENTRIES_BEFORE, _DIGEST)

    def _submissions(self, transcript: Transcript) -> dict[str, Submission]:
        """Zeros in the place of every site's masked vector, commitments and sealed shares."""
        count = len(transcript.participants)
        commitments = SALT_BYTES + count * DIGEST_BYTES
        size = transcript.numbers.packed_bytes + commitments + count * row_bytes(transcript)
        zeros = bytes(size)
        return {site: Submission.parse(zeros, transcript, site) for site in transcript.participants}

    def _reply(
        self, request: TrainRequest, transcript: Transcript, site: str, size: int
    ) -> tuple[bytes, bytes]:
        declared = self.roster.entry(site).declared_patients
        shared = request.privacy.mode == "distributed"
        bound = max(0, self.roster.collusion_bound)
        return egress.train_reply(
            self.keys[site],
            request,
            _DIGEST,
            site=site,
            transcript=transcript.digest.hex(),
            declared_patients=declared,
            weight=self.roster.entry(site).weight,
            body=bytes(size),
            noise=SystemNoise.name,
            private=True,
            privacy=PrivacyStatement(
                epsilon=_EPSILON,
                delta=1e-5,
                trust_model=request.privacy.mode,
                colluding_sites=bound if shared else None,
                outsider_epsilon=_EPSILON if shared else None,
            ),
            ledger=LedgerNote(
                **self._head(site).model_dump(),
                entries=self._ledger_lines(request, transcript, site, bound),
            ),
        )

    def _ledger_lines(
        self, request: TrainRequest, transcript: Transcript, site: str, bound: int
    ) -> tuple[str, ...]:
        """The entries of one round: booked, answered."""
        plan, shared = request.privacy, request.privacy.mode == "distributed"
        booked = Booked(
            site=site,
            sequence=_ENTRIES_BEFORE + 1,
            run=request.run,
            round=request.round,
            purpose=request.purpose,
            mode=plan.mode,
            sample_rate=plan.sample_rate,
            noise_multiplier=plan.noise_multiplier,
            clipping_norm=plan.clipping_norm,
            steps=plan.steps,
            declared_patients=self.roster.entry(site).declared_patients,
            delta=1e-5,
            noise=SystemNoise.name,
            private=True,
            model_in=request.model_digest,
            request_digest=_DIGEST,
            code_digest=request.code_digest,
            roster_digest=request.sum.roster_digest,
            transcript=transcript.digest.hex(),
            participants=len(request.sites),
            threshold=transcript.threshold,
            colluding_sites=bound if shared else 0,
            minimum_contributors=request.minimum_contributors,
            dimension=transcript.numbers.padded if shared else 0,
            limit_lifetime=8.0,
            limit_run=3.0,
            epsilon_lifetime=_EPSILON,
            epsilon_run=_EPSILON,
            outsider_epsilon_lifetime=_EPSILON,
            time_s=_EPOCH,
        )
        answered = Answered(
            site=site,
            sequence=_ENTRIES_BEFORE + 2,
            booking=_ENTRIES_BEFORE + 1,
            run=request.run,
            round=request.round,
            update_digest=_DIGEST,
        )
        return tuple(seal(entry, self.keys[site]).decode() for entry in (booked, answered))

    # ------------------------------------------------------------ trips 2 and 3

    def _agree_and_open(
        self, request: TrainRequest, transcript: Transcript, submissions: Mapping[str, Submission]
    ) -> list[Message]:
        sites, digest = request.sites, transcript.digest.hex()
        me, others = sites[0], sites[1:]
        links = links_body({site: (_DIGEST, _DIGEST) for site in others})
        agree = AgreeRequest(
            run=request.run,
            round=request.round,
            transcript=digest,
            survivors=sites,
            submissions=(_DIGEST,) * len(sites),
            heads=tuple(self._head(site) for site in sites),
            body_digest=_DIGEST,
        )
        agreement = egress.agreement(self.keys[me], agree, site=me)
        signers = sites[: transcript.threshold]
        ask = OpenRequest(
            run=request.run,
            round=request.round,
            transcript=digest,
            survivors=sites,
            submissions=(_DIGEST,) * len(sites),
            missing=(),
            signers=signers,
            agreements=(agreement[0].hex(),) * len(signers),
            body_digest=_DIGEST,
        )
        rows = rows_body(submissions, me)
        shares = bytes(SEED_BYTES * len(sites))
        read_shares(shares, transcript, sites, (), me)
        opened = egress.shares_reply(
            self.keys[me], ask, _DIGEST, site=me, opened=Opened(shares, (), ())
        )
        return [
            _request("agree", protocol.seal(agree, self.coordinator), links, "links of ledgers"),
            _answer("agree", agreement, "agreement"),
            _request("open", protocol.seal(ask, self.coordinator), rows, "sealed shares"),
            _answer("open", opened, "opened shares"),
        ]

    # ------------------------------------------------------------ closing

    def _closing(self, request: TrainRequest, transcript: Transcript) -> list[Message]:
        sites, me = request.sites, request.sites[0]
        numbers = transcript.numbers
        zero = np.zeros(numbers.padded, dtype=np.uint32)
        seeds = Seeds({site: bytes(SEED_BYTES) for site in sites}, {})
        digests = (_DIGEST,) * len(sites)
        statement = statement_bytes(make_statement(transcript, sites, digests, zero, seeds))
        common = {
            "run": request.run,
            "round": request.round,
            "transcript": transcript.digest.hex(),
            "statement_digest": canonical.digest(statement),
        }
        ask = CloseRequest.model_validate(common)
        spread = tuple(
            ((2 * at + 1) << numbers.modulus_bits) // (2 * SUBSETS) for at in range(SUBSETS)
        )
        answer = egress.close_reply(self.keys[me], ask, site=me, sums=spread)
        packed = bytes(numbers.packed_bytes)
        body = verify_body(statement, packed, [answer[0]] * len(sites))
        verify = VerifyRequest.model_validate({**common, "body_digest": canonical.digest(body)})
        receipt = egress.sum_receipt(self.keys[me], verify, site=me, model_out=_DIGEST)
        return [
            _request("close", protocol.seal(ask, self.coordinator), statement, "statement"),
            _answer("close", answer, "subset sums"),
            _request("verify", protocol.seal(verify, self.coordinator), body, "published sum"),
            _answer("verify", receipt, "receipt"),
        ]


def _request(trip: Trip, header: bytes, body: bytes, what: str) -> Message:
    return Message(trip, True, len(header), len(body), what)


def _answer(trip: Trip, made: tuple[bytes, bytes], what: str) -> Message:
    return Message(trip, False, len(made[0]), len(made[1]), what)
