"""Plugins over the API: who sees and changes what, what is refused by which field, secrets, and what tasks may name."""

from pathlib import Path
from typing import Any

import pytest

from tests.api.served import KEYS, Api, with_api

ADMIN = KEYS["admin"]
MLFLOW = "/v1/plugins/mlflow"


async def put(api: Api, body: Any, path: str = MLFLOW, key: str = ADMIN) -> tuple[int, Any]:
    return await api.call("PUT", f"{path}/config", key=key, json=body)


def nested(depth: int) -> dict[str, Any]:
    found: dict[str, Any] = {}
    for _ in range(depth):
        found = {"a": found}
    return found


def test_all_are_listed_and_none_runs_until_somebody_says_so(tmp_path: Path) -> None:
    async def test(api: Api) -> None:
        status, found = await api.call("GET", "/v1/plugins")
        assert status == 200
        assert [(one["name"], one["enabled"], one["mode"], one["status"]["status"]) for one in found] == [
            ("mlflow", False, "disabled", "stopped"),
            ("tensorboard", False, "disabled", "stopped"),
        ]
        assert all(one["version"] and one["requires_restart"] for one in found)
        assert (await api.call("GET", MLFLOW))[1] == found[0]
        _, health = await api.call("GET", f"{MLFLOW}/health")
        assert (health["status"], health["problem"]) == ("unhealthy", "it is not enabled")

    with_api(tmp_path, test)


def test_configured_and_disabled(tmp_path: Path) -> None:
    async def test(api: Api) -> None:
        status, made = await put(api, {"settings": {"experiment_prefix": "a-"}})
        assert status == 200
        assert (made["enabled"], made["mode"], made["status"]["status"]) == (True, "sidecar", "starting")
        assert (await api.call("GET", f"{MLFLOW}/health"))[1]["status"] == "degraded"
        assert (await api.call("DELETE", f"{MLFLOW}/config", key=ADMIN))[0] == 204
        assert (await api.call("DELETE", f"{MLFLOW}/config", key=ADMIN))[0] == 204
        _, config = await api.call("GET", f"{MLFLOW}/config", key=ADMIN)
        assert config == {"enabled": False, "mode": "disabled", "settings": {"experiment_prefix": "a-"}}
        assert [fact.action for fact in api.head.facts if fact.event_type == "plugin_configured"] == [
            "plugin.update",
            "plugin.disable",
        ]

    with_api(tmp_path, test)


@pytest.mark.parametrize(
    ("body", "enabled", "mode"),
    [
        ({}, True, "sidecar"),
        ({"enabled": True, "mode": "sidecar"}, True, "sidecar"),
        ({"enabled": False}, False, "disabled"),
        ({"mode": "disabled"}, False, "disabled"),
        ({"enabled": True, "mode": "disabled"}, True, "disabled"),
    ],
)
def test_what_is_left_out_means(tmp_path: Path, body: Any, enabled: bool, mode: str) -> None:
    async def test(api: Api) -> None:
        _, made = await put(api, body)
        assert (made["enabled"], made["mode"]) == (enabled, mode)
        assert made["status"]["status"] == ("starting" if enabled and mode != "disabled" else "stopped")

    with_api(tmp_path, test)


@pytest.mark.parametrize(
    ("body", "where"),
    [
        ({"settings": {"surprise": 1}}, "settings.surprise"),
        ({"settings": []}, "settings"),
        ({"mode": "sideways"}, "mode"),
        ({"enabled": "yes"}, "enabled"),
        ({"image": "mlflow:latest"}, "image"),
        ({"mode": "remote"}, "settings.tracking_uri"),
        ({"mode": "remote", "settings": {"tracking_uri": "file:///etc/passwd"}}, "settings.tracking_uri"),
        ({"settings": {"password": "********"}}, "settings.password"),
        ({"surprise": 1}, "surprise"),
        ({"enabled": False, "settings": {"pasword": "hunter2"}}, "settings.pasword"),  # or it would be on record
        ({"settings": {"surprise": 2**53 + 1}}, "settings: holds a number beyond 9007199254740992"),
        ({"settings": {"surprise": ["a" * 16_385]}}, "settings: has 16385 bytes"),
        ({"settings": {"a" * 16_385: 1}}, "settings: has 16385 bytes"),
        ({"settings": nested(33)}, "settings: is nested more than 32 deep"),
    ],
)
def test_a_bad_configuration_is_refused_by_its_field_and_changes_nothing(tmp_path: Path, body: Any, where: str) -> None:
    async def test(api: Api) -> None:
        status, error = await put(api, body)
        assert (status, error["code"]) == (422, "VALIDATION_ERROR")
        assert error["error"].startswith(where)
        assert (await api.call("GET", MLFLOW))[1]["enabled"] is False

    with_api(tmp_path, test)


def test_an_unknown_plugin_is_404_everywhere(tmp_path: Path) -> None:
    async def test(api: Api) -> None:
        for method, path in (
            ("GET", ""),
            ("GET", "/config"),
            ("GET", "/health"),
            ("PUT", "/config"),
            ("DELETE", "/config"),
        ):
            json: Any = {} if method == "PUT" else None
            assert (await api.call(method, f"/v1/plugins/nothing{path}", key=ADMIN, json=json))[0] == 404

    with_api(tmp_path, test)


