"""Tasks of two nodes: a real scheduler, two agents on one machine, the example that trains over plain sockets."""

import asyncio
import json
import socket
from pathlib import Path
from typing import Any

from fetchmld.store.content import ContentStore
from tests.actors.fake_scheduler import until
from tests.actors.test_dataset_ranking import Pair, pair

TRAIN = str(Path(__file__).resolve().parents[2] / "examples" / "gang" / "train_together.py")


async def started(cluster: Pair, task_id: str, **request: Any) -> None:
    asked = {"job_name": "gang", "entrypoint": TRAIN, "node_count": 2, **request}
    tasks = [{"id": task_id, "request": asked}]
    await cluster.ask("submit", user_id="ada", ip_address="", trace_id="", tasks=tasks)


async def ended(cluster: Pair, task_id: str) -> dict[str, Any]:
    view = (await cluster.client.request("wait", {"task_id": task_id, "timeout_s": 60.0}, timeout_s=60.0)).body
    assert view["status"] in ("completed", "failed"), view
    return dict(view)


def rendezvous(view: dict[str, Any]) -> str:
    return str(view["assignments"][0]["rendezvous"])


def test_two_gangs_train_side_by_side_each_at_its_own_place() -> None:
    async def story() -> None:
        async with pair() as cluster:
            await cluster.start_agent("one", 2)
            await cluster.start_agent("two", 2)
            await started(cluster, "g1")
            await started(cluster, "g2")
            first, second = await ended(cluster, "g1"), await ended(cluster, "g2")
            assert [first["status"], second["status"]] == ["completed", "completed"], (first, second)
            assert rendezvous(first) == "127.0.0.1:29500"
            assert rendezvous(second) == "127.0.0.1:29501"
            assert {node["worker_id"] for node in first["assignments"]} == {"one", "two"}
            master = cluster.directory / first["assignments"][0]["worker_id"]
            store = ContentStore(master / "objects")
            (left,) = json.loads(store.path(first["report"]["artifacts"]["manifest"]).read_bytes())
            model = json.loads(store.path(left["hash"]).read_bytes())
            assert (round(model["a"], 1), round(model["b"], 1)) == (3.0, -1.0)

    asyncio.run(story())


def test_when_one_member_fails_all_end() -> None:
    async def story() -> None:
        async with pair() as cluster:
            await cluster.start_agent("one", 2)
            await cluster.start_agent("two", 2)
            script = "test $FETCHML_NODE_RANK = 1 && exit 3; sleep 600"
            await started(cluster, "g1", entrypoint="/bin/sh -c", args=f"'{script}'")
            view = await ended(cluster, "g1")
            assert view["error"] == "EXIT_NONZERO: attempt 1 ended with exit status 3"
            await until(lambda: not any(agent._core.runs for agent in cluster.agents.values()), "the end of both")

    asyncio.run(story())


def test_a_port_that_a_stranger_has_costs_an_attempt_and_not_the_task() -> None:
    async def story() -> None:
        async with pair() as cluster:
            await cluster.start_agent("one", 2)
            await cluster.start_agent("two", 2)
            with socket.create_server(("127.0.0.1", 29500)):
                await started(cluster, "g1")
                view = await until_tried(cluster, "g1")
            assert view["retry_count"] == 1
            await cluster.ask("cancel", task_id="g1", user_id="ada", known_ended=False, ip_address="", trace_id="")

    asyncio.run(story())


async def until_tried(cluster: Pair, task_id: str) -> dict[str, Any]:
    async with asyncio.timeout(30):
        while not (view := await cluster.ask("view", task_id=task_id))["retry_count"]:
            await asyncio.sleep(0.02)
    return dict(view)


def test_a_gpu_that_fails_ends_its_task_there_and_starts_it_elsewhere(tmp_path: Path) -> None:
    def nvml(name: str, **fault: Any) -> str:
        file = tmp_path / f"{name}.json"
        part = file.with_suffix(".part")
        part.write_text(json.dumps({"gpus": [{"uuid": f"GPU-{name}", "name": "NVIDIA H200", **fault}]}))
        part.replace(file)
        return f"fake:{file}"

    async def story() -> None:
        async with pair() as cluster:
            await cluster.start_agent("one", 2, num_gpus=None, nvml_library=nvml("one"))
            asked = {"node_count": 1, "gpu": 1, "gpu_type": "H200", "entrypoint": "/bin/sleep 600"}
            await started(cluster, "t1", **asked)
            nvml("one", lost=True)
            view = await until_tried(cluster, "t1")
            assert view["status"] == "queued"
            (worker,) = await cluster.ask("workers")
            gpu = worker["gpus"][0]
            assert (gpu["status"], gpu["cause"]) == ("quarantined", "lost from the bus")
            asking = {"worker_id": "one", "index": 0, "user_id": "op", "ip_address": ""}
            nvml("one")
            assert (await cluster.ask("gpu_release", **asking))["gpus"][0]["status"] == "free"
            await cluster.ask("cancel", task_id="t1", user_id="ada", known_ended=False, ip_address="", trace_id="")

    asyncio.run(story())
