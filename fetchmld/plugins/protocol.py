"""What a plugin is. A third party writes one object with these names and registers it as an entry point:

    [project.entry-points."fetchmld.plugins"]
    notes = "my_package:plugin"

FetchML gives it a process of its own on the head's machine (its *sidecar*), keeps that alive, and serves it below
`/plugins/NAME/`. `examples/plugin` is a whole one. A plugin that tasks report to is a `Tracker` as well.
"""

from collections.abc import Awaitable, Callable, Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, Final, Literal, Protocol, runtime_checkable

from pydantic import BaseModel, ConfigDict

HOT: Final[dict[str, Any]] = {"hot": True}  # json_schema_extra of a setting that a running sidecar need not be told of
SECRET: Final[dict[str, Any]] = {"secret": True}  # of one that nobody is shown again


class Settings(BaseModel):
    """Base of a plugin's settings: a field for each, with its bounds. What is not named here is refused.

    `Field(json_schema_extra=HOT)`: a change of it needs no restart. `SECRET`: its value is never shown nor recorded.
    """

    model_config = ConfigDict(extra="forbid", frozen=True)


@dataclass(slots=True, frozen=True)
class Place:
    """Where a sidecar is to run and listen."""

    directory: Path  # its own, and where it is started; it stays from one start to the next
    files: Path  # what tasks wrote for it, see `Tracker.followed`; it may read there
    python: str  # of the environment that has the plugin's requirements
    socket: str  # the unix socket to listen at, relative to `directory`
    port: int  # to listen at on 127.0.0.1 instead, where the plugin's `listens` is "port"; else 0
    prefix: str  # the path that it is served below: /plugins/NAME


@dataclass(slots=True, frozen=True)
class Command:
    """What to run: never a shell's line. `env` is added to a small environment."""

    argv: list[str]
    env: Mapping[str, str] = field(default_factory=dict)


@dataclass(slots=True, frozen=True)
class RemoteServer:
    """A server that somebody else runs; `headers` go with each request and hold its credentials."""

    url: str
    headers: Mapping[str, str] = field(default_factory=dict)


class Plugin(Protocol):
    """Every plugin. All of it is cheap: nothing here blocks."""

    @property
    def name(self) -> str:
        """Lower-case letters, digits and hyphens: part of addresses."""

    @property
    def version(self) -> str: ...

    @property
    def settings(self) -> type[Settings]: ...

    @property
    def requirements(self) -> str:
        """What its environment is to hold, as a requirements file, better with hashes; "" where our Python will do."""

    @property
    def health_path(self) -> str:
        """Answered with 200 while the sidecar is well."""

    @property
    def keeps_prefix(self) -> bool:
        """Does the sidecar expect `/plugins/NAME` at the head of each path?"""

    @property
    def listens(self) -> Literal["socket", "port"]:
        """At `Place.socket`, which only its own user reaches, or at `Place.port`, which everybody on the machine does."""

    def command(self, settings: Any, place: Place) -> Command:
        """The sidecar. `settings` is an instance of `self.settings`."""


@runtime_checkable
class RemoteCapable(Protocol):
    """A plugin whose server may be somebody else's: mode `remote`."""

    def remote(self, settings: Any) -> RemoteServer:
        """Raises ValueError where the settings do not say."""


@dataclass(slots=True, frozen=True)
class TaskFacts:
    """One attempt that is about to start, as a tracker sees it."""

    task_id: str
    attempt: int
    user_id: str
    job_name: str
    experiment: str  # the name of its experiment, "" where it has none
    entrypoint: str
    params: Mapping[str, Any]  # of an element of an array: its own
    settings: Any  # an instance of the plugin's `task_settings`
    url: str  # where the task reaches the plugin; "" where it cannot
    token: str  # with this as Bearer; good while the attempt lives
    output_dir: str  # what is left there is kept as the task's artifacts


@dataclass(slots=True, frozen=True)
class Use:
    """What an attempt gets. `run_id` names what the plugin made for it; `path` shows it, below `/plugins/NAME/`."""

    env: Mapping[str, str]
    run_id: str = ""
    path: str = ""


@dataclass(slots=True, frozen=True)
class Outcome:
    """How an attempt ended."""

    status: Literal["completed", "failed", "cancelled"]
    error: str
    ended_at: float


Call = Callable[
    [str, str, Any], Awaitable[Any]
]  # method, path below the server's root, JSON or None -> JSON; `CallFailed`


class CallFailed(Exception):
    """The plugin's server did not answer, or not well; says how."""


@runtime_checkable
class Tracker(Protocol):
    """A plugin that tasks report to."""

    @property
    def task_settings(self) -> type[Settings]:
        """What a task may set for itself in its `plugin_configs`."""

    @property
    def followed(self) -> str:
        """A directory below the task's output whose files the sidecar wants while they grow; "" for none."""

    async def begin(self, call: Call, settings: Any, task: TaskFacts) -> Use:
        """Before the attempt starts, once for each, whatever its number of nodes. Raises `CallFailed`."""

    def without(self, task: TaskFacts) -> Mapping[str, str]:
        """The attempt's environment where the plugin is down, so that the task works all the same."""

    async def end(self, call: Call, settings: Any, run_id: str, outcome: Outcome) -> None:
        """The attempt is over; may be told twice. Raises `CallFailed`, and is told again later."""


class NoSettings(Settings):
    """For what has none."""
