"""The API over a `LocalHead`, served on loopback for the length of one test, and a client with keys for each role."""

import asyncio
from collections.abc import AsyncIterator, Awaitable, Callable
from contextlib import asynccontextmanager
from pathlib import Path
from typing import Any, Final

from aiohttp import ClientResponse, web
from aiohttp.test_utils import BaseTestServer, TestClient
from aiohttp.web_runner import BaseRunner

from fetchmld.api.app import build_app, make_runner
from fetchmld.config import Config
from tests.api.local_head import LocalHead

KEYS: Final[dict[str, str]] = {
    "admin": "fml_admin",
    "operator": "fml_operator",
    "auditor": "fml_auditor",
    "viewer": "fml_viewer",
    "user": "fml_user",
    "other": "fml_other",
    "worker": "fml_worker",
}
PATIENCE_S: Final = 10.0


class Server(BaseTestServer):
    """aiohttp's test server on our runner, so that errors below the application are ours too."""

    def __init__(self, app: web.Application) -> None:
        super().__init__(host="127.0.0.1")
        self.app = app

    async def _make_runner(self, **kwargs: Any) -> BaseRunner:
        return make_runner(self.app, **kwargs)


class Api:
    """The client side of a test: every call sends a key, and every refusal is checked for the contract's shape."""

    def __init__(self, client: "TestClient[web.BaseRequest, None]", head: LocalHead, config: Config) -> None:
        self.client = client
        self.head = head
        self.config = config

    async def call(
        self,
        method: str,
        path: str,
        *,
        key: str | None = KEYS["user"],
        headers: dict[str, str] | None = None,
        **more: Any,
    ) -> tuple[int, Any]:
        """Status and body: decoded JSON, or bytes where it is not JSON."""
        response = await self.raw(method, path, key=key, headers=headers, **more)
        async with response:
            body = await response.read()
            if response.content_type == "application/json":
                return response.status, await response.json()
            return response.status, body

    async def raw(
        self,
        method: str,
        path: str,
        *,
        key: str | None = KEYS["user"],
        headers: dict[str, str] | None = None,
        **more: Any,
    ) -> ClientResponse:
        keyed = {"X-API-Key": key, **(headers or {})} if key is not None else headers or {}
        response = await self.client.request(method, path, headers=keyed, **more)
        assert response.headers["X-Content-Type-Options"] == "nosniff"
        assert response.headers["X-Trace-Id"]
        if response.status >= 400:
            assert_is_error(await response.json(), response.headers["X-Trace-Id"])
        return response

    async def submit(self, key: str = KEYS["user"], **body: Any) -> dict[str, Any]:
        """A task of the caller's, accepted."""
        status, task = await self.call("POST", "/v1/tasks", key=key, json={"job_name": "job", **body})
        assert status == 201, task
        return dict(task)

    async def refused(self, body: Any, status: int = 422) -> str:
        """The error that POST /v1/tasks answers to `body`."""
        raw = {"data": body} if isinstance(body, bytes) else {"json": body}
        got, error = await self.call(
            "POST", "/v1/tasks", headers={"Content-Type": "application/json"}, key=KEYS["user"], **raw
        )
        assert got == status, (got, error)
        return str(error["error"])

    def port(self) -> int:
        port = self.client.port
        assert port is not None
        return port


def assert_is_error(body: Any, trace_id: str) -> None:
    """`body` is an ErrorResponse and nothing more."""
    assert set(body) == {"error", "code", "trace_id"}
    assert all(isinstance(value, str) and value for value in body.values())
    assert body["trace_id"] == trace_id


@asynccontextmanager
async def serving(config: Config) -> AsyncIterator[Api]:
    head = LocalHead(code_dir=config.paths.code)
    for name, key in KEYS.items():
        head.add_key(key, name, "user" if name == "other" else name)  # type: ignore[arg-type]
    client: TestClient[web.BaseRequest, None] = TestClient(Server(build_app(head, config)))
    async with client:
        yield Api(client, head, config)


def config_in(tmp_path: Path, **settings: Any) -> Config:
    """Settings under which a test may fail as often as it likes, unless that is what it is about."""
    return Config(data_dir=tmp_path, **{"login_failures_per_minute": 10**6, "rate_burst": 10**6, **settings})


def with_api(tmp_path: Path, test: Callable[[Api], Awaitable[None]], **settings: Any) -> None:
    """Run `test` against a server of its own."""

    async def run() -> None:
        async with serving(config_in(tmp_path, **settings)) as api:
            await asyncio.wait_for(test(api), PATIENCE_S)

    asyncio.run(run())
