"""What every client command shares: which daemon it talks to, with which key, and how it prints.

The daemon is found by `FETCHML_ADDRESS` and `FETCHML_API_KEY`; else through the data directory on this machine
(`--data-dir`, `FETCHML_DATA_DIR`, else ~/.fetchml), whose `daemon.json` has the address and `admin.key` the key.
"""

import json
import os
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Final, TypeVar, cast

import click

from fetchmld.cli.exits import INVALID, NOT_ALLOWED, NOT_FOUND, UNREACHABLE, Failure
from fetchmld.client.client import ADDRESS_DEFAULT, Client
from fetchmld.client.errors import ApiError

F = TypeVar("F", bound=Callable[..., Any])

DATA_DIR_DEFAULT: Final = "~/.fetchml"
ID_LIST_MAX: Final = 1000  # how many of the newest tasks a prefix is looked up in


@dataclass(slots=True)
class Session:
    """One invocation's options, and the client made from them on first use."""

    given_dir: str | None
    json_output: bool
    quiet: bool
    _client: Client | None = None

    @property
    def data_dir(self) -> Path:
        return data_dir(self.given_dir)

    @property
    def client(self) -> Client:
        if self._client is None:
            is_local = "FETCHML_ADDRESS" not in os.environ
            if is_local and "joined" in self.daemon:
                raise Failure(
                    f"this machine is a worker of the head at {self.daemon['joined']}, and has no API of its own: set "
                    "FETCHML_ADDRESS to that of the head's, and FETCHML_API_KEY",
                    UNREACHABLE,
                )
            certificate = str(self.daemon.get("certificate") or "") if is_local else ""
            self._client = Client(self.address, self.key, retry_s=0, certificate=certificate)
        return self._client

    @property
    def address(self) -> str:
        return os.environ.get("FETCHML_ADDRESS") or str(self.daemon.get("url") or ADDRESS_DEFAULT)

    @property
    def key(self) -> str:
        return os.environ.get("FETCHML_API_KEY") or self._local_key()

    @property
    def daemon(self) -> dict[str, Any]:
        """What `daemon.json` says, or nothing where there is none."""
        try:
            found = json.loads((self.data_dir / "daemon.json").read_bytes())
        except (OSError, ValueError):
            return {}
        return found if isinstance(found, dict) else {}

    def _local_key(self) -> str:
        path = self.data_dir / "admin.key"
        try:
            return path.read_text().strip()
        except FileNotFoundError:
            return ""
        except OSError as error:
            raise Failure(
                f"cannot read the key in {path}: {error.strerror}; set FETCHML_API_KEY", NOT_ALLOWED
            ) from None

    def close(self) -> None:
        if self._client is not None:
            self._client.close()

    def show_json(self, value: Any) -> None:
        click.echo(json.dumps(value, indent=2 if os.isatty(1) else None))

    def find(self, task_id: str) -> Mapping[str, Any]:
        """The Task that `task_id` names: a whole id, a unique prefix, or `last`; of an element, with its index after it."""
        if task_id != "last":
            try:
                return self.client.task(task_id)
            except ApiError as error:
                if error.status != 404:
                    raise
        return self._match(task_id)

    def find_id(self, task_id: str) -> str:
        return str(self.find(task_id)["id"])

    def _match(self, prefix: str) -> Mapping[str, Any]:
        newest = self.client.tasks(limit=1 if prefix == "last" else ID_LIST_MAX)["tasks"]
        if prefix == "last":
            if not newest:
                raise Failure("there is no task yet", NOT_FOUND)
            return self.client.task(newest[0]["id"])
        matches = [task["id"] for task in newest if task["id"].startswith(prefix)]
        array, _, index = prefix.rpartition("-")
        if not matches and array and index.isdecimal():
            return self.client.task(f"{self._match(array)['id']}-{index}")
        if not matches:
            raise Failure(f"no task has an id that begins with {prefix!r}; see `fetchmld ls`", NOT_FOUND)
        if len(matches) > 1:
            raise Failure(f"{prefix!r} could be any of {', '.join(sorted(matches)[:5])}; give more of it", INVALID)
        return self.client.task(matches[0])


def data_dir(given: str | None) -> Path:
    """The data directory that this invocation means, absolute."""
    chosen = given or os.environ.get("FETCHML_DATA_DIR") or os.environ.get("FETCHMLD_DATA_DIR") or DATA_DIR_DEFAULT
    return Path(chosen).expanduser().resolve()


pass_session = click.make_pass_decorator(Session)


def _sets(field: str) -> Callable[[click.Context, click.Parameter, bool], None]:
    def callback(ctx: click.Context, _param: click.Parameter, wanted: bool) -> None:
        session = ctx.find_object(Session)
        if wanted and session is not None:
            setattr(session, field, True)

    return callback


def _flag(*names: str, field: str, text: str) -> Callable[[F], F]:
    return click.option(*names, is_flag=True, is_eager=True, expose_value=False, callback=_sets(field), help=text)


def client_command(function: F) -> F:
    """What every client command takes, so that the options may also stand behind its name."""
    function = _flag("-q", "--quiet", field="quiet", text="Print ids only.")(function)
    function = _flag("--json", field="json_output", text="Print the API's JSON unchanged.")(function)
    return cast(F, pass_session(function))
