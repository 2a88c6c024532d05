"""Removes the oldest part of the record: `python -m fetchmld.store.pruning DIR/ledger plan|prepare|commit ...`.

A process of its own beside a running daemon. What goes is whole segments below a boundary, of which a checkpoint was
signed; what stays are the tree's tiles, so that everything later still verifies and proofs of what is gone can still be
checked, and one file that stands for it (`boundary`). Three steps, each of which leaves the ledger whole when it is
stopped anywhere:

    plan      which event would be the first: prints {"first_seq": n, "events": m, "bytes": b, "until_us": t}, or
              {"first_seq": -1} where nothing goes
    prepare   check what is to go against the tiles and write `pruned.next`; prints the same and its hash, "pruned"
              (whoever asked records an `audit.policy` that names this hash)
    commit    make the tiles durable, put `pruned.next` in force, remove; prints {"first_seq": n, "freed_bytes": b}

Prints {"first_bad": n, "why": ...} where what is to go is not what was written, {"error": ...} where it cannot be done now.
"""

import argparse
import gc
import itertools
import os
from collections.abc import Iterable, Iterator
from contextlib import closing
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any, Final

import orjson

from fetchmld.core.arrays import place_of
from fetchmld.core.chain import HASH_BYTES, genesis_hash, unpack
from fetchmld.core.merkle import TILE_WIDTH, leaf_hash, root_at, subtree_hash
from fetchmld.core.messages import Fact
from fetchmld.core.state import State
from fetchmld.store import boundary, snapshots, state_form
from fetchmld.store.boundary import NEXT, Boundary
from fetchmld.store.landmarks import read_genesis, read_head
from fetchmld.store.notes import read_checkpoint
from fetchmld.store.segment import LedgerDamaged
from fetchmld.store.tail import Record, Tail
from fetchmld.store.tiles import TileStore, newest_note

_AT_ONCE: Final = 256
_NICENESS: Final = 15
_CARRIED: Final = ("experiment.", "key.rotate")  # beginnings of actions whose records are carried for ever


@dataclass(frozen=True, slots=True)
class Plan:
    """The record would begin at event `first_seq`; `until_us` is the time of the event before it."""

    first_seq: int
    events: int
    bytes: int
    until_us: int


class Later(ValueError):
    """It cannot be done now; says why."""


# ---- plan -----------------------------------------------------------------------------------------------------------


def plan(ledger_dir: Path, before_us: int) -> Plan | None:
    """What goes if all events before `before_us` may: whole segments of such, of which a checkpoint was signed and which
    `head` has behind it; never the newest segment. None where nothing does. Raises LedgerDamaged, OSError, Later.
    """
    begins = boundary.first_seq(ledger_dir)
    segments = boundary.segments_from(ledger_dir, begins)
    most = _covered(ledger_dir)
    best, freed = None, 0
    for (_, path), (seq, _) in itertools.pairwise(segments):
        freed += path.stat().st_size
        if seq > most:
            break
        with closing(Tail(ledger_dir, from_seq=seq - 1)) as tail:
            until_us = tail.read(seq - 1, 1)[0].fact.at_us
        if until_us >= before_us:
            break
        best = Plan(seq, seq - begins, freed, until_us)
    return best


def _covered(ledger_dir: Path) -> int:
    """No event from here on may go."""
    try:
        head = read_head(ledger_dir).next_seq
    except (FileNotFoundError, ValueError) as problem:
        raise Later(f"head cannot be read: {problem}") from problem
    note = newest_note(ledger_dir)
    return min(head, read_checkpoint(note).size) if note else 0


# ---- prepare --------------------------------------------------------------------------------------------------------


def prepare(ledger_dir: Path, first_seq: int) -> str:
    """Write `pruned.next` for a record that begins at `first_seq`, as `plan` gave it; its hash, in hex.

    What is to go is read once more, event by event: each must be in the tree, and the tree must be the one that was
    signed, for afterwards the tiles are all that says so. Raises LedgerDamaged, OSError, Later.
    """
    old, genesis = boundary.load(ledger_dir), genesis_hash(read_genesis(ledger_dir))
    if old is None:
        kept, compared = _Kept((), State()), _Compared(ledger_dir, 0, ())
    else:
        kept = _Kept(old.carried, state_form.from_bytes(old.state))
        compared = _Compared(ledger_dir, old.boundary.first_seq, old.boundary.edge)
    begins = (old.boundary.first_seq, old.boundary.prev_hash) if old else (0, genesis)
    newest, fact = None, None
    for newest in _records(ledger_dir, *begins, first_seq):
        compared.take(newest)
        fact = kept.take(newest)
    if newest is None or fact is None:
        raise Later(f"the record begins at event {begins[0]} already")
    edge = compared.finish()
    told = Boundary(first_seq, newest.event_hash, fact.at_us, fact.clock_us, genesis, edge)
    return boundary.write_next(ledger_dir, told, kept.carried(), state_form.to_bytes(kept.state)).hex()


def _records(ledger_dir: Path, begins: int, prev_hash: bytes, first_seq: int) -> Iterator[Record]:
    with closing(Tail(ledger_dir, begins, prev_hash)) as tail:
        while tail.next_seq < first_seq:
            yield from tail.read_records(first_seq - 1, _AT_ONCE)


