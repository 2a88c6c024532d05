"""A small record with the histories that belong to it, made by hand, for faults to be planted in.

Written by the bytes of docs/ledger-format.md and nothing of the product. Wall time goes on by a millisecond a step; a
job's CLOCK_BOOTTIME is the same in seconds.
"""

import json
import struct
import zlib
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, Final

from blake3 import blake3

STEP_US: Final = 1_000
KINDS: Final = {"task": "job_queued", "worker": "scheduler_drain", "reservation": "scheduler_drain"}
TASKS, ONE = "POST /v1/tasks", "GET /v1/tasks/{taskId}"
Line = dict[str, Any]


@dataclass(slots=True)
class Story:
    now_us: int = 1_700_000_000_000_000
    facts: list[Line] = field(default_factory=list)
    said: list[Line] = field(default_factory=list)
    runs: list[Line] = field(default_factory=list)

    def tick(self) -> int:
        self.now_us += STEP_US
        return self.now_us

    def fact(
        self, action: str, resource: str, user: str = "", trace: str = "", error: str = "", **metadata: Any
    ) -> Line:
        metadata |= {"trace_id": trace} if trace else {}
        made = {"action": action, "resource": resource, "user": user, "error": error, "at_us": self.tick()}
        self.facts.append({**made, "metadata": metadata})
        return self.facts[-1]

    def ask(self, user: str, operation: str, target: str = "", body: Any = None, **more: Any) -> Line:
        """A request that begins now; `answer` it."""
        path = operation.split()[1]
        name = path[path.index("{") : path.index("}") + 1] if "{" in path else ""
        role = {"ad": "admin", "op": "operator"}.get(user, "user")
        number = sum(one["client"] == user for one in self.said) + 1
        who = {"client": user, "user": user, "role": role, "number": number, "trace": f"{len(self.said) + 1:032x}"}
        asked = {"operation": operation, "path": path.replace(name, target) if name else path, "body": body}
        self.said.append({**who, **asked, "begun_us": self.tick(), "ended_us": 0, "status": 0, "answer": None, **more})
        return self.said[-1]

    def answer(self, said: Line, status: int, answer: Any = None) -> None:
        said |= {"status": status, "answer": answer, "ended_us": self.tick()}

    def run(self, task: str, attempt: int, code: int, steps: int = 3, pid: int = 100) -> None:
        me = {"task": task, "attempt": attempt, "rank": 0, "pid": pid + len(self.runs), "start": 1, "gpus": ""}
        for step in range(steps):
            at_us = self.tick()
            end = {"exit": code} if step == steps - 1 else {}
            self.runs.append({**me, "boot_s": at_us / 1e6, "wall_us": at_us, **end})

    # -- written down

    def write(self, directory: Path) -> tuple[Path, Path]:
        """The histories' folder and the data directory."""
        histories, data = directory / "histories", directory / "data"
        for path in (histories / "clients", histories / "jobs", data / "ledger" / "segments"):
            path.mkdir(parents=True)
        for said in self.said:
            said["ended_us"] = said["ended_us"] or self.now_us
            with (histories / "clients" / f"{said['client']}.jsonl").open("a") as file:
                file.write(json.dumps(said) + "\n")
        (histories / "jobs" / "runs.jsonl").write_text("".join(json.dumps(line) + "\n" for line in self.runs))
        self._write_ledger(data / "ledger")
        return histories, data

    def _write_ledger(self, ledger: Path) -> None:
        (ledger / "genesis.json").write_text(json.dumps({"installation": "x", "created_us": 1, "public_key": ""}))
        last, frames = blake3(struct.pack(">8sqHH", b"FMLGEN01", 1, 1, 0) + b"x").digest(), b""
        for seq, fact in enumerate(self.facts):
            record = record_of(seq, last, fact)
            last = blake3(record).digest()
            frames += frame_of(seq, record + last)
        (ledger / "segments" / f"{0:020}.log").write_bytes(frames + bytes(512))
        (ledger / "head").write_text(json.dumps({"next_seq": len(self.facts), "event_hash": last.hex()}))

    def hashes(self) -> list[str]:
        """The event hashes, as they would be written now."""
        last, found = blake3(struct.pack(">8sqHH", b"FMLGEN01", 1, 1, 0) + b"x").digest(), []
        for seq, fact in enumerate(self.facts):
            last = blake3(record_of(seq, last, fact)).digest()
            found.append(last.hex())
        return found


