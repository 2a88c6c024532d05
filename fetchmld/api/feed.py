"""Changes of tasks and workers on their way to those who follow them: one source, any number of followers.

The hub listens to the head's changes for as long as somebody follows. Each change is encoded once per kind of reader and
handed to every follower of its scope as one piece per turn, so a thousand followers cost a thousand appends and not a
thousand encodings. A follower holds a bounded number of bytes; one that cannot keep up is told so (`resync`) and left.

Recorded changes carry their fact's sequence number, which a follower may come back with; phases in between (`preparing`,
`running`, `collecting`) are not recorded and have no number of their own.

What was missed comes from the record, each change with its task as it is now, which the feed may not have come to yet. So
that nothing is missed and no task goes back, the feed's changes of such a task are told as that shows it, until the feed
is there.
"""

import asyncio
import contextlib
import logging
from collections.abc import AsyncIterator, Iterable, Iterator
from dataclasses import dataclass, field
from itertools import chain
from typing import Any, Final, Literal, NamedTuple

import orjson

from fetchmld.api import wire
from fetchmld.api.head import Head
from fetchmld.core.errors import FetchmlError
from fetchmld.core.lifecycle import ENDED
from fetchmld.core.model import Change, Feed, TaskView

PENDING_BYTES_MAX: Final = 2**20  # per follower, before it counts as one that cannot keep up
RETRY_S: Final = 0.2

log = logging.getLogger(__name__)

Framing = Literal["sse", "ws"]


@dataclass(slots=True, frozen=True)
class Scope:
    """What a follower may know of and wants: one task or all, one user's or everybody's, and whether without secrets."""

    task_id: str = ""  # "" = every task
    user_id: str = ""  # "" = every user
    redacted: bool = False
    with_workers: bool = False  # and the workers and the queue

    def has(self, task: TaskView) -> bool:
        return self.task_id in ("", task["id"]) and self.user_id in ("", task["user_id"])


class Piece(NamedTuple):
    """One event: its number (0: none), its bytes, and what they were made of where that is a task's change."""

    seq: int
    data: bytes
    change: Change | None = None


class Batch:
    """What is told in one turn, shared by all it is told to, oldest first."""

    __slots__ = ("oldest", "pieces", "size", "writes")

    def __init__(self, pieces: list[Piece], framing: Framing) -> None:
        self.pieces = pieces
        self.oldest = next((piece.seq for piece in pieces if piece.seq), 0)
        events = [piece.data for piece in pieces]
        self.writes = [b"".join(events)] if framing == "sse" else events  # a WebSocket's message is one event
        self.size = sum(map(len, events))


@dataclass(slots=True, eq=False)
class Follower:
    """One stream's end of the hub, with what waits to be sent."""

    scope: Scope
    framing: Framing
    after: int  # recorded changes up to this number are not wanted
    shown: dict[str, TaskView] = field(default_factory=dict)  # tasks as they were told, which the feed has not come to
    pending: list[Batch] = field(default_factory=list)
    pending_bytes: int = 0
    is_over: bool = False  # nothing follows what is pending
    wake: asyncio.Event = field(default_factory=asyncio.Event)

    def give(self, batch: Batch, now_seq: int) -> None:
        """More to send; too much is a reason to send `resync` instead and end."""
        if self.is_over or (wanted := self._wanted(batch)) is None:
            return
        if self.shown and now_seq >= max(view["last_seq"] for view in self.shown.values()):
            self.shown = {}
        self.pending_bytes += wanted.size
        if self.pending_bytes > PENDING_BYTES_MAX:
            self.end(now_seq)
            return
        self.pending.append(wanted)
        self.wake.set()

    def _wanted(self, batch: Batch) -> Batch | None:
        """What is new to this one of a batch; None where nothing is."""
        if not self.shown and (not batch.oldest or batch.oldest > self.after):
            return batch
        news = [piece for piece in batch.pieces if not piece.seq or piece.seq > self.after]
        known = [told for piece in news if (told := self._as_shown(piece)) is not None]
        return Batch(known, self.framing) if known else None

    def _as_shown(self, piece: Piece) -> Piece | None:
        """A change of a task that was told as it was later: told like that. None for a phase, which is over then."""
        change = piece.change
        view = None if change is None else self.shown.get(change["task"]["id"])
        if change is None or view is None or change["task"]["last_seq"] >= view["last_seq"]:
            return piece
        if not change["seq"]:
            return None
        now = Change(seq=change["seq"], action=change["action"], task=view)
        return Piece(piece.seq, change_frame(self.framing, now, self.scope.redacted), now)

    def skip_to(self, seq: int) -> None:
        """What is told up to number `seq` is known otherwise."""
        self.after = max(self.after, seq)
        self._sift()

    def go_on_from(self, views: Iterable[TaskView]) -> None:
        """These tasks were told as they are here: none is to go back."""
        self.shown = {**self.shown, **{view["id"]: view for view in views if self.scope.has(view)}}
        self._sift()

    def _sift(self) -> None:
        kept = [self._wanted(batch) for batch in self.pending]
        self.pending = [batch for batch in kept if batch is not None]
        self.pending_bytes = sum(batch.size for batch in self.pending)

    def end(self, now_seq: int) -> None:
        """Send `resync` instead of what waits, and nothing after it: the client begins anew from `now_seq`."""
        self.pending, self.is_over = [Batch([Piece(0, frame(self.framing, "resync", {}, now_seq))], self.framing)], True
        self.wake.set()

    async def take(self, patience_s: float) -> list[bytes]:
        """What is to be sent next; nothing when nothing came for so long, or the stream is over."""
        if not self.pending and not self.is_over:
            with contextlib.suppress(TimeoutError):
                async with asyncio.timeout(patience_s):
                    await self.wake.wait()
        self.wake.clear()
        batches, self.pending, self.pending_bytes = self.pending, [], 0
        return [piece for batch in batches for piece in batch.writes]