class _Kept:
    """The state so far, and the records that are carried: those of a task for as long as it lives, some for ever."""

    def __init__(self, carried: Iterable[Record], state: State) -> None:
        self.state = state
        self._for_ever: list[Record] = []
        self._of_task: dict[str, list[Record]] = {}
        for one in carried:
            self._put(_fact(one), one)

    def take(self, one: Record) -> Fact:
        fact = _fact(one)
        self.state.apply(fact)
        self._put(fact, one)
        if fact.resource in self._of_task and fact.resource not in self.state.tasks:
            del self._of_task[fact.resource]
        return fact

    def _put(self, fact: Fact, one: Record) -> None:
        """An element's records are its array's: its rows are shown as long as that has not ended."""
        if fact.action.startswith(_CARRIED):
            self._for_ever.append(one)
        elif fact.action.startswith("task."):
            place = place_of(fact.resource)
            owner = place[0] if place is not None and place[0] in self._of_task else fact.resource
            self._of_task.setdefault(owner, []).append(one)

    def carried(self) -> list[Record]:
        return sorted([*self._for_ever, *(one for records in self._of_task.values() for one in records)])


def _fact(one: Record) -> Fact:
    return unpack(one.record, 0, len(one.record), orjson.loads)[2]


class _Compared:
    """Compares events with the lowest tiles as they come, and in the end the tiles with what was signed."""

    def __init__(self, ledger_dir: Path, begins: int, edge: Iterable[bytes]) -> None:
        self._ledger_dir = ledger_dir
        self._read = TileStore(ledger_dir).read
        self._index = begins // TILE_WIDTH
        self._leaves = list(edge)

    def take(self, one: Record) -> None:
        self._leaves.append(leaf_hash(one.event_hash))
        if len(self._leaves) == TILE_WIDTH:
            above = self._read(1, self._index // TILE_WIDTH, self._index % TILE_WIDTH + 1)
            at = self._index % TILE_WIDTH * HASH_BYTES
            self._must(above[at : at + HASH_BYTES] == subtree_hash(self._leaves))
            self._must(self._read(0, self._index, TILE_WIDTH) == b"".join(self._leaves))
            self._index, self._leaves = self._index + 1, []

    def finish(self) -> tuple[bytes, ...]:
        """The leaf hashes of the tile that the boundary is in. Raises Later, OSError, ValueError."""
        signed = read_checkpoint(newest_note(self._ledger_dir))
        edge = b"".join(self._leaves)
        self._must(not edge or self._read(0, self._index, len(self._leaves)).startswith(edge))
        self._must(root_at(signed.size, self._read) == signed.root)
        return tuple(self._leaves)

    def _must(self, right: bool) -> None:
        if not right:
            raise Later(
                "the tree's tiles are not what the events give, or not what was signed: run `fetchmld audit verify`"
            )


# ---- commit ---------------------------------------------------------------------------------------------------------


def commit(ledger_dir: Path, digest: str) -> tuple[int, int]:
    """Put the `pruned.next` with this hash, which is on record, in force and remove what lies below: (the first event that
    is left, bytes freed). Raises LedgerDamaged, OSError, Later.
    """
    coming = boundary.load(ledger_dir, NEXT)
    if coming is None or coming.boundary.digest.hex() != digest:
        raise Later(f"{NEXT} is not the one that was recorded")
    first_seq = coming.boundary.first_seq
    TileStore(ledger_dir).sync(boundary.first_seq(ledger_dir) // TILE_WIDTH, first_seq // TILE_WIDTH)
    boundary.take_next(ledger_dir)
    for seq, path in snapshots.listed(ledger_dir):
        if seq <= first_seq:
            path.unlink(missing_ok=True)
    return first_seq, boundary.remove_below(ledger_dir, first_seq)


# ---- as a process ---------------------------------------------------------------------------------------------------


def main() -> None:
    parser = argparse.ArgumentParser(prog="python -m fetchmld.store.pruning")
    parser.add_argument("ledger_dir", type=Path)
    steps = parser.add_subparsers(dest="step", required=True)
    for step in ("plan", "prepare"):
        steps.add_parser(step).add_argument("before_us", type=int, help="Events from this time on stay.")
    steps.add_parser("commit").add_argument("digest", help="What `audit.policy` names.")
    given = parser.parse_args()
    os.nice(_NICENESS)
    gc.disable()  # it lives for a moment and makes no garbage
    print(orjson.dumps(_said(given)).decode())


def _said(given: argparse.Namespace) -> dict[str, Any]:
    try:
        if given.step == "commit":
            first_seq, freed = commit(given.ledger_dir, given.digest)
            return {"first_seq": first_seq, "freed_bytes": freed}
        found = plan(given.ledger_dir, given.before_us)
        if found is None:
            return {"first_seq": -1}
        said = asdict(found)
        return {**said, "pruned": prepare(given.ledger_dir, found.first_seq)} if given.step == "prepare" else said
    except LedgerDamaged as damage:
        return {"first_bad": damage.first_bad, "why": damage.why}
    except (OSError, ValueError) as problem:
        return {"error": str(problem)}


if __name__ == "__main__":
    main()
