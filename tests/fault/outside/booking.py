"""Nothing is promised twice: cores, memory, slots and GPUs by the record, cores and GPUs by what really ran."""

import math
from collections import defaultdict
from collections.abc import Iterator
from dataclasses import dataclass, field
from typing import Any, Final

from tests.fault.outside.case import Case, Problem
from tests.fault.outside.ledger import Event

RULE: Final = "booked once"
SERVICE: Final = "service"


@dataclass(slots=True)
class Worker:
    """What is free; what failed and what is wanted empty."""

    free: dict[str, int]
    gpus: set[int]
    is_drained: bool = False
    held: dict[str, tuple[dict[str, int], set[int]]] = field(default_factory=dict)


def check(case: Case) -> Iterator[Problem]:
    yield from _on_record(case)
    yield from _in_truth(case)


def _on_record(case: Case) -> Iterator[Problem]:
    workers: dict[str, Worker] = {}
    requests: dict[str, dict[str, Any]] = {}
    for event in case.events:
        match event.action:
            case "worker.join":
                _join(workers, event)
            case "worker.drain" | "worker.undrain" if event.resource in workers:
                workers[event.resource].is_drained = event.action == "worker.drain"
            case "task.submit":
                requests[event.resource] = event.metadata["request"]
            case "task.start":
                yield from _start(workers, event, requests.get(event.resource, {}))
            case "task.requeue" | "task.completed" | "task.failed" | "task.cancelled":
                _release(workers, event.resource)


def _join(workers: dict[str, Worker], event: Event) -> None:
    capacity = event.metadata["capacity"]
    free = {"cpu": capacity["cpu"], "memory_gb": capacity["memory_gb"]}
    free |= {"batch": capacity["batch_slots"], SERVICE: capacity["service_slots"]}
    worker = Worker(free, {gpu["index"] for gpu in capacity["gpus"]})
    if (before := workers.get(event.resource)) is not None:
        worker.is_drained = before.is_drained
        for task_id, (amounts, gpus) in before.held.items():
            _hold(worker, task_id, amounts, gpus)
    workers[event.resource] = worker


def _start(workers: dict[str, Worker], event: Event, request: dict[str, Any]) -> Iterator[Problem]:
    slot = SERVICE if request.get("kind") == SERVICE else "batch"
    amounts = {"cpu": request.get("cpu", 1), "memory_gb": request.get("memory_gb", 0), slot: 1}
    places = [node["worker_id"] for node in event.metadata["assignments"]]
    who = f"event {event.seq} (attempt {event.metadata['attempt']} of {event.resource})"
    if len(set(places)) != len(places) or len(places) != request.get("node_count", 1):
        yield Problem(RULE, f"{who}: on {places}, and it wants {request.get('node_count', 1)} nodes")
    for node in event.metadata["assignments"]:
        worker, gpus = workers.get(node["worker_id"]), set(node["gpus"])
        if worker is None:
            yield Problem(RULE, f"{who}: {node['worker_id']} never joined")
            continue
        if worker.is_drained:
            yield Problem(RULE, f"{who}: starts on {node['worker_id']}, which is to be empty")
        if len(node["gpus"]) != request.get("gpu", 0) or not gpus <= worker.gpus:
            yield Problem(RULE, f"{who}: GPUs {node['gpus']} of {node['worker_id']}, of which {worker.gpus} are free")
        _hold(worker, event.resource, amounts, gpus)
        if over := {name: left for name, left in worker.free.items() if left < 0}:
            yield Problem(RULE, f"{who}: {node['worker_id']} has less than nothing left: {over}")


def _hold(worker: Worker, task_id: str, amounts: dict[str, int], gpus: set[int]) -> None:
    worker.held[task_id] = amounts, gpus
    worker.gpus = worker.gpus - gpus
    for name, amount in amounts.items():
        worker.free[name] -= amount


def _release(workers: dict[str, Worker], task_id: str) -> None:
    for worker in workers.values():
        amounts, gpus = worker.held.pop(task_id, ({}, set()))
        worker.gpus = worker.gpus | gpus
        for name, amount in amounts.items():
            worker.free[name] += amount


def _in_truth(case: Case) -> Iterator[Problem]:
    """Processes of jobs, by when they lived: never more cores at once than the worker has, never two with one GPU."""
    places = {
        (task_id, event.metadata["attempt"], node["rank"]): (node["worker_id"], node["gpus"], events[0])
        for task_id, events in case.tasks.items()
        for event in events
        if event.action == "task.start"
        for node in event.metadata["assignments"]
    }
    cores = {
        event.resource: event.metadata["capacity"]["cpu"] for event in case.events if event.action == "worker.join"
    }
    changes: dict[str, list[tuple[float, int, str, int, list[int]]]] = defaultdict(list)
    for run in case.runs:
        place = places.get((run.task_id, run.attempt, run.rank))
        if place is not None:
            worker_id, gpus, submitted = place
            cpu = submitted.metadata["request"].get("cpu", 1)
            changes[worker_id].append((run.began_s, 1, run.task_id, cpu, gpus))
            ended_s = max(run.last_s, math.nextafter(run.began_s, math.inf))  # who speaks once begins before it ends
            changes[worker_id].append((ended_s, 0, run.task_id, -cpu, gpus))
    for worker_id, found in changes.items():
        used, holders = 0, dict[int, str]()
        for _, begins, task_id, cpu, gpus in sorted(found):
            used += cpu
            if used > cores.get(worker_id, 0):
                yield Problem(
                    RULE, f"{used} cores of {worker_id}'s {cores.get(worker_id, 0)} in use when {task_id} began"
                )
            for gpu in gpus:
                if begins and gpu in holders:
                    yield Problem(RULE, f"GPU {gpu} of {worker_id}: {task_id} began while {holders[gpu]} ran")
                if begins or holders.get(gpu) == task_id:
                    holders.pop(gpu, None)
                if begins:
                    holders[gpu] = task_id
