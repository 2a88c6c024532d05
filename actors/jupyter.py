"""How JupyterLab is started for a service: its settings, its words, and what its environment has beyond a task's.

The settings lie in a file that only its user reads; its token is nowhere else. It listens on a unix socket in a short
directory of its own (a socket's path has 107 bytes at most), and its kernels speak through sockets there too: nobody else
on the machine reaches either.
"""

import json
import os
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Final

from actors.requirements import Wanted, exported
from actors.workspace import CannotRun

LOCK: Final = Path(__file__).parent.parent / "fetchmld" / "environments" / "jupyter.lock"
SOCKET: Final = "jupyter.sock"
SETTINGS: Final = "settings.json"
IMAGE_COMMAND: Final = ("jupyter", "lab")  # what images with JupyterLab have


@dataclass(slots=True, frozen=True)
class Server:
    """One Jupyter server as its worker knows it. `uid`: whose it is; `base`: the path that all of its addresses begin with.

    `home`: what its user keeps; `run`: the short directory, gone when it ends.
    """

    task_id: str
    attempt: int
    user_id: str
    uid: int
    base: str
    token: str
    home: str
    run: str

    @property
    def endpoint(self) -> str:
        return f"unix:{self.run}/{SOCKET}"

    @property
    def headers(self) -> dict[str, str]:
        """What lets somebody in."""
        return {"Authorization": f"token {self.token}"}

    def dump(self) -> str:
        return json.dumps(asdict(self))


def wanted() -> Wanted:
    """The packages of the environment that it runs in, pinned. Raises `CannotRun`."""
    try:
        lines = exported(LOCK.read_text()).lines
    except OSError as error:
        raise CannotRun("ENVIRONMENT_FAILED", f"JupyterLab's list of packages cannot be read: {error}") from None
    return Wanted("JupyterLab", lines, compiled=True)


def write_settings(server: Server) -> None:
    """Into its directory, for its user alone. Raises OSError."""
    path = f"{server.run}/{SETTINGS}"
    with open(os.open(path, os.O_WRONLY | os.O_CREAT | os.O_EXCL | os.O_NOFOLLOW, 0o600), "w") as file:
        if os.geteuid() == 0:
            os.fchown(file.fileno(), server.uid, server.uid)
        json.dump(_settings(server), file)


def _settings(server: Server) -> dict[str, dict[str, object]]:
    return {
        "IdentityProvider": {"token": server.token},
        "ServerApp": {
            "sock": f"{server.run}/{SOCKET}",
            "sock_mode": "0600",
            "base_url": f"{server.base}/",
            "root_dir": server.home,
            "open_browser": False,
            "allow_root": True,  # where tasks have no users of their own, ours may be root
            "allow_remote_access": True,  # the head has looked at the Host header
            "quit_button": False,
        },
        "LabApp": {
            "extension_manager": "readonly",
            "news_url": None,
            "check_for_updates_class": "jupyterlab.NeverCheckForUpdate",
        },
        "KernelManager": {"transport": "ipc"},
    }


def words(server: Server, python: str) -> list[str]:
    """`python`: of the environment; "" in an image, which has its own."""
    program = [python, "-m", "jupyterlab"] if python else list(IMAGE_COMMAND)
    return [*program, f"--config={server.run}/{SETTINGS}"]


def variables(server: Server) -> dict[str, str]:
    """Packages that a notebook installs with pip stay with the user: the environment is everybody's."""
    packages = f"{server.home}/.packages"
    return {
        "HOME": server.home,
        "JUPYTER_RUNTIME_DIR": server.run,
        "PIP_TARGET": packages,
        "PYTHONPATH": packages,
        "PIP_DISABLE_PIP_VERSION_CHECK": "1",
    }
