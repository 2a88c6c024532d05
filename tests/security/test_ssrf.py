"""S9: neither a plugin's address, nor its pages behind our proxy, nor a name that changes its mind leads to a door inside.

What sources of datasets may not do is in `tests/store/test_hostile_sources.py`, with the canary and the name server.
"""

import asyncio
import hashlib
import socket
import sys
from collections import deque
from collections.abc import Awaitable, Callable
from pathlib import Path
from typing import Any, Final, cast

import pytest

from fetchmld.core.errors import Invalid
from fetchmld.core.model import PluginConfig
from fetchmld.plugins import calls
from fetchmld.plugins.calls import Calls
from fetchmld.plugins.catalog import catalog, check_config
from fetchmld.plugins.protocol import CallFailed
from fetchmld.store import datasets
from fetchmld.upstream import Upstream
from tests.api.served import KEYS, Api, with_api
from tests.plugins.test_calls import HOSTILE
from tests.store.test_datasets import Site, get, refused, spec, store_in
from tests.store.test_hostile_sources import DIRECT, OTHERWISE, Canary, canary, hostile_names

__all__ = ["canary", "hostile_names"]  # fixtures

ADDRESSES: Final = [*DIRECT, *OTHERWISE, *(f"http://{host}:{{port}}/d" for host in HOSTILE)]
PUBLIC: Final = "127.0.0.2"  # stands for an address of the internet: the check is told so, all else is real
INNER: Final = "127.0.0.1"
PAGE: Final = "/plugins/mlflow/ajax-api/2.0/mlflow/experiments/search"
BODY: Final = b"a page"

# Every connection of this process, as the interpreter itself reports it: address and port. A hook stays for good.
_connections: deque[tuple[str, int]] = deque(maxlen=10_000)


def _hear(event: str, words: tuple[Any, ...]) -> None:
    if event == "socket.connect" and isinstance(words[1], tuple):
        _connections.append(words[1][:2])


sys.addaudithook(_hear)


def test_there_are_60_hostile_addresses() -> None:
    assert len(set(ADDRESSES)) >= 60
    taken = {address for address in ADDRESSES if is_taken(address.format(port=1))}
    assert 40 < len(taken) < len(set(ADDRESSES)) - 30, "some are refused as settings, others at their connections"


@pytest.mark.parametrize("address", ADDRESSES, ids=range(len(ADDRESSES)))
def test_a_plugins_address_leads_nowhere_inside(canary: Canary, address: str) -> None:
    async def test() -> None:
        made = Calls(address.format(port=canary.port), {"Authorization": "Bearer secret"}, private=False)
        try:
            for method in ("GET", "POST"):
                with pytest.raises(CallFailed):
                    await made.call(method, "/api", {})
            assert await made.probe("/health")
        finally:
            await made.close()

    before = len(canary.visits)
    asyncio.run(asyncio.wait_for(test(), 30))
    assert canary.visits[before:] == []


def behind(api: Api, endpoint: str) -> None:
    """The plugin mlflow is somebody else's server at `endpoint`."""

    async def upstream(_name: str) -> Upstream:
        return Upstream(endpoint, "", headers={"Authorization": "Bearer secret"})

    setattr(api.head, "plugin_upstream", upstream)  # noqa: B010 - a method


def is_taken(address: str) -> bool:
    """Can an administrator set it at all?"""
    plugin = catalog()["mlflow"].plugin
    assert plugin is not None
    try:
        check_config(plugin, PluginConfig(enabled=True, mode="remote", settings={}), {"tracking_uri": address})
    except Invalid:
        return False
    return True


@pytest.mark.parametrize("address", ADDRESSES, ids=range(len(ADDRESSES)))
def test_the_proxy_of_a_plugins_pages_leads_nowhere_inside(tmp_path: Path, canary: Canary, address: str) -> None:
    if not is_taken(address.format(port=canary.port)):
        return

    async def test(api: Api) -> None:
        behind(api, address.format(port=canary.port))
        for method in ("GET", "POST"):
            status, error = await api.call(method, PAGE, data=b"" if method == "GET" else b"x")
            assert status == 503, error

    before = len(canary.visits)
    with_api(tmp_path, test)
    assert canary.visits[before:] == []


