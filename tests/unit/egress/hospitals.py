"""Three deployed nodes with stores full of canaries; every byte that leaves them is kept.

Nodes are put together from their folders as in the field, with the operating system's noise, real
training, ledger and approval; the messages go through the node's Flower adapter. What is watched
(noise, training, quantisation) is watched from outside.
"""

from __future__ import annotations

import json
from dataclasses import dataclass, field, replace
from functools import partial
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from canaries import Canaries, floats, forms, words
from cryptography.hazmat.primitives import serialization
from flwr.app import Message
from flwr.app.metadata import Metadata
from flwr.common.serde import message_to_proto
from node_stand_ins import (
    DECLARED,
    ROOT_KEY,
    RUN_KEY,
    SITES,
    Consortium,
    key_of,
    signed_roster,
)

from client import integers, keys
from client.app import carry, pack, unpack
from client.books import HospitalBooks
from client.home import NodeHome
from client.node_interfaces import Node
from client.node_parts import node_from_home
from client.node_training import trainable_size
from client.policy import AdvanceApproval, Policy
from client.pseudonyms import keyed_digest, load_or_create_key, pseudonym_of
from client.rosters import RosterBook, today_utc
from client.round import answer
from client.store import open_store
from client.store_encrypt import encrypt_store
from client.store_write import StoreWriter
from shared_model import canonical, enrolment, mae, protocol, signing
from shared_model import weights as weights_io
from shared_model.config import LocalTraining, PrivacyPlan
from shared_model.ledger import Chain
from shared_model.noise import SystemNoise
from shared_model.protocol import TrainRequest
from shared_model.secure_sum.numbers import pack as pack_words
from shared_model.windows import Prepared

PATIENTS = {"alpha": 211, "beta": 11, "gamma": 11}
PLAN = PrivacyPlan(sample_rate=0.5, noise_multiplier=8.0, clipping_norm=1.0, steps=1)
SECRET_POLICY = {
    "maximum_steps_per_round": 9_973.0,
    "maximum_windows_per_patient": 59.0,
    "reply_clock_s": 8.141593,
    "epsilon_in_advance": 1.713031,
}
FEW = 40
"""Alpha draws more patients in a step but once in 10^20; the others have fewer."""
OTHER_CODE = "deadbeefcafe" * 5 + "0123"
IDENTIFIER = "CANARY-Zdenka-Quxley"
FILE_NAME = "canary_ward7_bed12.edf"


class WatchedNoise(SystemNoise):
    """The operating system's noise; tells how many patients each step drew."""

    def __init__(self, drawn: list[int], name: str = "") -> None:
        super().__init__()
        self._drawn = drawn
        if name:
            self.name = name  # type: ignore[misc]

    def poisson_sample(self, patient_count: int, rate: float) -> np.ndarray:
        sampled = super().poisson_sample(patient_count, rate)
        self._drawn.append(len(sampled))
        return sampled


@dataclass
class BooksWithChain:
    """The node's books; the stand-in of the coordinator reads the ledger's links here."""

    books: HospitalBooks

    def __getattr__(self, name: str) -> Any:
        return getattr(self.books, name)

    @property
    def chain(self) -> Chain:
        with self.books.ledger.open() as store:
            return store.chain


