"""The body of POST /v1/tasks: the contract's fields and ours, their bounds, and the rules that no type can say.

Owns what a valid request is; produces a `TaskRequest` with exactly the fields that were given. Never asks the head.
"""

import re
from typing import Annotated, Any, Final, Literal, Required, cast

from pydantic import AfterValidator, ConfigDict, Field, TypeAdapter, with_config
from typing_extensions import TypedDict

from fetchmld.api.arrays import GivenArray, array_request
from fetchmld.api.datasets import Datasets
from fetchmld.api.validation import validate
from fetchmld.config import Config
from fetchmld.core.chain import FIELD_BYTES_MAX, INTEGER_MAX
from fetchmld.core.errors import Invalid
from fetchmld.core.model import DEPENDENCIES_MAX, Dependency, TaskRequest
from fetchmld.plugins.catalog import catalog, valid

TABLE_BYTES_MAX: Final = 65_536  # env and metadata, names and values together
TABLE_ENTRIES_MAX: Final = 1000
DEPTH_MAX: Final = 32  # of free-form settings

_SURE_CHARACTERS: Final = FIELD_BYTES_MAX // 4  # have no more bytes than that in UTF-8

# What shlex.split accepts, as one linear pass: it is a hundred times slower, and only its verdict is wanted here.
_SPLITTABLE: Final = re.compile(r"""(?:[^'"\\]++|\\.|'[^']*+'|"(?:[^"\\]++|\\.)*+")*+""", re.DOTALL)


def recordable(text: str) -> str:
    """The record is what a restart reads tasks from, so what it would cut is refused."""
    if len(text) > _SURE_CHARACTERS and len(text.encode()) > FIELD_BYTES_MAX:
        raise ValueError(f"has {len(text.encode())} bytes, at most {FIELD_BYTES_MAX} are accepted")
    return text


def _recordable_object(given: dict[str, Any]) -> dict[str, Any]:
    """Free-form JSON that the record carries as it is: what it would cut, round or not take at all is refused."""
    inner: list[tuple[Any, int]] = [(given, 0)]  # no recursion: depth is the client's
    while inner:
        value, depth = inner.pop()
        if depth > DEPTH_MAX:
            raise ValueError(f"is nested more than {DEPTH_MAX} deep")
        if isinstance(value, dict):
            inner.extend((one, depth + 1) for pair in value.items() for one in pair)
        elif isinstance(value, list):
            inner.extend((one, depth + 1) for one in value)
        elif isinstance(value, str):
            recordable(value)
        elif type(value) is int and not -INTEGER_MAX <= value <= INTEGER_MAX:
            raise ValueError(f"holds a number beyond {INTEGER_MAX}, not exact for every reader; send it as text")
        elif value in (float("inf"), float("-inf")):
            raise ValueError("holds a number beyond what a double can carry; send it as text")
    return given


def _splittable(text: str) -> str:
    recordable(text)
    if not _SPLITTABLE.fullmatch(text):
        raise ValueError("has an open quote, or ends in a backslash; quote it as for a shell")
    return text


def _command(text: str) -> str:
    if not text.strip():
        raise ValueError("is empty; leave it out to run the snapshot's train.py")
    return _splittable(text)


def _small_table(table: dict[str, str]) -> dict[str, str]:
    if sum(map(len, table)) + sum(map(len, table.values())) <= _SURE_CHARACTERS:
        return table
    total = sum(len(recordable(name).encode()) + len(recordable(value).encode()) for name, value in table.items())
    if total > TABLE_BYTES_MAX:
        raise ValueError(f"has {total} bytes of names and values, at most {TABLE_BYTES_MAX} are accepted")
    return table


def _variable(name: str) -> str:
    if name.startswith("FETCHML_"):
        raise ValueError("names that begin with FETCHML_ are set by FetchML itself")
    return name


_GPU_TYPE: Final = r"^[A-Za-z0-9][A-Za-z0-9 ._-]{0,62}(\|[A-Za-z0-9][A-Za-z0-9 ._-]{0,62}){0,7}$"

GpuType = Annotated[str, Field(pattern=_GPU_TYPE)]
Image = Annotated[str, Field(pattern=r"^[A-Za-z0-9][A-Za-z0-9._/:@+-]{0,254}$")]  # cannot be taken for an option
Id = Annotated[str, Field(min_length=1, max_length=128)]
VariableName = Annotated[str, Field(pattern=r"^[A-Za-z_][A-Za-z0-9_]*$", max_length=256), AfterValidator(_variable)]
Table = Annotated[dict[str, str], Field(max_length=TABLE_ENTRIES_MAX), AfterValidator(_small_table)]
Variables = Annotated[dict[VariableName, str], Field(max_length=TABLE_ENTRIES_MAX), AfterValidator(_small_table)]
_STRICT: Final = ConfigDict(extra="forbid", strict=True)


