"""Every pair of statuses, tried against the tables."""

from itertools import product

import pytest

from fetchmld.core.lifecycle import ENDED, PLUGIN, RESERVATION, STARTED, TASK, WORKER, Impossible, advance
from fetchmld.core.model import (
    Capacity,
    Plugin,
    PluginConfig,
    PluginState,
    Reservation,
    ReservationStatus,
    Resources,
    Task,
    TaskId,
    TaskStatus,
    UserId,
    Worker,
    WorkerId,
    WorkerStatus,
)


def _task(status: TaskStatus) -> Task:
    return Task(TaskId("t"), UserId("u"), {}, Resources(), 0, 0.0, 0.0, status=status)


def _worker(status: WorkerStatus) -> Worker:
    return Worker(WorkerId("w"), Capacity(1, 1, 1, 1), "boot", "host", 0.0, status=status)


@pytest.mark.parametrize(("start", "to"), list(product(TASK, TASK)))
def test_a_task_moves_as_the_table_says(start: TaskStatus, to: TaskStatus) -> None:
    task = _task(start)
    if to in TASK[start]:
        advance(task, to)
        assert task.status == to
    else:
        with pytest.raises(Impossible, match=f"task t: {start} cannot become {to}"):
            advance(task, to)
        assert task.status == start


@pytest.mark.parametrize(("start", "to"), list(product(WORKER, WORKER)))
def test_a_worker_moves_as_the_table_says(start: WorkerStatus, to: WorkerStatus) -> None:
    worker = _worker(start)
    if to in WORKER[start]:
        advance(worker, to)
        assert worker.status == to
    else:
        with pytest.raises(Impossible, match=f"worker w: {start} cannot become {to}"):
            advance(worker, to)
        assert worker.status == start


@pytest.mark.parametrize(("start", "to"), list(product(PLUGIN, PLUGIN)))
def test_a_plugin_moves_as_the_table_says(start: PluginState, to: PluginState) -> None:
    plugin = Plugin("p", 1, PluginConfig(enabled=True, mode="sidecar", settings={}), status=start)
    if to in PLUGIN[start]:
        advance(plugin, to)
        assert plugin.status == to
    else:
        with pytest.raises(Impossible, match=f"plugin p: {start} cannot become {to}"):
            advance(plugin, to)
        assert plugin.status == start


@pytest.mark.parametrize(("start", "to"), list(product(RESERVATION, RESERVATION)))
def test_a_reservation_moves_as_the_table_says(start: ReservationStatus, to: ReservationStatus) -> None:
    reservation = Reservation("r", 1, UserId("u"), 1, "", 1, 0.0, 0.0, 1.0, 0.0, 1.0, status=start)
    if to in RESERVATION[start]:
        advance(reservation, to)
        assert reservation.status == to
    else:
        with pytest.raises(Impossible, match=f"reservation r: {start} cannot become {to}"):
            advance(reservation, to)
        assert reservation.status == start


def test_every_status_but_the_first_can_be_reached_and_every_end_is_final() -> None:
    reachable = {to for targets in TASK.values() for to in targets}
    assert reachable == set(TASK)
    assert all(not TASK[status] for status in ENDED)
    assert set(TASK) == STARTED | ENDED | {"queued"}
