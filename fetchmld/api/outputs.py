"""The `output` of a Task: the end of its log."""

from typing import Any

from fetchmld.api.attempts import of_attempt
from fetchmld.api.head import Head
from fetchmld.core.errors import FetchmlError, NotFound
from fetchmld.core.model import OUTPUT_TAIL_BYTES, TaskView


async def add_output(out: dict[str, Any], head: Head, task: TaskView) -> None:
    """The last 64 KiB of the newest attempt's log as text. A log that cannot be reached now does not hide the task."""
    if task["attempt"] == 0:
        return
    view = of_attempt(task)
    try:
        chunk = await head.logs(view, 0, OUTPUT_TAIL_BYTES, 0.0)
        if chunk.size > chunk.offset + len(chunk.data):
            chunk = await head.logs(view, chunk.size - OUTPUT_TAIL_BYTES, OUTPUT_TAIL_BYTES, 0.0)
    except FetchmlError as error:
        if isinstance(error, NotFound) or error.status >= 500:
            return
        raise
    out["output"] = chunk.data.decode("utf-8", "replace")
