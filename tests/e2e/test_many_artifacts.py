"""A task that leaves very many files: all are at the head, as they were, and the daemon answers others meanwhile.

2,000 with every change, 100,000 in a release (`make chaos`).
"""

import hashlib
import threading
import time
from pathlib import Path

import pytest

from fetchmld.client import Client
from tests.e2e.conftest import Shell
from tests.fault.conftest import count

pytestmark = pytest.mark.e2e

FILES = count(2_000, 100_000)
PER_DIRECTORY = 1_000
WRITER = """
import os, sys
out, files, per = os.environ["FETCHML_OUTPUT_DIR"], int(sys.argv[1]), int(sys.argv[2])
for n in range(files):
    if n % per == 0:
        os.makedirs(f"{out}/{n // per}")
    with open(f"{out}/{n // per}/{n}.txt", "w") as file:
        file.write(f"number {n}")
"""


def test_all_files_of_a_task_that_leaves_very_many(shell: Shell, open_dir: Path) -> None:
    shell.start()
    (open_dir / "writer.py").write_text(WRITER)
    key = (shell.data_dir / "admin.key").read_text().strip()
    waits: list[float] = []
    over = threading.Event()
    with Client(f"http://127.0.0.1:{shell.port}", key) as client:
        asking = threading.Thread(target=ask_until, args=(shell.port, key, over, waits))
        asking.start()
        words = f"{open_dir}/writer.py {FILES} {PER_DIRECTORY}"
        begun = time.monotonic()
        task = client.submit({"job_name": "many", "entrypoint": "python3", "args": words})
        ended = client.wait(task["id"], timeout_s=1200)
        took_s = time.monotonic() - begun
        over.set()
        asking.join()
        assert ended["status"] == "completed", ended
        found = client.artifacts(task["id"])
    assert ended["artifacts"]["file_count"] == FILES
    digests = {one["path"]: one for one in found}
    assert len(digests) == FILES
    for number in range(0, FILES, 997):
        text = f"number {number}".encode()
        assert digests[f"{number // PER_DIRECTORY}/{number}.txt"]["bytes"] == len(text)
    some = shell.fetchmld("artifacts", task["id"], f"{(FILES - 1) // PER_DIRECTORY}/{FILES - 1}.txt")
    assert hashlib.sha256(some.encode()).digest() == hashlib.sha256(f"number {FILES - 1}".encode()).digest()
    print(
        f"{FILES} files in {took_s:.1f} s; the queue was asked {len(waits)} times, at most {max(waits):.2f} s an answer"
    )


def ask_until(port: int, key: str, over: threading.Event, waits: list[float]) -> None:
    with Client(f"http://127.0.0.1:{port}", key) as client:
        while not over.wait(0.1):
            begun = time.monotonic()
            client.queue()
            waits.append(time.monotonic() - begun)
