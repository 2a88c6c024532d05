"""What each batch changed, told by the scheduler to whoever watches. Costs nothing while nobody does."""

import asyncio
import contextlib
from collections.abc import AsyncGenerator, Iterable
from pathlib import Path
from typing import Any, Final, cast

from fetchmld.channel import Message, Peer
from fetchmld.core.messages import Effect, Fact, Persist, TaskChanged
from fetchmld.core.model import Change, Counts, Feed, TaskId, WorkerId
from fetchmld.core.scheduler import Scheduler

FEEDS_MAX: Final = 10_000  # that may wait for a reader; one that is further behind starts anew from the record


class Watchers:
    """Those who are told. `tell` after everything in the batch is durable."""

    def __init__(self) -> None:
        self._peers: set[Peer] = set()
        self._statuses: dict[WorkerId, str] = {}
        self._counts: Counts | None = None

    def add(self, peer: Peer) -> None:
        self._peers.add(peer)
        self._counts = None

    def discard(self, peer: Peer) -> None:
        self._peers.discard(peer)

    def tell(self, core: Scheduler, effects: Iterable[Effect], first_seq: int, *, ticked: bool) -> None:
        """The batch's facts are numbered from `first_seq` on. `ticked`: a second has passed, look at everything."""
        if not self._peers:
            return
        facts = [effect.fact for effect in effects if isinstance(effect, Persist)]
        phases = [effect.task_id for effect in effects if isinstance(effect, TaskChanged)]
        feed = Feed(
            since=first_seq - 1,
            seq=first_seq - 1 + len(facts),
            tasks=_task_changes(core, facts, phases, first_seq),
            workers=self._moved(core) if ticked or any(fact.action.startswith("worker.") for fact in facts) else [],
            counts=self._new_counts(core) if ticked else None,
        )
        if facts or feed["tasks"] or feed["workers"] or feed["counts"]:
            for peer in self._peers:
                peer.post("feed", feed)

    def _moved(self, core: Scheduler) -> list[Any]:
        """Workers that came, or whose status is not what it was."""
        old, self._statuses = self._statuses, {w.id: w.status for w in core.state.workers.values()}
        if not old:
            return []  # whoever begins to watch asks for all workers itself
        moved = {worker_id for worker_id, status in self._statuses.items() if old.get(worker_id) != status}
        return [view for view in core.worker_views() if view["id"] in moved] if moved else []

    def _new_counts(self, core: Scheduler) -> Counts | None:
        counts = core.counts()
        if counts == self._counts:
            return None
        self._counts = counts
        return counts


def _task_changes(core: Scheduler, facts: list[Fact], phases: list[TaskId], first_seq: int) -> list[Change]:
    """One for each fact about a task that is still known, then one for each task that only moved on to a new phase."""
    about = [(seq, fact) for seq, fact in enumerate(facts, first_seq) if fact.action.startswith("task.")]
    recorded = {fact.resource for _, fact in about}
    found = [(seq, fact.action, TaskId(fact.resource)) for seq, fact in about]
    found += [(0, "", task_id) for task_id in dict.fromkeys(phases) if task_id not in recorded]
    views = {task_id: core.view(task_id) for _, _, task_id in found}
    return [
        Change(seq=seq, action=action, task=view)
        for seq, action, task_id in found
        if (view := views[task_id]) is not None
    ]


async def watch(socket: Path) -> AsyncGenerator[Feed]:
    """Where it begins, and then every feed of the scheduler behind `socket`, until the connection ends.

    Raises OSError where the scheduler is away.
    """
    feeds: asyncio.Queue[Feed | None] = asyncio.Queue()

    def on_messages(peer: Peer, messages: list[Message]) -> None:
        if feeds.qsize() + len(messages) > FEEDS_MAX:
            peer.close()
            return
        for message in messages:
            feeds.put_nowait(cast(Feed, message.body))

    loop = asyncio.get_running_loop()
    _, peer = await loop.create_unix_connection(
        lambda: Peer(on_messages, lambda _peer: feeds.put_nowait(None)), str(socket)
    )
    with contextlib.closing(peer):
        seq = (await peer.request("watch")).body["seq"]
        yield Feed(since=seq, seq=seq, tasks=[], workers=[], counts=None)
        while (feed := await feeds.get()) is not None:
            yield feed
