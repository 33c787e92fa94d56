"""The node's side of the registry: one session over mutual TLS, faults in words, releases resumed.

    with opened(home) as session:
        session.call("Roster", registry.Ask(), registry.RosterFile)

All connections go outwards, through HTTPS_PROXY where that is set.
"""

from __future__ import annotations

import datetime
from collections.abc import Iterator
from contextlib import contextmanager
from types import TracebackType
from typing import Literal, Self, TypeVar
from urllib import request

import grpc
from cryptography import x509
from cryptography.hazmat.primitives import serialization
from cryptography.hazmat.primitives.asymmetric import ec

from client import keys
from client.home import NodeHome
from shared_model import enrolment, registry, signing
from shared_model.errors import OurMistake, PeerFault, Refused
from shared_model.files import write_atomic
from shared_model.protocol import COORDINATOR
from shared_model.registry_reasons import REASONS, refusal

CALL_S = 30.0
STREAM_S = 3600.0
RENEW_DAYS = 60
"""Days before its end from which on a certificate is renewed."""
_BEGIN_CERTIFICATE = "-----BEGIN CERTIFICATE-----"
JOIN = "Run first: fedprint-node join token.json (the coordinator's operator makes the token)"

_M = TypeVar("_M", bound=registry.Message)


class Unreachable(PeerFault):
    """The line is down, or the registry: trying again may help."""


class RegistryPlace(registry.Message):
    """registry/registry.json: where the registry is, and by which authority it is known."""

    kind: Literal["fedprint-registry"] = "fedprint-registry"
    address: str
    ca_certificate: str


class Session:
    """A connection to the registry. Use as a context manager."""

    def __init__(self, address: str, ca_certificate: str, private_key: str, chain: str) -> None:
        self.address = address
        self._channel = grpc.secure_channel(
            address,
            grpc.ssl_channel_credentials(
                ca_certificate.encode(), private_key.encode(), chain.encode()
            ),
            options=_options(address),
        )

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        trace: TracebackType | None,
    ) -> None:
        self._channel.close()

    def call(
        self,
        method: str,
        message: registry.Message,
        reply: type[_M],
        *,
        timeout_s: float = CALL_S,
    ) -> _M:
        """One call.

        Raises:
            Refused: the registry's reason.
            Unreachable: no answer in time.
            PeerFault: another authority, or an answer that is none.
        """
        try:
            data: bytes = self._channel.unary_unary(f"/{registry.SERVICE}/{method}")(
                message.to_bytes(), timeout=timeout_s
            )
        except grpc.RpcError as error:
            raise self._fault(error) from error
        return reply.from_bytes(data)

    def health(self, timeout_s: float) -> tuple[registry.Health, datetime.datetime | None]:
        """What the registry says of itself, and its time to the second; None: an older one.

        Raises:
            as `call`.
        """
        try:
            data, done = self._channel.unary_unary(f"/{registry.SERVICE}/Health").with_call(
                registry.Ask().to_bytes(), timeout=timeout_s
            )
        except grpc.RpcError as error:
            raise self._fault(error) from error
        told = dict(done.initial_metadata()).get(registry.TIME_METADATA)
        return registry.Health.from_bytes(data), _time(told)

    def pieces(self, digest: str, offset: int) -> Iterator[bytes]:
        """A release from this byte on, in pieces.

        Raises:
            as `call`, at any piece.
        """
        stream = self._channel.unary_stream(f"/{registry.SERVICE}/Fetch")(
            registry.Fetch(sha256=digest, offset=offset).to_bytes(), timeout=STREAM_S
        )
        try:
            yield from stream
        except grpc.RpcError as error:
            raise self._fault(error) from error
        finally:
            stream.cancel()

    def _fault(self, error: grpc.RpcError) -> Exception:
        code, details = error.code(), error.details() or ""
        if details in REASONS:
            return refusal(details)
        if code is grpc.StatusCode.RESOURCE_EXHAUSTED:
            return refusal("rate")
        if code is grpc.StatusCode.DEADLINE_EXCEEDED:
            return self._unreachable()
        if code is grpc.StatusCode.UNAVAILABLE:
            if "CERTIFICATE_VERIFY_FAILED" in details.upper() or "hostname" in details.lower():
                return PeerFault(
                    f"{self.address} does not prove to be the coordinator's registry: its "
                    "certificate is not by the pinned authority, or for another name.",
                    site=COORDINATOR,
                    do="Telephone the operator: somebody may be in between.",
                )
            return self._unreachable()
        return refusal("malformed" if code is grpc.StatusCode.UNIMPLEMENTED else "internal")

    def _unreachable(self) -> Unreachable:
        return Unreachable(
            f"The registry at {self.address} cannot be reached, or it ended the handshake.",
            site=COORDINATOR,
            do="Check that outgoing TCP to this address is allowed (HTTPS_PROXY where a proxy is "
            "needed) and this machine's clock; else ask the operator whether it runs.",
        )


