"""A real daemon from outside: it does what its document says, and writes no secret down that it is given."""

import base64
import contextlib
import http.client
import json
import os
import secrets
import socket
from collections.abc import Iterator
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import pytest

from tests.e2e.conftest import Shell, free_port
from tests.fuzz.against import SETTINGS, run

pytestmark = pytest.mark.e2e

LONG = int(os.environ.get("FETCHML_FUZZ", "0"))  # cases
CASES_MIN = LONG or 3_000
EXAMPLES = LONG // 45 or 15  # of each operation, which makes some 50 cases at least
BOUND_S = 420.0 if not LONG else 7200.0
ROUNDS = 500  # of all canaries


@pytest.fixture(scope="module")
def shell(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Shell]:
    mine = Shell(tmp_path_factory.mktemp("fuzz") / "data", free_port(), dict(SETTINGS))
    mine.start()
    yield mine
    mine.fetchmld("stop", code=None)


@pytest.fixture
def key(shell: Shell) -> str:
    return (shell.data_dir / "admin.key").read_text().strip()


def test_the_daemon_does_what_the_document_says(shell: Shell, key: str) -> None:
    outcome = run(shell.daemon["url"], key, EXAMPLES, BOUND_S)
    assert (outcome.failures, outcome.cases >= CASES_MIN) == (0, True), outcome.said
    shell.fetchmld("status")  # it goes on; its worker may be draining, as somebody asked
    assert not [line for line in logged(shell) if "request.failed" in line]  # our own faults


def logged(shell: Shell) -> Iterator[str]:
    for log in (shell.data_dir / "logs").rglob("*.log"):
        yield from log.read_text(errors="replace").splitlines()


