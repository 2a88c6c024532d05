"""What a joining machine asks a running cluster, as a process of its own: `python -m actors.ray_join`.

Ray's library ends the process that it is loaded into when the cluster has been out of reach for 15 s. A machine that waits
for its head's return must not end, so its daemon never loads Ray; this small program does, and reports in JSON lines.
Standard input is one JSON object: `address` of the GCS, `node_id` of the raylet that will start, `worker_id` and `settings`
of the machine, `token_file` that its user knows the token by. Output: `{"cluster_id", "session"}`, then, once the raylet
has registered, `{"joined": true}`; or `{"error", "final"}`, where another try would not help when it is final.
"""

import json
import sys
import time
from typing import Any, Final

from actors.ray_commands import MEMBER_LABEL
from actors.ray_compat import (
    ABOUT_KEY,
    MEMBER_KEY,
    OUR_KV,
    RPC_TIMEOUT_S,
    RayFailed,
    RayHopeless,
    RayWrongToken,
    gcs_client,
    versions,
)

JOIN_TIMEOUT_S: Final = 60.0
POLL_S: Final = 0.05
TWIN_ENDS_S: Final = 15.0  # a machine that changed its address: Ray has noticed by then that the last one is gone


class Twin(RayHopeless):
    """Another machine is there as the worker that we are."""


class WrongVersion(RayHopeless):
    """The head runs something that does not fit ours."""


def main() -> None:
    wish = json.loads(sys.stdin.read())
    try:
        client = gcs_client(wish["address"])
        say(open_cluster(client, wish))
        wait_for_node(client, wish["node_id"])
        say({"joined": True})
    except RayWrongToken:
        text = f"the head at {wish['address']} refused the token in {wish['token_file']}; copy its join.token anew"
        say({"error": text, "final": True})
    except RayFailed as error:
        say({"error": str(error), "final": isinstance(error, RayHopeless)})
    except Exception as error:  # noqa: BLE001 - Ray's own errors are many, and the daemon wants to hear of each
        say({"error": f"{type(error).__name__}: {error}", "final": False})


def open_cluster(client: Any, wish: dict[str, Any]) -> dict[str, Any]:
    """Compare versions, leave our settings for the head, and learn what the raylet must be told."""
    found = client.internal_kv_get(ABOUT_KEY, OUR_KV, timeout=RPC_TIMEOUT_S)
    if found is None:
        raise RayFailed(f"the Ray cluster at {wish['address']} is not FetchML's, or is still starting")
    about = json.loads(found)
    check_versions(about)
    wait_for_no_twin(client, wish)
    settings = json.dumps(wish["settings"]).encode()
    client.internal_kv_put(MEMBER_KEY + wish["worker_id"].encode(), settings, True, OUR_KV, timeout=RPC_TIMEOUT_S)
    return {"cluster_id": client.cluster_id.hex(), "session": about["session"]}


def check_versions(about: dict[str, Any]) -> None:
    """Raises `WrongVersion` naming the first that differs."""
    for name, ours in versions().items():
        if about.get(name) != ours:
            raise WrongVersion(
                f"the head runs {name} {about.get(name)}, this machine {ours}; install the same version on both"
            )


def wait_for_no_twin(client: Any, wish: dict[str, Any]) -> None:
    """Return once no other machine is this worker: a data directory that was copied has its id as well.

    What is at our own address is our own last stay. Raises `Twin`.
    """
    deadline = time.monotonic() + TWIN_ENDS_S
    while twin := _twin(client, wish):
        if time.monotonic() > deadline:
            worker_id = wish["worker_id"]
            raise Twin(
                f"{twin} has joined as worker {worker_id}, which this data directory says of itself as well; it must not "
                "be a copy of another machine's: start with an empty one"
            )
        time.sleep(POLL_S)


def _twin(client: Any, wish: dict[str, Any]) -> str:
    """The address of another machine that is this worker; nothing where there is none."""
    worker_id, ours = wish["worker_id"], wish["settings"]["address"]
    for node in client.get_all_node_info(timeout=RPC_TIMEOUT_S).values():
        is_alive = node.state == 0  # GcsNodeInfo.ALIVE, whose module takes a while to load
        if is_alive and node.labels.get(MEMBER_LABEL) == worker_id and node.node_manager_address != ours:
            return str(node.node_manager_address)
    return ""


def wait_for_node(client: Any, node_id: str) -> None:
    deadline = time.monotonic() + JOIN_TIMEOUT_S
    while time.monotonic() < deadline:
        if any(found.hex() == node_id for found in client.get_all_node_info(timeout=RPC_TIMEOUT_S)):
            return
        time.sleep(POLL_S)
    raise RayFailed(f"the raylet has not joined within {JOIN_TIMEOUT_S:g} s")


def say(line: dict[str, Any]) -> None:
    print(json.dumps(line), flush=True)


if __name__ == "__main__":
    main()
