"""Sidecars of plugins on the head's node: attempts of the runner that take no slot and belong to no task.

The agent's part: it gives each a directory and a user, starts and stops it through the runner, and tells the plugin's
supervisor (`actors.plugin`) what became of it. The runner keeps them over restarts of all of us, so nothing here has to be
remembered: what runs is asked of it, and an end that nobody has heard yet is kept until somebody asks.

    sidecar.place {name, slot}                      -> {directory, files, sockets, uid}
    sidecar.list {name}                             -> {running: [number], ended: [{number, why}]}; the peer hears of ends
    sidecar.start {name, slot, number, argv, env}   -> {}; later `sidecar.ended {number, why}`
    sidecar.stop {name, number}                     -> {}; the same
"""

import contextlib
import os
import resource
import signal
from pathlib import Path
from typing import Any, Final

from actors.runner_link import RunnerLink
from fetchmld.channel import Message, Peer
from fetchmld.core.errors import BadRequest, FetchmlError, Unavailable
from fetchmld.runner import frames
from fetchmld.runner.logs import read_place

PREFIX: Final = "plugin-"  # no id of a task begins so: those have more letters before a hyphen
SLOTS_MAX: Final = 64  # user ids at the end of the block that are kept for sidecars
FILES_MAX: Final = 4096
PIDS_MAX: Final = 512
MEMORY_BYTES_MAX: Final = 4 * 2**30
LOG_BYTES_MAX: Final = 64 * 2**20
ENDED_MAX: Final = 100  # that nobody asked about
GRACE_S: Final = 5.0
ALONE_MAX_S: Final = 600.0
LAST_WORDS_BYTES: Final = 4096


