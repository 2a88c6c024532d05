"""S9: no source of a dataset makes a worker knock at a door that is not the public internet's, however it is written.

A canary listens on loopback, over IPv4 and IPv6; nobody may connect to it. (`test_datasets` shows that fetching works.)
"""

import contextlib
import socket
import threading
from collections.abc import Iterator
from pathlib import Path
from typing import Any, Final

import pytest

from fetchmld.store import datasets
from tests.store.test_datasets import Site, refused, spec, store_in

NAMES: Final = {  # what a hostile name server answers, one list after the other
    "inside.example": [["127.0.0.1"]],
    "mixed.example": [["127.0.0.1", "::1"]],
    "six.example": [["::1"]],
    "mapped.example": [["::ffff:127.0.0.1"]],
    "metadata.example": [["169.254.169.254"]],
    "rebinding.example": [["127.0.0.1"], ["127.0.0.1"]],
}
DIRECT: Final = [
    "http://127.0.0.1:{port}/d", "https://127.0.0.1:{port}/d", "http://localhost:{port}/d", "http://LOCALHOST:{port}/d",
    "http://localhost.:{port}/d", "http://127.0.0.1.:{port}/d", "http://127.1:{port}/d", "http://127.0.1:{port}/d",
    "http://2130706433:{port}/d", "http://0x7f000001:{port}/d", "http://0x7f.0.0.1:{port}/d", "http://0177.0.0.1:{port}/d",
    "http://017700000001:{port}/d", "http://127.000.000.001:{port}/d", "http://0:{port}/d", "http://0.0.0.0:{port}/d",
    "http://[::1]:{port}/d", "http://[::]:{port}/d", "http://[0:0:0:0:0:0:0:1]:{port}/d", "http://[::ffff:127.0.0.1]:{port}/d",
    "http://[::ffff:7f00:1]:{port}/d", "http://[0:0:0:0:0:ffff:127.0.0.1]:{port}/d", "http://[::127.0.0.1]:{port}/d",
    "http://[64:ff9b::7f00:1]:{port}/d", "http://[2002:7f00:1::]:{port}/d", "http://[::1%25lo]:{port}/d",
    "http://127.0.0.1:{port}", "http://127.0.0.1:{port}/d?x=http://example.org/", "http://127.0.0.1:{port}/d#example.org",
    "http://example.org@127.0.0.1:{port}/d", "http://example.org:80@127.0.0.1:{port}/d", "http://a:b@127.0.0.1:{port}/d",
    "http://127.0.0.1:{port}\\@example.org/d", "http://example.org\\@127.0.0.1:{port}/d", "http:\\\\127.0.0.1:{port}/d",
    "http:/127.0.0.1:{port}/d", "http:127.0.0.1:{port}/d", "http:////127.0.0.1:{port}/d", "//127.0.0.1:{port}/d",
    "http://\u2460\u2461\u2466.0.0.1:{port}/d", "http://127\u30020\u30020\u30021:{port}/d", "http://\uff11\uff12\uff17.0.0.1:{port}/d",
    "http://127.0.0.1:{port}/\r\nHost: x", " http://127.0.0.1:{port}/d", "http://127.0.0.1 :{port}/d", "\thttp://127.0.0.1:{port}/d",
    "HTTP://127.0.0.1:{port}/d", "hTTpS://localhost:{port}/d", "http://169.254.169.254/latest/meta-data/", "http://10.0.0.1/d",
    *(f"http://{name}:{{port}}/d" for name in NAMES),
]  # fmt: skip
OTHERWISE: Final = [
    "ftp://127.0.0.1:{port}/d", "gopher://127.0.0.1:{port}/_x", "dict://127.0.0.1:{port}/x", "ldap://127.0.0.1:{port}/d",
    "s3://127.0.0.1:{port}/d", "sftp://127.0.0.1:{port}/d", "smb://127.0.0.1/d", "webhdfs://127.0.0.1:{port}/d",
    "simplecache::http://127.0.0.1:{port}/d", "filecache::http://127.0.0.1:{port}/d", "zip://x::http://127.0.0.1:{port}/d",
    "reference::http://127.0.0.1:{port}/d", "blockcache::http://127.0.0.1:{port}/d", "jupyter://127.0.0.1:{port}/d",
    "data:text/plain,x", "memory://d", "unix:///tmp/socket", "javascript:fetch('http://127.0.0.1:{port}')", "git://127.0.0.1:{port}/d",
    "file://127.0.0.1:{port}/d", "file:///proc/self/environ", "http+unix://%2Ftmp%2Fx/d", "ws://127.0.0.1:{port}/d", "",
]  # fmt: skip


