"""A Ray-native program beside FetchML: it gets what is lent and nothing else, also after Ray was started anew."""

import json
import os
import signal
import subprocess
import sys
from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any

import pytest

from tests.e2e.conftest import Shell, until

pytestmark = pytest.mark.e2e

NATIVE = """
import json, os, sys
about = json.load(open(sys.argv[1]))
os.environ.update(RAY_AUTH_MODE="token", RAY_AUTH_TOKEN_PATH=about["ray_token"])
import ray

ray.init(about["ray_address"], log_to_driver=False, logging_level="ERROR")

class Holder:
    def gpu(self):
        return os.environ["CUDA_VISIBLE_DEVICES"]

holders = [ray.remote(Holder).options(num_cpus=1, num_gpus=1).remote() for _ in range(2)]
calls = [holder.gpu.remote() for holder in holders]
ready, waiting = ray.wait(calls, num_returns=2, timeout=4)
print(json.dumps({"has": ray.get(ready), "waits": len(waiting)}), flush=True)
sys.stdin.read()
"""


@contextmanager
def native(shell: Shell) -> Iterator[dict[str, Any]]:
    """A program that wants two GPUs and two cores; what it got, for as long as it holds that."""
    command = [sys.executable, "-c", NATIVE, str(shell.data_dir / "daemon.json")]
    with subprocess.Popen(command, stdin=subprocess.PIPE, stdout=subprocess.PIPE, stderr=subprocess.DEVNULL) as program:
        assert program.stdin is not None
        assert program.stdout is not None
        try:
            yield json.loads(program.stdout.readline() or b"{}")
        finally:
            program.stdin.close()


def test_a_native_program_gets_what_is_lent(shell: Shell) -> None:
    shell.start("--num-gpus", "3", "--gpu-type", "X", "--ray-share", "cpu=2,gpu=1")
    said = shell.fetchmld("workers")
    assert "lent to Ray: 2 cores, GPU 2" in said
    with native(shell) as got:
        assert got == {"has": ["2"], "waits": 1}
        ours = shell.fetchmld(
            "submit", "--gpu", "2", "--cpu", "2", "--follow", "--", "sh", "-c", "echo $CUDA_VISIBLE_DEVICES"
        )
        assert "0,1" in ours.split()
        too_many = shell.fetchmld("submit", "-q", "--gpu", "3", "--", "true").strip()
        assert "has 2" in shell.fetchmld("why", too_many)
    os.kill(_raylet(shell), signal.SIGKILL)
    until("Ray is another one", lambda: shell.daemon["ray_address"] and _serves(shell))
    with native(shell) as got:
        assert got == {"has": ["2"], "waits": 1}
    assert "lent to Ray: 2 cores, GPU 2" in shell.fetchmld("workers")


def _raylet(shell: Shell) -> int:
    return next(pid for pid, line in shell.processes().items() if "/raylet/raylet" in line.split()[0])


def _serves(shell: Shell) -> bool:
    lines = shell.processes().values()
    return any("/raylet/raylet" in line.split()[0] for line in lines) and "active" in shell.fetchmld(
        "workers", code=None
    )
