"""The output of tasks as machines that joined send it to the head. For the machines alone."""

from typing import Final

from aiohttp import web

from fetchmld.api.answers import reply
from fetchmld.api.context import HEAD
from fetchmld.api.handlers.blobs import pieces_of

SHIPMENT_BYTES_MAX: Final = 16 * 2**20


async def lengths(request: web.Request) -> web.Response:
    """GET /v1/shipped-logs/{workerId}: how many bytes of each file are here."""
    return reply(await request.app[HEAD].machine_logs.lengths(request.match_info["workerId"]))


async def take(request: web.Request) -> web.Response:
    """POST /v1/shipped-logs/{workerId}: a shipment (`store.shipment`); how many bytes of its files are here now."""
    shipment = b"".join([piece async for piece in pieces_of(request, SHIPMENT_BYTES_MAX)])
    return reply(await request.app[HEAD].machine_logs.take(request.match_info["workerId"], shipment))
