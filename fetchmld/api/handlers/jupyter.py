"""Jupyter servers: start, list, read, stop, and their pages. Each is a task of kind `service`."""

import re
import unicodedata
from typing import Annotated, Any, Final, Required

from aiohttp import web
from pydantic import AfterValidator, ConfigDict, Field, TypeAdapter, with_config
from typing_extensions import TypedDict

from fetchmld.api import access, browser, wire
from fetchmld.api.answers import reply
from fetchmld.api.body import read_object
from fetchmld.api.context import ADMISSION, CALLER, HEAD, PAGES
from fetchmld.api.idempotency import REPLAYED, UnderWay, intent_of
from fetchmld.api.intake import GpuType, Image, recordable
from fetchmld.api.pages import no_such_service
from fetchmld.api.validation import validate
from fetchmld.core.errors import Conflict, FetchmlError, Repeated
from fetchmld.core.lifecycle import ENDED
from fetchmld.core.model import JupyterRequest, TaskId, TaskRequest, TaskView

IMAGE_DEFAULT: Final = "jupyter/pytorch:latest"  # the contract's; here it means the worker's own JupyterLab
WORKSPACE_DEFAULT: Final = "default"
_SERVICE_ID: Final = re.compile(r"[A-Za-z0-9_-]{1,64}")
_NOT_IN_JOB_NAMES: Final = re.compile(r"[^A-Za-z0-9_-]+")


def _line(text: str) -> str:
    if not text.strip() or any(unicodedata.category(letter) == "Cc" for letter in text):
        raise ValueError("must be one line of text")
    return recordable(text)


@with_config(ConfigDict(extra="forbid", strict=True))
class StartJupyter(TypedDict, total=False):
    """The contract's StartJupyterRequest, and what of a task's request it may say too."""

    name: Required[Annotated[str, AfterValidator(_line)]]
    workspace: Annotated[str, Field(pattern=r"^[A-Za-z0-9][A-Za-z0-9._-]{0,63}$")]
    image: Image
    cpu: Annotated[int, Field(ge=0, le=4096)]
    memory_gb: Annotated[int, Field(ge=0, le=65_536)]
    gpu: Annotated[int, Field(ge=0, le=1024)]
    gpu_type: GpuType
    time_limit_s: Annotated[int, Field(ge=1, le=31_536_000)]


_START: Final[TypeAdapter[StartJupyter]] = TypeAdapter(StartJupyter)


async def list_(request: web.Request) -> web.Response:
    """GET /v1/jupyter/services: the caller's own, or all; newest first, ended ones for a while."""
    caller, head = request[CALLER], request.app[HEAD]
    views = [view for view in await head.services() if access.sees_all(caller) or view["user_id"] == caller.user_id]
    serving = await head.serving([view for view in views if view["status"] not in ENDED])
    return reply([_shown(request, view, serving) for view in views])


async def read(request: web.Request) -> web.Response:
    """GET /v1/jupyter/services/{serviceId}."""
    view = await _visible(request)
    return reply(_shown(request, view, await request.app[HEAD].serving([view])))


async def start(request: web.Request) -> web.Response:
    """POST /v1/jupyter/services: 201 once it is on disk. It starts when a service slot is free."""
    body = await read_object(request)
    given: StartJupyter = validate(_START, body)
    with UnderWay(request, "jupyter/services") as scope:
        asked = await _task_request(request, given)
        (found,) = await request.app[HEAD].submit(request[CALLER], [asked], [intent_of(scope, body)])
    view = await _made_before(request, found.message) if isinstance(found, Repeated) else found
    if isinstance(view, FetchmlError):
        raise view
    more = REPLAYED if isinstance(found, Repeated) else {}
    shown = _shown(request, view, await request.app[HEAD].serving([view]))
    return reply(shown, 201, {"Location": f"/v1/jupyter/services/{view['id']}", **more})


async def _made_before(request: web.Request, service_id: str) -> TaskView:
    found = await request.app[HEAD].task(TaskId(service_id))
    if found is None:
        raise Conflict(f"this key made service {service_id}, which was removed meanwhile; use a new key for another")
    return found


async def stop(request: web.Request) -> web.Response:
    """DELETE /v1/jupyter/services/{serviceId}: stops it; takes a stopped one out of the listing."""
    view = await _visible(request)
    await request.app[HEAD].cancel(request[CALLER], TaskId(view["id"]))
    return web.Response(status=204)


async def pages(request: web.Request) -> web.StreamResponse:
    """Anything below /jupyter/{serviceId}: for who started it, and administrators."""
    prefix = f"/jupyter/{request.match_info['serviceId']}"
    if (elsewhere := browser.to_services(request)) is not None:
        return elsewhere
    upstream = await request.app[PAGES].of_service(request[CALLER], request.match_info["serviceId"])
    return await request.app[PAGES].bring(request, upstream, prefix)


async def _task_request(request: web.Request, given: StartJupyter) -> TaskRequest:
    job_name = _NOT_IN_JOB_NAMES.sub("-", given["name"]).strip("-")[:64] or "jupyter"
    asked = TaskRequest(job_name=job_name, kind="service", cpu=given.get("cpu", 0))
    for name in ("memory_gb", "gpu", "gpu_type", "time_limit_s"):
        if name in given:
            asked[name] = given[name]
    if given.get("image", IMAGE_DEFAULT) != IMAGE_DEFAULT:
        await request.app[ADMISSION].check_containers()
        asked["image"] = given["image"]
    asked["jupyter"] = JupyterRequest(name=given["name"], workspace=await _workspace(request, given.get("workspace")))
    return asked


async def _workspace(request: web.Request, asked: str | None) -> str:
    """The one that was asked for, which nobody may be using; else the usual one, or a new one where that is in use."""
    user_id, services = request[CALLER].user_id, await request.app[HEAD].services()
    live = [view for view in services if view["user_id"] == user_id and view["status"] not in ENDED]
    used = {view["request"]["jupyter"]["workspace"]: view["id"] for view in live}
    if asked is not None and asked in used:
        raise Conflict(f"workspace {asked!r} is in use by your service {used[asked]}; stop that, or name another")
    if asked is not None:
        return asked
    names = [WORKSPACE_DEFAULT, *(f"{WORKSPACE_DEFAULT}-{number}" for number in range(2, len(used) + 3))]
    return next(name for name in names if name not in used)


async def _visible(request: web.Request) -> TaskView:
    """The service that the path names, if the caller may know of it. Raises NotFound."""
    service_id = request.match_info["serviceId"]
    view = await request.app[HEAD].task(TaskId(service_id)) if _SERVICE_ID.fullmatch(service_id) else None
    caller = request[CALLER]
    if view is None or "jupyter" not in view["request"]:
        raise no_such_service(service_id)
    if view["user_id"] != caller.user_id and not access.sees_all(caller):
        raise no_such_service(service_id)
    return view


def _shown(request: web.Request, view: TaskView, serving: Any) -> dict[str, Any]:
    base = (
        f"{request.scheme}://{request.host}"  # from where a session is led to the pages' own address, if they have one
    )
    return wire.service(view, serving.get(view["id"]), base, is_own=view["user_id"] == request[CALLER].user_id)
