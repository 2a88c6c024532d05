import contextlib
import json
import os
import select
import signal
import subprocess
import sys
import threading
import time
from pathlib import Path

import pytest

from tests.cli.conftest import Run
from tests.client.stub import Asked, Stub, answer, refused

TASK = {
    "id": "abcdefghijkl",
    "job_name": "train",
    "status": "running",
    "priority": 5,
    "priority_aged": 5.25,
    "created_at": "2026-01-31T12:00:00.000000Z",
    "started_at": "2026-01-31T12:00:01.000000Z",
    "entrypoint": "/x/train.py",
    "args": "--epochs 3",
    "cpu": 2,
    "gpu": 1,
    "gpu_type": "A100",
    "attempt": 1,
}
OTHER = {**TASK, "id": "abzzzzzzzzzz", "status": "failed", "reason": "cancelled", "ended_at": "2026-01-31T12:01:06Z"}


def page(*tasks: dict[str, object], total: int | None = None) -> bytes:
    return answer(
        200, {"tasks": list(tasks), "total": len(tasks) if total is None else total, "limit": 50, "offset": 0}
    )


def test_a_list_in_three_forms(client: Run, stub: Stub) -> None:
    stub.handlers["GET /v1/tasks"] = page(TASK, OTHER)
    table = client("ls").out.splitlines()
    assert table[0].split() == ["ID", "NAME", "STATUS", "PRIO", "AGE", "RAN", "NOTE"]
    assert "cancelled" in table[2]
    assert "1m05s" in table[2]
    assert client("ls", "-q").out.split() == ["abcdefghijkl", "abzzzzzzzzzz"]
    assert json.loads(client("ls", "--json").out)["total"] == 2


def test_filters_travel(client: Run, stub: Stub) -> None:
    stub.handlers["GET /v1/tasks"] = page()
    client("ls", "--status", "failed", "--user", "ann", "--limit", "7", "--offset", "14")
    assert stub.asked[0].target == "/v1/tasks?status=failed&user_id=ann&limit=7&offset=14"


def test_a_cut_list_says_how_to_see_more(client: Run, stub: Stub) -> None:
    stub.handlers["GET /v1/tasks"] = page(TASK, total=99)
    ran = client("ls")
    assert "98 more" in ran.err
    assert "--offset 50" in ran.err


def test_show_has_what_matters(client: Run, stub: Stub) -> None:
    stub.handlers["GET /v1/tasks/abcdefghijkl"] = answer(200, {**TASK, "output": "epoch 1\nepoch 2\n"})
    out = client("show", "abcdefghijkl").out
    for part in ("/x/train.py --epochs 3", "2 cpu, 1 gpu A100", "5 (aged to 5.25)", "epoch 2"):
        assert part in out


@pytest.mark.parametrize("given", ["abc", "last"])
def test_a_prefix_and_last_name_a_task(client: Run, stub: Stub, given: str) -> None:
    stub.handlers["GET /v1/tasks"] = page(TASK, OTHER)
    stub.handlers["GET /v1/tasks/abcdefghijkl"] = answer(200, TASK)
    assert client("show", "-q", given).out == "abcdefghijkl\n"


def test_a_prefix_of_two_is_refused_with_both(client: Run, stub: Stub) -> None:
    stub.handlers["GET /v1/tasks"] = page(TASK, OTHER)
    ran = client("show", "ab")
    assert ran.code == 5
    assert "abcdefghijkl, abzzzzzzzzzz" in ran.err


def test_an_unknown_id_is_3(client: Run, stub: Stub) -> None:
    stub.handlers["GET /v1/tasks"] = page(TASK)
    assert client("show", "zzz").code == 3
    stub.handlers["GET /v1/tasks"] = page()
    assert client("show", "last").code == 3


def test_cancel(client: Run, stub: Stub) -> None:
    stub.handlers["GET /v1/tasks/abcdefghijkl"] = answer(200, TASK)
    stub.handlers["DELETE /v1/tasks/abcdefghijkl"] = answer(204)
    assert "being cancelled" in client("cancel", "abcdefghijkl").out
    stub.handlers["GET /v1/tasks/abcdefghijkl"] = answer(200, {**TASK, "status": "failed"})
    assert "removed" in client("cancel", "abcdefghijkl").out


@pytest.mark.parametrize(
    ("ends", "code"),
    [
        (["completed", "completed"], 0),
        (["completed", "failed"], 100),
        (["cancelled", "completed"], 103),
        (["cancelled", "failed"], 100),
    ],
)
def test_waiting_for_several(client: Run, stub: Stub, ends: list[str], code: int) -> None:
    for number, end in enumerate(ends):
        task = (
            {"id": f"t{number}", "status": "failed", "reason": "cancelled"} if end == "cancelled" else {"status": end}
        )
        stub.handlers[f"GET /v1/tasks/t{number}"] = answer(200, {"id": f"t{number}", **task})
    assert client("wait", "t0", "t1").code == code


def test_waiting_can_end_before_the_task(client: Run, stub: Stub) -> None:
    stub.handlers["GET /v1/tasks/t"] = answer(200, {"id": "t", "status": "running"})
    assert client("wait", "t", "--timeout", "0.01").code == 101


def test_logs_are_bytes(client: Run, stub: Stub) -> None:
    stub.handlers["GET /v1/tasks/t"] = answer(200, {"id": "t", "status": "completed"})
    stub.handlers["GET /v1/tasks/t/logs"] = answer(200, "ä\n".encode())
    assert client("logs", "t").out == "ä\n"
    assert "follow=false" in stub.asked[-1].target


