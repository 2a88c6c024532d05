"""Memory hogs, fork bombs and floods of output, one after the other: only they may suffer.

A quiet task runs all the while and must go on; each hostile one must end as it should. Meanwhile a client asks the API
20 times a second: its p99 is printed beside that of a quiet time before, and beside that of a time in which a task does
no more than use its one core. With --p99 more than twice the quiet one fails.
"""

import statistics
import sys
import threading
import time
from dataclasses import dataclass, field
from typing import Any, Final

from daemon import Daemon, arguments, load, running, said

EVERY_S: Final = 0.05
TIMES_MAX: Final = 2.0
LIMIT_S: Final = 2
SPIN: Final = "while :; do :; done"
HOSTILE: Final = {
    "memory hog": (
        {"entrypoint": f"{sys.executable} -S -c", "args": "'bytearray(3 << 30)'", "memory_gb": 1},
        "OOM_KILLED",
    ),
    "fork bomb": ({"args": "'f() { f | f & }; f & exec sleep 60'", "time_limit_s": LIMIT_S}, "TIME_LIMIT"),
    "flood of output": ({"args": "'yes'", "time_limit_s": LIMIT_S}, "TIME_LIMIT"),
}


@dataclass(slots=True)
class Asker:
    """Asks for the queue again and again in a thread, and keeps how long each answer took."""

    daemon: Daemon
    took_s: list[float] = field(default_factory=list)
    stopped: threading.Event = field(default_factory=threading.Event)
    thread: threading.Thread | None = None

    def __enter__(self) -> "Asker":
        self.thread = threading.Thread(target=self._ask)
        self.thread.start()
        return self

    def _ask(self) -> None:
        while not self.stopped.wait(EVERY_S):
            begun = time.monotonic()
            self.daemon.client.queue()
            self.took_s.append(time.monotonic() - begun)

    def __exit__(self, *_exc: object) -> None:
        self.stopped.set()
        assert self.thread is not None
        self.thread.join()

    @property
    def p99_ms(self) -> float:
        return 1000 * statistics.quantiles(self.took_s, n=100)[-1] if len(self.took_s) > 1 else 0.0


def main() -> int:
    parser = arguments(__doc__)
    parser.add_argument("--rounds", type=int, default=100)
    parser.add_argument("--quiet-s", type=float, default=60.0)
    parser.add_argument("--p99", action="store_true", help="fail where the API's p99 is too high")
    given = parser.parse_args()
    with running(given.data_dir) as daemon:
        return 0 if measure(daemon, given.rounds, given.quiet_s, given.p99) else 1


def measure(daemon: Daemon, rounds: int, quiet_s: float, holds_p99: bool) -> bool:
    with Asker(daemon) as quiet:
        time.sleep(quiet_s)
    with Asker(daemon) as busy:
        daemon.wait(daemon.submit(shell({"args": f"'{SPIN}'", "time_limit_s": max(1, int(quiet_s))}), 1))
    bystander = daemon.submit(shell({"args": f"'sleep {10 + rounds * 20} & wait; exit 0'", "cpu": 0}), 1)[0]
    print(f"the API's p99: quiet {quiet.p99_ms:.1f} ms, beside a task that spins {busy.p99_ms:.1f} ms, {load()}")
    met = True
    for name in HOSTILE:
        met &= suffer(daemon, name, rounds, quiet.p99_ms, holds_p99)
    met &= said(daemon.client.task(bystander)["status"] == "running", "a quiet task beside them runs on")
    daemon.client.cancel(bystander)
    daemon.wait([bystander])
    return met


def suffer(daemon: Daemon, name: str, rounds: int, quiet_ms: float, holds_p99: bool) -> bool:
    fields, word = HOSTILE[name]
    with Asker(daemon) as asker:
        ends = [task for _ in range(rounds) for task in daemon.wait(daemon.submit(shell(fields), 1))]
    right = sum(str(task.get("error", "")).startswith(word) for task in ends)
    met = said(right == rounds, f"{name}: {right} of {rounds} ended with {word}")
    if right != rounds:
        print(*{f"{task['status']}: {task.get('error', 'no error')[:100]}" for task in ends}, sep="\n")
    left = daemon.their_processes()
    met &= said(len(left) <= 2, f"{name}: {len(left)} processes are left, the quiet task's two at most")
    slow = asker.p99_ms / max(quiet_ms, 0.1)
    text = (
        f"{name}: the API's p99 {asker.p99_ms:.1f} ms of {len(asker.took_s)}, {slow:.1f} times the quiet one, {load()}"
    )
    return met & said(slow <= TIMES_MAX, text) if holds_p99 else bool(print(text) or met)


def shell(fields: dict[str, Any]) -> dict[str, Any]:
    return {"job_name": "hostile", "entrypoint": "/bin/sh -c", "cpu": 1, **fields}


if __name__ == "__main__":
    sys.exit(main())
