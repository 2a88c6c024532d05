"""One suite over both queues, and a random walk that compares every answer of the two."""

import random
from math import inf

import pytest
from hypothesis import settings
from hypothesis import strategies as st
from hypothesis.stateful import RuleBasedStateMachine, initialize, invariant, rule

from fetchmld._fastqueue import FastQueue
from fetchmld.core.ready import (
    ANY_GPU_TYPE,
    KEEPS_MAX,
    NO_GPU,
    NO_TASK,
    Hold,
    Queue,
    ReadyQueue,
    make_queue,
    static_key,
)


@pytest.fixture(params=[ReadyQueue, FastQueue], ids=["twin", "native"])
def queue(request: pytest.FixtureRequest) -> Queue:
    made: Queue = request.param()
    return made


@pytest.fixture(params=[ReadyQueue, FastQueue], ids=["twin", "native"])
def two_plans(request: pytest.FixtureRequest) -> Queue:
    made: Queue = request.param(2)
    return made


def cores(queue: Queue, worker: int, cpu: int, pool: int = 0) -> None:
    """A worker with `cpu` cores free, as many batch slots, and nothing else."""
    queue.set_worker(worker, cpu, 0, cpu, 0, [], pool)


def cores_shape(queue: Queue, cpu: int, nodes: int = 1, limit_s: float = 0) -> int:
    return queue.shape(cpu, 0, 0, 0, False, nodes=nodes, limit_s=limit_s)


def spare_cores(worker: int, cpu: int) -> Hold:
    return (worker, cpu, 0, [], cpu, 0)


# -- the order


def test_higher_key_starts_first_and_ties_go_by_submission(queue: Queue) -> None:
    one_core = cores_shape(queue, 1)
    for task, key in [(3, 5.0), (1, 5.0), (2, 7.0)]:
        queue.push(task, one_core, key)
    cores(queue, 0, 8)
    assert queue.place(10, 0.0) == ([(2, [(0, NO_GPU)]), (1, [(0, NO_GPU)]), (3, [(0, NO_GPU)])], NO_TASK)


def test_order_is_that_of_aged_priority_at_every_moment() -> None:
    tau = 600.0
    old_low, young_high = (1, 0.0), (5, 2400.0 - 1)
    for now in (2400.0, 10_000.0):
        aged = [p + (now - t) / tau for p, t in (old_low, young_high)]
        keys = [static_key(p, t, tau) for p, t in (old_low, young_high)]
        assert (aged[0] > aged[1]) == (keys[0] > keys[1])


def test_no_more_start_than_asked_for(queue: Queue) -> None:
    shape = cores_shape(queue, 1)
    for task in range(5):
        queue.push(task, shape, 0.0)
    cores(queue, 0, 8)
    assert [task for task, _ in queue.place(3, 0.0)[0]] == [0, 1, 2]
    assert queue.place(0, 0.0) == ([], NO_TASK)
    assert len(queue) == 2


def test_position_counts_those_ahead(queue: Queue) -> None:
    a, b = cores_shape(queue, 1), cores_shape(queue, 2)
    queue.push(1, a, 3.0)
    queue.push(2, b, 9.0)
    queue.push(3, a, 3.0)
    assert [queue.position(task) for task in (2, 1, 3, 4)] == [0, 1, 2, -1]


# -- what fits


def test_capacity_that_comes_back_is_used(queue: Queue) -> None:
    shape = queue.shape(2, 1, 0, 0, False)
    queue.push(1, shape, 0.0)
    queue.push(2, shape, 0.0)
    queue.set_worker(0, 2, 1, 2, 0, [])
    assert queue.place(10, 0.0) == ([(1, [(0, NO_GPU)])], 2)
    assert queue.place(10, 0.0) == ([], 2)
    queue.release(0, shape, NO_GPU)
    assert queue.place(10, 0.0) == ([(2, [(0, NO_GPU)])], NO_TASK)


def test_slots_of_the_two_kinds_do_not_mix(queue: Queue) -> None:
    batch, service = queue.shape(0, 0, 0, 0, False), queue.shape(0, 0, 0, 0, True)
    queue.push(1, batch, 1.0)
    queue.push(2, service, 0.5)
    queue.push(3, batch, 0.0)
    queue.set_worker(0, 8, 0, 1, 1, [])
    assert queue.place(10, 0.0) == ([(1, [(0, NO_GPU)]), (2, [(0, NO_GPU)])], 3)


def test_gpus_of_one_task_are_of_one_type(queue: Queue) -> None:
    any_two = queue.shape(1, 0, 2, ANY_GPU_TYPE, False)
    queue.push(1, any_two, 0.0)
    queue.set_worker(0, 8, 0, 8, 0, [(0, 1), (1, 1)])
    assert queue.place(1, 0.0) == ([], 1)
    queue.set_worker(1, 8, 0, 8, 0, [(1, 2)])
    assert queue.place(1, 0.0) == ([(1, [(1, 1)])], NO_TASK)


def test_gpu_type_is_honoured(queue: Queue) -> None:
    second_type = queue.shape(1, 0, 1, 0b10, False)
    queue.push(1, second_type, 0.0)
    queue.set_worker(0, 8, 0, 8, 0, [(0, 4)])
    assert queue.place(1, 0.0) == ([], 1)
    queue.set_worker(1, 8, 0, 8, 0, [(1, 4)])
    assert queue.place(1, 0.0) == ([(1, [(1, 1)])], NO_TASK)


def test_of_the_types_with_enough_the_one_with_fewest_free_is_used(queue: Queue) -> None:
    either = queue.shape(1, 0, 2, 0b110, False)
    queue.set_worker(0, 8, 0, 8, 0, [(0, 2), (1, 4), (2, 3)])
    queue.push(1, either, 0.0)
    assert queue.place(1, 0.0) == ([(1, [(0, 2)])], NO_TASK)
    queue.push(2, queue.shape(1, 0, 1, ANY_GPU_TYPE, False), 0.0)
    assert queue.place(1, 0.0) == ([(2, [(0, 2)])], NO_TASK)


