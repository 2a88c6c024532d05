"""What tasks left as `metrics.json`, one row for each: read from their outputs, flattened, and kept for the next who asks.

An ended task's output never changes, so what was read once is kept, for the newest `KEPT_MAX` tasks that were asked about.
"""

import asyncio
import json
import math
from collections import OrderedDict
from collections.abc import Iterator
from typing import Any, Final

from fetchmld.api import wire
from fetchmld.api.head import Head
from fetchmld.core.errors import FetchmlError, NotFound
from fetchmld.core.model import TaskView

FILE_NAME: Final = "metrics.json"
FILE_BYTES_MAX: Final = 2**20
NAMES_MAX: Final = 1_000  # of one task
TEXT_CHARACTERS_MAX: Final = 4_096
DEPTH_MAX: Final = 16
READS_MAX: Final = 8  # at once
KEPT_MAX: Final = 10_000

Metrics = tuple[dict[str, Any], str]  # by name, and why they cannot be read


class MetricsReader:
    """One per application."""

    def __init__(self, head: Head) -> None:
        self._head = head
        self._kept: OrderedDict[str, Metrics] = OrderedDict()
        self._reads = asyncio.Semaphore(READS_MAX)

    async def rows(self, views: list[TaskView], *, redacted: bool) -> list[dict[str, Any]]:
        """TaskMetrics of each, in their order."""
        found = await asyncio.gather(*(self._metrics(view) for view in views))
        return [_row(view, metrics, redacted) for view, metrics in zip(views, found, strict=True)]

    async def _metrics(self, view: TaskView) -> Metrics:
        artifacts = (view["report"] or {}).get("artifacts")
        if artifacts is None:
            return {}, ""
        manifest = artifacts["manifest"]
        if manifest not in self._kept:
            async with self._reads:
                self._kept[manifest] = await self._read(view)
            if len(self._kept) > KEPT_MAX:
                self._kept.popitem(last=False)
        return self._kept[manifest]

    async def _read(self, view: TaskView) -> Metrics:
        try:
            entries = [one for one in await self._head.artifacts(view) if one["path"] == FILE_NAME]
            if not entries:
                return {}, ""
            if entries[0]["bytes"] > FILE_BYTES_MAX:
                return {}, f"{FILE_NAME} has {entries[0]['bytes']} bytes; {FILE_BYTES_MAX} are read at most"
            content = b"".join([chunk async for chunk in self._head.artifact(entries[0])])
        except NotFound:
            return {}, "its output is not kept any more"
        except FetchmlError as error:
            if error.status != 500:
                raise
            return {}, "its output cannot be read"
        return flattened(content)


def flattened(content: bytes) -> Metrics:
    """The numbers, texts and flags in a JSON object, nested names joined by dots; what JSON cannot carry as a number
    (NaN, infinities) as text."""
    try:
        value = json.loads(content)
    except (ValueError, RecursionError):
        return {}, f"{FILE_NAME} is not valid JSON"
    if not isinstance(value, dict):
        return {}, f"{FILE_NAME} holds no object of names and values"
    found: dict[str, Any] = {}
    for name, one in _leaves(value, "", DEPTH_MAX):
        if len(found) == NAMES_MAX:
            return found, f"{FILE_NAME} has more than {NAMES_MAX} values; these are the first"
        found[name] = one
    return found, ""


def _leaves(value: dict[str, Any], before: str, depth: int) -> Iterator[tuple[str, Any]]:
    for key, inner in value.items():
        name = _text(f"{before}{key}")
        if isinstance(inner, dict) and depth:
            yield from _leaves(inner, f"{name}.", depth - 1)
        elif isinstance(inner, float) and not math.isfinite(inner):
            yield name, str(inner)
        elif isinstance(inner, str):
            yield name, _text(inner)
        elif isinstance(inner, int | float) and abs(inner) < 2**63:
            yield name, inner


def _text(text: str) -> str:
    """Without what JSON as we send it cannot carry."""
    return text[:TEXT_CHARACTERS_MAX].encode("utf-8", "replace").decode()


def _row(view: TaskView, metrics: Metrics, redacted: bool) -> dict[str, Any]:
    values, problem = metrics
    out: dict[str, Any] = {
        "task_id": view["id"],
        "job_name": view["request"]["job_name"],
        "status": view["status"],
        "created_at": wire.instant(view["created_at"]),
        "params": {} if redacted else view.get("params", {}),
        "metrics": values,
    }
    if view["ended_at"]:
        out["ended_at"] = wire.instant(view["ended_at"])
    if problem:
        out["problem"] = problem
    return out


def table(experiment_id: str, rows: list[dict[str, Any]], total: int, limit: int, offset: int) -> dict[str, Any]:
    """ExperimentMetrics: the rows, and which names occur in them."""
    return {
        "experiment_id": experiment_id,
        "params": sorted({name for row in rows for name in row["params"]}),
        "metrics": sorted({name for row in rows for name in row["metrics"]}),
        "tasks": rows,
        "total": total,
        "limit": limit,
        "offset": offset,
    }
