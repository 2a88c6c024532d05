"""One suite over both queues, and a random walk that compares every answer of the two."""

from collections.abc import Callable

import pytest
from hypothesis import settings
from hypothesis import strategies as st
from hypothesis.stateful import RuleBasedStateMachine, invariant, rule

from fetchmld._fastqueue import FastQueue
from fetchmld.core.ready import ANY_GPU_TYPE, NO_GPU, Queue, ReadyQueue, static_key

MakeQueue = Callable[[], Queue]


@pytest.fixture(params=[ReadyQueue, FastQueue], ids=["twin", "native"])
def queue(request: pytest.FixtureRequest) -> Queue:
    made: Queue = request.param()
    return made


def test_higher_key_starts_first_and_ties_go_by_submission(queue: Queue) -> None:
    one_core = queue.shape(1, 0, 0, 0, False)
    for task, key in [(3, 5.0), (1, 5.0), (2, 7.0)]:
        queue.push(task, one_core, key)
    queue.set_worker(0, 8, 0, 8, 0, [])
    assert queue.place(10) == [(2, 0, NO_GPU), (1, 0, NO_GPU), (3, 0, NO_GPU)]


def test_order_is_that_of_aged_priority_at_every_moment() -> None:
    tau = 600.0
    old_low, young_high = (1, 0.0), (5, 2400.0 - 1)
    for now in (2400.0, 10_000.0):
        aged = [p + (now - t) / tau for p, t in (old_low, young_high)]
        keys = [static_key(p, t, tau) for p, t in (old_low, young_high)]
        assert (aged[0] > aged[1]) == (keys[0] > keys[1])


def test_a_blocked_shape_lets_another_start(queue: Queue) -> None:
    big, small = queue.shape(8, 0, 0, 0, False), queue.shape(1, 0, 0, 0, False)
    queue.push(1, big, 9.0)
    queue.push(2, small, 1.0)
    queue.set_worker(0, 4, 0, 4, 0, [])
    assert queue.place(10) == [(2, 0, NO_GPU)]
    assert len(queue) == 1


def test_capacity_that_comes_back_is_used(queue: Queue) -> None:
    shape = queue.shape(2, 1, 0, 0, False)
    queue.push(1, shape, 0.0)
    queue.push(2, shape, 0.0)
    queue.set_worker(0, 2, 1, 2, 0, [])
    assert queue.place(10) == [(1, 0, NO_GPU)]
    assert queue.place(10) == []
    queue.release(0, shape, NO_GPU)
    assert queue.place(10) == [(2, 0, NO_GPU)]


def test_slots_of_the_two_kinds_do_not_mix(queue: Queue) -> None:
    batch, service = queue.shape(0, 0, 0, 0, False), queue.shape(0, 0, 0, 0, True)
    queue.push(1, batch, 1.0)
    queue.push(2, batch, 1.0)
    queue.push(3, service, 0.0)
    queue.set_worker(0, 8, 0, 1, 1, [])
    assert queue.place(10) == [(1, 0, NO_GPU), (3, 0, NO_GPU)]


def test_gpus_of_one_task_are_of_one_type(queue: Queue) -> None:
    any_two = queue.shape(1, 0, 2, ANY_GPU_TYPE, False)
    queue.push(1, any_two, 0.0)
    queue.set_worker(0, 8, 0, 8, 0, [(0, 1), (1, 1)])
    assert queue.place(1) == []
    queue.set_worker(1, 8, 0, 8, 0, [(1, 2)])
    assert queue.place(1) == [(1, 1, 1)]


def test_gpu_type_is_honoured(queue: Queue) -> None:
    second_type = queue.shape(1, 0, 1, 0b10, False)
    queue.push(1, second_type, 0.0)
    queue.set_worker(0, 8, 0, 8, 0, [(0, 4)])
    assert queue.place(1) == []
    queue.set_worker(1, 8, 0, 8, 0, [(1, 4)])
    assert queue.place(1) == [(1, 1, 1)]


def test_tightest_fit_keeps_whole_nodes_free(queue: Queue) -> None:
    cpu_only = queue.shape(2, 0, 0, 0, False)
    queue.set_worker(0, 64, 0, 64, 0, [(0, 8)])
    queue.set_worker(1, 16, 0, 16, 0, [])
    queue.set_worker(2, 4, 0, 4, 0, [])
    queue.push(1, cpu_only, 0.0)
    assert queue.place(1) == [(1, 2, NO_GPU)]


def test_removed_tasks_never_start(queue: Queue) -> None:
    shape = queue.shape(1, 0, 0, 0, False)
    for task in range(200):
        queue.push(task, shape, float(task))
    for task in range(1, 200):
        assert queue.remove(task)
    assert not queue.remove(7)
    queue.set_worker(0, 500, 0, 500, 0, [])
    assert queue.place(500) == [(0, 0, NO_GPU)]
    assert len(queue) == 0


