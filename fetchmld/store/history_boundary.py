"""The index of a record whose beginning was pruned: what is carried is in it, and nothing else from below the boundary.

`carried` are original records, kept apart from the events: tasks and experiments are folded from both, lists of events
show the events alone. An index that was there when the record was pruned is shortened; the result is the same as a new
one's.
"""

from collections.abc import Sequence

import pyarrow as pa

from fetchmld.store import experiment_rows
from fetchmld.store.blocks import Block, empty_block, task_table
from fetchmld.store.boundary import Pruned
from fetchmld.store.history_file import IndexDoubt, IndexFile
from fetchmld.store.segment import SIZE
from fetchmld.store.tail import Record


def carried_block(carried: Sequence[Record]) -> Block:
    """Carried records as events, in their order; they do not follow on each other."""
    block = empty_block()
    for one in carried:
        block.take(SIZE.pack(len(one.record)) + one.record + one.event_hash, 0, one.seq, 1, None)
    return block


def fill(file: IndexFile, pruned: Pruned) -> None:
    """Begin an empty index at the boundary."""
    block = carried_block(pruned.carried)
    tasks, _ = block.fold({}, {})
    rows = sorted(tasks.values(), key=lambda row: row.submit_seq)
    with file.transaction():
        _put_carried(file, block)
        if rows:
            file.insert("tasks", task_table(rows))
        experiments = experiment_rows.fold({}, experiment_rows.facts_of(block))
        file.insert("experiments", experiment_rows.to_arrow(experiments.values()))
        begins = pruned.boundary
        file.db.execute(
            "UPDATE meta SET installation = ?, next_seq = ?, last_hash = ?, first_seq = ?, before_us = ?",
            [begins.genesis, begins.first_seq, begins.prev_hash, begins.first_seq, begins.at_us],
        )


def shorten(file: IndexFile, pruned: Pruned) -> None:
    """Remove what lies below the boundary from an index that reaches it. Raises `IndexDoubt` where it says otherwise."""
    begins, block = pruned.boundary, carried_block(pruned.carried)
    newest = file.db.execute("SELECT event_hash FROM events WHERE seq = ?", [begins.first_seq - 1]).fetchall()
    if newest != [(begins.prev_hash,)]:
        raise IndexDoubt(f"its event {begins.first_seq - 1} is not the last one that was pruned")
    with file.transaction():
        file.db.execute("DELETE FROM carried")
        _put_carried(file, block)
        for table in ("events", "places"):
            file.db.execute(f"DELETE FROM {table} WHERE seq < ?", [begins.first_seq])
        file.db.execute(
            "DELETE FROM tasks WHERE submit_seq < ? AND id NOT IN (SELECT resource FROM carried)", [begins.first_seq]
        )
        file.db.execute("DELETE FROM tasks WHERE array_id <> '' AND array_id NOT IN (SELECT id FROM tasks)")
        file.db.execute("UPDATE meta SET first_seq = ?, before_us = ?", [begins.first_seq, begins.at_us])


def first_slot(file: IndexFile) -> int | None:
    """The lowest slot of a view whose task was submitted behind the boundary; None where there is none."""
    ((slot,),) = file.db.execute(
        "SELECT min(slot) FROM tasks WHERE slot > 0 AND submit_seq >= (SELECT first_seq FROM meta)"
    ).fetchall()
    return None if slot is None else int(slot)


def _put_carried(file: IndexFile, block: Block) -> None:
    if block.count:
        file.insert("carried", pa.Table.from_batches([block.events()]))
