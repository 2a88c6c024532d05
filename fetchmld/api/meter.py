"""What is counted about requests, and the numbers of `GET /metrics` in Prometheus's text form.

Owns the metrics' names: each begins with `fetchml_`, ends with its unit, and never has a task, a user or an address as a
label, so the number of series is bounded by the number of operations.
"""

import asyncio
import time
from collections import Counter
from collections.abc import AsyncIterator, Iterator, Mapping, Sequence
from contextlib import suppress
from typing import Final

from aiohttp import web
from prometheus_client import CONTENT_TYPE_LATEST, CollectorRegistry, Gauge, generate_latest
from prometheus_client.metrics_core import CounterMetricFamily, GaugeMetricFamily, HistogramMetricFamily, Metric
from prometheus_client.process_collector import ProcessCollector
from prometheus_client.registry import Collector
from prometheus_client.utils import floatToGoString

from fetchmld import __version__
from fetchmld.api.guard import Handler, Operation
from fetchmld.core.model import Counts
from fetchmld.measures import MOMENTS_S, Distribution, SchedulerMeasures, Spread, watch_loop

CONTENT_TYPE: Final = CONTENT_TYPE_LATEST
_LONG: Final = frozenset({"streamSchedulerStatus", "streamJob", "openWebSocket", "getTaskLogs", "getTask"})
_NO_OPERATION: Final = "none"


class Meter:
    """The application's outermost middleware: counts every answer, also a refusal."""

    __middleware_version__ = 1  # what `web.middleware` sets on a function

    def __init__(self, operations: Mapping[web.AbstractRoute, Operation]) -> None:
        self._operations = operations
        self._registry = CollectorRegistry(auto_describe=True)
        ProcessCollector(namespace="fetchml_head", registry=self._registry)
        build = Gauge("fetchml_build_info", "The version that runs.", ["version"], registry=self._registry)
        build.labels(__version__).set(1)
        self._requests = _Requests()
        self._registry.register(self._requests)
        self._loop_lag_s = Spread(MOMENTS_S)
        self._schedulers = _Schedulers()
        self._registry.register(self._schedulers)
        self._gauges = {name: Gauge(f"fetchml_{name}", text, registry=self._registry) for name, text in _GAUGES.items()}
        self._queued = Gauge("fetchml_tasks_queued", "Tasks that wait, by kind.", ["kind"], registry=self._registry)
        self._workers = Gauge("fetchml_workers", "Workers by state.", ["state"], registry=self._registry)

    async def __call__(self, request: web.Request, handler: Handler) -> web.StreamResponse:
        operation = self._operations.get(request.match_info.route)
        name = _NO_OPERATION if operation is None else operation.id
        began = time.perf_counter()
        answer = await handler(request)
        self._requests.count(name, answer.status, time.perf_counter() - began)
        return answer

    async def watching_loop(self, _app: web.Application) -> AsyncIterator[None]:
        """Takes how late the loop is while the server runs (a `cleanup_ctx`)."""
        watching = asyncio.create_task(watch_loop(self._loop_lag_s))
        yield
        watching.cancel()
        with suppress(asyncio.CancelledError):
            await watching

    def text(self, counts: Counts, measures: SchedulerMeasures, newest_seq: int, long_answers: int) -> bytes:
        """All numbers as they are now."""
        self._schedulers.measures, self._schedulers.head_lag_s = measures, self._loop_lag_s.data()
        self._queued.labels("batch").set(counts["batch_queued"])
        self._queued.labels("service").set(counts["service_queued"])
        for state in ("total", "active", "draining"):
            self._workers.labels(state).set(counts[f"workers_{state}"])  # type: ignore[literal-required]
        now = {
            "tasks_running": counts["running"],
            "reservations_active": counts["reservations_active"],
            "ledger_events": newest_seq + 1,
            "long_answers": long_answers,
        }
        for name, value in now.items():
            self._gauges[name].set(value)
        return generate_latest(self._registry)