class Sidecars:
    """One per agent. Called from one event loop."""

    def __init__(self, node_dir: Path, run_dir: Path, runner: RunnerLink) -> None:
        self._home = node_dir / "plugins"
        self._logs = node_dir / "logs"
        self._short = run_dir / "plugins"  # the same directory by a name that a socket's address has room for
        self._runner = runner
        self._users = range(0)
        self._running: dict[str, set[int]] = {}
        self._ended: dict[tuple[str, int], str] = {}
        self._listeners: dict[str, Peer] = {}
        self._alone_since: dict[str, float] = {}

    def open(self) -> None:
        self._home.mkdir(mode=0o711, parents=True, exist_ok=True)
        self._home.chmod(0o711)
        with contextlib.suppress(FileNotFoundError):
            self._short.unlink()
        self._short.symlink_to(self._home)

    # -- the runner's words

    def take(self, message: frames.Message) -> bool:
        """Whether this word of the runner is about a sidecar; then it is dealt with."""
        if not message.get("key", "").startswith(PREFIX):
            return False
        name, number = _split(message["key"])
        match message["event"]:
            case "started":
                self._running.setdefault(name, set()).add(number)
            case "exited":
                self._over(name, number, self._why(message))
                self._runner.send({"do": "forget", "keys": [message["key"]]})
            case "start_failed":
                why = f"it could not be started: {message['step']}: {os.strerror(message['errno'])}"
                self._over(name, number, why)
        return True

    def take_state(self, state: frames.Message) -> frames.Message:
        """What the runner has, without the sidecars: those are dealt with."""
        first, count = state["isolation"].get("uids", (0, 0))
        self._users = range(first, first + count)
        before, self._running = self._running, {}
        for found in state["running"]:
            if found["key"].startswith(PREFIX):
                name, number = _split(found["key"])
                self._running.setdefault(name, set()).add(number)
        ended = [found for found in state["ended"] if self.take({**found, "event": "exited"})]
        heard = {_split(found["key"]) for found in ended}
        for name, numbers in before.items():
            for number in numbers - self._running.get(name, set()):
                if (name, number) not in heard:
                    self._over(name, number, "the runner has lost its record")
        return {
            **state,
            "running": [found for found in state["running"] if not found["key"].startswith(PREFIX)],
            "ended": [found for found in state["ended"] if not found["key"].startswith(PREFIX)],
        }

    def stop_unattended(self, now: float) -> None:
        """End those whose supervisor has been away for long: their plugin is not wanted any more, or cannot be kept."""
        for name, numbers in self._running.items():
            listener = self._listeners.get(name)
            if not numbers or (listener is not None and not listener.closed.is_set()):
                self._alone_since.pop(name, None)
            elif now - self._alone_since.setdefault(name, now) > ALONE_MAX_S:
                for number in numbers:
                    self._tell_to_stop(name, number)

    def _tell_to_stop(self, name: str, number: int) -> None:
        key = _key(name, number)
        self._runner.send({"do": "stop", "key": key, "word": "STOPPED", "detail": "", "grace_s": GRACE_S})

    def _over(self, name: str, number: int, why: str) -> None:
        self._running.get(name, set()).discard(number)
        with contextlib.suppress(OSError):
            (self._home / name / f"{number}.sock").unlink()
        listener = self._listeners.get(name)
        if listener is not None and not listener.closed.is_set():
            listener.post("sidecar.ended", {"number": number, "why": why})
            return
        self._ended[name, number] = why
        while len(self._ended) > ENDED_MAX:
            del self._ended[next(iter(self._ended))]

    def _why(self, message: frames.Message) -> str:
        if message["word"]:
            return f"{message['word']}: {message['detail']}"
        if "signal" in message:
            return f"killed by {_signal_name(message['signal'])}"
        how = f"ended with exit code {message['code']}"
        said = self._last_words(message)
        return f"{how}: {said}" if said else how

    def _last_words(self, message: frames.Message) -> str:
        """The last line of its output: mostly what went wrong."""
        place, owner = message["log"], message["key"].removesuffix("0")
        with contextlib.suppress(OSError, ValueError):
            begin = max(0, int(place["length"]) - LAST_WORDS_BYTES)
            lines = (
                read_place(str(self._logs), place, owner, begin, LAST_WORDS_BYTES)
                .decode("utf-8", "replace")
                .split("\n")
            )
            found = [line.strip() for line in lines if line.strip()]
            return "".join(letter for letter in found[-1] if letter.isprintable())[:500] if found else ""
        return ""

    # -- a supervisor's requests

    def answers(self, message: Message) -> bool:
        """Whether this request is about sidecars; then it is answered."""
        if not message.kind.startswith("sidecar."):
            return False
        try:
            message.reply(self._answer(message))
        except FetchmlError as error:
            message.fail(error)
        except OSError as error:
            message.fail(Unavailable(f"the plugin's directory cannot be made: {error}"))
        return True

    def _answer(self, message: Message) -> dict[str, Any]:
        body = message.body
        name: str = body["name"]
        match message.kind:
            case "sidecar.place":
                return self._places(name, body["slot"])
            case "sidecar.list":
                self._listeners[name] = message.peer
                ended = [{"number": number, "why": why} for (who, number), why in self._ended.items() if who == name]
                self._ended = {key: why for key, why in self._ended.items() if key[0] != name}
                return {"running": sorted(self._running.get(name, ())), "ended": ended}
            case "sidecar.start":
                self._start(body)
            case "sidecar.stop":
                self._tell_to_stop(name, body["number"])
            case _:
                raise BadRequest(f"an agent knows no request {message.kind!r}")
        return {}

    def _places(self, name: str, slot: int) -> dict[str, Any]:
        directory, files, sockets = self._place(name, slot), self._files(name, slot), self._short / name
        return {"directory": str(directory), "files": str(files), "sockets": str(sockets), "uid": self._user(slot)}

    def _place(self, name: str, slot: int) -> Path:
        """The sidecar's own directory, its user's alone."""
        directory = self._home / name
        directory.mkdir(mode=0o700, exist_ok=True)
        uid = self._user(slot)
        if uid >= 0 and os.lstat(directory).st_uid != uid:
            for base, _, files in os.walk(directory):
                for path in (base, *(os.path.join(base, file) for file in files)):
                    os.lchown(path, uid, uid)
        return directory

    def _files(self, name: str, slot: int) -> Path:
        """Where we put files for the sidecar to read: ours, its group's to look at, nobody else's."""
        directory = self._home / f".files-{name}"
        directory.mkdir(mode=0o750, exist_ok=True)
        if (uid := self._user(slot)) >= 0:
            os.chown(directory, -1, uid)
        directory.chmod(0o2750)
        return directory

    def _user(self, slot: int) -> int:
        """The user id of a sidecar, the same for as long as the node keeps its block of them; -1: ours."""
        if not self._users:
            return -1
        if not 1 <= slot < SLOTS_MAX:
            raise BadRequest(f"there is no user id for plugin number {slot}")
        return self._users[-1 - slot]  # the last one is the runner's, to try itself out

    def _start(self, body: dict[str, Any]) -> None:
        directory = self._place(body["name"], body["slot"])
        env = {
            "PATH": "/usr/local/bin:/usr/bin:/bin",
            "LANG": "C.UTF-8",
            "HOME": str(directory),
            "TMPDIR": str(directory),
            "PYTHONUNBUFFERED": "1",
            "PYTHONDONTWRITEBYTECODE": "1",
            **body["env"],
        }
        hard = resource.getrlimit(resource.RLIMIT_NOFILE)[1]
        files = FILES_MAX if hard == resource.RLIM_INFINITY else min(hard, FILES_MAX)
        limits = [(resource.RLIMIT_CORE, 0, 0), (resource.RLIMIT_NOFILE, files, files)]
        order = {
            "do": "start",
            "key": _key(body["name"], body["number"]),
            "path": body["argv"][0],
            "argv": body["argv"],
            "env": env,
            "cwd": str(directory),
            "uid": self._user(body["slot"]),
            "limits": limits,
            "pids": PIDS_MAX,
            "memory_bytes": MEMORY_BYTES_MAX,
            "log_bytes_max": LOG_BYTES_MAX,
            "grace_s": GRACE_S,
        }
        if not self._runner.connected:
            raise Unavailable("the runner is away; try again")
        self._running.setdefault(body["name"], set()).add(body["number"])
        self._runner.send(order)


def _key(name: str, number: int) -> str:
    return f"{PREFIX}{name}-{number}-0"


def _split(key: str) -> tuple[str, int]:
    name, number, _ = key.removeprefix(PREFIX).rsplit("-", 2)
    return name, int(number)


def _signal_name(number: int) -> str:
    try:
        return signal.Signals(number).name
    except ValueError:
        return f"signal {number}"
