"""Everything else that is read: health, queue, workers, audit, experiments, artifacts, the document."""

import json
from pathlib import Path
from typing import Any

import pytest
from aiohttp import ClientPayloadError

from fetchmld import __version__
from fetchmld.api.head import Anchoring, SinkStatus
from fetchmld.core.errors import Unavailable
from fetchmld.verify import TAMPERED, VALID, VALID_UNVOUCHED
from fetchmld.verify_merkle import read_signed
from fetchmld.verify_proof import check_proof
from tests.api.served import KEYS, Api, with_api

ADMIN, AUDITOR, OTHER = KEYS["admin"], KEYS["auditor"], KEYS["other"]


def test_health_says_what_is_missing(tmp_path: Path) -> None:
    async def test(api: Api) -> None:
        _, health = await api.call("GET", "/health", key=None)
        assert health.pop("timestamp").endswith("Z")
        assert health == {"status": "healthy", "version": __version__}
        assert (await api.call("GET", "/readyz", key=None))[0] == 200
        api.head.parts["history"] = False
        status, health = await api.call("GET", "/health", key=None)
        assert (status, health["status"], health["missing"]) == (200, "degraded", ["history"])
        response = await api.raw("GET", "/readyz", key=None)
        assert response.status == 503
        assert "history" in (await response.json())["error"]
        assert response.headers["Retry-After"]
        api.head.broken = Unavailable("gone")
        assert (await api.call("GET", "/health", key=None))[1]["status"] == "unhealthy"
        assert (await api.call("GET", "/readyz", key=None))[0] == 503
        assert await api.call("GET", "/livez", key=None) == (200, {"status": "alive"})

    with_api(tmp_path, test)


def test_open_routes_do_not_look_at_keys(tmp_path: Path) -> None:
    async def test(api: Api) -> None:
        for path in ("/health", "/livez", "/readyz", "/openapi.json"):
            assert (await api.call("GET", path, key="fml_wrong"))[0] == 200
        assert not api.head.facts_of("auth.failure")

    with_api(tmp_path, test)


def test_queue_and_status_count(tmp_path: Path) -> None:
    async def test(api: Api) -> None:
        ended, running = await api.submit(), await api.submit()
        await api.submit(node_count=2)
        await api.submit(kind="service", node_count=2)
        await api.head.run(running["id"])
        await api.head.end(ended["id"])
        _, queue = await api.call("GET", "/v1/queue")
        assert queue == {"queued": 2, "running": 1, "completed": 1, "failed": 0, "workers": 1}
        _, status = await api.call("GET", "/v1/scheduler/status")
        assert status.pop("timestamp").endswith("Z")
        assert status == {
            "workers_total": 1,
            "workers_active": 1,
            "workers_draining": 0,
            "batch_queue_depth": 1,
            "service_queue_depth": 1,
            "tasks_running": 1,
            "tasks_completed_24h": 1,
            "reservations_active": 0,
        }

    with_api(tmp_path, test)


def test_workers_show_a_user_only_their_own_tasks(tmp_path: Path) -> None:
    async def test(api: Api) -> None:
        mine, theirs = await api.submit(), await api.submit(key=OTHER)
        for key, ids in ((KEYS["user"], {mine["id"]}), (OTHER, {theirs["id"]}), (ADMIN, {mine["id"], theirs["id"]})):
            _, (worker,) = await api.call("GET", "/v1/scheduler/workers", key=key)
            assert set(worker["active_tasks"]) == ids
            assert (await api.call("GET", f"/v1/scheduler/workers/{worker['id']}", key=key))[1][
                "active_tasks"
            ] == worker["active_tasks"]
        assert worker["capabilities"] == {"gpu_count": 0, "cpu_cores": 4, "memory_gb": 16}
        assert worker["slots"] == {"batch_available": 2, "batch_total": 4, "service_available": 1, "service_total": 1}
        assert worker["status"] == "active"
        assert (await api.call("GET", "/v1/scheduler/workers/w9"))[0] == 404

    with_api(tmp_path, test)


