"""The table of roles, operation by operation: who is refused, whose objects are there, and that the page says the same."""

import asyncio
import re
from collections.abc import AsyncIterator, Awaitable, Callable
from pathlib import Path
from typing import Any, Final

import pytest
from blake3 import blake3

from fetchmld.api.access import MAY
from fetchmld.api.app import OPERATIONS
from fetchmld.api.guard import Operation
from fetchmld.api.head import Caller, ExperimentRequest, ReservationRequest
from fetchmld.api.roles import MACHINES, MATRIX, ROLES, WORKER, page
from fetchmld.core.model import Role, UserId
from fetchmld.manifest import CodeFile, CodeManifest
from tests.api.served import KEYS, Api, with_api

OPEN: Final = [operation.id for operation in OPERATIONS if operation.is_open]
STRANGER: Final = "other"
BY_ID: Final = {operation.id: operation for operation in OPERATIONS}
SECRET: Final = "do-not-tell"


def person(user_id: str, role: Role = "user") -> Caller:
    return Caller(UserId(user_id), role, "k", "127.0.0.1", "t")


async def a_task(api: Api, owner: str) -> str:
    made = (await api.head.submit(person(owner), [{"job_name": "job", "args": SECRET, "cpu": 1}]))[0]
    assert isinstance(made, dict)
    return str(made["id"])


async def an_ended_task(api: Api, owner: str) -> str:
    task_id = await a_task(api, owner)
    await api.head.end(task_id, files={"left.txt": b"left"})
    return task_id


async def a_reservation(api: Api, owner: str) -> str:
    api.head.add_worker(f"w{owner}", 4)
    made = await api.head.reserve(person(owner), ReservationRequest(1, "", 1, 60.0, 0.0))
    return str(made["id"])


async def an_experiment(api: Api, owner: str) -> str:
    return str((await api.head.create_experiment(person(owner), ExperimentRequest("one")))["id"])


async def a_service(api: Api, owner: str) -> str:
    """A Jupyter server that is still starting: its pages are 503 for who may see them."""
    service_id = f"s{owner}"
    api.head.start_service(service_id, owner)
    return service_id


class Given:
    """Files as they were before anybody asks for them, whatever the role of their owner may send."""

    user_id: UserId
    ip_address = ""
    trace_id = ""

    def __init__(self, owner: str) -> None:
        self.user_id = UserId(owner)


async def a_blob(api: Api, owner: str) -> str:
    data = f"of {owner}".encode()
    digest = blake3(data).hexdigest()

    async def pieces() -> AsyncIterator[bytes]:
        yield data

    await api.head.code.put_blob(Given(owner), digest, pieces())
    return digest


async def a_snapshot(api: Api, owner: str) -> str:
    digest = await a_blob(api, owner)
    size = len(f"of {owner}")
    file = CodeFile(path="train.py", executable=False, size=size, hash=digest)
    return str((await api.head.code.keep(Given(owner), CodeManifest(files=[file])))["id"])


async def a_running_task(api: Api, owner: str) -> str:
    task_id = await a_task(api, owner)
    await api.head.run(task_id)
    return task_id


