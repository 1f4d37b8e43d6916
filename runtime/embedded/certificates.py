"""The home's certificate authority and its server certificate for 127.0.0.1, for `--tls`."""

from __future__ import annotations

import ipaddress
from dataclasses import dataclass
from datetime import UTC, datetime, timedelta
from pathlib import Path

from cryptography import x509
from cryptography.hazmat.primitives import hashes, serialization
from cryptography.hazmat.primitives.asymmetric import ec
from cryptography.x509.oid import ExtendedKeyUsageOID, NameOID

from runtime.embedded.home import write_private

_AUTHORITY_LIFE = timedelta(days=3650)
_SERVER_LIFE = timedelta(days=397)
_RENEW_BEFORE = timedelta(days=30)
_CLOCK_SLACK = timedelta(hours=1)
_ADDRESSES = (ipaddress.ip_address("127.0.0.1"), ipaddress.ip_address("::1"))


@dataclass(frozen=True)
class ServerCertificate:
    """PEM files: the server's certificate, its private key (0600), and the authority for clients to trust."""

    certificate: Path
    key: Path
    authority: Path


def ensure_certificate(directory: Path, *, now: datetime | None = None) -> ServerCertificate:
    """Make each certificate that is missing or expires within 30 days; keep the others."""
    now = now or datetime.now(UTC)
    directory.mkdir(mode=0o700, parents=True, exist_ok=True)
    files = ServerCertificate(directory / "server.crt", directory / "server.key", directory / "ca.crt")
    authority_key_file = directory / "ca.key"
    authority_is_good = _is_good(files.authority, authority_key_file, now)
    if not authority_is_good:
        key = ec.generate_private_key(ec.SECP256R1())
        _write(_authority(key, now), files.authority, key, authority_key_file)
    if not authority_is_good or not _is_good(files.certificate, files.key, now):
        authority = x509.load_pem_x509_certificate(files.authority.read_bytes())
        authority_key = serialization.load_pem_private_key(authority_key_file.read_bytes(), None)
        if not isinstance(authority_key, ec.EllipticCurvePrivateKey):
            raise TypeError(f"{authority_key_file} holds no elliptic-curve key")
        key = ec.generate_private_key(ec.SECP256R1())
        _write(_server(key, authority, authority_key, now), files.certificate, key, files.key)
    return files


def _is_good(certificate: Path, key: Path, now: datetime) -> bool:
    if not (certificate.exists() and key.exists()):
        return False
    return x509.load_pem_x509_certificate(certificate.read_bytes()).not_valid_after_utc - now > _RENEW_BEFORE


def _authority(key: ec.EllipticCurvePrivateKey, now: datetime) -> x509.Certificate:
    # Name constraints: a client that trusts this authority trusts it for this machine only.
    name = _name("Perennial local authority")
    own = x509.SubjectKeyIdentifier.from_public_key(key.public_key())
    here: list[x509.GeneralName] = [x509.DNSName("localhost")]
    here += [x509.IPAddress(ipaddress.ip_network(address)) for address in _ADDRESSES]
    return (
        _builder(name, name, key.public_key(), now, _AUTHORITY_LIFE)
        .add_extension(x509.BasicConstraints(ca=True, path_length=0), critical=True)
        .add_extension(_usage(signs_certificates=True), critical=True)
        .add_extension(x509.NameConstraints(permitted_subtrees=here, excluded_subtrees=None), critical=True)
        .add_extension(own, critical=False)
        .sign(key, hashes.SHA256())
    )


def _server(
    key: ec.EllipticCurvePrivateKey,
    authority: x509.Certificate,
    authority_key: ec.EllipticCurvePrivateKey,
    now: datetime,
) -> x509.Certificate:
    names: list[x509.GeneralName] = [x509.DNSName("localhost")]
    names += [x509.IPAddress(address) for address in _ADDRESSES]
    issuer_key = x509.AuthorityKeyIdentifier.from_issuer_public_key(authority_key.public_key())
    return (
        _builder(_name("localhost"), authority.subject, key.public_key(), now, _SERVER_LIFE)
        .add_extension(x509.BasicConstraints(ca=False, path_length=None), critical=True)
        .add_extension(_usage(signs_certificates=False), critical=True)
        .add_extension(x509.ExtendedKeyUsage([ExtendedKeyUsageOID.SERVER_AUTH]), critical=False)
        .add_extension(x509.SubjectAlternativeName(names), critical=False)
        .add_extension(x509.SubjectKeyIdentifier.from_public_key(key.public_key()), critical=False)
        .add_extension(issuer_key, critical=False)
        .sign(authority_key, hashes.SHA256())
    )


def _builder(
    subject: x509.Name, issuer: x509.Name, key: ec.EllipticCurvePublicKey, now: datetime, life: timedelta
) -> x509.CertificateBuilder:
    return (
        x509.CertificateBuilder()
        .subject_name(subject)
        .issuer_name(issuer)
        .public_key(key)
        .serial_number(x509.random_serial_number())
        .not_valid_before(now - _CLOCK_SLACK)
        .not_valid_after(now + life)
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


def _name(common_name: str) -> x509.Name:
    return x509.Name([x509.NameAttribute(NameOID.COMMON_NAME, common_name)])


def _write(certificate: x509.Certificate, file: Path, key: ec.EllipticCurvePrivateKey, key_file: Path) -> None:
    text = key.private_bytes(
        serialization.Encoding.PEM, serialization.PrivateFormat.PKCS8, serialization.NoEncryption()
    )
    write_private(key_file, text.decode("ascii"))
    write_private(file, certificate.public_bytes(serialization.Encoding.PEM).decode("ascii"))
    file.chmod(0o644)
