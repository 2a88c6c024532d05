"""What the contract has and this version does not serve yet: refused as such, never answered as if it were done."""

from aiohttp import web

from fetchmld.core.errors import NotBuilt


async def not_built(request: web.Request) -> web.StreamResponse:
    """501 for every operation of the contract that a later version will serve."""
    raise NotBuilt(f"{request.method} {request.rel_url.raw_path[:256]} is not served by this version yet")
