"""One thread's wait for descriptors and timers. Standard library only."""

import heapq
import select
import time
from collections.abc import Callable
from typing import Final

WAIT_MAX_S: Final = 60.0

Call = Callable[[], None]


def boottime() -> float:
    """The clock of leases and limits: it goes on while the machine sleeps, and nobody can set it."""
    return time.clock_gettime(time.CLOCK_BOOTTIME)


class Loop:
    """Calls handlers when their descriptor is readable, and timers when their moment has come."""

    def __init__(self) -> None:
        self._epoll = select.epoll()
        self._handlers: dict[int, Call] = {}
        self._timers: list[tuple[float, int, Call]] = []
        self._timer_count = 0

    def watch(self, fd: int, handler: Call) -> None:
        self._handlers[fd] = handler
        self._epoll.register(fd, select.EPOLLIN)

    def want_write(self, fd: int, wanted: bool) -> None:
        """Whether `fd`'s handler is to be called when it takes data again, too."""
        self._epoll.modify(fd, select.EPOLLIN | (select.EPOLLOUT if wanted else 0))

    def unwatch(self, fd: int) -> None:
        """Call before closing `fd`: an epoll set keeps a closed descriptor whose file lives on."""
        if self._handlers.pop(fd, None) is not None:
            self._epoll.unregister(fd)

    def at(self, when: float, call: Call) -> None:
        """Call `call` once, at boot time `when`."""
        self._timer_count += 1
        heapq.heappush(self._timers, (when, self._timer_count, call))

    def turn(self, wait: bool) -> None:
        """Call all that is due; without anything due and with `wait`, sleep until something is."""
        for fd, _ in self._epoll.poll(self._wait_s() if wait else 0.0):
            handler = self._handlers.get(fd)  # a handler called before it may have closed it
            if handler is not None:
                handler()
        now = boottime()
        while self._timers and self._timers[0][0] <= now:
            heapq.heappop(self._timers)[2]()

    def _wait_s(self) -> float:
        if not self._timers:
            return WAIT_MAX_S
        return min(WAIT_MAX_S, max(0.0, self._timers[0][0] - boottime()))

    def close(self) -> None:
        self._epoll.close()
