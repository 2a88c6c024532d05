"""Durable events at a fixed rate, open-loop: `python load/ledger/append.py [--rate N] [--seconds S] [--dir DIR]...`.

Events become due at an even rate, whoever is ready or not. A writer takes all that is due, makes it durable and
acknowledges it; latency is from due to acknowledged. The events themselves are made beforehand: in the daemon it is the
core that makes them, on its own time. Three writers in turn, several rounds each, so that a noisy disk
hits all:

    bare      the same bytes, encoded beforehand: one write, one fdatasync. The limit.
    ledger    fetchmld.store.ledger as the scheduler uses it: encode, chain, one write, one fdatasync.
    duckdb    a table in DuckDB and nothing else: one Arrow insert and one commit.

On a machine that others use, latency is mostly theirs. So the ledger and the bare loop are measured once more by a clock
that stands still while this thread has no processor: its own processor time, and the waiting for what is due. That is the
software's share alone (without what a disk takes, and without the thread that prepares the next segment).

Directories: where the ledger shall live (default: the temporary directory, and /dev/shm for the software's share alone).
"""

import argparse
import gc
import itertools
import os
import shutil
import statistics
import tempfile
import time
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any, Final

from record import facts

from fetchmld.core.chain import Chain
from fetchmld.core.messages import Fact
from fetchmld.store.ledger import SEGMENT_BYTES, Ledger
from fetchmld.store.segment import pack_frame
from fetchmld.store.spare import fill

POOL: Final = 3_000  # different events
WARM_S: Final = 0.3  # at the beginning of each round, not counted
Write = Callable[[Sequence[Fact]], None]


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--rate", type=int, default=50_000, help="Events a second.")
    parser.add_argument("--seconds", type=float, default=3.0, help="Of one round.")
    parser.add_argument("--rounds", type=int, default=3)
    parser.add_argument("--dir", type=Path, action="append", help="Where to write; repeatable.")
    parser.add_argument("--without-duckdb", action="store_true")
    given = parser.parse_args()
    pool = list(facts(POOL, 100))
    writers: dict[str, Callable[[Path, list[Fact]], tuple[Write, Callable[[], None]]]] = {
        "bare": bare,
        "ledger": ledger,
    }
    if not given.without_duckdb:
        writers["duckdb"] = duckdb_alone
    for where in given.dir or [Path(tempfile.gettempdir()), Path("/dev/shm")]:
        rounds: dict[str, list[list[float]]] = {name: [] for name in writers}
        batches: dict[str, list[int]] = {name: [] for name in writers}
        for _ in range(given.rounds):
            for name, make in writers.items():
                latencies, sizes = one_round(where, make, pool, given.rate, given.seconds)
                rounds[name].append(sorted(latencies))
                batches[name] += sizes
        load = ", ".join(f"{one:.1f}" for one in os.getloadavg())
        print(f"\n{where}: {given.rate} events/s offered, {given.rounds} rounds of {given.seconds} s; load {load}")
        print("all rounds together")
        show({name: sorted(itertools.chain.from_iterable(found)) for name, found in rounds.items()}, batches)
        own = {
            name: one_round(where, writers[name], pool, given.rate, given.seconds, Own()) for name in ("bare", "ledger")
        }
        print("by their own processor time: the software's share")
        show(
            {name: sorted(found) for name, (found, _) in own.items()}, {name: sizes for name, (_, sizes) in own.items()}
        )
        print("each one's quietest round: what others on the machine did to it, left out as far as that goes")
        show({name: min(found, key=lambda one: at(one, 0.5)) for name, found in rounds.items()}, batches)


class Wall:
    def now(self) -> float:
        return time.perf_counter()

    def wait(self, seconds: float) -> None:
        time.sleep(seconds)


class Own:
    """What this thread has computed and waited for."""

    def __init__(self) -> None:
        self._waited_s = 0.0

    def now(self) -> float:
        return time.thread_time() + self._waited_s

    def wait(self, seconds: float) -> None:
        self._waited_s += seconds


def one_round(
    where: Path, make: Any, pool: list[Fact], rate: int, seconds: float, clock: Wall | Own | None = None
) -> tuple[list[float], list[int]]:
    directory = Path(tempfile.mkdtemp(prefix="fetchml-append-", dir=where))
    write, close = make(directory, pool)
    gc.collect()
    gc.freeze()  # as the scheduler actor does
    gc.set_threshold(50_000, 20, 100)
    try:
        return offer(write, pool, rate, seconds, clock or Wall())
    finally:
        gc.unfreeze()
        close()
        shutil.rmtree(directory)


