"""Where the pages below `/jupyter/{id}` and `/plugins/{name}` come from: what the proxy is told, and asks for."""

from collections.abc import Mapping
from dataclasses import dataclass, field


@dataclass(slots=True, frozen=True)
class Upstream:
    """A program that answers HTTP, and how it is spoken to.

    `endpoint`: `unix:/path` or `tcp:PORT` on the worker's own machine, or `http(s)://host[:port][/base]`.
    """

    endpoint: str
    worker_id: str = ""  # "" = the head's own node
    uid: int = -1  # whose program it has to be, where it listens on a unix socket; -1 = anybody's
    keeps_prefix: bool = True  # does it know the path that it is found under, or is that taken away?
    headers: Mapping[str, str] = field(default_factory=dict)  # what lets us in; put in place of the client's


@dataclass(slots=True, frozen=True)
class Serving:
    """What a worker knows of one of its Jupyter servers. `last_activity_at`: epoch seconds, 0 = not known."""

    upstream: Upstream
    token: str
    answers: bool
    last_activity_at: float
