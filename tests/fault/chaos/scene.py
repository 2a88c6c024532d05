"""A daemon with the example plugin, its users, and a folder in which clients and jobs write down what they see."""

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

from tests.e2e.conftest import ROOT, Shell, free_port

PLUGIN: Final = "scoreboard"
GPUS: Final = 2
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
    shell: Shell
    folder: Path  # clients/, jobs/, nemesis.jsonl
    address: tuple[str, int]
    within: tuple[str, ...] = ()  # the command that runs what follows it where the clients are

    def start(self) -> str:
        return self.shell.start("--num-gpus", str(GPUS), "--gpu-type", "T")

    def plan(self, seed: int, nodes: int = 1) -> Path:
        """Who the clients are, in the file that they are started with."""
        clients = []
        for name, user, role in WHO:
            key = self.shell.fetchmld("-q", "keys", "create", "--user", user, "--role", role).strip()
            clients.append({"name": name, "user": user, "role": role, "key": key})
        admin = (self.shell.data_dir / "admin.key").read_text().strip()
        said = {"seed": seed, "folder": str(self.folder), "address": self.address, "clients": clients, "key": admin}
        path = self.folder / "plan.json"
        path.write_text(json.dumps({**said, "nodes": nodes, "gpus": GPUS, "plugin": PLUGIN}))
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
def a_scene(data: Path) -> Iterator[Scene]:
    folder, port = histories(), free_port()
    shell = Shell(data, port, dict(SETTINGS), with_plugin(folder))
    try:
        yield Scene(shell, folder, ("127.0.0.1", port))
    finally:
        shell.end()
        shutil.rmtree(folder)