def record_of(seq: int, last: bytes, fact: Line) -> bytes:
    kind = KINDS.get(fact["action"].partition(".")[0], "file_access")
    texts = [kind, fact["action"], fact["resource"], fact["user"], "", fact["error"]]
    parts = [text.encode() for text in texts]
    parts.append(
        json.dumps(fact["metadata"], sort_keys=True, separators=(",", ":")).encode() if fact["metadata"] else b""
    )
    flags = (not fact["error"]) | 2 * bool(fact["user"]) | 8 * bool(fact["error"]) | 16 * bool(fact["metadata"])
    head = struct.pack(">8sQ32sqqB6HI", b"FMLEVT01", seq, last, fact["at_us"], 1, flags, *map(len, parts))
    return head + b"".join(parts)


def frame_of(seq: int, record_and_hash: bytes) -> bytes:
    payload = struct.pack(">I", len(record_and_hash) - 32) + record_and_hash
    head = struct.pack(">8sQQIII", b"FMLFRM01", seq, seq, 1, len(payload), zlib.crc32(payload))
    return head + struct.pack(">I", zlib.crc32(head)) + payload + b"FMLEND01"


def told() -> Story:
    """A worker, five tasks of two users, and one of each other thing."""
    story = Story()
    gpus = [{"index": index, "type": "T", "uuid": ""} for index in range(2)]
    capacity = {"cpu": 2, "memory_gb": 8, "batch_slots": 3, "service_slots": 0, "gpus": gpus}
    story.fact("worker.join", "w", capacity=capacity)
    submit(story, "u1", "a", {"job_name": "a", "cpu": 1})
    start(story, "a", 1)
    read(story, "u1", "a", "running", 1)
    story.run("a", 1, 0)
    end(story, "a", 1)
    read(story, "u1", "a", "completed", 1)
    read(story, "u2", "a", "completed", 1, stranger=True)
    _task_with_a_retry(story)
    _task_that_is_refused_and_one_that_is_cancelled(story)
    _the_rest(story)
    return story


def _task_with_a_retry(story: Story) -> None:
    """Asked for twice under one key; its first attempt fails."""
    body = {"job_name": "b", "cpu": 1, "gpu": 1}
    lost = story.ask("u1", TASKS, body=body, key="k")
    submit(story, "u1", "b", body, key="k", trace=lost["trace"])
    start(story, "b", 1, gpus=[0])
    story.run("b", 1, 3)
    story.fact("task.requeue", "b", "u1", attempt=1, cause="EXIT_NONZERO")
    asked = story.ask("u1", "PATCH /v1/scheduler/jobs/{jobId}/priority", "b", {"priority": 9})
    story.fact("task.reprioritise", "b", "u1", asked["trace"], priority=9)
    story.answer(asked, 200, view("b", "queued", 1, 9))
    read(story, "u1", "b", "queued", 1, 9)
    start(story, "b", 2, gpus=[0])
    story.run("b", 2, 0)
    end(story, "b", 2)
    read(story, "u1", "b", "completed", 2, 9)


def _task_that_is_refused_and_one_that_is_cancelled(story: Story) -> None:
    refused = story.ask("u1", TASKS, body={"job_name": "c", "priority": 11})
    story.answer(refused, 422, {"error": "priority: must be at most 10", "code": "VALIDATION_ERROR", "trace_id": "x"})
    submit(story, "u2", "d", {"job_name": "d", "cpu": 1})
    asked = story.ask("u2", "DELETE /v1/tasks/{taskId}", "d")
    error = "CANCELLED: by u2 while queued"
    story.fact("task.cancelled", "d", "u2", asked["trace"], error, attempt=0, report={}, by="u2")
    story.answer(asked, 204)
    read(story, "u2", "d", "failed", 0, error=error)
    submit(story, "u2", "e", {"job_name": "e", "cpu": 2, "gpu": 1})
    start(story, "e", 1, gpus=[1])
    story.run("e", 1, 0)
    end(story, "e", 1)
    listed = story.ask("u2", "GET /v1/tasks")
    story.answer(listed, 200, {"tasks": [view("e", "completed", 1), view("d", "failed", 0, error=error)], "total": 2})
    stream = story.ask("u2", "GET /v1/scheduler/jobs/{jobId}/stream", "e")
    number = str(len(story.facts) - 1)
    story.answer(stream, 200)
    stream["events"] = [{"id": number, "event": "task_complete", "data": {"task": view("e", "completed", 1)}}]