Make = Callable[[Api, str], Awaitable[str]]
# Operations on one object: what it is, and the rest of the request.
ON_ONE: Final[dict[str, tuple[Make, dict[str, Any]]]] = {
    "getTask": (a_task, {}),
    "deleteTask": (a_task, {}),
    "explainTask": (a_task, {}),
    "getTaskLogs": (a_task, {}),
    "listTaskArtifacts": (an_ended_task, {}),
    "getTaskArtifact": (an_ended_task, {}),
    "updateJobPriority": (a_task, {"json": {"priority": 3}}),
    "streamJob": (an_ended_task, {}),
    "releaseReservation": (a_reservation, {}),
    "getExperiment": (an_experiment, {}),
    "updateExperiment": (an_experiment, {"json": {"status": "archived"}}),
    "getExperimentMetrics": (an_experiment, {}),
    "readJupyterService": (a_service, {}),
    "stopJupyterService": (a_service, {}),
    "seeJupyter": (a_service, {}),
    "getSnapshot": (a_snapshot, {}),
    "getBlob": (a_blob, {}),
}
LISTS: Final[dict[str, Make]] = {
    "listTasks": a_task,
    "listReservations": a_reservation,
    "listExperiments": an_experiment,
    "streamSchedulerStatus": a_task,
    "listJupyterServices": a_service,
    "listSnapshots": a_snapshot,
    "listWorkers": a_running_task,
    "getWorker": a_running_task,
}
# What makes something of the caller's: the request, and where it can be read.
_SPEC: Final = {"job_name": "x"}
MAKES: Final[dict[str, tuple[Any, str]]] = {
    "createTask": (_SPEC, "/v1/tasks/"),
    "createTasks": ([_SPEC], "/v1/tasks/"),
    "createExperiment": ({"name": "x"}, "/v1/experiments/"),
    "createReservation": ({"gpu_count": 1, "node_count": 1, "expires_minutes": 5}, ""),
    "startJupyterService": ({"name": "x"}, "/v1/jupyter/services/"),
}
# `own` has no object before the request: each user sends and asks for their own content (tests/api/test_snapshots.py).
OF_CONTENT: Final = frozenset({"diffBlobs", "putBlob", "createSnapshot"})
# What a query may see is the history's to say: tests/api/test_history.py, tests/store/test_history_sql.py.
OF_HISTORY: Final = frozenset({"queryHistory"})


def cell(operation_id: str, role: str) -> str:
    return MATRIX[operation_id][ROLES.index(role)]


def target(operation_id: str, object_id: str) -> str:
    path = BY_ID[operation_id].path.replace("{path:.+}", "left.txt").replace("{index}", "0").replace("{rest:.*}", "/")
    return re.sub(r"\{\w+(:[^{}]*)?\}", object_id, path, count=1)


def method(operation: Operation) -> str:
    return "GET" if operation.method == "*" else operation.method


def test_the_table_has_every_closed_operation_once_and_nothing_else() -> None:
    assert set(MATRIX) == {operation.id for operation in OPERATIONS} - set(OPEN)
    assert all(row[ROLES.index("admin")] != "no" for row in MATRIX.values())
    assert all(names <= MATRIX.keys() for names in MACHINES.values())


def test_every_row_that_asks_whose_it_is_has_its_test() -> None:
    asking = {name for name, row in MATRIX.items() if {"own", "redacted"} & set(row)}
    assert asking == ON_ONE.keys() | LISTS.keys() | MAKES.keys() | OF_CONTENT | OF_HISTORY | {"openWebSocket"}


@pytest.mark.parametrize("role", [*ROLES, WORKER])
def test_each_role_has_its_operations_and_no_others(tmp_path: Path, role: str) -> None:
    async def test(api: Api) -> None:
        for operation in OPERATIONS:
            if operation.is_open:
                continue
            status, _ = await api.call(method(operation), target(operation.id, "none"), key=KEYS[role])
            assert (status == 403) == (operation.id not in MAY[role]), (role, operation.id, status)

    with_api(tmp_path, test, stream_max_s=0.01)


def test_an_unknown_role_may_nothing(tmp_path: Path) -> None:
    async def test(api: Api) -> None:
        api.head.add_key("fml_odd", "odd", "wizard")  # type: ignore[arg-type]
        for operation in OPERATIONS:
            if not operation.is_open:
                status, _ = await api.call(method(operation), target(operation.id, "none"), key="fml_odd")
                assert status == 403, operation.id

    with_api(tmp_path, test)


@pytest.mark.parametrize("role", ROLES)
@pytest.mark.parametrize("operation_id", ON_ONE)
def test_one_object_own_and_another_s(tmp_path: Path, operation_id: str, role: str) -> None:
    make, more = ON_ONE[operation_id]

    async def answered(api: Api, object_id: str) -> tuple[int, str]:
        """The status, and the body without what is in it only this once."""
        status, body = await api.call(
            method(BY_ID[operation_id]), target(operation_id, object_id), key=KEYS[role], **more
        )
        return status, re.sub(r'"trace_id": ?"[^"]*"|' + re.escape(object_id), "", str(body).replace("'", '"'))

    async def test(api: Api) -> None:
        may = cell(operation_id, role)
        there = 503 if operation_id == "seeJupyter" else 204 if operation_id == "stopJupyterService" else 200
        status, _ = await answered(api, await make(api, role))
        assert (status == 403) if may == "no" else (status == there or status in (200, 204)), status
        status, body = await answered(api, await make(api, STRANGER))
        if may == "own":
            assert (status, body) == await answered(api, "nothing")
            assert status == 404
        else:
            assert (status == 403) if may == "no" else (status == there or status in (200, 204)), status
        if may == "redacted":
            assert SECRET not in body
        elif may == "all" and operation_id == "getTask":
            assert SECRET in body

    with_api(tmp_path, test)


