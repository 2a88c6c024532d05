"""Limits on the wire: requests of one key, wrong keys of one address, and what a refused client is told."""

import time
from pathlib import Path
from typing import Any, Final

import pytest

from tests.api.served import KEYS, Api, with_api


class Clock:
    """The monotonic time of the limits, moved by hand."""

    def __init__(self, monkeypatch: pytest.MonkeyPatch) -> None:
        self.now_s = 1000.0
        for module in ("guard", "logins"):
            monkeypatch.setattr(f"fetchmld.api.{module}.time", self)

    def monotonic(self) -> float:
        return self.now_s

    def __getattr__(self, name: str) -> Any:
        return getattr(time, name)


FEW: Final[dict[str, Any]] = {"rate_per_s": 2, "rate_burst": 5}


def test_a_key_beyond_its_rate_is_told_when_to_come_back(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    clock = Clock(monkeypatch)

    async def test(api: Api) -> None:
        for left in (4, 3, 2, 1, 0):
            response = await api.raw("GET", "/v1/queue")
            assert response.status == 200
            assert response.headers["RateLimit-Policy"] == '"default";q=5;w=3'
            assert response.headers["RateLimit"].startswith(f'"default";r={left};t=')
        response = await api.raw("GET", "/v1/queue")
        assert (response.status, (await response.json())["code"]) == (429, "RATE_LIMITED")
        wait_s = int(response.headers["Retry-After"])
        assert wait_s == 1
        assert response.headers["RateLimit"].startswith('"default";r=0;')
        assert (await api.call("GET", "/v1/queue", key=KEYS["other"]))[0] == 200
        clock.now_s += wait_s
        assert (await api.call("GET", "/v1/queue"))[0] == 200

    with_api(tmp_path, test, **FEW)


def test_who_obeys_is_not_refused_twice(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    clock = Clock(monkeypatch)

    async def test(api: Api) -> None:
        answers = [await api.raw("GET", "/v1/queue") for _ in range(25)]
        waits = [int(answer.headers["Retry-After"]) for answer in answers if answer.status == 429]
        assert len(waits) == 20
        began_s = clock.now_s
        for wait_s in sorted(waits):
            clock.now_s = began_s + wait_s
            assert (await api.call("GET", "/v1/queue"))[0] == 200

    with_api(tmp_path, test, **FEW)


def test_what_is_refused_costs_a_request_too_but_an_unknown_path_tells_nothing(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    Clock(monkeypatch)

    async def test(api: Api) -> None:
        statuses = [(await api.call("GET", path))[0] for path in ("/nowhere", "/v1/keys", "/v1/tasks/t1", "/nowhere")]
        assert statuses == [404, 403, 404, 404]
        assert [(await api.call("GET", "/nowhere"))[0] for _ in range(2)] == [404, 429]

    with_api(tmp_path, test, **FEW)


def test_open_routes_are_limited_by_address(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    Clock(monkeypatch)

    async def test(api: Api) -> None:
        assert [(await api.call("GET", "/health", key=None))[0] for _ in range(6)] == [200] * 5 + [429]
        assert (await api.call("GET", "/v1/queue"))[0] == 200

    with_api(tmp_path, test, **FEW)


def test_no_limit_where_it_is_set_so(tmp_path: Path) -> None:
    async def test(api: Api) -> None:
        for _ in range(20):
            response = await api.raw("GET", "/v1/queue")
            assert response.status == 200
            assert "RateLimit" not in response.headers

    with_api(tmp_path, test, rate_per_s=0, rate_burst=1)


def test_joined_machines_are_not_limited(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    Clock(monkeypatch)

    async def test(api: Api) -> None:
        digest = "0" * 64
        for _ in range(20):
            assert (await api.call("GET", f"/v1/objects/{digest}", key=KEYS["worker"]))[0] == 404

    with_api(tmp_path, test, **FEW)


def test_too_many_wrong_keys_of_an_address_are_not_even_looked_up(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    clock = Clock(monkeypatch)

    async def test(api: Api) -> None:
        looked_up: list[str] = []
        known = api.head.key

        async def key(sha256: str) -> Any:
            looked_up.append(sha256)
            return await known(sha256)

        monkeypatch.setattr(api.head, "key", key)
        assert (await api.call("GET", "/v1/queue"))[0] == 200  # a key that is right lately
        statuses = [(await api.call("GET", "/v1/queue", key=f"fml_{n}"))[0] for n in range(6)]
        assert statuses == [401] * 3 + [429] * 3
        assert len(looked_up) == 4
        response = await api.raw("GET", "/v1/queue", key=None)
        assert response.status == 429
        assert (await api.call("GET", "/v1/queue"))[0] == 200
        assert (await api.call("GET", "/v1/queue", key=KEYS["other"]))[0] == 429  # may be a guess
        clock.now_s += int(response.headers["Retry-After"])
        assert (await api.call("GET", "/v1/queue", key=KEYS["other"]))[0] == 200

    with_api(tmp_path, test, login_failures_per_minute=3)
