"""The audit chain: its events, its verification, its newest hash."""

from typing import Final, Required, cast, get_args

from aiohttp import web
from multidict import MultiDict
from pydantic import ConfigDict, TypeAdapter, with_config
from typing_extensions import TypedDict

from fetchmld.api import query, wire
from fetchmld.api.answers import reply
from fetchmld.api.body import read_object
from fetchmld.api.context import CALLER, HEAD
from fetchmld.api.head import EventQuery
from fetchmld.api.validation import validate
from fetchmld.core.errors import BadRequest, Invalid
from fetchmld.core.messages import EventType

LIST_DEFAULT: Final = 100
SEQ_MAX: Final = 10**15
_EVENT_TYPES: Final = cast(tuple[EventType, ...], get_args(EventType))


@with_config(ConfigDict(extra="forbid", strict=True))
class PruneRequest(TypedDict, total=False):
    """The body of POST /v1/audit/prune."""

    before: Required[str]
    dry_run: bool


_PRUNE: Final[TypeAdapter[PruneRequest]] = TypeAdapter(PruneRequest)


async def events(request: web.Request) -> web.Response:
    """GET /v1/audit/events: newest first."""
    given = request.query
    limit, offset = query.page(given, LIST_DEFAULT)
    asked = EventQuery(
        from_us=query.instant_us(given, "from"),
        to_us=query.instant_us(given, "to"),
        event_type=query.choice(given, "event_type", _EVENT_TYPES),
        user_id=query.text(given, "user_id"),
        limit=limit,
        offset=offset,
    )
    page = await request.app[HEAD].events(asked)
    rows = [wire.audit_event(row) for row in page["events"]]
    return reply({"events": rows, "total": page["total"], "limit": limit, "offset": offset})


async def verify(request: web.Request) -> web.Response:
    """POST /v1/audit/verify: checks every hash and link, and the index's copy; recorded as an event of its own."""
    return reply(wire.verification(await request.app[HEAD].verify(request[CALLER])))


async def chain_root(request: web.Request) -> web.Response:
    """GET /v1/audit/chain-root."""
    return reply(wire.chain_root(await request.app[HEAD].root()))


async def checkpoint(request: web.Request) -> web.Response:
    """GET /v1/audit/checkpoint: the newest one, a signed note."""
    return web.Response(text=await request.app[HEAD].checkpoint(), content_type="text/plain", charset="utf-8")


async def prove(request: web.Request) -> web.Response:
    """GET /v1/audit/proof: that an event is in the tree of which a checkpoint was signed."""
    seq = query.needed_whole(request.query, "seq", 0, SEQ_MAX)
    size = query.whole(request.query, "size", 0, 1, SEQ_MAX) or None
    return reply(wire.inclusion(await request.app[HEAD].prove(seq, size)))


async def consistency(request: web.Request) -> web.Response:
    """GET /v1/audit/consistency: that a tree continues an earlier one."""
    old = query.needed_whole(request.query, "from", 0, SEQ_MAX)
    new = query.whole(request.query, "to", 0, 1, SEQ_MAX) or None
    if new is not None and new < old:
        raise Invalid(f"from={old}: must be at most to={new}")
    return reply(wire.consistency(await request.app[HEAD].prove_consistency(old, new)))


async def prune(request: web.Request) -> web.Response:
    """POST /v1/audit/prune: the oldest part of the record goes, as far as whole segments of it are older."""
    given: PruneRequest = validate(_PRUNE, await read_object(request))
    try:
        before_us = query.instant_us(MultiDict({"before": given["before"]}), "before")
    except BadRequest as error:
        raise Invalid(error.message) from None
    assert before_us is not None, "it is required"
    return reply(wire.pruning(await request.app[HEAD].prune(request[CALLER], before_us, given.get("dry_run", False))))


async def rotate_key(request: web.Request) -> web.Response:
    """POST /v1/audit/rotate-key: a new key signs checkpoints from here on."""
    return reply(wire.rotated_key(await request.app[HEAD].rotate_key(request[CALLER])))
