"""One machine or two with a daemon, the example plugin and its users, and a folder for what clients and jobs see."""

import json
import os
import shutil
import subprocess
import sys
import tempfile
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Final

from tests.e2e.conftest import ROOT, Shell, free_port, until
from tests.e2e.lan import a_lan
from tests.fault.chaos.nemesis import Place

PLUGIN: Final = "scoreboard"
JOINED_MAX_S: Final = 120.0
GPUS: Final = 2
OFFERED: Final = ("--num-gpus", str(GPUS), "--gpu-type", "T")  # of each machine
WHO: Final = (
    ("u1-a", "u1", "user"),
    ("u1-b", "u1", "user"),
    ("u2-a", "u2", "user"),
    ("u3-a", "u3", "user"),
    ("op-a", "op", "operator"),
    ("au-a", "au", "auditor"),
    ("ad-a", "ad", "admin"),
)
SETTINGS: Final = {
    "FETCHMLD_GRACE_S": "1",
    "FETCHMLD_BATCH_SLOTS": "8",
    "FETCHMLD_SERVICE_SLOTS": "0",  # notebooks wait: JupyterLab's installation is not what is tried here
    "FETCHMLD_SEGMENT_BYTES": str(2**20),
    "FETCHMLD_SNAPSHOT_EVENTS": "2000",
}


@dataclass(slots=True)
class Scene:
    shell: Shell  # at the head
    folder: Path  # clients/, jobs/, nemesis.jsonl
    address: tuple[str, int]
    places: list[Place]
    within: tuple[str, ...] = ()  # the command that runs what follows it where the clients are

    def start(self) -> None:
        for place in self.places:
            place.start()

    def is_whole(self) -> bool:
        """Every part answers, and every machine is there."""
        said = self.shell.fetchmld("workers", "--json", code=None)
        if not said.startswith("["):
            return False
        workers = json.loads(said)
        here = [one for one in workers if one["status"] != "offline" and not one["suspect"]]
        return len(here) == len(self.places) and "healthy" in self.shell.fetchmld("status", code=None)

    def plan(self, seed: int) -> Path:
        """Who the clients are, in the file that they are started with."""
        clients = []
        for name, user, role in WHO:
            key = self.shell.fetchmld("-q", "keys", "create", "--user", user, "--role", role).strip()
            clients.append({"name": name, "user": user, "role": role, "key": key})
        admin = (self.shell.data_dir / "admin.key").read_text().strip()
        said = {"seed": seed, "folder": str(self.folder), "address": self.address, "clients": clients, "key": admin}
        path = self.folder / "plan.json"
        path.write_text(json.dumps({**said, "nodes": len(self.places), "gpus": GPUS, "plugin": PLUGIN}))
        return path

    def begin(self, plan: Path) -> "subprocess.Popen[str]":
        command = [*self.within, sys.executable, "-m", "tests.fault.chaos.clients", str(plan)]
        return subprocess.Popen(command, cwd=ROOT, text=True)

    def judge(self) -> "subprocess.CompletedProcess[str]":
        kept = self.shell.data_dir.parent / "histories"  # with the data, as pytest keeps it
        shutil.copytree(self.folder, kept)
        command = [sys.executable, "-m", "tests.fault.outside", str(kept), str(self.shell.data_dir)]
        return subprocess.run(command, cwd=ROOT, capture_output=True, text=True, check=False)


def histories() -> Path:
    """A folder for them, in which jobs may write, whoever they run as."""
    folder = Path(tempfile.mkdtemp(prefix="fml-chaos-"))
    folder.chmod(0o755)
    for name in ("clients", "jobs"):
        (folder / name).mkdir()
    runs = folder / "jobs" / "runs.jsonl"
    runs.touch()
    runs.chmod(0o666)
    return folder


def with_plugin(folder: Path) -> tuple[str, ...]:
    """The command before a command that has the example plugin installed, as a package of its own would be."""
    place = folder / "packages"
    about = place / "fetchml_scoreboard-1.0.dist-info"
    about.mkdir(parents=True)
    shutil.copy(ROOT / "examples" / "plugin" / "scoreboard.py", place)
    (about / "METADATA").write_text("Metadata-Version: 2.1\nName: fetchml-scoreboard\nVersion: 1.0\n")
    (about / "entry_points.txt").write_text(f"[fetchmld.plugins]\n{PLUGIN} = scoreboard:plugin\n")
    return ("env", f"PYTHONPATH={ROOT}{os.pathsep}{place}")


@contextmanager
def one_machine(data: Path) -> Iterator[Scene]:
    folder, port = histories(), free_port()
    shell = Shell(data, port, dict(SETTINGS), with_plugin(folder))
    place = Place(shell, lambda: shell.start(*OFFERED))
    try:
        yield Scene(shell, folder, ("127.0.0.1", port), [place])
    finally:
        shell.end()
        shutil.rmtree(folder)


def has_joined(shell: Shell, *words: str) -> bool:
    """Start it; False where the head cannot be joined just now, which whoever starts it then tries again."""
    said = shell.fetchmld("start", *words, code=None)
    return "cannot join" not in said


@contextmanager
def two_machines(data: Path) -> Iterator[Scene]:
    """In network namespaces, with a link between them that can be cut; the clients are at the head's."""
    folder, port = histories(), free_port()
    settings = {**SETTINGS, "FETCHMLD_REQUEUE_AFTER_S": "90"}
    with a_lan() as lan:
        head, other = lan.machine("h"), lan.machine("a")
        shell = Shell(data, port, settings, (*head.within, *with_plugin(folder)))
        away = Shell(data.with_name("other"), 0, within=(*other.within, "env", f"PYTHONPATH={ROOT}"))
        listen = ("--host", head.address, "--port", str(port), "--insecure", "--num-cpus", "2")
        join = ("--address", f"{head.address}:{port + 1}", "--token-file", str(data / "join.token"), "--num-cpus", "2")
        places = [
            Place(shell, lambda: shell.fetchmld("start", "--head", *listen, *OFFERED)),
            Place(
                away,
                lambda: until("the other machine joins", lambda: has_joined(away, *join, *OFFERED), JOINED_MAX_S),
                lambda cut: other.cut() if cut else other.mend(head),
            ),
        ]
        try:
            yield Scene(shell, folder, (head.address, port), places, head.within)
        finally:
            away.end()
            shell.end()
            shutil.rmtree(folder)
