"""How long a verification takes beside a bare loop of the same hashes, over the same events in the same run.

    python load/ledger/verify.py [--events 1000000] [--rounds 3] [--directory DIR]

`bare` slices each record out of the segments, already in memory, and hashes it: BLAKE3, and for the tree SHA-256 of each
leaf and node. It checks nothing. The verifier reads the files, and checks frames, sums, links, numbers, head, and with
`ledger` the tree's tiles and each checkpoint's root and signature too. Batches of 100 events, then frames of one each.
All is processor time of this one thread: what else runs on the machine then counts less.
"""

import argparse
import gc
import sys
import tempfile
import time
from collections.abc import Callable, Iterator
from contextlib import closing
from hashlib import sha256
from pathlib import Path

from blake3 import blake3

from fetchmld.core.messages import Fact
from fetchmld.store.ledger import Ledger
from fetchmld.store.log_tree import LogTree
from fetchmld.store.notes import new_genesis
from fetchmld.store.segment import HEADER, SIZE, list_segments, read_header
from fetchmld.verify_checkpoints import verify_ledger
from fetchmld.verify_walk import verify_segments

CHECKPOINTS = 500


def fact(number: int) -> Fact:
    metadata = {"request": {"job_name": f"job-{number}", "entrypoint": "python train.py", "cpu": 1}, "priority": 5}
    return Fact("job_queued", "task.submit", f"task-{number:012d}", "alice", True, "127.0.0.1", "", metadata)


def write(directory: Path, events: int, batch: int) -> float:
    """Processor seconds that the tree needed to catch up with all of it, checkpoints included."""
    ledger = Ledger.open(directory, genesis=new_genesis(directory), sync=lambda _descriptor: None)
    with ledger, closing(LogTree(directory)) as tree:
        spent, every = 0.0, max(1, events // CHECKPOINTS)
        while ledger.next_seq < events:
            first = ledger.next_seq
            ledger.append([fact(number) for number in range(first, min(events, first + batch))])
            if ledger.next_seq // every > first // every or ledger.next_seq >= events:
                begun = time.process_time()
                while not tree.advance(ledger.next_seq - 1, ledger.root_hash):
                    pass
                tree.sign()
                spent += time.process_time() - begun
    return spent


def records(directory: Path) -> Iterator[tuple[bytes, list[tuple[int, int]]]]:
    """Each segment's bytes, and where in them its records are."""
    for _, path in list_segments(directory / "segments"):
        buffer, at, found = path.read_bytes(), 0, []
        while (header := read_header(buffer, at)) is not None:
            start = at + HEADER.size
            for _ in range(header.events):
                (size,) = SIZE.unpack_from(buffer, start)
                found.append((start + 4, start + 4 + size))
                start += 36 + size
            at += header.frame_bytes
        yield buffer, found


def bare_chain(segments: list[tuple[bytes, list[tuple[int, int]]]]) -> list[bytes]:
    return [blake3(buffer[start:end]).digest() for buffer, places in segments for start, end in places]


def bare_all(segments: list[tuple[bytes, list[tuple[int, int]]]]) -> bytes:
    nodes = [sha256(b"\0" + digest).digest() for digest in bare_chain(segments)]
    while len(nodes) > 1:
        odd = nodes[-1:] if len(nodes) % 2 else []
        nodes = [sha256(b"\1" + nodes[at] + nodes[at + 1]).digest() for at in range(0, len(nodes) - 1, 2)] + odd
    return nodes[0]


def timed(work: Callable[[], object]) -> float:
    gc.collect()
    begun = time.process_time()
    work()
    return time.process_time() - begun


def compare(directory: Path, events: int, rounds: int) -> None:
    segments = list(records(directory))
    assert verify_ledger(directory).total_events == events
    rows: dict[str, list[float]] = {"chain": [], "ledger": []}
    for _ in range(rounds):
        bare, both = timed(lambda: bare_chain(segments)), timed(lambda: bare_all(segments))
        chain, ledger = timed(lambda: verify_segments(directory)), timed(lambda: verify_ledger(directory))
        rows["chain"].append(chain / bare)
        rows["ledger"].append(ledger / both)
        print(f"  chain {chain:.2f} s, bare {bare:.2f} s: {chain / bare:.2f}", end="; ")
        print(f"ledger with tree and checkpoints {ledger:.2f} s, bare {both:.2f} s: {ledger / both:.2f}")
    for name, ratios in rows.items():
        print(f"  {name}: median {sorted(ratios)[len(ratios) // 2]:.2f} times its bare loop")


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0] if __doc__ else "")
    parser.add_argument("--events", type=int, default=1_000_000)
    parser.add_argument("--rounds", type=int, default=3)
    parser.add_argument("--batches", type=int, nargs="*", default=[100, 1])
    parser.add_argument("--directory", type=Path, help="where to write; default: a temporary one")
    given = parser.parse_args()
    for batch in given.batches:
        with tempfile.TemporaryDirectory(dir=given.directory) as place:
            directory = Path(place) / "ledger"
            directory.mkdir()
            spent = write(directory, given.events, batch)
            print(f"{given.events} events in frames of {batch}; the tree took {spent:.2f} s to follow", flush=True)
            compare(directory, given.events, given.rounds)
            sys.stdout.flush()


if __name__ == "__main__":
    main()
