"""GET /metrics: readable by Prometheus's own parser, named as its conventions ask, and bounded."""

import json
import re
from pathlib import Path

from prometheus_client.parser import text_string_to_metric_families

from fetchmld.core.errors import TASK_ERROR_WORDS
from tests.api.served import KEYS, Api, with_api

UNITS = ("_total", "_seconds", "_bytes", "_info", "_created")
COUNTS = {"fetchml_tasks_queued", "fetchml_tasks_running", "fetchml_workers", "fetchml_reservations_active"} | {
    "fetchml_ledger_events",
    "fetchml_gpus",
    "fetchml_long_answers",
    "fetchml_head_process_open_fds",
    "fetchml_head_process_max_fds",
}


async def numbers(api: Api) -> dict[tuple[str, ...], float]:
    response = await api.raw("GET", "/metrics", key=None, headers={"Authorization": f"Bearer {KEYS['viewer']}"})
    assert response.status == 200
    assert response.headers["Content-Type"].startswith("text/plain; version=")
    families = text_string_to_metric_families(await response.text())
    return {(s.name, *s.labels.values()): s.value for family in families for s in family.samples}


def test_the_numbers_are_the_clusters(tmp_path: Path) -> None:
    async def test(api: Api) -> None:
        await api.submit()
        await api.submit(cpu=64)
        await api.refused({}, 422)
        found = await numbers(api)
        assert found["fetchml_tasks_running",] == 1
        assert found["fetchml_tasks_queued", "batch"] == 1
        assert found["fetchml_workers", "active"] == 1
        assert found["fetchml_ledger_events",] == len(api.head.facts)
        assert found["fetchml_http_requests_total", "createTask", "201"] == 2
        assert found["fetchml_http_requests_total", "createTask", "422"] == 1
        assert found["fetchml_http_request_duration_seconds_count", "createTask"] == 3

    with_api(tmp_path, test)


def test_what_the_scheduler_counts(tmp_path: Path) -> None:
    async def test(api: Api) -> None:
        done, failed = await api.submit(), await api.submit()
        await api.head.end(done["id"])
        await api.head.end(failed["id"], 1)
        await api.call("DELETE", f"/v1/tasks/{(await api.submit(cpu=64))['id']}")
        array = await api.submit(array={"size": 1})
        await api.head.end(f"{array['id']}-0")
        found = await numbers(api)
        assert found["fetchml_tasks_started_total",] == 3
        assert found["fetchml_tasks_ended_total", "COMPLETED"] == 2
        assert found["fetchml_tasks_ended_total", "EXIT_NONZERO"] == 1
        assert found["fetchml_tasks_ended_total", "CANCELLED"] == 1
        assert found["fetchml_task_wait_seconds_bucket", "+Inf"] == found["fetchml_task_wait_seconds_count",] == 3
        assert found["fetchml_task_run_seconds_count",] == 3
        assert found["fetchml_ledger_append_seconds_bucket", "0.0025"] == 1
        assert found["fetchml_ledger_append_seconds_bucket", "0.001"] == 0
        assert found["fetchml_ledger_append_seconds_sum",] == 0.002
        assert found["fetchml_gpus", "free"] == 0
        assert {name[1] for name in found if name[0] == "fetchml_event_loop_lag_seconds_count"} == {"head", "scheduler"}
        reasons = {name[1] for name in found if name[0] == "fetchml_tasks_ended_total"}
        assert reasons <= TASK_ERROR_WORDS | {"COMPLETED"}

    with_api(tmp_path, test)


def test_no_label_names_a_task_or_a_user_and_unknown_paths_are_one_series(tmp_path: Path) -> None:
    async def test(api: Api) -> None:
        task = await api.submit()
        for number in range(20):
            await api.call("GET", f"/nowhere/{number}")
        found = await numbers(api)
        assert found["fetchml_http_requests_total", "none", "404"] == 20
        labels = {label for name in found for label in name[1:]}
        assert not labels & {task["id"], "user", "viewer", "127.0.0.1"}

    with_api(tmp_path, test)


def test_names_say_their_unit(tmp_path: Path) -> None:
    async def test(api: Api) -> None:
        await api.submit()
        for name, *_ in await numbers(api):
            base = name.removesuffix("_bucket").removesuffix("_count").removesuffix("_sum")
            assert name.startswith("fetchml_")
            assert base.endswith(UNITS) or base in COUNTS, name

    with_api(tmp_path, test)


def test_a_bearer_is_taken_here_only(tmp_path: Path) -> None:
    async def test(api: Api) -> None:
        bearer = {"Authorization": f"Bearer {KEYS['user']}"}
        assert (await api.call("GET", "/metrics", key=KEYS["user"]))[0] == 200
        assert (await api.call("GET", "/metrics", key=None))[0] == 401
        assert (await api.call("GET", "/metrics", key=None, headers={"Authorization": "Basic eDp5"}))[0] == 401
        assert (await api.call("GET", "/v1/tasks", key=None, headers=bearer))[0] == 401

    with_api(tmp_path, test)


def test_the_dashboard_asks_for_what_there_is(tmp_path: Path) -> None:
    dashboard = Path(__file__).parents[2] / "docs" / "operators" / "grafana.json"
    panels = json.loads(dashboard.read_text())["panels"]
    asked = {name for p in panels for t in p["targets"] for name in re.findall(r"fetchml_\w+", t["expr"])}
    assert len(asked) > 10

    async def test(api: Api) -> None:
        await api.submit()
        names = {name for name, *_ in await numbers(api)}
        text = await (await api.raw("GET", "/metrics", key=KEYS["viewer"])).text()
        declared = {line.split()[2] for line in text.splitlines() if line.startswith("# TYPE ")}
        assert asked <= names | declared | {f"{name}_total" for name in declared}

    with_api(tmp_path, test)
