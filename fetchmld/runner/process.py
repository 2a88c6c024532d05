"""The runner as a process: how it is started, leaves the tree of whoever started it, and protects itself.

Standard library only.
"""

import contextlib
import json
import os
import resource
import sys
import time
from dataclasses import asdict
from typing import Final

from fetchmld.runner.isolation import THE_BEST, Wanted

IDLE_S: Final = 60.0


def command(node_dir: str, socket_path: str, idle_s: float = IDLE_S, wanted: Wanted = THE_BEST) -> list[str]:
    """The words that start a runner for that directory: isolated, without site packages; it detaches by itself."""
    root = os.path.dirname(os.path.dirname(os.path.dirname(os.path.abspath(__file__))))
    code = f"import sys; sys.path.insert(0, {root!r}); from fetchmld.runner.serve import main; main()"
    options = [str(idle_s), json.dumps(asdict(wanted))]
    return [sys.executable, "-S", "-E", "-I", "-c", code, node_dir, socket_path, *options]


def detach(log_path: str) -> None:
    """Leave the tree, the session and the descriptors of whoever started us: the second half of a double fork."""
    os.closerange(3, resource.getrlimit(resource.RLIMIT_NOFILE)[0])
    if os.fork() > 0:
        os._exit(0)
    os.setsid()
    os.chdir("/")
    os.umask(0o077)
    log = os.open(log_path, os.O_WRONLY | os.O_CREAT | os.O_APPEND, 0o600)
    null = os.open("/dev/null", os.O_RDWR)
    for source, target in ((null, 0), (log, 1), (log, 2)):
        os.dup2(source, target)
    os.close(null)
    os.close(log)


def protect() -> None:
    """Keep the OOM killer away from us where we may, and have room for the descriptors of many attempts."""
    try:
        with open("/proc/self/oom_score_adj", "w") as file:
            file.write("-1000")
    except OSError:
        pass
    hard = resource.getrlimit(resource.RLIMIT_NOFILE)[1]
    resource.setrlimit(resource.RLIMIT_NOFILE, (hard, hard))
    be_patient()


def be_patient() -> None:
    """Where processors are short, let whoever wakes this thread go on until it waits itself.

    It has then said all that it had to say, and one wake-up serves the whole of it. (A thread that the policy SCHED_BATCH
    applies to interrupts nobody when it wakes; it loses nothing where a processor is free.) Processes and threads that it
    starts have it too.
    """
    with contextlib.suppress(OSError):
        os.sched_setscheduler(0, os.SCHED_BATCH, os.sched_param(0))


def say(text: str) -> None:
    """One line to the runner's own log."""
    stamp = time.strftime("%Y-%m-%dT%H:%M:%SZ", time.gmtime())
    print(f"{stamp} runner[{os.getpid()}] {text}", file=sys.stderr, flush=True)
