"""What FetchML itself takes: memory of its processes for each running task, and the idle agent's and runner's time.

Memory is PSS, in which shared pages count once. Of the agent's process, Ray's threads are told apart for the processor's
time (`processes.py`), which cannot be done for memory.
"""

import sys
import time
from pathlib import Path
from typing import Final

sys.path.insert(0, str(Path(__file__).resolve().parents[1]))

from daemon import Daemon, arguments, load, running, said, until
from processes import Process, cpu_share

TASK_MIB_MAX: Final = 2.0
IDLE_SHARE_MAX: Final = 0.01
SETTLE_S: Final = 5.0


def main() -> int:
    parser = arguments(__doc__)
    parser.add_argument("--tasks", type=int, default=500)
    parser.add_argument("--idle-s", type=float, default=30.0)
    given = parser.parse_args()
    with running(given.data_dir, slots=given.tasks + 16) as daemon:
        return 0 if measure(daemon, given.tasks, given.idle_s) else 1


def measure(daemon: Daemon, tasks: int, idle_s: float) -> bool:
    time.sleep(SETTLE_S)
    ours = [
        Process(daemon.process("ray::agent"), "ray::agent", False),
        Process(daemon.process("fetchmld.runner"), "fetchmld.runner", False),
    ]
    met = idle(ours, idle_s)
    before = [process.memory_mib()[0] for process in ours]
    ids = daemon.submit({"job_name": "sleeper", "entrypoint": "/bin/sleep", "args": "600", "cpu": 0}, tasks)
    until("all run", lambda: daemon.client.queue()["running"] >= tasks, 120)
    time.sleep(SETTLE_S)
    after = [process.memory_mib()[0] for process in ours]
    each = (sum(after) - sum(before)) / tasks
    shown = ", ".join(
        f"{process.name} {was:.0f} to {now:.0f} MiB" for process, was, now in zip(ours, before, after, strict=True)
    )
    met &= said(each < TASK_MIB_MAX, f"{tasks} running tasks: {shown}: {1024 * each:.0f} KiB for each, {load()}")
    for process, (share, rays) in zip(ours, cpu_share(ours, idle_s).values(), strict=True):
        print(f"  meanwhile {process.name} takes {100 * share:.2f} % of a core, Ray's threads in it {100 * rays:.2f} %")
    for task_id in ids:
        daemon.client.cancel(task_id)
    daemon.wait(ids)
    return met


def idle(ours: list[Process], idle_s: float) -> bool:
    met = True
    for process, (share, rays) in zip(ours, cpu_share(ours, idle_s).values(), strict=True):
        text = (
            f"idle {process.name}: {100 * share:.2f} % of a core, and Ray's threads in it {100 * rays:.2f} %, {load()}"
        )
        met &= said(share < IDLE_SHARE_MAX, text)
    return met


if __name__ == "__main__":
    sys.exit(main())
