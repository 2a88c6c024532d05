"""`why`, `priority`, `drain`, `undrain` and `reserve`, against a stub daemon."""

from tests.cli.conftest import Run
from tests.client.stub import Stub, answer

TASK = {"id": "abc", "job_name": "j", "status": "queued", "priority": 9}


def test_why_says_who_holds_what_it_lacks(client: Run, stub: Stub) -> None:
    said = {
        "task_id": "abc",
        "status": "queued",
        "reason": "needs 4 GPUs, worker w1 has 1 free",
        "estimate": "no estimate",
        "position": 0,
        "held_by": [{"kind": "task"}],
        "smaller_request": {"gpu": 1},
    }
    stub.handlers["GET /v1/tasks/abc"] = answer(200, TASK)
    stub.handlers["GET /v1/tasks/abc/explain"] = answer(200, said)
    ran = client("why", "abc")
    assert ran.code == 0, ran.err
    assert "needs 4 GPUs, worker w1 has 1 free" in ran.out
    assert "task of somebody else until nobody knows when" in ran.out
    assert "gpu=1" in ran.out
    assert client("-q", "why", "abc").out == "needs 4 GPUs, worker w1 has 1 free\n"


def test_priority(client: Run, stub: Stub) -> None:
    stub.handlers["GET /v1/tasks/abc"] = answer(200, TASK)
    stub.handlers["PATCH /v1/scheduler/jobs/abc/priority"] = answer(200, TASK)
    assert client("priority", "abc", "9").out == "abc has priority 9\n"
    assert client("priority", "abc", "11").code == 2


def test_drain_and_undrain(client: Run, stub: Stub) -> None:
    stub.handlers["GET /v1/scheduler/workers"] = answer(200, [{"id": "w1", "hostname": "box"}])
    stub.handlers["DELETE /v1/scheduler/workers/w1"] = answer(204, None)
    stub.handlers["POST /v1/scheduler/workers/w1/undrain"] = answer(200, {"id": "w1", "status": "active"})
    assert client("drain", "w1").out == "w1 is draining\n"
    assert client("undrain", "box").out == "w1 takes work again\n"
    assert client("drain", "w2").code == 3


def test_release_gpu_and_the_gpus_of_workers(client: Run, stub: Stub) -> None:
    stub.handlers["GET /v1/scheduler/workers"] = answer(200, [{"id": "w1"}])
    stub.handlers["POST /v1/scheduler/workers/w1/gpus/1/release"] = answer(200, {"id": "w1", "status": "active"})
    assert client("release-gpu", "w1", "1").out == "GPU 1 of w1 is in use again\n"
    assert client("release-gpu", "w1", "-1").code == 2
    held = {"index": 0, "uuid": "GPU-0", "type": "H200", "status": "held", "held_by": "abc"}
    held |= {"memory_mb": 143771, "used_mb": 1024, "utilization": 97}
    failed = {"index": 1, "uuid": "GPU-1", "type": "H200", "status": "quarantined", "cause": "xid 79"}
    stub.handlers["GET /v1/scheduler/workers"] = answer(200, [{"id": "w1", "status": "active", "gpus": [held, failed]}])
    out = client("workers").out
    assert ["w1", "0", "H200", "held", "1.0/140.4", "GB", "97", "%", "abc"] in [
        line.split() for line in out.split("\n")
    ]
    assert ["w1", "1", "H200", "quarantined", "xid", "79"] in [line.split() for line in out.split("\n")]


def test_reserve_lists_makes_and_gives_back(client: Run, stub: Stub) -> None:
    made = {
        "id": "r1",
        "status": "active",
        "user_id": "ada",
        "gpu_count": 2,
        "node_count": 1,
        "starts_at": "2026-01-01T00:00:00.000000Z",
        "expires_at": "2026-01-01T01:00:00.000000Z",
        "held": [{"worker_id": "w1", "gpu_count": 2}],
    }
    stub.handlers["POST /v1/scheduler/reservations"] = answer(201, made)
    stub.handlers["GET /v1/scheduler/reservations"] = answer(200, [made])
    stub.handlers["DELETE /v1/scheduler/reservations/r1"] = answer(204, None)
    assert "submit with --reservation r1" in client("reserve", "create", "--gpu", "2", "--for", "1h").out
    assert client("reserve", "ls").out.splitlines()[1].split()[:4] == ["r1", "active", "ada", "1x2"]
    assert client("reserve", "release", "r1").out == "r1 is given back\n"
