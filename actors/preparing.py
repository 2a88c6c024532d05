"""What must be there before an attempt starts: its directory, code, datasets, packages; and the start that comes of it.

Owns the prepared starts until their attempts are forgotten. Fetches, unpacks and builds through those whose work that is;
each access goes on record, also one that fails.
"""

import asyncio
from collections.abc import Callable, Coroutine
from pathlib import Path
from typing import Any, Final

from actors import boxing, containers, jupyter, node
from actors.attaching import NOTHING, Attached, Attacher, Followed
from actors.environments import Environment, Environments
from actors.log_reader import LogReader
from actors.requirements import wanted_by
from actors.runner_words import name_of
from actors.services import Services
from actors.task_code import CodeSource, TaskCode, code_of, read_fact
from actors.workspace import CannotRun, Workspace, environment_of, program_of, rendezvous_of, script_of, words_of
from actors.workspaces import Workspaces
from fetchmld.config import Config
from fetchmld.core.agent import Event, Prepared, PrepareFailed, RunKey
from fetchmld.core.messages import Fact, LaunchOrder
from fetchmld.core.model import Capacity, DatasetSpec
from fetchmld.runner import frames
from fetchmld.store.dataset_cache import Dataset
from fetchmld.store.datasets import DatasetError, DatasetStore, mount, shown, variable_of

_FETCHED: Final = frozenset({"dataset_specs", "snapshot_id", "plugin_configs", "jupyter"})  # what takes time to prepare

Datasets = dict[str, tuple[DatasetSpec, Dataset]]


