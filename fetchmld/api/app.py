"""The application: which operation is served where, and how the parts of the API are put together.

Owns the table of routes, in the contract's order and then ours. Whoever runs it calls `build_app` and `make_runner`.
"""

import re
from typing import Final

import orjson
from aiohttp import web

from fetchmld.api.admission import Admission
from fetchmld.api.connections import Connections, Limits
from fetchmld.api.context import (
    ADMISSION,
    CONFIG,
    CONNECTIONS,
    DOCUMENT,
    HEAD,
    HUB,
    INTAKE,
    LOGINS,
    METER,
    METRICS,
    PAGES,
    REMOTES,
    SHORT_WAY,
    STREAMS,
    UNDER_WAY,
)
from fetchmld.api.experiment_metrics import MetricsReader
from fetchmld.api.feed import Hub
from fetchmld.api.guard import Operation, make_guard
from fetchmld.api.handlers import (
    artifacts,
    audit,
    blobs,
    console,
    docs,
    experiments,
    health,
    history,
    jupyter,
    keys,
    logs,
    objects,
    plugins,
    reservations,
    scheduler,
    sessions,
    shipped_logs,
    snapshots,
    streams,
    tasks,
    tunnels,
)
from fetchmld.api.head import Head
from fetchmld.api.intake import Intake
from fetchmld.api.meter import Meter
from fetchmld.api.openapi import build_document
from fetchmld.api.pages import Pages
from fetchmld.api.protocol import make_runner
from fetchmld.api.remotes import Remotes
from fetchmld.api.short_way import ShortWay
from fetchmld.api.streams import Streams
from fetchmld.config import Config

__all__ = ["OPERATIONS", "build_app", "make_runner"]

_WHOLE_NAME: Final = re.compile(r"\{\w+\}")
_TASK: Final = "/v1/tasks/{taskId}"
_PLUGIN: Final = "/v1/plugins/{pluginName}"
_WORKER: Final = "/v1/scheduler/workers/{workerId}"
_RESERVATIONS: Final = "/v1/scheduler/reservations"
_BLOB: Final = "/v1/blobs/{hash}"
_OBJECT: Final = "/v1/objects/{hash}"
_SERVICE: Final = "/v1/jupyter/services/{serviceId}"
_JOB: Final = "/v1/scheduler/jobs/{jobId}"
_EXPERIMENT: Final = "/v1/experiments/{experimentId}"

