"""The zygote: one process that has imported Ray and what actors need, and forks a ready worker on demand.

Each Ray worker would import Ray for itself: half a second of processor and 60 MB, six times at every start, and again
whenever an actor comes back. A fork of the zygote takes milliseconds and shares those pages.

It stays single-threaded (a fork of a threaded process is a gamble), serves a unix socket in the run directory, and ends
with the raylet, whose pid it is given: Ray's library reads `RAY_RAYLET_PID` when it is imported, so both must fit.
If it is gone, workers start the long way (see `ray_boot.py`). It knows nothing of actors, only names of modules to import.
"""

import gc
import importlib
import json
import os
import runpy
import select
import signal
import socket
import sys
from contextlib import suppress
from typing import Final

WISH_BYTES_MAX: Final = 1 << 18
BACKLOG: Final = 64
RAY_MODULES: Final = (
    "ray",
    "ray._common.usage.usage_lib",
    "ray._private.async_compat",
    "ray._private.runtime_env.setup_hook",
    "ray._private.worker",
    "ray.util.serialization_addons",
    "numpy",
    "uvloop",
    "pydantic",
)


def main(path: str, raylet_pid: int, modules: list[str]) -> None:
    """Listen on `path` at once, import, and serve until the raylet `raylet_pid` ends."""
    gc.disable()
    raylet = os.pidfd_open(raylet_pid)
    with suppress(FileNotFoundError):
        os.unlink(path)
    with socket.socket(socket.AF_UNIX, socket.SOCK_SEQPACKET) as listener:
        listener.bind(path)
        listener.listen(BACKLOG)  # who comes early waits for us instead of importing for itself
        for module in (*RAY_MODULES, *modules):
            importlib.import_module(module)
        gc.collect()
        gc.freeze()  # the children's collector leaves the shared pages alone
        gc.enable()
        signal.signal(signal.SIGCHLD, signal.SIG_IGN)  # the kernel reaps; Ray watches its workers over their sockets
        while raylet not in select.select([listener.fileno(), raylet], [], [])[0]:
            _serve(listener, raylet)


def _serve(listener: socket.socket, raylet: int) -> None:
    with suppress(OSError, ValueError), listener.accept()[0] as peer:
        peer.settimeout(1.0)
        wish, streams, _flags, _address = socket.recv_fds(peer, WISH_BYTES_MAX, 3)
        try:
            if len(streams) == 3 and os.fork() == 0:
                os.close(raylet)
                listener.close()
                peer.send(b"1")
                peer.close()
                _become_worker(json.loads(wish), streams)
        finally:
            for stream in streams:
                os.close(stream)


def _become_worker(wish: dict[str, object], streams: list[int]) -> None:
    """Be the process that the raylet asked for. Never returns."""
    code = 1
    try:
        os.setpgid(0, 0)  # as the raylet does: it ends a worker with all that the worker started, by group
        signal.signal(signal.SIGCHLD, signal.SIG_DFL)
        for number, stream in enumerate(streams):
            os.dup2(stream, number)
            os.close(stream)
        os.environ.clear()
        os.environ.update(wish["env"])  # type: ignore[call-overload]
        os.chdir(str(wish["cwd"]))
        sys.argv = list(wish["argv"])  # type: ignore[call-overload]
        runpy.run_path(sys.argv[0], run_name="__main__")
        code = 0
    except SystemExit as ended:
        code = ended.code if isinstance(ended.code, int) else 1
    finally:
        sys.stdout.flush()
        sys.stderr.flush()
        os._exit(code)


if __name__ == "__main__":
    main(sys.argv[1], int(sys.argv[2]), sys.argv[3:])