def offer(
    write: Write, pool: list[Fact], rate: int, seconds: float, clock: Wall | Own
) -> tuple[list[float], list[int]]:
    """Latency of each event, seconds, and the sizes of the batches. Whoever is too slow is stopped in the end."""
    total, done = int(rate * seconds), 0
    events = itertools.cycle(pool)
    latencies: list[float] = []
    sizes: list[int] = []
    begun = clock.now()
    while done < total:
        now = clock.now() - begun
        if now > 3 * seconds:
            break
        due = min(total, int(now * rate))
        if due == done:
            clock.wait(max(0.0, (done + 1) / rate - now))
            continue
        write(list(itertools.islice(events, due - done)))
        at = clock.now() - begun
        if now > WARM_S:
            latencies += [at - number / rate for number in range(done, due)]
            sizes.append(due - done)
        done = due
    if done < total:
        latencies += [float("inf")] * (total - done)
    return latencies, sizes


def ledger(directory: Path, _pool: list[Fact]) -> tuple[Write, Callable[[], None]]:
    writer = Ledger.open(directory / "ledger")
    spare = directory / "ledger" / "segments" / "spare"
    while not spare.exists():  # a daemon that has run for a second has one; each rotation then makes the next
        time.sleep(0.01)

    def write(batch: Sequence[Fact]) -> None:
        writer.append(batch)

    return write, writer.close


def bare(directory: Path, pool: list[Fact]) -> tuple[Write, Callable[[], None]]:
    """A file of zeros like a segment, begun again at its end."""
    path = directory / "bare"
    fill(path, SEGMENT_BYTES)
    file = os.open(path, os.O_RDWR)
    chain = Chain(0, bytes(32))
    frame = pack_frame(0, 0, [chain.append(fact)[1:] for fact in pool])
    each, longer = len(frame) // len(pool), frame * 20
    at = 0

    def write(batch: Sequence[Fact]) -> None:
        nonlocal at
        size = min(each * len(batch), len(longer))
        at = 0 if at + size > SEGMENT_BYTES else at
        os.pwrite(file, longer[:size], at)
        os.fdatasync(file)
        at += size

    return write, lambda: os.close(file)


def duckdb_alone(directory: Path, _pool: list[Fact]) -> tuple[Write, Callable[[], None]]:
    import duckdb
    import orjson
    import pyarrow as pa

    names = ("event_type", "action", "resource", "user_id", "success", "ip_address", "error", "at_us", "clock_us")
    db = duckdb.connect(str(directory / "events.duckdb"), config={"threads": "2"})
    db.execute(
        "CREATE TABLE events (seq BIGINT, event_type TEXT, action TEXT, resource TEXT, user_id TEXT, success BOOLEAN, "
        "ip_address TEXT, error TEXT, at_us BIGINT, clock_us BIGINT, metadata TEXT)"
    )
    seq = 0

    def write(batch: Sequence[Fact]) -> None:
        nonlocal seq
        columns: dict[str, Any] = {"seq": range(seq, seq + len(batch))}
        columns |= {name: [getattr(fact, name) for fact in batch] for name in names}
        columns["metadata"] = [orjson.dumps(fact.metadata).decode() for fact in batch]
        db.register("arriving", pa.table({name: list(values) for name, values in columns.items()}))
        db.execute("INSERT INTO events SELECT * FROM arriving")
        seq += len(batch)

    return write, db.close


def show(found: dict[str, list[float]], batches: dict[str, list[int]]) -> None:
    print(f"{'':8}{'median ms':>11}{'p95 ms':>9}{'p99 ms':>10}{'max ms':>10}{'kept up':>9}{'events/batch':>14}")
    for name, latencies in found.items():
        shown = "".join(
            f"{at(latencies, share) * 1e3:{width}.2f}" for share, width in ((0.5, 11), (0.95, 9), (0.99, 10), (1, 10))
        )
        kept = sum(one < float("inf") for one in latencies) / len(latencies)
        print(f"{name:8}{shown}{kept:9.0%}{statistics.mean(batches[name] or [0]):14.0f}")
    p99 = {name: at(latencies, 0.99) for name, latencies in found.items()}
    above = at(found["ledger"], 0.5) - at(found["bare"], 0.5)
    said = [f"median above bare: {above * 1e3:+.2f} ms", f"p99 of ledger / bare: {p99['ledger'] / p99['bare']:.1f}"]
    if "duckdb" in p99:
        said.append(f"of duckdb / ledger: {p99['duckdb'] / p99['ledger']:.1f}")
    print(", ".join(said))


def at(ordered: list[float], share: float) -> float:
    return ordered[min(len(ordered) - 1, int(share * len(ordered)))]


if __name__ == "__main__":
    main()
