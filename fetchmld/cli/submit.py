"""`submit`: a typed command becomes a CreateTaskRequest."""

import os.path
import re
import sys
from collections.abc import Mapping
from pathlib import Path
from typing import Any, Final

import click

from fetchmld.cli.arrays import ArraySpec, Param, array_field
from fetchmld.cli.exits import INTERRUPTED, task_exit
from fetchmld.cli.follow import follow_to_end
from fetchmld.cli.ids import Id, pick
from fetchmld.cli.session import Session, client_command
from fetchmld.cli.tasks import ended_line
from fetchmld.cli.watch import Watch, typed

NAME_MAX: Final = 64
_SPAN: Final = re.compile(r"(?:(\d+)d)?(?:(\d+)h)?(?:(\d+)m)?(?:(\d+)s?)?")
_UNIT_S: Final = (86400, 3600, 60, 1)
_DATASET_KEYS: Final = {"name": "name", "sha256": "sha256", "mount": "mount_path"}


class Span(click.ParamType[int]):
    """A span of time: 90, 90s, 15m, 2h, 1h30m, 2d; in seconds."""

    name = "time"

    def convert(self, value: Any, param: click.Parameter | None, ctx: click.Context | None) -> int:
        match = _SPAN.fullmatch(str(value))
        if not value or match is None:
            self.fail(f"{value!r} is no span of time; write it like 90s, 15m or 1h30m", param, ctx)
        return sum(int(part or 0) * unit for part, unit in zip(match.groups(), _UNIT_S, strict=True))


class Dataset(click.ParamType[dict[str, str]]):
    """`SOURCE[,name=N][,sha256=SUM][,mount=PATH]`: a local path, a URL, or a registered name alone."""

    name = "dataset"

    def convert(self, value: Any, param: click.Parameter | None, ctx: click.Context | None) -> dict[str, str]:
        source, *options = str(value).split(",")
        spec = {"source": _absolute(source)}
        for option in options:
            key, _, given = option.partition("=")
            if key not in _DATASET_KEYS or not given:
                self.fail(f"{option!r} is none of name=NAME, sha256=SUM, mount=PATH", param, ctx)
            spec[_DATASET_KEYS[key]] = given
        if not source:
            self.fail("a dataset begins with its source: SOURCE[,name=N][,sha256=SUM][,mount=PATH]", param, ctx)
        return spec


class Variable(click.ParamType[tuple[str, str]]):
    """`NAME=VALUE`, or `NAME` alone for the value that it has here."""

    name = "variable"

    def convert(self, value: Any, param: click.Parameter | None, ctx: click.Context | None) -> tuple[str, str]:
        name, given, content = str(value).partition("=")
        if not given:
            if name not in os.environ:
                self.fail(f"{name!r} has no value here; give one: {name}=VALUE", param, ctx)
            content = os.environ[name]
        return name, content


class After(click.ParamType[dict[str, str]]):
    """`ID` or `ID:CONDITION`: a task that has to end first."""

    name = "dependency"

    def convert(self, value: Any, param: click.Parameter | None, ctx: click.Context | None) -> dict[str, str]:
        task_id, given, condition = str(value).partition(":")
        if not task_id or (given and condition not in ("ok", "any", "failed")):
            self.fail(f"{value!r} is not ID, ID:ok, ID:any or ID:failed", param, ctx)
        return {"task_id": task_id, "condition": condition or "ok"}


def _absolute(source: str) -> str:
    """A path that exists here, made absolute; anything else as it is."""
    return str(Path(source).expanduser().resolve()) if source and os.path.exists(os.path.expanduser(source)) else source


class PluginChoice(click.ParamType[tuple[str, Any]]):
    """NAME[,SETTING=VALUE]... -> the name, and the PluginConfig."""

    name = "plugin"

    def convert(self, value: Any, param: click.Parameter | None, ctx: click.Context | None) -> tuple[str, Any]:
        name, *settings = str(value).split(",")
        pairs = [setting.partition("=") for setting in settings]
        if not name or not all(key and equals for key, equals, _ in pairs):
            self.fail(f"{value!r} is not NAME[,SETTING=VALUE]", param, ctx)
        return name, {"enabled": True, **({"settings": {key: text for key, _, text in pairs}} if pairs else {})}