OPERATIONS: Final[tuple[Operation, ...]] = (
    Operation("getHealth", "GET", "/health", health.health, is_open=True),
    Operation("listTasks", "GET", "/v1/tasks", tasks.list_, is_brisk=True),
    Operation("createTask", "POST", "/v1/tasks", tasks.create, is_brisk=True),
    Operation("createTasks", "POST", "/v1/tasks/batch", tasks.create_many),
    Operation("getTask", "GET", _TASK, tasks.read, is_brisk=True),
    Operation("deleteTask", "DELETE", _TASK, tasks.delete),
    Operation("getQueueStats", "GET", "/v1/queue", scheduler.queue),
    Operation("listPlugins", "GET", "/v1/plugins", plugins.list_),
    Operation("getPlugin", "GET", _PLUGIN, plugins.read),
    Operation("getPluginConfig", "GET", f"{_PLUGIN}/config", plugins.config),
    Operation("putPluginConfig", "PUT", f"{_PLUGIN}/config", plugins.configure),
    Operation("disablePlugin", "DELETE", f"{_PLUGIN}/config", plugins.disable),
    Operation("getPluginHealth", "GET", f"{_PLUGIN}/health", plugins.health),
    Operation("getSchedulerStatus", "GET", "/v1/scheduler/status", scheduler.status),
    Operation("streamSchedulerStatus", "GET", "/v1/scheduler/status/stream", streams.scheduler_status),
    Operation("listWorkers", "GET", "/v1/scheduler/workers", scheduler.list_workers),
    Operation("getWorker", "GET", _WORKER, scheduler.read_worker),
    Operation("drainWorker", "DELETE", _WORKER, scheduler.drain),
    Operation("listReservations", "GET", _RESERVATIONS, reservations.list_),
    Operation("createReservation", "POST", _RESERVATIONS, reservations.create),
    Operation("updateJobPriority", "PATCH", f"{_JOB}/priority", tasks.set_priority),
    Operation("streamJob", "GET", f"{_JOB}/stream", streams.job),
    Operation("listAuditEvents", "GET", "/v1/audit/events", audit.events),
    Operation("verifyAuditChain", "POST", "/v1/audit/verify", audit.verify),
    Operation("getAuditChainRoot", "GET", "/v1/audit/chain-root", audit.chain_root),
    Operation("listExperiments", "GET", "/v1/experiments", experiments.list_),
    Operation("createExperiment", "POST", "/v1/experiments", experiments.create),
    Operation("listJupyterServices", "GET", "/v1/jupyter/services", jupyter.list_),
    Operation("startJupyterService", "POST", "/v1/jupyter/services", jupyter.start),
    Operation("stopJupyterService", "DELETE", _SERVICE, jupyter.stop),
    Operation("openWebSocket", "GET", "/ws", streams.websocket),
    # Beside the contract's.
    Operation("readJupyterService", "GET", _SERVICE, jupyter.read),
    Operation("seeJupyter", "*", "/jupyter/{serviceId}{rest:.*}", jupyter.pages, is_described=False),
    Operation("seePlugin", "*", "/plugins/{pluginName}{rest:.*}", plugins.pages, is_described=False),
    Operation("answerCall", "GET", "/v1/tunnels/{ticket}", tunnels.answer, is_described=False),
    Operation("getConsole", "GET", "/", console.page, is_open=True),
    Operation("getConsoleFile", "GET", "/console/{file}", console.file, is_open=True),
    Operation("getLiveness", "GET", "/livez", health.livez, is_open=True),
    Operation("getReadiness", "GET", "/readyz", health.readyz, is_open=True),
    Operation("getOpenapi", "GET", "/openapi.json", health.openapi, is_open=True),
    Operation("getDocs", "GET", "/docs", docs.page, is_open=True),
    Operation("getDocsFile", "GET", "/docs/{file}", docs.file, is_open=True),
    Operation("getAuditCheckpoint", "GET", "/v1/audit/checkpoint", audit.checkpoint),
    Operation("proveAuditEvent", "GET", "/v1/audit/proof", audit.prove),
    Operation("proveAuditConsistency", "GET", "/v1/audit/consistency", audit.consistency),
    Operation("queryHistory", "POST", "/v1/history/query", history.ask),
    Operation("rotateAuditKey", "POST", "/v1/audit/rotate-key", audit.rotate_key),
    Operation("pruneAudit", "POST", "/v1/audit/prune", audit.prune),
    Operation("getMetrics", "GET", "/metrics", health.metrics),
    Operation("explainTask", "GET", f"{_TASK}/explain", tasks.explain),
    Operation("undrainWorker", "POST", f"{_WORKER}/undrain", scheduler.undrain),
    Operation("releaseGpu", "POST", f"{_WORKER}/gpus/{{index}}/release", scheduler.release_gpu),
    Operation("releaseReservation", "DELETE", f"{_RESERVATIONS}/{{reservationId}}", reservations.release),
    Operation("listKeys", "GET", "/v1/keys", keys.list_),
    Operation("createKey", "POST", "/v1/keys", keys.create),
    Operation("revokeKey", "DELETE", "/v1/keys/{keyId}", keys.revoke),
    Operation("createSession", "POST", "/v1/sessions", sessions.log_in, is_open=True),
    Operation("readSession", "GET", "/v1/sessions", sessions.read, is_open=True),
    Operation("endSession", "DELETE", "/v1/sessions", sessions.log_out),
    Operation("createTicket", "POST", "/v1/sessions/tickets", sessions.create_ticket),
    Operation("enterByTicket", "GET", "/sessions/{ticket}", sessions.enter, is_open=True),
    Operation("getExperiment", "GET", _EXPERIMENT, experiments.read),
    Operation("updateExperiment", "PATCH", _EXPERIMENT, experiments.update),
    Operation("getExperimentMetrics", "GET", f"{_EXPERIMENT}/metrics", experiments.metrics),
    Operation("getTaskLogs", "GET", f"{_TASK}/logs", logs.read),
    Operation("listTaskArtifacts", "GET", f"{_TASK}/artifacts", artifacts.list_),
    Operation("getTaskArtifact", "GET", f"{_TASK}/artifacts/{{path:.+}}", artifacts.read),
    Operation("diffBlobs", "POST", "/v1/snapshots/diff", snapshots.diff),
    Operation("createSnapshot", "POST", "/v1/snapshots", snapshots.create),
    Operation("listSnapshots", "GET", "/v1/snapshots", snapshots.list_),
    Operation("getSnapshot", "GET", "/v1/snapshots/{snapshotId}", snapshots.read),
    Operation("putBlob", "PUT", _BLOB, blobs.put),
    Operation("getBlob", "GET", _BLOB, blobs.read),
    Operation("putObject", "PUT", _OBJECT, objects.put),
    Operation("getObject", "GET", _OBJECT, objects.read),
    Operation("getShippedLogs", "GET", "/v1/shipped-logs/{workerId}", shipped_logs.lengths),
    Operation("shipLogs", "POST", "/v1/shipped-logs/{workerId}", shipped_logs.take),
)