# -- audit


def test_audit_events_are_listed_and_filtered(tmp_path: Path) -> None:
    async def test(api: Api) -> None:
        task = await api.submit()
        _, page = await api.call("GET", "/v1/audit/events?limit=1000", key=AUDITOR)
        events = page["events"]
        assert [e["sequence_num"] for e in events] == list(range(page["total"]))[::-1]
        queued = next(e for e in events if e["action"] == "task.submit")
        assert (queued["resource"], queued["user_id"], queued["success"]) == (task["id"], "user", True)
        assert "error" not in queued
        _, page = await api.call("GET", "/v1/audit/events?event_type=job_queued&user_id=user&limit=5", key=ADMIN)
        assert [e["action"] for e in page["events"]] == ["task.submit"]
        at = queued["timestamp"]
        _, page = await api.call("GET", "/v1/audit/events", params={"from": at, "to": at}, key=ADMIN)
        assert task["id"] in [e["resource"] for e in page["events"]]
        _, page = await api.call("GET", "/v1/audit/events?to=2000-01-01T00:00:00Z", key=ADMIN)
        assert (page["total"], page["limit"], page["offset"]) == (0, 100, 0)

    with_api(tmp_path, test)


@pytest.mark.parametrize("bad", ["from=yesterday", "to=2026-13-01T00:00:00Z", "event_type=x", "limit=0", "offset=-1"])
def test_bad_audit_filters(tmp_path: Path, bad: str) -> None:
    async def test(api: Api) -> None:
        assert (await api.call("GET", f"/v1/audit/events?{bad}", key=AUDITOR))[0] == 400

    with_api(tmp_path, test)


def test_verify_and_root(tmp_path: Path) -> None:
    async def test(api: Api) -> None:
        _, found = await api.call("POST", "/v1/audit/verify", key=AUDITOR)
        assert found["valid"] is True
        assert "first_tampered" not in found
        api.head.index_first_bad = 3
        _, found = await api.call("POST", "/v1/audit/verify", key=AUDITOR)
        assert (found["valid"], found["index_valid"], found["index_first_bad"]) == (False, False, 3)
        assert found["first_tampered"] == 3
        _, root = await api.call("GET", "/v1/audit/chain-root", key=AUDITOR)
        assert set(root) == {"root_hash", "timestamp", "total_events", "anchored", "checkpoint_size", "sinks"}
        sink = SinkStatus(sink="https://w", vouches=True, problem="", accepted_size=3, accepted_at=1e9)
        api.head.anchoring = Anchoring(anchored=True, checkpoint_size=3, sinks=[sink], problem="", anchored_at=1e9)
        _, root = await api.call("GET", "/v1/audit/chain-root", key=AUDITOR)
        assert (root["anchored"], root["anchored_at"]) == (True, "2001-09-09T01:46:40.000000Z")
        assert root["sinks"] == [
            {"sink": "https://w", "vouches": True, "accepted_size": 3, "accepted_at": "2001-09-09T01:46:40.000000Z"}
        ]

    with_api(tmp_path, test)


def test_a_proof_from_the_api_is_accepted_offline(tmp_path: Path) -> None:
    async def test(api: Api) -> None:
        await api.submit()
        status, raw = await api.call("GET", "/v1/audit/checkpoint", key=AUDITOR)
        assert status == 200
        note = raw.decode()
        kept = read_signed(note)
        _, proof = await api.call("GET", "/v1/audit/proof?seq=0", key=AUDITOR)
        assert check_proof(json.dumps(proof)).code == VALID_UNVOUCHED
        await api.submit()
        _, proof = await api.call("GET", f"/v1/audit/proof?seq=1&size={kept.size}", key=AUDITOR)
        assert check_proof(json.dumps(proof), [note]).code == VALID
        _, grown = await api.call("GET", f"/v1/audit/consistency?from={kept.size}", key=AUDITOR)
        assert grown["to"] > kept.size
        assert check_proof(json.dumps(grown), [note]).code == VALID
        assert check_proof(json.dumps({**grown, "from_root": "00" * 32}), [note]).code == TAMPERED

    with_api(tmp_path, test)


