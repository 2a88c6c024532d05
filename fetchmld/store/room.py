"""A full disk is a pause, not our fault."""

import contextlib
import errno
from collections.abc import Iterator
from typing import Final

from fetchmld.core.errors import Unavailable

FULL: Final = frozenset({errno.ENOSPC, errno.EDQUOT})
RETRY_AFTER_S: Final = 5


@contextlib.contextmanager
def room() -> Iterator[None]:
    """Raises `Unavailable` where the disk is full."""
    try:
        yield
    except OSError as error:
        if error.errno in FULL:
            raise Unavailable("the disk of the head is full; make room and try again").passing(RETRY_AFTER_S) from None
        raise