def _the_rest(story: Story) -> None:
    asked = story.ask("u1", "POST /v1/experiments", body={"name": "x"})
    story.fact("experiment.create", "x1", "u1", asked["trace"], name="x", description="")
    story.answer(asked, 201, {"id": "x1", "status": "active", "name": "x"})
    asked = story.ask("u1", "POST /v1/scheduler/reservations", body={"gpu_count": 1})
    story.fact("reservation.create", "r", "u1", asked["trace"], gpu_count=1, gpu_type="", node_count=1)
    story.answer(asked, 201, {"id": "r", "status": "active"})
    story.fact("reservation.expire", "r", "u1")
    for operation, action in (("DELETE /v1/scheduler/workers/{workerId}", "drain"),):
        asked = story.ask("op", operation, "w")
        story.fact(f"worker.{action}", "w", "op", asked["trace"], running=0)
        story.answer(asked, 204)
    asked = story.ask("ad", "PUT /v1/plugins/{pluginName}/config", "p", {"enabled": True, "mode": "sidecar"})
    story.fact("plugin.update", "p", "ad", asked["trace"], config={"enabled": True, "mode": "sidecar", "settings": {}})
    story.answer(asked, 200, {"name": "p", "enabled": True, "mode": "sidecar"})
    asked = story.ask("ad", "POST /v1/audit/verify")
    total, root = len(story.facts), story.hashes()[-1]
    story.fact("audit.verify", "ledger", "ad", asked["trace"], valid=True)
    story.answer(asked, 200, {"valid": True, "total_events": total, "chain_root_hash": root})
    asked, fact = story.ask("ad", "GET /v1/audit/events"), story.facts[1]
    shown = {"sequence_num": 1, "event_hash": story.hashes()[1], "action": fact["action"], "resource": fact["resource"]}
    story.answer(asked, 200, {"events": [shown]})


def submit(story: Story, user: str, task: str, body: Line, key: str = "", trace: str = "") -> Line:
    """The fact is the one of an earlier request where `trace` says so."""
    asked = story.ask(user, TASKS, body=body, key=key)
    fact = story.fact("task.submit", task, user, trace or asked["trace"], request=body, priority=5)
    story.answer(asked, 201, view(task, "queued", 0))
    return fact


def start(story: Story, task: str, attempt: int, gpus: list[int] | None = None) -> Line:
    where = [{"rank": 0, "worker_id": "w", "gpus": gpus or []}]
    return story.fact("task.start", task, attempt=attempt, assignments=where, aged=5.0)


def end(story: Story, task: str, attempt: int) -> Line:
    return story.fact("task.completed", task, attempt=attempt, report={"exit_code": 0})


def read(
    story: Story,
    user: str,
    task: str,
    status: str,
    attempt: int,
    priority: int = 5,
    *,
    error: str = "",
    stranger: bool = False,
) -> Line:
    asked = story.ask(user, ONE, task, query={"stranger": "yes"} if stranger else {})
    refusal = {"error": f"there is no task {task}", "code": "NOT_FOUND", "trace_id": "x"}
    story.answer(asked, *((404, refusal) if stranger else (200, view(task, status, attempt, priority, error))))
    return asked


def view(task: str, status: str, attempt: int, priority: int = 5, error: str = "") -> Line:
    user = "u2" if task in ("d", "e") else "u1"
    return {"id": task, "status": status, "attempt": attempt, "priority": priority, "error": error, "user_id": user}
