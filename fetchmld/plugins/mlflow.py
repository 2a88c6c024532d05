"""MLflow's tracking server as a sidecar, or somebody else's, and a run of it for each attempt of a task.

The run is made before the attempt starts, in the experiment that has the name of the task's experiment, else of its job,
and ended with the attempt's own status. A program that calls `mlflow.start_run()` finds it by `MLFLOW_RUN_ID`.
"""

import base64
import re
import time
from collections.abc import Mapping
from importlib.resources import files
from typing import Any, Final, Literal
from urllib.parse import urlsplit

from pydantic import Field, field_validator

from fetchmld.plugins.protocol import (
    HOT,
    SECRET,
    Call,
    CallFailed,
    Command,
    Outcome,
    Place,
    RemoteServer,
    Settings,
    TaskFacts,
    Use,
)

_API: Final = "/api/2.0/mlflow"
_SERVER: Final = (files("fetchmld.plugins") / "mlflow_server.py").read_text()  # its user may not reach our files
_STATUSES: Final = {"completed": "FINISHED", "failed": "FAILED", "cancelled": "KILLED"}
_STORE: Final = re.compile(r"(sqlite|postgresql|mysql|mssql)(\+[a-z0-9]+)?://\S+")


class MlflowSettings(Settings):
    """Of the server."""

    backend_store_uri: str = Field(
        default="", max_length=1024, json_schema_extra=SECRET, description="A database; empty: SQLite in our directory."
    )
    artifacts_destination: str = Field(
        default="", max_length=1024, description="Where artifacts go, such as s3://BUCKET/PATH; empty: our directory."
    )
    tracking_uri: str = Field(default="", max_length=1024, description="Mode remote: the server's address, http(s).")
    username: str = Field(default="", max_length=256, description="Mode remote: for basic authentication.")
    password: str = Field(default="", max_length=1024, json_schema_extra=SECRET, description="Mode remote: likewise.")
    token: str = Field(
        default="", max_length=4096, json_schema_extra=SECRET, description="Mode remote: a bearer token."
    )
    experiment_prefix: str = Field(
        default="", max_length=64, json_schema_extra=HOT, description="Before the names of experiments that are made."
    )
    system_metrics: bool = Field(
        default=False, json_schema_extra=HOT, description="Have MLflow's client log the machine's use with each run."
    )

    @field_validator("backend_store_uri")
    @classmethod
    def _is_database(cls, value: str) -> str:
        if value and not _STORE.fullmatch(value):
            raise ValueError("must be a database, such as postgresql://USER:PASSWORD@HOST/NAME")
        return value


class MlflowTaskSettings(Settings):
    """Of one task."""

    experiment: str = Field(default="", max_length=128, description="The experiment's name; empty: as said above.")
    run_name: str = Field(default="", max_length=128, description="Empty: the job's name and the task.")


