"""Experiments: named groups of tasks."""

from typing import Annotated, Final, Required

from aiohttp import web
from pydantic import AfterValidator, ConfigDict, Field, TypeAdapter, with_config
from typing_extensions import TypedDict

from fetchmld.api import access, wire
from fetchmld.api.answers import reply
from fetchmld.api.body import read_object
from fetchmld.api.context import CALLER, HEAD
from fetchmld.api.idempotency import REPLAYED, intent_of, under_way
from fetchmld.api.validation import validate
from fetchmld.core.errors import Repeated
from fetchmld.core.model import Experiment, Intent

DESCRIPTION_CHARACTERS_MAX: Final = 4_096  # 16 KiB at most in UTF-8, which is what the record keeps of a text


def _not_blank(name: str) -> str:
    if not name.strip() or not name.isprintable():
        raise ValueError("must be one line of printable text")
    return name


@with_config(ConfigDict(extra="forbid", strict=True))
class CreateExperiment(TypedDict, total=False):
    """The contract's CreateExperimentRequest."""

    name: Required[Annotated[str, Field(min_length=1, max_length=128), AfterValidator(_not_blank)]]
    description: Annotated[str, Field(max_length=DESCRIPTION_CHARACTERS_MAX)]


_CREATE_EXPERIMENT: Final[TypeAdapter[CreateExperiment]] = TypeAdapter(CreateExperiment)


async def list_(request: web.Request) -> web.Response:
    """GET /v1/experiments: the caller's own, or all."""
    caller = request[CALLER]
    found = await request.app[HEAD].experiments()
    return reply([wire.experiment(e) for e in found if access.sees_all(caller) or e["user_id"] == caller.user_id])


async def create(request: web.Request) -> web.Response:
    """POST /v1/experiments: 201 once it is on disk."""
    body = await read_object(request)
    given: CreateExperiment = validate(_CREATE_EXPERIMENT, body)
    with under_way(request, "experiments") as scope:
        made, more = await _create(request, given, intent_of(scope, body))
    return reply(wire.experiment(made), 201, more)


async def _create(
    request: web.Request, given: CreateExperiment, intent: Intent | None
) -> tuple[Experiment, dict[str, str]]:
    """The experiment, made now or before, and the headers that say which."""
    head, caller = request.app[HEAD], request[CALLER]
    try:
        return await head.create_experiment(caller, given["name"], given.get("description", ""), intent), {}
    except Repeated as before:
        for found in await head.experiments():
            if found["id"] == before.message:
                return found, REPLAYED
        raise
