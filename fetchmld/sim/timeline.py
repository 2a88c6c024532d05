"""The virtual clock: what happens when, in an order that only the seed decides."""

import heapq
from collections.abc import Callable
from typing import Any


class Timeline:
    """Calls functions at their moments; two of the same moment in the order in which they were asked for."""

    def __init__(self) -> None:
        self.now = 0.0
        self._count = 0
        self._heap: list[tuple[float, int, Callable[..., Any], tuple[Any, ...]]] = []

    def at(self, when: float, call: Callable[..., Any], *arguments: Any) -> None:
        """Call `call` at `when`, or next of all if that is over."""
        self._count += 1
        heapq.heappush(self._heap, (when if when > self.now else self.now, self._count, call, arguments))

    def after(self, delay_s: float, call: Callable[..., Any], *arguments: Any) -> None:
        self._count += 1
        heapq.heappush(self._heap, (self.now + delay_s, self._count, call, arguments))

    def run_until(self, end: float) -> None:
        """Let everything happen that happens before `end`."""
        heap = self._heap
        while heap and heap[0][0] < end:
            self.now, _, call, arguments = heapq.heappop(heap)
            call(*arguments)
        self.now = end
