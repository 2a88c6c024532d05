"""What the tasks of the chaos run: `job.py FOLDER SECONDS EXIT [deaf]`. Says that it lives, 20 times a second, to its end.

Each line has the time by CLOCK_BOOTTIME, which no clock of ours and no jump of the wall clock touches. Standard library
alone, and not much of it: there are thousands.
"""

import json
import os
import signal
import sys
import time

BEAT_S = 0.05


def main() -> None:
    folder, lasts_s, code = sys.argv[1], float(sys.argv[2]), int(sys.argv[3])
    if "deaf" in sys.argv:
        signal.signal(signal.SIGTERM, signal.SIG_IGN)
    with open("/proc/self/stat") as stat:
        started = int(stat.read().rpartition(")")[2].split()[19])
    me = {
        "task": os.environ["FETCHML_TASK_ID"],
        "attempt": int(os.environ["FETCHML_ATTEMPT"]),
        "rank": int(os.environ.get("FETCHML_NODE_RANK", "0")),
        "pid": os.getpid(),
        "start": started,
        "gpus": os.environ.get("CUDA_VISIBLE_DEVICES", ""),
    }
    file = os.open(f"{folder}/runs.jsonl", os.O_WRONLY | os.O_APPEND)
    until = time.monotonic() + lasts_s
    say(file, me)
    while (left_s := until - time.monotonic()) > 0:
        time.sleep(min(BEAT_S, left_s))
        say(file, me)
    print("done", flush=True)
    say(file, {**me, "exit": code})
    sys.exit(code)


def say(file: int, line: dict[str, object]) -> None:
    times = {"boot_s": time.clock_gettime(time.CLOCK_BOOTTIME), "wall_us": time.time_ns() // 1000}
    os.write(file, (json.dumps({**line, **times}) + "\n").encode())


main()