@pytest.mark.parametrize("role", ROLES)
@pytest.mark.parametrize("operation_id", LISTS)
def test_a_list_has_what_the_table_says(tmp_path: Path, operation_id: str, role: str) -> None:
    async def test(api: Api) -> None:
        own, others = await LISTS[operation_id](api, role), await LISTS[operation_id](api, STRANGER)
        may = cell(operation_id, role)
        response = await api.raw("GET", target(operation_id, "w1"), key=KEYS[role])
        if may == "no":
            assert response.status == 403
            return
        if operation_id.startswith("stream"):
            late = asyncio.create_task(response.text())
            own, others = await a_task(api, role), await a_task(api, STRANGER)
            text = await late
        else:
            text = await response.text()
        assert own in text
        assert (others in text) == (may in {"all", "redacted"})
        if may == "redacted":
            assert SECRET not in text

    with_api(tmp_path, test, stream_max_s=0.3)


@pytest.mark.parametrize("role", ROLES)
def test_a_socket_tells_what_the_table_says(tmp_path: Path, role: str) -> None:
    async def test(api: Api) -> None:
        async with api.client.ws_connect("/ws", headers={"X-API-Key": KEYS[role]}) as socket:
            assert (await socket.receive_json())["type"] == "resync"
            others, own = await a_task(api, STRANGER), await a_task(api, role)
            told = [await socket.receive_json()]
            while own not in str(told):
                told.append(await socket.receive_json())
            assert (others in str(told)) == (cell("openWebSocket", role) != "own")
            assert SECRET not in str(told) or cell("openWebSocket", role) != "redacted"

    with_api(tmp_path, test)


@pytest.mark.parametrize("role", ROLES)
@pytest.mark.parametrize("operation_id", MAKES)
def test_what_is_made_is_the_callers_own(tmp_path: Path, operation_id: str, role: str) -> None:
    body, place = MAKES[operation_id]

    async def test(api: Api) -> None:
        api.head.add_worker("w2", 4)
        status, made = await api.call("POST", BY_ID[operation_id].path, key=KEYS[role], json=body)
        if cell(operation_id, role) == "no":
            assert status == 403
            return
        assert status in (200, 201), made
        one = made[0]["task"] if operation_id == "createTasks" else made
        assert one.get("user_id", role) == role
        if place:
            assert (await api.call("GET", place + one["id"], key=KEYS[role]))[0] == 200
            assert (await api.call("GET", place + one["id"], key=KEYS[STRANGER]))[0] == 404
        else:
            listed = [await api.call("GET", BY_ID[operation_id].path, key=KEYS[name]) for name in (role, STRANGER)]
            assert [one["id"] in str(found) for _, found in listed] == [True, False]

    with_api(tmp_path, test)


@pytest.mark.parametrize("role", ROLES)
def test_a_priority_above_the_users_is_for_who_runs_the_cluster(tmp_path: Path, role: str) -> None:
    async def test(api: Api) -> None:
        task_id = await a_task(api, role)
        path = f"/v1/scheduler/jobs/{task_id}/priority"
        changed, _ = await api.call("PATCH", path, key=KEYS[role], json={"priority": 9})
        made, _ = await api.call("POST", "/v1/tasks", key=KEYS[role], json={"job_name": "x", "priority": 9})
        assert (changed, made) == ((200, 201) if role in {"operator", "admin"} else (403, 403))

    with_api(tmp_path, test, user_priority_max=5)


def test_the_page_is_what_the_table_makes() -> None:
    written = (Path(__file__).parents[2] / "docs" / "roles.md").read_text()
    assert written == page(OPEN), "run: python -m fetchmld.api.roles > docs/roles.md"
