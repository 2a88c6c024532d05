"""The audit actor's transparency log: keeps the tree near the ledger's end, and the sinks near the tree's.

A loop asks the writer how far the ledger is durable, takes in what is new, signs one checkpoint of it and offers that to
the sinks. All work on the tree is done in one thread. It signs nothing that contradicts what was signed before, here or
in a file sink; then it stands still, says why, and looks again.
"""

import asyncio
import contextlib
import logging
import time
from collections.abc import Awaitable, Callable
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any, Final, TypeVar

from actors.sinks import kept_note, make_sink
from fetchmld.core.chain import event_hash
from fetchmld.core.errors import FetchmlError, Invalid, NotFound, Unavailable
from fetchmld.core.messages import Fact
from fetchmld.store.log_tree import ROTATE, Consistency, Inclusion, LogTree
from fetchmld.store.segment import LedgerDamaged
from fetchmld.verify_merkle import consistent, included, read_signed

log = logging.getLogger(__name__)

T = TypeVar("T")

LOOK_S: Final = 0.7  # between looks at the ledger; with the work that makes a checkpoint at most 1 s after a change
RETRY_S: Final = 5.0  # after something that a second look will hardly change
COVER_WAIT_MAX_S: Final = 10.0
STALE_S: Final = 10.0  # the tree is not near the ledger's end if it has not looked for so long

Durable = Callable[[], Awaitable[dict[str, Any]]]
PutFact = Callable[[Fact], Awaitable[int]]


