"""Rounds of the core in one process, and the known answers of tests/vectors/."""

from __future__ import annotations

import functools
import hashlib
import json
from dataclasses import dataclass, field
from pathlib import Path

import numpy as np

from shared_model.secure_sum import keys, opening, unmask
from shared_model.secure_sum.keys import Member
from shared_model.secure_sum.numbers import Numbers
from shared_model.secure_sum.submission import Submission, seal_submission
from shared_model.secure_sum.transcript import Transcript

VECTORS = Path(__file__).resolve().parents[2] / "vectors"
ROSTER_DIGEST = bytes(range(32))
D = "ab" * 32


@functools.cache
def vectors(name):
    """One file of known answers."""
    return json.loads((VECTORS / f"secure_sum_{name}.json").read_text())


class Entropy:
    """Bytes that repeat: SHAKE-256 of a label, read on and on."""

    def __init__(self, label):
        self.label, self.used = label, 0

    def __call__(self, length):
        data = hashlib.shake_256(self.label.encode()).digest(self.used + length)[self.used :]
        self.used += length
        return data


def vector_entropy(label):
    """The entropy that tests/reference/make_vectors.py used under this label."""
    return Entropy("fedprint known-answer vectors 1/" + label)


def words_digest(vector):
    """SHA-256 of the words as little-endian 32-bit integers."""
    return hashlib.sha256(np.asarray(vector).astype("<u4").tobytes()).hexdigest()


def sha256(data):
    return hashlib.sha256(data).hexdigest()


def transcript_of(sites, threshold, *, dimension=40, bits=12, weights=None, **changes):
    """A transcript for these sites, whose integers are small."""
    weights = (1,) * len(sites) if weights is None else weights
    values = {
        "run": "spring",
        "round": 3,
        "participants": tuple(sites),
        "model_digest": D,
        "configuration_digest": D,
        "numbers": changes.get("numbers") or Numbers.of(dimension, sum(weights), 1.0, bits),
        "roster_digest": ROSTER_DIGEST.hex(),
        "epoch": 5,
        "epoch_keys_digest": D,
        "threshold": threshold,
        "weights": tuple(weights),
        "mode": "local",
    }
    return Transcript(**{**values, **changes})


def members_of(sites, *, label="members"):
    """A member for each site, with keys that repeat."""
    private = {site: keys.new_epoch_key(Entropy(f"{label} {site}")) for site in sites}
    public = {site: keys.public_key(key) for site, key in private.items()}
    return {site: Member(site, private[site], public, ROSTER_DIGEST, 5) for site in sites}


@dataclass
class Round:
    """A round after trip 1: what every site submitted, and the vectors in clear."""

    transcript: Transcript
    members: dict
    clear: dict = field(default_factory=dict)
    submissions: dict = field(default_factory=dict)

    @property
    def modulus(self):
        return 1 << self.transcript.numbers.modulus_bits

    def clear_sum(self, survivors):
        """What the coordinator should learn, uint32 (padded,)."""
        total = sum(self.clear[site].astype(np.uint64) for site in survivors)
        return (total % self.modulus).astype(np.uint32)

    def rows(self, survivors, receiver):
        """Body of the open request to a site."""
        return opening.rows_body({site: self.submissions[site] for site in survivors}, receiver)

    def opened(self, survivors, missing, opener):
        """What a site opens, parsed and checked as the coordinator does."""
        found = opening.open_rows(
            self.members[opener], self.transcript, survivors, missing, self.rows(survivors, opener)
        )
        shares = opening.read_shares(
            found.body,
            self.transcript,
            survivors,
            missing,
            opener,
            found.unreadable,
            found.accused,
        )
        opening.check_shares(shares, opener, self.submissions)
        return shares

    def seeds(self, survivors, missing=()):
        """All seeds, from the answers of survivors that are not missing."""
        shares = {
            site: self.opened(survivors, missing, site) for site in survivors if site not in missing
        }
        return opening.rebuild_seeds(self.transcript, survivors, shares, self.submissions)

    def sum(self, survivors, seeds):
        """The unmasked sum."""
        return unmask.sum_of(
            [(site, self.submissions[site].packed) for site in survivors], self.transcript, seeds
        )


def round_of(sites, threshold, *, label="round", **changes):
    """Every site submits a vector of random integers mod 2^m."""
    sites = tuple(sites)
    transcript = transcript_of(sites, threshold, **changes)
    made = Round(transcript, members_of(sites))
    for site in sites:
        words = np.frombuffer(
            Entropy(f"{label} vector {site}")(4 * transcript.numbers.padded), dtype="<u4"
        )
        vector = words & np.uint32(made.modulus - 1)
        made.clear[site] = vector.copy()
        body = seal_submission(
            vector.copy(), made.members[site], transcript, Entropy(f"{label} entropy {site}")
        )
        made.submissions[site] = Submission.parse(body, transcript, site)
    return made


def changed(data, at, flip=1):
    """These bytes with one byte changed."""
    out = bytearray(data)
    out[at] ^= flip
    return bytes(out)