def test_a_gpu_type_beyond_the_mask_is_refused(queue: Queue) -> None:
    shape = cores_shape(queue, 1)
    with pytest.raises(ValueError, match=r"bit in 0\.\.63, not 64"):
        queue.set_worker(0, 1, 0, 1, 0, [(64, 1)])
    with pytest.raises(ValueError, match=r"bit in 0\.\.63, not 64"):
        queue.release(0, shape, 64)


def test_gpus_that_come_back_unannounced_are_used(queue: Queue) -> None:
    shape = queue.shape(1, 0, 1, 0b100000, False)
    queue.set_worker(0, 8, 0, 8, 0, [(7, 1)])
    queue.push(1, shape, 0.0)
    assert queue.place(1, 0.0) == ([], 1)
    queue.release(0, shape, 5)
    assert queue.place(1, 0.0) == ([(1, [(0, 5)])], NO_TASK)


# -- which worker


def test_tightest_fit_keeps_whole_nodes_free(queue: Queue) -> None:
    cpu_only = cores_shape(queue, 2)
    queue.set_worker(0, 64, 0, 64, 0, [(0, 8)])
    cores(queue, 1, 16)
    cores(queue, 2, 4)
    queue.push(1, cpu_only, 0.0)
    assert queue.place(1, 0.0) == ([(1, [(2, NO_GPU)])], NO_TASK)


def test_equal_workers_are_taken_by_number(queue: Queue) -> None:
    for worker in (7, 3, 5):
        cores(queue, worker, 4)
    queue.push(1, cores_shape(queue, 2, nodes=2), 0.0)
    assert queue.place(1, 0.0) == ([(1, [(3, NO_GPU), (5, NO_GPU)])], NO_TASK)


def test_equally_tight_workers_are_taken_by_number_whatever_else_they_have(queue: Queue) -> None:
    for worker, memory_gb in [(4, 1), (2, 64), (3, 8), (1, 0)]:
        queue.set_worker(worker, 4, memory_gb, 4, 0, [])
    queue.shape(1, 32, 0, 0, False)
    queue.push(1, queue.shape(1, 1, 0, 0, False, nodes=3), 0.0)
    assert queue.place(1, 0.0) == ([(1, [(2, NO_GPU), (3, NO_GPU), (4, NO_GPU)])], NO_TASK)


def test_what_a_task_prefers_comes_first_and_excluded_ones_never(queue: Queue) -> None:
    for worker, cpu in [(0, 2), (1, 4), (2, 8), (3, 16), (4, 1), (5, 3)]:
        cores(queue, worker, cpu)
    queue.rank_by({1: {2: 7, 3: 7, 4: 0, 5: 9, 0: 99, 8: 9, -1: 9, 1: -3}}.__getitem__)
    queue.push(1, queue.shape(1, 0, 0, 0, False, nodes=5, excluded=[0], near=True), 0.0)
    assert queue.place(1, 0.0) == ([(1, [(worker, NO_GPU) for worker in (5, 2, 3, 4, 1)])], NO_TASK)


def test_each_task_of_a_shape_has_its_own_preference_as_it_is_when_it_starts(queue: Queue) -> None:
    prefers: dict[int, dict[int, int]] = {task: {} for task in range(5)}
    queue.rank_by(prefers.__getitem__)
    for worker in range(3):
        cores(queue, worker, 4 + worker)
    near = queue.shape(1, 0, 0, 0, False, near=True)
    for task in range(4):
        queue.push(task, near, 0.0)
    prefers[1], prefers[3] = {2: 1}, {1: 1}
    assert queue.place(3, 0.0)[0] == [(0, [(0, NO_GPU)]), (1, [(2, NO_GPU)]), (2, [(0, NO_GPU)])]
    prefers[3] = {2: 1, 1: 2}
    assert queue.place(3, 0.0)[0] == [(3, [(1, NO_GPU)])]


def test_who_prefers_a_full_worker_starts_elsewhere_at_once(queue: Queue) -> None:
    queue.rank_by(lambda _task: {1: 1})
    cores(queue, 0, 2)
    cores(queue, 1, 0)
    queue.push(1, queue.shape(1, 0, 0, 0, False, near=True), 0.0)
    assert queue.place(1, 0.0) == ([(1, [(0, NO_GPU)])], NO_TASK)


def test_others_are_not_asked_what_they_prefer(queue: Queue) -> None:
    queue.rank_by(lambda _task: pytest.fail("asked"))
    cores(queue, 0, 2)
    queue.push(1, cores_shape(queue, 1), 0.0)
    assert queue.place(1, 0.0) == ([(1, [(0, NO_GPU)])], NO_TASK)


def test_a_shape_is_the_same_for_the_same_request_only(queue: Queue) -> None:
    plain = queue.shape(1, 2, 0, 7, False)
    assert plain == queue.shape(1, 2, 0, 0, False)
    assert queue.shape(1, 2, 0, 0, False, excluded=[3, 1]) == queue.shape(1, 2, 0, 0, False, excluded=(1, 3, 1))
    others = [
        queue.shape(1, 2, 0, 0, True),
        queue.shape(1, 2, 0, 0, False, nodes=2),
        queue.shape(1, 2, 0, 0, False, pool=1),
        queue.shape(1, 2, 0, 0, False, limit_s=64),
        queue.shape(1, 2, 0, 0, False, excluded=[1]),
        queue.shape(1, 2, 0, 0, False, near=True),
    ]
    assert len({plain, *others}) == 7


