"""Real nodes with stub training, and a coordinator that can say anything to each of them.

Every hospital is a `client.node_interfaces.Node` put together from its own folder for every
message, as a deployed one is: pinned keys, roster book, epoch keys, outbox and ledger are the real
ones. Only model, data and training are stand-ins. Colluders have no node: `Adversary` has their
keys.

    world = Consortium(tmp_path, 5, threshold=4, colluders=("s4",))
    world.new_epoch()
    request = world.request(1)
    world.submit(request)
    world.agree(request, survivors)
    world.open(request, survivors)
    world.adversary.learned(world.truth)
"""

from __future__ import annotations

import datetime
import hashlib
import json
import shutil
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any

import numpy as np
from adversary import Adversary, Heard
from cryptography.hazmat.primitives import serialization
from cryptography.hazmat.primitives.asymmetric.ed25519 import Ed25519PrivateKey
from ledger_stand_ins import CODE, answering, booking, note_of, opened

from client import keys as client_keys
from client import ledger_file
from client.home import NodeHome
from client.node_interfaces import Books, Node, PretendNode
from client.node_parts import node_from_home
from client.policy import AdvanceApproval, Policy
from client.rosters import RosterBook
from client.round import answer
from server import tls
from server.home import CoordinatorHome
from shared_model import (
    canonical,
    enrolment,
    ledger,
    protocol,
    protocol_base,
    protocol_open,
    roster,
    signing,
)
from shared_model import weights as weights_io
from shared_model.config import LocalTraining, PrivacyPlan
from shared_model.ledger import Chain, LedgerHead
from shared_model.ledger_links import links_body
from shared_model.noise import NonPrivateForTests
from shared_model.protocol import (
    EpochKeyEntry,
    LedgerNote,
    Participant,
    RunPlan,
    SumPlan,
    TrainReply,
    TrainRequest,
)
from shared_model.protocol_sum import (
    Agreement,
    AgreeRequest,
    CloseRequest,
    EpochKey,
    EpochRequest,
    OpenRequest,
    SharesReply,
    Statement,
    VerifyRequest,
    agreed_digest,
    epoch_key_statement,
)
from shared_model.roster import Roster, SignedRoster
from shared_model.secure_sum import keys as sum_keys
from shared_model.secure_sum.keys import Member
from shared_model.secure_sum.numbers import Numbers, flatten, quantise
from shared_model.secure_sum.opening import SharesOf, open_rows, read_shares, rebuild_seeds
from shared_model.secure_sum.submission import seal_submission
from shared_model.secure_sum.transcript import Transcript, of_request
from shared_model.secure_sum.unmask import sum_of
from shared_model.secure_sum.verification import make_statement
from shared_model.weights import Weights

RUN = "spring"
PLAN = PrivacyPlan(0.1, 1.5, 1.0, 4)
NOW = datetime.datetime.now(datetime.UTC)
NORM_BOUND = 10.0
IN_ADVANCE = AdvanceApproval(purposes=("pretrain",), modes=("local",), epsilon_per_run=3.0)
SHAPE = (32, 32)
"""Of the one trained parameter: 1024 coordinates, enough to see whether a guess is noise."""
Truth = Mapping[str, np.ndarray]
"""SHA-256 of a submission's body -> the vector under its masks, uint32 (padded,)."""


def key_of(name: str) -> Ed25519PrivateKey:
    """A fixed key for a name; tests only."""
    return Ed25519PrivateKey.from_private_bytes(hashlib.sha256(name.encode()).digest())


RUN_KEY, ROOT_KEY = key_of("run"), key_of("root")


class Entropy:
    """Stands for the operating system: SHAKE-256 of a label, read from its start."""

    def __init__(self, label: str) -> None:
        self.label, self.drawn = label, 0

    def __call__(self, length: int) -> bytes:
        self.drawn += 1
        return hashlib.shake_256(f"{self.label}/{self.drawn}".encode()).digest(length)


def declared(site: str) -> int:
    """Declared patients of a site: different weights."""
    return 200 * (1 + int(hashlib.sha256(site.encode()).hexdigest(), 16) % 9)


NO_HEAD = LedgerHead(length=1, head="00" * 32, signature="00" * 64)
"""Stands for the head of a ledger that nobody has shown."""


