"""Names of products, MIG devices, and indices that stay with their GPU."""

import json
from pathlib import Path

import pytest

from fetchmld.gpus.fake_nvml import FakeNvml
from fetchmld.gpus.inventory import devices, gpu_type, mig_type, numbered


@pytest.mark.parametrize(
    ("name", "kind"),
    [
        ("NVIDIA H200", "H200"),
        ("NVIDIA H100 80GB HBM3", "H100-80GB"),
        ("NVIDIA A100-SXM4-80GB", "A100-80GB"),
        ("NVIDIA A100-PCIE-40GB", "A100-40GB"),
        ("Tesla V100-SXM2-32GB", "V100-32GB"),
        ("Tesla T4", "T4"),
        ("NVIDIA L40S", "L40S"),
        ("NVIDIA GeForce RTX 4090", "RTX-4090"),
        ("NVIDIA RTX A6000", "RTX-A6000"),
        ("", "GPU"),
    ],
)
def test_a_type_is_short_and_says_the_memory_where_the_name_does(name: str, kind: str) -> None:
    assert gpu_type(name) == kind


def test_a_mig_device_is_named_by_model_and_profile() -> None:
    assert mig_type("NVIDIA A100-SXM4-80GB", "NVIDIA A100-SXM4-80GB MIG 1g.10gb") == "A100-1g.10gb"


def test_whole_gpus_and_the_parts_of_one_that_is_cut(tmp_path: Path) -> None:
    file = tmp_path / "gpus.json"
    parts = [{"uuid": f"MIG-{i}", "name": "NVIDIA A100-SXM4-80GB MIG 3g.40gb", "memory_mb": 40192} for i in range(2)]
    cut = {"uuid": "GPU-b", "name": "NVIDIA A100-SXM4-80GB", "mig": parts}
    file.write_text(json.dumps({"gpus": [{"uuid": "GPU-a", "name": "NVIDIA H200", "memory_mb": 143771}, cut]}))
    found = [device.gpu for device in devices(FakeNvml(str(file)))]
    shown = [(gpu.index, gpu.type, gpu.uuid, gpu.memory_mb) for gpu in found]
    assert shown == [
        (0, "H200", "GPU-a", 143771),
        (1, "A100-3g.40gb", "MIG-0", 40192),
        (2, "A100-3g.40gb", "MIG-1", 40192),
    ]


def test_an_index_stays_with_its_gpu(tmp_path: Path) -> None:
    source, file = tmp_path / "gpus.json", tmp_path / "indices.json"

    def seen(*names: str) -> dict[str, int]:
        source.write_text(json.dumps({"gpus": [{"uuid": name} for name in names]}))
        found = numbered(devices(FakeNvml(str(source))), file)
        assert [device.gpu.index for device in found] == sorted(device.gpu.index for device in found)
        return {device.gpu.uuid: device.gpu.index for device in found}

    assert seen("a", "b", "c") == {"a": 0, "b": 1, "c": 2}
    assert seen("b", "c") == {"b": 1, "c": 2}, "NVML would count them from 0"
    assert seen("c", "d", "b") == {"b": 1, "c": 2, "d": 3}, "a may come back"
    assert seen("a", "b", "c", "d") == {"a": 0, "b": 1, "c": 2, "d": 3}