def test_distinct_requests_that_come_and_go_leave_nothing_behind(queue: Queue) -> None:
    """As many shapes and requests are kept as there were at once."""
    cores(queue, 0, 1)
    kept = queue.shape(1, 0, 0, 0, False)
    used = set()
    for n in range(1000):
        shape = queue.shape(2 + n, n, 0, 0, False, limit_s=n)
        used.add(shape)
        queue.push(n, shape, 0.0)
        assert queue.place(1, 0.0) == ([], n)
        assert queue.remove(n)
        queue.forget(shape)
    assert used == {kept + 1}


def test_a_forgotten_shape_is_made_anew(queue: Queue) -> None:
    shape = cores_shape(queue, 8)
    queue.push(1, shape, 0.0)
    with pytest.raises(ValueError, match=f"tasks of shape {shape} wait"):
        queue.forget(shape)
    cores(queue, 0, 4)
    queue.skip(1)
    queue.remove(1)
    queue.forget(shape)
    with pytest.raises(IndexError, match=f"no shape {shape}"):
        queue.push(2, shape, 0.0)
    with pytest.raises(IndexError, match=f"no shape {shape}"):
        queue.forget(shape)
    small = cores_shape(queue, 2)
    assert small == shape
    queue.push(2, small, 0.0)
    assert queue.place(5, 0.0) == ([(2, [(0, NO_GPU)])], NO_TASK)
    queue.release(0, small, NO_GPU)
    assert cores_shape(queue, 8) == shape + 1


def test_shapes_that_share_a_request_are_forgotten_apart(queue: Queue) -> None:
    first, second = cores_shape(queue, 2), cores_shape(queue, 2, nodes=2)
    queue.forget(first)
    cores(queue, 0, 2)
    cores(queue, 1, 3)
    queue.push(1, second, 0.0)
    assert queue.place(5, 0.0) == ([(1, [(0, NO_GPU), (1, NO_GPU)])], NO_TASK)


def test_a_worker_that_is_set_again_has_what_was_said_last(queue: Queue) -> None:
    cores(queue, 0, 8)
    cores(queue, 0, 1)
    queue.push(1, cores_shape(queue, 2), 0.0)
    assert queue.place(1, 0.0) == ([], 1)


def test_a_dropped_worker_gets_nothing(queue: Queue) -> None:
    shape = cores_shape(queue, 1)
    cores(queue, 0, 8)
    queue.drop_worker(0)
    queue.release(0, shape, NO_GPU)
    queue.drop_worker(5)
    queue.push(1, shape, 0.0)
    assert queue.place(1, 0.0) == ([], 1)


# -- gangs


def test_a_gang_gets_distinct_workers_or_none(queue: Queue) -> None:
    gang = cores_shape(queue, 2, nodes=2)
    cores(queue, 0, 8)
    queue.push(1, gang, 0.0)
    assert queue.place(1, 0.0) == ([], 1)
    cores(queue, 1, 2)
    assert queue.place(1, 0.0) == ([(1, [(1, NO_GPU), (0, NO_GPU)])], NO_TASK)


def test_each_node_of_a_gang_is_given_back_for_itself(queue: Queue) -> None:
    gang = cores_shape(queue, 2, nodes=2)
    cores(queue, 0, 2)
    cores(queue, 1, 2)
    queue.push(1, gang, 0.0)
    queue.push(2, gang, 0.0)
    assert queue.place(2, 0.0)[1] == 2
    queue.release(0, gang, NO_GPU)
    assert queue.place(2, 0.0) == ([], 2)
    queue.release(1, gang, NO_GPU)
    assert queue.place(2, 0.0) == ([(2, [(0, NO_GPU), (1, NO_GPU)])], NO_TASK)


def test_a_gang_of_no_nodes_is_refused(queue: Queue) -> None:
    with pytest.raises(ValueError, match="at least 1 node, not 0"):
        queue.shape(1, 0, 0, 0, False, nodes=0)


# -- pools


def test_capacity_of_a_pool_is_for_its_shapes_only(queue: Queue) -> None:
    common, reserved = queue.shape(1, 0, 0, 0, False), queue.shape(1, 0, 0, 0, False, pool=7)
    cores(queue, 0, 1, pool=7)
    queue.push(1, common, 1.0)
    assert queue.place(5, 0.0) == ([], 1)
    queue.skip(1)
    queue.push(2, reserved, 0.0)
    assert queue.place(5, 0.0) == ([(2, [(0, NO_GPU)])], NO_TASK)
    queue.release(0, reserved, NO_GPU)
    assert queue.place(5, 0.0) == ([], NO_TASK)


def test_a_worker_leaves_one_pool_or_all(queue: Queue) -> None:
    common, reserved = queue.shape(1, 0, 0, 0, False), queue.shape(1, 0, 0, 0, False, pool=7)
    cores(queue, 0, 2)
    cores(queue, 0, 2, pool=7)
    queue.drop_worker(0, 7)
    queue.push(1, reserved, 1.0)
    queue.push(2, common, 0.0)
    assert queue.place(5, 0.0) == ([], 1)
    queue.remove(1)
    assert queue.place(5, 0.0) == ([(2, [(0, NO_GPU)])], NO_TASK)
    queue.drop_worker(0)
    queue.push(3, common, 0.0)
    assert queue.place(5, 0.0) == ([], 3)


# -- blocked, planned, skipped


def test_the_first_that_does_not_fit_is_reported(queue: Queue) -> None:
    big, small = cores_shape(queue, 8), cores_shape(queue, 1)
    queue.push(1, big, 5.0)
    queue.push(2, small, 9.0)
    queue.push(3, small, 1.0)
    cores(queue, 0, 4)
    assert queue.place(10, 0.0) == ([(2, [(0, NO_GPU)])], 1)


