"""What every test shares."""

import gc

import pytest


def pytest_sessionfinish(session: pytest.Session) -> None:
    """Actors freeze what they made at their start, as long as they live; here they have ended, and it can go."""
    gc.unfreeze()