def test_a_new_key_is_for_the_administrator(tmp_path: Path) -> None:
    async def test(api: Api) -> None:
        assert (await api.call("POST", "/v1/audit/rotate-key", key=AUDITOR))[0] == 403
        _, before = await api.call("GET", "/v1/audit/proof?seq=0", key=ADMIN)
        status, made = await api.call("POST", "/v1/audit/rotate-key", key=ADMIN)
        assert status == 200
        assert made["verifier_key"] != before["verifier_key"]
        assert api.head.facts_of("key.rotate")[0].user_id == "admin"

    with_api(tmp_path, test)


def test_pruning_is_for_the_administrator_and_says_what_it_did(tmp_path: Path) -> None:
    async def test(api: Api) -> None:
        await api.submit()
        body = {"before": "2100-01-01T00:00:00Z"}
        assert (await api.call("POST", "/v1/audit/prune", json=body, key=AUDITOR))[0] == 403
        status, planned = await api.call("POST", "/v1/audit/prune", json={**body, "dry_run": True}, key=ADMIN)
        assert (status, planned["dry_run"], "sequence_num" in planned) == (200, True, False)
        status, done = await api.call("POST", "/v1/audit/prune", json=body, key=ADMIN)
        assert (status, done["removed_events"], done["until"]) == (
            200,
            planned["removed_events"],
            "2099-12-31T23:59:59.999999Z",
        )
        assert api.head.facts_of("audit.policy")[0].user_id == "admin"
        _, verified = await api.call("POST", "/v1/audit/verify", key=AUDITOR)
        assert verified["first_event"] == done["first_event"]
        for wrong in ({}, {"before": 3}, {"before": "yesterday"}, {**body, "more": 1}, {**body, "dry_run": "yes"}):
            assert (await api.call("POST", "/v1/audit/prune", json=wrong, key=ADMIN))[0] == 422, wrong

    with_api(tmp_path, test)


@pytest.mark.parametrize(
    ("path", "status"),
    [
        ("proof", 400),
        ("proof?seq=x", 400),
        ("proof?seq=-1", 400),
        ("proof?seq=0&size=0", 400),
        ("proof?seq=999999", 404),
        ("consistency?to=3", 400),
        ("consistency?from=3&to=2", 422),
    ],
)
def test_proofs_that_nobody_can_give(tmp_path: Path, path: str, status: int) -> None:
    async def test(api: Api) -> None:
        assert (await api.call("GET", f"/v1/audit/{path}", key=AUDITOR))[0] == status
        assert (await api.call("GET", f"/v1/audit/{path}", key=OTHER))[0] == 403

    with_api(tmp_path, test)


# -- experiments


def test_experiments_are_made_and_listed(tmp_path: Path) -> None:
    async def test(api: Api) -> None:
        status, made = await api.call("POST", "/v1/experiments", json={"name": "first look", "description": "d"})
        assert status == 201
        assert (made["name"], made["status"], made["description"]) == ("first look", "active", "d")
        assert "commit_id" not in made
        assert (await api.call("GET", "/v1/experiments"))[1] == [made]
        assert (await api.call("GET", "/v1/experiments", key=OTHER))[1] == []
        assert (await api.call("GET", "/v1/experiments", key=ADMIN))[1] == [made]

    with_api(tmp_path, test)


@pytest.mark.parametrize(
    "body",
    [{}, [], {"name": ""}, {"name": " "}, {"name": "x" * 129}, {"name": "a\n"}, {"name": 1}, {"name": "x", "y": 1}],
)
def test_bad_experiments(tmp_path: Path, body: Any) -> None:
    async def test(api: Api) -> None:
        status, error = await api.call("POST", "/v1/experiments", json=body)
        assert (status, error["code"]) == (422, "VALIDATION_ERROR")

    with_api(tmp_path, test)


