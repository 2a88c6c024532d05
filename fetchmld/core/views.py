"""What leaves the core: copies of the state, complete and JSON-ready."""

from collections import Counter

from fetchmld.core import arrays
from fetchmld.core.desk import Desk
from fetchmld.core.explain import wait_reason
from fetchmld.core.model import Counts, Reservation, ReservationView, Task, TaskView, Worker, WorkerView
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
    if task.earlier:
        view["earlier"] = task.earlier
    if task.array is not None:
        view["array"] = arrays.view(task.array)
    if task.array_id:
        view["array_id"], view["array_index"] = task.array_id, task.index
        parent = desk.state.task(task.array_id)
        if parent is not None:
            view["params"] = arrays.values_of(parent.request["array"], task.index)
    return view


def worker_view(worker: Worker) -> WorkerView:
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
    )


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
    """Live numbers: queued, running, workers by status, reservations. Of an array its elements count, not itself."""
    units = [task for task in state.tasks.values() if task.array is None]
    waiting = Counter(task.resources.kind for task in units if task.status == "queued")
    running = len(units) - waiting.total()
    for task in state.tasks.values():
        if task.array is not None and not task.array.closed:
            waiting[task.resources.kind] += task.array.unnamed
    statuses = [worker.status for worker in state.workers.values()]
    return Counts(
        batch_queued=waiting["batch"],
        service_queued=waiting["service"],
        running=running,
        workers_total=len(statuses),
        workers_active=statuses.count("active") + statuses.count("suspect"),
        workers_draining=statuses.count("draining"),
        reservations_active=sum(r.status != "expired" for r in state.reservations.values()),
    )