def booked(chain: Chain, key: Ed25519PrivateKey, request: TrainRequest, said: TrainReply) -> Chain:
    """A colluder's ledger with what it says now; it has booked and answered everything."""
    entry = booking(
        chain,
        request,
        request_digest=said.request_digest,
        transcript=said.transcript,
        epsilon=said.privacy.epsilon,
        noise=said.noise,
        declared_patients=said.declared_patients,
    )
    if chain.booking(request.run, request.round) is None:
        chain = chain.extended([ledger.seal(entry, key)])
    if chain.answer(request.run, request.round) is None:
        answer = answering(chain, request.run, request.round, said.body_digest)
        chain = chain.extended([ledger.seal(answer, key)])
    return chain


@dataclass
class Hospital:
    """An honest hospital: its folder, and what really was in each of its submissions.

    change: what its update is made into before it is quantised (NaN, huge, ...).
    """

    site: str
    home: NodeHome
    entropy: Callable[[int], bytes]
    change: Callable[[np.ndarray], np.ndarray] = field(default=lambda update: update)
    trained: int = 0
    truth: dict[str, np.ndarray] = field(default_factory=dict, repr=False)
    log: list[dict[str, object]] = field(default_factory=list, repr=False)
    _last: np.ndarray | None = field(default=None, repr=False)

    def answer(self, header: bytes, body: bytes) -> tuple[bytes, bytes]:
        """What its node says to these bytes."""
        pretend = PretendNode(data=_NoPatients(), noise=self._noise, unlimited_budget=True)
        node = node_from_home(self.home, pretend)
        node = replace(
            node,
            train=self._train,
            check_model=lambda request, data: weights_io.from_bytes(data),
            dimension=lambda request, weights: weights["head"].size,
            able=lambda request, weights: None,  # nothing is trained: these are no model's weights
            entropy=self.entropy,
            log=self.log.append,
            approvals=_Yes(node.books),
        )
        self._last = None
        reply = answer(node, header, body)
        if self._last is not None and reply[1]:
            self._keep_truth(header, reply[1], node.rosters.approved())
        return reply

    def _noise(self, request: TrainRequest, site: str) -> NonPrivateForTests:
        return NonPrivateForTests(request.run, site, request.round, 7)

    def _train(
        self, request: TrainRequest, weights: Weights, data: object, noise: object, *_: object
    ) -> Weights:
        seed = canonical.digest_of([self.site, request.run, request.round, self.trained])
        rng = np.random.default_rng(int(seed, 16))
        update = (0.05 * rng.standard_normal(SHAPE)).astype(np.float32)
        self._last = self.change(update)
        return {"head": self._last}

    def _keep_truth(self, header: bytes, body: bytes, approved: Roster) -> None:
        request = protocol_open.open_train_request(header, signing.public_bytes(RUN_KEY))
        transcript = of_request(request, approved.weights)
        assert self._last is not None
        seed = self._noise(request, self.site).rounding_seed()
        self.trained += 1
        self.truth[canonical.digest(body)] = quantise(
            flatten({"head": self._last}),
            transcript.numbers,
            transcript.rotation_seed,
            transcript.weight(self.site),
            seed,
        ).vector


@dataclass(frozen=True)
class _Yes:
    """Approves every plan, of a ledger that is current: a yes is an entry of it."""

    books: Books

    def check(self, plan: RunPlan, *, booked: bool = False) -> None:
        self.books.check_own(None)


class _NoPatients:
    patient_count = 7

    def segments(self, patients: object, segments: int, rng: object) -> Any:
        raise AssertionError("the stub trainer reads no patients")


