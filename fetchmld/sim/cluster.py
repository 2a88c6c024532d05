"""One simulation: a head, its nodes, users and a seed's faults, from the first task until all is quiet again.

The same seed gives the same run, event for event. A broken rule is a `Broken` that says the seed and the moment.
"""

from collections import Counter
from collections.abc import Callable
from dataclasses import dataclass, replace
from random import Random
from typing import Final

from fetchmld.core.arrays import element_id, place_of
from fetchmld.core.model import Capacity
from fetchmld.core.scheduler import Policy
from fetchmld.sim import workload
from fetchmld.sim.faults import NONE, Boundaries, Faults, choose, rates
from fetchmld.sim.head import Head
from fetchmld.sim.invariants import Rules
from fetchmld.sim.network import Link
from fetchmld.sim.node import Node
from fetchmld.sim.timeline import Timeline
from fetchmld.sim.workload import Kept, Program, Work

LEASE_MARGIN_S: Final = 30.0  # as the agent's
CLIENT_RETRY_S: Final = 5.0
LOOK_S: Final = 10.0  # between two looks whether all is quiet


POLICY: Final = Policy(
    ageing_tau_s=60.0, suspect_after_s=12.0, offline_after_s=30.0, requeue_after_s=120.0, gpu_release_after_s=90.0
)


@dataclass(slots=True, frozen=True)
class Setting:
    """What a simulation is of. The times of a real cluster are scaled down together, so that a seed costs little."""

    nodes: int = 8
    tasks_per_hour: float = 500.0
    reservations_per_hour: float = 8.0
    wishes_per_hour: float = 60.0  # changes of priority, drains
    faults_s: float = 480.0  # how long tasks come and things go wrong
    settle_s: float = 2 * 3600.0  # how long all may take to end afterwards
    heartbeat_s: float = 5.0
    policy: Policy = POLICY
    unsatisfiable_share: float = 0.25  # of the seeds, in which what nobody could ever run is refused, not kept
    faults: Faults | None = None  # None: as the seed chooses
    die_at: int = 0  # the number of the boundary between two effects where a process dies; 0 = none


@dataclass(slots=True, frozen=True)
class Outcome:
    """What one seed did."""

    seed: int
    tasks: int
    events: int
    starts: int
    facts: int
    virtual_s: float
    faults: Faults


class Broken(AssertionError):
    """A rule did not hold. `seed` runs it again exactly."""

    def __init__(self, seed: int, at: float, rule: str, faults: Faults) -> None:
        super().__init__(seed, at, rule, faults)
        self.seed, self.at, self.rule, self.faults = seed, at, rule, faults

    def __str__(self) -> str:
        return f"seed {self.seed}, second {self.at:.3f}: {self.rule}"


