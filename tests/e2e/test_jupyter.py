"""JupyterLab itself, from the package index: started, used through the head, found again after a restart, stopped."""

import asyncio
import json
import uuid
from pathlib import Path
from typing import Any

import aiohttp
import pytest

from tests.e2e.conftest import Shell

pytestmark = pytest.mark.e2e

INSTALL_MAX_S = 400
CELL_MAX_S = 90


class Browser:
    """Logged in by a ticket, as `fetchmld ui` prints it, and with nothing but its cookie from then on."""

    def __init__(self, shell: Shell, service: dict[str, Any]) -> None:
        self._ticket_url = shell.fetchmld("ui", "--page", f"/jupyter/{service['id']}/lab").strip()
        self._base = service["url"].removesuffix("/lab")
        self._origin = {"Origin": self._base.partition("/jupyter/")[0]}

    async def __aenter__(self) -> "Browser":
        self._session = aiohttp.ClientSession(headers=self._origin, cookie_jar=aiohttp.CookieJar(unsafe=True))
        async with self._session.get(self._ticket_url) as page:
            assert page.status == 200
            assert "JupyterLab" in await page.text()
        return self

    async def __aexit__(self, *_: object) -> None:
        await self._session.close()

    async def kernel(self) -> str:
        async with self._session.post(f"{self._base}/api/kernels", json={"name": "python3"}) as made:
            assert made.status == 201, await made.text()
            return str((await made.json())["id"])

    async def run(self, kernel: str, code: str) -> str:
        """What the cell prints."""
        async with (
            asyncio.timeout(CELL_MAX_S),
            self._session.ws_connect(f"{self._base}/api/kernels/{kernel}/channels", max_msg_size=0) as channel,
        ):
            await channel.send_json(_execute(code))
            said = ""
            while True:
                message = json.loads(await channel.receive_str())
                if message["msg_type"] == "stream":
                    said += message["content"]["text"]
                if message["msg_type"] == "error":
                    raise AssertionError(message["content"])
                if message["msg_type"] == "status" and message["content"]["execution_state"] == "idle" and said:
                    return said


def _execute(code: str) -> dict[str, Any]:
    header = {
        "msg_id": uuid.uuid4().hex,
        "msg_type": "execute_request",
        "username": "",
        "session": "s",
        "version": "5.3",
    }
    content = {"code": code, "silent": False, "store_history": False, "user_expressions": {}, "allow_stdin": False}
    return {
        "header": {**header, "date": ""},
        "parent_header": {},
        "metadata": {},
        "content": content,
        "channel": "shell",
    }


def test_a_notebook_from_start_to_stop(shell: Shell) -> None:
    shell.start()
    service = json.loads(shell.fetchmld("jupyter", "start", "lab", "--json", wait_s=INSTALL_MAX_S))
    assert service["status"] == "running"
    _assert_hidden(shell, service["token"])

    async def first() -> str:
        async with Browser(shell, service) as browser:
            kernel = await browser.kernel()
            assert await browser.run(kernel, "x = 6 * 7; open('kept.txt', 'w').write('kept'); print(x)") == "42\n"
            return kernel

    async def again(kernel: str) -> None:
        async with Browser(shell, service) as browser:
            assert await browser.run(kernel, "print(x + 1)") == "43\n"

    kernel = asyncio.run(first())
    shell.fetchmld("stop")
    shell.start()
    found = json.loads(shell.fetchmld("jupyter", "start", "--workspace", "default", "--json", code=5))
    assert service["id"] in found["error"]  # it is there still, and has the workspace
    shell.fetchmld("jupyter", "ls")
    asyncio.run(again(kernel))

    shell.fetchmld("jupyter", "stop", service["id"])
    shell.fetchmld("wait", service["id"], code=103)
    (listed,) = shell.json("jupyter", "ls")
    assert listed["status"] == "stopped"
    _assert_nothing_left(shell, service["id"])


def _assert_hidden(shell: Shell, token: str) -> None:
    """The token is in no argument and no log; in no environment but none at all."""
    for entry in Path("/proc").glob("[0-9]*"):
        for part in ("cmdline", "environ"):
            try:
                assert token.encode() not in (entry / part).read_bytes(), entry
            except (FileNotFoundError, ProcessLookupError, PermissionError):
                continue
    kept = [file for part in ("logs", "ledger", "node/logs") for file in (shell.data_dir / part).rglob("*")]
    for file in kept:
        assert not file.is_file() or token.encode() not in file.read_bytes(), file


def _assert_nothing_left(shell: Shell, service_id: str) -> None:
    left = [line for line in shell.processes().values() if "jupyterlab" in line or "ipykernel" in line]
    assert left == []
    assert list((shell.data_dir / "node" / "services").iterdir()) == []
    assert [path for path in (shell.data_dir / "node" / "attempts").iterdir() if service_id in path.name] == []
    assert (shell.data_dir / "workspaces" / "admin" / "default" / "kept.txt").read_text() == "kept"
