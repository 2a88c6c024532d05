"""The served document against a real daemon: what it says can be sent is taken, what it answers is what it says."""

import os
from pathlib import Path

import pytest

from tests.e2e.conftest import Shell
from tests.fuzz.against import SETTINGS, run

pytestmark = pytest.mark.e2e
LONG = int(os.environ.get("FETCHML_FUZZ", "0"))  # cases
CASES_MIN = LONG or 3_000
EXAMPLES = LONG // 50 or 12
BOUND_S = 420.0 if not LONG else 7200.0


@pytest.fixture
def shell(shell: Shell) -> Shell:
    shell.environment = dict(SETTINGS)
    return shell


def test_the_daemon_does_what_the_document_says(shell: Shell) -> None:
    shell.start()
    key = (shell.data_dir / "admin.key").read_text().strip()
    outcome = run(shell.daemon["url"], key, EXAMPLES, BOUND_S)
    assert (outcome.failures, outcome.cases >= CASES_MIN) == (0, True), outcome.said
    assert "healthy" in shell.fetchmld("status")
    errors = [line for log in Path(shell.data_dir, "logs").glob("*.log") for line in log.read_text().splitlines()]
    assert not [line for line in errors if '"ERROR"' in line]