def test_later_ones_use_what_the_plan_spares(queue: Queue) -> None:
    big, small = cores_shape(queue, 4), cores_shape(queue, 1)
    queue.push(1, big, 9.0)
    for task in (2, 3, 4):
        queue.push(task, small, 1.0)
    cores(queue, 0, 3)
    cores(queue, 1, 1)
    queue.plan(1, 100.0, [spare_cores(0, 1)])
    assert queue.planned() == [1]
    assert queue.place(10, 0.0) == ([(2, [(1, NO_GPU)]), (3, [(0, NO_GPU)])], NO_TASK)
    assert queue.place(10, 0.0) == ([], NO_TASK)


def test_who_ends_before_the_plan_may_use_all_of_it_and_spends_no_spare(queue: Queue) -> None:
    queue.push(1, cores_shape(queue, 4), 9.0)
    queue.push(2, cores_shape(queue, 2, limit_s=100), 2.0)
    queue.push(3, cores_shape(queue, 1), 1.0)
    cores(queue, 0, 3)
    queue.plan(1, 100.0, [spare_cores(0, 1)])
    assert queue.place(10, 0.0) == ([(2, [(0, NO_GPU)]), (3, [(0, NO_GPU)])], NO_TASK)


def test_time_runs_out_for_backfill(queue: Queue) -> None:
    queue.push(1, cores_shape(queue, 4), 9.0)
    queue.push(2, cores_shape(queue, 1, limit_s=100), 1.0)
    cores(queue, 0, 3)
    queue.plan(1, 100.0, [spare_cores(0, 0)])
    assert queue.place(10, 0.5) == ([], NO_TASK)
    assert queue.place(10, 0.0) == ([(2, [(0, NO_GPU)])], NO_TASK)


def test_a_plan_without_a_time_gathers_whatever_limits_say(queue: Queue) -> None:
    shape = cores_shape(queue, 1, limit_s=1)
    queue.push(1, cores_shape(queue, 4), 9.0)
    queue.push(2, shape, 1.0)
    cores(queue, 0, 3)
    queue.plan(1, inf, [spare_cores(0, 0)])
    assert queue.place(10, 0.0) == ([], NO_TASK)
    queue.release(0, shape, NO_GPU)
    assert queue.place(10, 0.0)[0] == [(1, [(0, NO_GPU)])]
    assert queue.planned() == []


def test_spare_counts_each_thing(queue: Queue) -> None:
    queue.push(1, queue.shape(9, 9, 0, 0, False), 9.0)
    queue.set_worker(0, 8, 8, 8, 8, [(0, 2), (1, 4)])
    refused = [
        queue.shape(3, 0, 0, 0, False),
        queue.shape(1, 3, 0, 0, False),
        queue.shape(1, 1, 3, ANY_GPU_TYPE, False),
        queue.shape(1, 1, 1, 0b01, False),
        queue.shape(1, 1, 0, 0, True),
    ]
    for task, shape in enumerate(refused, start=2):
        queue.push(task, shape, 1.0)
    queue.push(9, queue.shape(1, 1, 1, ANY_GPU_TYPE, False), 0.0)
    queue.plan(1, inf, [(0, 2, 2, [(0, 0), (1, 2)], 2, 0)])
    assert queue.place(10, 0.0) == ([(9, [(0, 1)])], NO_TASK)


def test_another_pool_is_not_bound_by_the_plan(queue: Queue) -> None:
    queue.push(1, cores_shape(queue, 4), 9.0)
    queue.push(2, queue.shape(1, 0, 0, 0, False, pool=3), 1.0)
    cores(queue, 0, 3)
    cores(queue, 0, 1, pool=3)
    queue.plan(1, inf, [spare_cores(0, 0)])
    assert queue.place(10, 0.0) == ([(2, [(0, NO_GPU)])], NO_TASK)
    assert queue.planned() == [1]


def test_who_comes_before_the_planned_one_is_not_bound_and_voids_the_plan(queue: Queue) -> None:
    small = cores_shape(queue, 1)
    queue.push(1, cores_shape(queue, 4), 5.0)
    cores(queue, 0, 3)
    cores(queue, 1, 1)
    queue.plan(1, inf, [spare_cores(0, 0)])
    queue.push(2, small, 9.0)
    assert queue.place(10, 0.0) == ([(2, [(1, NO_GPU)])], NO_TASK)
    assert queue.planned() == [1]
    queue.push(3, small, 9.0)
    assert queue.place(10, 0.0) == ([(3, [(0, NO_GPU)])], 1)
    assert queue.planned() == []


def test_what_the_plan_kept_from_a_shape_it_does_not_keep_from_an_earlier_task_of_it(queue: Queue) -> None:
    small = cores_shape(queue, 1)
    queue.push(1, cores_shape(queue, 4), 5.0)
    queue.push(2, small, 1.0)
    cores(queue, 0, 3)
    queue.plan(1, inf, [spare_cores(0, 0)])
    assert queue.place(10, 0.0) == ([], NO_TASK)
    queue.push(3, small, 9.0)
    assert queue.place(10, 0.0) == ([(3, [(0, NO_GPU)])], 1)


def test_who_comes_before_the_planned_one_is_reported(queue: Queue) -> None:
    queue.push(1, cores_shape(queue, 4), 5.0)
    cores(queue, 0, 3)
    queue.plan(1, inf, [spare_cores(0, 3)])
    queue.push(2, cores_shape(queue, 5), 9.0)
    queue.push(3, cores_shape(queue, 6), 1.0)
    assert queue.place(10, 0.0) == ([], 2)
    queue.plan(2, inf, [])
    assert queue.planned() == [2]
    assert queue.place(10, 0.0) == ([], NO_TASK)


