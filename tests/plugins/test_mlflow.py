"""What MLflow is asked for an attempt; what it answers is tried with the real one in `tests/e2e`."""

import asyncio
from dataclasses import replace
from typing import Any

import pytest

from fetchmld.plugins.mlflow import MlflowSettings, MlflowTaskSettings, plugin
from fetchmld.plugins.protocol import CallFailed, Outcome, TaskFacts, Use

TASK = TaskFacts(
    "t1",
    2,
    "ada",
    "digits",
    "",
    "train.py",
    {"lr": 0.1},
    MlflowTaskSettings(),
    "http://h/plugins/mlflow",
    "fmt_x",
    "/out",
)
ANSWERS: dict[str, Any] = {
    "experiments/create": {"experiment_id": "7"},
    "experiments/get-by-name": {"experiment": {"experiment_id": "8", "lifecycle_stage": "active"}},
    "runs/create": {"run": {"info": {"run_id": "r1"}}},
}


class Server:
    """Says what it was told to, and keeps what it was asked."""

    def __init__(self, **answers: Any) -> None:
        self.answers = {
            **ANSWERS,
            **{name.replace("__", "/").replace("_", "-"): found for name, found in answers.items()},
        }
        self.asked: dict[str, Any] = {}

    async def __call__(self, method: str, path: str, body: Any) -> Any:
        name = path.removeprefix("/api/2.0/mlflow/")
        self.asked[name] = body
        answer = self.answers.get(name, {})
        if isinstance(answer, Exception):
            raise answer
        return answer


def begin(server: Server, task: TaskFacts = TASK, **settings: Any) -> Use:
    return asyncio.run(plugin.begin(server, MlflowSettings(**settings), task))


@pytest.mark.parametrize(
    ("task", "name"),
    [
        (TASK, "p-digits"),
        (replace(TASK, experiment="Digits, again"), "p-Digits, again"),
        (replace(TASK, experiment="e", settings=MlflowTaskSettings(experiment="mine")), "p-mine"),
    ],
)
def test_a_run_is_made_in_the_experiment_that_the_task_means(task: TaskFacts, name: str) -> None:
    server = Server()
    use = begin(server, task, experiment_prefix="p-")
    assert server.asked["experiments/create"] == {"name": name}
    assert server.asked["runs/create"]["run_name"] == "digits t1 (2)"
    assert server.asked["runs/log-batch"]["params"] == [{"key": "lr", "value": "0.1"}]
    assert (use.run_id, use.path) == ("r1", "#/experiments/7/runs/r1")
    assert use.env["MLFLOW_TRACKING_URI"] == TASK.url
    assert use.env["MLFLOW_TRACKING_TOKEN"] == "fmt_x"
    assert use.env["MLFLOW_RUN_ID"] == "r1"


def test_an_experiment_that_is_there_is_used() -> None:
    there = CallFailed('it answered 400: {"error_code": "RESOURCE_ALREADY_EXISTS"}')
    assert begin(Server(experiments__create=there)).env["MLFLOW_EXPERIMENT_ID"] == "8"
    deleted = {"experiment": {"experiment_id": "8", "lifecycle_stage": "deleted"}}
    with pytest.raises(CallFailed, match="'digits' is deleted in MLflow"):
        begin(Server(experiments__create=there, experiments__get_by_name=deleted))


def test_what_mlflow_refuses_is_said() -> None:
    with pytest.raises(CallFailed, match="500"):
        begin(Server(experiments__create=CallFailed("it answered 500")))
    with pytest.raises(CallFailed, match="task_url"):
        begin(Server(), replace(TASK, url=""))


@pytest.mark.parametrize(("status", "said"), [("completed", "FINISHED"), ("failed", "FAILED"), ("cancelled", "KILLED")])
def test_a_run_ends_as_its_attempt_did(status: Any, said: str) -> None:
    server = Server()
    asyncio.run(plugin.end(server, MlflowSettings(), "r1", Outcome(status, "why", 12.5)))
    assert server.asked["runs/update"] == {"run_id": "r1", "status": said, "end_time": 12500}
    assert server.asked["runs/set-tag"]["value"] == "why"


def test_without_it_what_is_logged_goes_to_the_output() -> None:
    assert plugin.without(TASK)["MLFLOW_TRACKING_URI"] == "sqlite:////out/mlflow.db"
