"""Experiments: named groups of tasks, and what these left as metrics."""

from typing import Annotated, Final, Literal, Required, cast

from aiohttp import web
from pydantic import AfterValidator, ConfigDict, Field, TypeAdapter, with_config
from typing_extensions import TypedDict

from fetchmld.api import access, query, wire
from fetchmld.api.answers import reply
from fetchmld.api.body import read_object
from fetchmld.api.context import CALLER, HEAD, METRICS
from fetchmld.api.experiment_metrics import table
from fetchmld.api.head import ExperimentRequest
from fetchmld.api.idempotency import REPLAYED, UnderWay, intent_of
from fetchmld.api.validation import validate
from fetchmld.core.errors import Invalid, NotFound, Repeated
from fetchmld.core.model import Experiment, Intent

DESCRIPTION_CHARACTERS_MAX: Final = 4_096  # 16 KiB at most in UTF-8, which is what the record keeps of a text
METRICS_DEFAULT: Final = 100


def _not_blank(name: str) -> str:
    if not name.strip() or not name.isprintable():
        raise ValueError("must be one line of printable text")
    return name


_Name = Annotated[str, Field(min_length=1, max_length=128), AfterValidator(_not_blank)]
_Description = Annotated[str, Field(max_length=DESCRIPTION_CHARACTERS_MAX)]
_CommitId = Annotated[str, Field(pattern=r"^[0-9a-f]{7,64}$")]


@with_config(ConfigDict(extra="forbid", strict=True))
class CreateExperiment(TypedDict, total=False):
    """The contract's CreateExperimentRequest, and the commit that it is about."""

    name: Required[_Name]
    description: _Description
    commit_id: _CommitId


@with_config(ConfigDict(extra="forbid", strict=True))
class UpdateExperiment(TypedDict, total=False):
    """The body of PATCH: what is to be new."""

    name: _Name
    description: _Description
    commit_id: _CommitId
    status: Literal["active", "archived", "deleted"]


_CREATE_EXPERIMENT: Final[TypeAdapter[CreateExperiment]] = TypeAdapter(CreateExperiment)
_UPDATE_EXPERIMENT: Final[TypeAdapter[UpdateExperiment]] = TypeAdapter(UpdateExperiment)


async def list_(request: web.Request) -> web.Response:
    """GET /v1/experiments: the caller's own, or all; archived ones too, unless `status` says which."""
    caller, status = request[CALLER], query.choice(request.query, "status", ("active", "archived"))
    found = [one for one in await request.app[HEAD].experiments() if access.sees(caller, one)]
    return reply([wire.experiment(one) for one in found if status in (None, one["status"])])


async def read(request: web.Request) -> web.Response:
    """GET /v1/experiments/{experimentId}."""
    return reply(wire.experiment(await _visible(request)))


async def update(request: web.Request) -> web.Response:
    """PATCH /v1/experiments/{experimentId}: by its owner, or by who runs the cluster."""
    given: UpdateExperiment = validate(_UPDATE_EXPERIMENT, await read_object(request))
    if not given:
        raise Invalid("the body changes nothing: give name, description, commit_id or status")
    found, caller = await _visible(request), request[CALLER]
    if found["user_id"] != caller.user_id and not access.changes_all(caller):
        raise _no_such(found["id"])
    changes = cast(dict[str, str], given)
    return reply(wire.experiment(await request.app[HEAD].update_experiment(caller, found["id"], changes)))


async def metrics(request: web.Request) -> web.Response:
    """GET /v1/experiments/{experimentId}/metrics: its tasks, newest first, and what each left as metrics.json."""
    limit, offset = query.page(request.query, METRICS_DEFAULT)
    found = await _visible(request)
    page = await request.app[HEAD].experiment_tasks(found["id"], limit, offset)
    caller = request[CALLER]
    views = [view for view in page["tasks"] if access.sees_all(caller) or view["user_id"] == caller.user_id]
    rows = await request.app[METRICS].rows(views, redacted=access.is_redacted(caller))
    return reply(table(found["id"], rows, page["total"], limit, offset))


async def _visible(request: web.Request) -> Experiment:
    """The experiment that the path names, if the caller may know of it. Raises NotFound."""
    experiment_id = request.match_info["experimentId"]
    for found in await request.app[HEAD].experiments():
        if found["id"] == experiment_id and access.sees(request[CALLER], found):
            return found
    raise _no_such(experiment_id)


def _no_such(experiment_id: str) -> NotFound:
    return NotFound(f"there is no experiment {experiment_id[:64]!r}")


async def create(request: web.Request) -> web.Response:
    """POST /v1/experiments: 201 once it is on disk."""
    body = await read_object(request)
    given: CreateExperiment = validate(_CREATE_EXPERIMENT, body)
    with UnderWay(request, "experiments") as scope:
        made, more = await _create(request, given, intent_of(scope, body))
    return reply(wire.experiment(made), 201, more)


async def _create(
    request: web.Request, given: CreateExperiment, intent: Intent | None
) -> tuple[Experiment, dict[str, str]]:
    """The experiment, made now or before, and the headers that say which."""
    head, caller = request.app[HEAD], request[CALLER]
    try:
        return await head.create_experiment(caller, ExperimentRequest(**given), intent), {}
    except Repeated as before:
        for found in await head.experiments():
            if found["id"] == before.message:
                return found, REPLAYED
        raise
