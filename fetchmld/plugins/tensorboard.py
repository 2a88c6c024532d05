"""TensorBoard as a sidecar. Tasks write event files into `TENSORBOARD_LOGDIR`, which is part of their output: so they are
kept as artifacts, and while they grow their bytes are brought to the sidecar, from whichever machine.
"""

import re
from collections.abc import Mapping
from importlib.resources import files
from typing import Final, Literal

from pydantic import Field

from fetchmld.plugins.protocol import HOT, Call, Command, NoSettings, Outcome, Place, Settings, TaskFacts, Use

FOLLOWED: Final = "tensorboard"
_SERVER: Final = (files("fetchmld.plugins") / "tensorboard_server.py").read_text()  # its user may not reach our files


class TensorboardSettings(Settings):
    """Of the server."""

    reload_interval_s: float = Field(default=5.0, ge=1, le=3600, description="Seconds between two looks for new data.")
    samples_per_plugin: str = Field(
        default="", pattern=r"^$|^[a-z_]+=[0-9]+(,[a-z_]+=[0-9]+)*$", description="As TensorBoard's own flag."
    )
    keep_bytes_max: int = Field(
        default=10 * 2**30, ge=2**20, json_schema_extra=HOT, description="Of event files; the oldest runs go first."
    )


class Tensorboard:
    """The plugin."""

    name = "tensorboard"
    settings = TensorboardSettings
    task_settings = NoSettings
    health_path = "/plugins/tensorboard/data/environment"
    keeps_prefix = True
    listens: Literal["socket", "port"] = "socket"
    followed = FOLLOWED

    @property
    def requirements(self) -> str:
        return (files("fetchmld.environments") / "tensorboard.lock").read_text()

    @property
    def version(self) -> str:
        found = re.search(r"^tensorboard==(\S+)", self.requirements, re.MULTILINE)
        return found[1] if found else ""

    def command(self, settings: TensorboardSettings, place: Place) -> Command:
        argv = [place.python, "-I", "-c", _SERVER, place.socket]
        argv += ["--logdir", str(place.files), "--path_prefix", place.prefix]
        argv += ["--reload_interval", f"{settings.reload_interval_s:g}", "--load_fast", "false"]
        if settings.samples_per_plugin:
            argv += ["--samples_per_plugin", settings.samples_per_plugin]
        return Command(argv)

    # -- tasks

    async def begin(self, call: Call, settings: TensorboardSettings, task: TaskFacts) -> Use:
        """Nothing is asked of the server: what it shows are files."""
        run = run_name(task.job_name, task.task_id, task.attempt)
        return Use(self.without(task), run, f"?runFilter=%5E{run.replace('/', '%2F')}")

    def without(self, task: TaskFacts) -> Mapping[str, str]:
        return {"TENSORBOARD_LOGDIR": f"{task.output_dir}/{FOLLOWED}"}

    async def end(self, call: Call, settings: TensorboardSettings, run_id: str, outcome: Outcome) -> None:
        """Its files are all there: they came with the task's artifacts."""


def run_name(job_name: str, task_id: str, attempt: int) -> str:
    """What TensorBoard calls the run: a path below its directory."""
    return f"{job_name}/{task_id}-{attempt}"


plugin: Final = Tensorboard()
