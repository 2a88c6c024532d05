"""Makes the journal durable beside the loop. Standard library only."""

import os
import threading

from fetchmld.runner.journal import Journal
from fetchmld.runner.spawning import leave_signals_to_main


class Syncer:
    """Makes the journal durable in a second thread, so that starts go on meanwhile; one sync covers all before it."""

    def __init__(self, journal: Journal) -> None:
        self._journal = journal
        self._asked = threading.Semaphore(0)
        self._error: OSError | None = None
        self.done_fd = os.eventfd(0, os.EFD_CLOEXEC | os.EFD_NONBLOCK)
        self.busy = False
        threading.Thread(target=self._run, name="sync", daemon=True).start()

    def ask(self) -> None:
        self.busy = True
        self._asked.release()

    def _run(self) -> None:
        leave_signals_to_main()
        while True:
            self._asked.acquire()
            try:
                self._journal.sync()
                self._error = None
            except OSError as error:
                self._error = error
            os.eventfd_write(self.done_fd, 1)

    def finish(self) -> OSError | None:
        """To be called when `done_fd` is readable: the sync is over; its error, if any."""
        os.eventfd_read(self.done_fd)
        self.busy = False
        return self._error
