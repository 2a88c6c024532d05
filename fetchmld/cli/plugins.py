"""`plugins ls`, `show`, `enable`, `disable`, `config` and `health`."""

import json
import time
from typing import Any, Final

import click

from fetchmld.cli import show as layout
from fetchmld.cli.exits import UNREACHABLE
from fetchmld.cli.session import Session, client_command

LOOK_S: Final = 0.5


class Assignment(click.ParamType[tuple[str, Any]]):
    """NAME=VALUE; a value that reads as JSON is that, any other is text."""

    name = "setting"

    def convert(self, value: Any, param: click.Parameter | None, ctx: click.Context | None) -> tuple[str, Any]:
        name, equals, text = str(value).partition("=")
        if not (name and equals):
            self.fail(f"{value!r} is not NAME=VALUE", param, ctx)
        try:
            return name, json.loads(text)
        except ValueError:
            return name, text


_SET: Final = click.option(
    "--set", "given", type=Assignment(), multiple=True, metavar="NAME=VALUE", help="A setting. Repeatable."
)
_WAIT: Final = click.option("--wait", "wait_", is_flag=True, help="Wait until it is up, or says why it is not.")


@click.group()
def plugins() -> None:
    """Programs beside the scheduler that tasks report to: MLflow, TensorBoard, your own."""


@plugins.command()
@client_command
def ls(session: Session) -> None:
    """List the plugins that are installed."""
    found = session.client.plugins()
    if session.json_output:
        session.show_json(found)
    elif session.quiet:
        for one in found:
            click.echo(one["name"])
    else:
        layout.table(("NAME", "VERSION", "MODE", "STATUS", "WHERE"), [_row(one) for one in found])


def _row(one: Any) -> tuple[str, ...]:
    status = one["status"]
    where = status.get("problem") or status.get("progress") or status.get("url", "")
    return (one["name"], one.get("version", ""), one["mode"], status["status"], where)


@plugins.command()
@click.argument("name")
@client_command
def show(session: Session, name: str) -> None:
    """How one plugin is, and how it is to run."""
    found = session.client.plugin(name)
    if session.json_output:
        session.show_json(found)
        return
    status = found["status"]
    shown: list[tuple[str, Any]] = [("name", found["name"]), ("version", found.get("version")), ("mode", found["mode"])]
    shown += [(field, status.get(field)) for field in ("status", "problem", "progress", "url")]
    shown += [(f"settings.{key}", value) for key, value in sorted(found["config"].get("settings", {}).items())]
    layout.fields(shown)


@plugins.command()
@click.argument("name")
@click.option(
    "--mode", type=click.Choice(["sidecar", "remote"]), help="Run it here, or use somebody's server [sidecar]."
)
@_SET
@_WAIT
@client_command
def enable(
    session: Session, name: str, mode: str | None, given: tuple[tuple[str, Any], ...], wait_: bool
) -> int | None:
    """Have a plugin run, with the settings that it had, and those given."""
    before = session.client.plugin_config(name)
    settings = {**before.get("settings", {}), **dict(given)}
    usual = before["mode"] if before["mode"] != "disabled" else "sidecar"
    config = {"enabled": True, "mode": mode or usual, "settings": settings}
    return _configured(session, session.client.configure_plugin(name, config), wait_)


@plugins.command()
@click.argument("name")
@client_command
def disable(session: Session, name: str) -> None:
    """Stop a plugin; its settings and data stay."""
    session.client.disable_plugin(name)
    if not session.json_output:
        click.echo(name if session.quiet else f"{name} is disabled")


@plugins.command()
@click.argument("name")
@_SET
@click.option("--unset", "taken", multiple=True, metavar="NAME", help="Back to its default. Repeatable.")
@_WAIT
@client_command
def config(
    session: Session, name: str, given: tuple[tuple[str, Any], ...], taken: tuple[str, ...], wait_: bool
) -> int | None:
    """Show a plugin's configuration as JSON; with --set or --unset, change it. Secrets are shown as ********."""
    found = session.client.plugin_config(name)
    if not (given or taken):
        session.show_json(found)
        return None
    settings = {key: value for key, value in {**found.get("settings", {}), **dict(given)}.items() if key not in taken}
    return _configured(session, session.client.configure_plugin(name, {**found, "settings": settings}), wait_)


@plugins.command()
@click.argument("name")
@client_command
def health(session: Session, name: str) -> int | None:
    """Whether a plugin is well; exits with 6 where it is not."""
    found = session.client.plugin_health(name)
    if session.json_output:
        session.show_json(found)
    elif not session.quiet:
        words = found.get("problem") or found.get("progress")
        click.echo(found["status"] + (f": {words}" if words else ""))
    return None if found["status"] == "healthy" else UNREACHABLE


def _configured(session: Session, plugin: Any, wait_: bool) -> int | None:
    said = ""
    while wait_ and plugin["status"]["status"] == "starting":
        progress = plugin["status"].get("progress", "")
        if progress and progress != said:
            said = progress
            click.echo(progress, err=True)
        time.sleep(LOOK_S)
        plugin = session.client.plugin(plugin["name"])
    status = plugin["status"]
    if session.json_output:
        session.show_json(plugin)
    elif session.quiet:
        click.echo(plugin["name"])
    else:
        words = status.get("problem") or status.get("url", "")
        click.echo(f"{plugin['name']} is {status['status']}" + (f": {words}" if words else ""))
    return UNREACHABLE if wait_ and status["status"] != "healthy" and plugin["enabled"] else None
