"""A stand-in for NVML that reads a JSON file at every call, for tests: who edits it breaks a GPU. No GPU is behind it.

`{"gpus": [{"uuid", "name", "memory_mb", "used_mb", "utilization", "processes": [pid], "ecc", "lost", "hang_s",
"mig": [{"uuid", "name", "memory_mb"}]}], "events": [[uuid, xid]]}`; all but uuid may be left out. Events are told once
each, in order; a GPU that is `lost` is still counted, and fails at every question.
"""

import json
import time
from pathlib import Path
from types import SimpleNamespace
from typing import Any, Final

import pynvml

_POLL_S: Final = 0.02


class FakeNvml:
    """Has the functions of `pynvml` that FetchML uses, and their errors."""

    def __init__(self, path: str) -> None:
        self._path = Path(path)
        self._last: dict[str, Any] = {"gpus": []}
        self._told = 0

    def _read(self) -> dict[str, Any]:
        try:
            self._last = json.loads(self._path.read_text())
        except (OSError, ValueError):  # it is being written
            pass
        return self._last

    def _of(self, uuid: str) -> dict[str, Any]:
        for gpu in self._read()["gpus"]:
            for each in (gpu, *gpu.get("mig", ())):
                if each["uuid"] == uuid:
                    time.sleep(gpu.get("hang_s", 0))
                    if gpu.get("lost"):
                        raise pynvml.NVMLError(pynvml.NVML_ERROR_GPU_IS_LOST)
                    return dict(each)
        raise pynvml.NVMLError(pynvml.NVML_ERROR_GPU_IS_LOST)

    def nvmlDeviceGetCount(self) -> int:
        return len(self._read()["gpus"])

    def nvmlDeviceGetHandleByIndex(self, index: int) -> str:
        return str(self._read()["gpus"][index]["uuid"])

    def nvmlDeviceGetUUID(self, handle: str) -> str:
        return handle

    def nvmlDeviceGetName(self, handle: str) -> str:
        return str(self._of(handle).get("name", "NVIDIA FAKE"))

    def nvmlDeviceGetMemoryInfo(self, handle: str) -> SimpleNamespace:
        gpu = self._of(handle)
        return SimpleNamespace(total=gpu.get("memory_mb", 1024) * 2**20, used=gpu.get("used_mb", 0) * 2**20)

    def nvmlDeviceGetTotalEccErrors(self, handle: str, kind: int, counter: int) -> int:
        return int(self._of(handle).get("ecc", 0))

    def nvmlDeviceGetUtilizationRates(self, handle: str) -> SimpleNamespace:
        return SimpleNamespace(gpu=self._of(handle).get("utilization", 0))

    def nvmlDeviceGetComputeRunningProcesses(self, handle: str) -> list[SimpleNamespace]:
        return [SimpleNamespace(pid=pid) for pid in self._of(handle).get("processes", ())]

    def nvmlDeviceGetMigMode(self, handle: str) -> list[int]:
        if "mig" not in self._of(handle):
            raise pynvml.NVMLError(pynvml.NVML_ERROR_NOT_SUPPORTED)
        return [pynvml.NVML_DEVICE_MIG_ENABLE, pynvml.NVML_DEVICE_MIG_ENABLE]

    def nvmlDeviceGetMaxMigDeviceCount(self, handle: str) -> int:
        return 7

    def nvmlDeviceGetMigDeviceHandleByIndex(self, handle: str, index: int) -> str:
        parts = self._of(handle)["mig"]
        if index >= len(parts):
            raise pynvml.NVMLError(pynvml.NVML_ERROR_NOT_FOUND)
        return str(parts[index]["uuid"])

    def nvmlEventSetCreate(self) -> object:
        return self

    def nvmlDeviceRegisterEvents(self, handle: str, kinds: int, events: object) -> None:
        self._of(handle)

    def nvmlEventSetWait_v2(self, events: object, timeout_ms: int) -> SimpleNamespace:
        until = time.monotonic() + timeout_ms / 1000
        while time.monotonic() < until:
            happened = self._read().get("events", [])
            if self._told < len(happened):
                uuid, xid = happened[self._told]
                self._told += 1
                return SimpleNamespace(device=uuid, eventType=pynvml.nvmlEventTypeXidCriticalError, eventData=xid)
            time.sleep(_POLL_S)
        raise pynvml.NVMLError(pynvml.NVML_ERROR_TIMEOUT)
