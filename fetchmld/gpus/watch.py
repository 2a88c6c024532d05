"""How a node's GPUs are: a thread of its own looks at them, since a call to the driver of a broken GPU may not return.

It takes Xid events as they come, and every two seconds asks each GPU whether it is there, has uncorrectable ECC errors, and
what is used of it. Whoever asks here gets the last answer at once, and a GPU that keeps the driver busy counts as broken.
"""

import logging
import threading
import time
from collections.abc import Collection, Iterator
from typing import Any, Final

from pynvml import (
    NVML_ERROR_GPU_IS_LOST,
    NVML_ERROR_RESET_REQUIRED,
    NVML_ERROR_TIMEOUT,
    NVML_ERROR_UNKNOWN,
    NVML_MEMORY_ERROR_TYPE_UNCORRECTED,
    NVML_VOLATILE_ECC,
    NVMLError,
    nvmlEventTypeDoubleBitEccError,
    nvmlEventTypeXidCriticalError,
)

from fetchmld.core.model import GpuUse
from fetchmld.gpus.inventory import Device
from fetchmld.gpus.nvml import text

log = logging.getLogger(__name__)

LOOK_S: Final = 2.0
WAIT_MS: Final = 500
HANG_S: Final = 5.0  # with the time between two looks and a heartbeat, under 10 s
SHOWN_S: Final = 60.0  # how long an event counts as a fault: it has to reach the scheduler, restarts included
PROGRAM_XIDS: Final = frozenset({13, 31, 43, 45, 68, 109})  # the program's own faults, as NVIDIA's device plugin has it
UNKNOWN: Final = -1
_GONE: Final = {
    NVML_ERROR_GPU_IS_LOST: "lost from the bus",
    NVML_ERROR_RESET_REQUIRED: "needs a reset",
    NVML_ERROR_UNKNOWN: "the driver fails with an unknown error",
}


