"""`completion`: what makes the shell complete commands, options and ids."""

import os
from typing import Final

import click

from fetchmld.cli.exits import INVALID, Failure

SHELLS: Final = ("bash", "zsh", "fish")
VARIABLE: Final = "_FETCHMLD_COMPLETE"
_WHERE: Final = {
    "bash": '~/.bashrc: eval "$(fetchmld completion bash)"',
    "zsh": '~/.zshrc: eval "$(fetchmld completion zsh)"',
    "fish": "~/.config/fish/completions/fetchmld.fish: the output of `fetchmld completion fish`",
}


@click.command()
@click.argument("shell", type=click.Choice(SHELLS), required=False)
@click.pass_context
def completion(ctx: click.Context, shell: str | None) -> None:
    """Print the script that makes SHELL [yours] complete commands, options and ids."""
    from click.shell_completion import get_completion_class

    wanted = shell or os.path.basename(os.environ.get("SHELL", ""))
    if wanted not in SHELLS:
        raise Failure(f"say which shell: {', '.join(SHELLS)}", INVALID)
    kind = get_completion_class(wanted)
    assert kind is not None
    click.echo(kind(ctx.find_root().command, {}, "fetchmld", VARIABLE).source())
    click.echo(f"# To have it in every shell: {_WHERE[wanted]}")
