"""What the console costs a browser: bytes, the first useful paint, and the main thread's work for each look.

    python load/console/page.py [--seconds 20]

A daemon of its own with 128 declared GPUs and 300 tasks (128 run, the others wait), whose priorities are changed 40 times
a second from outside, and Chromium on its overview, which shows changes four times a second. The limits, which the page has
to keep by itself: 60 KB of script compressed, 1 s to the first useful paint on loopback, 50 ms of main thread a look.
An empty page in the same browser is measured for half that time before, and its work is shown beside.
"""

import argparse
import gzip
import http.client
import json
import os
import random
import re
import shutil
import sys
import tempfile
import threading
import time
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any, Final

from playwright.sync_api import CDPSession, Page, sync_playwright

ROOT: Final = Path(__file__).resolve().parents[2]
sys.path.insert(0, str(ROOT))

from tests.browser.conftest import CHROMIUM, FLAGS  # noqa: E402
from tests.e2e.conftest import Shell, free_port  # noqa: E402

GPUS, TASKS, CHANGES_PER_S, LOOKS_PER_S = 128, 300, 40.0, 4.0
SCRIPT_BYTES_MAX, PAINT_S_MAX, LOOK_MS_MAX = 60_000, 1.0, 50.0


@contextmanager
def daemon() -> Iterator[Shell]:
    """With all the tasks submitted."""
    directory = Path(tempfile.mkdtemp(prefix="fetchml-bench-"))
    mine = Shell(directory / "data", free_port(), environment={"FETCHMLD_RATE_PER_S": "0"})
    try:
        mine.start("--num-cpus", "512", "--num-gpus", str(GPUS), "--gpu-type", "A100")
        request = {"job_name": "load", "entrypoint": "/bin/sleep", "args": "3600", "cpu": 1, "gpu": 1}
        ask(mine, "POST", "/v1/tasks/batch", [request] * TASKS)
        yield mine
    finally:
        mine.end()
        shutil.rmtree(directory, ignore_errors=True)


def ask(shell: Shell, method: str, path: str, body: Any = None) -> Any:
    connection = http.client.HTTPConnection("127.0.0.1", shell.port, timeout=60)
    key = (shell.data_dir / "admin.key").read_text().strip()
    headers = {"X-API-Key": key, "Content-Type": "application/json"}
    connection.request(method, path, None if body is None else json.dumps(body), headers)
    answer = connection.getresponse()
    said = answer.read()
    connection.close()
    assert answer.status < 300, said
    return json.loads(said) if said else None


class Changing(threading.Thread):
    """Changes priorities of waiting tasks, `CHANGES_PER_S` at most."""

    def __init__(self, shell: Shell) -> None:
        super().__init__(daemon=True)
        self.shell, self.wanted, self.count = shell, True, 0
        self.ids = [task["id"] for task in ask(shell, "GET", "/v1/tasks?status=queued&limit=1000")["tasks"]]

    def run(self) -> None:
        chance = random.Random(7)
        due = time.monotonic()
        while self.wanted:
            path = f"/v1/scheduler/jobs/{chance.choice(self.ids)}/priority"
            ask(self.shell, "PATCH", path, {"priority": chance.randint(1, 10)})
            self.count += 1
            due += 1 / CHANGES_PER_S
            time.sleep(max(0.0, due - time.monotonic()))


def work_ms(cdp: CDPSession, seconds: float) -> float:
    """Milliseconds of main thread that the page takes in so many seconds."""
    before = _task_s(cdp)
    time.sleep(seconds)
    return 1000 * (_task_s(cdp) - before)


def _task_s(cdp: CDPSession) -> float:
    metrics = cdp.send("Performance.getMetrics")["metrics"]
    return float(next(one["value"] for one in metrics if one["name"] == "TaskDuration"))


def first_paint_s(page: Page, url: str) -> float:
    """From asking for the page, logged in already, to the numbers on it."""
    begun = time.monotonic()
    page.goto(url)
    page.locator(".numbers b", has_text=re.compile("[0-9]")).first.wait_for()
    page.locator(".gpu").first.wait_for()
    return time.monotonic() - begun


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--seconds", type=float, default=20.0)
    options = parser.parse_args()
    if not CHROMIUM:
        print("no Chromium on this machine: nothing was measured")
        return 0
    script = len(gzip.compress((ROOT / "fetchmld" / "console" / "static" / "console.js").read_bytes()))
    with daemon() as shell, sync_playwright() as playwright:
        browser = playwright.chromium.launch(executable_path=CHROMIUM, args=FLAGS)
        page = browser.new_context(viewport={"width": 1280, "height": 900}).new_page()
        cdp = page.context.new_cdp_session(page)
        cdp.send("Performance.enable")
        idle_ms = work_ms(cdp, options.seconds / 2) * 2
        page.goto(shell.fetchmld("ui").split()[-1])
        paints = sorted(first_paint_s(page, f"http://127.0.0.1:{shell.port}/") for _ in range(5))
        changing = Changing(shell)
        changing.start()
        spent_ms = work_ms(cdp, options.seconds)
        changing.wanted = False
        changing.join()
        browser.close()
    looks = options.seconds * LOOKS_PER_S
    each_ms, empty_ms = spent_ms / looks, idle_ms / looks
    print(f"load average {os.getloadavg()[0]:.1f}; {changing.count} changes in about {options.seconds:g} s")
    print(f"script, compressed: {script} bytes, at most {SCRIPT_BYTES_MAX}: {verdict(script <= SCRIPT_BYTES_MAX)}")
    paint = f"{paints[2]:.2f} s (median of 5), at most {PAINT_S_MAX}: {verdict(paints[2] <= PAINT_S_MAX)}"
    print(f"first useful paint: {paint}")
    look = f"{each_ms:.1f} ms (an empty page: {empty_ms:.2f}), at most {LOOK_MS_MAX}: {verdict(each_ms <= LOOK_MS_MAX)}"
    print(f"main thread a look: {look}")
    return 0


def verdict(holds: bool) -> str:
    return "met" if holds else "missed"


if __name__ == "__main__":
    sys.exit(main())
