"""How the head reaches programs that serve pages, Jupyter servers and sidecars, on its own machine and on joined ones.

On its own machine it connects. A machine that joined opens no port for this: the head asks its agent to call, and the agent
connects to the head's API (`GET /v1/tunnels/{ticket}`, with the key of the machines) and to the program, and passes bytes.
"""

import asyncio
import secrets
import socket
from collections.abc import Awaitable, Callable, Sequence
from typing import Any, Final

from fetchmld.channel import Client
from fetchmld.core.errors import FetchmlError, NotFound, Unavailable
from fetchmld.core.model import TaskView
from fetchmld.endpoint import NotReached, connect
from fetchmld.upstream import Serving, Upstream

LOOK_MAX_S: Final = 3.0  # a list of servers does not wait longer for a machine that says nothing
CALL_MAX_S: Final = 10.0
CALLS_MAX: Final = 1_000  # that are waited for


class Ways:
    """One per head. `agent_of` gives the line to a worker's agent."""

    def __init__(self, own_worker_id: str, agent_of: Callable[[str], Awaitable[Client]]) -> None:
        self._own_worker_id = own_worker_id
        self._agent_of = agent_of
        self._calls: dict[str, asyncio.Future[socket.socket]] = {}  # by ticket

    # -- what serves

    async def serving(self, tasks: Sequence[TaskView]) -> dict[str, Serving]:
        """By task, what its worker knows of it, of those that run."""
        by_worker: dict[str, list[TaskView]] = {}
        for task in tasks:
            if task["assignments"] and task["status"] in ("running", "collecting"):
                by_worker.setdefault(task["assignments"][0]["worker_id"], []).append(task)
        found = await asyncio.gather(*(self._ask(worker_id, asked) for worker_id, asked in by_worker.items()))
        return {task_id: serving for part in found for task_id, serving in part.items()}

    async def _ask(self, worker_id: str, tasks: list[TaskView]) -> dict[str, Serving]:
        keys = [(task["id"], task["attempt"]) for task in tasks]
        try:
            agent = await self._agent_of(worker_id)
            looks = (await agent.request("served", {"attempts": keys}, timeout_s=LOOK_MAX_S)).body
        except FetchmlError:
            return {}  # it is away for the moment
        return {
            task["id"]: _serving(worker_id, look) for task, look in zip(tasks, looks, strict=True) if look is not None
        }

    # -- reaching it

    async def reach(self, upstream: Upstream) -> socket.socket:
        """A connection to it. Raises Unavailable."""
        if upstream.worker_id in ("", self._own_worker_id):
            try:
                return await connect(upstream.endpoint, upstream.uid)
            except NotReached as error:
                raise Unavailable(f"it does not answer now: {error}; try again").passing(2) from None
        return await self._be_called(upstream)

    async def _be_called(self, upstream: Upstream) -> socket.socket:
        if len(self._calls) >= CALLS_MAX:
            raise Unavailable("too many connections to other machines are being made; try again").passing(2)
        ticket = secrets.token_urlsafe(24)
        call = self._calls[ticket] = asyncio.get_running_loop().create_future()
        try:
            async with asyncio.timeout(CALL_MAX_S):
                agent = await self._agent_of(upstream.worker_id)
                await agent.request("dial", {"ticket": ticket, "endpoint": upstream.endpoint}, timeout_s=CALL_MAX_S)
                sock: socket.socket = await call
                return sock
        except TimeoutError:
            raise Unavailable(f"worker {upstream.worker_id} did not call within {CALL_MAX_S:g} s").passing(2) from None
        except BaseException:
            if call.done() and not call.cancelled():  # it called, and its line is not wanted any more
                call.result().close()
            raise
        finally:
            del self._calls[ticket]

    def called(self, ticket: str) -> socket.socket:
        """A machine calls: the end of its line that is to be served. Raises NotFound where nobody waits for it."""
        call = self._calls.get(ticket)
        if call is None or call.done():
            raise NotFound("nobody waits for this call")
        ours, theirs = socket.socketpair()
        ours.setblocking(False)
        theirs.setblocking(False)
        call.set_result(ours)
        return theirs


def _serving(worker_id: str, look: dict[str, Any]) -> Serving:
    headers = {"Authorization": f"token {look['token']}"}
    upstream = Upstream(look["endpoint"], worker_id, look["uid"], True, headers)
    return Serving(upstream, look["token"], look["ready"], look["last_activity_at"])