def test_settings_are_the_administrators_alone_and_secrets_nobodys(tmp_path: Path) -> None:
    async def test(api: Api) -> None:
        settings = {"tracking_uri": "https://mlflow.example.org", "username": "ada", "password": "hunter2"}
        _, made = await put(api, {"mode": "remote", "settings": settings})
        assert made["config"]["settings"] == {**settings, "password": "********"}
        for role, key in [(role, key) for role, key in KEYS.items() if role != "worker"]:
            for path in (MLFLOW, f"{MLFLOW}/config", "/v1/plugins"):
                status, seen = await api.call("GET", path, key=key)
                assert status == 200, role
                assert "hunter2" not in str(seen)
                assert ("ada" in str(seen)) == (role == "admin"), role
            if role != "admin":
                assert (await put(api, {}, key=key))[0] == 403
                assert (await api.call("DELETE", f"{MLFLOW}/config", key=key))[0] == 403
        assert "hunter2" not in str(api.head.facts)
        _, again = await put(api, {"mode": "remote", "settings": made["config"]["settings"]})
        assert again == made  # the mask means as it was
        assert len(api.head.facts_of("plugin.update")) == 1

    with_api(tmp_path, test)


def test_a_task_may_name_what_is_installed(tmp_path: Path) -> None:
    async def test(api: Api) -> None:
        body = {
            "job_name": "a",
            "plugin_configs": {"mlflow": {"settings": {"experiment": "e"}}, "tensorboard": {"enabled": False}},
        }
        status, task = await api.call("POST", "/v1/tasks", json=body)
        assert (status, task["plugin_configs"]) == (201, body["plugin_configs"])
        assert task["plugin_status"] == {
            "mlflow": {"name": "mlflow", "status": "starting"},
            "tensorboard": {"name": "tensorboard", "status": "stopped"},
        }
        _, found = await api.call("GET", "/v1/tasks", params={"plugin_configs": '{"mlflow": {}}'})
        assert [one["id"] for one in found["tasks"]] == [task["id"]]
        for configs, where in (
            ({"nothing": {}}, "plugin_configs: there is no plugin 'nothing'"),
            ({"mlflow": {"settings": {"surprise": 1}}}, "plugin_configs.mlflow.settings.surprise"),
            ({"mlflow": {"settings": {"surprise": -(2**53) - 1}}}, "plugin_configs.mlflow.settings: holds a number"),
        ):
            status, error = await api.call("POST", "/v1/tasks", json={"job_name": "a", "plugin_configs": configs})
            assert status == 422
            assert error["error"].startswith(where)

    with_api(tmp_path, test)


def test_a_token_is_its_attempts_alone_and_ends_with_it(tmp_path: Path) -> None:
    async def test(api: Api) -> None:
        _, task = await api.call("POST", "/v1/tasks", json={"job_name": "a"})
        token = api.head.tokens.make(task["id"], 1, "mlflow")
        found = await api.head.task_token(token)
        assert found is not None
        caller, plugin = found
        assert (caller.user_id, caller.role, plugin) == (task["user_id"], "task", "mlflow")
        assert await api.head.task_token(api.head.tokens.make(task["id"], 2, "mlflow")) is None
        assert await api.head.task_token(api.head.tokens.make("nothing", 1, "mlflow")) is None
        assert await api.head.task_token(token[:-1] + ("0" if token[-1] != "0" else "1")) is None
        assert (await api.call("GET", "/v1/tasks", key=token))[0] == 401  # it is no key

    with_api(tmp_path, test)


def test_pages_of_a_plugin_are_behind_a_key_a_token_of_its_own_and_its_health(tmp_path: Path) -> None:
    async def test(api: Api) -> None:
        _, task = await api.call("POST", "/v1/tasks", json={"job_name": "a"})
        token = api.head.tokens.make(task["id"], 1, "mlflow")
        other = api.head.tokens.make(task["id"], 1, "tensorboard")
        forged = token[:-1] + ("0" if token[-1] != "0" else "1")
        page = "/plugins/mlflow/api/2.0/mlflow/experiments/search"

        async def status(path: str, **headers: str) -> int:
            async with await api.raw("GET", path, key=None, headers=headers, allow_redirects=False) as answer:
                return answer.status

        for bearer, expected in (
            (token, 404),
            (KEYS["user"], 404),
            (other, 401),
            (forged, 401),
            ("", 401),
            ("fml_no", 401),
        ):
            assert await status(page, Authorization=f"Bearer {bearer}") == expected, bearer
        assert (
            await status("/v1/tasks", Authorization=f"Bearer {KEYS['user']}") == 401
        )  # there the key has its own header
        assert await status("/v1/plugins", Authorization=f"Bearer {token}") == 401
        assert await status("/plugins/../v1/tasks", Authorization=f"Bearer {token}") == 401
        assert await status(page, **{"X-API-Key": KEYS["viewer"]}) == 403
        await put(api, {})
        assert await status(page, Authorization=f"Bearer {token}") == 503
        assert await status("/plugins/mlflow", Authorization=f"Bearer {token}") == 308
        await api.head.end(task["id"])
        assert await status(page, Authorization=f"Bearer {token}") in (401, 503)  # within a second

    with_api(tmp_path, test)
