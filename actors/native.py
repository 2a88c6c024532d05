"""The way from the scheduler, whose name programs on Ray know, to the head, which has all that it takes to answer."""

import asyncio
import getpass
from typing import Any, Final

from actors.ray_compat import NAMESPACE
from fetchmld.core.errors import Unavailable

DOOR: Final = "native"
METHODS: Final = ("submit", "status", "wait", "cancel")


async def hand_on(what: str, about: Any, api_key: str, user: str) -> Any:
    """The head's answer. Raises `Unavailable` while there is no head."""
    import ray
    from ray.exceptions import RayActorError, RayTaskError

    who = {"api_key": api_key, "user": user or getpass.getuser()}
    try:
        head = await asyncio.to_thread(ray.get_actor, "head", NAMESPACE)
        return await head.native.remote(what, about, who)
    except RayTaskError as error:
        raise error.cause from None
    except (ValueError, RayActorError) as error:
        raise Unavailable(f"the head is away: {error}") from error