# -- artifacts


def test_artifacts_are_listed_and_fetched(tmp_path: Path) -> None:
    async def test(api: Api) -> None:
        task = await api.submit()
        path = f"/v1/tasks/{task['id']}/artifacts"
        assert await api.call("GET", path) == (200, [])
        files = {"metrics.json": b"{}", "deep/m\u00e9 1.bin": b"x" * 5000, "empty": b""}
        await api.head.end(task["id"], 0, files)
        _, entries = await api.call("GET", path)
        assert {entry["path"]: entry["bytes"] for entry in entries} == {name: len(data) for name, data in files.items()}
        for name, data in files.items():
            response = await api.raw("GET", f"{path}/{name}")
            assert await response.read() == data
            assert response.headers["Content-Type"] == "application/octet-stream"
            assert response.headers["Content-Disposition"].startswith("attachment")
            assert "sandbox" in response.headers["Content-Security-Policy"]

    with_api(tmp_path, test)


@pytest.mark.parametrize(
    ("wanted", "status", "part"),
    [
        ("bytes=0-9", 206, (0, 10)),
        ("bytes=4990-", 206, (4990, 5000)),
        ("bytes=-10", 206, (4990, 5000)),
        ("bytes=4999-99999", 206, (4999, 5000)),
        ("bytes=0-", 200, (0, 5000)),
        ("bytes=5000-", 416, None),
        ("bytes=9-3", 200, (0, 5000)),
        ("lines=1-2", 200, (0, 5000)),
        ("bytes=0-1,3-4", 200, (0, 5000)),
        ("bytes=x-", 200, (0, 5000)),
    ],
)
def test_a_part_of_an_artifact_can_be_had(
    tmp_path: Path, wanted: str, status: int, part: tuple[int, int] | None
) -> None:
    data = bytes(range(100)) * 50

    async def test(api: Api) -> None:
        task = await api.submit()
        await api.head.end(task["id"], 0, {"f": data})
        path = f"/v1/tasks/{task['id']}/artifacts/f"
        response = await api.raw("GET", path, headers={"Range": wanted})
        assert response.status == status
        if part is None:
            assert response.headers["Content-Range"] == "bytes */5000"
            return
        assert await response.read() == data[part[0] : part[1]]
        if status == 206:
            assert response.headers["Content-Range"] == f"bytes {part[0]}-{part[1] - 1}/5000"
        whole = await api.raw("GET", path, headers={"Range": wanted, "If-Range": '"another"'})
        assert (whole.status, await whole.read()) == (200, data)
        same = await api.raw("GET", path, headers={"Range": wanted, "If-Range": whole.headers["ETag"]})
        assert same.status == status

    with_api(tmp_path, test)


@pytest.mark.parametrize(
    "name", ["nothing", "../metrics.json", "..%2fmetrics.json", "metrics.json/", "%00", "/etc/passwd"]
)
def test_an_artifact_that_is_not_listed_is_missing(tmp_path: Path, name: str) -> None:
    async def test(api: Api) -> None:
        task = await api.submit()
        await api.head.end(task["id"], 0, {"metrics.json": b"{}"})
        assert (await api.call("GET", f"/v1/tasks/{task['id']}/artifacts/{name}"))[0] == 404

    with_api(tmp_path, test)


def test_an_artifact_that_cannot_be_read_is_an_error_not_half_a_file(tmp_path: Path) -> None:
    async def test(api: Api) -> None:
        task = await api.submit()
        await api.head.end(task["id"], 0, {"lost": b"lost", "cut": b"y" * 5000})
        api.head.lose_file(b"lost")
        api.head.cut_file(b"y" * 5000)
        assert (await api.call("GET", f"/v1/tasks/{task['id']}/artifacts/lost"))[0] == 404
        response = await api.raw("GET", f"/v1/tasks/{task['id']}/artifacts/cut")
        with pytest.raises(ClientPayloadError):
            await response.read()

    with_api(tmp_path, test)