class Transparency:
    """See the module. `durable` says how far the ledger reaches, `put` records a fact and gives its number."""

    def __init__(self, ledger_dir: Path, durable: Durable, put: PutFact, sinks: tuple[str, ...]) -> None:
        self._ledger_dir = ledger_dir
        self._durable = durable
        self._put = put
        self._sinks = [make_sink(url, ledger_dir) for url in sinks]
        self._thread = ThreadPoolExecutor(1, "tree")
        self._tree: LogTree | None = None
        self._compared = False  # with what the file sinks hold
        self._anew = False  # make the tiles anew
        self._problem = "it has not looked yet"
        self._looked_t = 0.0
        self._signed_size = 0
        self._waiting: list[tuple[int, asyncio.Future[None]]] = []
        self._tasks: list[asyncio.Task[None]] = []
        self._wake: asyncio.Event
        self._rotating: asyncio.Lock

    # -- life

    async def start(self) -> None:
        self._wake, self._rotating = asyncio.Event(), asyncio.Lock()
        self._tasks = [asyncio.create_task(sink.run()) for sink in self._sinks]
        self._tasks.append(asyncio.create_task(self._follow()))

    async def close(self) -> None:
        for task in self._tasks:
            task.cancel()
        await asyncio.gather(*self._tasks, return_exceptions=True)
        if self._tree is not None:
            await self._in_thread(self._tree.close)
        self._thread.shutdown()

    async def _in_thread(self, work: Callable[..., T], *arguments: Any) -> T:
        return await asyncio.get_running_loop().run_in_executor(self._thread, work, *arguments)

    # -- following

    async def _follow(self) -> None:
        while True:
            pause = LOOK_S
            try:
                await self._look()
                self._problem = ""
            except Unavailable as error:  # the writer is away for a moment
                self._problem = str(error)
            except (FetchmlError, LedgerDamaged, OSError, ValueError) as error:
                await self._stuck(str(error))
                pause = RETRY_S
            except Exception as error:
                log.exception("transparency_failed")
                await self._stuck(f"{type(error).__name__}: {error}")
                pause = RETRY_S
            self._wake.clear()
            with contextlib.suppress(TimeoutError):
                async with asyncio.timeout(pause):
                    await self._wake.wait()

    async def _stuck(self, problem: str) -> None:
        """Say it once, and begin again from what is on the disk."""
        if problem != self._problem:
            log.error("transparency_stuck", extra={"why": problem})
        self._problem = problem
        tree, self._tree = self._tree, None
        if tree is not None:
            await self._in_thread(tree.close)

    async def _look(self) -> None:
        if self._tree is None:
            self._tree = await self._in_thread(LogTree, self._ledger_dir, self._anew)
            self._anew = False
        tree, durable = self._tree, await self._durable()
        while not await self._in_thread(tree.advance, durable["seq"], bytes.fromhex(durable["root_hash"])):
            pass
        if not tree.has_key:
            await self._hand_over(tree, Fact("auth_attempt", ROTATE, "ledger", "fetchmld"))
            return
        await self._compare(tree)
        if tree.size > tree.signed_size or not tree.newest:
            await self._in_thread(tree.sign)
        if tree.newest:
            self._signed_size, self._looked_t = tree.signed_size, time.monotonic()
            self._offer(tree.newest)
            self._release()

    async def _compare(self, tree: LogTree) -> None:
        """Once in a life: does the ledger hold what the file sinks were given, before it was last stopped?"""
        if self._compared:
            return
        for sink in self._sinks:
            with contextlib.suppress(OSError):
                note = kept_note(sink.url)
                if note and not await self._in_thread(tree.agrees, note):
                    raise LedgerDamaged(
                        tree.size, f"{sink.url} holds a checkpoint that this ledger does not continue; verify it"
                    )
        self._compared = True

    def _offer(self, note: str) -> None:
        for sink in self._sinks:
            sink.offer(note)

    def _release(self) -> None:
        still = [(size, covered) for size, covered in self._waiting if size > self._signed_size]
        for size, covered in self._waiting:
            if size <= self._signed_size and not covered.done():
                covered.set_result(None)
        self._waiting = still

    async def _cover(self, size: int) -> LogTree:
        """The tree, once a checkpoint covers `size` events. Raises `Unavailable` when that takes too long."""
        if size > self._signed_size or self._tree is None:
            covered: asyncio.Future[None] = asyncio.get_running_loop().create_future()
            self._waiting.append((size, covered))
            self._wake.set()
            with contextlib.suppress(TimeoutError):
                async with asyncio.timeout(COVER_WAIT_MAX_S):
                    await covered
        if size > self._signed_size or self._tree is None:
            why = self._problem or f"the newest one covers {self._signed_size} events"
            raise Unavailable(f"there is no checkpoint of {size} events yet: {why}; try again")
        return self._tree

    # -- answering

    async def checkpoint(self) -> str:
        """The newest one, as a note."""
        return (await self._cover(1)).newest

    def file_notes(self) -> list[str]:
        """What the file sinks hold: checkpoints from outside. A sink that cannot be read says so by itself."""
        notes = []
        for sink in self._sinks:
            with contextlib.suppress(OSError, ValueError):
                if note := kept_note(sink.url):
                    read_signed(note)
                    notes.append(note)
        return notes

    def status(self) -> dict[str, Any]:
        """`anchored`: a sink outside has taken the newest checkpoint, and that one is near the ledger's end."""
        fresh = not self._problem and time.monotonic() - self._looked_t < STALE_S
        taken = [sink.accepted_at for sink in self._sinks if sink.anchors]
        said: dict[str, Any] = {
            "anchored": fresh and bool(taken),
            "checkpoint_size": self._signed_size,
            "sinks": [sink.status() for sink in self._sinks],
            "problem": self._problem,
        }
        return said | ({"anchored_at": max(taken)} if fresh and taken else {})

    async def prove(self, seq: int, size: int | None) -> dict[str, Any]:
        """That event `seq` is in the tree of `size` events; of the newest checkpoint where None."""
        if size is not None and size <= seq:
            raise NotFound(f"size {size}: a tree of so many events does not hold event {seq}")
        await self._check_recorded(seq if size is None else size - 1)
        tree = await self._cover(max(seq + 1, size or 0))
        wanted = tree.signed_size if size is None else size
        found: Inclusion = await self._proved(tree.prove, seq, wanted)
        root, _ = await self._roots(tree, wanted, wanted)
        if not included(found.leaf, seq, wanted, found.proof, root):
            await self._make_anew()
        return {
            "seq": seq,
            "record": found.record.hex(),
            "event_hash": event_hash(found.record).hex() if found.record else "",
            "leaf_hash": found.leaf.hex(),
            "size": found.size,
            "root": root.hex(),
            "proof": [node.hex() for node in found.proof],
            "note": found.note,
            "origin": tree.origin,
            "verifier_key": tree.verifier_key,
        }

    async def prove_consistency(self, old: int, new: int | None) -> dict[str, Any]:
        """That the tree of `new` events (the newest checkpoint's where None) begins with that of `old`."""
        await self._check_recorded(max(old, new or 0) - 1)
        tree = await self._cover(max(old, new or 0))
        wanted = tree.signed_size if new is None else new
        if wanted < old:
            raise Invalid(f"from={old} is more than to={wanted}")
        found: Consistency = await self._proved(tree.prove_consistency, old, wanted)
        if not consistent(old, wanted, found.old_root, found.new_root, found.proof):
            await self._make_anew()
        return {
            "old": old,
            "new": wanted,
            "old_root": found.old_root.hex(),
            "new_root": found.new_root.hex(),
            "proof": [node.hex() for node in found.proof],
            "old_note": found.old_note,
            "new_note": found.new_note,
            "origin": tree.origin,
            "verifier_key": tree.verifier_key,
        }

    async def _roots(self, tree: LogTree, old: int, new: int) -> tuple[bytes, bytes]:
        found = await self._proved(tree.prove_consistency, old, new)
        return found.old_root, found.new_root

    async def _check_recorded(self, seq: int) -> None:
        newest = (await self._durable())["seq"]
        if seq > newest:
            raise NotFound(f"there is no event {seq}; the newest is {newest}")

    async def _proved(self, work: Callable[..., Any], *arguments: Any) -> Any:
        try:
            return await self._in_thread(work, *arguments)
        except (OSError, ValueError, LedgerDamaged) as error:
            log.warning("tiles_damaged", extra={"why": str(error)})
            return await self._make_anew()

    async def _make_anew(self) -> Any:
        self.distrust()
        raise Unavailable("the tree's tiles are damaged and are being made anew; try again")

    def distrust(self) -> None:
        """Make the tiles anew from the segments."""
        log.warning("tiles_anew")
        self._anew, self._tree, self._signed_size = True, None, 0
        self._wake.set()

    # -- keys

    async def rotate(self, fact: Fact) -> dict[str, Any]:
        """Bring a new signing key into force, by a `key.rotate` of ours. The answer names it."""
        async with self._rotating:
            durable = await self._durable()
            tree = await self._cover(durable["seq"] + 1)
            seq = await self._hand_over(tree, fact)
            tree = await self._cover(seq + 1)
            return {"seq": seq, "verifier_key": tree.verifier_key, "note": tree.newest}

    async def _hand_over(self, tree: LogTree, fact: Fact) -> int:
        fact.metadata = {**fact.metadata, **await self._in_thread(tree.prepare_rotation)}
        return await self._put(fact)