def build_app(head: Head, config: Config) -> web.Application:
    """The whole API over `head`. Run it with `make_runner`, so that errors below the application have our shape too."""
    mounted: dict[web.AbstractRoute, Operation] = {}
    guard = make_guard(head, config, mounted)
    meter = Meter(mounted)
    app = web.Application(middlewares=[meter, guard], client_max_size=config.body_bytes_max)
    app[HEAD] = head
    app[CONFIG] = config
    app[INTAKE] = Intake(config)
    app[ADMISSION] = Admission(head, config, app[INTAKE])
    app[UNDER_WAY] = set()
    app[DOCUMENT] = orjson.dumps(build_document(OPERATIONS))
    app[METER] = meter
    app[LOGINS] = guard.logins
    app[CONNECTIONS] = connections = Connections(_limits(config))
    pages = app[PAGES] = Pages(head)
    app[METRICS] = MetricsReader(head)
    remotes = app[REMOTES] = Remotes(config.plugin_private_hosts)
    app[HUB] = Hub(head)
    long_answers = app[STREAMS] = Streams(head)
    for operation in OPERATIONS:
        for method in ("GET", "HEAD") if operation.method == "GET" and operation.is_open else (operation.method,):
            route = app.router.add_route(method, _without_namesakes(operation.path), operation.handler)
            mounted[route] = operation
    app.on_response_prepare.append(guard.add_headers)
    short = app[SHORT_WAY] = ShortWay(app, meter, guard)
    short.open(mounted, (operation.path for operation in OPERATIONS))
    app.cleanup_ctx.extend((long_answers.watching_keys, connections.watching, meter.watching_loop))
    app.on_shutdown.extend((long_answers.end_all, guard.close))
    app.on_cleanup.extend((pages.close, remotes.close))
    return app


def _without_namesakes(path: str) -> str:
    """The path as it is mounted: `/v1/tasks/{taskId}` is not also `/v1/tasks/batch`, which has methods of its own."""
    start, _, name = path.rpartition("/")
    if not _WHOLE_NAME.fullmatch(name):
        return path
    beside = (operation.path.rpartition("/") for operation in OPERATIONS)
    others = sorted({other for begin, _, other in beside if begin == start and "{" not in other})
    return f"{start}/{{{name[1:-1]}:(?!(?:{'|'.join(others)})$)[^/]+}}" if others else path


def _limits(config: Config) -> Limits:
    return Limits(
        unauthenticated_max=config.connections_unauthenticated_max,
        per_key_max=config.connections_per_key_max,
        header_s=config.header_s,
        stalled_s=config.stalled_s,
    )