@dataclass
class Hospitals(Consortium):
    """The consortium, with real nodes. left: (site, header, body, all bytes of the message)."""

    left: list[tuple[str, bytes, bytes, bytes]] = field(default_factory=list)
    homes: dict[str, NodeHome] = field(default_factory=dict)
    drawn: list[int] = field(default_factory=list)
    updates: list[np.ndarray] = field(default_factory=list)
    vectors: list[bytes] = field(default_factory=list)

    def ask(self, site: str, message: Any, body: bytes = b"") -> tuple[bytes, bytes]:
        if not body:
            body = self.bodies.get(getattr(message, "body_digest", ""), b"")
        header = message if isinstance(message, bytes) else protocol.seal(message, RUN_KEY)
        metadata = Metadata(
            run_id=1, message_id="m", src_node_id=1, dst_node_id=2, reply_to_message_id="",
            group_id="", created_at=0.0, ttl=1e9, message_type="train",
        )  # fmt: skip
        asked = Message(pack(header, body), metadata=metadata)
        reply = carry(asked, partial(answer, self.nodes[site]))
        found = unpack(reply.content)
        self.left.append((site, *found, message_to_proto(reply).SerializeToString()))
        return found

    def request(self, sites: Any = None, **changes: Any) -> tuple[TrainRequest, bytes]:
        config = mae.PRESETS["tiny"]
        weights = mae.weights_of(mae.build(config, 0))
        body = weights_io.to_bytes(weights)
        values = {
            "config_digest": config.digest,
            "model_digest": weights_io.digest(weights),
            "body_digest": canonical.digest(body),
            "privacy": PLAN,
            "training": LocalTraining(segments=1, patch_masks=1),
            "minimum_contributors": 3,
            **changes,
        }
        values["sum"] = {"dimension": trainable_size("tiny", "head"), **changes.get("sum", {})}
        return super().request(sites, **values)[0], body

    def watched(self, site: str, **changes: Any) -> Node:
        """The node of this folder, with what it does inside written down."""
        node = node_from_home(self.homes[site])
        trained = node.train

        def train(*arguments: Any) -> Any:
            update = trained(*arguments)
            self.updates.append(np.concatenate([x.ravel() for x in update.values()]))
            return update

        return replace(
            node,
            train=train,
            books=BooksWithChain(node.books),  # type: ignore[arg-type]
            noise=lambda request: WatchedNoise(self.drawn),
            **changes,
        )

    def canaries(self) -> Canaries:
        """All that must not have left, now that it is known."""
        made = Canaries()
        made.patterns["patient identifier"] = words(IDENTIFIER)
        made.patterns["file name"] = words(FILE_NAME)
        made.patterns["other code in the policy"] = words(OTHER_CODE)
        for name, value in SECRET_POLICY.items():
            made.number(f"policy: {name}", value)
        for site, home in self.homes.items():
            made.patterns[f"{site}: folder"] = words(str(home.root))
            made.patterns[f"{site}: identity key"] = forms(key_of(site).private_bytes_raw())
            epoch = json.loads((home.never_back_up / "epoch.json").read_bytes())
            made.patterns[f"{site}: epoch key"] = forms(bytes.fromhex(epoch["private_key"]))
            pem = home.supernode_key.read_bytes()
            number = serialization.load_ssh_private_key(pem, None).private_numbers().private_value  # type: ignore[union-attr]
            made.patterns[f"{site}: SuperNode key"] = forms(number.to_bytes(48, "big"))
            key = load_or_create_key(home)
            made.patterns[f"{site}: pseudonym key"] = forms(key)
            pseudonym = pseudonym_of(key, f"{IDENTIFIER}-0")
            made.patterns[f"{site}: pseudonym"] = words(pseudonym) | forms(bytes.fromhex(pseudonym))
        made.patterns["alpha: store key"] = forms(store_key_file(self.homes["alpha"]).read_bytes())
        store = open_store(self.homes["alpha"])
        signal, _ = store.segments(np.array([0]), 1, np.random.default_rng(0))
        made.patterns["signal"] = floats(signal[0, 0, 0, :8])
        for place, update in enumerate(self.updates):
            made.patterns[f"update {place}"] = floats(update[:4]) | floats(update[-4:])
        for place, vector in enumerate(self.vectors):
            made.patterns[f"vector without masks {place}"] = forms(vector[:16]) | forms(
                vector[-16:]
            )
        made.number("number of patients", PATIENTS["alpha"])
        for place, count in enumerate(n for n in self.drawn if n > FEW):
            made.number(f"patients drawn {place}", count)
        return made


