"""What a watch finds wrong, on the fake NVML; and on a real GPU where there is one."""

import json
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import pytest

from fetchmld.gpus import nvml, watch
from fetchmld.gpus.inventory import devices
from fetchmld.gpus.watch import GpuWatch

TWO: list[dict[str, Any]] = [{"uuid": "GPU-a", "used_mb": 10, "utilization": 50, "processes": [7]}, {"uuid": "GPU-b"}]


class Fake:
    def __init__(self, path: Path) -> None:
        self.path = path

    def say(self, gpus: list[dict[str, Any]] | None = None, events: list[Any] | None = None) -> None:
        part = self.path.with_suffix(".part")
        part.write_text(json.dumps({"gpus": gpus or TWO, "events": events or []}))
        part.replace(self.path)


@contextmanager
def watched(tmp_path: Path, gpus: list[dict[str, Any]] | None = None) -> Iterator[tuple[GpuWatch, Fake]]:
    fake = Fake(tmp_path / "nvml.json")
    fake.say(gpus)
    library, name = nvml.opened(f"fake:{fake.path}")
    assert name.startswith("fake NVML"), "it says that it is one"
    found = GpuWatch(library, devices(library), look_s=0.05)
    found.start()
    try:
        yield found, fake
    finally:
        found.close()


def until(check: Callable[[], Any]) -> Any:
    end = time.monotonic() + 20
    while not (value := check()):
        assert time.monotonic() < end, "never"
        time.sleep(0.01)
    return value


def test_use_is_measured(tmp_path: Path) -> None:
    with watched(tmp_path) as (found, _):
        use = until(found.use)
        assert use["GPU-a"] == {"used_mb": 10, "utilization": 50, "processes": 1}
        assert found.faults() == {}


@pytest.mark.parametrize(
    ("change", "cause"),
    [({"lost": True}, "lost from the bus"), ({"ecc": 3}, "3 uncorrectable ECC errors since the driver was loaded")],
)
def test_a_gpu_that_fails_is_named_with_the_cause_and_is_well_again(
    tmp_path: Path, change: dict[str, Any], cause: str
) -> None:
    with watched(tmp_path) as (found, fake):
        fake.say([TWO[0], {**TWO[1], **change}])
        assert until(found.faults) == {"GPU-b": cause}
        fake.say()
        until(lambda: not found.faults())


def test_an_xid_counts_unless_it_is_the_programs_own(tmp_path: Path) -> None:
    with watched(tmp_path) as (found, fake):
        fake.say(events=[["GPU-a", 13], ["GPU-b", 79]])
        assert until(found.faults) == {"GPU-b": "Xid 79"}


def test_a_fault_of_a_gpu_is_one_of_all_its_parts(tmp_path: Path) -> None:
    parts = [{"uuid": "MIG-0", "name": "X MIG 1g.10gb"}, {"uuid": "MIG-1", "name": "X MIG 1g.10gb"}]
    with watched(tmp_path, [TWO[0], {"uuid": "GPU-b", "mig": parts}]) as (found, fake):
        fake.say([TWO[0], {"uuid": "GPU-b", "mig": parts, "lost": True}])
        assert until(found.faults).keys() == {"MIG-0", "MIG-1"}


def test_a_driver_that_does_not_answer_is_a_fault(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(watch, "HANG_S", 0.2)
    with watched(tmp_path) as (found, fake):
        until(found.use)
        fake.say([TWO[0], {**TWO[1], "hang_s": 1}])
        assert until(found.faults) == {"GPU-b": "the driver has not answered about it for 0.2 s"}
        fake.say()
        until(lambda: not found.faults())


def test_what_is_left_in_use_is_told_once_patience_is_over(tmp_path: Path) -> None:
    with watched(tmp_path) as (found, fake):
        assert found.left_on(["GPU-b"]) == []
        assert found.left_on(["GPU-a"], within_s=0) == ["GPU-a has 10 MB in use by 1 processes"]
        fake.say([{"uuid": "GPU-a"}, TWO[1]])
        assert found.left_on(["GPU-a"]) == []


def test_a_real_gpu() -> None:
    library, name = nvml.opened("")
    if library is None or not devices(library):
        pytest.skip("this machine has no NVIDIA driver, or no GPU: nothing of this was tried on a real one")
    assert name.startswith("NVML, driver")
    found = GpuWatch(library, devices(library))
    found.start()
    try:
        use = until(found.use)
        assert all(each["used_mb"] > 0 for each in use.values())
        assert found.faults() == {}
    finally:
        found.close()
