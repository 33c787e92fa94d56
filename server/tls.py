"""The coordinator's certificate authority, server and client certificates (ECDSA P-256)."""

from __future__ import annotations

import datetime
import ipaddress
from collections.abc import Sequence

from cryptography import x509
from cryptography.hazmat.primitives import hashes, serialization
from cryptography.hazmat.primitives.asymmetric import ec
from cryptography.x509.oid import ExtendedKeyUsageOID, NameOID

from server.home import CoordinatorHome
from shared_model.enrolment import check_address
from shared_model.errors import OurMistake
from shared_model.files import write_atomic
from shared_model.signing import write_secret

CA_DAYS = 3650
SERVER_DAYS = 825


def make(home: CoordinatorHome, address: str, *, now: datetime.datetime) -> None:
    """Write a new authority and a server certificate for HOST of HOST:PORT and for loopback.

    Raises:
        OurMistake: there is an authority already, or the address is none.
    """
    try:
        host, _ = check_address(address)
    except ValueError as error:
        raise OurMistake(f"{address!r} is no address.", do="Give it as HOST:PORT.") from error
    ca_key = ec.generate_private_key(ec.SECP256R1())
    write_secret(home.ca_key, _private(ca_key))
    name = x509.Name([x509.NameAttribute(NameOID.COMMON_NAME, "fedprint coordinator authority")])
    ca = (
        _certificate(name, name, ca_key.public_key(), now, CA_DAYS)
        .add_extension(x509.BasicConstraints(ca=True, path_length=0), critical=True)
        .add_extension(_usage(signs_certificates=True), critical=True)
        .add_extension(
            x509.SubjectKeyIdentifier.from_public_key(ca_key.public_key()), critical=False
        )
        .sign(ca_key, hashes.SHA256())
    )
    write_atomic(home.ca_certificate, ca.public_bytes(serialization.Encoding.PEM))
    server_key = ec.generate_private_key(ec.SECP256R1())
    write_secret(home.server_key, _private(server_key))
    _write_server(home, host, server_key.public_key(), now)


def renew_server(
    home: CoordinatorHome, address: str, *, now: datetime.datetime
) -> x509.Certificate:
    """A new certificate for the server's key, by the same authority: hospitals notice nothing.

    Raises:
        OurMistake: there is no authority here.
    """
    try:
        key = serialization.load_pem_private_key(home.server_key.read_bytes(), password=None)
    except (OSError, ValueError) as error:
        raise OurMistake(
            f"The key file {home.server_key} cannot be read.",
            do="Run first: fedprint-coordinator init",
        ) from error
    if not isinstance(key, ec.EllipticCurvePrivateKey):
        raise OurMistake(f"{home.server_key} is no P-256 key.")
    return _write_server(home, check_address(address)[0], key.public_key(), now)


def issue_client(
    home: CoordinatorHome,
    key: ec.EllipticCurvePublicKey,
    *,
    name: str,
    uris: Sequence[str],
    now: datetime.datetime,
    until: datetime.datetime,
) -> x509.Certificate:
    """A client certificate: no server usage, no host name, so that its holder cannot pose as one.

    Raises:
        OurMistake: there is no authority here.
    """
    ca, ca_key = _authority(home)
    days = (until - now) / datetime.timedelta(days=1)
    return (
        _certificate(_named(name), ca.subject, key, now, days)
        .add_extension(x509.BasicConstraints(ca=False, path_length=None), critical=True)
        .add_extension(_usage(signs_certificates=False), critical=True)
        .add_extension(x509.ExtendedKeyUsage([ExtendedKeyUsageOID.CLIENT_AUTH]), critical=True)
        .add_extension(
            x509.SubjectAlternativeName([x509.UniformResourceIdentifier(uri) for uri in uris]),
            critical=False,
        )
        .add_extension(
            x509.AuthorityKeyIdentifier.from_issuer_public_key(ca_key.public_key()), critical=False
        )
        .sign(ca_key, hashes.SHA256())
    )


def _authority(home: CoordinatorHome) -> tuple[x509.Certificate, ec.EllipticCurvePrivateKey]:
    try:
        ca = x509.load_pem_x509_certificate(home.ca_certificate.read_bytes())
        key = serialization.load_pem_private_key(home.ca_key.read_bytes(), password=None)
    except (OSError, ValueError) as error:
        raise OurMistake(
            f"The authority in {home.ca_key.parent} cannot be read.",
            do="Run first: fedprint-coordinator init",
        ) from error
    if not isinstance(key, ec.EllipticCurvePrivateKey):
        raise OurMistake(f"{home.ca_key} is no P-256 key.")
    return ca, key


def _named(name: str) -> x509.Name:
    return x509.Name([x509.NameAttribute(NameOID.COMMON_NAME, name[:64])])


def _write_server(
    home: CoordinatorHome, host: str, key: ec.EllipticCurvePublicKey, now: datetime.datetime
) -> x509.Certificate:
    ca, ca_key = _authority(home)
    server = (
        _certificate(_named(host), ca.subject, key, now, SERVER_DAYS)
        .add_extension(x509.BasicConstraints(ca=False, path_length=None), critical=True)
        .add_extension(_usage(signs_certificates=False), critical=True)
        .add_extension(x509.ExtendedKeyUsage([ExtendedKeyUsageOID.SERVER_AUTH]), critical=False)
        .add_extension(x509.SubjectAlternativeName(_names(host)), critical=False)
        .add_extension(
            x509.AuthorityKeyIdentifier.from_issuer_public_key(ca_key.public_key()), critical=False
        )
        .sign(ca_key, hashes.SHA256())
    )
    write_atomic(home.server_certificate, server.public_bytes(serialization.Encoding.PEM))
    return server


def _names(host: str) -> list[x509.GeneralName]:
    names: list[x509.GeneralName] = [
        x509.DNSName("localhost"),
        x509.IPAddress(ipaddress.ip_address("127.0.0.1")),
    ]
    try:
        name: x509.GeneralName = x509.IPAddress(ipaddress.ip_address(host))
    except ValueError:
        name = x509.DNSName(host)
    return names if name in names else [*names, name]


def _certificate(
    subject: x509.Name,
    issuer: x509.Name,
    key: ec.EllipticCurvePublicKey,
    now: datetime.datetime,
    days: float,
) -> x509.CertificateBuilder:
    return (
        x509.CertificateBuilder()
        .subject_name(subject)
        .issuer_name(issuer)
        .public_key(key)
        .serial_number(x509.random_serial_number())
        .not_valid_before(now - datetime.timedelta(hours=1))  # clocks of hospitals differ
        .not_valid_after(now + datetime.timedelta(days=days))
    )


def _usage(*, signs_certificates: bool) -> x509.KeyUsage:
    return x509.KeyUsage(
        digital_signature=not signs_certificates,
        key_cert_sign=signs_certificates,
        crl_sign=signs_certificates,
        content_commitment=False,
        key_encipherment=False,
        data_encipherment=False,
        key_agreement=False,
        encipher_only=False,
        decipher_only=False,
    )


def _private(key: ec.EllipticCurvePrivateKey) -> bytes:
    return key.private_bytes(
        serialization.Encoding.PEM,
        serialization.PrivateFormat.PKCS8,
        serialization.NoEncryption(),
    )
