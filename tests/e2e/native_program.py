"""A program on Ray, as a user would write it: submits, waits and cancels through the gateway. Run by `test_native.py`.

Arguments: the data directory, and a file that it makes once its first tasks are submitted. It says what it saw as JSON.
"""

import json
import os
import sys
from pathlib import Path
from typing import Any

about = json.loads((Path(sys.argv[1]) / "daemon.json").read_text())
os.environ.update(RAY_AUTH_MODE="token", RAY_AUTH_TOKEN_PATH=about["ray_token"])  # before Ray is imported

import ray  # noqa: E402

import fetchmld  # noqa: E402
from fetchmld.core.errors import Invalid, NotFound  # noqa: E402

TASK: dict[str, Any] = {"job_name": "native", "entrypoint": "/bin/echo", "args": "hello"}


def error_of(reference: Any, kind: type[Exception]) -> str:
    try:
        ray.get(reference, timeout=60)
    except kind as error:
        return str(error).splitlines()[-1]
    return ""


def main() -> dict[str, Any]:
    ray.init(about["ray_address"], log_to_driver=False, logging_level="ERROR")
    h = fetchmld.connect()
    first = ray.get(h.submit.remote(TASK), timeout=60)
    waiting = h.wait.remote(first["id"])
    sleeper = ray.get(h.submit.remote({**TASK, "entrypoint": "/bin/sleep", "args": "300"}), timeout=60)
    Path(sys.argv[2]).touch()
    # Somebody kills the scheduler, and then the head, from now on.
    through = [ray.get(h.submit.remote({**TASK, "args": str(n)}), timeout=90) for n in range(30)]
    ends = ray.get([h.wait.remote(task["id"]) for task in through], timeout=90)
    ray.get(h.cancel.remote(sleeper["id"]), timeout=60)
    scheduler = ray.get_actor("scheduler", namespace="fetchmld")
    straight = ray.get(scheduler.submit.remote([TASK, {"job_name": "no way"}]), timeout=60)
    return {
        "first": ray.get(waiting, timeout=60),
        "ids": [task["id"] for task in through],
        "ends": [end["status"] for end in ends],
        "outputs": [end["output"] for end in ends],
        "cancelled": ray.get(h.wait.remote(sleeper["id"]), timeout=60)["reason"],
        "straight": [one["status"] for one in straight],
        "straight_end": ray.get(scheduler.wait.remote(straight[0]["task"]["id"]), timeout=60)["status"],
        "invalid": error_of(h.submit.remote({"job_name": "no way"}), Invalid),
        "not_found": error_of(scheduler.status.remote("none"), NotFound),
    }


print(json.dumps(main()))
