"""What programs inside the Ray cluster ask of the head: the same checks, the same record and the same shapes as by HTTP.

Whoever holds the cluster's token may ask. Who they are is their API key's user, with its role; without a key it is
`ray:<user>`, by their own word, with the role `user`. A scheduler that is away for a moment is waited for, and what was
submitted meanwhile is made once.
"""

import asyncio
import hashlib
import os
import re
import time
from collections.abc import Awaitable, Callable, Mapping
from typing import Any, Final, TypeVar

import orjson

from fetchmld.api import access, wire
from fetchmld.api.admission import Admission
from fetchmld.api.answers import error_body, trace_id_of
from fetchmld.api.head import Caller, Head
from fetchmld.api.idempotency import intent_of
from fetchmld.api.outputs import add_output
from fetchmld.core.errors import BadRequest, Conflict, FetchmlError, Invalid, Repeated, Unauthorized, Unavailable
from fetchmld.core.model import TaskId, TaskView, UserId

T = TypeVar("T")

ITEMS_MAX: Final = 10_000
WAITS_MAX: Final = 500  # at once: each holds one of the actor's calls
WAIT_S: Final = 30.0
AWAY_MAX_S: Final = 60.0
PAUSE_S: Final = 0.1
KEY_CHARACTERS_MAX: Final = 255
_USER: Final = re.compile(r"[A-Za-z0-9._-]{1,59}")


class Native:
    """The door. One per head."""

    def __init__(self, head: Head, admission: Admission) -> None:
        self._head = head
        self._admission = admission
        self._waits = 0

    async def answer(self, what: str, about: Any, who: Mapping[str, str]) -> Any:
        """Raises what the API would answer, as an error of `core.errors`."""
        doors = {"submit": self._submit, "status": self._status, "wait": self._wait, "cancel": self._cancel}
        if what not in doors:
            raise BadRequest(f"{what[:64]!r} is none of {', '.join(doors)}")
        if what == "submit":
            about, who = _plain(about), dict(who)
            who["api_key"] = _key_within(about) or who.get("api_key", "")
        caller = await patiently(lambda: self._caller(who))
        return await doors[what](caller, about, who)

    async def _caller(self, who: Mapping[str, str]) -> Caller:
        trace_id = trace_id_of(None)
        given = who.get("api_key", "")
        if not given:
            user = who.get("user", "")
            if not _USER.fullmatch(user):
                raise Unauthorized("give an api_key, or the name of a user")
            return Caller(UserId(f"ray:{user}"), "user", "ray", "", trace_id)
        key = await self._head.key(hashlib.sha256(given.encode("utf-8", "surrogateescape")).hexdigest())
        if key is None or not key.is_valid(time.time()):
            raise Unauthorized("the API key is not known, has expired or was revoked")
        return Caller(key.user_id, key.role, key.id, "", trace_id)

    # -- the four

    async def _submit(self, caller: Caller, about: Any, who: Mapping[str, str]) -> Any:
        access.check_operation(caller, "createTask")
        key = who.get("key") or os.urandom(16).hex()
        if len(key) > KEY_CHARACTERS_MAX:
            raise BadRequest(f"idempotency_key: must have at most {KEY_CHARACTERS_MAX} characters")
        scope = f"{caller.user_id}\0ray\0{key}"
        if not isinstance(about, list):
            (outcome,) = await self._submitted(caller, [about], scope)
            if isinstance(outcome, FetchmlError):
                raise outcome
            return wire.task(outcome)
        if len(about) > ITEMS_MAX:
            raise Invalid(f"the list has {len(about)} requests; {ITEMS_MAX} are allowed")
        return [_outcome(one, caller) for one in await self._submitted(caller, about, scope)]

    async def _submitted(self, caller: Caller, items: list[Any], scope: str) -> list[TaskView | FetchmlError]:
        asked = [await self._admission.try_accept(caller, item, set()) for item in items]
        good = [(place, one) for place, one in enumerate(asked) if not isinstance(one, FetchmlError)]
        intents = [intent_of(scope, items[place], place) for place, _ in good]
        made = iter(
            await patiently(lambda: self._head.submit(caller, [one for _, one in good], intents)) if good else ()
        )
        outcomes = [one if isinstance(one, FetchmlError) else next(made) for one in asked]
        return [await self._made_before(one) if isinstance(one, Repeated) else one for one in outcomes]

    async def _made_before(self, repeated: Repeated) -> TaskView | FetchmlError:
        task_id = TaskId(repeated.message)
        found = await patiently(lambda: self._head.task(task_id))
        return found or Conflict(f"this key made task {task_id}, which was deleted meanwhile")

    async def _status(self, caller: Caller, about: Any, _who: Mapping[str, str]) -> dict[str, Any]:
        access.check_operation(caller, "getTask")
        return await self._shown(caller, await self._visible(caller, about))

    async def _wait(self, caller: Caller, about: Any, _who: Mapping[str, str]) -> dict[str, Any]:
        access.check_operation(caller, "getTask")
        view = await self._visible(caller, about)
        task_id = TaskId(view["id"])
        if self._waits >= WAITS_MAX:
            raise Unavailable(f"{WAITS_MAX} programs wait here already; wait for fewer tasks at a time, or over HTTP")
        self._waits += 1
        try:
            while not view["ended_at"]:
                view = access.seen(caller, task_id, await patiently(lambda: self._head.wait(task_id, WAIT_S)))
        finally:
            self._waits -= 1
        return await self._shown(caller, view)

    async def _cancel(self, caller: Caller, about: Any, _who: Mapping[str, str]) -> None:
        access.check_operation(caller, "deleteTask")
        view = await self._visible(caller, about)
        await patiently(lambda: self._head.cancel(caller, TaskId(view["id"])))

    async def _visible(self, caller: Caller, task_id: Any) -> TaskView:
        if not isinstance(task_id, str) or not 0 < len(task_id) <= 64:
            raise BadRequest("give the id of a task, a text")
        return access.seen(caller, task_id, await patiently(lambda: self._head.task(TaskId(task_id))))

    async def _shown(self, caller: Caller, view: TaskView) -> dict[str, Any]:
        redacted = access.is_redacted(caller)
        out = wire.task(view, redacted=redacted)
        if not redacted:
            await add_output(out, self._head, view)
        return out


def _plain(about: Any) -> Any:
    """What a program gave, as JSON would have brought it. Raises BadRequest for what JSON has no words for."""
    try:
        return orjson.loads(orjson.dumps(about))
    except TypeError as error:
        raise BadRequest(f"a request is a dictionary of JSON's types: {error}") from None


def _key_within(about: Any) -> str:
    """The `api_key` that requests bring with them, taken out. Raises BadRequest where they name several."""
    items = about if isinstance(about, list) else [about]
    keys = {item.pop("api_key", "") for item in items if isinstance(item, dict)} or {""}
    if len(keys) > 1 or not isinstance(key := keys.pop(), str):
        raise BadRequest("api_key: all requests of one call are of one user")
    return key


def _outcome(one: TaskView | FetchmlError, caller: Caller) -> dict[str, Any]:
    if isinstance(one, FetchmlError):
        return {"status": one.status, "error": error_body(one, caller.trace_id)}
    return {"status": 201, "task": wire.task(one)}


async def patiently(ask: Callable[[], Awaitable[T]]) -> T:
    """What `ask` gives, asked again while the scheduler is away, for up to a minute."""
    deadline = time.monotonic() + AWAY_MAX_S
    while True:
        try:
            return await ask()
        except Unavailable:
            if time.monotonic() >= deadline:
                raise
        await asyncio.sleep(PAUSE_S)