class _Requests(Collector):
    """How many were answered, and how long it took. Counted by hand: the library's counters take ten times as long."""

    def __init__(self) -> None:
        self._counts: Counter[tuple[str, int]] = Counter()
        self._seconds: dict[str, Spread] = {}

    def count(self, operation: str, status: int, took_s: float) -> None:
        self._counts[operation, status] += 1
        if operation not in _LONG:
            if (spread := self._seconds.get(operation)) is None:
                spread = self._seconds[operation] = Spread(MOMENTS_S)
            spread.take(took_s)

    def collect(self) -> Iterator[Metric]:
        answers = CounterMetricFamily(
            "fetchml_http_requests", "Answers by operation and status.", labels=["operation", "status"]
        )
        for (operation, status), count in sorted(self._counts.items()):
            answers.add_metric([operation, str(status)], count)
        yield answers
        yield _histogram(
            "fetchml_http_request_duration_seconds",
            "From the request's head to the answer's end; streams and waits are left out.",
            {(operation,): spread.data() for operation, spread in sorted(self._seconds.items())},
            ["operation"],
        )


class _Schedulers(Collector):
    """The scheduler's numbers, as it last said them."""

    def __init__(self) -> None:
        self.measures: SchedulerMeasures | None = None
        self.head_lag_s: Distribution | None = None

    def collect(self) -> Iterator[Metric]:
        said, lag = self.measures, self.head_lag_s
        if said is None or lag is None:
            return
        yield CounterMetricFamily("fetchml_tasks_started", "Starts of attempts.", said["started"])
        ended = CounterMetricFamily("fetchml_tasks_ended", "Ends of tasks, by what they ended with.", labels=["reason"])
        for reason, count in sorted(said["ended"].items()):
            ended.add_metric([reason], count)
        yield ended
        requeued = CounterMetricFamily(
            "fetchml_tasks_requeued", "Attempts that are repeated, by why.", labels=["reason"]
        )
        for reason, count in sorted(said["requeued"].items()):
            requeued.add_metric([reason], count)
        yield requeued
        gpus = GaugeMetricFamily("fetchml_gpus", "GPUs of all workers, by state.", labels=["state"])
        for state in ("free", "held", "occupied", "quarantined"):
            gpus.add_metric([state], said["gpus"].get(state, 0))
        yield gpus
        for name, text in _SPREADS.items():
            yield _histogram(f"fetchml_{name}_seconds", text, {(): said[_FIELDS[name]]})  # type: ignore[literal-required]
        loops: dict[tuple[str, ...], Distribution] = {("head",): lag, ("scheduler",): said["loop_lag_s"]}
        yield _histogram(
            "fetchml_event_loop_lag_seconds", "How late the event loop comes to what is due.", loops, ["actor"]
        )


def _histogram(
    name: str, text: str, found: Mapping[tuple[str, ...], Distribution], labels: Sequence[str] = ()
) -> HistogramMetricFamily:
    family = HistogramMetricFamily(name, text, labels=labels)
    for values, spread in found.items():
        reached, buckets = 0, []
        for bound, count in zip([*map(floatToGoString, spread["bounds"]), "+Inf"], spread["counts"], strict=True):
            reached += count
            buckets.append((bound, float(reached)))
        family.add_metric(values, buckets, spread["total"])
    return family


_SPREADS: Final = {
    "task_wait": "From a task's submission to each of its starts.",
    "task_run": "From a task's newest start to its end.",
    "ledger_acknowledge": "From the oldest message of a batch of changes to its answer, durable by then.",
    "ledger_append": "Writing and syncing one batch.",
}
_FIELDS: Final = {
    "task_wait": "wait_s",
    "task_run": "run_s",
    "ledger_acknowledge": "acknowledge_s",
    "ledger_append": "append_s",
}
_GAUGES: Final = {
    "tasks_running": "Tasks that have started and not ended.",
    "reservations_active": "Reservations that hold capacity, or will.",
    "ledger_events": "Events in the record.",
    "long_answers": "Streams and waits that are open.",
}
