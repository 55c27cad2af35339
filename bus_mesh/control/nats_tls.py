"""The certificates of the broker: a CA of the mesh's own, and what it signs.

Clients trust this CA and no other for the bus, so no public authority can vouch for a false broker. Its key stays in
the mesh's home. Server certificates also serve as client certificates, for mutual TLS between the servers of a cluster.
ECDSA on P-256: every TLS 1.3 library has it.

Pure: times are handed in.
"""

import datetime
import ipaddress
import re
from collections.abc import Sequence
from typing import Final, NamedTuple, Self

from cryptography import x509
from cryptography.hazmat.primitives import hashes, serialization
from cryptography.hazmat.primitives.asymmetric import ec
from cryptography.x509.oid import ExtendedKeyUsageOID, NameOID

__all__ = ["BadHost", "Ca", "Pair"]

CA_DAYS: Final = 3650
SERVER_DAYS: Final = 365
_BACKDATED: Final = datetime.timedelta(hours=1)
_LABEL: Final = r"[a-z0-9](?:[a-z0-9-]{0,61}[a-z0-9])?"
_HOST: Final = re.compile(rf"(?=.{{1,253}}\Z){_LABEL}(?:\.{_LABEL})*", re.IGNORECASE | re.ASCII)
_SIGNS: Final = {"key_cert_sign": True, "crl_sign": True, "digital_signature": False}
_SHOWS: Final = {"key_cert_sign": False, "crl_sign": False, "digital_signature": True}


class BadHost(ValueError):
    """Text that is no name or address of a host."""


class Pair(NamedTuple):
    """A certificate and its private key, as PEM."""

    certificate: bytes
    key: bytes

    def __repr__(self) -> str:
        return f"Pair({len(self.certificate)} bytes of certificate)"


class Ca:
    """A certificate authority."""

    def __init__(self, pair: Pair) -> None:
        """Take the authority from its two files; raise ValueError when they are none."""
        key = serialization.load_pem_private_key(pair.key, None)
        if not isinstance(key, ec.EllipticCurvePrivateKey):
            raise ValueError("the key of the authority is no key on P-256")
        self.pair, self._key = pair, key
        self._certificate = x509.load_pem_x509_certificate(pair.certificate)

    def __repr__(self) -> str:
        return f"Ca({self._certificate.subject.rfc4514_string()})"

    @classmethod
    def generate(cls, mesh: str, now: datetime.datetime) -> Self:
        """Make an authority, good for ten years."""
        key = ec.generate_private_key(ec.SECP256R1())
        name = x509.Name([x509.NameAttribute(NameOID.COMMON_NAME, f"busmesh {mesh} bus CA")])
        build = _builder(name, name, key, now, CA_DAYS, _SIGNS)
        # It signs servers and no further authority.
        build = build.add_extension(x509.BasicConstraints(ca=True, path_length=0), critical=True)
        return cls(_pem(build.sign(key, hashes.SHA256()), key))

    def server(self, hosts: Sequence[str], now: datetime.datetime) -> Pair:
        """Return the certificate and key, good for a year, of a server known by these names; raise BadHost."""
        key = ec.generate_private_key(ec.SECP256R1())
        names = [_general_name(host) for host in hosts]
        subject = x509.Name([x509.NameAttribute(NameOID.COMMON_NAME, "nats-server")])
        authority = x509.AuthorityKeyIdentifier.from_issuer_public_key(self._key.public_key())
        both = [ExtendedKeyUsageOID.SERVER_AUTH, ExtendedKeyUsageOID.CLIENT_AUTH]
        build = _builder(subject, self._certificate.subject, key, now, SERVER_DAYS, _SHOWS)
        build = build.add_extension(x509.BasicConstraints(ca=False, path_length=None), critical=True)
        build = build.add_extension(x509.SubjectAlternativeName(names), critical=False)
        build = build.add_extension(x509.ExtendedKeyUsage(both), critical=False)
        build = build.add_extension(authority, critical=False)
        return _pem(build.sign(self._key, hashes.SHA256()), key)


def _builder(
    subject: x509.Name,
    issuer: x509.Name,
    key: ec.EllipticCurvePrivateKey,
    now: datetime.datetime,
    days: int,
    usage: dict[str, bool],
) -> x509.CertificateBuilder:
    others = ("content_commitment", "key_encipherment", "data_encipherment", "key_agreement", "encipher_only")
    uses = x509.KeyUsage(**dict.fromkeys((*others, "decipher_only"), False), **usage)
    return (
        x509.CertificateBuilder(issuer, subject, key.public_key(), x509.random_serial_number())
        .not_valid_before(now - _BACKDATED)
        .not_valid_after(now + datetime.timedelta(days=days))
        .add_extension(uses, critical=True)
        .add_extension(x509.SubjectKeyIdentifier.from_public_key(key.public_key()), critical=False)
    )


def _general_name(host: str) -> x509.GeneralName:
    try:
        return x509.IPAddress(ipaddress.ip_address(host))
    except ValueError:
        pass
    if _HOST.fullmatch(host) is None:
        raise BadHost(f"{host[:100]!r} is neither the name nor the address of a host")
    return x509.DNSName(host)


def _pem(certificate: x509.Certificate, key: ec.EllipticCurvePrivateKey) -> Pair:
    pem, plain = serialization.Encoding.PEM, serialization.NoEncryption()
    return Pair(certificate.public_bytes(pem), key.private_bytes(pem, serialization.PrivateFormat.PKCS8, plain))
