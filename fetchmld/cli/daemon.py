"""`start`, `stop` and `status`: the daemon on this machine, from outside."""

import os
import shlex
import shutil
import sys
import time
from collections.abc import Mapping
from pathlib import Path
from typing import TYPE_CHECKING, Any

import click

from fetchmld.cli import show as layout
from fetchmld.cli.exits import INVALID, UNREACHABLE, Failure
from fetchmld.cli.session import DATA_DIR_DEFAULT, Session, client_command, data_dir

if TYPE_CHECKING:
    from fetchmld.config import Config


@click.command()
@click.option("--head", is_flag=True, help="Start a daemon of its own on this machine.")
@click.option("--address", metavar="HOST:PORT", help="Join the head there as a worker; it printed this address.")
@click.option("--token-file", type=click.Path(path_type=Path), envvar="FETCHML_JOIN_TOKEN_FILE", metavar="FILE",
              help="The head's join.token, copied here. [FETCHML_JOIN_TOKEN_FILE; needed once]")  # fmt: skip
@click.option("--host", help="Address to listen on [127.0.0.1].")
@click.option("--port", type=int, help="Port to listen on [9101].")
@click.option("--tls-cert", type=click.Path(path_type=Path), metavar="FILE", help="Certificate and its chain, PEM.")
@click.option("--tls-key", type=click.Path(path_type=Path), metavar="FILE", help="Private key of that certificate.")
@click.option("--insecure", is_flag=True, default=None,
              help="Listen to other machines without TLS; keys then travel in the clear.")  # fmt: skip
@click.option("--data-dir", "given_dir", metavar="DIR", help="Where everything durable is kept [~/.fetchml].")
@click.option("--config", "file", type=click.Path(path_type=Path), metavar="FILE", help="Settings in TOML.")
@click.option("--num-cpus", type=int, metavar="N", help="Cores that this node offers [what is found].")
@click.option("--num-gpus", type=int, metavar="N", help="GPUs that this node offers [what is found].")
@click.option("--gpu-type", metavar="TYPE", help="Type of those GPUs.")
@click.option("--ray-share", metavar="SHARE", help="Lend to Ray-native programs, like cpu=4,gpu=1,memory=16 [nothing].")
@click.option("--dataset-root", "roots", multiple=True, type=click.Path(path_type=Path), metavar="DIR",
              help="Local datasets may also lie here. Repeatable.")  # fmt: skip
@click.option("--block", is_flag=True, help="Stay in the foreground; Ctrl-C or SIGTERM stops the daemon.")
@client_command
def start(
    session: Session, head: bool, address: str | None, token_file: Path | None, block: bool, **flags: Any
) -> int | None:
    """Start a daemon on this machine, or join one elsewhere, and go to the background once it is ready."""
    if head == (address is not None):
        raise click.UsageError("say --head for a daemon of its own on this machine, or --address HOST:PORT to join one")
    from fetchmld.cli.launching import Launch

    config = _config(session, **flags)
    launch = Launch(config, block, _join(address, token_file) if address is not None else None)
    ready = launch.until_ready()
    if "joined" in ready:
        _show_joined(session, config, ready, launch.took_s)
    else:
        _show_ready(session, config, ready, launch.took_s)
    return launch.until_stopped() if block else None


def _join(address: str, token_file: Path | None) -> dict[str, Any]:
    """Where to, and with which token; without one, that of the last time is used."""
    host, _, port = address.rpartition(":")
    if not host or "/" in host or not port.isdecimal() or not 0 < int(port) < 65536:
        raise click.UsageError(f"--address {address!r} is not HOST:PORT; the head printed it when it started")
    if token_file is None:
        return {"host": host, "port": int(port)}
    try:
        token = token_file.expanduser().read_text().strip()
    except (OSError, UnicodeDecodeError) as error:
        raise Failure(f"cannot read the token in {token_file}: {error}", INVALID) from None
    if not token:
        raise Failure(f"{token_file} is empty; copy join.token from the head's data directory anew", INVALID)
    return {"host": host, "port": int(port), "token": token, "token_file": str(token_file)}


def _show_joined(session: Session, config: "Config", ready: dict[str, Any], took_s: float) -> None:
    if session.json_output:
        session.show_json({**ready, "data_dir": str(config.data_dir)})
    elif session.quiet:
        click.echo(ready["worker_id"])
    else:
        click.echo(f"This machine is worker {ready['worker_id']} of {ready['joined']}, after {took_s:.1f} s.")
        layout.fields([("  data", config.data_dir), ("  logs", config.paths.logs)])
        click.echo(f"\nStop it with: {command_prefix(config.data_dir)} stop")


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
    if join := ready.get("join"):
        click.echo("\nOther machines join with a copy of the token, which is worth a shell on all of them:")
        click.echo(f"  FETCHML_JOIN_TOKEN_FILE={join['token_file']} fetchmld start --address {join['address']}")
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
    if "joined" in session.daemon:
        if drain:
            worker = session.daemon.get("worker_id")
            raise Failure(f"this machine joined a head: run `fetchmld drain {worker}` there, then stop", INVALID)
        head = session.daemon["joined"]
        found.stop(timeout)
        click.echo(f"This machine has left {head}; its tasks go on until their lease ends.")
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
    """How the daemon and its queue stand; on a machine that joined, which worker of which head it is."""
    if "joined" in session.daemon and "FETCHML_ADDRESS" not in os.environ:
        _show_member(session)
        return
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


def _show_member(session: Session) -> None:
    from fetchmld.cli.stopping import Running

    about = session.daemon
    if Running.find(session.data_dir) is None:
        raise Failure(f"the daemon of {session.data_dir} is not running; start it again", UNREACHABLE)
    if session.json_output:
        session.show_json(about)
        return
    named = {"worker": about.get("worker_id"), "of the head": about["joined"], "link": _link(about)}
    layout.fields([*named.items(), ("pid", about.get("pid")), ("data", session.data_dir)])


def _link(about: Mapping[str, Any]) -> str:
    if "lost" not in about:
        return "up"
    lost_s = max(0.0, time.time() - about["lost_at"])
    return f"lost {layout.seconds(lost_s)} ago: {about['lost']}; it is tried again until it is back"


def _workers(scheduler: Mapping[str, Any]) -> str:
    text = f"{scheduler.get('workers_active', 0)} of {scheduler.get('workers_total', 0)} active"
    draining = scheduler.get("workers_draining", 0)
    return text + (f", {draining} draining" if draining else "")