def _time(told: object) -> datetime.datetime | None:
    try:
        return datetime.datetime.strptime(str(told), "%Y-%m-%dT%H:%M:%S%z")
    except ValueError:
        return None


def _options(address: str) -> list[tuple[str, object]]:
    options: list[tuple[str, object]] = [
        ("grpc.max_receive_message_length", registry.MAX_MESSAGE_BYTES),
        ("grpc.max_send_message_length", registry.MAX_MESSAGE_BYTES),
        ("grpc.keepalive_time_ms", 30_000),  # a line that went silent is noticed
        ("grpc.max_reconnect_backoff_ms", 5_000),  # our own pauses are longer
        ("grpc.use_local_subchannel_pool", 1),
    ]
    # gRPC itself reads the small spellings only.
    proxy = request.getproxies_environment().get("https")
    if proxy is None or request.proxy_bypass(address.rpartition(":")[0]):
        return [*options, ("grpc.enable_http_proxy", 0)]
    return [*options, ("grpc.http_proxy", proxy)]


@contextmanager
def opened(home: NodeHome, now: datetime.datetime) -> Iterator[Session]:
    """A session with this node's certificate, which is renewed first where it ends soon.

    Raises:
        OurMistake: this node has not joined through a registry.
        Refused: the certificate has expired (reason "expired").
    """
    place, chain = _place(home), _certificate(home)
    left = chain.not_valid_after_utc - now
    if left <= datetime.timedelta(0):
        raise refusal("expired")
    if left <= datetime.timedelta(days=RENEW_DAYS):
        with _session(home, place) as session:
            try:
                renew(home, session)
            except Refused as error:
                if error.reason != "not-admitted":  # who waits goes on with what it has
                    raise
    with _session(home, place) as session:
        yield session


def renew(home: NodeHome, session: Session) -> datetime.datetime:
    """Take a new certificate for a new TLS key; its last moment.

    Raises:
        Refused, PeerFault: as `Session.call`.
    """
    standing = session.call("Standing", registry.Ask(), registry.Standing)
    identity = signing.load_key_file(home.identity_key)
    if standing.identity != signing.key_digest(signing.public_bytes(identity)):
        identity = signing.load_key_file(home.next_identity_key)  # admitted, not yet finished here
    key = ec.generate_private_key(ec.SECP256R1())
    point = registry.tls_point(key.public_key())
    signature = registry.sign_tls_key(identity, standing.site, point)
    reply = session.call(
        "Renew", registry.Renew(tls_key=point, signature=signature), registry.Certificate
    )
    return write_certificate(home, key, reply.certificate, _place(home))


def write_certificate(
    home: NodeHome, key: ec.EllipticCurvePrivateKey, pem: str, place: RegistryPlace
) -> datetime.datetime:
    """Keep key and certificate in one file, replaced in one step; the certificate's last moment.

    Raises:
        PeerFault: not a certificate of this key by the pinned authority.
    """
    fault = PeerFault(
        "The registry gave a certificate that is not for this node's key.", site=COORDINATOR
    )
    try:
        certificate = x509.load_pem_x509_certificate(pem.encode())
        authority = x509.load_pem_x509_certificate(place.ca_certificate.encode())
        certificate.verify_directly_issued_by(authority)
    except Exception as error:  # cryptography raises several kinds for hostile certificates
        raise fault from error
    if certificate.public_key() != key.public_key():
        raise fault
    exact = certificate.public_bytes(serialization.Encoding.PEM)
    write_atomic(home.registry / "client.pem", tls_key_pem(key) + exact, mode=0o600)
    return certificate.not_valid_after_utc


