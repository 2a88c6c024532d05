"""The limit: aiohttp on the same event loop as the daemon's, which decodes a request with pydantic and sends it back.

`python load/api/echo.py PORT`: POST /v1/tasks validates the body and answers it with an id, 201; GET /v1/tasks/{id} answers
a task that it holds, 200; GET /stream sends COUNT events to all who follow it once POST /go came, joined in batches.
"""

import asyncio
import sys
import time
import uuid
from typing import Annotated, Any

import orjson
import uvloop
from aiohttp import web
from pydantic import BaseModel, ConfigDict, Field


class Dataset(BaseModel):
    name: str
    source: str | None = None


class Create(BaseModel):
    model_config = ConfigDict(extra="forbid")
    job_name: Annotated[str, Field(pattern=r"^[a-zA-Z0-9_-]+$", max_length=64)]
    priority: Annotated[int, Field(ge=1, le=10)] = 5
    entrypoint: str | None = None
    args: str | None = None
    dataset_specs: list[Dataset] = []
    cpu: int = 0
    memory_gb: int = 0
    gpu: int = 0
    metadata: dict[str, str] = {}


HELD: dict[str, dict[str, Any]] = {}
FOLLOWERS: list[web.StreamResponse] = []


async def create(request: web.Request) -> web.Response:
    made = Create.model_validate_json(await request.read()).model_dump()
    made.update(id=str(uuid.uuid4()), status="queued", created_at=time.time())
    HELD["newest"] = made
    return web.Response(status=201, body=orjson.dumps(made), content_type="application/json")


async def read(request: web.Request) -> web.Response:
    return web.Response(body=orjson.dumps(HELD["newest"]), content_type="application/json")


async def follow(request: web.Request) -> web.StreamResponse:
    answer = web.StreamResponse(headers={"Content-Type": "text/event-stream"})
    await answer.prepare(request)
    await answer.write(b": begins\n\n")
    FOLLOWERS.append(answer)
    await asyncio.Event().wait()
    return answer


async def go(request: web.Request) -> web.Response:
    """As many events as asked for, of the size that ours have, one join and one write per follower and batch."""
    count, size, batch = (int(request.query[name]) for name in ("count", "size", "batch"))
    event = b"event: task_update\ndata: " + b"x" * size + b"\n\n"
    for _ in range(count // batch):
        whole = event * batch
        await asyncio.gather(*(follower.write(whole) for follower in FOLLOWERS))
    return web.Response()


def main() -> None:
    app = web.Application()
    routes = [
        web.post("/v1/tasks", create),
        web.get("/v1/tasks/{id}", read),
        web.get("/stream", follow),
        web.post("/go", go),
    ]
    app.add_routes(routes)
    loop = uvloop.new_event_loop()  # as in the daemon: Ray runs its actors on it
    web.run_app(app, host="127.0.0.1", port=int(sys.argv[1]), loop=loop, access_log=None, print=None, backlog=2048)


if __name__ == "__main__":
    main()
