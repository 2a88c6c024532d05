"""What a runner does with the journal of the one before it: adopts what still runs, and says what became of the rest.

Standard library only.
"""

from collections.abc import Mapping

from fetchmld.runner import proctree
from fetchmld.runner.attempts import GRACE_S, Attempt, Attempts
from fetchmld.runner.isolation import Isolation
from fetchmld.runner.journal import Entry, Record


def recover(
    entries: Mapping[str, Entry], attempts: Attempts, isolation: Isolation, marks: proctree.Marks, boot_id: str
) -> None:
    """Fill `attempts` with all that is not forgotten. `boot_id`: of the machine now."""
    open_ones = {key: entry for key, entry in entries.items() if entry.exit is None}
    users = {entry.uid: key for key, entry in open_ones.items() if entry.uid >= 0}
    marked = marks.find(set(open_ones), users) if open_ones else {}
    for key, entry in entries.items():
        if entry.exit is not None:
            attempts.all[key] = _ended(key, entry, entry.exit)
            continue
        start = entry.start or _unwritten_start([pid for pid, owner in marked.items() if owner == key], boot_id)
        _adopt(_attempt(key, entry, start, isolation), start.get("boot") or entry.boot, boot_id, attempts)


def _ended(key: str, entry: Entry, exit_: Record) -> Attempt:
    """An end that was recorded and perhaps reported, but not acknowledged."""
    told = {name: value for name, value in exit_.items() if name != "j"}
    return Attempt(key, 0, entry.slot, 0.0, 0.0, entry.uid, adopted=True, leader_gone=True, exit=told)


def _unwritten_start(pids: list[int], boot_id: str) -> Record:
    """The start that the runner before us made and could not write down any more; `pids` bear its mark."""
    for pid in pids:
        stat = proctree.stat_of(pid)
        if stat is not None and stat.session == pid:
            return {"pid": pid, "asked_t": stat.started_t, "started_t": stat.started_t, "boot": boot_id}
    return {}


def _attempt(key: str, entry: Entry, start: Record, isolation: Isolation) -> Attempt:
    asked_t, started_t = start.get("asked_t", 0.0), start.get("started_t", 0.0)
    attempt = Attempt(key, start.get("pid", 0), entry.slot, asked_t, started_t)
    attempt.uid, attempt.cell = entry.uid, isolation.adopt(entry.cell, entry.ooms)
    attempt.grace_s = start.get("grace_s", GRACE_S)
    attempt.log_bytes_max = start.get("log_bytes_max", 0)
    if limit_s := start.get("limit_s", 0.0):
        attempt.deadline_t = attempt.started_t + limit_s
    return attempt


def _adopt(attempt: Attempt, boot: str, boot_id: str, attempts: Attempts) -> None:
    """`boot`: the start of the machine in which it was started, "" where that is not known."""
    if boot and boot != boot_id:
        attempt.word, attempt.detail = "WORKER_LOST", "the machine was restarted while it ran"
        attempts.lost(attempt)
    elif not boot or not attempts.adopt(attempt):
        attempts.lost(attempt)
