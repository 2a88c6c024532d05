"""API keys: made, listed and revoked by administrators. A key is shown once, when it is made; we keep only its hash."""

import hashlib
import secrets
import time
from typing import Annotated, Any, Final, NotRequired

from aiohttp import web
from multidict import MultiDict
from pydantic import ConfigDict, Field, TypeAdapter, with_config
from typing_extensions import TypedDict

from fetchmld.api import wire
from fetchmld.api.answers import reply
from fetchmld.api.body import read_object
from fetchmld.api.context import CALLER, HEAD
from fetchmld.api.query import instant_us
from fetchmld.api.validation import validate
from fetchmld.core.errors import BadRequest, Invalid
from fetchmld.core.model import UserRole

PREFIX: Final = "fml_"
RANDOM_BYTES: Final = 32


@with_config(ConfigDict(extra="forbid", strict=True))
class CreateKey(TypedDict):
    """The body of POST /v1/keys. Without `expires_at` the key is valid until it is revoked."""

    user_id: Annotated[str, Field(pattern=r"^[A-Za-z0-9][A-Za-z0-9._@-]{0,63}$")]
    role: UserRole
    expires_at: NotRequired[str]


_CREATE: Final[TypeAdapter[CreateKey]] = TypeAdapter(CreateKey)


async def list_(request: web.Request) -> web.Response:
    """GET /v1/keys: newest first, revoked and expired ones too."""
    return reply([wire.key(key) for key in await request.app[HEAD].keys()])


async def create(request: web.Request) -> web.Response:
    """POST /v1/keys: 201 with the key itself, this once."""
    given: CreateKey = validate(_CREATE, await read_object(request))
    expires_at = _expires_at(given["expires_at"]) if "expires_at" in given else 0.0
    secret = PREFIX + secrets.token_urlsafe(RANDOM_BYTES)
    sha256 = hashlib.sha256(secret.encode()).hexdigest()
    made = await request.app[HEAD].create_key(request[CALLER], given["user_id"], given["role"], sha256, expires_at)
    shown: dict[str, Any] = {**wire.key(made), "key": secret}
    return reply(shown, 201, {"Location": f"/v1/keys/{made.id}"})


async def revoke(request: web.Request) -> web.Response:
    """DELETE /v1/keys/{keyId}: refused from now on, also on streams that are open. Twice is the same."""
    await request.app[HEAD].revoke_key(request[CALLER], request.match_info["keyId"])
    return web.Response(status=204)


def _expires_at(text: str) -> float:
    try:
        at = (instant_us(MultiDict(expires_at=text), "expires_at") or 0) / 1e6
    except BadRequest as error:
        raise Invalid(error.message) from None
    if at <= time.time():
        raise Invalid(f"expires_at: {text[:64]} is in the past")
    return at
