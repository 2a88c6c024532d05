"""What is said on a line is heard once, in order, or the line is given up."""

from typing import Any

from hypothesis import given
from hypothesis import strategies as st

from fetchmld.core.line import Hearing, Line, without_orders
from fetchmld.core.messages import AcknowledgeEnd, Launch, StopAttempt, TaskChanged
from fetchmld.core.model import TaskId, WorkerId


def hearing(line: float = 5.0, *numbers: int) -> Hearing:
    found = Hearing()
    found.begin(line)
    for number in numbers:
        assert found.hear(line, number) == "take"
    return found


def test_messages_are_taken_in_order() -> None:
    line = Line("boot", 5.0)
    marks = [line.mark() for _ in range(3)]
    assert marks == [(5.0, 1), (5.0, 2), (5.0, 3)]
    found = hearing()
    assert [found.hear(*mark) for mark in marks] == ["take", "take", "take"]


def test_what_was_heard_before_is_dropped() -> None:
    found = hearing(5.0, 1, 2)
    assert [found.hear(5.0, 1), found.hear(5.0, 2), found.hear(5.0, 3)] == ["drop", "drop", "take"]


def test_a_gap_breaks_the_line() -> None:
    found = hearing(5.0, 1)
    assert found.hear(5.0, 3) == "broken"
    assert found.hear(5.0, 2) == "take"  # what follows the last one is still in order


def test_another_line_says_nothing_to_us() -> None:
    found = hearing(5.0, 1)
    found.begin(7.0)
    assert [found.hear(5.0, 2), found.hear(7.0, 1)] == ["drop", "take"]
    assert Hearing().hear(5.0, 1) == "drop"


def test_a_hello_that_was_repeated_or_overtaken_is_not_newer() -> None:
    line = Line("boot", 5.0)
    assert line.is_before("boot", 6.0)
    assert not line.is_before("boot", 5.0)
    assert not line.is_before("boot", 4.0)
    assert line.is_before("other boot", 1.0)  # the boot clock begins again


@given(st.lists(st.integers(1, 8), max_size=40))
def test_whatever_arrives_is_taken_as_it_was_said(arriving: list[int]) -> None:
    found = hearing()
    taken = [number for number in arriving if found.hear(5.0, number) == "take"]
    assert taken == list(range(1, len(taken) + 1))


def test_what_was_decided_before_a_hello_is_not_said_on_its_line() -> None:
    """Seed 710935: a task was placed on a machine in the same batch as the hello of its next life."""
    order: Any = {}
    launch, other = Launch(WorkerId("w"), order), Launch(WorkerId("v"), order)
    stop, end = (
        StopAttempt(WorkerId("w"), TaskId("t"), 1, "CANCELLED", ""),
        AcknowledgeEnd(WorkerId("w"), TaskId("t"), 1),
    )
    told = TaskChanged(TaskId("t"))
    assert without_orders([launch, other, stop, told, end], WorkerId("w")) == [other, told]
