"""The node's own keys and its public card; the coordinator's pinned file."""

from __future__ import annotations

from cryptography.hazmat.primitives import serialization
from cryptography.hazmat.primitives.asymmetric import ec
from pydantic import ValidationError

from client import ledger_file
from client.home import NodeHome
from client.settings import FIRST, NodeSettings, as_toml, settings_of
from shared_model import enrolment, signing
from shared_model.enrolment import Invitation, SiteCard
from shared_model.errors import OurMistake, Refused
from shared_model.files import write_atomic


def make(home: NodeHome, site: str, declared_patients: int) -> SiteCard:
    """Make both keys, an empty ledger and node.toml.

    What exists already stays as it is, except that it must agree.

    Raises:
        OurMistake: the name is no site name, or the node is another site already.
    """
    try:
        config = NodeSettings(site=site, declared_patients=declared_patients)
    except ValidationError as error:
        raise OurMistake(
            f"Site {site!r} with {declared_patients} patients cannot be.",
            do="A site name has lower-case letters, digits and inner hyphens, at most 32.",
        ) from error
    home.make()
    present = load_config(home) if home.config.exists() else None
    named = None if present is None else (present.site, present.declared_patients)
    if named not in (None, (config.site, config.declared_patients)):
        raise OurMistake(
            f"{home.root} is the node of another site or declares other patients.",
            do="Choose another folder with --home.",
        )
    if not home.identity_key.exists():
        ledger_file.create(
            home, never_trained=True
        )  # never for a key that may have signed another one
        signing.create_key_file(home.identity_key)
    if not home.supernode_key.exists():
        key = ec.generate_private_key(ec.SECP384R1())
        signing.write_secret(
            home.supernode_key,
            key.private_bytes(
                serialization.Encoding.PEM,
                serialization.PrivateFormat.OpenSSH,
                serialization.NoEncryption(),
            ),
        )
    if present is None:
        write_atomic(home.config, as_toml(config.site, config.declared_patients).encode())
    write_atomic(home.root / "site.json", card_bytes(home))
    return card(home)


def load_config(home: NodeHome) -> NodeSettings:
    """Read node.toml; see `client.settings`."""
    return settings_of(home)


def card(home: NodeHome) -> SiteCard:
    """The node's public card."""
    config = load_config(home)
    try:
        secret = serialization.load_ssh_private_key(home.supernode_key.read_bytes(), password=None)
    except (OSError, ValueError) as error:
        raise OurMistake(f"The key file {home.supernode_key} cannot be read.", do=FIRST) from error
    public = secret.public_key().public_bytes(
        serialization.Encoding.PEM, serialization.PublicFormat.SubjectPublicKeyInfo
    )
    identity = signing.load_key_file(home.identity_key)
    return SiteCard(
        site=config.site,
        declared_patients=config.declared_patients,
        identity_key=signing.public_bytes(identity).hex(),
        supernode_key=public.decode(),
    )


def card_bytes(home: NodeHome) -> bytes:
    """site.json, signed by the identity key."""
    return enrolment.seal(card(home), signing.load_key_file(home.identity_key))


def join(home: NodeHome, data: bytes) -> Invitation:
    """Pin a coordinator. The same file again changes nothing.

    Raises:
        PeerFault: not an invitation, or not signed by the key that it names.
        Refused: another coordinator is pinned (reason "pinned").
    """
    invitation = enrolment.open_invitation(data)
    if home.coordinator.exists() and pinned(home) != invitation:
        raise Refused(
            "This node has pinned another coordinator.",
            reason="pinned",
            do=f"If the consortium changed its keys, remove {home.coordinator} first.",
        )
    write_atomic(home.coordinator, data)
    return invitation


def pinned(home: NodeHome) -> Invitation:
    """The coordinator that this node has joined.

    Raises:
        OurMistake: none yet.
    """
    try:
        data = home.coordinator.read_bytes()
    except OSError as error:
        raise OurMistake(
            "This node has joined no coordinator.",
            do="Run: fedprint-node join coordinator.json (the coordinator's operator has it)",
        ) from error
    return enrolment.open_invitation(data)
