"""How one thing was, from the first moment to the last, and what its readers may have seen of it.

Whatever is read or acknowledged must be how the thing was at some moment, by the record: not before it was so on record,
and not older than what anybody had been told when the reading began. That is: a reader sees their own writes, nothing goes
back, and nothing is shown that the record does not have.
"""

from bisect import bisect_left, bisect_right
from collections.abc import Callable
from dataclasses import dataclass, field
from typing import Any, Final

from tests.fault.outside.ledger import Event

State = dict[str, Any]
ABSENT: Final[State] = {"status": "absent"}


@dataclass(slots=True)
class Timeline:
    """States in their order, each with the moment since when it is on record. The first is absence, since ever."""

    states: list[State] = field(default_factory=lambda: [ABSENT])
    since_us: list[int] = field(default_factory=lambda: [0])
    seqs: list[int] = field(default_factory=lambda: [-1])
    _told_us: list[int] = field(default_factory=list)  # when somebody had been told for sure ...
    _told: list[int] = field(default_factory=list)  # ... at least which state

    def add(self, event: Event, **changes: Any) -> None:
        self.states.append({**self.states[-1], **changes})
        self.since_us.append(event.at_us)
        self.seqs.append(event.seq)

    def index(self, seq: int) -> int:
        """Which state it was in with event `seq`."""
        return bisect_right(self.seqs, seq) - 1

    def first(self, fits: Callable[[State], bool], least: int, most: int | None = None) -> int | None:
        """The first state from `least` on that fits."""
        return next((n for n, state in enumerate(self.states[least:most], least) if fits(state)), None)

    def see(self, begun_us: int, ended_us: int, fits: Callable[[State], bool]) -> str:
        """Somebody was told something that `fits`, by an answer. Why it cannot have been; "" where it can.

        To be called in the order of `ended_us`.
        """
        told = bisect_left(self._told_us, begun_us)
        least = self._told[told - 1] if told else 0
        most = bisect_right(self.since_us, ended_us)
        index = self.first(fits, least, most)
        if index is None:
            return self._why_not(least, most, fits)
        self._told_us.append(ended_us)
        self._told.append(max(index, self._told[-1]) if self._told else index)
        return ""

    def _why_not(self, least: int, most: int, fits: Callable[[State], bool]) -> str:
        places = [n for n, state in enumerate(self.states) if fits(state)]
        if not places:
            return f"it never was so; then it was {self.states[least]}"
        if places[0] >= most:
            return f"it is so on record {self.since_us[places[0]]} us, later"
        return f"it was so until event {self.seqs[places[-1] + 1]}, and somebody had seen {self.states[least]} before"
