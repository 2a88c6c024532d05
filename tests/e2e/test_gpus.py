"""GPUs that fail under a whole daemon, on a stand-in for NVIDIA's library: no GPU is behind it."""

import json
import time
from pathlib import Path
from typing import Any

import pytest

from tests.e2e.conftest import Shell, until

pytestmark = pytest.mark.e2e

QUARANTINED_WITHIN_S = 10.0
GOOD: list[dict[str, Any]] = [
    {"uuid": "GPU-a", "name": "NVIDIA H200", "memory_mb": 143_771},
    {"uuid": "GPU-b", "name": "NVIDIA H200", "memory_mb": 143_771},
]


def test_a_lost_gpu_is_in_quarantine_and_its_task_starts_on_another(shell: Shell, tmp_path: Path) -> None:
    file = tmp_path / "nvml.json"

    def say(*gpus: dict[str, Any]) -> None:
        file.with_suffix(".part").write_text(json.dumps({"gpus": gpus}))
        file.with_suffix(".part").replace(file)

    def gpus() -> list[dict[str, Any]]:
        (worker,) = shell.json("workers")
        return list(worker["gpus"])

    say(*GOOD)
    shell.environment |= {"FETCHMLD_NVML_LIBRARY": f"fake:{file}", "FETCHMLD_GPU_RELEASE_AFTER_S": "3"}
    shell.start()
    assert "H200" in shell.fetchmld("workers")
    script = "echo on $CUDA_VISIBLE_DEVICES; test $FETCHML_ATTEMPT = 2 || sleep 600"
    task_id = shell.fetchmld("submit", "-q", "--gpu", "1", "--gpu-type", "H200", "--", "sh", "-c", script).strip()
    until("it runs", lambda: shell.show(task_id).get("output"))
    (held,) = [gpu for gpu in gpus() if gpu["status"] == "held"]
    broken = [{**gpu, "lost": True} if gpu["uuid"] == held["uuid"] else gpu for gpu in GOOD]
    began = time.monotonic()
    say(*broken)
    until("it is in quarantine", lambda: gpus()[held["index"]]["status"] == "quarantined")
    took_s = time.monotonic() - began
    print(f"a lost GPU was in quarantine after {took_s:.1f} s")
    assert took_s < QUARANTINED_WITHIN_S
    assert gpus()[held["index"]]["cause"] == "lost from the bus"
    shell.fetchmld("wait", task_id)
    task = shell.show(task_id)
    assert (task["status"], task["max_retries"]) == ("completed", 0), "it was not the task's fault"
    other = next(gpu["uuid"] for gpu in GOOD if gpu["uuid"] != held["uuid"])
    assert task["output"] == f"on {other}\n"

    say(*GOOD)
    until("it is used again", lambda: {gpu["status"] for gpu in gpus()} == {"free"})
    say(*({**gpu, "used_mb": 700, "processes": [4242]} for gpu in GOOD))
    left = shell.fetchmld("submit", "-q", "--gpu", "2", "--", "true").strip()
    shell.fetchmld("wait", left)
    log = next((shell.data_dir / "logs").glob("agent-*.log")).read_text()
    assert "GPU-a has 700 MB in use by 1 processes" in log
    until("that shows", lambda: {gpu["status"] for gpu in gpus()} == {"occupied"})
    assert shell.fetchmld("audit", "verify").startswith("valid")