class Cluster:
    """Everything of one simulation. Build it, then `run`."""

    def __init__(self, seed: int, setting: Setting) -> None:
        self.seed, self.setting = seed, setting
        rng = Random(seed)
        self.rng = rng
        self.timeline = Timeline()
        self.faults = choose(rng) if setting.faults is None else setting.faults
        fails = rng.random() < setting.unsatisfiable_share
        policy = replace(setting.policy, unsatisfiable="fail") if fails else setting.policy
        self.rules = Rules(policy)
        self.boundaries = Boundaries(rng, setting.die_at)
        self.head = Head(self.timeline, rng, policy, self.rules, self.boundaries)
        self.head.on_reply = self._on_reply
        self.kept = workload.reservations(rng, setting.reservations_per_hour, setting.faults_s)
        self.works = workload.tasks(rng, setting.tasks_per_hour, setting.faults_s, self.kept)
        self._programs = {work.task_id: work.program for work in self.works}
        self.nodes = [self._node(i, capacity) for i, capacity in enumerate(workload.capacities(rng, setting.nodes))]
        for node in self.nodes:
            node.drift = rng.uniform(-1, 1) * self.faults.drift
        self.rules.nodes = {node.name: node for node in self.nodes}
        self.rules.runners_die = self.faults.runner_crash_per_h > 0
        self._cuts: Counter[str] = Counter()  # partitions of a node
        self._waiting: dict[int, Callable[[bool], None]] = {}
        self._last_ticket = 0
        self._unquiet = 0  # client requests that are still to be answered

    def _node(self, number: int, capacity: Capacity) -> Node:
        link = Link(self.timeline, self.rng, self.head)
        setting = self.setting
        lease_s = setting.policy.requeue_after_s - LEASE_MARGIN_S
        return Node(
            f"n{number}",
            capacity,
            self.timeline,
            self.rng,
            link,
            self.boundaries,
            self._program_of,
            self.rules.started,
            setting.heartbeat_s,
            lease_s,
        )

    def _program_of(self, task_id: str) -> Program:
        """An element's is its array's, and runs longer or shorter by its place."""
        found, place = self._programs.get(task_id), place_of(task_id)
        if found is not None or place is None:
            return self._programs[task_id]
        program = self._programs[place[0]]
        return replace(program, run_s=program.run_s * (1 + place[1] % 3) / 2)

    # -- the whole of it

    def run(self) -> Outcome:
        """Raises `Broken` where a rule does not hold, or something that could start never ends."""
        try:
            self._set_faults(self.faults)
            self._schedule()
            self.timeline.run_until(self.setting.faults_s)
            self._stop_faults()
            self._settle()
        except Exception as error:  # whatever goes wrong in a simulation is told with its seed
            rule = str(error) if isinstance(error, AssertionError) and str(error) else repr(error)
            raise Broken(self.seed, self.timeline.now, rule, self.faults) from error
        return Outcome(
            self.seed,
            len(self.works),
            self.rules.events,
            self.rules.starts,
            len(self.head.ledger),
            self.timeline.now,
            self.faults,
        )

    def _schedule(self) -> None:
        for node in self.nodes:
            self.timeline.after(self.rng.random(), node.start_agent)
        for work in self.works:
            self.timeline.at(work.at, self._submit, work)
        for kept in self.kept:
            self.timeline.at(kept.at, self._reserve, kept)
        for name, per_hour in rates(self.faults).items():
            self._scatter(per_hour, INJECTIONS[name])
        for wish in WISHES:
            self._scatter(self.setting.wishes_per_hour / len(WISHES), wish)

    def _scatter(self, per_hour: float, what: Callable[["Cluster"], None]) -> None:
        at = 0.0
        while per_hour and (at := at + self.rng.expovariate(per_hour / 3600)) < self.setting.faults_s:
            self.timeline.at(at, what, self)

    def _set_faults(self, faults: Faults) -> None:
        self.head.faults = faults
        for node in self.nodes:
            node.faults = node.link.faults = faults

    def _stop_faults(self) -> None:
        self._set_faults(NONE)
        for node in self.nodes:
            node.link.up_cut = node.link.down_cut = False
            node.gpu_faults.clear()

    def _settle(self) -> None:
        """Nothing goes wrong any more: everything that can start must end."""
        end = self.timeline.now + self.setting.settle_s
        for node in self.nodes:
            self._insist("drain", {"worker_id": node.name, "wanted": False})
        left = ["everything"]
        while left and self.timeline.now < end:
            self.timeline.run_until(self.timeline.now + LOOK_S)
            left = self.rules.unended(self.head.core) if self.head.idle and not self._unquiet else ["client requests"]
        self.rules.check_all(self.head.core)
        assert not left, f"{len(left)} tasks never end: {left[:3]}"
        running = [process.key for node in self.nodes for process in node.runner.live.values()]
        assert not running, f"nobody knows of {running}, which run"

    # -- users

    def _ask(self, kind: str, body: dict[str, object], on_reply: Callable[[bool], None]) -> int:
        self._last_ticket += 1
        self._waiting[self._last_ticket] = on_reply
        self.head.request(kind, {**body, "ticket": self._last_ticket})
        return self._last_ticket

    def _on_reply(self, ticket: int, ok: bool) -> None:
        waiting = self._waiting.pop(ticket, None)
        if waiting is not None:
            waiting(ok)

    def _insist(self, kind: str, body: dict[str, object]) -> None:
        """Ask until there is an answer, whichever it is."""
        self._unquiet += 1
        self._ask_until(kind, body)

    def _ask_until(self, kind: str, body: dict[str, object]) -> None:
        ticket = self._ask(kind, body, lambda _ok: self._answered())
        self.timeline.after(CLIENT_RETRY_S, self._ask_again, ticket, kind, body)

    def _answered(self) -> None:
        self._unquiet -= 1

    def _ask_again(self, ticket: int, kind: str, body: dict[str, object]) -> None:
        if self._waiting.pop(ticket, None) is not None:
            self._ask_until(kind, body)

    def _reserve(self, kept: Kept) -> None:
        names = ("reservation_id", "user_id", "gpu_count", "gpu_type", "node_count", "duration_s", "starts_in_s")
        self._ask("reserve", {name: getattr(kept, name) for name in names}, lambda _ok: None)
        if kept.released_after_s:
            body: dict[str, object] = {"reservation_id": kept.reservation_id}
            self.timeline.after(kept.released_after_s, self._insist, "release", body)

    def change_priority(self) -> None:
        work = self.rng.choice(self.works)
        size = work.request["array"]["size"] if "array" in work.request else 0
        one = element_id(work.task_id, self.rng.randrange(size)) if size and self.rng.random() < 0.5 else work.task_id
        self._ask("priority", {"task_id": one, "priority": self.rng.randint(1, 10)}, lambda _ok: None)

    def drain(self) -> None:
        """Empty a node, or use it again."""
        body: dict[str, object] = {"worker_id": self.any_node().name, "wanted": self.rng.random() < 0.5}
        self._ask("drain", body, lambda _ok: None)

    def _submit(self, work: Work) -> None:
        body: dict[str, object] = {"task_id": work.task_id, "user_id": work.user_id, "request": work.request}
        self._ask("submit", body, lambda ok: self._accepted(work, ok))
        if work.cancel_after_s:
            about: dict[str, object] = {"task_id": work.task_id, "user_id": work.user_id}
            self._unquiet += 1
            self.timeline.after(work.cancel_after_s, self._ask_until, "cancel", about)

    def _accepted(self, work: Work, ok: bool) -> None:
        if ok:
            self.rules.accepted(work.task_id)

    # -- what goes wrong

    def any_node(self) -> Node:
        return self.rng.choice(self.nodes)

    def cut(self, *, up: bool, down: bool) -> None:
        """A partition of one node, for a while; short ones are more common than long ones."""
        node = self.any_node()
        node.link.up_cut |= up
        node.link.down_cut |= down
        self._cuts[node.name] += 1
        self.timeline.after(self.rng.lognormvariate(3.3, 1.5), self._heal, node)

    def _heal(self, node: Node) -> None:
        """The last of a node's partitions is over."""
        self._cuts[node.name] -= 1
        if not self._cuts[node.name]:
            node.link.up_cut = node.link.down_cut = False

    def lose_gpu(self) -> None:
        """A GPU fails, or one that failed is back; the agent sees it when it starts anew. Who uses it may die of it."""
        node = self.any_node()
        gpus = node.capacity.gpus
        if gpus and (gpus == node.full_capacity.gpus or self.rng.random() < 0.5):
            gone = self.rng.choice(gpus)
            if self.rng.random() < 0.7:
                node.break_gpu(gone.index)
            node.capacity = replace(node.capacity, gpus=tuple(gpu for gpu in gpus if gpu != gone))
        else:
            node.capacity = node.full_capacity
        node.crash_agent()

    def fail_gpu(self) -> None:
        """A GPU has a fault for a while. Who uses it may die of it, at once or when it is stopped."""
        node = self.any_node()
        if node.capacity.gpus:
            gpu = self.rng.choice(node.capacity.gpus)
            node.gpu_faults[gpu.uuid] = "xid 48"
            self.timeline.after(self.rng.lognormvariate(3.0, 1.5), lambda: node.gpu_faults.pop(gpu.uuid, None))
            if self.rng.random() < 0.5:
                node.break_gpu(gpu.index)

    def jump_wall(self) -> None:
        """Somebody sets a clock, by seconds or by days."""
        jump_s = self.rng.choice((-1, 1)) * 10 ** self.rng.uniform(0, 6)
        clocks: list[Head | Node] = [self.head, *self.nodes]
        self.rng.choice(clocks).wall_offset_s += jump_s


