"""Experiments: named groups of tasks."""

from typing import Annotated, Final, Required

from aiohttp import web
from pydantic import AfterValidator, ConfigDict, Field, TypeAdapter, with_config
from typing_extensions import TypedDict

from fetchmld.api import access, wire
from fetchmld.api.answers import reply
from fetchmld.api.body import read_object
from fetchmld.api.context import CALLER, HEAD
from fetchmld.api.validation import validate

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
    given: CreateExperiment = validate(_CREATE_EXPERIMENT, await read_object(request))
    made = await request.app[HEAD].create_experiment(request[CALLER], given["name"], given.get("description", ""))
    return reply(wire.experiment(made), 201)
