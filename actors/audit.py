"""The audit actor: says whether the record is what was written.

It reads the segments with the verifier, has the history compare the index with them, and compares the chain's end with
the one that the scheduler knows; whoever asked puts the answer on record. It keeps the transparency log (`transparency`).
"""

import asyncio
import contextlib
import gc
import logging
import time
from dataclasses import asdict
from pathlib import Path
from typing import Any, Final

from actors.answers import Answers
from actors.background import in_background
from actors.pruner import Pruner
from actors.transparency import Transparency
from fetchmld.channel import Client, Server, serve
from fetchmld.config import Config
from fetchmld.core.errors import BadRequest, Unavailable
from fetchmld.core.messages import Fact
from fetchmld.store import boundary
from fetchmld.verify_checkpoints import read_log, verify_against
from fetchmld.verify_walk import SegmentResult

log = logging.getLogger(__name__)

VERIFY_TIMEOUT_S: Final = 600.0
REQUESTS_MAX: Final = 200


class AuditActor:
    """One per cluster. `settings`: the daemon's configuration as `Config.model_dump` wrote it, and `run_dir`."""

    def __init__(self, settings: dict[str, Any]) -> None:
        self._run_dir = Path(settings["run_dir"])
        config = Config.from_dump(settings)
        self._ledger_dir = config.paths.ledger_dir
        self._transparency = Transparency(self._ledger_dir, self._durable, self._put, config.audit_sinks)
        self._quiet = asyncio.Lock()  # held by whoever reads all of the record, or removes of it
        self._pruner = Pruner(self._ledger_dir, self._put, config.audit_retention_days, self._quiet)
        self._pruning: asyncio.Task[None] | None = None
        self._socket = self._run_dir / "audit.sock"
        self._scheduler = self._client("scheduler")
        self._history = self._client("history")
        self._answers = Answers(self._answer, REQUESTS_MAX)
        self._running: asyncio.Task[dict[str, Any]] | None = None
        self._next: asyncio.Task[dict[str, Any]] | None = None
        self._server: Server | None = None

    def _client(self, name: str) -> Client:
        path = self._run_dir / f"{name}.sock"

        async def resolve() -> Path:
            return path

        return Client(resolve)

    # -- life

    async def start(self) -> None:
        await self._scheduler.start()
        await self._history.start()
        await self._transparency.start()
        self._pruning = asyncio.create_task(self._pruner.run())
        self._server = await serve(self._socket, self._answers.on_messages)
        gc.collect()
        gc.freeze()  # what start-up made lives as long as we do

    async def ping(self) -> dict[str, Any]:
        return {"started": self._server is not None, "verifying": self._running is not None}

    async def address(self) -> str:
        return str(self._socket)

    async def shutdown(self) -> None:
        """Answer no more. A verification under way is dropped; it changes nothing."""
        server, self._server = self._server, None
        if server is None:
            return
        server.close()
        await self._answers.close()
        for task in (self._next, self._running, self._pruning):
            if task is not None:
                task.cancel()
                with contextlib.suppress(asyncio.CancelledError, Unavailable):
                    await task
        await self._transparency.close()
        await self._scheduler.close()
        await self._history.close()

    # -- answering

    async def _answer(self, kind: str, body: dict[str, Any]) -> Any:
        match kind:
            case "verify":
                return await self._verify()
            case "root":
                return await self._root()
            case "status":
                return {**self._transparency.status(), "first_seq": boundary.first_seq(self._ledger_dir)}
            case "prune":
                return await self._pruner.prune(body["before_us"], body["dry_run"], Fact(**body["fact"]))
            case "checkpoint":
                return await self._transparency.checkpoint()
            case "prove":
                return await self._transparency.prove(body["seq"], body["size"])
            case "consistency":
                return await self._transparency.prove_consistency(body["old"], body["new"])
            case "rotate":
                return await self._transparency.rotate(Fact(**body))
        raise BadRequest(f"the audit knows no request {kind!r}")

    async def _root(self) -> dict[str, Any]:
        durable = await self._durable()
        return {"root_hash": durable["root_hash"], "at_us": durable["at_us"], "total_events": durable["seq"] + 1}

    async def _put(self, fact: Fact) -> int:
        """Record a fact of the transparency log's own (a new signing key); its number."""
        seq: int = (await self._scheduler.request("fact", asdict(fact))).body
        return seq

    async def _durable(self) -> dict[str, Any]:
        """How far the record reaches, from its writer: everything up to there must be on the disk."""
        durable: dict[str, Any] = (await self._scheduler.request("durable")).body
        return durable

    async def _verify(self) -> dict[str, Any]:
        """The result of a verification that begins after this call.

        One runs at a time, and all who ask meanwhile share the next one, so that asking often costs nothing more.
        """
        if self._next is None:
            self._next = asyncio.create_task(self._verify_after(self._running))
            self._next.add_done_callback(_looked_at)
        return await asyncio.shield(self._next)

    async def _verify_after(self, running: asyncio.Task[dict[str, Any]] | None) -> dict[str, Any]:
        if running is not None:
            await asyncio.wait([running])
        self._running, self._next = self._next, None
        try:
            async with self._quiet:
                return await self._verify_now()
        finally:
            self._running = None

    async def _verify_now(self) -> dict[str, Any]:
        checkpoints = read_log(self._ledger_dir)  # before it is asked how far the ledger is: then none lies beyond
        durable = await self._durable()
        chain, index = await asyncio.gather(
            self._verify_chain(durable, checkpoints), self._check_index(durable["seq"]), return_exceptions=True
        )
        if isinstance(chain, BaseException):
            raise chain
        if isinstance(index, BaseException):
            if chain.valid:
                raise index
            index = {"valid": False, "first_bad": -1, "problem": f"not compared: {index}"}
        result = _result(chain, index)
        log.info("verified", extra={name: result[name] for name in ("valid", "total_events", "first_bad", "problem")})
        return result

    async def _verify_chain(self, durable: dict[str, Any], checkpoints: bytes | None) -> SegmentResult:
        outside = self._transparency.file_notes()
        try:
            chain = await in_background(
                "verify", verify_against, self._ledger_dir, durable["seq"], checkpoints, outside
            )
        except OSError as error:
            raise Unavailable(f"the ledger cannot be read: {error}; look at the disk") from error
        if chain.tiles_wrong:
            self._transparency.distrust()
        if chain.valid and chain.root_hash.hex() != durable["root_hash"]:
            newest = max(durable["seq"], 0)
            return SegmentResult(newest, newest, "it is not the event that the scheduler wrote", chain.root_hash)
        return chain

    async def _check_index(self, seq: int) -> dict[str, Any]:
        body: dict[str, Any] = (await self._history.request("check", {"min_seq": seq}, timeout_s=VERIFY_TIMEOUT_S)).body
        return body


def _looked_at(task: asyncio.Task[dict[str, Any]]) -> None:
    """Whoever asked may be gone by now; then nobody else looks at what went wrong."""
    if not task.cancelled() and task.exception() is not None:
        log.warning("verify_failed", extra={"why": str(task.exception())})


def _result(chain: SegmentResult, index: dict[str, Any]) -> dict[str, Any]:
    return {
        "valid": chain.valid and index["valid"],
        "total_events": chain.total_events,
        "first_seq": chain.first_seq,
        "first_bad": chain.first_bad,
        "problem": chain.problem or (f"index: {index['problem']}" if index["problem"] else ""),
        "root_hash": chain.root_hash.hex(),
        "index_valid": index["valid"],
        "index_first_bad": index["first_bad"],
        "verified_at": time.time(),
    }