class Preparer:
    """Makes attempts ready to start. `tell` says something of an attempt to the scheduler, `record` has a fact put down."""

    def __init__(
        self,
        config: Config,
        worker_id: str,
        workspaces: Workspaces,
        logs: LogReader,
        code: CodeSource,
        datasets: DatasetStore,
        environments: Environments,
        attacher: Attacher,
        services: Services,
        tell: Callable[..., None],
        record: Callable[[Fact], None],
    ) -> None:
        self._config = config
        self._worker_id = worker_id
        self._workspaces = workspaces
        self._logs = logs
        self._code = code
        self._datasets = datasets
        self._environments = environments
        self._attacher = attacher
        self._services = services
        self._tell = tell
        self._record = record
        self._starts: dict[RunKey, frames.Message] = {}
        self._followed: dict[RunKey, tuple[Followed, ...]] = {}
        self.capacity = Capacity(0, 0, 0, 0)
        self.containers: list[str] = []  # the container commands that work here, best first
        self.isolation: dict[str, Any] = {}  # as the runner says it

    # -- what is ready

    def start_of(self, key: RunKey) -> frames.Message:
        """What the runner is to be told. Raises KeyError where it was not prepared here."""
        return self._starts[key]

    def program_of(self, key: RunKey) -> str:
        return str(self._starts.get(key, {}).get("path", "the program"))

    def gpus_of(self, key: RunKey) -> list[str] | None:
        """The GPUs that it was given, by UUID; None where an agent before us prepared it."""
        start = self._starts.get(key)
        return None if start is None else [word for word in start["env"]["CUDA_VISIBLE_DEVICES"].split(",") if word]

    def forget(self, key: RunKey) -> None:
        self._starts.pop(key, None)
        self._followed.pop(key, None)

    def followed_of(self, key: RunKey) -> tuple[tuple[Followed, ...], int]:
        """Files of its output that plugins want while they grow, and the user whose they are."""
        return self._followed.get(key, ()), int(self._starts.get(key, {}).get("uid", -1))

    # -- making it ready

    @staticmethod
    def is_quick(order: LaunchOrder) -> bool:
        """Whether nothing has to be fetched for it."""
        return not order["request"].keys() & _FETCHED

    def prepare(
        self,
        order: LaunchOrder,
        datasets: Datasets | None = None,
        code: TaskCode | None = None,
        python: Environment | None = None,
        attached: Attached = NOTHING,
    ) -> Event:
        """Make the directory, find the program, and have the start ready."""
        key = RunKey(order["task_id"], order["attempt"])
        try:
            self._starts[key] = self._made(order, datasets or {}, code, python, attached)
            self._followed[key] = attached.followed
        except CannotRun as error:
            return PrepareFailed(key, error.word, error.detail, error.infrastructure)
        except ValueError as error:  # of a mount path
            return PrepareFailed(key, "LAUNCH_FAILED", str(error))
        except OSError as error:
            return PrepareFailed(key, "LAUNCH_FAILED", f"cannot make the task's directory: {error}", True)
        return Prepared(key)

    async def fetch_and_prepare(self, order: LaunchOrder) -> Event:
        """The same, once all that it needs is here. What was fetched is let go again however that ends."""
        key = RunKey(order["task_id"], order["attempt"])
        datasets: Datasets = {}
        python: Environment | None = None
        try:
            code = await self._task_code(order)
            for spec in order["request"].get("dataset_specs", ()):
                datasets[spec["name"]] = (spec, await self._dataset(key, spec))
            python = await self._python(key, order, code)
            attached = await self._attacher.attach(order, self._workspaces.of(name_of(key, order["rank"])).output)
            return await _finished(asyncio.to_thread(self.prepare, order, datasets, code, python, attached))
        except (DatasetError, CannotRun) as error:
            return PrepareFailed(key, error.word, error.detail, error.infrastructure)
        finally:
            for _, dataset in datasets.values():
                self._datasets.let_go(dataset)
            if python is not None:
                self._environments.let_go(python)

    def _made(
        self,
        order: LaunchOrder,
        datasets: Datasets,
        code: TaskCode | None,
        python: Environment | None,
        attached: Attached,
    ) -> frames.Message:
        key, request = RunKey(order["task_id"], order["attempt"]), order["request"]
        name = name_of(key, order["rank"])
        workspace = self._workspaces.create(name)
        _check_rendezvous(order)
        if code is not None:
            code.unpack(workspace.work)
        places = {
            variable_of(dataset_name): str(mount(dataset, Path(workspace.work), spec["mount_path"]))
            for dataset_name, (spec, dataset) in datasets.items()
        }
        if places or code is not None:
            workspace.hand_over()
        if "jupyter" in request:
            return {**self._start(order, workspace), **self._server(order, name, workspace, python)}
        path, argv, env = self._command(order, name, workspace, places, python, attached)
        return {**self._start(order, workspace), "path": path, "argv": argv, "env": env}

    def _start(self, order: LaunchOrder, workspace: Workspace) -> frames.Message:
        """A `start` message, but for what is started."""
        key, request = RunKey(order["task_id"], order["attempt"]), order["request"]
        return {
            "do": "start",
            "key": name_of(key, order["rank"]),
            "cwd": workspace.work,
            "uid": workspace.uid,
            **boxing.box_of(request, self._config, self.capacity, self.isolation),
            "grace_s": self._config.grace_s,
            "time_limit_s": request.get("time_limit_s", 0),
            "prelude": self._logs.prelude(key),
        }

    def _command(
        self,
        order: LaunchOrder,
        name: str,
        workspace: Workspace,
        places: dict[str, str],
        python: Environment | None,
        attached: Attached,
    ) -> tuple[str, list[str], dict[str, str]]:
        """The program, its words and its environment. Raises `CannotRun`."""
        request = order["request"]
        variables = [python.variables] if python is not None else []
        env = environment_of(order, workspace, self.capacity.gpus, places, *variables)
        env = {**attached.env, **env}  # what the task says itself counts
        if "image" in request:
            words = words_of(request, workspace.work)
            argv = containers.command(self.containers, request, words, name, workspace, env)
            workspace.mark_container()
            return argv[0], argv, env
        if python is None:
            return *program_of(request, workspace.work, env["PATH"]), env
        self._environments.hold(python, name)
        return *program_of(request, workspace.work, env["PATH"], python.python), env

    def _server(
        self, order: LaunchOrder, name: str, workspace: Workspace, python: Environment | None
    ) -> frames.Message:
        """The same of a Jupyter server, and where it runs: in its user's workspace. Raises `CannotRun`, OSError."""
        server = self._services.make(order, workspace.uid)
        env = environment_of(order, workspace, self.capacity.gpus, {}, *([python.variables] if python else []))
        env |= jupyter.variables(server)
        words = jupyter.words(server, python.python if python else "")
        if python is None:
            mounts = [server.home, server.run]
            words = containers.command(self.containers, order["request"], words, name, workspace, env, mounts)
            workspace.mark_container()
        else:
            self._environments.hold(python, name)
        return {"path": words[0], "argv": words, "env": env, "cwd": server.home}

    # -- what takes time

    async def _task_code(self, order: LaunchOrder) -> TaskCode | None:
        """The snapshot that the task runs in, if it has one; the record hears of it."""
        snapshot_id = order["request"].get("snapshot_id")
        if snapshot_id is None:
            return None
        try:
            code = await code_of(self._code, snapshot_id)
        except CannotRun as error:
            self._record(read_fact(order, self._worker_id, snapshot_id, error, None))
            raise
        self._record(read_fact(order, self._worker_id, snapshot_id, None, code))
        return code

    async def _python(self, key: RunKey, order: LaunchOrder, code: TaskCode | None) -> Environment | None:
        """The environment that the task's code asks for; None where it asks for none."""
        if "image" in order["request"]:  # an image brings its own
            return None
        if "jupyter" in order["request"]:
            return await self._environments.get(jupyter.wanted(), lambda line: self._logs.prepares(key, line))
        if code is None:
            return None
        indexes = self._config.environment_indexes
        wanted = await asyncio.to_thread(wanted_by, code, script_of(order["request"]), indexes)
        if wanted is None:
            return None
        return await self._environments.get(wanted, lambda line: self._logs.prepares(key, line))

    async def _dataset(self, key: RunKey, spec: DatasetSpec) -> Dataset:
        """Fetch one dataset, or find it in the cache; either way, and when it fails, the record hears of it."""
        access = {"name": spec["name"], "source": shown(spec["source"])}
        try:
            found = await self._datasets.get(spec, lambda line: self._logs.prepares(key, line))
        except DatasetError as error:
            self._tell("dataset", key, **access, success=False, error=str(error), sha256=spec.get("sha256", ""))
            raise
        fields = {"sha256": found.sha256, "total_bytes": found.total_bytes, "cached": found.cached}
        self._tell("dataset", key, **access, success=True, **fields)
        return found


def _check_rendezvous(order: LaunchOrder) -> None:
    """Raises CannotRun where this is a gang's first node, and a stranger has the port that its members are told."""
    place = rendezvous_of(order)
    if place is not None and order["rank"] == 0 and not node.is_free(place[1]):
        raise CannotRun("LAUNCH_FAILED", f"port {place[1]}, for the gang to meet, is in use here", True)


async def _finished(work: Coroutine[Any, Any, Event]) -> Event:
    """The result of `work`, which is let finish also when we are cancelled: a thread cannot be called back."""
    task = asyncio.create_task(work)
    try:
        return await asyncio.shield(task)
    except asyncio.CancelledError:
        return await task
