"""Health, liveness, readiness and the served document: what is open to everybody."""

import asyncio
import time
from typing import Final

from aiohttp import web

from fetchmld import __version__
from fetchmld.api import wire
from fetchmld.api.answers import JSON_TYPE, reply
from fetchmld.api.context import DOCUMENT, HEAD, METER, STREAMS
from fetchmld.api.meter import CONTENT_TYPE
from fetchmld.core.errors import FetchmlError, Unavailable

PROBE_S_MAX: Final = 2.0


async def health(request: web.Request) -> web.Response:
    """Healthy with everything there; unhealthy without the scheduler; degraded in between. Always 200."""
    missing = await _missing(request)
    status = "healthy" if not missing else "unhealthy" if "scheduler" in missing else "degraded"
    out = {"status": status, "version": __version__, "timestamp": wire.instant(time.time())}
    return reply({**out, "missing": missing} if missing else out)


async def livez(_request: web.Request) -> web.Response:
    """The process answers."""
    return reply({"status": "alive"})


async def readyz(request: web.Request) -> web.Response:
    """Everything is there that a task needs; else 503 saying what is missing."""
    if missing := await _missing(request):
        raise Unavailable(f"not ready yet; missing: {', '.join(missing)}")
    return reply({"status": "ready"})


async def openapi(request: web.Request) -> web.Response:
    """The document of this API."""
    return web.Response(body=request.app[DOCUMENT], content_type=JSON_TYPE)


async def metrics(request: web.Request) -> web.Response:
    """GET /metrics, for Prometheus."""
    head = request.app[HEAD]
    counts, measures, newest = await head.counts(), await head.measures(), await head.newest()
    text = request.app[METER].text(counts, measures, newest, request.app[STREAMS].count)
    return web.Response(body=text, headers={"Content-Type": CONTENT_TYPE})


async def _missing(request: web.Request) -> list[str]:
    try:
        async with asyncio.timeout(PROBE_S_MAX):
            parts = await request.app[HEAD].ready()
    except (FetchmlError, TimeoutError):
        return ["scheduler"]
    return sorted(name for name, is_there in parts.items() if not is_there)
