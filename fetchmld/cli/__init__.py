"""The `fetchmld` command. Each noun has a file, imported only when one of its commands runs."""

import os
import sys
from importlib import import_module
from typing import Any, Final, NoReturn

import click

from fetchmld.cli.exits import BROKEN_PIPE, INTERRUPTED, Failure, failure
from fetchmld.cli.session import Session
from fetchmld.client.errors import ClientError

# name -> (module below fetchmld.cli, its function, what help says). In the order that help shows.
COMMANDS: Final[dict[str, tuple[str, str]]] = {
    "start": ("daemon", "Start a daemon on this machine."),
    "stop": ("daemon", "Stop the daemon; running tasks live on."),
    "status": ("daemon", "How the daemon and its queue stand."),
    "submit": ("submit", "Submit a task."),
    "ls": ("tasks", "List tasks, newest first."),
    "show": ("tasks", "Everything about one task."),
    "logs": ("logs", "A task's output; -f follows it."),
    "wait": ("tasks", "Wait until tasks have ended."),
    "cancel": ("tasks", "Cancel tasks."),
    "why": ("why", "Why a task waits, and when it starts."),
    "priority": ("scheduling", "Change a task's priority."),
    "artifacts": ("artifacts", "List or fetch what a task left in its output directory."),
    "queue": ("workers", "Counts of queued, running and ended tasks."),
    "top": ("top", "What runs and waits, live."),
    "workers": ("workers", "The machines and their free slots."),
    "drain": ("scheduling", "Place nothing more on a worker."),
    "undrain": ("scheduling", "Let a drained worker take work again."),
    "release-gpu": ("scheduling", "Use a GPU again that failed and is in quarantine."),
    "reserve": ("reserve", "Keep GPUs for yourself; list reservations, or give one back."),
    "snapshots": ("snapshots", "Send, list and fetch snapshots of code."),
    "plugins": ("plugins", "MLflow, TensorBoard and others that tasks report to."),
    "experiments": ("experiments", "Group tasks, compare their metrics, put groups away."),
    "audit": ("audit", "Verify and read the record of what was done."),
    "keys": ("keys", "Make, list and revoke API keys."),
    "jupyter": ("jupyter", "Start, list and stop JupyterLab servers."),
    "ui": ("ui", "Print an address that logs a browser in."),
    "history": ("history", "Ask the history in SQL."),
    "simulate": ("simulate", "Play a recorded workload through the scheduler."),
    "doctor": ("doctor", "Check this machine and the data directory."),
    "completion": ("completion", "Make the shell complete commands, options and ids."),
    "config": ("settings", "Every setting, its value and where it came from."),
}


class Commands(click.Group):
    """The top level: knows names and one-line helps by heart, imports a command when it is asked for."""

    def list_commands(self, ctx: click.Context) -> list[str]:
        return list(COMMANDS)

    def get_command(self, ctx: click.Context, cmd_name: str) -> click.Command | None:
        if cmd_name not in COMMANDS:
            return None
        module = import_module(f"fetchmld.cli.{COMMANDS[cmd_name][0]}")
        command = getattr(module, cmd_name.replace("-", "_"))
        assert isinstance(command, click.Command)
        return command

    def invoke(self, ctx: click.Context) -> Any:
        try:
            return super().invoke(ctx)
        except ClientError as error:
            raise failure(error) from None

    def format_commands(self, ctx: click.Context, formatter: click.HelpFormatter) -> None:
        with formatter.section("Commands"):
            formatter.write_dl([(name, text) for name, (_, text) in COMMANDS.items()])

    def resolve_command(
        self, ctx: click.Context, args: list[str]
    ) -> tuple[str | None, click.Command | None, list[str]]:
        try:
            return super().resolve_command(ctx, args)
        except click.UsageError as error:
            raise click.UsageError(f"{error.message} {_did_you_mean(args[0])}".rstrip(), ctx) from None


def _did_you_mean(name: str) -> str:
    import difflib

    close = difflib.get_close_matches(name, COMMANDS, n=1)
    return f"Did you mean {close[0]!r}?" if close else ""


def _version(ctx: click.Context, _param: click.Parameter, wanted: bool) -> None:
    if wanted:
        from fetchmld import __version__

        click.echo(f"fetchmld {__version__}")
        ctx.exit()


@click.group(cls=Commands, context_settings={"help_option_names": ["-h", "--help"], "max_content_width": 100})
@click.option(
    "--data-dir", "given_dir", metavar="DIR", help="Where the daemon on this machine keeps its data [~/.fetchml]."
)
@click.option("--json", "json_output", is_flag=True, help="Print the API's JSON unchanged; errors too, on stderr.")
@click.option("-q", "--quiet", is_flag=True, help="Print ids only.")
@click.option("--version", is_flag=True, expose_value=False, is_eager=True, callback=_version, help="Show the version.")
@click.pass_context
def root(ctx: click.Context, given_dir: str | None, json_output: bool, quiet: bool) -> None:
    """FetchML: a scheduler for machine-learning work, with a provable record of everything it did."""
    ctx.obj = session = Session(given_dir, json_output, quiet)
    ctx.call_on_close(session.close)


def main(args: list[str] | None = None) -> NoReturn:
    """The entry point: run one command, leave with its exit code (what a command returns, None being 0)."""
    try:
        code = root.main(args, prog_name="fetchmld", standalone_mode=False)
        sys.stdout.flush()
    except click.ClickException as error:
        error.show()
        code = error.code if isinstance(error, Failure) else error.exit_code
    except click.Abort:
        code = INTERRUPTED
    except BrokenPipeError:
        os.dup2(os.open(os.devnull, os.O_WRONLY), 1)  # else the interpreter complains once more when it flushes
        code = BROKEN_PIPE
    sys.exit(code)