def frame(framing: Framing, kind: str, data: dict[str, Any], seq: int = 0) -> bytes:
    """One event as bytes: an SSE block, or a WebSocket message's text. `seq` 0: one without a number."""
    body = orjson.dumps({"type": kind, **({"seq": seq} if seq else {}), **data})
    if framing == "ws":
        return body
    number = b"id: %d\n" % seq if seq else b""
    return b"%sevent: %s\ndata: %s\n\n" % (number, kind.encode(), body)


def change_frame(framing: Framing, change: Change, redacted: bool) -> bytes:
    """A task's change. `task_complete` is its end; everything else about it is a `task_update`."""
    task = change["task"]
    is_end = change["action"] in ("task.completed", "task.failed", "task.cancelled")
    kind = "task_complete" if is_end and task["status"] in ENDED else "task_update"
    action = {"action": change["action"]} if change["action"] else {}
    return frame(framing, kind, {**action, "task": wire.task(task, redacted=redacted, listed=True)}, change["seq"])


class Hub:
    """All followers of one head. Listens to the head only while there are some."""

    def __init__(self, head: Head) -> None:
        self._head = head
        self._followers: dict[tuple[Scope, Framing], set[Follower]] = {}
        self._seq = -1  # everything up to here has been handed on, or was before anybody followed
        self._listening: asyncio.Task[None] | None = None

    @contextlib.asynccontextmanager
    async def follow(self, scope: Scope, framing: Framing) -> AsyncIterator[Follower]:
        """A follower that gets every change after `follower.after`, from now on."""
        if self._listening is None:
            self._seq = await self._head.newest()
            if self._listening is None:  # another may have come first while we asked
                self._listening = asyncio.create_task(self._listen())
        follower = Follower(scope, framing, self._seq)
        self._followers.setdefault((scope, framing), set()).add(follower)
        try:
            yield follower
        finally:
            self._leave(follower)

    def _leave(self, follower: Follower) -> None:
        place = (follower.scope, follower.framing)
        self._followers[place].discard(follower)
        if not self._followers[place]:
            del self._followers[place]
        if not self._followers and self._listening is not None:
            self._listening.cancel()
            self._listening = None

    async def _listen(self) -> None:
        while True:
            try:
                async with contextlib.aclosing(self._head.changes()) as feeds:
                    async for feed in feeds:
                        await self._hand_on(feed)
            except FetchmlError as error:
                log.warning("feed.interrupted error=%s", error)
            except Exception:
                log.exception("feed.failed")
            await asyncio.sleep(RETRY_S)

    async def _hand_on(self, feed: Feed) -> None:
        """Give everybody their part; what was missed while the connection was away comes from the record first."""
        if feed["since"] > self._seq:
            missed = await self._head.changes_since(self._seq)
            if missed is None:
                self._resync()
            else:
                told = [change for change in missed if change["seq"] <= feed["since"]]
                self._spread(told, feed, with_state=False)
                for follower in self._all():
                    follower.go_on_from(change["task"] for change in told)
        fresh = [change for change in feed["tasks"] if not change["seq"] or change["seq"] > self._seq]
        self._seq = max(self._seq, feed["seq"])
        self._spread(fresh, feed, with_state=True)

    def _spread(self, changes: list[Change], feed: Feed, *, with_state: bool) -> None:
        encoded: dict[tuple[int, Framing, bool], bytes] = {}
        for (scope, framing), followers in self._followers.items():
            pieces = list(_encode(changes, scope, framing, encoded))
            if with_state and scope.with_workers:
                pieces += [Piece(0, data) for data in _state_frames(feed, framing)]
            if not pieces:
                continue
            batch = Batch(pieces, framing)
            for follower in followers:
                follower.give(batch, self._seq)

    def _resync(self) -> None:
        """Tell every follower to begin anew: nobody knows what they missed."""
        for follower in self._all():
            follower.end(self._seq)

    def _all(self) -> Iterator[Follower]:
        return chain.from_iterable(self._followers.values())


def _encode(
    changes: list[Change], scope: Scope, framing: Framing, encoded: dict[tuple[int, Framing, bool], bytes]
) -> Iterator[Piece]:
    """The scope's changes. `encoded` keeps what other scopes need as well."""
    for place, change in enumerate(changes):
        if not scope.has(change["task"]):
            continue
        key = (place, framing, scope.redacted)
        piece = encoded.get(key)
        if piece is None:
            piece = encoded[key] = change_frame(framing, change, scope.redacted)
        yield Piece(change["seq"], piece, change)


def _state_frames(feed: Feed, framing: Framing) -> Iterator[bytes]:
    for view in feed["workers"]:
        # Without the names of its tasks: they may be another user's.
        yield frame(framing, "worker_update", {"worker": wire.worker(view, [])})
    if feed["counts"] is not None:
        yield frame(framing, "queue_update", {"queue": dict(feed["counts"])})