def test_a_plan_ends_with_its_task_or_when_told(queue: Queue) -> None:
    queue.push(1, cores_shape(queue, 4), 5.0)
    queue.push(2, cores_shape(queue, 1), 1.0)
    cores(queue, 0, 1)
    queue.plan(1, inf, [spare_cores(0, 0)])
    queue.unplan()
    assert queue.place(10, 0.0) == ([], 1)
    queue.plan(1, inf, [spare_cores(0, 0)])
    queue.remove(1)
    assert queue.planned() == []
    assert queue.place(10, 0.0) == ([(2, [(0, NO_GPU)])], NO_TASK)


def test_a_hopeless_shape_is_walked_past_until_the_workers_change(queue: Queue) -> None:
    huge, small = cores_shape(queue, 64), cores_shape(queue, 1)
    queue.push(1, huge, 9.0)
    queue.push(2, small, 1.0)
    queue.push(3, small, 0.0)
    cores(queue, 0, 1)
    assert queue.place(10, 0.0) == ([], 1)
    queue.skip(1)
    assert queue.place(10, 0.0) == ([(2, [(0, NO_GPU)])], 3)
    queue.release(0, small, NO_GPU)
    assert queue.place(1, 0.0) == ([(3, [(0, NO_GPU)])], NO_TASK)
    cores(queue, 1, 2)
    assert queue.place(10, 0.0) == ([], 1)
    queue.skip(1)
    queue.drop_worker(1)
    assert queue.place(10, 0.0) == ([], 1)


def test_a_task_is_planned_or_hopeless_not_both(queue: Queue) -> None:
    huge = cores_shape(queue, 64)
    queue.push(1, huge, 9.0)
    queue.push(2, huge, 8.0)
    cores(queue, 0, 1)
    queue.plan(1, inf, [])
    queue.skip(2)
    assert queue.planned() == []
    queue.plan(1, inf, [])
    queue.unplan()
    assert queue.place(10, 0.0) == ([], 1)


def test_as_many_are_planned_as_the_queue_was_made_for(two_plans: Queue) -> None:
    queue = two_plans
    for task in range(1, 5):
        queue.push(task, cores_shape(queue, 4 + task), 9.0 - task)
    cores(queue, 0, 3)
    for task in (1, 2):
        assert queue.place(10, 0.0) == ([], task)
        queue.plan(task, inf, [])
    assert queue.place(10, 0.0) == ([], NO_TASK)
    queue.push(5, cores_shape(queue, 9), 9.0)
    assert queue.place(10, 0.0) == ([], 5)
    queue.plan(5, inf, [])
    assert queue.planned() == [5, 1], "the last in the order is dropped"
    queue.unplan(5)
    queue.unplan(4)
    assert queue.planned() == [1]


def test_who_comes_after_two_plans_keeps_to_both(two_plans: Queue) -> None:
    queue, types = two_plans, ANY_GPU_TYPE
    queue.push(1, queue.shape(9, 9, 0, 0, False), 9.0)
    queue.push(2, queue.shape(8, 8, 0, 0, False), 8.0)
    queue.set_worker(0, 4, 4, 4, 4, [(0, 4), (1, 4)])
    queue.plan(1, 100.0, [(0, 3, 1, [(0, 4), (1, 0)], 3, 0)])
    queue.plan(2, 50.0, [(0, 2, 3, [(0, 0), (1, 4)], 3, 0)])
    queue.push(3, queue.shape(3, 1, 0, 0, False), 7.0)
    queue.push(4, queue.shape(1, 2, 0, 0, False), 6.0)
    queue.push(5, queue.shape(1, 1, 1, types, False), 5.0)
    assert queue.place(10, 0.0) == ([], NO_TASK), "one spares too few cores, the other too little memory, or GPUs"
    queue.push(6, queue.shape(1, 1, 1, types, False, limit_s=64), 4.0)
    assert queue.place(10, 0.0) == ([(6, [(0, 1)])], NO_TASK), "over before the first plan's time, not the second's"
    queue.push(7, queue.shape(1, 0, 0, 0, False), 3.0)
    queue.push(8, queue.shape(1, 0, 0, 0, False), 3.0)
    assert queue.place(10, 0.0) == ([(7, [(0, NO_GPU)])], NO_TASK), "that was all that both spare"


def test_a_start_between_two_plans_voids_the_second_only(two_plans: Queue) -> None:
    queue = two_plans
    queue.push(1, cores_shape(queue, 8), 9.0)
    queue.push(2, cores_shape(queue, 7), 5.0)
    cores(queue, 0, 4)
    queue.plan(1, inf, [spare_cores(0, 3)])
    queue.plan(2, inf, [spare_cores(0, 3)])
    queue.push(3, cores_shape(queue, 1), 7.0)
    assert queue.place(10, 0.0) == ([(3, [(0, NO_GPU)])], 2)
    assert queue.planned() == [1]


def test_a_plan_may_hold_everything(queue: Queue) -> None:
    queue.push(1, cores_shape(queue, 4), 5.0)
    queue.push(2, cores_shape(queue, 1, limit_s=1), 1.0)
    cores(queue, 0, 3)
    queue.plan(1, inf, [], True)
    assert queue.place(10, 0.0) == ([], NO_TASK)
    queue.push(3, cores_shape(queue, 1), 9.0)
    assert queue.place(10, 0.0) == ([(3, [(0, NO_GPU)])], NO_TASK), "who is ahead starts"
    assert queue.planned() == [1]
    queue.push(4, queue.shape(1, 0, 0, 0, False, pool=3), 1.0)
    cores(queue, 0, 1, pool=3)
    assert queue.place(10, 0.0) == ([(4, [(0, NO_GPU)])], NO_TASK), "another pool is not concerned"
    cores(queue, 1, 4)
    assert [task for task, _ in queue.place(10, 0.0)[0]] == [1, 2]