def motif() -> np.ndarray:
    """Float16 values that no other code makes: (16,)."""
    return np.random.default_rng(0xCA0A51).uniform(0.5, 1.5, 16).astype(np.float16)


def store_key_file(home: NodeHome) -> Path:
    """Beside the node's folder."""
    return home.root.with_name(f"{home.root.name}.store.key")


def fill(home: NodeHome, patients: int) -> None:
    """One window a patient, all of the motif, written as `data add` writes it."""
    key = load_or_create_key(home)
    signal = np.resize(motif().astype(np.float32), (1, 2, 1250))
    with StoreWriter(home.store, key) as writer:
        part = writer.new_part("canaries", keyed_digest(key, "folder", FILE_NAME))
        for number in range(patients):
            prepared = Prepared(
                signal=signal,
                recorded=np.ones(signal.shape, dtype=bool),
                start_s=np.zeros(1),
                refusal=np.zeros((1, 2), dtype=np.uint8),
            )
            who = f"{IDENTIFIER}-{number}"
            part.add(keyed_digest(key, "recording", who), pseudonym_of(key, who), prepared, {})
        part.commit()


def hospitals(root: Path, certificate: str, monkeypatch: pytest.MonkeyPatch) -> Hospitals:
    """Three of them, enrolled, with approved roster and the policy's yes to runs."""
    signed = signed_roster(SITES)
    made = Hospitals({}, signed)
    invitation = enrolment.Invitation(
        address="127.0.0.1:8443",
        ca_certificate=certificate,
        run_key=signing.public_bytes(RUN_KEY).hex(),
        release_key=signing.public_bytes(key_of("release")).hex(),
        root_key=signing.public_bytes(ROOT_KEY).hex(),
    )
    quantise = integers.quantise

    def watched(*arguments: Any, **named: Any) -> Any:
        found = quantise(*arguments, **named)
        numbers = arguments[1]
        made.vectors.append(pack_words(found.vector, numbers.modulus_bits))
        return found

    monkeypatch.setattr(integers, "quantise", watched)
    for site in SITES:
        home = made.homes[site] = NodeHome(root / site)
        keys.make(home, site, DECLARED[site])
        home.identity_key.unlink()
        pem = key_of(site).private_bytes(
            serialization.Encoding.PEM,
            serialization.PrivateFormat.PKCS8,
            serialization.NoEncryption(),
        )
        signing.write_secret(home.identity_key, pem)
        keys.join(home, enrolment.seal(invitation, RUN_KEY))
        _write_policy(home, DECLARED[site])
        policy = Policy.from_file(home.policy)
        root_key = signing.public_bytes(ROOT_KEY)
        RosterBook(home).approve(signed.to_bytes(), root_key, policy, today_utc())
        fill(home, PATIENTS[site])
        if site == "alpha":  # the others' stores stay plain
            encrypt_store(home, store_key_file(home))
        made.nodes[site] = made.watched(site)
    return made


def _write_policy(home: NodeHome, declared: int) -> None:
    Policy.write_default(
        home.policy,
        declared_patients=declared,
        reply_clock_s=SECRET_POLICY["reply_clock_s"],
        approve_runs_in_advance=AdvanceApproval(
            purposes=("pretrain",),
            modes=("local",),
            epsilon_per_run=SECRET_POLICY["epsilon_in_advance"],
        ),
    )
    from client.policy import installed_code

    text = home.policy.read_text()
    for name in ("maximum_steps_per_round", "maximum_windows_per_patient"):
        before = {"maximum_steps_per_round": 1000, "maximum_windows_per_patient": 64}[name]
        text = text.replace(f"{name} = {before}", f"{name} = {SECRET_POLICY[name]:.0f}")
    code = f'allowed_code_digests = ["{OTHER_CODE}", "{installed_code()}"]'
    home.policy.write_text(text.replace("allowed_code_digests = []", code))