@click.command(context_settings={"ignore_unknown_options": False})
@click.option("--name", metavar="NAME", help="The task's name; default: its program's.")
@click.option("--cpu", type=click.IntRange(0, 4096), metavar="N", help="Cores [1].")
@click.option("--memory-gb", type=click.IntRange(0, 65536), metavar="N", help="Memory, GB.")
@click.option("--gpu", type=click.IntRange(0, 1024), metavar="N", help="GPUs.")
@click.option("--gpu-type", metavar="TYPE", help="Type of the GPUs.")
@click.option("--node-count", type=click.IntRange(1, 4096), metavar="N", help="Nodes, all started together [1].")
@click.option("--priority", type=click.IntRange(1, 10), metavar="N", help="10 goes first [5].")
@click.option(
    "--time-limit", "time_limit_s", type=Span(), metavar="TIME", help="Stop it after this long: 90s, 15m, 2h."
)
@click.option("--dataset", "datasets", type=Dataset(), multiple=True, metavar="SPEC",
              help="SOURCE[,name=N][,sha256=SUM][,mount=PATH]; a path, URL or registered name. Repeatable.")  # fmt: skip
@click.option("--env", "variables", type=Variable(), multiple=True, metavar="K=V", help="A variable. Repeatable.")
@click.option(
    "--max-retries", type=click.IntRange(0, 100), metavar="N", help="Start again this often when it fails [0]."
)
@click.option(
    "--experiment",
    "experiment_id",
    metavar="ID",
    type=Id("experiment"),
    help="The experiment that it belongs to: its id, a prefix, or its name.",
)
@click.option(
    "--reservation", "reservation_id", metavar="ID", type=Id("reservation"), help="The reservation to run under."
)
@click.option("--after", "depends_on", type=After(), multiple=True, metavar="ID[:COND]",
              help="Start when that task has ended: ok (the default), any or failed. Repeatable.")  # fmt: skip
@click.option("--image", metavar="IMAGE", help="Run in this container image, on a worker that can.")
@click.option("--snapshot", metavar="DIR", help="Send DIR and run in it; or the id of a snapshot.")
@click.option("--array", type=ArraySpec(), metavar="SPEC",
              help="Many as one: N of them, N%K at most K at a time; also 0-9%2.")  # fmt: skip
@click.option("--param", "params", type=Param(), multiple=True, metavar="NAME=V1,V2",
              help="FETCHML_PARAM_NAME of each element: one value for each, or a grid. Repeatable.")  # fmt: skip
@click.option("--plugin", "plugins", type=PluginChoice(), multiple=True, metavar="NAME",
              help="Report to this plugin: NAME[,SETTING=VALUE]. Repeatable.")  # fmt: skip
@click.option("--wait", "wait_", is_flag=True, help="Wait until it has ended; exit as it did.")
@click.option("--follow", "-f", is_flag=True, help="Show its output until it has ended; exit as it did.")
@click.option("--dry-run", is_flag=True, help="Print the request and send nothing.")
@click.argument("command", nargs=-1, metavar="-- COMMAND...")
@client_command
def submit(
    session: Session,
    command: tuple[str, ...],
    snapshot: str | None,
    wait_: bool,
    follow: bool,
    dry_run: bool,
    **options: Any,
) -> int | None:
    """Submit a task. It runs COMMAND on a worker, without a shell: `sh -c '...'` where one is needed.

    With --snapshot it runs in that directory's files, and COMMAND may be left out: then their train.py is run.
    """
    if not command and snapshot is None and options["image"] is None:
        raise click.UsageError("Missing argument '-- COMMAND...'.")
    options["name"] = options["name"] or name_of(command[0] if command else snapshot_name(snapshot, options["image"]))
    request = build_request(command, options)
    if follow and "array" in request:
        raise click.UsageError("--follow: an array has no output of its own; follow one of its elements: ID-0")
    if not dry_run:
        _name_wholly(session, request)
    if snapshot is not None:
        request["snapshot_id"] = _snapshot_id(session, snapshot, dry_run)
    if dry_run:
        session.show_json(request)
        return None
    if snapshot is None:
        _hint(command)
    task = session.client.submit(request)
    if not (wait_ or follow):
        _show_accepted(session, task)
        return None
    return _attend(session, task, follow)