async def proxied(api: Api, path: str) -> int:
    """The status: an answer of the plugin's own has no headers of ours."""
    headers = {"X-API-Key": KEYS["user"]}
    async with api.client.get(path, headers=headers, allow_redirects=False) as answer:
        await answer.read()
        return answer.status


# Paths of a caller's that try to give the address another host.
PATHS: Final = [
    "/plugins/mlflow@127.0.0.1:{port}/", "/plugins/mlflow/@127.0.0.1:{port}/", "/plugins/mlflow//127.0.0.1:{port}/",
    "/plugins/mlflow/http://127.0.0.1:{port}/", "/plugins/mlflow/%2f%2f127.0.0.1:{port}/",
    "/plugins/mlflow/..//127.0.0.1:{port}/", "/plugins/mlflow%40127.0.0.1:{port}/", "/plugins/mlflow:{port}/",
    "/plugins/mlflow.127.0.0.1:{port}/", "/plugins/mlflow%2f@127.0.0.1", "/plugins/mlflow/\\\\127.0.0.1:{port}/",
    "/plugins/mlflow/x?next=http://127.0.0.1:{port}/", "/plugins/mlflow/x#@127.0.0.1:{port}/",
]  # fmt: skip


@pytest.mark.parametrize("path", PATHS)
def test_no_path_changes_the_host(tmp_path: Path, canary: Canary, monkeypatch: pytest.MonkeyPatch, path: str) -> None:
    monkeypatch.setattr(calls, "is_public", lambda _address: True)  # only the path is to hold it back
    before = len(canary.visits)
    with Site({}, PUBLIC) as site:

        async def test(api: Api) -> None:
            behind(api, site.url)
            sent = f"GET {path.format(port=canary.port)} HTTP/1.1\r\nHost: localhost\r\nConnection: close\r\n"
            reader, writer = await asyncio.open_connection(INNER, api.port())
            writer.write(f"{sent}X-API-Key: {KEYS['user']}\r\n\r\n".encode())
            await reader.read()
            writer.close()
            await writer.wait_closed()

        with_api(tmp_path, test)
    assert canary.visits[before:] == []


@pytest.mark.parametrize("status", [301, 302, 303, 307, 308])
def test_no_redirect_of_a_plugin_is_followed(
    tmp_path: Path, canary: Canary, monkeypatch: pytest.MonkeyPatch, status: int
) -> None:
    monkeypatch.setattr(calls, "is_public", lambda address: address == PUBLIC)
    inside = f"http://{INNER}:{canary.port}/d"
    before = len(canary.visits)
    with Site({"/away": (status, {"Location": inside}, b"")}, PUBLIC) as site:

        async def test(api: Api) -> None:
            behind(api, site.url)
            made = Calls(site.url, {}, private=False)
            with pytest.raises(CallFailed, match=f"answered {status}"):
                await made.call("GET", "/away", {})
            await made.close()
            assert await proxied(api, "/plugins/mlflow/away") == status  # the browser is told, and asks in its own name

        with_api(tmp_path, test)
        assert site.asked == ["/away", "/away"]
    assert canary.visits[before:] == []


# -- a name server that answers with a public address first, and with one inside to whoever asks again


