"""What is counted about requests, and the numbers of `GET /metrics` in Prometheus's text form.

Owns the metrics' names: each begins with `fetchml_`, ends with its unit, and never has a task, a user or an address as a
label, so the number of series is bounded by the number of operations.
"""

import time
from collections.abc import Mapping
from typing import Final

from aiohttp import web
from prometheus_client import CONTENT_TYPE_LATEST, CollectorRegistry, Counter, Gauge, Histogram, generate_latest
from prometheus_client.process_collector import ProcessCollector

from fetchmld import __version__
from fetchmld.api.guard import Handler, Operation
from fetchmld.core.model import Counts

CONTENT_TYPE: Final = CONTENT_TYPE_LATEST
_SECONDS: Final = (0.001, 0.0025, 0.005, 0.01, 0.025, 0.05, 0.1, 0.25, 0.5, 1.0, 2.5, 5.0, 10.0)
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
        self._answers = Counter(
            "fetchml_http_requests_total", "Answers by operation and status.", ["operation", "status"],
            registry=self._registry,
        )  # fmt: skip
        self._seconds = Histogram(
            "fetchml_http_request_duration_seconds",
            "From the request's head to the answer's end; streams and waits are left out.",
            ["operation"],
            buckets=_SECONDS,
            registry=self._registry,
        )
        self._gauges = {name: Gauge(f"fetchml_{name}", text, registry=self._registry) for name, text in _GAUGES.items()}
        self._queued = Gauge("fetchml_tasks_queued", "Tasks that wait, by kind.", ["kind"], registry=self._registry)
        self._workers = Gauge("fetchml_workers", "Workers by state.", ["state"], registry=self._registry)

    async def __call__(self, request: web.Request, handler: Handler) -> web.StreamResponse:
        operation = self._operations.get(request.match_info.route)
        name = _NO_OPERATION if operation is None else operation.id
        began = time.perf_counter()
        answer = await handler(request)
        self._answers.labels(name, str(answer.status)).inc()
        if name not in _LONG:
            self._seconds.labels(name).observe(time.perf_counter() - began)
        return answer

    def text(self, counts: Counts, newest_seq: int, long_answers: int) -> bytes:
        """All numbers as they are now."""
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


_GAUGES: Final = {
    "tasks_running": "Tasks that have started and not ended.",
    "reservations_active": "Reservations that hold capacity, or will.",
    "ledger_events": "Events in the record.",
    "long_answers": "Streams and waits that are open.",
}
