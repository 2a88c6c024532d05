"""How fast one runner starts and ends `/bin/true`: kept apart by nothing, by rlimits only, and by all that the machine has.

A runner for each, spoken to over its socket as an agent would, with 32 alive at a time; beside the C loop over posix_spawn
(`../spawn.c`), in turn. An attempt with a user of its own enters a mount namespace and a cgroup, and its shared places are
looked at when it is over.
"""

import argparse
import json
import os
import shutil
import signal
import socket
import statistics
import subprocess
import sys
import tempfile
import time
from pathlib import Path
from typing import Any, Final

from daemon import load

from fetchmld.runner.frames import Decoder, encode
from fetchmld.runner.isolation import Wanted
from fetchmld.runner.process import command

HERE: Final = Path(__file__).resolve().parent
WINDOW: Final = 32
LIMITS: Final = [[4, 0, 0], [1, 2**40, 2**40], [7, 1024, 1024]]  # core, file size, open files


class Runner:
    """One, in a directory of its own."""

    def __init__(self, isolation: str) -> None:
        self.directory = Path(tempfile.mkdtemp(prefix="fml-"))
        path = str(self.directory / "runner.sock")
        subprocess.run(command(str(self.directory / "node"), path, 60.0, Wanted(isolation)), check=True, env={})
        self.socket = socket.socket(socket.AF_UNIX)
        while True:
            try:
                self.socket.connect(path)
                break
            except (FileNotFoundError, ConnectionRefusedError):
                time.sleep(0.01)
        self.decoder, self.waiting = Decoder(), []  # type: tuple[Decoder, list[dict[str, Any]]]
        self.socket.sendall(encode([{"do": "hello"}]))
        self.state = self.take("state")
        self.started = 0

    def take(self, event: str) -> dict[str, Any]:
        while True:
            for message in self.waiting:
                if message["event"] == event:
                    self.waiting.remove(message)
                    return message
            self.waiting += self.decoder.feed(self.socket.recv(1 << 20))

    @property
    def label(self) -> str:
        return str(self.state["isolation"]["label"])

    def start(self) -> dict[str, Any]:
        self.started += 1
        uids = self.state["isolation"].get("uids")
        uid = uids[0] + self.started % (uids[1] - 1) if uids else -1  # nobody alive has it
        key = f"t{self.started}-1-0"
        return {"do": "start", "key": key, "path": "/bin/true", "argv": ["true"], "env": {}, "cwd": "/", "uid": uid,
                "limits": LIMITS, "pids": 64, "memory_bytes": 2**30}  # fmt: skip

    def rate(self, count: int) -> float:
        """Ends a second."""
        begun, ended = time.monotonic(), 0
        self.socket.sendall(encode([self.start() for _ in range(min(WINDOW, count))]))
        sent = min(WINDOW, count)
        while ended < count:
            self.waiting += self.decoder.feed(self.socket.recv(1 << 20))
            ends = [message["key"] for message in self.waiting if message["event"] == "exited"]
            failed = [message for message in self.waiting if message["event"] == "start_failed"]
            if failed:
                raise SystemExit(f"not started: {failed[0]}")
            self.waiting.clear()
            if ends:
                ended += len(ends)
                again = min(len(ends), count - sent)
                sent += again
                self.socket.sendall(encode([{"do": "forget", "keys": ends}, *(self.start() for _ in range(again))]))
        return count / (time.monotonic() - begun)

    def close(self) -> None:
        os.kill(self.state["pid"], signal.SIGTERM)
        shutil.rmtree(self.directory, ignore_errors=True)


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--count", type=int, default=2000)
    parser.add_argument("--rounds", type=int, default=3)
    given = parser.parse_args()
    with tempfile.TemporaryDirectory() as directory:
        program = f"{directory}/spawn"
        subprocess.run(["cc", "-O2", "-o", program, str(HERE.parent / "spawn.c")], check=True)
        runners = {"rlimits only": Runner("none"), "all there is": Runner("auto")}
        rates: dict[str, list[float]] = {name: [] for name in ("C", *runners)}
        for _ in range(given.rounds):
            rates["C"].append(in_c(program, given.count))
            for name, runner in runners.items():
                rates[name].append(runner.rate(given.count))
        limit = statistics.median(rates["C"])
        for name, found in rates.items():
            label = f" ({runners[name].label})" if name in runners else " loop over posix_spawn"
            rate = statistics.median(found)
            print(f"{name}{label}: {rate:.0f} /s ({min(found):.0f} to {max(found):.0f}), share {rate / limit:.2f}")
        print(load())
        for runner in runners.values():
            runner.close()
    return 0


def in_c(program: str, count: int) -> float:
    ran = subprocess.run([program, "2", str(count), "8", "/bin/true"], check=True, capture_output=True)
    return float(json.loads(ran.stdout)["per_s"])


if __name__ == "__main__":
    sys.exit(main())