def test_what_is_kept_is_for_those_that_are_over_by_then(queue: Queue) -> None:
    cores(queue, 0, 4)
    long, short = cores_shape(queue, 2), cores_shape(queue, 2, limit_s=8)
    queue.keep(7, 10.0, [spare_cores(0, 2)])
    for task, shape in [(0, long), (1, long), (2, short)]:
        queue.push(task, shape, 10.0 - task)
    assert queue.place(9, 1.0) == ([(0, [(0, NO_GPU)])], 1), "the first is bound, whatever its rank"
    queue.plan(1, inf, [])
    assert queue.place(9, 1.0) == ([(2, [(0, NO_GPU)])], NO_TASK), "it ends in time, so it spends no spare"
    queue.release(0, short, NO_GPU)
    assert queue.place(9, 3.0) == ([], NO_TASK)
    queue.unkeep(7)
    assert queue.place(9, 3.0) == ([(1, [(0, NO_GPU)])], NO_TASK)


def test_what_is_kept_by_several_names_is_kept_for_each(queue: Queue) -> None:
    cores(queue, 0, 4)
    shapes = [cores_shape(queue, 2, limit_s=limit_s) for limit_s in (0, 15, 5)]
    queue.keep(1, 10.0, [spare_cores(0, 2)])
    queue.keep(2, 20.0, [spare_cores(0, 0)])
    for task, shape in enumerate(shapes):
        queue.push(task, shape, 10.0 - task)
    assert queue.place(9, 0.0) == ([], 0)
    queue.remove(0)
    assert queue.place(9, 0.0) == ([(1, [(0, NO_GPU)]), (2, [(0, NO_GPU)])], NO_TASK)


def test_other_pools_are_not_kept_and_there_are_not_too_many_names(queue: Queue) -> None:
    cores(queue, 0, 2, pool=3)
    queue.keep(0, inf, [spare_cores(0, 0)])
    queue.push(1, queue.shape(2, 0, 0, 0, False, pool=3), 1.0)
    assert queue.place(9, 0.0)[0] == [(1, [(0, NO_GPU)])]
    for name in range(KEEPS_MAX):
        queue.keep(name, inf, [])
    with pytest.raises(ValueError, match="names at most"):
        queue.keep(KEEPS_MAX, inf, [])


def test_whether_anybody_could_pass(queue: Queue) -> None:
    big, small = cores_shape(queue, 4), cores_shape(queue, 1)
    queue.push(1, big, 9.0)
    queue.push(2, big, 8.0)
    cores(queue, 0, 3)
    assert queue.place(10, 0.0) == ([], 1)
    assert not queue.could_pass(1)
    queue.push(3, small, 1.0)
    assert queue.could_pass(1)
    assert not queue.could_pass(3)
    queue.plan(1, inf, [spare_cores(0, 0)])
    assert queue.place(10, 0.0) == ([], NO_TASK)
    assert queue.could_pass(1), "plans apart"
    queue.skip(3)
    assert not queue.could_pass(1)
    with pytest.raises(ValueError, match="task 7 is not in the queue"):
        queue.could_pass(7)


@pytest.mark.parametrize("count", [0, 17])
def test_no_queue_keeps_so_many_plans(count: int) -> None:
    for made in (ReadyQueue, FastQueue):
        with pytest.raises(ValueError, match=f"1 to 16 plans, not {count}"):
            made(count)


# -- in and out


def test_removed_tasks_never_start(queue: Queue) -> None:
    shape = cores_shape(queue, 1)
    for task in range(200):
        queue.push(task, shape, float(task))
    for task in range(1, 200):
        assert queue.remove(task)
    assert not queue.remove(7)
    cores(queue, 0, 500)
    assert queue.place(500, 0.0) == ([(0, [(0, NO_GPU)])], NO_TASK)
    assert len(queue) == 0


def test_positions_hold_in_a_long_line_that_is_thinned_out(queue: Queue) -> None:
    dice = random.Random(3)
    shapes = [cores_shape(queue, 1), cores_shape(queue, 2)]
    keys = {task: float(dice.randrange(50)) for task in range(3000)}
    for task in dice.sample(range(3000), 3000):
        queue.push(task, shapes[task % 2], keys[task])
    gone = dice.sample(range(3000), 2800)
    for left, task in enumerate(gone, start=1):
        assert queue.remove(task)
        del keys[task]
        if left % 400 == 0:
            order = sorted(keys, key=lambda task: (-keys[task], task))
            assert [queue.position(task) for task in order] == list(range(len(order)))
    cores(queue, 0, 500)
    order = sorted(keys, key=lambda task: (-keys[task], task))
    assert [task for task, _ in queue.place(500, 0.0)[0]] == order


def test_a_removed_task_may_come_back_with_another_key(queue: Queue) -> None:
    shape = cores_shape(queue, 1)
    queue.push(1, shape, 9.0)
    queue.push(2, shape, 5.0)
    queue.remove(1)
    queue.push(1, shape, 1.0)
    cores(queue, 0, 8)
    assert [task for task, _ in queue.place(8, 0.0)[0]] == [2, 1]


def test_tasks_that_come_and_go_as_they_were_start_once(queue: Queue) -> None:
    shape = cores_shape(queue, 1)
    for _ in range(5):
        for task in range(100):
            queue.push(task, shape, float(task % 7))
        for task in range(100):
            queue.remove(task)
    for task in range(100):
        queue.push(task, shape, float(task % 7))
    for task in range(0, 100, 2):
        queue.remove(task)
    cores(queue, 0, 500)
    assert sorted(task for task, _ in queue.place(500, 0.0)[0]) == list(range(1, 100, 2))