def build_request(command: tuple[str, ...], options: dict[str, Any]) -> dict[str, Any]:
    """The CreateTaskRequest of a command and its options; only what was given."""
    request: dict[str, Any] = {"job_name": options.pop("name")}
    if command:
        request["entrypoint"], args = typed(command)
        request.update({"args": args} if args else {})
    datasets, variables = options.pop("datasets"), options.pop("variables")
    names = [spec["source"] for spec in datasets if _is_registered_name(spec)]
    specs = [spec for spec in datasets if not _is_registered_name(spec)]
    more = {
        "array": array_field(options.pop("array"), options.pop("params")),
        "depends_on": list(options.pop("depends_on")),
        "datasets": names,
        "dataset_specs": specs,
        "env": dict(variables),
        "plugin_configs": dict(options.pop("plugins")),
    }
    request.update({name: value for name, value in more.items() if value})
    request.update({name: value for name, value in options.items() if value is not None})
    return request


def snapshot_name(snapshot: str | None, image: str | None) -> str:
    """What a task without a command is called after."""
    return Path(snapshot).resolve().name if snapshot is not None else str(image).rpartition("/")[2]


def _name_wholly(session: Session, request: dict[str, Any]) -> None:
    """Prefixes of ids, names of experiments and `last` are for people: the API takes whole ids."""
    client = session.client
    if "experiment_id" in request:
        request["experiment_id"] = pick("experiment", request["experiment_id"], client.experiments(), ("id", "name"))[
            "id"
        ]
    if "reservation_id" in request:
        request["reservation_id"] = pick("reservation", request["reservation_id"], client.reservations())["id"]
    for needed in request.get("depends_on", ()):
        needed["task_id"] = session.find_id(needed["task_id"])


def _snapshot_id(session: Session, given: str, dry_run: bool) -> str:
    """Of a directory, which is sent unless nothing is to be; or of a snapshot that is there."""
    from fetchmld.cli import snapshots

    if not Path(given).expanduser().is_dir():
        return snapshots.find(session, given)
    return snapshots.local_id(given) if dry_run else str(snapshots.send(session, Path(given))["id"])


def name_of(program: str) -> str:
    """A valid job_name made of the program's own."""
    name = re.sub(r"[^a-zA-Z0-9_-]+", "-", Path(program).stem).strip("-")
    return name[:NAME_MAX] or "task"


def _is_registered_name(spec: dict[str, str]) -> bool:
    return spec.keys() == {"source"} and "/" not in spec["source"] and ":" not in spec["source"]


def _hint(command: tuple[str, ...]) -> None:
    """A script named by a relative path is looked for where the task runs, which is not here."""
    path = Path(command[0])
    if not path.is_absolute() and path.is_file() and ("/" in command[0] or path.suffix in (".py", ".sh")):
        click.echo(
            f"Note: the task runs in a directory of its own; give {path.resolve()} to run this file, or --snapshot DIR.",
            err=True,
        )


def _show_accepted(session: Session, task: Mapping[str, Any]) -> None:
    if session.json_output:
        session.show_json(task)
    elif session.quiet:
        click.echo(task["id"])
    else:
        first = f"{task['id']}-0" if "array" in task else task["id"]
        many = f", {task['array']['size']} elements" if "array" in task else ""
        click.echo(f"{task['id']} {task['status']}{many}: follow it with `fetchmld logs -f {first}`")


def _attend(session: Session, task: Mapping[str, Any], follow: bool) -> int:
    """Stay until the task has ended, and take its exit code."""
    if not session.json_output:
        click.echo(task["id"], err=follow or not session.quiet)
    try:
        ended = (
            follow_to_end(session, task["id"], sys.stdout.buffer) if follow else Watch(session).until_ended(task["id"])
        )
    except KeyboardInterrupt:
        click.echo(f"\nDetached; the task goes on. To return: fetchmld logs -f {task['id']}", err=True)
        return INTERRUPTED
    if session.json_output:
        session.show_json(ended)
    elif not session.quiet:
        click.echo(ended_line(ended), err=True)
    return task_exit(ended)
