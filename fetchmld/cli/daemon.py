"""`start`, `stop` and `status`: the daemon on this machine, from outside."""

import os
import shlex
import shutil
import sys
import time
from pathlib import Path
from typing import TYPE_CHECKING, Any

import click

from fetchmld.cli import show as layout
from fetchmld.cli.exits import INVALID, Failure
from fetchmld.cli.session import DATA_DIR_DEFAULT, Session, client_command, data_dir

if TYPE_CHECKING:
    from fetchmld.config import Config


@click.command()
@click.option("--head", is_flag=True, help="Start a daemon of its own on this machine.")
@click.option(
    "--address", metavar="HOST:PORT", help="Join a daemon elsewhere as a worker (comes with a later version)."
)
@click.option("--host", help="Address to listen on [127.0.0.1].")
@click.option("--port", type=int, help="Port to listen on [9101].")
@click.option("--data-dir", "given_dir", metavar="DIR", help="Where everything durable is kept [~/.fetchml].")
@click.option("--config", "file", type=click.Path(path_type=Path), metavar="FILE", help="Settings in TOML.")
@click.option("--num-cpus", type=int, metavar="N", help="Cores that this node offers [what is found].")
@click.option("--num-gpus", type=int, metavar="N", help="GPUs that this node offers [what is found].")
@click.option("--gpu-type", metavar="TYPE", help="Type of those GPUs.")
@click.option("--dataset-root", "roots", multiple=True, type=click.Path(path_type=Path), metavar="DIR",
              help="Local datasets may also lie here. Repeatable.")  # fmt: skip
@click.option("--block", is_flag=True, help="Stay in the foreground; Ctrl-C or SIGTERM stops the daemon.")
@client_command
def start(session: Session, head: bool, address: str | None, block: bool, **flags: Any) -> int | None:
    """Start a daemon on this machine, and go to the background once it is ready."""
    if address is not None:
        raise click.UsageError("--address: joining a daemon elsewhere comes with a later version; use --head")
    if not head:
        raise click.UsageError("say --head to start a daemon of its own on this machine")
    from fetchmld.cli.launching import Launch

    config = _config(session, **flags)
    launch = Launch(config, block)
    ready = launch.until_ready()
    _show_ready(session, config, ready, launch.took_s)
    return launch.until_stopped() if block else None


def _config(
    session: Session, given_dir: str | None, file: Path | None, roots: tuple[Path, ...], **flags: Any
) -> "Config":
    from fetchmld.config import Config
    from fetchmld.core.errors import FetchmlError

    flags["data_dir"] = given_dir or session.given_dir
    try:
        config = Config.load(file, flags)
        if roots:
            config = Config.load(file, {**flags, "dataset_roots": (*config.local_roots, *roots)})
    except FetchmlError as error:
        raise Failure(str(error), INVALID) from None
    return config


def _show_ready(session: Session, config: "Config", ready: dict[str, Any], took_s: float) -> None:
    url = str(ready.get("url") or f"http://{config.host}:{config.port}")
    key_file = config.paths.admin_key
    if session.json_output:
        session.show_json(
            {"url": url, "pid": ready.get("pid"), "key_file": str(key_file), "data_dir": str(config.data_dir)}
        )
        return
    if session.quiet:
        return
    click.echo(f"FetchML is ready at {url}, after {took_s:.1f} s.")
    layout.fields([("  key", key_file), ("  data", config.data_dir), ("  logs", config.paths.logs)])
    for warning in ready.get("warnings", []):
        click.echo(f"Note: {warning}")
    command = command_prefix(config.data_dir)
    click.echo("\nTry it:")
    click.echo(f"  {command} submit --name hello --follow -- echo 'hello from a task'")
    click.echo(f"  {command} audit verify")
    click.echo(f"\nStop it with: {command} stop")


def command_prefix(directory: Path) -> str:
    """How to call this very command for `directory`, so that it works where it is pasted."""
    name = Path(sys.argv[0])
    if name.name == "__main__.py" or not name.exists():
        called = [sys.executable, "-m", "fetchmld"]
    else:
        found = shutil.which("fetchmld")
        same = found is not None and os.path.realpath(found) == os.path.realpath(name)
        called = ["fetchmld"] if same else [str(name.absolute())]
    if directory != Path(DATA_DIR_DEFAULT).expanduser().resolve():
        called += ["--data-dir", str(directory)]
    return shlex.join(called)


@click.command()
@click.option("--data-dir", "given_dir", metavar="DIR", help="The daemon's data directory [~/.fetchml].")
@click.option("--drain", is_flag=True, help="First wait until nothing is queued or running.")
@click.option("--timeout", type=click.FloatRange(0), default=60.0, show_default=True, metavar="SECONDS",
              help="How long its end is waited for.")  # fmt: skip
@client_command
def stop(session: Session, given_dir: str | None, drain: bool, timeout: float) -> None:
    """Stop the daemon. Running tasks live on; the next start finds them again."""
    from fetchmld.cli.stopping import Running, drained

    session.given_dir = given_dir or session.given_dir
    found = Running.find(session.data_dir)
    if found is None:
        click.echo(f"No daemon runs in {session.data_dir}.")
        return
    if drain:
        drained(session)
    left = _running_tasks(session)
    started = time.monotonic()
    found.stop(timeout)
    click.echo(f"Stopped the daemon of {session.data_dir} (pid {found.pid}) in {time.monotonic() - started:.1f} s.")
    if left:
        click.echo(f"{left} running {'task goes' if left == 1 else 'tasks go'} on; the next start finds them again.")


def _running_tasks(session: Session) -> int:
    """How many tasks run, or 0 where the daemon does not say."""
    from fetchmld.client.errors import ClientError

    try:
        return int(session.client.scheduler().get("tasks_running", 0))
    except ClientError:
        return 0


@click.command()
@client_command
def status(session: Session) -> None:
    """How the daemon and its queue stand."""
    scheduler = session.client.scheduler()
    if session.json_output:
        session.show_json(scheduler)
        return
    health = session.client.health()
    layout.fields(
        [
            ("daemon", f"{health.get('status')}, version {health.get('version')}"),
            ("address", session.address),
            ("pid", session.daemon.get("pid")),
            ("data", data_dir(session.given_dir) if session.daemon else ""),
            ("workers", _workers(scheduler)),
            ("queued", scheduler.get("batch_queue_depth", 0) + scheduler.get("service_queue_depth", 0)),
            ("running", scheduler.get("tasks_running", 0)),
            ("completed", f"{scheduler.get('tasks_completed_24h', 0)} in the last 24 h"),
        ]
    )


def _workers(scheduler: dict[str, Any]) -> str:
    text = f"{scheduler.get('workers_active', 0)} of {scheduler.get('workers_total', 0)} active"
    draining = scheduler.get("workers_draining", 0)
    return text + (f", {draining} draining" if draining else "")
