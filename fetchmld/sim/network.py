"""One node's connection to the head: in order and at most once, as a socket is, but for what the seed's faults do to it.

A lost message takes the rest of its connection with it; both ends notice that only later. What was sent before an agent
reconnected may still reach the other end after the new greeting, as data in a socket's buffer may, or in one of a
transport that repeats.
"""

from collections.abc import Callable
from random import Random
from typing import Any, Final, Protocol

from fetchmld.sim.faults import NONE, Faults
from fetchmld.sim.timeline import Timeline

DELAY_S: Final = 0.002
SLOW_S: Final = 2.0
NOTICE_S: Final = 20.0  # how long a dead connection may look alive

Body = dict[str, Any]


class HeadEnd(Protocol):
    """What the network needs of the head."""

    up: bool
    incarnation: int

    def receive(self, link: "Link", connection: int, kind: str, body: Body) -> None: ...

    def on_closed(self, link: "Link", connection: int) -> None: ...


class Link:
    """The path between one agent and the head. `connection` counts up; 0 is none yet."""

    def __init__(self, timeline: Timeline, rng: Random, head: HeadEnd) -> None:
        self._timeline, self._rng, self._head = timeline, rng, head
        self.faults: Faults = NONE
        self.up_cut = self.down_cut = False  # a partition, one way or both
        self.connection = 0
        self._incarnation = -1  # of the head that accepted it
        self._open = False
        self._broken = False  # loses all, not noticed yet
        self._latest = [0.0, 0.0]  # arrival of the newest message, up and down
        self.on_message: Callable[[str, Body], None] = lambda _kind, _body: None
        self.on_lost: Callable[[], None] = lambda: None

    @property
    def open(self) -> bool:
        return self._open

    def connect(self) -> bool:
        """Try to reach the head. False: nobody answers."""
        self._open = False
        if not self._head.up or self.up_cut or self.down_cut:
            return False
        self.connection += 1
        self._incarnation = self._head.incarnation
        self._open, self._broken = True, False
        return True

    def close(self) -> None:
        """Either end closes it: the agent notices at once, the head soon."""
        if self._open:
            self._open = False
            self._timeline.after(DELAY_S, self._head.on_closed, self, self.connection)
            self.on_lost()

    def hang_up(self, connection: int) -> None:
        """The head closes this connection; the agent hears of it, unless it has another by then."""
        if connection == self.connection:
            self._timeline.after(DELAY_S, self._noticed, connection)

    def _break(self) -> None:
        """Everything from now on is lost; it takes a while until anybody knows."""
        if not self._broken:
            self._broken = True
            self._timeline.after(self._rng.uniform(0.1, NOTICE_S), self._noticed, self.connection)

    def _noticed(self, connection: int) -> None:
        if connection == self.connection:
            self.close()

    # -- messages

    def send_up(self, kind: str, body: Body) -> None:
        if self._open:
            self._send(0, self.up_cut, self._arrive_up, kind, body)

    def send_down(self, connection: int, kind: str, body: Body) -> None:
        if self._open and connection == self.connection:
            self._send(1, self.down_cut, self._arrive_down, kind, body)

    def _send(self, way: int, cut: bool, arrive: Callable[..., None], kind: str, body: Body) -> None:
        faults, rng = self.faults, self._rng
        duplicate_p = faults.duplicate_down_p if way else faults.duplicate_up_p
        reorder_p = faults.reorder_down_p if way else faults.reorder_up_p
        if cut or (faults.lose_p and rng.random() < faults.lose_p):
            self._break()
        if self._broken:
            return
        token = (self.connection, self._incarnation)
        when = max(self._latest[way], self._timeline.now + self._delay())
        if reorder_p and rng.random() < reorder_p:
            when = self._timeline.now + rng.random() * SLOW_S
        else:
            self._latest[way] = when
        self._timeline.at(when, arrive, token, kind, body)
        if duplicate_p and rng.random() < duplicate_p:
            self._timeline.at(when + rng.random() * SLOW_S, arrive, token, kind, body)

    def _delay(self) -> float:
        slow_p = self.faults.slow_p
        return DELAY_S if not slow_p or self._rng.random() >= slow_p else self._rng.random() * SLOW_S

    def _arrive_up(self, token: tuple[int, int], kind: str, body: Body) -> None:
        if self._head.up and token[1] == self._head.incarnation:
            self._head.receive(self, token[0], kind, body)

    def _arrive_down(self, _token: tuple[int, int], kind: str, body: Body) -> None:
        if self._open:
            self.on_message(kind, body)
