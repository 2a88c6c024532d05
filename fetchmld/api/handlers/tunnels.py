"""Calls of machines that joined: a line to a program of theirs, which the head asked for."""

from typing import Final

from aiohttp import web

from fetchmld.api.bridge import bridge
from fetchmld.api.context import HEAD, STREAMS
from fetchmld.core.errors import BadRequest

PROTOCOL: Final = "fetchml-tunnel"


async def answer(request: web.Request) -> web.StreamResponse:
    """GET /v1/tunnels/{ticket}, with Upgrade: fetchml-tunnel."""
    if request.headers.get("Upgrade", "").lower() != PROTOCOL:
        raise BadRequest(f"this is for Upgrade: {PROTOCOL}")
    with request.app[STREAMS].one_more(request):
        end = request.app[HEAD].called(request.match_info["ticket"])
        return await bridge(request, {"Connection": "Upgrade", "Upgrade": PROTOCOL}, end)
