"""A release as it is carried: four files, sealed, and opened from hostile bytes."""

from __future__ import annotations

import math
from dataclasses import dataclass

from cryptography.hazmat.primitives.asymmetric.ed25519 import Ed25519PrivateKey

from shared_model import canonical, signing, weights
from shared_model.errors import OurMistake, Refused
from shared_model.release import SIGNATURE_BYTES, TAG, Evidence, Manifest


@dataclass(frozen=True)
class ReleaseBytes:
    """The four files as bytes; hostile until `release_checks.verify`."""

    manifest: bytes
    signature: bytes
    weights: bytes
    evidence: bytes


@dataclass(frozen=True)
class Release:
    """A verified release."""

    manifest: Manifest
    weights: weights.Weights
    evidence: Evidence


def seal(manifest: Manifest, key: Ed25519PrivateKey) -> bytes:
    """64-byte signature of a manifest.

    Raises:
        OurMistake: the manifest names another signer.
    """
    if manifest.signer != signing.public_bytes(key).hex():
        raise OurMistake("The manifest names another signer than this key.")
    return signing.sign(key, TAG, manifest.to_bytes())


def check_signature(files: ReleaseBytes, signer: bytes) -> Manifest:
    """The manifest, if `signer` (32 raw bytes) signed exactly these bytes.

    Raises:
        Refused: reasons "size", "manifest", "signer" (another key), "signature".
    """
    manifest = Manifest.from_bytes(files.manifest)
    if manifest.signer != signer.hex():
        raise Refused(
            "The release is signed by a key that is not pinned here: key digest "
            f"{signing.key_digest(bytes.fromhex(manifest.signer))[:16]}, expected "
            f"{signing.key_digest(signer)[:16]}.",
            reason="signer",
            do="Compare the key digests with the coordinator's operator by telephone.",
        )
    if len(files.signature) != SIGNATURE_BYTES:
        raise Refused("manifest.sig is not a signature.", reason="signature")
    signing.verify(signer, TAG, files.manifest, files.signature)
    return manifest


def check_weights(manifest: Manifest, data: bytes) -> weights.Weights:
    """The weights, if they are the signed ones.

    Raises:
        Refused: size, file digest, format, a value that is not finite, or model digest
            (reasons "size", "digest", "weights").
    """
    if len(data) != manifest.weights.size_bytes:
        raise Refused("The weights have another size than the signed ones.", reason="size")
    if canonical.digest(data) != manifest.weights.digest:
        raise Refused("The weights are not the signed ones.", reason="digest")
    found = weights.from_bytes(data)
    if weights.digest(found) != manifest.model_digest:
        raise Refused("The weights have another model digest than signed.", reason="digest")
    if not all(bool((abs(value) < math.inf).all()) for value in found.values()):
        raise Refused("The weights hold values that are not finite.", reason="weights")
    return found


def check_evidence(manifest: Manifest, data: bytes) -> Evidence:
    """The signed reply headers, if they are those of the manifest.

    Raises:
        Refused: reasons "size", "digest", "evidence".
    """
    if len(data) != manifest.evidence.size_bytes:
        raise Refused("evidence.json has another size than the signed one.", reason="size")
    if canonical.digest(data) != manifest.evidence.digest:
        raise Refused("evidence.json is not the signed one.", reason="digest")
    return Evidence.from_bytes(data)