@with_config(_STRICT)
class GivenConfig(TypedDict, total=False):
    """The contract's PluginConfig: of a plugin, or of a task's use of one."""

    enabled: bool
    mode: Literal["sidecar", "remote", "disabled"]
    image: str
    settings: Annotated[dict[str, Any], AfterValidator(_recordable_object)]


@with_config(_STRICT)
class GivenSpec(TypedDict, total=False):
    """The contract's DatasetSpec, before `Datasets` completes it."""

    name: Id
    source: Annotated[str, Field(min_length=1), AfterValidator(recordable)]
    sha256: str
    mount_path: str


TaskReference = Annotated[str, Field(pattern=r"^[A-Za-z0-9_-]{1,64}$")]


@with_config(_STRICT)
class Needed(TypedDict, total=False):
    """A dependency: the task, and how it has to end (`ok` where absent)."""

    task_id: Required[TaskReference]
    condition: Literal["ok", "any", "failed"]


@with_config(_STRICT)
class CreateTask(TypedDict, total=False):
    """The contract's CreateTaskRequest, and our optional fields."""

    job_name: Required[Annotated[str, Field(min_length=1, max_length=64, pattern=r"^[a-zA-Z0-9_-]+$")]]
    priority: Annotated[int, Field(ge=1, le=10)]
    args: Annotated[str, AfterValidator(_splittable)]
    entrypoint: Annotated[str, AfterValidator(_command)]
    image: Image
    snapshot_id: Id
    experiment_id: Id
    reservation_id: Id
    datasets: list[Id]
    dataset_specs: list[GivenSpec]
    plugin_configs: dict[Id, GivenConfig]
    cpu: Annotated[int, Field(ge=0, le=4096)]
    memory_gb: Annotated[int, Field(ge=0, le=65_536)]
    gpu: Annotated[int, Field(ge=0, le=1024)]
    gpu_type: GpuType
    node_count: Annotated[int, Field(ge=1, le=4096)]
    time_limit_s: Annotated[int, Field(ge=1, le=31_536_000)]
    kind: Literal["batch", "service"]
    env: Variables
    metadata: Table
    max_retries: Annotated[int, Field(ge=0, le=100)]
    depends_on: Annotated[list[TaskReference | Needed], Field(max_length=DEPENDENCIES_MAX)]
    array: GivenArray


_CREATE_TASK: Final[TypeAdapter[CreateTask]] = TypeAdapter(CreateTask)
_DATASETS: Final = frozenset({"datasets", "dataset_specs"})


class Intake:
    """Decodes the bodies of POST /v1/tasks under one configuration."""

    def __init__(self, config: Config) -> None:
        self._datasets = Datasets(config)

    def task_request(self, body: dict[str, Any]) -> TaskRequest:
        """The request that `body` describes, complete. Raises Invalid naming what is wrong."""
        given: dict[str, Any] = validate(_CREATE_TASK, body)
        for name, wanted in given.get("plugin_configs", {}).items():
            _check_plugin(name, wanted)
        if given.keys() & _DATASETS:
            specs = self._datasets.complete(given.get("datasets", []), given.get("dataset_specs", []))
            given["dataset_specs"] = specs
        if "depends_on" in given:
            given["depends_on"] = _needs(given["depends_on"])
        if "array" in given:
            given["array"] = array_request(given["array"])
        return cast(TaskRequest, given)


def _check_plugin(name: str, given: GivenConfig) -> None:
    """Raises Invalid for a plugin that is not installed, and for settings that it does not take from a task."""
    entry = catalog().get(name)
    if entry is None:
        raise Invalid(f"plugin_configs: there is no plugin {name[:64]!r}; there are {', '.join(catalog()) or 'none'}")
    if entry.tracker is None:
        raise Invalid(
            f"plugin_configs: tasks do not report to {name}" + (f": {entry.problem}" if entry.problem else "")
        )
    valid(entry.tracker.task_settings, given.get("settings", {}), f"plugin_configs.{name}.settings")


def _needs(given: list[str | Needed]) -> list[Dependency]:
    """Plain ids are conditions `ok`. Raises Invalid where a task is named twice."""
    needs = [
        Dependency(task_id=one, condition="ok")
        if isinstance(one, str)
        else Dependency(task_id=one["task_id"], condition=one.get("condition", "ok"))
        for one in given
    ]
    names = [need["task_id"] for need in needs]
    if twice := {name for name in names if names.count(name) > 1}:
        raise Invalid(f"depends_on: task {min(twice)!r} is named twice")
    return needs
