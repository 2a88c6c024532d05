"""What the proxy adds to a page, and how much it carries, beside the same program asked directly in the same run.

    python load/proxy/pages.py [--rounds 5] [--megabytes 400]

Three processes: a program that serves pages on a unix socket, the API in front of it (all but the cluster: guard, keys,
proxy), and this one, which asks both by turns over kept connections with the smallest client there is. Limits: 1.5 ms added
at the median, 100 MB/s each way.
"""

import argparse
import asyncio
import os
import socket
import statistics
import sys
import tempfile
import time
from multiprocessing import Process
from pathlib import Path
from typing import Final

ROOT: Final = Path(__file__).resolve().parents[2]
sys.path.insert(0, str(ROOT))

from aiohttp import web  # noqa: E402

from fetchmld.api.app import build_app, make_runner  # noqa: E402
from fetchmld.config import Config  # noqa: E402
from fetchmld.upstream import Serving, Upstream  # noqa: E402
from tests.api.local_head import LocalHead  # noqa: E402

ADDED_MS_MAX: Final = 1.5
MB_PER_S_MIN: Final = 100.0
SMALL_COUNT: Final = 400
PIECE: Final = bytes(2**18)
KEY: Final = "fml_bench"
PAGE: Final = "/jupyter/s1/page"


async def _serve_pages(path: str) -> None:
    async def page(_request: web.Request) -> web.Response:
        return web.Response(body=b"x" * 1000)

    async def down(request: web.Request) -> web.StreamResponse:
        size = int(request.query["bytes"])
        answer = web.StreamResponse(headers={"Content-Length": str(size)})
        await answer.prepare(request)
        for _ in range(size // len(PIECE)):
            await answer.write(PIECE)
        return answer

    async def up(request: web.Request) -> web.Response:
        count = 0
        async for piece in request.content.iter_any():
            count += len(piece)
        return web.Response(text=str(count))

    app = web.Application(client_max_size=2**40)
    app.router.add_get(PAGE, page)
    app.router.add_get("/jupyter/s1/down", down)
    app.router.add_post("/jupyter/s1/up", up)
    runner = web.AppRunner(app)
    await runner.setup()
    await web.UnixSite(runner, path).start()
    await asyncio.Event().wait()


async def _serve_api(path: str, port: int, data_dir: Path) -> None:
    head = LocalHead(code_dir=data_dir / "objects" / "code")
    head.add_key(KEY, "ada", "user")
    head.start_service("s1", "ada")
    upstream = Upstream(f"unix:{path}", uid=os.geteuid(), headers={"Authorization": "token x"})
    head.served["s1"] = Serving(upstream, "x", answers=True, last_activity_at=0.0)
    runner = make_runner(build_app(head, Config(data_dir=data_dir, rate_per_s=0)))
    await runner.setup()
    await web.TCPSite(runner, "127.0.0.1", port).start()
    await asyncio.Event().wait()


class Line:
    """One kept connection, and HTTP with as little work as can be."""

    def __init__(self, path: str, port: int) -> None:
        self._sock = socket.socket(socket.AF_UNIX if path else socket.AF_INET)
        self._sock.connect(path or ("127.0.0.1", port))
        self._head = f"Host: 127.0.0.1\r\nX-API-Key: {KEY}\r\n"
        self._buffer = bytearray(2**20)

    def get(self, target: str) -> int:
        """The size of the body."""
        self._sock.sendall(f"GET {target} HTTP/1.1\r\n{self._head}\r\n".encode())
        return self._answer()

    def post(self, target: str, size: int) -> int:
        head = f"POST {target} HTTP/1.1\r\n{self._head}Content-Length: {size}\r\n\r\n"
        self._sock.sendall(head.encode())
        for _ in range(size // len(PIECE)):
            self._sock.sendall(PIECE)
        return self._answer()

    def _answer(self) -> int:
        got = b""
        while b"\r\n\r\n" not in got:
            got += self._sock.recv(65536)
        head, _, rest = got.partition(b"\r\n\r\n")
        assert head.startswith(b"HTTP/1.1 200"), head
        lines = {line.partition(b":")[0].lower(): line.partition(b":")[2] for line in head.split(b"\r\n")[1:]}
        size = int(lines[b"content-length"])
        left = size - len(rest)
        while left > 0:
            left -= self._sock.recv_into(self._buffer)
        return size


def _median_ms(line: Line) -> float:
    took = []
    for _ in range(SMALL_COUNT):
        begun = time.perf_counter()
        line.get(PAGE)
        took.append(time.perf_counter() - begun)
    return statistics.median(took) * 1000


def _mb_per_s(line: Line, size: int, way: str) -> float:
    begun = time.perf_counter()
    if way == "down":
        line.get(f"/jupyter/s1/down?bytes={size}")
    else:
        line.post("/jupyter/s1/up", size)
    return size / (time.perf_counter() - begun) / 1e6


def _wait_for(path: str, port: int) -> None:
    for _ in range(200):
        try:
            Line(path, port).get(PAGE)
            return
        except OSError:
            time.sleep(0.05)
    raise SystemExit("the servers did not start")


def main() -> int:
    parser = argparse.ArgumentParser()
    parser.add_argument("--rounds", type=int, default=5)
    parser.add_argument("--megabytes", type=int, default=200)
    given = parser.parse_args()
    size = given.megabytes * 10**6 // len(PIECE) * len(PIECE)
    with socket.socket() as free, tempfile.TemporaryDirectory(prefix="fetchml-bench-") as directory:
        free.bind(("127.0.0.1", 0))
        path, port = f"{directory}/pages.sock", int(free.getsockname()[1])
        free.close()
        data_dir = Path(directory) / "data"
        data_dir.mkdir()
        servers = [
            Process(target=lambda: asyncio.run(_serve_pages(path)), daemon=True),
            Process(target=lambda: asyncio.run(_serve_api(path, port, data_dir)), daemon=True),
        ]
        for server in servers:
            server.start()
        _wait_for(path, 0)
        _wait_for("", port)
        direct, proxied = Line(path, 0), Line("", port)
        _median_ms(direct), _median_ms(proxied)  # warm
        added, rates = [], {"down": [0.0] * 0, "up": [0.0] * 0}
        print(f"load average {os.getloadavg()[0]:.1f}")
        for _ in range(given.rounds):
            bare, through = _median_ms(direct), _median_ms(proxied)
            added.append(through - bare)
            said = [f"page {bare:.2f} ms direct, {through:.2f} ms proxied"]
            for way, found in rates.items():
                bare_rate, rate = _mb_per_s(direct, size, way), _mb_per_s(proxied, size, way)
                found.append(rate)
                said.append(f"{way} {bare_rate:.0f} MB/s direct, {rate:.0f} proxied")
            print("; ".join(said))
        for server in servers:
            server.terminate()
    return _verdict(added, rates)


def _verdict(added: list[float], rates: dict[str, list[float]]) -> int:
    extra = statistics.median(added)
    ok = extra <= ADDED_MS_MAX
    print(f"added at the median {extra:.2f} ms (limit {ADDED_MS_MAX}): {'met' if ok else 'NOT met'}")
    for way, found in rates.items():
        rate = statistics.median(found)
        met = rate >= MB_PER_S_MIN
        ok &= met
        print(f"{way} {rate:.0f} MB/s (at least {MB_PER_S_MIN:.0f}): {'met' if met else 'NOT met'}")
    return 0 if ok else 1


if __name__ == "__main__":
    sys.exit(main())
