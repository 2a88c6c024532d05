"""Many attempts that daemonise and litter: nothing of them may be left when their ends are told.

Each starts processes in sessions of their own, one of them in a user and mount namespace with a mount, and leaves files in
the shared directories and shared memory. Afterwards it is counted what is there: processes, mounts, cgroups, directories,
files, shared memory, and descriptors of the runner and the agent.
"""

import os
import sys
import time
from pathlib import Path
from typing import Final

from daemon import Daemon, arguments, load, running, said

from fetchmld.runner.isolation import tree_name
from fetchmld.runner.leftovers import SHARED

SPARES_MAX: Final = 128  # directories that wait for the next attempt
CELLS_MAX: Final = 256  # cgroups that do
GROWTH_MAX: Final = 64  # descriptors
SCRIPT: Final = (
    "(setsid sleep 600 &); setsid setsid sleep 601 & "
    "unshare -Urm sh -c 'mount -t tmpfs none /mnt; exec sleep 602' 2>/dev/null & "
    "ipcmk -M 4096 >/dev/null; touch /tmp/left-$$ /dev/shm/left-$$ /var/tmp/left-$$; mkdir /tmp/leftd-$$"
)


def main() -> int:
    parser = arguments(__doc__)
    parser.add_argument("--count", type=int, default=10_000)
    given = parser.parse_args()
    with running(given.data_dir) as daemon:
        if not daemon.uids:
            print("tasks run as the daemon's user here: files in shared places stay, so this says nothing")
            return 2
        return 0 if measure(daemon, given.count) else 1


def measure(daemon: Daemon, count: int) -> bool:
    litter(daemon, 4)  # so that what is made once is there
    before = counts(daemon)
    begun = time.monotonic()
    litter(daemon, count)
    took_s = time.monotonic() - begun
    after = counts(daemon)
    print(f"{count} attempts in {took_s:.0f} s, {load()}")
    bounds = {
        "processes": 0,
        "files in shared directories": 0,
        "shared memory": 0,
        "attempts' directories": 0,
        "directories in the trash": 0,
        "cgroups with a process": 0,
        "spare directories": SPARES_MAX,
        "cgroups": CELLS_MAX,
        "mounts": before["mounts"],
        "the runner's descriptors": before["the runner's descriptors"] + GROWTH_MAX + 3 * CELLS_MAX,
        "the agent's descriptors": before["the agent's descriptors"] + GROWTH_MAX,
    }
    met = True
    for name, bound in bounds.items():
        met &= said(after[name] <= bound, f"{name}: {after[name]} of at most {bound}")
    if not met:
        print(*(daemon.node_dir / "runner.log").read_text().splitlines()[-10:], sep="\n")
    return met


def litter(daemon: Daemon, count: int) -> None:
    body = {"job_name": "litter", "entrypoint": "/bin/sh -c", "args": f'"{SCRIPT}"', "cpu": 0}
    ends = daemon.wait(daemon.submit(body, count), lambda done: print(f"  {done} ended", flush=True))
    failed = [task for task in ends if task["status"] != "completed"]
    if failed:
        raise SystemExit(f"{len(failed)} did not complete, the first: {failed[0]}")


def counts(daemon: Daemon) -> dict[str, int]:
    """What there is. Directories go a moment after the end is told."""
    trash = daemon.node_dir / "trash"
    deadline = time.monotonic() + 30
    while time.monotonic() < deadline and any(map(os.listdir, (trash, daemon.node_dir / "attempts"))):
        time.sleep(0.1)
    cells = list(Path("/sys/fs/cgroup").glob(f"**/{tree_name(str(daemon.node_dir))}/a*"))
    numbers = {cell.name for cell in cells}
    return {
        "processes": len(daemon.their_processes()),
        "files in shared directories": sum(_is_theirs(entry, daemon) for place in SHARED for entry in _entries(place)),
        "shared memory": _shared_memory(daemon),
        "attempts' directories": len(os.listdir(daemon.node_dir / "attempts")),
        "directories in the trash": len(os.listdir(trash)),
        "spare directories": len(os.listdir(daemon.node_dir / "spares")),
        "cgroups": len(numbers),
        "cgroups with a process": sum(bool((cell / "cgroup.procs").read_text()) for cell in cells),
        "mounts": sum(_is_mount_of(daemon, line) for line in Path("/proc/self/mounts").read_text().splitlines()),
        "the runner's descriptors": len(os.listdir(f"/proc/{daemon.process('fetchmld.runner')}/fd")),
        "the agent's descriptors": len(os.listdir(f"/proc/{daemon.process('ray::agent')}/fd")),
    }


def _entries(place: str) -> list[str]:
    return [f"{place}/{name}" for name in os.listdir(place)] if os.path.isdir(place) else []


def _is_theirs(path: str, daemon: Daemon) -> bool:
    try:
        return os.lstat(path).st_uid in daemon.uids
    except FileNotFoundError:
        return False


def _is_mount_of(daemon: Daemon, line: str) -> bool:
    """One of ours, or of an attempt's: others on this machine may mount as well."""
    return str(daemon.data_dir) in line or line.startswith(("fetchml ", "none /mnt "))


def _shared_memory(daemon: Daemon) -> int:
    head, *lines = Path("/proc/sysvipc/shm").read_text().splitlines()
    owner = head.split().index("uid")
    return sum(int(line.split()[owner]) in daemon.uids for line in lines)


if __name__ == "__main__":
    sys.exit(main())
