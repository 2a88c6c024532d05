"""Somebody with a browser in front of a notebook. As a program, on whichever machine: two cells, and what they print."""

import asyncio
import json
import sys
import uuid
from pathlib import Path
from typing import Any

import aiohttp

from tests.e2e.conftest import Shell

CELL_MAX_S = 90


class Browser:
    """Logged in by a ticket, as `fetchmld ui` prints it, and with nothing but its cookie from then on."""

    def __init__(self, shell: Shell, service: dict[str, Any]) -> None:
        self._ticket_url = shell.fetchmld("ui", "--page", f"/jupyter/{service['id']}/lab").strip()
        self._base = service["url"].removesuffix("/lab")
        self._origin = {"Origin": self._base.partition("/jupyter/")[0]}

    async def __aenter__(self) -> "Browser":
        connector = aiohttp.TCPConnector(ssl=False)  # a certificate of the test's own: a browser would ask
        jar = aiohttp.CookieJar(unsafe=True)
        self._session = aiohttp.ClientSession(headers=self._origin, cookie_jar=jar, connector=connector)
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


async def main(shell: Shell, service: dict[str, Any]) -> None:
    async with Browser(shell, service) as browser:
        kernel = await browser.kernel()
        answer = (await browser.run(kernel, "x = 6 * 7; print(x)")).strip()
        long = (await browser.run(kernel, "print('a' * 300_000)")).strip()
        print(answer, len(long))


if __name__ == "__main__":
    asyncio.run(main(Shell(Path(sys.argv[1]), int(sys.argv[2])), json.loads(sys.argv[3])))
