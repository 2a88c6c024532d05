"""What a Jupyter server's task is called, by the states that a task can be in."""

from typing import Any, cast

import pytest

from fetchmld.core.model import TaskView
from fetchmld.core.services import status_of


@pytest.mark.parametrize(
    ("fields", "answers", "status"),
    [
        ({"status": "queued"}, False, "starting"),
        ({"status": "preparing"}, False, "starting"),
        ({"status": "running"}, False, "starting"),
        ({"status": "running"}, True, "running"),
        ({"status": "running", "stopping": True}, True, "stopping"),
        ({"status": "preparing", "stopping": True}, False, "stopping"),
        ({"status": "collecting"}, True, "stopping"),
        ({"status": "completed"}, False, "stopped"),
        ({"status": "failed", "error": "CANCELLED: by ada"}, False, "stopped"),
        ({"status": "failed", "error": "CULLED: no activity"}, False, "stopped"),
        ({"status": "failed", "error": "TIME_LIMIT: 60 s"}, False, "stopped"),
        ({"status": "failed", "error": "ENVIRONMENT_FAILED: uv"}, False, "error"),
        ({"status": "failed", "error": "OOM_KILLED: 1 GB"}, False, "error"),
    ],
)
def test_states(fields: dict[str, Any], answers: bool, status: str) -> None:
    assert status_of(cast(TaskView, {"error": "", **fields}), answers) == status
