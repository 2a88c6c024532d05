"""Which GPUs a node offers: whole ones, and the MIG devices of those that are cut into such.

The type that users ask for is short: the product's model, and its memory where the product's name says it, as models are
sold with several: "NVIDIA H200" is `H200`, "NVIDIA A100-SXM4-80GB" is `A100-80GB`, "NVIDIA GeForce RTX 4090" is
`RTX-4090`. A MIG device is the model and its profile: `A100-1g.10gb`.
"""

import json
import logging
import os
import re
from collections.abc import Iterator
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any, Final

from fetchmld.core.model import Gpu
from fetchmld.gpus.nvml import text

log = logging.getLogger(__name__)

_BRANDS: Final = re.compile(r"^((NVIDIA|Tesla|GeForce|Quadro)\s+)+")
_MIB: Final = 2**20


@dataclass(slots=True, frozen=True)
class Device:
    """One thing that a task can hold: a GPU, or a MIG device of it. `parent` is the handle of the GPU itself."""

    gpu: Gpu
    handle: Any
    parent: Any
    parent_uuid: str


def devices(nvml: Any) -> list[Device]:
    """All that can be read, numbered in NVML's order."""
    found = [device for index in range(nvml.nvmlDeviceGetCount()) for device in _at(nvml, index)]
    return [replace(device, gpu=replace(device.gpu, index=index)) for index, device in enumerate(found)]


def _at(nvml: Any, index: int) -> list[Device]:
    from pynvml import NVMLError

    try:
        handle = nvml.nvmlDeviceGetHandleByIndex(index)
        name, uuid = text(nvml.nvmlDeviceGetName(handle)), text(nvml.nvmlDeviceGetUUID(handle))
        if _is_cut(nvml, handle):
            return [Device(gpu, part, handle, uuid) for gpu, part in _parts(nvml, handle, name)]
        return [Device(Gpu(0, gpu_type(name), uuid, _memory_mb(nvml, handle)), handle, handle, uuid)]
    except NVMLError as error:
        log.error("gpus.unreadable index=%d error=%s", index, error)
        return []


def _is_cut(nvml: Any, handle: Any) -> bool:
    from pynvml import NVML_DEVICE_MIG_ENABLE, NVMLError

    try:
        return bool(nvml.nvmlDeviceGetMigMode(handle)[0] == NVML_DEVICE_MIG_ENABLE)
    except NVMLError:  # it has no such mode
        return False


def _parts(nvml: Any, handle: Any, name: str) -> Iterator[tuple[Gpu, Any]]:
    from pynvml import NVMLError_NotFound

    for index in range(nvml.nvmlDeviceGetMaxMigDeviceCount(handle)):
        try:
            part = nvml.nvmlDeviceGetMigDeviceHandleByIndex(handle, index)
        except NVMLError_NotFound:
            continue
        kind = mig_type(name, text(nvml.nvmlDeviceGetName(part)))
        yield Gpu(0, kind, text(nvml.nvmlDeviceGetUUID(part)), _memory_mb(nvml, part)), part


def _memory_mb(nvml: Any, handle: Any) -> int:
    return int(nvml.nvmlDeviceGetMemoryInfo(handle).total // _MIB)


def gpu_type(name: str) -> str:
    """The short type of a product: see the module."""
    words = _BRANDS.sub("", name.strip())
    if words.startswith(("RTX", "GTX", "TITAN")):
        return "-".join(words.split())
    model = re.split(r"[\s-]", words)[0] or "GPU"
    size = re.search(r"\b(\d+) ?GB\b", words)
    return f"{model}-{size[1]}GB" if size else model


def mig_type(name: str, part_name: str) -> str:
    """The type of a MIG device, from its GPU's name and its own ("NVIDIA A100-SXM4-80GB MIG 1g.10gb")."""
    return f"{gpu_type(name).split('-')[0]}-{part_name.rpartition('MIG ')[2].strip()}"


def numbered(found: list[Device], file: Path) -> list[Device]:
    """`found`, each with the index that it had before: NVML counts anew when a GPU is gone, and tasks hold indices."""
    try:
        known: dict[str, int] = json.loads(file.read_text())
    except (FileNotFoundError, ValueError):
        known = {}
    present = {device.gpu.uuid for device in found}
    taken = {known[uuid] for uuid in present if uuid in known}
    indices = {uuid: index for uuid, index in known.items() if uuid in present or index not in taken}
    fresh = (index for index in range(len(found) + len(indices)) if index not in indices.values())
    for device in found:
        if device.gpu.uuid not in indices:
            indices[device.gpu.uuid] = next(fresh)
    if indices != known:
        part = file.with_suffix(".part")
        part.write_text(json.dumps(indices))
        os.replace(part, file)
    again = [replace(device, gpu=replace(device.gpu, index=indices[device.gpu.uuid])) for device in found]
    return sorted(again, key=lambda device: device.gpu.index)
