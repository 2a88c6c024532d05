"""Reservations: capacity kept for one user, from now or from a later moment on."""

import time
from typing import Annotated, Final, Required

from aiohttp import web
from multidict import MultiDict
from pydantic import ConfigDict, Field, TypeAdapter, with_config
from typing_extensions import TypedDict

from fetchmld.api import access, wire
from fetchmld.api.answers import reply
from fetchmld.api.body import read_object
from fetchmld.api.context import CALLER, HEAD
from fetchmld.api.head import ReservationRequest
from fetchmld.api.idempotency import REPLAYED, UnderWay, intent_of
from fetchmld.api.intake import GpuType
from fetchmld.api.query import instant_us
from fetchmld.api.validation import validate
from fetchmld.core.errors import BadRequest, Conflict, Invalid, Repeated
from fetchmld.core.model import Intent, ReservationView

DEFAULT_MINUTES: Final = 30
MINUTES_MAX: Final = 10_080
STARTS_IN_S_MAX: Final = 366 * 86_400.0
PAST_S_MAX: Final = 60.0  # clocks differ: this much of the past still counts as now


@with_config(ConfigDict(extra="forbid", strict=True))
class CreateReservation(TypedDict, total=False):
    """The contract's CreateReservationRequest, and our `starts_at`."""

    gpu_count: Required[Annotated[int, Field(ge=1, le=1024)]]
    gpu_type: GpuType
    node_count: Annotated[int, Field(ge=1, le=4096)]
    expires_minutes: Annotated[int, Field(ge=1, le=MINUTES_MAX)]
    starts_at: str


_CREATE: Final[TypeAdapter[CreateReservation]] = TypeAdapter(CreateReservation)


async def list_(request: web.Request) -> web.Response:
    """GET /v1/scheduler/reservations: the caller's own, or all; newest first, ended ones for a while."""
    caller = request[CALLER]
    found = await request.app[HEAD].reservations()
    return reply([wire.reservation(r) for r in found if access.sees_all(caller) or r["user_id"] == caller.user_id])


async def create(request: web.Request) -> web.Response:
    """POST /v1/scheduler/reservations: 201 once it is on disk."""
    body = await read_object(request)
    given: CreateReservation = validate(_CREATE, body)
    wanted = ReservationRequest(
        gpu_count=given["gpu_count"],
        gpu_type=given.get("gpu_type", ""),
        node_count=given.get("node_count", 1),
        duration_s=given.get("expires_minutes", DEFAULT_MINUTES) * 60.0,
        starts_in_s=_starts_in_s(given["starts_at"]) if "starts_at" in given else 0.0,
    )
    with UnderWay(request, "reservations") as scope:
        made, more = await _reserve(request, wanted, intent_of(scope, body))
    return reply(wire.reservation(made), 201, {"Location": f"/v1/scheduler/reservations/{made['id']}", **more})


async def _reserve(
    request: web.Request, wanted: ReservationRequest, intent: Intent | None
) -> tuple[ReservationView, dict[str, str]]:
    """The reservation, made now or before, and the headers that say which."""
    head = request.app[HEAD]
    try:
        return await head.reserve(request[CALLER], wanted, intent), {}
    except Repeated as before:
        for found in await head.reservations():
            if found["id"] == before.message:
                return found, REPLAYED
        raise Conflict(f"this key made reservation {before.message}, which is long over; use a new key") from None


async def release(request: web.Request) -> web.Response:
    """DELETE /v1/scheduler/reservations/{reservationId}: what it held is free at once; its running tasks go on."""
    caller = request[CALLER]
    await request.app[HEAD].release(caller, request.match_info["reservationId"], access.changes_all(caller))
    return web.Response(status=204)


def _starts_in_s(text: str) -> float:
    try:
        starts_us = instant_us(MultiDict(starts_at=text), "starts_at") or 0
    except BadRequest as error:
        raise Invalid(error.message) from None
    starts_in_s = starts_us / 1e6 - time.time()
    if starts_in_s < -PAST_S_MAX:
        raise Invalid(f"starts_at: {text[:64]} is in the past")
    if starts_in_s > STARTS_IN_S_MAX:
        raise Invalid(f"starts_at: {text[:64]} is more than a year ahead")
    return max(0.0, starts_in_s)
