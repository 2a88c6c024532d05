"""`python load/ledger/queries.py`: the index over a month of use: how fast it is made, asked and checked.

Writes a ledger of `--events` events (see `mixture.py`), has the index made from it and old segments sealed as a daemon does
(all but the newest 8), opens the index again, and asks for pages: each filter of the two lists alone and in pairs,
frequent, middling and rare values, the first page, one in the middle and the last one, each with its total, in turn over
`--rounds` rounds. Beside them, in the same rounds, the least that DuckDB can answer (`SELECT 1`); `own` is the thread's
processor time, which busy neighbours stretch less. Then the comparison with the segments that `audit verify` makes.

One process, one thread for the queries, as in the history actor. Exits 1 where a bound is not met.
"""

import argparse
import statistics
import sys
import tempfile
from collections.abc import Callable
from functools import partial
from itertools import combinations
from pathlib import Path
from time import perf_counter, process_time, thread_time
from typing import Any, Final

import mixture

from fetchmld.store.history import History
from fetchmld.store.retention import seal_old

NEWEST_MAX_MS: Final = 10.0
PAGE_MAX_MS: Final = 25.0
CATCH_UP_MIN: Final = 100_000  # events a second
CHECK_MAX_S: Final = 5.0  # per million events
SEAL_AFTER: Final = 8  # segments, the setting `seal_after_segments`
SEED: Final = 7

Query = dict[str, Any]
Ask = Callable[[], Any]


def main() -> int:
    options = _options()
    with tempfile.TemporaryDirectory(prefix="fetchml-load-") as made:
        directory = Path(options.directory or made)
        if not (directory / "ledger").exists():
            print(f"writing {options.events:,} events", flush=True)
            mixture.write(directory / "ledger", options.events, SEED)
        missed = 0 if options.keep else _make(directory)
        return max(missed, _measure(directory, options.rounds, options.pages_only))


def _options() -> argparse.Namespace:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--events", type=int, default=1_000_000, help="10,000,000 in the release run")
    parser.add_argument("--rounds", type=int, default=40, help="times that each page is asked for")
    parser.add_argument("--directory", help="keep the ledger here, and use the one that is there")
    parser.add_argument("--keep", action="store_true", help="ask the index that is in --directory, too")
    parser.add_argument("--pages-only", action="store_true", help="do not compare the index with the segments")
    return parser.parse_args()


def _make(directory: Path) -> int:
    """The index, in the file that a daemon would have. How many bounds were missed."""
    (directory / "index.duckdb").unlink(missing_ok=True)
    spent = process_time()
    history, made_s = _timed(lambda: _made(directory))
    count = history.next_seq
    _, closed_s = _timed(history.close)
    spent = process_time() - spent
    made = f"{count / (made_s + closed_s):,.0f} events/s, {spent / count * 1e6:.2f} us of processor each"
    print(f"made from the segments: {made}", flush=True)
    seal_old(directory / "ledger", SEAL_AFTER)
    return _bound("events indexed per second", count / (made_s + closed_s), CATCH_UP_MIN, at_least=True)


def _measure(directory: Path, rounds: int, pages_only: bool) -> int:
    history, opened_s = _timed(lambda: History(directory / "index.duckdb", directory / "ledger"))
    count = history.next_seq
    index, views = ((directory / name).stat().st_size / count for name in ("index.duckdb", "index.views"))
    tasks = history.tasks({})["total"]
    print(f"{count:,} events, {tasks:,} tasks; {index:.0f} bytes of index per event, {views:.0f} of views")
    print(f"opened in {opened_s:.2f} s", flush=True)
    missed = _pages(history, rounds)
    if pages_only:
        history.close()
        return min(missed, 1)
    spent = process_time()
    found, check_s = _timed(history.check)
    spent = process_time() - spent
    print(f"compared with the segments: {check_s:.1f} s, {spent / count * 1e6:.2f} us of processor an event")
    history.close()
    missed += not found["valid"]
    missed += _bound("seconds to compare a million", check_s / count * 1e6, CHECK_MAX_S)
    return min(missed, 1)


def _made(directory: Path) -> History:
    history = History(directory / "index.duckdb", directory / "ledger")
    history.catch_up()
    return history