def test_a_task_that_is_in_twice_outlives_the_removed_ones_once(queue: Queue) -> None:
    shape = cores_shape(queue, 1)
    back, others = range(60), range(60, 100)
    for task in (*back, *others):
        queue.push(task, shape, 100.0 - task)
    for task in back[1:]:
        queue.remove(task)
    for task in back[1:]:
        queue.push(task, shape, 100.0 - task)
    for task in others:
        queue.remove(task)
    cores(queue, 0, 500)
    assert [task for task, _ in queue.place(500, 0.0)[0]] == list(back)
    assert len(queue) == 0


def test_what_makes_no_sense_is_refused(queue: Queue) -> None:
    shape = cores_shape(queue, 1)
    queue.push(1, shape, 0.0)
    with pytest.raises(ValueError, match="task 1 is in the queue already"):
        queue.push(1, shape, 1.0)
    with pytest.raises(ValueError, match="key of task 2 is not a number"):
        queue.push(2, shape, float("nan"))
    for wrong in (1, -1):
        with pytest.raises(IndexError, match=f"no shape {wrong}"):
            queue.push(2, wrong, 1.0)
        with pytest.raises(IndexError, match=f"no shape {wrong}"):
            queue.release(0, wrong, NO_GPU)
    with pytest.raises(ValueError, match="task 2 is not in the queue"):
        queue.plan(2, 0.0, [])
    with pytest.raises(ValueError, match="task 2 is not in the queue"):
        queue.skip(2)
    with pytest.raises(ValueError, match="number from 0 on, not -1"):
        cores(queue, -1, 1)
    queue.drop_worker(-1)
    queue.release(-1, shape, NO_GPU)
    assert len(queue) == 1


def test_the_native_queue_is_the_one_in_use() -> None:
    assert isinstance(make_queue(), FastQueue)


# -- both at once


counts = st.lists(st.tuples(st.integers(0, 2), st.integers(0, 4)), max_size=3, unique_by=lambda pair: pair[0])
workers = st.integers(0, 5)
some_workers = st.lists(workers, max_size=2)
pools = st.sampled_from([0, 0, 0, 1])
hold = st.tuples(workers, st.integers(0, 5), st.integers(0, 5), counts, st.integers(0, 3), st.integers(0, 2))


class Twins(RuleBasedStateMachine):
    """Everything that can be asked of a queue, asked of both."""

    def __init__(self) -> None:
        super().__init__()
        self.make(1)
        self.next_task = 0
        self.now = 0.0
        self.running: list[tuple[int, int, int]] = []  # (worker, shape, GPU type)
        self.shape_of: dict[int, int] = {}
        self.prefers: dict[int, int] = {}  # of every task that has a preference
        for queue in self.both:
            queue.rank_by(lambda task: self.prefers if task % 3 else {})

    @initialize(plans_max=st.sampled_from([1, 1, 2, 3]))
    def make(self, plans_max: int) -> None:
        self.twin, self.native = ReadyQueue(plans_max), FastQueue(plans_max)
        self.both: tuple[Queue, Queue] = (self.twin, self.native)

    @rule(
        asked=st.tuples(
            st.integers(0, 4),
            st.integers(0, 4),
            st.integers(0, 3),
            st.sampled_from([ANY_GPU_TYPE, 0b01, 0b10, 0b110]),
            st.booleans(),
        ),
        nodes=st.sampled_from([1, 1, 2, 3]),
        pool=pools,
        limit_s=st.sampled_from([0, 1, 4]),
        excluded=some_workers,
        near=st.booleans(),
        keys=st.lists(st.sampled_from([0.0, 1.0, 2.5, 4.0]), min_size=1, max_size=4),
    )
    def submit(
        self,
        asked: tuple[int, int, int, int, bool],
        nodes: int,
        pool: int,
        limit_s: float,
        excluded: list[int],
        near: bool,
        keys: list[float],
    ) -> None:
        shape, same = (queue.shape(*asked, nodes, pool, limit_s, excluded, near) for queue in self.both)
        assert shape == same
        for key in keys:
            for queue in self.both:
                queue.push(self.next_task, shape, key)
            self.shape_of[self.next_task] = shape
            self.next_task += 1

    @rule(prefers=st.dictionaries(st.integers(-1, 6), st.integers(-1, 3), max_size=4))
    def prefer(self, prefers: dict[int, int]) -> None:
        self.prefers = prefers

    @rule(which=st.integers(0, 80), key=st.sampled_from([0.0, 1.0, 2.5, 5.0]), again=st.booleans())
    def cancel_or_change(self, which: int, key: float, again: bool) -> None:
        was_in = self.twin.remove(which)
        assert was_in == self.native.remove(which)
        if was_in and again:
            for queue in self.both:
                queue.push(which, self.shape_of[which], key)

    @rule(
        worker=workers,
        cpu=st.integers(0, 8),
        memory=st.integers(0, 8),
        slots=st.tuples(st.integers(0, 4), st.integers(0, 2)),
        gpus=counts,
        pool=pools,
    )
    def join(
        self, worker: int, cpu: int, memory: int, slots: tuple[int, int], gpus: list[tuple[int, int]], pool: int
    ) -> None:
        for queue in self.both:
            queue.set_worker(worker, cpu, memory, *slots, gpus, pool)

    @rule(worker=workers, pool=st.sampled_from([-1, -1, 0, 1, 2]))
    def leave(self, worker: int, pool: int) -> None:
        for queue in self.both:
            queue.drop_worker(worker, pool)

    @rule(limit=st.integers(0, 6), step=st.sampled_from([0.0, 0.0, 1.0, 3.0, -2.0]))
    def place(self, limit: int, step: float) -> None:
        self.now += step
        self.placed(limit)

    @rule(limit=st.integers(3, 20), at=st.sampled_from([1.0, 4.0, inf]), holds=st.data())
    def place_and_plan(self, limit: int, at: float, holds: st.DataObject) -> None:
        """As the policy does: plan who is reported, until nobody is."""
        for _ in range(limit):
            blocked = self.placed(limit)
            if blocked == NO_TASK:
                return
            self.planned(blocked, self.now + at, holds.draw(st.lists(hold, max_size=3, unique_by=lambda h: h[0])))

    @rule(
        task=st.integers(0, 80),
        at=st.sampled_from([0.0, 2.0, 4.0, inf]),
        holds=st.data(),
        everything=st.sampled_from([False, False, False, True]),
    )
    def plan(self, task: int, at: float, holds: st.DataObject, everything: bool) -> None:
        if self.twin.position(task) >= 0:
            drawn = holds.draw(st.lists(hold, max_size=3, unique_by=lambda h: h[0]))
            self.planned(task, self.now + at, drawn, everything)

    @rule(task=st.integers(-1, 80))
    def unplan(self, task: int) -> None:
        for queue in self.both:
            queue.unplan(task)

    @rule(
        name=st.integers(1, 3),
        at=st.sampled_from([0.0, 2.0, 4.0, inf]),
        holds=st.lists(hold, max_size=3, unique_by=lambda h: h[0]),
    )
    def keep(self, name: int, at: float, holds: list[Hold]) -> None:
        for queue in self.both:
            queue.keep(name, self.now + at, holds)

    @rule(name=st.integers(1, 3))
    def unkeep(self, name: int) -> None:
        for queue in self.both:
            queue.unkeep(name)

    @rule(task=st.integers(0, 80))
    def skip(self, task: int) -> None:
        if self.twin.position(task) >= 0:
            for queue in self.both:
                queue.skip(task)

    @rule(which=st.lists(st.integers(0, 20), min_size=1, max_size=4))
    def end(self, which: list[int]) -> None:
        for one in which:
            if self.running:
                held = self.running.pop(one % len(self.running))
                for queue in self.both:
                    queue.release(*held)

    @rule(which=st.integers(0, 20))
    def forget(self, which: int) -> None:
        """As the policy does: only what no running task will give back by name."""
        if any(shape == which for _, shape, _ in self.running):
            return
        assert refusal(self.twin, which) == refusal(self.native, which)

    @rule(task=st.integers(0, 80))
    def ask(self, task: int) -> None:
        assert self.twin.position(task) == self.native.position(task)
        if self.twin.position(task) >= 0:
            assert self.twin.could_pass(task) == self.native.could_pass(task)

    @invariant()
    def same_length_and_plan(self) -> None:
        assert len(self.twin) == len(self.native)
        assert self.twin.planned() == self.native.planned()

    def placed(self, limit: int) -> int:
        placed, blocked = self.twin.place(limit, self.now)
        assert (placed, blocked) == self.native.place(limit, self.now)
        self.running += [
            (worker, self.shape_of[task], gpu_type) for task, nodes in placed for worker, gpu_type in nodes
        ]
        return blocked

    def planned(self, task: int, at: float, holds: list[Hold], everything: bool = False) -> None:
        for queue in self.both:
            queue.plan(task, at, holds, everything)


