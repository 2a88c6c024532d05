"""Ids on the command line: a unique prefix of one will do, `last` is the newest, and the shell completes them.

Which ids there are is asked of the daemon; completion does so for a second at most, and offers nothing where none answers.
"""

from collections.abc import Callable, Mapping, Sequence
from typing import TYPE_CHECKING, Any, Final

import click

from fetchmld.cli.exits import INVALID, NOT_FOUND, Failure
from fetchmld.cli.session import Session
from fetchmld.client.client import Client
from fetchmld.client.errors import ClientError

if TYPE_CHECKING:
    from click.shell_completion import CompletionItem

COMPLETE_S: Final = 1.0
OFFERED_MAX: Final = 100

Things = Sequence[Mapping[str, Any]]

# Of each kind: how to list it, newest first, and what is said beside an id.
_LISTED: Final[dict[str, Callable[[Client], Things]]] = {
    "task": lambda client: client.tasks(limit=OFFERED_MAX)["tasks"],
    "worker": lambda client: client.workers(),
    "reservation": lambda client: client.reservations(),
    "experiment": lambda client: client.experiments(),
    "snapshot": lambda client: client.snapshots(),
    "key": lambda client: client.keys(),
    "service": lambda client: client.services(),
}
_SAID: Final[dict[str, tuple[str, ...]]] = {
    "task": ("job_name", "status"),
    "worker": ("hostname", "status"),
    "reservation": ("status", "expires_at"),
    "experiment": ("name", "status"),
    "snapshot": ("created_at",),
    "key": ("user_id", "role", "status"),
    "service": ("name", "status"),
}


class Id(click.ParamType[str]):
    """An id of one kind of thing, as it was typed."""

    def __init__(self, kind: str) -> None:
        self.name = self.kind = kind

    def shell_complete(
        self, ctx: click.Context, param: click.Parameter, incomplete: str
    ) -> "list[CompletionItem[str]]":
        from click.shell_completion import CompletionItem

        session = Session(ctx.find_root().params.get("given_dir"), False, False)
        try:
            with Client(session.address, session.key, COMPLETE_S, retry_s=0) as client:
                found = _LISTED[self.kind](client)
        except (ClientError, Failure):
            return []
        ids = [(str(one["id"]), " ".join(str(one.get(name, "")) for name in _SAID[self.kind])) for one in found]
        return [CompletionItem(one, help=said) for one, said in ids if one.startswith(incomplete)][:OFFERED_MAX]


def pick(kind: str, given: str, found: Things, names: tuple[str, ...] = ("id",)) -> Mapping[str, Any]:
    """The one that `given` names: by one of `names` whole, by a unique prefix of its id, or the newest as `last`."""
    whole = [one for one in found if given in [one.get(name) for name in names]]
    prefixed = list(found[:1]) if given == "last" else [one for one in found if str(one["id"]).startswith(given)]
    matches = whole or prefixed
    if not matches:
        raise Failure(f"there is no {kind} {given!r}", NOT_FOUND)
    if len(matches) > 1:
        shown = ", ".join(str(one["id"]) for one in matches[:5])
        raise Failure(f"{given!r} could be any of {shown}; give more of it", INVALID)
    return matches[0]
