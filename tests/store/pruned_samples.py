"""A record of a small life that was long enough for its beginning to be pruned."""

from collections.abc import Callable
from contextlib import closing
from pathlib import Path

from fetchmld.core.messages import Fact
from fetchmld.core.state import State
from fetchmld.store import pruning
from fetchmld.store.ledger import Ledger
from fetchmld.store.log_tree import LogTree
from fetchmld.store.notes import new_genesis
from fetchmld.store.tail import Tail
from tests.core.driver import Driver
from tests.store import task_facts

SEGMENT_BYTES = 2**16
LONG_LIVED = "long"


def policy(digest: str, first_seq: int, at_us: int) -> Fact:
    metadata = {"pruned": digest, "first_seq": first_seq}
    return Fact("plugin_configured", "audit.policy", "ledger", "admin", metadata=metadata, at_us=at_us)


class Life:
    """Writes a ledger in `directory`: tasks come and go, one stays, the key is rotated, a checkpoint after each day."""

    def __init__(self, directory: Path) -> None:
        self.directory = directory
        directory.mkdir(parents=True, exist_ok=True)
        self.driver = Driver()
        self.driver.now = task_facts.START_US / 1e6
        self.written = 0
        self.ledger = self.open()
        self.tree = LogTree(directory)
        self.driver.join()
        self.driver.submit(LONG_LIVED)
        self.array = self.driver.submit("many", array={"size": 40, "max_parallel": 1})
        self.write(task_facts.experiment("e1", "first", self.driver.at_us))

    def open(self) -> Ledger:
        genesis = new_genesis(self.directory)
        return Ledger.open(self.directory, segment_bytes=SEGMENT_BYTES, genesis=genesis)

    def write(self, *more: Fact) -> None:
        """What the driver has decided since, and `more`."""
        fresh, self.written = self.driver.record[self.written :], len(self.driver.record)
        if facts := [*fresh, *more]:
            self.ledger.append(facts)

    def days(self, count: int, tasks: int = 30) -> None:
        for _ in range(count):
            for number in range(tasks):
                task = self.driver.submit(args="x" * (number * 37 % 190))
                self.write(task_facts.login("eve", number % 2 == 0, self.driver.at_us))
                self.driver.cancel(task)
                self.driver.now += 86_400 / tasks
                self.write()
            self.sign()

    def finish_elements(self, count: int) -> None:
        """So many elements of the array end, each on the worker that runs them one at a time."""
        for _ in range(count):
            running = next(t for t in self.driver.core.state.tasks.values() if t.array_id and t.status == "preparing")
            self.driver.end(running.id, exit_code=0)
            self.write()

    def sign(self) -> str:
        while not self.tree.advance(self.ledger.next_seq - 1, self.ledger.root_hash):
            pass
        return self.tree.sign()

    def rotate(self) -> None:
        fact = Fact("auth_attempt", "key.rotate", "ledger", "admin", at_us=self.driver.at_us)
        fact.metadata = dict(self.tree.prepare_rotation())
        self.write(fact)
        self.sign()

    def prune(self, before_days: float = 0.0, commit: Callable[[Path, str], object] = pruning.commit) -> int:
        """Prune all that is older; the first event that is left. The ledger is open meanwhile, as it is in a daemon."""
        before_us = self.driver.at_us - int(before_days * 86_400e6)
        found = pruning.plan(self.directory, before_us)
        assert found is not None
        digest = pruning.prepare(self.directory, found.first_seq)
        self.write(policy(digest, found.first_seq, self.driver.at_us))
        self.sign()
        commit(self.directory, digest)
        return found.first_seq

    def close(self) -> None:
        self.tree.close()
        self.ledger.close()

    def again(self) -> None:
        """As a restart does."""
        self.close()
        self.ledger, self.tree = self.open(), LogTree(self.directory)


def folded(directory: Path, first: int, state: State) -> State:
    """`state` with all events from `first` on."""
    with closing(Tail(directory, first)) as tail:
        for event in tail.read(None, 10**6):
            state.apply(event.fact)
    return state