class Canary:
    """Counts whoever connects, on every loopback address."""

    def __init__(self) -> None:
        self.visits: list[str] = []
        first = socket.create_server(("127.0.0.1", 0))
        self.port = first.getsockname()[1]
        self._sockets = [first]
        with contextlib.suppress(OSError):  # a machine without IPv6
            self._sockets.append(socket.create_server(("::1", self.port), family=socket.AF_INET6))
        for one in self._sockets:
            threading.Thread(target=self._accept, args=(one,), daemon=True).start()

    def _accept(self, listener: socket.socket) -> None:
        with contextlib.suppress(OSError):
            while True:
                connection, address = listener.accept()
                self.visits.append(str(address))
                connection.close()

    def close(self) -> None:
        for one in self._sockets:
            with contextlib.suppress(OSError):
                one.shutdown(socket.SHUT_RDWR)
            one.close()


@pytest.fixture(scope="module")
def canary() -> Iterator[Canary]:
    made = Canary()
    yield made
    made.close()


@pytest.fixture(autouse=True)
def hostile_names(monkeypatch: pytest.MonkeyPatch) -> None:
    """The resolver of the tests' own names; all others go to the machine's, which must not be asked for long."""
    real, left = socket.getaddrinfo, {name: list(answers) for name, answers in NAMES.items()}

    def resolve(host: Any, port: Any, *given: Any, **named: Any) -> Any:
        answers = left.get(str(host).rstrip("."))
        if answers is None:
            if str(host).rpartition(".")[2] in ("org", "example"):
                raise socket.gaierror(socket.EAI_NONAME, "no such name")
            return real(host, port, *given, **named)
        addresses = answers.pop(0) if len(answers) > 1 else answers[0]
        found = []
        for address in addresses:
            found += real(address, port, 0, socket.SOCK_STREAM, 0, socket.AI_NUMERICHOST)
        return found

    monkeypatch.setattr(socket, "getaddrinfo", resolve)


def test_there_are_more_than_60_hostile_sources() -> None:
    assert len(set(DIRECT + OTHERWISE)) >= 60


@pytest.mark.parametrize("source", DIRECT + OTHERWISE, ids=range(len(DIRECT + OTHERWISE)))
def test_nobody_knocks(tmp_path: Path, canary: Canary, source: str) -> None:
    before = len(canary.visits)
    with store_in(tmp_path, private_hosts=False) as store:
        error = refused(store, spec(source.format(port=canary.port), "0" * 64))
    assert error.word in ("DATASET_NOT_FOUND", "DATASET_UNAVAILABLE")
    assert canary.visits[before:] == []
    assert not (tmp_path / "cache").exists() or not list((tmp_path / "cache").iterdir())


@pytest.mark.parametrize("status", [301, 302, 303, 307, 308])
@pytest.mark.parametrize(
    "location",
    ["http://127.0.0.3:{port}/d", "//127.0.0.3:{port}/d", "http://inside.example:{port}/d", "http://[::1]:{port}/d",
     "https://127.0.0.3:{port}/d", "file:///etc/passwd", "ftp://127.0.0.3:{port}/d", "http://a@127.0.0.3:{port}/d"],
)  # fmt: skip
def test_no_redirect_leads_inside(
    tmp_path: Path, canary: Canary, monkeypatch: pytest.MonkeyPatch, status: int, location: str
) -> None:
    """The first host is public, as far as our check goes; where it sends us to is not."""
    monkeypatch.setattr(datasets, "is_public", lambda address: address == "127.0.0.2")
    before = len(canary.visits)
    pages = {"/d": (status, {"Location": location.format(port=canary.port)}, b"")}
    with Site(pages, "127.0.0.2") as site, store_in(tmp_path, private_hosts=False) as store:
        error = refused(store, spec(f"{site.url}/d", "0" * 64))
        assert site.asked == ["/d"]
    assert error.word in ("DATASET_NOT_FOUND", "DATASET_UNAVAILABLE")
    assert canary.visits[before:] == []
