"""Makes the journal durable, beside the loop where that takes long. Standard library only."""

import math
import os
import threading
import time
from typing import Final

from fetchmld.runner.journal import Journal
from fetchmld.runner.spawning import leave_signals_to_main

QUICK_S: Final = 0.001


class Syncer:
    """One sync covers all before it. A second thread waits for the disk, so that starts go on meanwhile. With little to do
    a quick disk is waited for here: the way to the thread and back takes as long.
    """

    def __init__(self, journal: Journal) -> None:
        self._journal = journal
        self._asked = threading.Semaphore(0)
        self._error: OSError | None = None
        self._took_s = math.inf
        self.done_fd = os.eventfd(0, os.EFD_CLOEXEC | os.EFD_NONBLOCK)
        self.busy = False
        threading.Thread(target=self._run, name="sync", daemon=True).start()

    def ask(self, may_wait: bool) -> bool:
        """Begin a sync; whether it is over already. If not, `done_fd` will be readable."""
        if may_wait and self._took_s < QUICK_S:
            self._sync()
            return True
        self.busy = True
        self._asked.release()
        return False

    def _run(self) -> None:
        leave_signals_to_main()
        while True:
            self._asked.acquire()
            self._sync()
            os.eventfd_write(self.done_fd, 1)

    def _sync(self) -> None:
        begun = time.monotonic()
        try:
            self._journal.sync()
            self._error = None
        except OSError as error:
            self._error = error
        self._took_s = time.monotonic() - begun

    def finish(self) -> OSError | None:
        """To be called when the sync is over; its error, if any."""
        if self.busy:
            os.eventfd_read(self.done_fd)
            self.busy = False
        return self._error
