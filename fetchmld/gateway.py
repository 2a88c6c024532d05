"""`connect()`: the cluster's gateway for programs that run inside it on Ray, with Ray's own calling style.

    h = fetchmld.connect()
    ref = h.submit.remote({"job_name": "hello", "entrypoint": "/bin/echo"})
    task = ray.get(ref)
    ended = ray.get(h.wait.remote(task["id"]))

Plain dictionaries of the API's shapes go in and come out, and an error of the API is raised by `ray.get`, by its own
class of `fetchmld.core.errors`. Whoever is in the cluster is trusted with it: the user is that of `api_key`, where one is
given, else `ray:<user of the operating system>`, by the program's own word.
"""

import getpass
import os
import time
from typing import Any, Final

from fetchmld.core.errors import Unavailable

NAMESPACE: Final = "fetchmld"
DOOR: Final = "head"
RETRIES: Final = 20  # of one call, by Ray, while the actor is killed and started anew: each submit goes with a key
AWAY_MAX_S: Final = 60.0
PAUSE_S: Final = 0.1


def connect(api_key: str | None = None) -> "Gateway":
    """The gateway of the cluster that this process is in. `api_key` (else `FETCHML_API_KEY`) says who asks.

    Raises RuntimeError outside a cluster, `Unavailable` where it has no FetchML.
    """
    import ray

    if not ray.is_initialized():
        raise RuntimeError("connect() is for programs inside a Ray cluster: call ray.init(address=...) first")
    gateway = Gateway(api_key or os.environ.get("FETCHML_API_KEY") or "")
    gateway.door()
    return gateway


class Gateway:
    """The gateway. Every method has `remote`, which returns what `ray.get` takes; it can be sent to tasks and actors.

    submit   a CreateTaskRequest (the Task), or a list of them (for each `{"status", "task" or "error"}`); with
             `idempotency_key` a request that is sent again makes nothing twice
    status   the id of a task: the Task
    wait     the id of a task: the Task once it has ended
    cancel   the id of a task: None, once it is on record
    """

    def __init__(self, api_key: str = "") -> None:
        self._who = {"api_key": api_key, "user": getpass.getuser()}
        self.submit = Method(self, "submit")
        self.status = Method(self, "status")
        self.wait = Method(self, "wait")
        self.cancel = Method(self, "cancel")

    def door(self) -> Any:
        """The actor that answers, as it is named now: after a restart it may be another one. Waits for up to a minute."""
        import ray

        deadline = time.monotonic() + AWAY_MAX_S
        while True:
            try:
                return ray.get_actor(DOOR, namespace=NAMESPACE)
            except ValueError:
                if time.monotonic() >= deadline:
                    raise Unavailable(
                        f"this Ray cluster has no actor {DOOR!r} in the namespace {NAMESPACE!r}"
                    ) from None
            time.sleep(PAUSE_S)

    def ask(self, what: str, about: Any, **more: Any) -> Any:
        """A reference to the answer."""
        return self.door().native.options(max_task_retries=RETRIES).remote(what, about, {**self._who, **more})


class Method:
    """One method of the gateway, to be called as Ray's are."""

    def __init__(self, gateway: Gateway, what: str) -> None:
        self._gateway = gateway
        self._what = what

    def remote(self, about: Any, *, idempotency_key: str | None = None) -> Any:
        """Ask; what `ray.get` and `await` take. `idempotency_key` is for `submit`: chosen here where none is given."""
        key = idempotency_key or os.urandom(16).hex()
        return self._gateway.ask(self._what, about, **({"key": key} if self._what == "submit" else {}))