def tls_key_pem(key: ec.EllipticCurvePrivateKey) -> bytes:
    """PKCS8 PEM, without a passphrase."""
    return key.private_bytes(
        serialization.Encoding.PEM,
        serialization.PrivateFormat.PKCS8,
        serialization.NoEncryption(),
    )


def has_joined(home: NodeHome) -> bool:
    """Whether this node has a certificate of a registry."""
    return (home.registry / "client.pem").exists()


def expires(home: NodeHome) -> datetime.datetime:
    """When this node's certificate ends.

    Raises:
        OurMistake: it has none.
    """
    return _certificate(home).not_valid_after_utc


def address(home: NodeHome) -> str:
    """HOST:PORT of the registry.

    Raises:
        OurMistake: not joined.
    """
    return _place(home).address


def _place(home: NodeHome) -> RegistryPlace:
    try:
        return RegistryPlace.from_bytes((home.registry / "registry.json").read_bytes())
    except (OSError, PeerFault) as error:
        raise OurMistake("This node has joined through no registry.", do=JOIN) from error


def client_pem(home: NodeHome) -> tuple[str, str]:
    """Private key and certificate, PEM each.

    Raises:
        OurMistake: absent, or others may read them.
    """
    path = home.registry / "client.pem"
    try:
        mode, text = path.stat().st_mode, path.read_text()
    except OSError as error:
        raise OurMistake("This node has joined through no registry.", do=JOIN) from error
    if mode & 0o077:
        raise OurMistake(f"Others may read the key file {path}.", do=f"Run: chmod 600 {path}")
    key, begin, rest = text.partition(_BEGIN_CERTIFICATE)
    return key, begin + rest


def _certificate(home: NodeHome) -> x509.Certificate:
    try:
        return x509.load_pem_x509_certificate(client_pem(home)[1].encode())
    except ValueError as error:
        raise OurMistake(f"{home.registry / 'client.pem'} is damaged.", do=JOIN) from error


def _session(home: NodeHome, place: RegistryPlace) -> Session:
    key, chain = client_pem(home)
    return Session(place.address, place.ca_certificate, key, chain)


def plain_session(home: NodeHome) -> Session:
    """A session with the certificate that is here, without renewing it first.

    Raises:
        OurMistake: this node has not joined through a registry.
    """
    return _session(home, _place(home))


def leave(home: NodeHome, session: Session) -> None:
    """Tell the registry that this hospital leaves.

    Raises:
        Refused, PeerFault: as `Session.call`.
    """
    identity, site = signing.load_key_file(home.identity_key), keys.load_config(home).site
    session.call(
        "Leave", registry.Leave(signature=registry.sign_leaving(identity, site)), registry.Done
    )


def rotate(home: NodeHome, session: Session) -> registry.Rotate:
    """Make the next identity key, if there is none yet, and send its card, signed by both keys.

    Raises:
        Refused: the node's present key is not the enrolled one; as `Session.call`.
    """
    message = next_card(home)
    session.call("Rotate", message, registry.Done)
    return message


def next_card(home: NodeHome) -> registry.Rotate:
    """The card of the next identity key; the key is made when it is asked for first."""
    if not home.next_identity_key.exists():
        signing.create_key_file(home.next_identity_key)
    key = signing.load_key_file(home.next_identity_key)
    present = keys.card(home)
    card = present.model_copy(update={"identity_key": signing.public_bytes(key).hex()})
    signature = registry.sign_rotation(
        signing.load_key_file(home.identity_key), card.site, card.digest
    )
    return registry.Rotate(card=enrolment.seal(card, key).decode(), signature=signature)


def fetch_roster(session: Session) -> bytes:
    """The newest roster.json as the registry has it; nothing is verified.

    Raises:
        Refused: there is none ("no-roster"); as `Session.call`.
    """
    return session.call("Roster", registry.Ask(), registry.RosterFile).file.encode()