class GpuWatch:
    """Of the `devices` of one NVML. `start` it, ask it, `close` it."""

    def __init__(self, nvml: Any, devices: list[Device], look_s: float = LOOK_S) -> None:
        self._nvml, self._devices, self._look_s = nvml, devices, look_s
        self._parents = {device.parent_uuid: device.parent for device in devices}
        self._faults: dict[str, str] = {}  # of whole GPUs, as of the last look
        self._events: dict[str, tuple[float, str]] = {}
        self._use: dict[str, GpuUse] = {}
        self._asked: tuple[str, float] = ("", 0.0)  # which GPU the driver is asked about, since when
        self._looking = threading.Lock()
        self._closing = threading.Event()
        self._thread = threading.Thread(target=self._run, name="gpus", daemon=True)

    def start(self) -> None:
        self._thread.start()

    def close(self) -> None:
        """Ask the thread to end; one that hangs in the driver is left behind."""
        self._closing.set()
        if self._thread.ident is not None:
            self._thread.join(2 * WAIT_MS / 1000)

    # -- answers

    def faults(self) -> dict[str, str]:
        """What is wrong now, by the uuid of what a task would hold."""
        now, (asked, since) = time.monotonic(), self._asked
        found = {uuid: cause for uuid, (at, cause) in list(self._events.items()) if now - at < SHOWN_S} | self._faults
        if asked and now - since > HANG_S:
            found[asked] = f"the driver has not answered about it for {HANG_S:g} s"
        return {d.gpu.uuid: found[d.parent_uuid] for d in self._devices if d.parent_uuid in found}

    def use(self) -> dict[str, GpuUse]:
        """As of the last look, by uuid; what could not be read is absent."""
        return dict(self._use)

    def left_on(self, uuids: Collection[str], within_s: float = 2.0) -> list[str]:
        """What is still in use there although nobody should be: waits a moment, as drivers take theirs to clean up."""
        until = time.monotonic() + within_s
        while True:
            self.look()
            left = [f"{uuid} has {u['used_mb']} MB in use by {u['processes']} processes" for uuid, u in self._on(uuids)]
            if not left or time.monotonic() > until:
                return left
            self._closing.wait(0.1)

    def _on(self, uuids: Collection[str]) -> Iterator[tuple[str, GpuUse]]:
        return ((uuid, use) for uuid, use in self._use.items() if uuid in uuids and use["processes"] > 0)

    # -- looking

    def look(self) -> bool:
        """Ask the driver about all; False where somebody else is at it and does not come to an end."""
        if not self._looking.acquire(timeout=self._look_s):
            return False
        try:
            for uuid, handle in self._parents.items():
                self._asked = (uuid, time.monotonic())
                self._note(uuid, self._fault_of(handle))
            for device in self._devices:
                self._asked = (device.parent_uuid, time.monotonic())
                self._measure(device)
        finally:
            self._asked = ("", 0.0)
            self._looking.release()
        return True

    def _note(self, uuid: str, cause: str) -> None:
        if not cause:
            self._faults.pop(uuid, None)
        elif self._faults.get(uuid) != cause:
            log.error("gpu.fault uuid=%s cause=%s", uuid, cause)
            self._faults[uuid] = cause

    def _fault_of(self, handle: Any) -> str:
        kind, counter = NVML_MEMORY_ERROR_TYPE_UNCORRECTED, NVML_VOLATILE_ECC
        try:
            self._nvml.nvmlDeviceGetMemoryInfo(handle)
            errors = self._nvml.nvmlDeviceGetTotalEccErrors(handle, kind, counter)
        except NVMLError as error:
            return _GONE.get(error.value, "")  # others: it has no ECC, or it is switched off
        return f"{errors} uncorrectable ECC errors since the driver was loaded" if errors else ""

    def _measure(self, device: Device) -> None:
        nvml, handle = self._nvml, device.handle
        try:
            used_mb = int(nvml.nvmlDeviceGetMemoryInfo(handle).used // 2**20)
            processes = len(nvml.nvmlDeviceGetComputeRunningProcesses(handle))
        except NVMLError:
            self._use.pop(device.gpu.uuid, None)
            return
        use = GpuUse(used_mb=used_mb, utilization=self._utilization(handle), processes=processes)
        self._use[device.gpu.uuid] = use

    def _utilization(self, handle: Any) -> int:
        try:
            return int(self._nvml.nvmlDeviceGetUtilizationRates(handle).gpu)
        except NVMLError:  # a MIG device has none of its own
            return UNKNOWN

    # -- the thread

    def _run(self) -> None:
        events = self._register()
        while not self._closing.is_set():
            try:
                self.look()
                self._wait(events)
            except Exception:
                log.exception("gpus.look_failed")
                self._closing.wait(self._look_s)

    def _register(self) -> Any:
        """The set of events that we are told of; None where no GPU has any."""
        kinds, events, found = nvmlEventTypeXidCriticalError | nvmlEventTypeDoubleBitEccError, None, 0
        try:
            events = self._nvml.nvmlEventSetCreate()
        except NVMLError as error:
            log.warning("gpus.no_events error=%s", error)
            return None
        for uuid, handle in self._parents.items():
            for kind in (kinds, nvmlEventTypeXidCriticalError):
                try:
                    self._nvml.nvmlDeviceRegisterEvents(handle, kind, events)
                    found += 1
                    break
                except NVMLError as error:
                    log.warning("gpus.not_registered uuid=%s kind=%d error=%s", uuid, kind, error)
        return events if found else None

    def _wait(self, events: Any) -> None:
        """Until it is time for the next look, or something has happened."""
        until = time.monotonic() + self._look_s
        while events is not None and time.monotonic() < until and not self._closing.is_set():
            try:
                self._on_event(self._nvml.nvmlEventSetWait_v2(events, WAIT_MS))
                return
            except NVMLError as error:
                if error.value != NVML_ERROR_TIMEOUT:
                    break
        self._closing.wait(max(0.0, until - time.monotonic()))

    def _on_event(self, event: Any) -> None:
        ecc = event.eventType == nvmlEventTypeDoubleBitEccError
        xid = int(event.eventData)
        uuid = text(self._nvml.nvmlDeviceGetUUID(event.device))
        log.error("gpu.event uuid=%s type=%d xid=%d", uuid, event.eventType, xid)
        if ecc or xid not in PROGRAM_XIDS:
            self._events[uuid] = (time.monotonic(), "an uncorrectable ECC error" if ecc else f"Xid {xid}")
