"""`plugins ls`, `show`, `enable`, `disable`, `config` and `health`, against a stub daemon."""

import json
from typing import Any

import pytest

from tests.cli.conftest import Run
from tests.client.stub import Stub, answer


def plugin(status: str = "healthy", enabled: bool = True, **more: Any) -> dict[str, Any]:
    return {
        "name": "mlflow",
        "enabled": enabled,
        "mode": "sidecar" if enabled else "disabled",
        "status": {"name": "mlflow", "status": status, **more},
        "config": {"enabled": enabled, "mode": "sidecar", "settings": {"username": "ada"}},
        "requires_restart": True,
        "version": "3.17.2",
    }


def test_listed_and_shown(client: Run, stub: Stub) -> None:
    found = plugin(url="http://h/plugins/mlflow/")
    stub.handlers["GET /v1/plugins"] = answer(
        200, [found, {**plugin("unhealthy", problem="no such key"), "name": "odd"}]
    )
    stub.handlers["GET /v1/plugins/mlflow"] = answer(200, found)
    head, first, second = client("plugins", "ls").out.splitlines()
    assert head.split() == ["NAME", "VERSION", "MODE", "STATUS", "WHERE"]
    assert first.split() == ["mlflow", "3.17.2", "sidecar", "healthy", "http://h/plugins/mlflow/"]
    assert second.endswith("no such key")
    assert client("-q", "plugins", "ls").out == "mlflow\nodd\n"
    assert json.loads(client("--json", "plugins", "show", "mlflow").out) == found
    shown = client("plugins", "show", "mlflow").out
    assert "settings.username" in shown
    assert "http://h/plugins/mlflow/" in shown


@pytest.mark.parametrize(
    ("words", "body"),
    [
        (("enable", "mlflow"), {"enabled": True, "mode": "sidecar", "settings": {"username": "ada"}}),
        (
            ("enable", "mlflow", "--mode", "remote", "--set", "tracking_uri=https://m", "--set", "system_metrics=true"),
            {
                "enabled": True,
                "mode": "remote",
                "settings": {"username": "ada", "tracking_uri": "https://m", "system_metrics": True},
            },
        ),
        (
            ("config", "mlflow", "--unset", "username", "--set", "experiment_prefix=a=b"),
            {"enabled": True, "mode": "sidecar", "settings": {"experiment_prefix": "a=b"}},
        ),
    ],
)
def test_what_is_set(client: Run, stub: Stub, words: tuple[str, ...], body: dict[str, Any]) -> None:
    stub.handlers["GET /v1/plugins/mlflow/config"] = answer(200, plugin()["config"])
    stub.handlers["PUT /v1/plugins/mlflow/config"] = answer(200, plugin("starting"))
    assert client("plugins", *words).out == "mlflow is starting\n"
    assert stub.asked[-1].json == body


def test_disabled_and_asked_for_its_configuration(client: Run, stub: Stub) -> None:
    stub.handlers["DELETE /v1/plugins/mlflow/config"] = answer(204, None)
    stub.handlers["GET /v1/plugins/mlflow/config"] = answer(200, plugin()["config"])
    assert client("plugins", "disable", "mlflow").out == "mlflow is disabled\n"
    assert json.loads(client("plugins", "config", "mlflow").out) == plugin()["config"]


def test_waiting_says_what_comes_of_it(client: Run, stub: Stub) -> None:
    stub.handlers["GET /v1/plugins/mlflow/config"] = answer(200, {"enabled": False, "mode": "disabled", "settings": {}})
    stub.handlers["PUT /v1/plugins/mlflow/config"] = answer(200, plugin("starting", progress="Downloading numpy"))
    stub.handlers["GET /v1/plugins/mlflow"] = answer(200, plugin(url="http://h/plugins/mlflow/"))
    ran = client("plugins", "enable", "mlflow", "--wait")
    assert (ran.code, ran.out) == (0, "mlflow is healthy: http://h/plugins/mlflow/\n")
    assert "Downloading numpy" in ran.err
    stub.handlers["GET /v1/plugins/mlflow"] = answer(200, plugin("unhealthy", problem="no such key"))
    ran = client("plugins", "enable", "mlflow", "--wait")
    assert (ran.code, ran.out) == (6, "mlflow is unhealthy: no such key\n")


@pytest.mark.parametrize(
    ("answered", "code", "out"),
    [
        ({"status": "healthy"}, 0, "healthy\n"),
        ({"status": "degraded", "progress": "Downloading numpy"}, 6, "degraded: Downloading numpy\n"),
        ({"status": "unhealthy", "problem": "killed"}, 6, "unhealthy: killed\n"),
    ],
)
def test_health_is_an_exit_code(client: Run, stub: Stub, answered: dict[str, Any], code: int, out: str) -> None:
    stub.handlers["GET /v1/plugins/mlflow/health"] = answer(200, {**answered, "timestamp": "2026-01-01T00:00:00Z"})
    ran = client("plugins", "health", "mlflow")
    assert (ran.code, ran.out) == (code, out)


@pytest.mark.parametrize("wrong", ["", "x", "=x"])
def test_a_setting_needs_a_name_and_a_value(client: Run, wrong: str) -> None:
    assert client("plugins", "enable", "mlflow", "--set", wrong).code == 2
