"""An agent on a node whose GPUs are a fake NVML's: what it offers, what it says of them, what an attempt left there."""

import json
import tempfile
from collections.abc import Awaitable, Callable
from pathlib import Path
from typing import Any

from actors.gpus import NodeGpus
from fetchmld.config import Config
from tests.actors.fake_scheduler import Node, on_node, until
from tests.actors.test_agent import sh

Gpu = dict[str, Any]
GOOD: list[Gpu] = [
    {"uuid": "GPU-a", "name": "NVIDIA H200", "memory_mb": 143771, "used_mb": 5},
    {"uuid": "GPU-b", "name": "NVIDIA H200", "memory_mb": 143771},
]


def on_gpus(story: Callable[[Node, Callable[[list[Gpu]], None]], Awaitable[None]], **settings: Any) -> None:
    with tempfile.TemporaryDirectory(prefix="fml-") as directory:
        file = Path(directory) / "nvml.json"

        def say(gpus: list[Gpu]) -> None:
            part = file.with_suffix(".part")
            part.write_text(json.dumps({"gpus": gpus}))
            part.replace(file)

        async def tell(node: Node) -> None:
            await story(node, say)

        say(GOOD)
        on_node(tell, **{"nvml_library": f"fake:{file}", "num_gpus": None, "gpu_type": "", **settings})


def test_what_is_found_is_offered_and_its_use_is_said() -> None:
    async def story(node: Node, _: Callable[[list[Gpu]], None]) -> None:
        hello = await node.scheduler.heard("hello")
        assert hello["capacity"]["gpus"][0] == {"index": 0, "type": "H200", "uuid": "GPU-a", "memory_mb": 143771}
        assert hello["detail"]["gpus"].startswith("fake NVML"), "nobody takes it for a real one"
        await until(lambda: any("gpu_use" in beat for beat in node.scheduler.all("beat")), "the use")
        use = next(beat["gpu_use"] for beat in node.scheduler.all("beat") if "gpu_use" in beat)
        assert use["GPU-a"] == {"used_mb": 5, "utilization": 0, "processes": 0}
        report = await node.run("a", gpus=[1], **sh("echo $CUDA_VISIBLE_DEVICES"))
        assert report["exit_code"] == 0
        assert await node.output("a") == b"GPU-b\n"

    on_gpus(story)


def test_a_fault_is_said_with_a_heartbeat_and_before_the_end_that_it_caused() -> None:
    async def story(node: Node, say: Callable[[list[Gpu]], None]) -> None:
        node.launch("a", gpus=[1], **sh("sleep 60"))
        await node.scheduler.heard("phase", "a")
        say([GOOD[0], {**GOOD[1], "lost": True}])
        await until(lambda: any("gpu_faults" in beat for beat in node.scheduler.all("beat")), "the fault")
        faults = next(beat["gpu_faults"] for beat in node.scheduler.all("beat") if "gpu_faults" in beat)
        assert faults == {"GPU-b": "lost from the bus"}
        node.stop("a", "GPU_LOST")
        report = await node.scheduler.ended("a")
        assert report.get("word") == "GPU_LOST", report
        kinds = [kind for kind, body in node.scheduler.said if kind == "ended" or "gpu_faults" in body]
        assert kinds.index("ended") > 0

    on_gpus(story)


def test_a_fault_that_nobody_saw_yet_is_said_before_the_end() -> None:
    async def story(node: Node, say: Callable[[list[Gpu]], None]) -> None:
        flag = node.directory / "go"
        node.launch("a", gpus=[0], **sh(f"until test -e {flag}; do sleep 0.05; done; exit 1"))
        await node.scheduler.heard("phase", "a")
        say([{**GOOD[0], "ecc": 1}, GOOD[1]])
        flag.touch()
        assert (await node.scheduler.ended("a"))["exit_code"] == 1
        kinds = [kind for kind, body in node.scheduler.said if kind == "ended" or body.get("gpu_faults")]
        assert kinds[0] == "beat", "so that the GPU is blamed, and not the program"

    on_gpus(story, heartbeat_s=30)


def test_memory_that_an_attempt_left_in_use_is_said_with_its_end() -> None:
    async def story(node: Node, say: Callable[[list[Gpu]], None]) -> None:
        say([GOOD[0], {**GOOD[1], "used_mb": 700, "processes": [4242]}])
        report = await node.run("a", gpus=[1], **sh("true"))
        assert report["detail"] == "left behind: GPU-b has 700 MB in use by 1 processes"
        assert "detail" not in await node.run("b", gpus=[0], **sh("true")), "that is not its GPU"

    on_gpus(story)


def test_an_index_outlives_the_agent_and_the_gpu_before_it() -> None:
    async def story(node: Node, say: Callable[[list[Gpu]], None]) -> None:
        say(GOOD[1:])
        await node.restart_agent()
        (gpu,) = node.scheduler.all("hello")[-1]["capacity"]["gpus"]
        assert (gpu["index"], gpu["uuid"]) == (1, "GPU-b")

    on_gpus(story)


def test_declared_gpus_are_names_or_the_first_of_those_found(tmp_path: Path) -> None:
    file = tmp_path / "nvml.json"
    file.write_text(json.dumps({"gpus": GOOD}))
    (tmp_path / "node").mkdir()

    def found(count: int | None, kind: str = "", library: str = f"fake:{file}") -> tuple[list[str], str]:
        gpus = NodeGpus(Config(data_dir=tmp_path, num_gpus=count, gpu_type=kind, nvml_library=library))
        return [f"{gpu.type} {gpu.uuid}" for gpu in gpus.find()], gpus.source.partition(":")[0]

    assert found(None)[0] == ["H200 GPU-a", "H200 GPU-b"]
    assert found(1, "X")[0] == ["X GPU-a"]
    assert found(3, "X") == (["X 0", "X 1", "X 2"], "declared")
    assert found(0)[0] == []