class Rebinding:
    """Answers for `rebinding.example`; keeps what was checked and what was then connected to."""

    def __init__(self, monkeypatch: pytest.MonkeyPatch, answers: list[list[str]]) -> None:
        self.left = answers
        self.asked = 0
        self.checked: list[str] = []
        real = socket.getaddrinfo

        def resolve(host: Any, port: Any, *given: Any, **named: Any) -> Any:
            if str(host).rstrip(".") != "rebinding.example":
                return real(host, port, *given, **named)
            self.asked += 1
            addresses = self.left.pop(0) if len(self.left) > 1 else self.left[0]
            return [
                one
                for address in addresses
                for one in real(address, port, 0, socket.SOCK_STREAM, 0, socket.AI_NUMERICHOST)
            ]

        def judge(address: str) -> bool:
            self.checked.append(address)
            return address == PUBLIC

        monkeypatch.setattr(socket, "getaddrinfo", resolve)
        monkeypatch.setattr(datasets, "is_public", judge)
        monkeypatch.setattr(calls, "is_public", judge)
        _connections.clear()

    def connected(self, *sites: Site) -> list[str]:
        """The addresses that ports of these sites were connected at, in order."""
        return [address for address, port in _connections if port in {port_of(site) for site in sites}]


def port_of(site: Site) -> int:
    return int(site.url.rpartition(":")[2])


ANSWERS: Final = {
    "public, then inside": [[PUBLIC], [INNER]],
    "inside, then public": [[INNER], [PUBLIC]],
    "both at once": [[PUBLIC, INNER]],
    "both, inside first": [[INNER, PUBLIC]],
    "by turns": [[PUBLIC], [INNER]] * 6,
}


async def through_calls(api: Api, url: str) -> None:
    """As the supervisor asks whether a plugin is well, each time anew."""
    made = Calls(url, {}, private=False)
    await made.probe("/d")
    await made.close()


async def through_the_proxy(api: Api, url: str) -> None:
    behind(api, url)
    await proxied(api, "/plugins/mlflow/d")


Way = Callable[[Api, str], Awaitable[None]]


@pytest.fixture(params=[through_calls, through_the_proxy], ids=["calls", "proxy"])
def way(request: pytest.FixtureRequest) -> Way:
    return cast(Way, request.param)


@pytest.mark.parametrize("answers", ANSWERS.values(), ids=ANSWERS)
def test_the_address_that_was_checked_is_the_one_connected_to(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, way: Way, answers: list[list[str]]
) -> None:
    with Site({"/d": (200, {}, BODY)}, PUBLIC) as site, Site({"/d": (200, {}, BODY)}, INNER) as inside:
        names = Rebinding(monkeypatch, [list(one) for one in answers])

        async def test(api: Api) -> None:
            for number in range(8):
                await way(api, f"http://rebinding.example:{port_of(site if number % 2 else inside)}")

        with_api(tmp_path, test)
        assert names.asked > 0
        assert names.checked
        assert inside.asked == []
        assert names.connected(site, inside) == [address for address in names.checked if address == PUBLIC]


@pytest.mark.parametrize("answers", ANSWERS.values(), ids=ANSWERS)
def test_a_dataset_comes_from_the_address_that_was_checked(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, answers: list[list[str]]
) -> None:
    with Site({"/d": (200, {}, BODY)}, PUBLIC) as site, Site({"/d": (200, {}, BODY)}, INNER) as inside:
        names = Rebinding(monkeypatch, [list(one) for one in answers])
        for number in range(6):
            url = f"http://rebinding.example:{port_of(site if number % 2 else inside)}/d"
            (tmp_path / str(number)).mkdir()
            with store_in(tmp_path / str(number), private_hosts=False) as store:
                refused(store, spec(url, "0" * 64))
        assert names.asked >= 6
        assert inside.asked == []
        assert names.connected(site, inside) == [address for address in names.checked if address == PUBLIC]


def test_the_public_half_of_the_same_name_is_reached(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """The tests above could fail: what is public is fetched, by the same way."""
    with Site({"/d": (200, {}, BODY)}, PUBLIC) as site:
        names = Rebinding(monkeypatch, [[PUBLIC]])
        with store_in(tmp_path, private_hosts=False) as store:
            url = site.url.replace(PUBLIC, "rebinding.example")
            assert get(store, spec(f"{url}/d", hashlib.sha256(BODY).hexdigest())).total_bytes == len(BODY)
        assert names.connected(site) == [PUBLIC]
