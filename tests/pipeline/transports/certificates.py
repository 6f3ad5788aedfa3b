"""A certificate authority of the tests' own, made anew for each run."""

from __future__ import annotations

import datetime as dt
import ipaddress
import ssl
from pathlib import Path

from cryptography import x509
from cryptography.hazmat.primitives import hashes, serialization
from cryptography.hazmat.primitives.asymmetric import ec
from cryptography.x509.oid import NameOID

_EDGES = (dt.datetime(2020, 1, 1, tzinfo=dt.UTC), dt.datetime(2120, 1, 1, tzinfo=dt.UTC))


class Authority:
    """Signs certificates for addresses; `client()` trusts them, and nothing else."""

    def __init__(self, folder: Path) -> None:
        self._folder = folder
        self._key = ec.generate_private_key(ec.SECP256R1())
        self._name = x509.Name([x509.NameAttribute(NameOID.COMMON_NAME, "Authority of the tests")])
        is_authority = x509.BasicConstraints(ca=True, path_length=None)
        self._certificate = (self._builder(self._name, self._key).add_extension(is_authority, critical=True)).sign(
            self._key, hashes.SHA256()
        )

    def _builder(self, subject: x509.Name, key: ec.EllipticCurvePrivateKey) -> x509.CertificateBuilder:
        return (
            x509.CertificateBuilder()
            .subject_name(subject)
            .issuer_name(self._name)
            .public_key(key.public_key())
            .serial_number(x509.random_serial_number())
            .not_valid_before(_EDGES[0])
            .not_valid_after(_EDGES[1])
        )

    def client(self) -> ssl.SSLContext:
        pem = self._certificate.public_bytes(serialization.Encoding.PEM).decode()
        return ssl.create_default_context(cadata=pem)

    def save(self, folder: Path) -> Path:
        """The authority's own certificate, for those who trust it."""
        file = folder / "authority.pem"
        file.write_bytes(self._certificate.public_bytes(serialization.Encoding.PEM))
        return file

    def identity(self, folder: Path) -> Path:
        """A client's certificate and key in one file."""
        key = ec.generate_private_key(ec.SECP256R1())
        name = x509.Name([x509.NameAttribute(NameOID.COMMON_NAME, "a client")])
        return self._written(folder / "client.pem", key, self._builder(name, key).sign(self._key, hashes.SHA256()))

    @staticmethod
    def _written(file: Path, key: ec.EllipticCurvePrivateKey, certificate: x509.Certificate) -> Path:
        file.write_bytes(
            key.private_bytes(
                serialization.Encoding.PEM, serialization.PrivateFormat.PKCS8, serialization.NoEncryption()
            )
            + certificate.public_bytes(serialization.Encoding.PEM)
        )
        return file

    def server(self, address: str, *, asks_back: bool = False) -> ssl.SSLContext:
        """With `asks_back`, clients too must have a certificate of this authority."""
        key = ec.generate_private_key(ec.SECP256R1())
        name = x509.Name([x509.NameAttribute(NameOID.COMMON_NAME, address)])
        is_name = address[-1].isalpha()
        entry = x509.DNSName(address) if is_name else x509.IPAddress(ipaddress.ip_address(address))
        addresses = x509.SubjectAlternativeName([entry])
        certificate = self._builder(name, key).add_extension(addresses, critical=False).sign(self._key, hashes.SHA256())
        context = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
        context.load_cert_chain(self._written(self._folder / f"{address}.pem", key, certificate))
        if asks_back:
            context.verify_mode = ssl.CERT_REQUIRED
            context.load_verify_locations(cadata=self._certificate.public_bytes(serialization.Encoding.PEM).decode())
        return context