class Mlflow:
    """The plugin."""

    name = "mlflow"
    settings = MlflowSettings
    task_settings = MlflowTaskSettings
    health_path = "/health"
    keeps_prefix = False  # its REST API is never below a prefix, and its page asks by relative addresses
    listens: Literal["socket", "port"] = "socket"
    followed = ""

    @property
    def requirements(self) -> str:
        return (files("fetchmld.environments") / "mlflow.lock").read_text()

    @property
    def version(self) -> str:
        found = re.search(r"^mlflow==(\S+)", self.requirements, re.MULTILINE)
        return found[1] if found else ""

    def command(self, settings: MlflowSettings, place: Place) -> Command:
        """One process. Its own job runner, which is nine more, and its telemetry stay off.

        Its check of the Host header is off as well: it listens where only we reach it, and we check that for it.
        """
        env = {
            "MLFLOW_SERVER_ENABLE_JOB_EXECUTION": "false",
            "MLFLOW_DISABLE_TELEMETRY": "true",
            "DO_NOT_TRACK": "true",
            "MLFLOW_SERVER_DISABLE_SECURITY_MIDDLEWARE": "true",
            "FETCHML_BACKEND_STORE_URI": settings.backend_store_uri or f"sqlite:///{place.directory}/mlflow.db",
            "FETCHML_ARTIFACTS": settings.artifacts_destination or f"{place.directory}/artifacts",
        }
        return Command([place.python, "-I", "-c", _SERVER, place.socket], env)

    def remote(self, settings: MlflowSettings) -> RemoteServer:
        _check_address(settings.tracking_uri)
        if settings.token:
            return RemoteServer(settings.tracking_uri, {"Authorization": f"Bearer {settings.token}"})
        if settings.username:
            return RemoteServer(settings.tracking_uri, {"Authorization": _basic(settings.username, settings.password)})
        return RemoteServer(settings.tracking_uri)

    # -- tasks

    async def begin(self, call: Call, settings: MlflowSettings, task: TaskFacts) -> Use:
        if not task.url:
            raise CallFailed("TLS is on, and task_url does not say by which name tasks reach this daemon")
        wanted = task.settings.experiment or task.experiment or task.job_name
        experiment_id = await _experiment(call, settings.experiment_prefix + wanted)
        made = await call("POST", f"{_API}/runs/create", _new_run(experiment_id, task))
        run_id = made["run"]["info"]["run_id"]
        if task.params:
            params = [{"key": str(name), "value": str(value)} for name, value in task.params.items()]
            await call("POST", f"{_API}/runs/log-batch", {"run_id": run_id, "params": params[:100]})
        env = {
            "MLFLOW_TRACKING_URI": task.url,
            "MLFLOW_TRACKING_TOKEN": task.token,
            "MLFLOW_RUN_ID": run_id,
            "MLFLOW_EXPERIMENT_ID": experiment_id,
            **_QUIET,
        }
        if settings.system_metrics:
            env["MLFLOW_ENABLE_SYSTEM_METRICS_LOGGING"] = "true"
        return Use(env, run_id, f"#/experiments/{experiment_id}/runs/{run_id}")

    def without(self, task: TaskFacts) -> Mapping[str, str]:
        """What the program logs goes to a database among the task's artifacts, which MLflow can read as well."""
        return {"MLFLOW_TRACKING_URI": f"sqlite:///{task.output_dir}/mlflow.db", **_QUIET}

    async def end(self, call: Call, settings: MlflowSettings, run_id: str, outcome: Outcome) -> None:
        """The program may have ended the run itself; how its process ended counts."""
        ended = {
            "run_id": run_id,
            "status": _STATUSES[outcome.status],
            "end_time": round((outcome.ended_at or time.time()) * 1000),
        }
        await call("POST", f"{_API}/runs/update", ended)
        if outcome.error:
            tag = {"run_id": run_id, "key": "fetchml.error", "value": outcome.error[:5000]}
            await call("POST", f"{_API}/runs/set-tag", tag)


_QUIET: Final = {"MLFLOW_DISABLE_TELEMETRY": "true"}


async def _experiment(call: Call, name: str) -> str:
    """The id of the experiment with that name, made where there is none."""
    try:
        return str((await call("POST", f"{_API}/experiments/create", {"name": name}))["experiment_id"])
    except CallFailed as error:
        if "RESOURCE_ALREADY_EXISTS" not in str(error):
            raise
    found = (await call("GET", f"{_API}/experiments/get-by-name", {"experiment_name": name}))["experiment"]
    if found.get("lifecycle_stage") == "deleted":
        raise CallFailed(f"the experiment {name!r} is deleted in MLflow; restore it there, or use another name")
    return str(found["experiment_id"])


def _new_run(experiment_id: str, task: TaskFacts) -> dict[str, Any]:
    tags = {
        "mlflow.user": task.user_id,
        "mlflow.source.name": task.entrypoint,
        "mlflow.source.type": "JOB",
        "fetchml.task_id": task.task_id,
        "fetchml.attempt": str(task.attempt),
        "fetchml.job_name": task.job_name,
    }
    name = task.settings.run_name or f"{task.job_name} {task.task_id}"
    return {
        "experiment_id": experiment_id,
        "run_name": name if task.attempt == 1 else f"{name} ({task.attempt})",
        "user_id": task.user_id,
        "start_time": time.time_ns() // 1_000_000,
        "tags": [{"key": key, "value": value} for key, value in tags.items() if value],
    }


def _check_address(address: str) -> None:
    """Raises ValueError. What is recorded as it is must hold no credentials; there are settings for those."""
    try:
        parts = urlsplit(address)
        _ = parts.port
    except ValueError:
        raise ValueError("tracking_uri: is not a valid address") from None
    is_plain = address.isascii() and address.isprintable() and " " not in address and "\\" not in address
    if parts.scheme not in ("http", "https") or not parts.hostname or not is_plain:
        raise ValueError("tracking_uri: must be the http(s) address of a server")
    if parts.username is not None or parts.password is not None:
        raise ValueError(
            "tracking_uri: must not hold a user name or password; username, password and token are settings"
        )


def _basic(username: str, password: str) -> str:
    return "Basic " + base64.b64encode(f"{username}:{password}".encode()).decode()


plugin: Final = Mlflow()
