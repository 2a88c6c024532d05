"""One JSON object per line, with the event's name and its fields, into a file that is turned over before it grows large."""

import json
import logging
import logging.handlers
import time
from pathlib import Path
from typing import Any, Final

FILE_BYTES_MAX: Final = 20_000_000
FILES_KEPT: Final = 2
_PLAIN: Final = frozenset({*vars(logging.makeLogRecord({})), "message", "asctime", "_ray_timestamp_ns"})  # not fields


class JsonLines(logging.Formatter):
    """`{"at", "level", "logger", "event", ...}`: times are UTC, fields keep their names, odd values become text."""

    def format(self, record: logging.LogRecord) -> str:
        at = time.strftime("%Y-%m-%dT%H:%M:%S", time.gmtime(record.created)) + f".{int(record.msecs):03}Z"
        line: dict[str, Any] = {
            "at": at,
            "level": record.levelname,
            "logger": record.name,
            "event": record.getMessage(),
        }
        line.update((name, value) for name, value in vars(record).items() if name not in _PLAIN and name not in line)
        if record.exc_info:
            line["exception"] = self.formatException(record.exc_info)
        return json.dumps(line, default=str, ensure_ascii=False)


def configure(file: Path, level: str) -> None:
    """Send all that this process logs to `file`, in place of wherever it went before."""
    file.parent.mkdir(mode=0o700, parents=True, exist_ok=True)
    handler = logging.handlers.RotatingFileHandler(file, maxBytes=FILE_BYTES_MAX, backupCount=FILES_KEPT)
    handler.setFormatter(JsonLines())
    root = logging.getLogger()
    for other in list(root.handlers):
        root.removeHandler(other)
        other.close()
    root.addHandler(handler)
    root.setLevel(level)
