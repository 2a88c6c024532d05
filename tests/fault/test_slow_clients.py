"""`load/door/slow.py` beside a daemon of its own: who sends a byte now and then, and who does not read, holds nobody up.

Every change sees that all are answered; a release (`make chaos`) holds /health's p99 beside 2,000 of them under its bound.
"""

import re
import subprocess
import sys

import pytest

from tests.e2e.conftest import ROOT
from tests.fault.conftest import LONG, count

pytestmark = pytest.mark.e2e


def test_slow_clients_hold_nothing() -> None:
    sockets, requests = count(240, 2_000), count(100, 1_000)
    command = [sys.executable, str(ROOT / "load" / "door" / "slow.py")]
    ran = subprocess.run(
        [*command, "--sockets", str(sockets), "--requests", str(requests)], capture_output=True, text=True, check=False
    )
    print(ran.stdout)
    assert re.search(rf"beside {sockets}\d* slow clients +p50", ran.stdout), f"{ran.stdout}\n{ran.stderr}"
    if LONG:
        assert ran.returncode == 0, f"{ran.stdout}\n{ran.stderr}"
