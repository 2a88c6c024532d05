"""What 2,000 slow clients cost the others: /health's times without them and beside them, in one run.

A third sends its header a byte at a time, a third a body that does not go on, a third asks and does not read. They come
from 24 addresses of loopback, since one address may not hold so many connections, and are replaced as they are cut.

    python load/door/slow.py [--sockets 2000] [--requests 1000]
"""

import argparse
import os
import selectors
import socket
import statistics
import sys
import threading
import time
from pathlib import Path
from typing import Final

sys.path.insert(0, str(Path(__file__).resolve().parent.parent))

from bench import Daemon
from wire import Wire, prepare

ADDRESSES: Final = 24
DRIP_S: Final = 1.0
BOUND_MS: Final = 100.0


class Slow(threading.Thread):
    """All slow clients, on one thread that sleeps most of the time."""

    def __init__(self, port: int, key: str, count: int) -> None:
        super().__init__(daemon=True)
        self._port = port
        self._count = count
        head = f"HTTP/1.1\r\nHost: 127.0.0.1\r\nX-API-Key: {key}\r\n"
        self._openings = (
            b"GET /health HTTP/1.1\r\nHost: 127.0.0.1\r\nX-A: ",
            f"POST /v1/tasks {head}Content-Length: 9000\r\n\r\n{{".encode(),
            b"".join(f"GET /openapi.json {head}\r\n".encode() for _ in range(30)),
        )
        self._selector = selectors.DefaultSelector()
        self._over = threading.Event()
        self.all_there = threading.Event()
        self._unread: list[socket.socket] = []  # who asks and does not read cannot see that it was cut
        self.made = 0
        self.cut = 0

    def run(self) -> None:
        for number in range(self._count):
            self._open(number)
        self.all_there.set()
        while not self._over.is_set():
            self._look()

    def stop(self) -> None:
        self._over.set()
        self.join()
        for key in list(self._selector.get_map().values()):
            key.fileobj.close()  # type: ignore[union-attr]
        for client in self._unread:
            client.close()

    def _open(self, number: int) -> None:
        client = socket.socket()
        client.setsockopt(socket.SOL_SOCKET, socket.SO_RCVBUF, 4096)
        client.bind((f"127.0.0.{2 + number % ADDRESSES}", 0))
        client.connect(("127.0.0.1", self._port))
        client.setblocking(False)
        client.send(self._openings[number % 3])
        if number % 3 == 2:
            self._unread.append(client)
        else:
            self._selector.register(client, selectors.EVENT_READ, number)
        self.made += 1

    def _look(self) -> None:
        """Replace those that were cut, and let the others drip."""
        until = time.monotonic() + DRIP_S
        while (left_s := until - time.monotonic()) > 0:
            for key, _ in self._selector.select(left_s):
                client: socket.socket = key.fileobj  # type: ignore[assignment]
                if self._is_cut(client):
                    self._replace(client, key.data)
        for key in list(self._selector.get_map().values()):
            try:
                key.fileobj.send(b"x")  # type: ignore[union-attr]
            except OSError:
                self._replace(key.fileobj, key.data)  # type: ignore[arg-type]

    @staticmethod
    def _is_cut(client: socket.socket) -> bool:
        try:
            return client.recv(4096) == b""
        except BlockingIOError:
            return False
        except OSError:
            return True

    def _replace(self, client: socket.socket, number: int) -> None:
        self._selector.unregister(client)
        client.close()
        self.cut += 1
        self._open(number)


def times_ms(port: int, key: str, count: int) -> list[float]:
    wire, took_ms = Wire(port), []
    request = prepare("GET", "/health", key)
    for _ in range(count):
        begun = time.perf_counter()
        wire.ask(request)
        took_ms.append((time.perf_counter() - begun) * 1e3)
        time.sleep(0.01)
    wire.close()
    return took_ms


def said(name: str, took_ms: list[float]) -> float:
    cuts = statistics.quantiles(took_ms, n=100)
    print(f"  {name:32} p50 {cuts[49]:6.2f} ms   p99 {cuts[98]:6.2f} ms   max {max(took_ms):6.2f} ms")
    return cuts[98]


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--sockets", type=int, default=2000)
    parser.add_argument("--requests", type=int, default=1000)
    options = parser.parse_args()
    with Daemon() as daemon:
        daemon.start()
        print(f"/health, {options.requests} requests one after the other; load average {os.getloadavg()[0]:.1f}")
        alone = said("alone", times_ms(daemon.port, daemon.key, options.requests))
        slow = Slow(daemon.port, daemon.key, options.sockets)
        slow.start()
        slow.all_there.wait(60)
        beside = said(f"beside {slow.made} slow clients", times_ms(daemon.port, daemon.key, options.requests))
        slow.stop()
        print(f"  {slow.cut} of them were cut meanwhile and came again")
    is_met = beside < BOUND_MS
    print(
        f"  p99 {beside:.1f} ms, bound {BOUND_MS:g} ms: {'met' if is_met else 'NOT MET'}; {beside / alone:.1f} x alone"
    )
    return 0 if is_met else 1


if __name__ == "__main__":
    sys.exit(main())