@dataclass
class Canaries:
    """Secrets as clients send them, each in a place of its own, and what was answered."""

    port: int
    key: str
    secret: dict[str, str] = field(default_factory=dict)
    answers: list[bytes] = field(default_factory=list)
    sent: int = 0

    def __post_init__(self) -> None:
        self._wire = http.client.HTTPConnection("127.0.0.1", self.port, timeout=30)
        for name in ("wrong key", "bearer", "basic", "protocol", "cookie", "login", "ticket", "query", "once", "junk"):
            self.secret[name] = f"fml_{secrets.token_hex(32)}"

    def ask(self, method: str, path: str, body: Any = None, **headers: str) -> bytes:
        named = {name.replace("_", "-"): value for name, value in headers.items()}
        raw = None if body is None else body if isinstance(body, str) else json.dumps(body)
        self._wire.request(method, path, raw, {"Content-Type": "application/json", **named})
        answer = self._wire.getresponse()
        said = b"\n".join(f"{name}: {value}".encode() for name, value in answer.getheaders()) + answer.read()
        self.sent += 1
        return said

    def close(self) -> None:
        self._wire.close()

    def make_real_ones(self) -> None:
        """A key, a session and a ticket that are good, and a plugin's secret."""
        made = self.ask("POST", "/v1/keys", {"user_id": "canary", "role": "operator"}, X_API_Key=self.key)
        self.secret["real key"] = json.loads(made[made.index(b"{") :])["key"]
        session = self.ask("POST", "/v1/sessions", {"key": self.secret["real key"]})
        self.secret["session"] = session.partition(b"fetchml_session=")[2].partition(b";")[0].decode()
        ticket = self.ask("POST", "/v1/sessions/tickets", X_API_Key=self.secret["real key"])
        self.secret["real ticket"] = json.loads(ticket[ticket.index(b"{") :])["ticket"]
        settings = {"settings": {"token": self.secret["login"]}}
        self.answers.append(self.ask("PUT", "/v1/plugins/mlflow/config", settings, X_API_Key=self.key))

    def send_all(self) -> None:
        """One round."""
        its, wire = self.secret, self.answers
        origin = f"http://127.0.0.1:{self.port}"
        query = f"?api_key={its['query']}&token={its['query']}&user_id={its['query']}"
        wire.append(self.ask("GET", "/v1/queue", X_API_Key=its["wrong key"]))
        wire.append(self.ask("GET", "/metrics", Authorization=f"Bearer {its['bearer']}"))
        wire.append(self.ask("DELETE", "/v1/tasks/x", Authorization=f"Basic {its['basic']}"))
        wire.append(self.ask("GET", "/v1/queue", Cookie=f"fetchml_session={its['cookie']}"))
        wire.append(self.ask("POST", "/v1/sessions", {"key": its["login"]}))
        wire.append(self.ask("POST", "/v1/sessions", {"ticket": its["ticket"]}))
        wire.append(self.ask("GET", f"/sessions/{its['ticket']}"))
        wire.append(self.ask("GET", f"/v1/tasks{query}"))
        wire.append(self.ask("GET", f"/v1/tasks{query}", X_API_Key=its["real key"]))
        wire.append(
            self.ask("POST", "/v1/experiments", {"name": "c"}, X_API_Key=its["real key"], Idempotency_Key=its["once"])
        )
        wire.append(self.ask("PATCH", "/v1/queue", Cookie=f"fetchml_session={its['session']}", Origin=origin))
        wire.append(self.ask("POST", "/v1/tasks", f'{{"env": {{"T": "{its["junk"]}"', X_API_Key=its["real key"]))

    def send_raw(self) -> None:
        """What is no request, and what is no WebSocket."""
        encoded = base64.urlsafe_b64encode(self.secret["protocol"].encode()).decode().rstrip("=")
        upgrade = f"Upgrade: websocket\r\nConnection: Upgrade\r\nSec-WebSocket-Protocol: fetchml.key.{encoded}\r\n"
        for sent in (
            f"GET /v1/queue HTTP/9.9\r\nX-API-Key: {self.secret['junk']}\r\n\r\n",
            f"{self.secret['junk']} / HTTP/1.1\r\n\r\n",
            f"GET /ws HTTP/1.1\r\nHost: 127.0.0.1\r\n{upgrade}\r\n",
        ):
            with socket.create_connection(("127.0.0.1", self.port), 30) as plain:
                plain.sendall(sent.encode())
                plain.shutdown(socket.SHUT_WR)
                with contextlib.suppress(ConnectionError):
                    self.answers.append(plain.recv(65536))
            self.sent += 1

    def traces(self) -> dict[str, list[bytes]]:
        """Each by its name: as it is, and as the subprotocol carries it."""
        return {
            name: [value.encode(), base64.urlsafe_b64encode(value.encode()).rstrip(b"=")]
            for name, value in self.secret.items()
        }


def test_no_secret_is_written_down_or_told(shell: Shell, key: str) -> None:
    with contextlib.closing(Canaries(shell.port, key)) as canaries:
        canaries.make_real_ones()
        for number in range(ROUNDS):
            canaries.send_all()
            if number % 20 == 0:
                canaries.send_raw()
        pages = [f"/v1/audit/events?limit=1000&offset={at}" for at in range(0, 9000, 1000)]
        events = [canaries.ask("GET", page, X_API_Key=key) for page in pages]
    assert canaries.sent >= 5_000
    assert len(canaries.secret) >= 10
    assert any(b"auth.failure" in page for page in events)
    places = {f"answer {at}": said for at, said in enumerate(canaries.answers)}
    places |= {f"events {at}": page for at, page in enumerate(events)}
    places |= {f"argv of {pid}": line.encode() for pid, line in shell.processes().items()}
    places |= {str(file): content for file, content in files(shell.data_dir)}
    places |= {str(file): content for file, content in files(Path((shell.data_dir / "run_dir").read_text().strip()))}
    names = {"administrator's": [key.encode()], **canaries.traces()}
    found = [(where, name) for where, content in places.items() for name, forms in names.items()
             for form in forms if form in content]  # fmt: skip
    assert not found


def files(directory: Path) -> Iterator[tuple[Path, bytes]]:
    """Every file but those that hold secrets on purpose: the first key's, and what plugins' secrets are kept in."""
    for file in directory.rglob("*"):
        if file.is_file() and not file.is_symlink() and file.name != "admin.key" and file.parent.name != "secrets":
            with contextlib.suppress(FileNotFoundError):
                yield file, file.read_bytes()
