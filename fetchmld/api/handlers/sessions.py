"""Browsers log in: with a key in the body, once, or with a ticket that somebody who has the key got for them."""

import hashlib
import html
import time
from typing import Annotated, Any, Final
from urllib.parse import urlsplit

from aiohttp import web
from pydantic import ConfigDict, Field, TypeAdapter, with_config
from typing_extensions import TypedDict

from fetchmld.api import browser, wire
from fetchmld.api.answers import reply
from fetchmld.api.body import read_object
from fetchmld.api.context import CONFIG, HEAD, KEY_HASH, LOGINS
from fetchmld.api.head import Caller, Reach
from fetchmld.api.validation import validate
from fetchmld.core.errors import Forbidden, Invalid

Secret = Annotated[str, Field(min_length=1, max_length=512)]
_TICKET_REFUSED: Final = "the ticket is not known, was used, or is older than a minute; get another one: fetchmld ui"


@with_config(ConfigDict(extra="forbid", strict=True))
class LogIn(TypedDict, total=False):
    """The body of POST /v1/sessions: one of the two."""

    key: Secret
    ticket: Secret


_LOG_IN: Final[TypeAdapter[LogIn]] = TypeAdapter(LogIn)


async def log_in(request: web.Request) -> web.Response:
    """POST /v1/sessions: 201 with a cookie. Other sites' pages may not log anybody in."""
    browser.check_origin(request, is_needed=False)
    given: LogIn = validate(_LOG_IN, await read_object(request))
    if len(given) != 1:
        raise Invalid("the body needs either key or ticket")
    digest = _sha256(given["key"]) if "key" in given else _redeem(request, given["ticket"], "console")
    caller = await _person(request, digest)
    shown: dict[str, Any] = {"user_id": caller.user_id, "role": caller.role}
    return await _begin(request, digest, lambda expires_at: reply({**shown, "expires_at": expires_at}, 201))


async def enter(request: web.Request) -> web.Response:
    """GET /sessions/{ticket}?to=/PATH: what a browser is pointed to; the ticket is of no use to whoever sees it later."""
    reach = browser.reach_of(request)
    if reach == "console" and request.headers.get("Sec-Fetch-Site", "none") == "cross-site":
        raise Forbidden("another site's page may not log anybody in; open the address yourself")
    digest = _redeem(request, request.match_info["ticket"], reach)
    await _person(request, digest)
    target = _local(request.query.get("to", "/"))
    return await _begin(request, digest, lambda _: _leading_to(target, reach))


def _leading_to(target: str, reach: Reach) -> web.Response:
    """To services the console led, maybe from another site: only a page of their own may then send a strict cookie."""
    if reach == "console":
        return web.Response(status=303, headers={"Location": target})
    page = f'<!doctype html><meta http-equiv="refresh" content="0; url={html.escape(target)}"><title>FetchML</title>'
    return web.Response(text=page, content_type="text/html")


async def read(request: web.Request) -> web.Response:
    """GET /v1/sessions: who asks, by session or key; 204 where a browser that opens our page has neither."""
    value = browser.session_value(request)
    found = request.app[HEAD].sessions.find(value, browser.reach_of(request)) if value else None
    if found is None and "X-API-Key" not in request.headers:
        return web.Response(status=204)
    caller = await request.app[LOGINS].caller(request)
    until = {"expires_at": wire.instant(found.expires_at)} if found is not None else {}
    return reply({"user_id": caller.user_id, "role": caller.role, "key_id": caller.key_id, **until})


async def log_out(request: web.Request) -> web.Response:
    """DELETE /v1/sessions: ends the browser's session; asked with a key, every session of that key."""
    sessions, value = request.app[HEAD].sessions, browser.session_value(request)
    answer = web.Response(status=204)
    if "X-API-Key" in request.headers or not value:
        await sessions.end_all(request[KEY_HASH])
    else:
        await sessions.end(value)
        browser.forget_session(request, answer)
    return answer


async def create_ticket(request: web.Request) -> web.Response:
    """POST /v1/sessions/tickets: one login within a minute, in place of the key; `url` is where a browser uses it."""
    ticket, expires_at = request.app[HEAD].sessions.issue(request[KEY_HASH], "console")
    url = f"{request.scheme}://{request.host}/sessions/{ticket}"
    return reply({"ticket": ticket, "url": url, "expires_at": wire.instant(expires_at)}, 201)


def _redeem(request: web.Request, ticket: str, reach: Reach) -> str:
    found = request.app[HEAD].sessions.redeem(ticket)
    if found is None or found.reach != reach:
        raise request.app[LOGINS].failed(request, "the ticket is not known", _TICKET_REFUSED)
    return found.key_sha256


async def _person(request: web.Request, digest: str) -> Caller:
    caller = await request.app[LOGINS].known(request, digest)
    if caller.role == "worker":
        raise Forbidden("this key is of the machines that joined; a browser needs a person's")
    return caller


async def _begin(request: web.Request, digest: str, answer_of: Any) -> web.Response:
    expires_at = time.time() + request.app[CONFIG].session_s
    value = await request.app[HEAD].sessions.begin(digest, browser.reach_of(request), expires_at)
    answer: web.Response = answer_of(wire.instant(expires_at))
    browser.set_session(request, answer, value, expires_at)
    return answer


def _local(target: str) -> str:
    """A path of ours, whatever was asked for: no ticket leads a browser elsewhere."""
    parts = urlsplit(target)
    is_path = target.startswith("/") and not target.startswith(("//", "/\\")) and not parts.scheme and not parts.netloc
    return target if is_path and target.isprintable() else "/"


def _sha256(key: str) -> str:
    return hashlib.sha256(key.encode("utf-8", "surrogateescape")).hexdigest()
