"""TLS as clients see it: the administrator's certificate, its renewal, and the inner one for our own programs."""

import asyncio
import contextlib
import http.client
import os
import socket
import ssl
import stat
from collections.abc import Callable
from pathlib import Path

import pytest
from cryptography import x509

from fetchmld import inner_tls, tls
from fetchmld.api.app import build_app
from fetchmld.api.protocol import ApiSite, make_runner
from fetchmld.client.client import Client
from fetchmld.client.errors import Unreachable
from fetchmld.core.errors import Invalid
from fetchmld.store.head_http import HeadHttp
from tests.api.local_head import LocalHead
from tests.api.served import KEYS, config_in
from tests.certificates import make_certificate


class Served:
    """A server with TLS, as its clients need to know it."""

    def __init__(self, directory: Path, port: int) -> None:
        self.certificate, self.key = directory / "public.crt", directory / "public.key"
        self.inner = directory / "inner.pem"
        self.url = f"https://127.0.0.1:{port}"
        self.port = port

    def shown(self, name: str = "localhost") -> bytes:
        """The certificate that a handshake shows, DER."""
        anyone = ssl.SSLContext(ssl.PROTOCOL_TLS_CLIENT)
        anyone.check_hostname, anyone.verify_mode = False, ssl.CERT_NONE
        with (
            socket.create_connection(("127.0.0.1", self.port), 5) as plain,
            anyone.wrap_socket(plain, server_hostname=name) as secure,
        ):
            return secure.getpeercert(True) or b""

    def public(self) -> bytes:
        return ssl.PEM_cert_to_DER_cert(self.certificate.read_text())


def with_tls(tmp_path: Path, test: Callable[[Served], None]) -> None:
    """Run `test`, in a thread, against a server of its own."""

    async def run() -> None:
        served = Served(tmp_path, 0)
        make_certificate(served.certificate, served.key, "localhost")
        tls.make_inner(served.inner)
        head = LocalHead()
        head.add_key(KEYS["worker"], "machines", "worker")
        runner = make_runner(build_app(head, config_in(tmp_path)))
        await runner.setup()
        identities = tls.Identities(served.certificate, served.key, served.inner)
        await ApiSite(runner, socket.create_server(("127.0.0.1", 0)), identities.context).start()
        served.port = runner.addresses[0][1]
        served.url = f"https://127.0.0.1:{served.port}"
        try:
            await asyncio.wait_for(asyncio.to_thread(test, served), 20)
        finally:
            await runner.cleanup()

    asyncio.run(run())


def test_everybody_is_shown_the_public_certificate(tmp_path: Path) -> None:
    def test(served: Served) -> None:
        for name in ("localhost", "127.0.0.1", "anything.example"):
            assert served.shown(name) == served.public()
        trusting = ssl.create_default_context(cafile=served.certificate)
        connection = http.client.HTTPSConnection("localhost", served.port, timeout=5, context=trusting)
        connection.request("GET", "/livez")
        assert connection.getresponse().status == 200
        connection.close()

    with_tls(tmp_path, test)


def test_a_renewed_certificate_is_shown_from_then_on(tmp_path: Path) -> None:
    def test(served: Served) -> None:
        before = served.public()
        make_certificate(served.certificate, served.key, "localhost")
        assert served.public() != before
        assert served.shown() == served.public()

    with_tls(tmp_path, test)


def test_a_broken_renewal_leaves_the_last_good_one(tmp_path: Path) -> None:
    def test(served: Served) -> None:
        before = served.public()
        served.key.write_text("half of a")
        assert served.shown() == before
        served.key.unlink()
        assert served.shown() == before
        make_certificate(served.certificate, served.key, "localhost")
        assert served.shown() == served.public() != before

    with_tls(tmp_path, test)


def test_our_own_programs_know_the_head_by_the_inner_one(tmp_path: Path) -> None:
    def test(served: Served) -> None:
        certificate = tls.make_inner(served.inner)
        assert served.shown(inner_tls.NAME) == ssl.PEM_cert_to_DER_cert(certificate)
        with Client(served.url, certificate=certificate) as client:
            assert client.health()["status"]
        head = HeadHttp(served.url, KEYS["worker"], certificate)
        with contextlib.closing(head), head.asked("GET", f"/v1/objects/{'0' * 64}") as answer:
            assert answer.status == 404

    with_tls(tmp_path, test)


def test_nobody_goes_unverified(tmp_path: Path) -> None:
    def test(served: Served) -> None:
        stranger = tls.make_inner(tmp_path / "another.pem")
        for certificate in ("", stranger, served.certificate.read_text()):
            with Client(served.url, certificate=certificate) as client, pytest.raises(Unreachable, match="(?i)certif"):
                client.health()

    with_tls(tmp_path, test)


def test_plain_http_gets_nowhere(tmp_path: Path) -> None:
    def test(served: Served) -> None:
        with socket.create_connection(("127.0.0.1", served.port), 5) as plain:
            plain.sendall(b"GET /livez HTTP/1.1\r\nHost: localhost\r\n\r\n")
            with contextlib.suppress(ConnectionError):
                assert b"HTTP" not in plain.recv(1000)
        assert served.shown() == served.public()

    with_tls(tmp_path, test)


def test_the_inner_certificate_is_made_once_and_kept_closed(tmp_path: Path) -> None:
    file = tmp_path / "inner.pem"
    first = tls.make_inner(file)
    assert tls.make_inner(file) == first
    said = x509.load_pem_x509_certificate(first.encode())
    years = said.not_valid_before_utc.year, said.not_valid_after_utc.year
    assert years == (1970, 9999), "a machine may take any day for today"
    assert stat.S_IMODE(file.stat().st_mode) == 0o600
    assert "PRIVATE" not in first


def test_what_cannot_be_served_is_refused_at_the_start(tmp_path: Path) -> None:
    certificate, key, other = tmp_path / "a.crt", tmp_path / "a.key", tmp_path / "b.key"
    make_certificate(certificate, key, "localhost")
    tls.check(certificate, key)
    make_certificate(tmp_path / "b.crt", other, "localhost")
    os.truncate(tmp_path / "b.crt", 40)
    for pair in ((certificate, other), (tmp_path / "b.crt", other), (certificate, tmp_path / "none"), (key, key)):
        with pytest.raises(Invalid, match="cannot be used"):
            tls.check(*pair)
