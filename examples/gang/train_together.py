"""Data-parallel training over several nodes with nothing but the standard library: what torchrun does, in plain sockets.

Each node fits y = a x + b on its own points; after each step rank 0 averages the gradients of all and sends the mean back.
FetchML starts it on all nodes together, says where rank 0 is, and ends it on all when one fails:

    fetchmld submit --node-count 2 examples/gang/train_together.py
"""

import json
import os
import random
import socket
import time
from pathlib import Path
from typing import IO

RANK, SIZE = int(os.environ["NODE_RANK"]), int(os.environ["WORLD_SIZE"])
PLACE = os.environ["MASTER_ADDR"], int(os.environ["MASTER_PORT"])
STEPS, RATE, CONNECT_S = 200, 0.5, 60.0


def members() -> list[IO[str]]:
    """Rank 0: a line to each of the others. The others: one to rank 0, which may be there a moment later than we are."""
    if RANK == 0:
        with socket.create_server(("", PLACE[1])) as server:
            server.settimeout(CONNECT_S)
            return [opened(server.accept()[0]) for _ in range(SIZE - 1)]
    until = time.monotonic() + CONNECT_S
    while True:
        try:
            return [opened(socket.create_connection(PLACE, CONNECT_S))]
        except ConnectionRefusedError:
            if time.monotonic() > until:
                raise
            time.sleep(0.05)


def opened(line: socket.socket) -> IO[str]:
    line.settimeout(CONNECT_S)
    return line.makefile("rw")


def mean(lines: list[IO[str]], mine: list[float]) -> list[float]:
    """The mean of what all nodes say, the same everywhere."""
    if RANK == 0:
        said = [mine, *(json.loads(heard(line)) for line in lines)]
        mine = [sum(column) / SIZE for column in zip(*said, strict=True)]
    for line in lines:
        line.write(json.dumps(mine) + "\n")
        line.flush()
    return mine if RANK == 0 else list(json.loads(heard(lines[0])))


def heard(line: IO[str]) -> str:
    text = line.readline()
    if not text:
        raise ConnectionError("another node has left")
    return text


def main() -> None:
    rng = random.Random(RANK)
    points = [(x, 3.0 * x - 1.0 + rng.gauss(0, 0.01)) for x in (rng.uniform(-1, 1) for _ in range(200))]
    lines, a, b = members(), 0.0, 0.0
    for _ in range(STEPS):
        errors = [(a * x + b - y, x) for x, y in points]
        slope, shift = sum(e * x for e, x in errors) / len(points), sum(e for e, _ in errors) / len(points)
        slope, shift = mean(lines, [slope, shift])
        a, b = a - RATE * slope, b - RATE * shift
    print(f"node {RANK} of {SIZE}: y = {a:.2f} x + {b:.2f}")
    if RANK == 0:
        output = Path(os.environ["FETCHML_OUTPUT_DIR"]) / "model.json"
        output.write_text(json.dumps({"a": a, "b": b}))


if __name__ == "__main__":
    main()