def refusal(queue: Queue, shape: int) -> str:
    """What `forget` says where it refuses, and nothing where it does not."""
    try:
        queue.forget(shape)
    except (ValueError, IndexError) as error:
        return repr(error)
    return ""


def test_the_twins_agree_on_many_shapes_and_workers() -> None:
    """More requests than a word has bits, and more kinds of free capacity than the index keeps for so few workers."""
    dice = random.Random(1)
    both: tuple[Queue, Queue] = (ReadyQueue(), FastQueue())
    for queue in both:
        queue.rank_by(lambda task: {worker: worker * task % 5 for worker in range(task % 7, 40, 3)})
    shape_of: list[int] = []
    running: list[tuple[int, int, int]] = []
    for turn in range(300):
        ask_both(dice, both, shape_of, turn < 150)
        for _ in range(10):
            worker, cpu, memory_gb = dice.randrange(30), dice.randrange(2000), dice.randrange(64)
            for queue in both:
                queue.set_worker(worker, cpu, memory_gb, 9, 0, [(turn % 5, 4), (7, turn % 9)])
        for _ in range(min(len(running), dice.randrange(6))):
            held = running.pop(dice.randrange(len(running)))
            for queue in both:
                queue.release(*held)
        placed, blocked = both[0].place(3, float(turn))
        assert (placed, blocked) == both[1].place(3, float(turn))
        running += [(worker, shape_of[task], gpu_type) for task, nodes in placed for worker, gpu_type in nodes]
        for queue in both if blocked != NO_TASK else ():
            queue.plan(blocked, turn + 9.0, [spare_cores(worker, 50) for worker in range(0, 30, 2)])
    assert max(shape_of) > 128
    assert len(both[0]) < len(shape_of) - 300


def ask_both(dice: random.Random, both: tuple[Queue, Queue], shape_of: list[int], is_new: bool) -> None:
    """Three tasks of any shapes, one of them new if so wished."""
    if is_new or not shape_of:
        asked = (dice.randrange(1000), dice.randrange(32), dice.choice([0, 0, 1, 2, 5]), ANY_GPU_TYPE, False)
        more = (dice.choice([1, 1, 1, 4]), 0, dice.choice([0, 8]), dice.sample(range(30), 2), dice.random() < 0.5)
        shape, same = (queue.shape(*asked, *more) for queue in both)
        assert shape == same
    else:
        shape = max(shape_of)
    for one in (shape, dice.randrange(shape + 1), dice.randrange(shape + 1)):
        key = dice.random()
        for queue in both:
            queue.push(len(shape_of), one, key)
        shape_of.append(one)


TestTwins = Twins.TestCase
TestTwins.settings = settings(max_examples=150, stateful_step_count=40, deadline=None)