def _pause_agent(cluster: Cluster) -> None:
    cluster.any_node().pause(cluster.rng.lognormvariate(2.0, 1.2))


WISHES: Final[tuple[Callable[[Cluster], None], ...]] = (Cluster.change_priority, Cluster.drain)
INJECTIONS: Final[dict[str, Callable[[Cluster], None]]] = {
    "head_crash": lambda cluster: cluster.head.crash(machine=cluster.rng.random() < 0.3),
    "head_pause": lambda cluster: cluster.head.pause(cluster.rng.lognormvariate(1.5, 1.0)),
    "agent_crash": lambda cluster: cluster.any_node().crash_agent(),
    "agent_pause": _pause_agent,
    "runner_crash": lambda cluster: cluster.any_node().crash_runner(),
    "reboot": lambda cluster: cluster.any_node().reboot(cluster.rng.uniform(2.0, 60.0)),
    "gpu_loss": Cluster.lose_gpu,
    "gpu_fault": Cluster.fail_gpu,
    "partition": lambda cluster: cluster.cut(up=True, down=True),
    "one_way": lambda cluster: cluster.cut(up=(up := cluster.rng.random() < 0.5), down=not up),
    "wall_jump": Cluster.jump_wall,
}


def simulate(seed: int, setting: Setting | None = None) -> Outcome:
    """Run one seed. Raises `Broken` with the rule that did not hold."""
    return Cluster(seed, setting or Setting()).run()
