"""Both clients over https: who is trusted, and what is said of who is not."""

import asyncio
import socket
import ssl
import threading
from collections.abc import Iterator
from pathlib import Path

import pytest

from fetchmld.client import AsyncClient, Client, Unreachable
from tests.certificates import make_certificate
from tests.client.stub import Stub, answer


@pytest.fixture
def certificate(tmp_path: Path) -> Path:
    make_certificate(tmp_path / "server.crt", tmp_path / "server.key", "localhost")
    return tmp_path / "server.crt"


@pytest.fixture
def secure(certificate: Path) -> Iterator[str]:
    """The address of a stub that speaks TLS."""
    context = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
    context.load_cert_chain(certificate, certificate.with_suffix(".key"))
    stub = Stub({"GET /health": answer(200, {"status": "healthy"})})
    stub._listener = context.wrap_socket(stub._listener, server_side=True)
    with stub:
        yield stub.address.replace("http://127.0.0.1", "https://localhost")


async def asked(address: str, **trust: str) -> str:
    async with AsyncClient(address, **trust) as client:  # type: ignore[arg-type]
        return (await client.health())["status"]


def test_a_ca_file_vouches(secure: str, certificate: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    with Client(secure, ca_file=str(certificate)) as client:
        assert client.health()["status"] == "healthy"
    assert asyncio.run(asked(secure, ca_file=str(certificate))) == "healthy"
    monkeypatch.setenv("FETCHML_CA_FILE", str(certificate))
    with Client(secure) as client:
        assert client.health()["status"] == "healthy"


def test_who_is_not_trusted_is_not_asked_and_it_says_what_to_do(secure: str) -> None:
    with Client(secure) as client, pytest.raises(Unreachable, match="not trusted.*FETCHML_CA_FILE"):
        client.health()


def test_so_it_is_for_the_asynchronous_client(secure: str) -> None:
    with pytest.raises(Unreachable, match="not trusted.*FETCHML_CA_FILE"):
        asyncio.run(asked(secure))


def test_a_ca_file_that_cannot_be_read_is_named(tmp_path: Path) -> None:
    with pytest.raises(Unreachable, match=r"absent\.crt"):
        Client("https://localhost:1", ca_file=str(tmp_path / "absent.crt"))
    (tmp_path / "odd.crt").write_text("not a certificate")
    with pytest.raises(Unreachable, match=r"odd\.crt"):
        Client("https://localhost:1", ca_file=str(tmp_path / "odd.crt"))


def test_plain_http_at_an_https_address_is_said() -> None:
    with socket.create_server(("127.0.0.1", 0)) as listener:

        def refuse() -> None:
            connection, _ = listener.accept()
            with connection:
                connection.sendall(b"HTTP/1.1 400 Bad Request\r\nContent-Length: 0\r\n\r\n")
                connection.recv(1 << 16)

        threading.Thread(target=refuse, daemon=True).start()
        address = f"https://127.0.0.1:{listener.getsockname()[1]}"
        with Client(address) as client, pytest.raises(Unreachable, match="speaks no TLS"):
            client.health()