class Consortium:
    """n enrolled hospitals, their root, and the hostile coordinator's mouth.

    colluders: sites whose keys the adversary has. outsiders: hospitals that are enrolled but in no
    roster yet.
    """

    def __init__(
        self,
        root: Path,
        n: int,
        *,
        threshold: int | None = None,
        colluders: Sequence[str] = (),
        colluding_sites: int = 1,
        allow_two: bool = False,
        minimum_contributors: int | None = None,
    ) -> None:
        self.root = root
        self.minimum = minimum_contributors or (2 if allow_two else 3)
        self.names = tuple(f"s{index:02d}" for index in range(n))
        self.colluders = tuple(colluders)
        self.honest = tuple(site for site in self.names if site not in colluders)
        invitation = _invitation(root)
        self.hospitals = {}
        for site in self.honest:
            home = NodeHome(root / site)
            _write_identity(home, key_of(site))
            client_keys.make(home, site, declared(site))
            ledger_file.create(
                home, never_trained=True
            )  # `make` makes none for a key that was there before
            client_keys.join(home, invitation)
            Policy.write_default(
                home.policy,
                declared_patients=declared(site),
                colluding_sites=colluding_sites,
                minimum_contributors=self.minimum,
                allow_two_hospitals_who_can_each_compute_the_others_update=allow_two,
                approve_runs_in_advance=IN_ADVANCE,
            )
            self.hospitals[site] = Hospital(site, home, Entropy(site))
        self.signed = self.roster_of(self.names, version=1, threshold=threshold)
        self.weights: dict[str, int] = self.signed.roster.weights
        for site in self.honest:
            self.approve(site, self.signed)
        rng = np.random.default_rng(5)
        self.model: Weights = {"head": rng.standard_normal(SHAPE).astype(np.float32)}
        self.epoch = 0
        self.ledgers: dict[str, Chain] = {}
        self.links: dict[str, bytes] = {}
        self.epoch_keys: tuple[EpochKeyEntry, ...] = ()
        self.adversary = Adversary(
            {site: key_of(site) for site in self.colluders}, self.signed.roster
        )

    @property
    def threshold(self) -> int:
        return self.signed.roster.threshold

    @property
    def truth(self) -> dict[str, np.ndarray]:
        """What the adversary must not find."""
        return {
            digest: vector
            for hospital in self.hospitals.values()
            for digest, vector in hospital.truth.items()
        }

    def roster_of(
        self,
        names: Sequence[str],
        *,
        version: int,
        threshold: int | None = None,
        keys: Mapping[str, Ed25519PrivateKey] | None = None,
        declare: Mapping[str, int] | None = None,
    ) -> SignedRoster:
        """A roster that the root signed: also what a stolen root key would sign."""
        cards = [
            _Card(
                site,
                signing.public_bytes((keys or {}).get(site, key_of(site))).hex(),
                (declare or {}).get(site, declared(site)),
            )
            for site in names
        ]
        first = (NOW - datetime.timedelta(days=1)).date().isoformat()
        last = (NOW + datetime.timedelta(days=30)).date().isoformat()
        drafted = roster.draft(cards, version, threshold, valid_from=first, valid_until=last)
        return roster.sign(drafted, ROOT_KEY)

    def node(self, site: str) -> Node:
        """A hospital's node as it is now, for what the tests look at in it."""
        return node_from_home(self.hospitals[site].home)

    def approve(self, site: str, signed: SignedRoster) -> None:
        """The operator's decision at one site."""
        home = self.hospitals[site].home
        policy = Policy.from_file(home.policy)
        root, today = signing.public_bytes(ROOT_KEY), NOW.date().isoformat()
        RosterBook(home).approve(signed.to_bytes(), root, policy, today)

    def say(self, site: str, message: protocol_base.SignedMessage, body: bytes = b"") -> Heard:
        """One message, sealed with the real run key, to one honest site.

        A request to agree goes with the links that it was made with, if no other body is given.
        """
        if not body:
            body = self.links.get(getattr(message, "body_digest", ""), b"")
        return self.say_bytes(site, protocol.seal(message, RUN_KEY), body)

    def say_raw(self, site: str, message: Mapping[str, Any], body: bytes = b"") -> Heard:
        """A message that no encoder of ours would make, correctly signed by the run key."""
        data = canonical.encode(dict(message))
        return self.say_bytes(site, signing.sign(RUN_KEY, str(message["kind"]), data) + data, body)

    def say_bytes(self, site: str, header: bytes, body: bytes = b"") -> Heard:
        """Any bytes to one honest site."""
        reply = self.hospitals[site].answer(header, body)
        return self.adversary.hear(site, header, body, reply)

    # Epochs

    def new_epoch(self, number: int = 0, signed: SignedRoster | None = None) -> None:
        """A key of everybody for a new epoch; colluders make theirs."""
        signed = signed or self.signed
        self.epoch = number or self.epoch + 1
        entries = []
        for site in signed.roster.names:
            if site in self.hospitals:
                heard = self.ask_epoch_key(site, self.epoch, signed)
                if isinstance(heard.answer, EpochKey):
                    entries.append(_entry(heard.answer, heard.header))
            elif site in self.adversary.identities:
                entries.append(self.colluders_key(site, self.epoch, signed))
        self.epoch_keys = tuple(entries)

    def ask_epoch_key(self, site: str, number: int, signed: SignedRoster) -> Heard:
        data = signed.to_bytes()
        message = EpochRequest(
            epoch=number,
            roster_digest=signed.roster.digest,
            body_digest=canonical.digest(data),
            plan=self.request(1).plan,
            software=protocol.software(),
        )
        return self.say(site, message, data)

    def colluders_key(
        self, site: str, number: int, signed: SignedRoster, public: bytes | None = None
    ) -> EpochKeyEntry:
        """A colluder's key of an epoch: its own, or whatever it signs instead."""
        private = sum_keys.new_epoch_key(Entropy(f"epoch of {site} {number}"))
        self.adversary.private_keys.append(private)
        self.adversary.epoch_key[site] = private
        public = public or sum_keys.public_key(private)
        message = EpochKey(
            site=site, epoch=number, roster_digest=signed.roster.digest, public_key=public.hex()
        )
        header = protocol.seal(message, self.adversary.identities[site])
        return _entry(message, header)

    # Trip 1

    def request(
        self,
        number: int,
        participants: Sequence[str] | None = None,
        *,
        model: Weights | None = None,
        plan: Mapping[str, Any] | None = None,
        declare: Mapping[str, int] | None = None,
        **changes: Any,
    ) -> TrainRequest:
        """What an honest coordinator would ask, and whatever is changed in it.

        plan: changes of the sum's plan. declare: other declared numbers of patients.
        """
        names = tuple(sorted(participants or self.names))
        weights = model or self.model
        body = weights_io.to_bytes(weights)
        total = sum(self.weights.get(site, 1) for site in names)
        numbers = Numbers.of(weights["head"].size, total, NORM_BOUND)
        values: dict[str, Any] = {
            "aggregation": "secure-sum",
            "roster_digest": self.signed.roster.digest,
            "threshold": self.threshold,
            "epoch": self.epoch,
            "epoch_keys": self.epoch_keys,
            "dimension": numbers.dimension,
            "bits": numbers.bits,
            "modulus_bits": numbers.modulus_bits,
            "norm_bound": numbers.norm_bound,
            **(plan or {}),
        }
        fields: dict[str, Any] = {
            "run": RUN,
            "round": number,
            "start": 1,
            "preset": "tiny",
            "config_digest": canonical.digest(b"configuration"),
            "model_digest": weights_io.digest(weights),
            "body_digest": canonical.digest(body),
            "privacy": PLAN,
            "training": LocalTraining(),
            "server_learning_rate": 1.0,
            "rounds": 20,
            "bookings": 40,
            "code_digest": CODE,
            "ledger_heads": (),
            "participants": tuple(
                Participant(
                    site=site, declared_patients=(declare or {}).get(site, self.declared(site))
                )
                for site in names
            ),
            "minimum_contributors": self.minimum,
            "sum": SumPlan(**values),
            "deadline_s": 60.0,
            "software": protocol.software(),
            **changes,
        }
        return TrainRequest(**fields)

    def declared(self, site: str) -> int:
        names = self.signed.roster.names
        return self.signed.roster.entry(site).declared_patients if site in names else 1000

    def transcript(self, request: TrainRequest) -> Transcript:
        return of_request(request, {**dict.fromkeys(request.sites, 1), **self.weights})

    def submit(
        self,
        request: TrainRequest,
        sites: Sequence[str] | None = None,
        *,
        model: Weights | None = None,
    ) -> dict[str, Heard]:
        """Trip 1 with these sites (default: all honest participants; colluders join in)."""
        body = weights_io.to_bytes(model or self.model)
        heard = {}
        keyed = {item.site for item in request.sum.epoch_keys}
        for site in sites or request.sites:
            if site in self.hospitals:
                heard[site] = self.say(site, request, body)
            elif site in self.adversary.identities and set(request.sites) <= keyed:
                heard[site] = self.colluder_submits(site, request)
        return heard

    def member(self, site: str, request: TrainRequest) -> Member:
        """A colluder's place in a round."""
        public = {item.site: bytes.fromhex(item.public_key) for item in request.sum.epoch_keys}
        key = self.adversary.epoch_key[site]
        roster_digest = bytes.fromhex(request.sum.roster_digest)
        return Member(site, key, public, roster_digest, request.sum.epoch)

    def colluder_submits(
        self, site: str, request: TrainRequest, body: bytes | None = None
    ) -> Heard:
        """A colluder's submission: random, or any bytes."""
        transcript = self.transcript(request)
        vector = np.zeros(transcript.numbers.padded, dtype=np.uint32)
        if body is None:
            body = seal_submission(
                vector, self.member(site, request), transcript, Entropy(f"submits {site}")
            )
        key = self.adversary.identities[site]
        said = colluders_reply(site, request, transcript, body)
        self.ledgers[site] = booked(self.ledgers.get(site) or opened(site, key), key, request, said)
        note = note_of(self.ledgers[site], key)
        header = protocol.seal(said.model_copy(update={"ledger": note}), key)
        return self.adversary.hear(
            site, protocol.seal(request, RUN_KEY), b"", (header, body), own=True
        )

    # Trips 2 and 3

    def agree_request(
        self,
        request: TrainRequest,
        survivors: Sequence[str],
        submissions: Mapping[str, str] | None = None,
    ) -> AgreeRequest:
        transcript = self.transcript(request)
        names = tuple(sorted(survivors))
        known = {**self.adversary.header_digests(transcript.digest), **(submissions or {})}
        notes = self.notes(transcript)
        body = links_body(
            {
                site: [
                    ledger.entry_digest(ledger.parse(line.encode())[0])
                    for line in notes[site].entries
                ]
                for site in names
                if site in notes
            }
        )
        self.links[canonical.digest(body)] = body
        return AgreeRequest(
            run=request.run,
            round=request.round,
            transcript=transcript.digest.hex(),
            survivors=names,
            submissions=tuple(known.get(site, canonical.digest(site.encode())) for site in names),
            heads=tuple(notes[site].plain if site in notes else NO_HEAD for site in names),
            body_digest=canonical.digest(body),
        )

    def notes(self, transcript: Transcript) -> dict[str, LedgerNote]:
        """What the newest submission of each site on this transcript says of its ledger; of others
        what any of theirs says."""
        seen = {item.dealer: item for item in self.adversary.submissions}
        seen |= self.adversary.newest(transcript.digest)
        return {
            site: TrainReply.model_validate_json(item.header[protocol.SIGNATURE_BYTES :]).ledger
            for site, item in seen.items()
        }

    def agree(
        self, request: TrainRequest, survivors: Sequence[str], sites: Sequence[str] | None = None
    ) -> dict[str, Heard]:
        """Trip 2: this set to these sites (default: its honest members)."""
        message = self.agree_request(request, survivors)
        return {
            site: self.say(site, message)
            for site in sites or message.survivors
            if site in self.hospitals
        }

    def agreements(self, message: AgreeRequest) -> dict[str, bytes]:
        """Every agreement to this set that the adversary heard or can make."""
        agreed = agreed_digest(message.survivors, message.submissions, message.heads)
        found = {
            item.site: item.header
            for item in self.adversary.heard
            if isinstance(item.answer, Agreement)
            and (item.answer.agreed, item.answer.transcript) == (agreed, message.transcript)
        }
        for site in message.survivors:
            if site in self.adversary.identities:
                found[site] = self.colluders_agreement(site, message)
        return found

    def colluders_agreement(self, colluder: str, message: AgreeRequest, **changes: Any) -> bytes:
        """A true agreement of a colluder, or with any field changed."""
        values: dict[str, Any] = {
            "run": message.run,
            "round": message.round,
            "site": colluder,
            "transcript": message.transcript,
            "agreed": agreed_digest(message.survivors, message.submissions, message.heads),
            **changes,
        }
        return protocol.seal(Agreement(**values), self.adversary.identities[colluder])

    def open_request(
        self,
        request: TrainRequest,
        survivors: Sequence[str],
        receiver: str,
        *,
        missing: Sequence[str] = (),
        agreements: Mapping[str, bytes] | None = None,
        rows: Mapping[str, bytes] | None = None,
        message: AgreeRequest | None = None,
    ) -> tuple[OpenRequest, bytes]:
        """rows: dealer -> salt and row, in place of those of its newest submission."""
        message = message or self.agree_request(request, survivors)
        transcript = self.transcript(request)
        signed = dict(self.agreements(message) if agreements is None else agreements)
        if agreements is None:  # too few are made up to t with copies under other names
            anything = next(iter(signed.values()), bytes(80))
            for site in message.survivors:
                if len(signed) < self.threshold:
                    signed.setdefault(site, anything)
        newest = self.adversary.newest(transcript.digest)
        size = 32 + 64 * len(transcript.participants) + 16
        body = b""
        for dealer in message.survivors:
            if rows and dealer in rows:
                body += rows[dealer]
            elif dealer in newest:
                found = newest[dealer].submission
                body += found.salt + found.row(receiver)
            else:
                body += bytes(size)
        signers = tuple(sorted(signed))
        opening = OpenRequest(
            run=request.run,
            round=request.round,
            transcript=message.transcript,
            survivors=message.survivors,
            submissions=message.submissions,
            missing=tuple(sorted(missing)),
            signers=signers,
            agreements=tuple(signed[site].hex() for site in signers),
            body_digest=canonical.digest(body),
        )
        return opening, body

    def open(
        self,
        request: TrainRequest,
        survivors: Sequence[str],
        sites: Sequence[str] | None = None,
        **options: Any,
    ) -> dict[str, Heard]:
        """Trip 3 for this set with these sites (default: its honest members)."""
        heard = {}
        for site in sites or sorted(survivors):
            if site in self.hospitals:
                heard[site] = self.say(
                    site, *self.open_request(request, survivors, site, **options)
                )
        return heard

    def colluder_opens(
        self,
        site: str,
        request: TrainRequest,
        survivors: Sequence[str],
        missing: Sequence[str] = (),
    ) -> tuple[SharesReply, bytes]:
        """What a colluder opens, if it keeps to the protocol."""
        opening, rows = self.open_request(request, survivors, site, missing=missing)
        opened = open_rows(
            self.member(site, request), self.transcript(request), opening.survivors,
            opening.missing, rows,
        )  # fmt: skip
        reply = SharesReply(
            run=request.run,
            round=request.round,
            site=site,
            transcript=opening.transcript,
            request_digest=protocol.header_digest(protocol.seal(opening, RUN_KEY)),
            unreadable=opened.unreadable,
            accused=opened.accused,
            body_digest=canonical.digest(opened.body),
        )
        return reply, opened.body

    # What an honest coordinator would publish

    def shares(self, request: TrainRequest, survivors: Sequence[str]) -> dict[str, SharesOf]:
        """What the survivors opened, as far as they did; colluders open honestly."""
        transcript, names = self.transcript(request), tuple(sorted(survivors))
        found = {}
        for item in self.adversary.heard:
            answer = item.answer
            if isinstance(answer, SharesReply) and answer.transcript == transcript.digest.hex():
                asked = json.loads(item.request[protocol.SIGNATURE_BYTES :])
                found[item.site] = read_shares(
                    item.body, transcript, names, tuple(asked["missing"]), item.site,
                    answer.unreadable, answer.accused,
                )  # fmt: skip
        for site in set(names) & set(self.adversary.identities):
            reply, body = self.colluder_opens(site, request, names)
            found[site] = read_shares(
                body, transcript, names, (), site, reply.unreadable, reply.accused
            )
        return found

    def published(
        self, request: TrainRequest, survivors: Sequence[str]
    ) -> tuple[Statement, np.ndarray]:
        """The true statement of the sum, and the sum, uint32 (padded,)."""
        transcript, names = self.transcript(request), tuple(sorted(survivors))
        newest = self.adversary.newest(transcript.digest)
        submissions = {site: newest[site].submission for site in names}
        seeds = rebuild_seeds(transcript, names, self.shares(request, names), submissions)
        total = sum_of(((site, submissions[site].packed) for site in names), transcript, seeds)
        headers = tuple(protocol.header_digest(newest[site].header) for site in names)
        return make_statement(transcript, names, headers, total, seeds), total

    # The closing exchange

    def close(
        self, request: TrainRequest, statement: bytes, sites: Sequence[str]
    ) -> dict[str, Heard]:
        message = CloseRequest(
            run=request.run,
            round=request.round,
            transcript=self.transcript(request).digest.hex(),
            statement_digest=canonical.digest(statement),
        )
        return {site: self.say(site, message, statement) for site in sites}

    def verify(
        self, request: TrainRequest, statement: bytes, body: bytes, sites: Sequence[str]
    ) -> dict[str, Heard]:
        message = VerifyRequest(
            run=request.run,
            round=request.round,
            transcript=self.transcript(request).digest.hex(),
            statement_digest=canonical.digest(statement),
            body_digest=canonical.digest(body),
        )
        return {site: self.say(site, message, body) for site in sites}

    # Folders

    def back_up(self, site: str, *, with_epoch_key: bool) -> Path:
        """Copy a hospital's folder; an ordinary back-up leaves never-back-up out."""
        copy = self.root / f"backup-{site}-{len(list(self.root.glob('backup-*')))}"
        home = self.hospitals[site].home
        shutil.copytree(home.root, copy)
        if not with_epoch_key and (copy / home.never_back_up.name).exists():
            shutil.rmtree(copy / home.never_back_up.name)
        return copy

    def restore(self, site: str, copy: Path) -> None:
        """Put the copy in the place of the folder."""
        home = self.hospitals[site].home
        shutil.rmtree(home.root)
        shutil.copytree(copy, home.root)

    def logged(self, site: str) -> list[dict[str, object]]:
        """What the hospital's own log says of refusals."""
        return [item for item in self.hospitals[site].log if item["outcome"] == "refused"]


