"""`Idempotency-Key`: a request that is sent again, because its answer was lost, makes nothing twice.

A key is one user's, for one route. What it made is known to the core (by hashes only, for a day); what is under way is
known here: the same key again meanwhile is 409. In a batch each item has the key together with its place in the list.
"""

import hashlib
import json
from typing import Any, Final

from aiohttp import web

from fetchmld.api.context import CALLER, UNDER_WAY
from fetchmld.core.errors import BadRequest, Conflict
from fetchmld.core.model import Intent

HEADER: Final = "Idempotency-Key"
REPLAYED: Final[dict[str, str]] = {"Idempotency-Replayed": "true"}
KEY_CHARACTERS_MAX: Final = 255
_DIGEST_BYTES: Final = 16


class UnderWay:
    """What the request's key stands for while it is carried out; "" where it has none.

    Raises BadRequest for what is no key, Conflict while another request with it is under way. No
    `contextmanager`: most requests have no key, and for them that would be dear.
    """

    __slots__ = ("_others", "_scope")

    def __init__(self, request: web.Request, route: str) -> None:
        key = _key_of(request)
        self._scope = "" if key is None else f"{request[CALLER].user_id}\0{route}\0{key}"
        self._others = request.app[UNDER_WAY]

    def __enter__(self) -> str:
        if self._scope:
            if self._scope in self._others:
                raise Conflict(f"{HEADER}: a request with this key is under way; send it again in a moment").passing(1)
            self._others.add(self._scope)
        return self._scope

    def __exit__(self, *_exc: object) -> None:
        self._others.discard(self._scope)


def intent_of(scope: str, body: Any, place: int = 0) -> Intent | None:
    """The intent of one body of the request that `UnderWay` gave `scope` for; None where it has no key."""
    return Intent(_hash(f"{scope}\0{place}"), _hash_of(body)) if scope else None


def _key_of(request: web.Request) -> str | None:
    if HEADER not in request.headers:
        return None
    given = request.headers.getall(HEADER)
    key = given[0]
    if len(given) > 1 or not 0 < len(key) <= KEY_CHARACTERS_MAX or not (key.isascii() and key.isprintable()):
        raise BadRequest(f"{HEADER}: must be one text of 1 to {KEY_CHARACTERS_MAX} printable ASCII characters")
    return key


def _hash(text: str) -> str:
    return hashlib.blake2b(text.encode("utf-8", "surrogatepass"), digest_size=_DIGEST_BYTES).hexdigest()


def _hash_of(body: Any) -> str:
    """Of its meaning, not of its bytes: the order of names and blanks do not count."""
    return _hash(json.dumps(body, sort_keys=True, separators=(",", ":")))
