"""A program that serves pages, on a unix socket or a loopback port: what Jupyter and sidecars are to the proxy."""

import asyncio
import hashlib
import os
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from pathlib import Path
from typing import Any

from aiohttp import WSMsgType, web

HUGE_BYTES = 40 * 2**20


async def _seen(request: web.Request) -> web.Response:
    """What arrived, as it arrived."""
    body = await request.read()
    seen: dict[str, Any] = {
        "method": request.method,
        "path": request.raw_path,
        "headers": [[name, value] for name, value in request.headers.items()],
        "sha256": hashlib.sha256(body).hexdigest(),
        "bytes": len(body),
    }
    return web.json_response(seen, headers={"Connection": "X-Of-This-Hop", "X-Of-This-Hop": "1"})


async def _cookies(_request: web.Request) -> web.Response:
    answer = web.Response(text="cookies")
    for cookie in (
        "a=1; Path=/",
        "b=2; Path=/jupyter/other/; HttpOnly",
        "c=3; Domain=example.org",
        "fetchml_session=stolen; Path=/",
        "d=4; Path=/jupyter/s1/lab; SameSite=Lax",
    ):
        answer.headers.add("Set-Cookie", cookie)
    return answer


async def _redirect(request: web.Request) -> web.Response:
    return web.Response(status=302, headers={"Location": request.query["to"]})


async def _huge(request: web.Request) -> web.StreamResponse:
    answer = web.StreamResponse(headers={"Content-Length": str(HUGE_BYTES)})
    await answer.prepare(request)
    for _ in range(HUGE_BYTES // 2**18):
        await answer.write(bytes(2**18))
    return answer


async def _drip(request: web.Request) -> web.StreamResponse:
    """One piece, and then nothing until the client leaves."""
    answer = web.StreamResponse(headers={"Content-Type": request.query.get("type", "text/plain")})
    await answer.prepare(request)
    await answer.write(b"first")
    await asyncio.sleep(3600)
    return answer


async def _echo(request: web.Request) -> web.StreamResponse:
    socket = web.WebSocketResponse(protocols=("v1.kernel",), max_msg_size=0)
    await socket.prepare(request)
    async for message in socket:
        if message.type == WSMsgType.BINARY:
            await socket.send_bytes(message.data)
        elif message.data == "close":
            await socket.close(code=4001)
        else:
            await socket.send_str(f"{message.data} {request.raw_path}")
    return socket


async def _refuse(_request: web.Request) -> web.Response:
    return web.Response(status=403, text="no")


@asynccontextmanager
async def serving_pages(directory: Path) -> AsyncIterator[str]:
    """The endpoint where it listens."""
    app = web.Application(client_max_size=2**30)
    for path, handler in (
        ("/{_:.*}/seen", _seen),
        ("/seen", _seen),
        ("/{_:.*}/cookies", _cookies),
        ("/{_:.*}/redirect", _redirect),
        ("/redirect", _redirect),
        ("/{_:.*}/huge", _huge),
        ("/{_:.*}/drip", _drip),
        ("/{_:.*}/echo", _echo),
        ("/{_:.*}/refuse", _refuse),
    ):
        app.router.add_route("*", path, handler)
    runner = web.AppRunner(app, shutdown_timeout=0.1)
    await runner.setup()
    path = os.path.relpath(directory / "pages.sock")
    await web.UnixSite(runner, path).start()
    try:
        yield f"unix:{path}"
    finally:
        await runner.cleanup()