@dataclass(frozen=True)
class _Card:
    site: str
    identity_key: str
    declared_patients: int


def colluders_reply(
    site: str, request: TrainRequest, transcript: Transcript, body: bytes, **changes: Any
) -> TrainReply:
    """The header of a colluder's submission, before it is signed."""
    values: dict[str, Any] = {
        "run": request.run,
        "round": request.round,
        "site": site,
        "request_digest": protocol.header_digest(protocol.seal(request, RUN_KEY)),
        "transcript": transcript.digest.hex(),
        "body_digest": canonical.digest(body),
        "declared_patients": declared(site),
        "weight": transcript.weight(site),
        "noise": "none",
        "private": False,
        "privacy": protocol.PrivacyStatement(epsilon=None, delta=1e-5),
        "ledger": LedgerNote(**NO_HEAD.model_dump(), entries=()),
        "software": protocol.software(),
        **changes,
    }
    return TrainReply(**values)


def _entry(message: EpochKey, header: bytes) -> EpochKeyEntry:
    entry = EpochKeyEntry(
        site=message.site,
        public_key=message.public_key,
        signature=header[: protocol.SIGNATURE_BYTES].hex(),
    )
    statement = epoch_key_statement(entry, message.epoch, message.roster_digest)
    assert statement == header[protocol.SIGNATURE_BYTES :]
    return entry


def _write_identity(home: NodeHome, key: Ed25519PrivateKey) -> None:
    home.make()
    pem = key.private_bytes(
        serialization.Encoding.PEM,
        serialization.PrivateFormat.PKCS8,
        serialization.NoEncryption(),
    )
    signing.write_secret(home.identity_key, pem)


def _invitation(root: Path) -> bytes:
    home = CoordinatorHome(root / "coordinator")
    tls.make(home, "127.0.0.1:8443", now=NOW)
    public = signing.public_bytes(RUN_KEY).hex()
    return enrolment.seal(
        enrolment.Invitation(
            address="127.0.0.1:8443",
            ca_certificate=home.ca_certificate.read_text(),
            run_key=public,
            release_key=public,
            root_key=signing.public_bytes(ROOT_KEY).hex(),
        ),
        RUN_KEY,
    )