HEARS_CTRL_C = ("/usr/bin/env", "--default-signal=INT")  # a shell has what it runs in the background ignore it


def test_ctrl_c_detaches_and_says_how_to_return(stub: Stub, tmp_path: Path) -> None:
    asked = threading.Event()

    def hold(_asked: Asked) -> bytes:
        asked.set()
        released.wait(20)
        return answer(200, {})

    released = threading.Event()
    stub.handlers["GET /v1/tasks/t"] = [answer(200, {"id": "t", "status": "running"}), hold]
    environment = {"FETCHML_ADDRESS": stub.address, "HOME": str(tmp_path), "PYTHONPATH": ":".join(sys.path)}
    command = [*HEARS_CTRL_C, sys.executable, "-m", "fetchmld", "wait", "t"]
    with subprocess.Popen(command, env=environment, stderr=subprocess.PIPE, text=True) as child:
        assert asked.wait(20)
        said = _interrupted(child)
    released.set()
    assert child.returncode == 130
    assert "fetchmld wait t" in said


def _interrupted(child: "subprocess.Popen[str]") -> str:
    """What it says on Ctrl-C. One that comes just before a system call is seen only after it: people press twice."""
    for _ in range(10):
        child.send_signal(signal.SIGINT)
        with contextlib.suppress(subprocess.TimeoutExpired):
            return child.communicate(timeout=2)[1]
    raise AssertionError("Ctrl-C was not heard")


def test_a_terminal_shows_why_a_task_waits_until_ctrl_c_is_pressed_in_it(stub: Stub, tmp_path: Path) -> None:
    queued = answer(200, {"id": "t", "status": "queued", "wait_reason": "waits for 4 GPUs, 2 are free"})
    stub.handlers["GET /v1/tasks/t"] = queued
    ours, its = os.openpty()
    environment = {"FETCHML_ADDRESS": stub.address, "HOME": str(tmp_path), "PYTHONPATH": ":".join(sys.path)}
    command = [*HEARS_CTRL_C, "setsid", "--ctty", "--wait", sys.executable, "-m", "fetchmld", "wait", "t"]
    with subprocess.Popen(command, env=environment, stdin=its, stdout=its, stderr=its) as child:
        os.close(its)
        shown = b""
        while b"2 are free" not in shown:
            shown += os.read(ours, 4096)
        assert b"t queued: waits for 4 GPUs, 2 are free" in shown
        os.write(ours, b"\x03")
        shown += _rest(ours)
    assert b"fetchmld wait t" in shown
    assert child.returncode == 130


def _rest(terminal: int) -> bytes:
    """What is shown until the last process has left; Ctrl-C is pressed again where it was not heard, as people do."""
    shown, pressed_t = b"", time.monotonic()
    deadline = pressed_t + 60
    while True:
        assert time.monotonic() < deadline, shown
        if time.monotonic() - pressed_t > 2:
            os.write(terminal, b"\x03")
            pressed_t = time.monotonic()
        if not select.select([terminal], [], [], 0.5)[0]:
            continue
        try:
            shown = (shown + os.read(terminal, 4096))[-65_536:]
        except OSError:  # EIO: nobody has it open any more
            os.close(terminal)
            return shown


def test_a_reader_that_leaves_is_no_error(stub: Stub, tmp_path: Path) -> None:
    stub.handlers["GET /v1/tasks"] = page(*[TASK] * 5000)
    environment = {"FETCHML_ADDRESS": stub.address, "HOME": str(tmp_path), "PYTHONPATH": ":".join(sys.path)}
    script = f"{sys.executable} -m fetchmld ls -q | head -1"
    ran = subprocess.run(
        ["sh", "-c", script], check=False, env={**environment, "PATH": "/usr/bin:/bin"}, capture_output=True, text=True
    )
    assert ran.stdout == "abcdefghijkl\n"
    assert ran.stderr == ""


COUNTS = {"size": 10, "max_parallel": 2, "queued": 5, "running": 2, "completed": 2, "failed": 1, "cancelled": 0}


def test_an_array_shows_how_its_elements_stand(client: Run, stub: Stub) -> None:
    array = {"id": "abc", "job_name": "x", "status": "running", "array": COUNTS}
    stub.handlers["GET /v1/tasks/abc"] = answer(200, array)
    stub.handlers["GET /v1/tasks"] = answer(200, {"tasks": [array], "total": 1})
    assert "2 of 10 completed, 1 failed, 2 running, 5 queued" in client("show", "abc").out
    assert "2 of 10 completed, 1 failed, 2 running, 5 queued" in client("ls").out


def test_an_element_is_named_by_its_arrays_prefix(client: Run, stub: Stub) -> None:
    element = {"id": "abcdef-3", "status": "running", "array_id": "abcdef", "array_index": 3, "params": {"lr": 0.1}}
    stub.handlers["GET /v1/tasks"] = answer(200, {"tasks": [{"id": "abcdef", "status": "running"}], "total": 1})
    stub.handlers["GET /v1/tasks/abc-3"] = refused(404, "NOT_FOUND")
    stub.handlers["GET /v1/tasks/last-3"] = refused(404, "NOT_FOUND")
    stub.handlers["GET /v1/tasks/abcdef"] = answer(200, {"id": "abcdef", "status": "running"})
    stub.handlers["GET /v1/tasks/abcdef-3"] = answer(200, element)
    assert "3 of array abcdef lr=0.1" in client("show", "abc-3").out
    assert "3 of array abcdef lr=0.1" in client("show", "last-3").out
