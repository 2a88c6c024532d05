"""Arrays over HTTP: what a request may say, one line for many tasks, and each element by its id."""

from pathlib import Path
from typing import Any

import pytest

from fetchmld.api.intake import Intake
from fetchmld.config import Config
from fetchmld.core.errors import Invalid
from tests.api.served import KEYS, Api, with_api


def request_of(**array: Any) -> dict[str, Any]:
    return dict(Intake(Config()).task_request({"job_name": "x", "array": array})["array"])


def refusal(array: Any) -> str:
    with pytest.raises(Invalid) as refused:
        Intake(Config()).task_request({"job_name": "x", "array": array})
    return refused.value.message


def test_the_size_is_given_or_follows_from_the_params() -> None:
    assert request_of(size=5, max_parallel=2) == {"size": 5, "max_parallel": 2}
    assert request_of(params={"b": [1, 2], "a": [True, "x", 0.5]}) == {
        "size": 6,
        "params": [{"name": "b", "values": [1, 2]}, {"name": "a", "values": [True, "x", 0.5]}],
    }
    assert request_of(size=2, params={"a": [1, 2], "b": [3, 4]})["size"] == 2
    assert request_of(size=4, params={"a": [1, 2], "b": [3, 4]})["size"] == 4
    (param,) = request_of(params={"a": [1, 1.5, True, "1"]})["params"]
    assert [type(value) for value in param["values"]] == [int, float, bool, str]


@pytest.mark.parametrize(
    ("array", "said"),
    [
        ("1-10", "array: must be an object"),
        ({}, "array: needs its size, or params that give it"),
        ({"size": 0}, "array.size: must be at least 1, not 0"),
        ({"size": 10_001}, "array.size: must be at most 10000, not 10001"),
        ({"size": True}, "array.size: must be an integer, not true"),
        ({"size": 3, "max_parallel": 0}, "array.max_parallel: must be at least 1, not 0"),
        ({"size": 3, "step": 2}, "array.step: is not a field of this request"),
        ({"size": 5, "params": {"a": [1, 2], "b": [1, 2]}}, "lists of 2 x 2 values make 4 combinations, and array.size is"),
        ({"params": {"a": list(range(200)), "b": list(range(200))}}, "give 40000 combinations"),
        ({"size": 1, "params": {"a": []}}, "array.params.a: "),
        ({"size": 1, "params": {"a-b": [1]}}, "array.params.a-b: must match"),
        ({"size": 1, "params": {"a": [None]}}, "array.params.a.0"),
        ({"size": 1, "params": {"a": [2**60]}}, "array.params.a.0"),
        ({"size": 1, "params": {"a": ["x" * 5000]}}, "array.params.a.0"),
        ({"size": 1, "params": {"a": ["\0"]}}, "array.params.a.0"),
        ({"size": 1, "params": {"a": [1], "A": [2]}}, "'a' and 'A' would both be FETCHML_PARAM_A"),
    ],
)  # fmt: skip
def test_what_makes_no_sense_is_refused(array: Any, said: str) -> None:
    assert said in refusal(array)


def test_an_array_is_one_line_and_its_elements_are_listed_by_its_id(tmp_path: Path) -> None:
    async def test(api: Api) -> None:
        array = await api.submit(array={"params": {"lr": [0.1, 0.2, 0.3]}, "max_parallel": 2}, env={"A": "b"})
        counts = {"queued": 1, "running": 2, "completed": 0, "failed": 0, "cancelled": 0}
        assert array["array"] == {"size": 3, "max_parallel": 2, **counts, "params": {"lr": [0.1, 0.2, 0.3]}}
        assert array["status"] == "running"
        _, page = await api.call("GET", "/v1/tasks")
        assert [task["id"] for task in page["tasks"]] == [array["id"]]
        assert "params" not in page["tasks"][0]["array"], "a list has no need of them"
        _, page = await api.call("GET", f"/v1/tasks?array_id={array['id']}&limit=2&offset=1")
        assert [(task["id"], task["array_index"], task["params"]) for task in page["tasks"]] == [
            (f"{array['id']}-1", 1, {"lr": 0.2}),
            (f"{array['id']}-2", 2, {"lr": 0.3}),
        ]
        assert page["total"] == 3
        assert page["tasks"][1]["wait_reason"] == "2 elements of its array run, and max_parallel is 2"
        _, none = await api.call("GET", f"/v1/tasks?array_id={array['id']}", key=KEYS["other"])
        assert none["total"] == 0

    with_api(tmp_path, test)


def test_an_element_is_a_task(tmp_path: Path) -> None:
    async def test(api: Api) -> None:
        array = (await api.submit(array={"size": 2}))["id"]
        await api.head.run(f"{array}-1")
        await api.head.write(f"{array}-1", b"hello")
        _, element = await api.call("GET", f"/v1/tasks/{array}-1")
        assert (element["status"], element["array_id"], element["output"]) == ("running", array, "hello")
        assert await api.call("GET", f"/v1/tasks/{array}-1/logs") == (200, b"hello")
        status, error = await api.call("GET", f"/v1/tasks/{array}/logs")
        assert (status, error["error"]) == (
            404,
            f"task {array} is an array and has no log of its own; its elements do: {array}-0",
        )
        assert (await api.call("GET", f"/v1/tasks/{array}-2"))[0] == 404
        assert (await api.call("GET", f"/v1/tasks/{array}-1", key=KEYS["other"]))[0] == 404
        _, queue = await api.call("GET", "/v1/queue")
        assert queue["running"] == 2

    with_api(tmp_path, test)


def test_cancel_priority_why_and_delete(tmp_path: Path) -> None:
    async def test(api: Api) -> None:
        array = (await api.submit(array={"size": 9}))["id"]
        _, said = await api.call("GET", f"/v1/tasks/{array}/explain")
        assert said["reason"].startswith("5 elements wait; the next: ")
        where = f"/v1/scheduler/jobs/{array}/priority"
        assert (await api.call("PATCH", where, json={"priority": 7}))[1]["priority"] == 7
        assert (await api.call("GET", f"/v1/tasks/{array}-8"))[1]["priority"] == 7
        assert (await api.call("DELETE", f"/v1/tasks/{array}-8"))[0] == 204
        assert (await api.call("GET", f"/v1/tasks/{array}-8"))[1]["reason"] == "cancelled"
        assert (await api.call("DELETE", f"/v1/tasks/{array}"))[0] == 204
        for index in range(4):
            await api.head.end(f"{array}-{index}")
        _, ended = await api.call("GET", f"/v1/tasks/{array}?wait_s=5")
        assert (ended["status"], ended["reason"]) == ("failed", "cancelled")
        assert (ended["array"]["completed"], ended["array"]["cancelled"]) == (4, 5)
        assert (await api.call("DELETE", f"/v1/tasks/{array}"))[0] == 204
        assert (await api.call("GET", f"/v1/tasks/{array}-1"))[0] == 404

    with_api(tmp_path, test)


def test_an_auditor_does_not_see_the_params(tmp_path: Path) -> None:
    async def test(api: Api) -> None:
        array = (await api.submit(array={"params": {"secret": ["a"]}}))["id"]
        for path in (f"/v1/tasks/{array}", f"/v1/tasks/{array}-0"):
            _, task = await api.call("GET", path, key=KEYS["auditor"])
            assert "secret" not in str(task)

    with_api(tmp_path, test)