def test_a_removed_task_may_come_back_with_another_key(queue: Queue) -> None:
    shape = queue.shape(1, 0, 0, 0, False)
    queue.push(1, shape, 9.0)
    queue.push(2, shape, 5.0)
    queue.remove(1)
    queue.push(1, shape, 1.0)
    queue.set_worker(0, 8, 0, 8, 0, [])
    assert [task for task, _, _ in queue.place(8)] == [2, 1]


def test_position_counts_those_ahead(queue: Queue) -> None:
    a, b = queue.shape(1, 0, 0, 0, False), queue.shape(2, 0, 0, 0, False)
    queue.push(1, a, 3.0)
    queue.push(2, b, 9.0)
    queue.push(3, a, 3.0)
    assert [queue.position(task) for task in (2, 1, 3, 4)] == [0, 1, 2, -1]


def test_a_dropped_worker_gets_nothing(queue: Queue) -> None:
    shape = queue.shape(1, 0, 0, 0, False)
    queue.set_worker(0, 8, 0, 8, 0, [])
    queue.drop_worker(0)
    queue.release(0, shape, NO_GPU)
    queue.push(1, shape, 0.0)
    assert queue.place(1) == []


def test_a_task_is_queued_once(queue: Queue) -> None:
    shape = queue.shape(1, 0, 0, 0, False)
    queue.push(1, shape, 0.0)
    with pytest.raises(ValueError, match="task 1 is in the queue already"):
        queue.push(1, shape, 1.0)


class Twins(RuleBasedStateMachine):
    """Everything that can be asked of a queue, asked of both."""

    def __init__(self) -> None:
        super().__init__()
        self.twin, self.native = ReadyQueue(), FastQueue()
        self.next_task = 0
        self.running: list[tuple[int, int, int]] = []  # (worker, shape, GPU type)
        self.shape_of: dict[int, int] = {}

    @rule(
        cpu=st.integers(0, 4),
        memory=st.integers(0, 4),
        gpu=st.integers(0, 3),
        types=st.sampled_from([ANY_GPU_TYPE, 0b01, 0b10, 0b11]),
        service=st.booleans(),
        key=st.sampled_from([0.0, 1.0, 2.5]),
    )
    def submit(self, cpu: int, memory: int, gpu: int, types: int, service: bool, key: float) -> None:
        shape = self.twin.shape(cpu, memory, gpu, types, service)
        assert shape == self.native.shape(cpu, memory, gpu, types, service)
        for queue in (self.twin, self.native):
            queue.push(self.next_task, shape, key)
        self.shape_of[self.next_task] = shape
        self.next_task += 1

    @rule(task=st.integers(0, 60))
    def cancel(self, task: int) -> None:
        assert self.twin.remove(task) == self.native.remove(task)

    @rule(
        worker=st.integers(0, 4),
        cpu=st.integers(0, 8),
        memory=st.integers(0, 8),
        slots=st.tuples(st.integers(0, 3), st.integers(0, 2)),
        gpus=st.lists(st.tuples(st.integers(0, 1), st.integers(0, 4)), max_size=2, unique_by=lambda pair: pair[0]),
    )
    def join(self, worker: int, cpu: int, memory: int, slots: tuple[int, int], gpus: list[tuple[int, int]]) -> None:
        self.running = [held for held in self.running if held[0] != worker]
        for queue in (self.twin, self.native):
            queue.set_worker(worker, cpu, memory, *slots, gpus)

    @rule(worker=st.integers(0, 4))
    def leave(self, worker: int) -> None:
        self.running = [held for held in self.running if held[0] != worker]
        for queue in (self.twin, self.native):
            queue.drop_worker(worker)

    @rule(limit=st.integers(1, 5))
    def place(self, limit: int) -> None:
        placed = self.twin.place(limit)
        assert placed == self.native.place(limit)
        self.running += [(worker, self.shape_of[task], gpu_type) for task, worker, gpu_type in placed]

    @rule(which=st.integers(0, 20))
    def end(self, which: int) -> None:
        if self.running:
            held = self.running.pop(which % len(self.running))
            for queue in (self.twin, self.native):
                queue.release(*held)

    @rule(task=st.integers(0, 60))
    def ask(self, task: int) -> None:
        assert self.twin.position(task) == self.native.position(task)

    @invariant()
    def same_length(self) -> None:
        assert len(self.twin) == len(self.native)


TestTwins = Twins.TestCase
TestTwins.settings = settings(max_examples=150, stateful_step_count=40, deadline=None)