def _pages(history: History, rounds: int) -> int:
    """Ask for every page in turn, `rounds` times. How many bounds were missed."""
    asks = {**_task_asks(history), **_event_asks(history)}
    asks["experiments"] = (history.experiments, NEWEST_MAX_MS)
    least = ("SELECT 1", lambda: history.file.db.execute("SELECT 1").fetchall())
    times: dict[str, list[float]] = {name: [] for name in (least[0], *asks)}
    own: dict[str, list[float]] = {name: [] for name in times}
    for _ in range(rounds):
        for name, ask in (least, *((name, ask) for name, (ask, _) in asks.items())):
            own_start = thread_time()
            times[name].append(_timed(ask)[1] * 1e3)
            own[name].append((thread_time() - own_start) * 1e3)
    print(f"\n{'page':<72}{'p50 ms':>8}{'p95 ms':>8}{'own p95':>9}{'bound':>7}")
    missed = 0
    for name, measured in times.items():
        bound = asks[name][1] if name in asks else None
        p95, own_p95 = (statistics.quantiles(found, n=20, method="inclusive")[-1] for found in (measured, own[name]))
        over = bound is not None and p95 > bound
        missed += over
        shown = "" if bound is None else f"{bound:7.0f}"
        print(
            f"{name:<72}{statistics.median(measured):8.2f}{p95:8.2f}{own_p95:9.2f}{shown}{'  MISSED' if over else ''}"
        )
    return missed


def _task_asks(history: History) -> dict[str, tuple[Ask, float]]:
    singles: list[Query] = [
        {"status": "completed"},
        {"status": "failed"},
        {"status": "running"},
        {"status": "queued"},
        {"user_id": "user-000"},
        {"user_id": "user-100"},
        {"user_id": mixture.RARE_USER},
        {"user_id": "nobody"},
        {"node_count": 1},
        {"node_count": 16},
        {"reservation_id": "res-007"},
        {"plugins": ("mlflow",)},
    ]
    return _asks("tasks", history.tasks, singles, 50)


def _event_asks(history: History) -> dict[str, tuple[Ask, float]]:
    newest, oldest = (
        history.events({"limit": 1, "offset": at})["events"][0]["at_us"] for at in (0, history.next_seq - 1)
    )
    tenth = (newest - oldest) // 10
    singles: list[Query] = [
        {"event_type": "job_started"},
        {"event_type": "scheduler_drain"},
        {"event_type": "plugin_configured"},
        {"user_id": "user-000"},
        {"user_id": "user-100"},
        {"user_id": mixture.RARE_USER},
        {"user_id": "nobody"},
        {"from_us": newest - tenth},
        {"to_us": oldest + tenth},
        {"from_us": oldest + 2 * tenth, "to_us": newest - 3 * tenth},
    ]
    return _asks("events", history.events, singles, 100)


def _asks(
    kind: str, ask: Callable[[Query], dict[str, Any]], singles: list[Query], limit: int
) -> dict[str, tuple[Ask, float]]:
    """No filter, each filter, each pair of different filters; the first page, one in the middle, the last."""
    pairs = [{**one, **other} for one, other in combinations(singles, 2) if not one.keys() & other.keys()]
    found: dict[str, tuple[Ask, float]] = {}
    for query in ({}, *singles, *pairs):
        total = ask({**query, "limit": 1})["total"]
        offsets = {"first": 0, "middle": total // 2, "last": max(total - limit, 0)}
        for where, offset in offsets.items():
            if not offset and where != "first":
                continue
            asked = {**query, "limit": limit, "offset": offset}
            words = " ".join(f"{name}={value}" for name, value in query.items()) or "no filter"
            bound = NEWEST_MAX_MS if not query and not offset else PAGE_MAX_MS
            found[f"{kind}: {words}, {where} of {total:,}"] = (partial(ask, asked), bound)
    return found


def _bound(what: str, measured: float, bound: float, at_least: bool = False) -> int:
    held = measured >= bound if at_least else measured <= bound
    print(f"{what}: {measured:,.2f}, bound {bound:,.0f}{'' if held else '  MISSED'}")
    return int(not held)


def _timed(work: Callable[[], Any]) -> tuple[Any, float]:
    start = perf_counter()
    return work(), perf_counter() - start


if __name__ == "__main__":
    sys.exit(main())
