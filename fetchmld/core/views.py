"""What leaves the core: copies of the state, complete and JSON-ready."""

from fetchmld.core import arrays
from fetchmld.core.desk import Desk
from fetchmld.core.explain import wait_reason
from fetchmld.core.lifecycle import ENDED
from fetchmld.core.model import (
    Counts,
    Gpu,
    GpuView,
    Reservation,
    ReservationView,
    Task,
    TaskView,
    Worker,
    WorkerView,
)
from fetchmld.core.state import State


def task_view(desk: Desk, task: Task) -> TaskView:
    view = TaskView(
        id=task.id,
        user_id=task.user_id,
        request=task.request,
        status=task.status,
        priority=task.priority,
        priority_aged=desk.aged(task),
        created_at=task.created_at,
        started_at=task.started_at,
        ended_at=task.ended_at,
        attempt=task.attempt,
        retry_count=task.own_failures + task.infra_failures,
        assignments=task.assignments,
        error=task.error,
        reason=task.reason,
        wait_reason=wait_reason(desk, task),
        report=task.report,
        last_seq=task.last_seq,
    )
    if task.cancel_by and task.status not in ENDED:
        view["stopping"] = True
    if task.earlier:
        view["earlier"] = task.earlier
    if task.plugins:
        view["plugins"] = task.plugins
    if task.array is not None:
        view["array"] = arrays.view(task.array)
    if task.array_id:
        view["array_id"], view["array_index"] = task.array_id, task.index
        parent = desk.state.task(task.array_id)
        if parent is not None:
            view["params"] = arrays.values_of(parent.request["array"], task.index)
    return view


def worker_view(desk: Desk, worker: Worker) -> WorkerView:
    capacity = worker.capacity
    return WorkerView(
        id=worker.id,
        hostname=worker.hostname,
        status=worker.status,
        connected_at=worker.connected_at,
        heartbeat_at=worker.heartbeat_at,
        cpu_cores=capacity.cpu,
        memory_gb=capacity.memory_gb,
        gpu_count=len(capacity.gpus),
        gpu_type="|".join(sorted({gpu.type for gpu in capacity.gpus})),
        cpu_free=worker.cpu_free,
        memory_free_gb=worker.memory_free_gb,
        gpu_free=len(worker.gpus_free),
        batch_free=worker.batch_free,
        batch_total=capacity.batch_slots,
        service_free=worker.service_free,
        service_total=capacity.service_slots,
        active_tasks=sorted(worker.tasks),
        detail=worker.detail,
        gpus=_gpu_views(desk.state, worker),
    )


def _gpu_views(state: State, worker: Worker) -> list[GpuView]:
    tasks = [state.tasks[task_id] for task_id in worker.tasks] if worker.capacity.gpus else []
    nodes = [(task.id, node) for task in tasks for node in task.assignments if node["worker_id"] == worker.id]
    holders = {index: task_id for task_id, node in nodes for index in node["gpus"]}
    return [_gpu_view(worker, gpu, holders.get(gpu.index, "")) for gpu in worker.capacity.gpus]


def _gpu_view(worker: Worker, gpu: Gpu, held_by: str) -> GpuView:
    view = GpuView(index=gpu.index, uuid=gpu.uuid, type=gpu.type, status="held" if held_by else "free")
    if held_by:
        view["held_by"] = held_by
    if gpu.memory_mb:
        view["memory_mb"] = gpu.memory_mb
    if (use := worker.gpu_use.get(gpu.uuid)) is not None:
        view["used_mb"], view["utilization"] = use["used_mb"], use["utilization"]
        if use["processes"] and not held_by:
            view["status"] = "occupied"
    if (cause := worker.quarantined.get(gpu.uuid)) is not None:
        view["status"], view["cause"] = "quarantined", cause
    return view


def reservation_view(desk: Desk, reservation: Reservation) -> ReservationView:
    return ReservationView(
        id=reservation.id,
        user_id=reservation.user_id,
        gpu_count=reservation.gpu_count,
        gpu_type=reservation.gpu_type,
        node_count=reservation.node_count,
        created_at=reservation.created_at,
        starts_at=reservation.starts_at,
        expires_at=reservation.expires_at,
        status=reservation.status,
        held={str(worker_id): count for worker_id, count in desk.holds.held(reservation.id).items()},
    )


def counts(state: State) -> Counts:
    """Live numbers: queued, running, workers by status, reservations."""
    statuses = [worker.status for worker in state.workers.values()]
    return Counts(
        batch_queued=state.tally.queued["batch"],
        service_queued=state.tally.queued["service"],
        running=state.tally.running,
        workers_total=len(statuses),
        workers_active=statuses.count("active") + statuses.count("suspect"),
        workers_draining=statuses.count("draining"),
        reservations_active=sum(r.status != "expired" for r in state.reservations.values()),
    )
