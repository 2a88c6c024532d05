"""Who may see which pages of Jupyter servers and plugins, and where those are now. What was found out counts for a moment.

Each page is dozens of requests, and each look costs the scheduler and a worker a message.
"""

import time
from typing import Final

from aiohttp import web

from fetchmld.api.access import ADMIN
from fetchmld.api.head import Caller, Head
from fetchmld.api.proxy import Proxy
from fetchmld.core.errors import NotFound, Unavailable
from fetchmld.core.lifecycle import ENDED
from fetchmld.core.model import TaskId
from fetchmld.upstream import Upstream

KEPT_S: Final = 2.0
KEPT_MAX: Final = 1_000


class Pages:
    """One per application."""

    def __init__(self, head: Head) -> None:
        self._head = head
        self._proxy = Proxy(head.reach)
        self._found: dict[str, tuple[float, str, Upstream]] = {}  # service -> until when, its user, where it is

    async def close(self, _app: web.Application) -> None:
        """An `on_cleanup` hook."""
        await self._proxy.close()

    async def of_service(self, caller: Caller, service_id: str) -> Upstream:
        """Where the server is. Raises NotFound for who has no business there, Unavailable while it does not answer."""
        known = self._found.get(service_id)
        if known is None or known[0] < time.monotonic():
            known = await self._look(caller, service_id)
        _, user_id, upstream = known
        if not _may_see(caller, user_id):
            raise no_such_service(service_id)
        return upstream

    async def _look(self, caller: Caller, service_id: str) -> tuple[float, str, Upstream]:
        """Whose it is comes first: that another's does not answer yet would tell that it is there."""
        self._found.pop(service_id, None)
        view = await self._head.task(TaskId(service_id)) if service_id.isascii() and len(service_id) <= 64 else None
        if view is None or "jupyter" not in view["request"] or view["status"] in ENDED:
            raise no_such_service(service_id)
        if not _may_see(caller, view["user_id"]):
            raise no_such_service(service_id)
        serving = (await self._head.serving([view])).get(view["id"])
        if serving is None or not serving.answers:
            raise Unavailable(f"service {service_id} does not answer yet; try again").passing(2)
        while len(self._found) >= KEPT_MAX:
            del self._found[next(iter(self._found))]
        known = self._found[service_id] = (time.monotonic() + KEPT_S, view["user_id"], serving.upstream)
        return known

    async def bring(self, request: web.Request, upstream: Upstream, prefix: str) -> web.StreamResponse:
        """See `Proxy.bring`. What was known of where it is does not outlive a failure."""
        try:
            return await self._proxy.bring(request, upstream, prefix)
        except Unavailable:
            self._found.pop(prefix.rpartition("/")[2], None)
            raise


def _may_see(caller: Caller, user_id: str) -> bool:
    return caller.user_id == user_id or caller.role == ADMIN


def no_such_service(service_id: str) -> NotFound:
    """The one answer for a service that is missing, gone, or another's."""
    return NotFound(f"there is no Jupyter service {service_id[:64]!r}")
