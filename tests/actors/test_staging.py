"""A task's datasets are fetched while others use the GPUs that it will get: a real scheduler and agent, a slow server."""

import asyncio
import threading
from pathlib import Path
from typing import Any

import pytest

from actors import staging
from actors.staging import Stager
from fetchmld.core.model import DatasetSpec
from fetchmld.store.dataset_cache import Dataset
from fetchmld.store.datasets import DatasetError
from tests.actors.test_dataset_ranking import pair
from tests.store.test_datasets import BODY, SUM, Site

SPEC = DatasetSpec(name="d", source="https://h.example/d", mount_path="data/d", sha256=SUM)


def test_others_have_the_gpu_while_the_dataset_comes() -> None:
    async def story(site: Site) -> list[tuple[str, str, bool]]:
        async with pair() as cluster:
            await cluster.start_agent("g", 4, num_gpus=1, gpu_type="FAKE", private_hosts=True)
            specs = [{"name": "d", "source": f"{site.url}/d", "mount_path": "data/d", "sha256": SUM}]
            asked = {"job_name": "job", "entrypoint": "/bin/true", "gpu": 1, "dataset_specs": specs}
            await cluster.ask(
                "submit", user_id="ada", ip_address="", trace_id="", tasks=[{"id": "t1", "request": asked}]
            )
            view = await cluster.ask("view", task_id="t1")
            assert view["status"] == "queued"
            assert "before it is given GPUs" in view["wait_reason"]
            assert await cluster.where("t2", gpu=1) == "g"
            assert (await cluster.ask("view", task_id="t1"))["status"] == "queued"
            assert site.go_on is not None
            site.go_on.set()
            ended = await cluster.ask("wait", task_id="t1", timeout_s=20.0)
            assert ended["status"] == "completed", ended
            return await cluster.reads()

    with Site({"/d": (200, {}, BODY)}) as site:
        site.go_on = threading.Event()
        assert asyncio.run(story(site)) == [("t1", "g", True)]
        assert site.asked == ["/d"]


def test_a_dataset_that_cannot_be_had_ends_the_attempt_in_its_own_words() -> None:
    async def story(site: Site) -> dict[str, Any]:
        async with pair() as cluster:
            await cluster.start_agent("g", 4, num_gpus=1, gpu_type="FAKE", private_hosts=True)
            specs = [{"name": "d", "source": f"{site.url}/d", "mount_path": "data/d", "sha256": "0" * 64}]
            asked = {"job_name": "job", "entrypoint": "/bin/true", "gpu": 1, "dataset_specs": specs}
            await cluster.ask(
                "submit", user_id="ada", ip_address="", trace_id="", tasks=[{"id": "t1", "request": asked}]
            )
            found: dict[str, Any] = await cluster.ask("wait", task_id="t1", timeout_s=20.0)
            return found

    with Site({"/d": (200, {}, BODY)}) as site:
        ended = asyncio.run(story(site))
    assert ended["status"] == "failed"
    assert "DATASET_MISMATCH" in ended["error"]


class Store:
    """A node's datasets, as far as a stager sees them."""

    def __init__(self) -> None:
        self.pins = 0
        self.outcome: Any = Dataset(Path("/d"), SUM, 5, False)
        self.gate = asyncio.Event()

    async def get(self, spec: DatasetSpec, say: Any) -> Dataset:
        say("half")
        await self.gate.wait()
        if isinstance(self.outcome, Exception):
            raise self.outcome
        self.pins += 1
        assert isinstance(self.outcome, Dataset)
        return self.outcome

    def let_go(self, _dataset: Dataset) -> None:
        self.pins -= 1


def staged(story: Any) -> list[tuple[str, str, bool]]:
    said: list[tuple[str, str, bool]] = []

    async def run() -> None:
        store = Store()
        stager = Stager(store, lambda *what: said.append(what))  # type: ignore[arg-type]
        await story(stager, store)
        await stager.close()
        assert store.pins == 0

    asyncio.run(run())
    return said


async def settle() -> None:
    for _ in range(5):
        await asyncio.sleep(0)


def test_what_is_there_is_kept_until_the_attempt_has_it_and_said_again_when_asked(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    async def story(stager: Stager, store: Store) -> None:
        stager.stage("t", [SPEC, SPEC])
        stager.stage("t", [SPEC, SPEC])
        store.gate.set()
        await settle()
        assert store.pins == 2
        stager.stage("t", [SPEC, SPEC])
        stager.drop("t")
        assert store.pins == 0
        monkeypatch.setattr(staging, "KEEP_S", 0.0)
        stager.stage("t", [SPEC])
        await settle()
        await asyncio.sleep(0.01)
        assert store.pins == 0  # nobody came for it

    said = staged(story)
    assert said[:2] == [("t", "half", False)] * 2
    assert [one for one in said if one[2]] == [("t", "", True)] * 3


@pytest.mark.parametrize("error", [DatasetError("DATASET_MISMATCH", "x"), RuntimeError("a mistake")])
def test_however_it_ends_the_task_need_not_wait(error: Exception) -> None:
    async def story(stager: Stager, store: Store) -> None:
        store.outcome = error
        store.gate.set()
        stager.stage("t", [SPEC])
        await settle()

    assert staged(story)[-1] == ("t", "", True)


def test_what_is_dropped_is_given_up() -> None:
    async def story(stager: Stager, store: Store) -> None:
        stager.stage("t", [SPEC])
        await settle()
        stager.drop("t")
        stager.drop("unknown")
        store.gate.set()
        await settle()
        assert store.pins == 0

    assert staged(story) == [("t", "half", False)]
