"""How long the faults last: `FETCHML_CHAOS=1` (`make chaos`) takes the numbers of a release, else those of every change."""

import os

from tests.e2e.conftest import shell

__all__ = ["shell"]

LONG = bool(os.environ.get("FETCHML_CHAOS"))


def count(short: int, long: int) -> int:
    return long if LONG else short
