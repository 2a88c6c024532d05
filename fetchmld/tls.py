"""The server's TLS: the administrator's certificate for everybody, and one of ours for our own programs.

The administrator's is read again when its files change, so that renewing it takes neither a signal nor a restart; while
what is there is no matching pair, the last good one is shown. Ours is made once (see `inner_tls`).
"""

import datetime
import logging
import os
import ssl
from pathlib import Path
from typing import Final

from cryptography import x509
from cryptography.hazmat.primitives import hashes, serialization
from cryptography.hazmat.primitives.asymmetric import ec
from cryptography.x509.oid import NameOID

from fetchmld import inner_tls
from fetchmld.core.errors import Invalid

# The inner certificate is known by itself, and holds whatever a machine takes for the time: some begin in 1970.
INNER_FROM: Final = datetime.datetime(1970, 1, 1, tzinfo=datetime.UTC)
INNER_UNTIL: Final = datetime.datetime(9999, 12, 31, 23, 59, 59, tzinfo=datetime.UTC)

log = logging.getLogger(__name__)

_Stamp = tuple[tuple[int, int], ...]


class Identities:
    """What the server shows in handshakes. `context` is what it listens with."""

    def __init__(self, certificate: Path, key: Path, inner: Path) -> None:
        self._files = (certificate, key)
        self._stamp = _stamp(self._files)
        self._public = _load(*self._files)
        self._inner = _load(inner, inner)
        self.context = _load(*self._files)
        self.context.sni_callback = self._choose

    def _choose(self, connection: ssl.SSLObject, name: str | None, _context: ssl.SSLContext) -> None:
        if name == inner_tls.NAME:
            connection.context = self._inner
            return
        self._renew()
        connection.context = self._public

    def _renew(self) -> None:
        stamp = _stamp(self._files)
        if stamp == self._stamp:
            return
        self._stamp = stamp
        try:
            self._public = _load(*self._files)
        except Invalid as error:
            log.error("tls.not_renewed reason=%s", error)
        else:
            log.info("tls.renewed certificate=%s", self._files[0])


def _stamp(files: tuple[Path, ...]) -> _Stamp:
    try:
        return tuple((status.st_mtime_ns, status.st_ino) for status in map(os.stat, files))
    except OSError:
        return ()


def _load(certificate: Path, key: Path) -> ssl.SSLContext:
    """A server's context. Raises Invalid where the two are no pair, or cannot be read."""
    context = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
    context.minimum_version = ssl.TLSVersion.TLSv1_2
    context.set_alpn_protocols(["http/1.1"])
    try:
        context.load_cert_chain(certificate, key, password=lambda: "")  # an encrypted key is refused, never asked about
    except (OSError, ValueError) as error:
        raise Invalid(f"tls_cert={certificate}, tls_key={key}: cannot be used: {error}") from None
    return context


def check(certificate: Path, key: Path) -> None:
    """Raises Invalid where a server could not be started with these."""
    _load(certificate, key)


def make_inner(file: Path) -> str:
    """The certificate for our own programs, PEM; `file` (0600) holds it with its key, and is made where it is not there."""
    if not file.exists():
        new = file.with_suffix(".new")
        with open(os.open(new, os.O_WRONLY | os.O_CREAT | os.O_TRUNC, 0o600), "wb") as out:
            out.write(_made())
        new.rename(file)
    pem = file.read_bytes()
    return x509.load_pem_x509_certificate(pem).public_bytes(serialization.Encoding.PEM).decode()


def _made() -> bytes:
    key = ec.generate_private_key(ec.SECP256R1())
    name = x509.Name([x509.NameAttribute(NameOID.COMMON_NAME, inner_tls.NAME)])
    certificate = (
        x509.CertificateBuilder()
        .subject_name(name)
        .issuer_name(name)
        .public_key(key.public_key())
        .serial_number(x509.random_serial_number())
        .not_valid_before(INNER_FROM)
        .not_valid_after(INNER_UNTIL)
        .add_extension(x509.SubjectAlternativeName([x509.DNSName(inner_tls.NAME)]), critical=False)
        .add_extension(x509.BasicConstraints(ca=True, path_length=0), critical=True)
        .sign(key, hashes.SHA256())
    )
    private = key.private_bytes(
        serialization.Encoding.PEM, serialization.PrivateFormat.PKCS8, serialization.NoEncryption()
    )
    return private + certificate.public_bytes(serialization.Encoding.PEM)
