"""The way to NVML: NVIDIA's library, or the fake that the setting `nvml_library` names."""

import logging
from typing import Any, Final

log = logging.getLogger(__name__)

FAKE: Final = "fake:"


def opened(library: str) -> tuple[Any, str]:
    """NVML, initialised, and what it is called; (None, "") where there is no driver, which is no error."""
    if library.startswith(FAKE):
        from fetchmld.gpus.fake_nvml import FakeNvml

        path = library.removeprefix(FAKE)
        return FakeNvml(path), f"fake NVML ({path})"
    import pynvml

    try:
        pynvml.nvmlInit()
        return pynvml, f"NVML, driver {text(pynvml.nvmlSystemGetDriverVersion())}"
    except pynvml.NVMLError as error:
        log.info("gpus.none reason=%s", error)
        return None, ""


def text(value: Any) -> str:
    """Older drivers' bindings give bytes."""
    return value.decode() if isinstance(value, bytes) else str(value)
