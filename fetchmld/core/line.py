"""What the scheduler says to an agent is heard once, in order, and on the newest line only.

Whatever carries our messages may lose, repeat or reorder them, or bring one of a line that was given up. So the agent
names each line when it says hello, by the boot time of that moment, which never comes twice; the scheduler marks each
message with that name and the next number; and the agent takes only the next number of its newest line. A number that is
left out was lost: then the line is given up, and the next hello tells both what is true.

From this follows that no launch order arrives behind the acknowledgement of its attempt's end. The agent may forget an
attempt once it is acknowledged, and keeps two numbers instead of every attempt it ever had.

A line begins with its hello: what was decided before the hello belongs to the line before. Orders that wait to be sent
when a hello comes (a batch is sent after it is durable) are dropped with `without_orders`: the answer to the hello says
again what is still true, and a machine that was restarted meanwhile must not start what it was given before.
"""

from collections.abc import Iterable
from dataclasses import dataclass
from typing import Literal

from fetchmld.core.messages import AcknowledgeEnd, DropStaging, Effect, Launch, StageDatasets, StopAttempt
from fetchmld.core.model import WorkerId

Mark = tuple[float, int]  # the line and the number, from 1, of one message; travels with it
Verdict = Literal["take", "drop", "broken"]


@dataclass(slots=True)
class Line:
    """The scheduler's end of a line. `boot_id` and `name` are what the agent's hello said."""

    boot_id: str
    name: float
    said: int = 0

    def mark(self) -> Mark:
        """The mark of the next message."""
        self.said += 1
        return self.name, self.said

    def is_before(self, boot_id: str, name: float) -> bool:
        """Whether this hello begins a newer line. One that does not was repeated or overtaken, and is to be ignored."""
        return boot_id != self.boot_id or name > self.name


@dataclass(slots=True)
class Hearing:
    """The agent's end of its newest line."""

    line: float = 0.0  # 0: none yet
    heard: int = 0

    def begin(self, line: float) -> None:
        """A new line is greeted under this name; whatever comes on another is of the past."""
        self.line, self.heard = line, 0

    def hear(self, line: float, number: int) -> Verdict:
        """Whether to take a message, drop it (heard before, or of a line that was given up), or give up the line."""
        if line != self.line or number <= self.heard:
            return "drop"
        if number > self.heard + 1:
            return "broken"
        self.heard = number
        return "take"


def without_orders(effects: Iterable[Effect], worker_id: WorkerId) -> list[Effect]:
    """`effects` without those that are for this worker's ears."""
    orders = (Launch, StopAttempt, StageDatasets, DropStaging, AcknowledgeEnd)
    return [effect for effect in effects if not (isinstance(effect, orders) and effect.worker_id == worker_id)]
