"""What the runner says of attempts, in the core's words: pure, and the only place that knows how it calls them."""

import errno
import os
from typing import Final

from fetchmld.core.agent import RunKey, StartFailed
from fetchmld.core.model import EndReport, LogPlace
from fetchmld.runner import frames

NOT_ITS_DOING: Final = ("LEASE_EXPIRED", "WORKER_LOST")  # ends that say nothing of the program: retried elsewhere
_SHORT_OF: Final = (errno.ENOMEM, errno.EAGAIN, errno.EMFILE, errno.ENFILE, errno.EIO)  # the machine, not the program


def name_of(key: RunKey, rank: int) -> str:
    """What the runner and the directories call an attempt."""
    return f"{key.task_id}-{key.attempt}-{rank}"


def split_name(name: str) -> tuple[RunKey, int]:
    """The inverse of `name_of`."""
    task_id, attempt, rank = name.rsplit("-", 2)
    return RunKey(task_id, int(attempt)), int(rank)


def report_of(message: frames.Message, place: LogPlace) -> EndReport:
    """The end that an `exited` message tells; `place`: where its output was put."""
    report = EndReport(log=place, ended_at=message["at"])
    if message["word"]:
        report["word"], report["detail"] = message["word"], message["detail"]
    elif "signal" in message:
        report["signal"] = message["signal"]
    else:
        report["exit_code"] = message["code"]
    if message["word"] in NOT_ITS_DOING:
        report["infrastructure"] = True
    if "usage" in message:
        report["usage"] = message["usage"]
    return report


def start_failure(message: frames.Message, program: str) -> StartFailed:
    """What a failed step of starting `program` means to the user who asked for it."""
    key, _ = split_name(message["key"])
    step, number = message["step"], message["errno"]
    said = os.strerror(number)
    if step == "execute" and number in (errno.ENOENT, errno.ENOTDIR):
        return StartFailed(key, "ENTRYPOINT_NOT_FOUND", f"{program}, or the interpreter that it names: {said}")
    if step == "execute" and number not in _SHORT_OF:
        return StartFailed(key, "ENTRYPOINT_NOT_EXECUTABLE", f"{program} cannot be executed: {said}")
    return StartFailed(key, "LAUNCH_FAILED", f"{step}: {said}", infrastructure=True)
