from tests.cli.conftest import Run
from tests.client.stub import Stub, answer

SERVICE = {"id": "s1abc", "name": "lab", "user_id": "ada", "workspace": "default", "created_at": "2026-01-31T12:00:00Z"}
RUNNING = {**SERVICE, "status": "running", "url": "http://h/jupyter/s1abc/lab", "token": "t"}


def test_start_waits_and_tells_what_it_waits_for(client: Run, stub: Stub) -> None:
    waiting = {**SERVICE, "status": "starting", "reason": "no service slot is free"}
    installing = {**SERVICE, "status": "starting", "started_at": "2026-01-31T12:00:00Z"}
    stub.handlers["POST /v1/jupyter/services"] = answer(201, waiting)
    stub.handlers["GET /v1/jupyter/services/s1abc"] = [answer(200, installing), answer(200, RUNNING)]
    stub.handlers["GET /v1/tasks/s1abc/logs"] = answer(200, b"[fetchmld] installing\nnoise\n")
    ran = client("jupyter", "start", "lab", "--gpu", "1", "--workspace", "thesis")
    assert stub.asked[0].json == {"name": "lab", "gpu": 1, "workspace": "thesis"}
    assert "running at http://h/jupyter/s1abc/lab" in ran.out
    assert "fetchmld ui --page /jupyter/s1abc/lab" in ran.out
    assert ran.err.splitlines() == ["no service slot is free", "[fetchmld] installing"]


def test_start_can_be_left_alone_and_can_fail(client: Run, stub: Stub) -> None:
    stub.handlers["POST /v1/jupyter/services"] = answer(201, {**SERVICE, "status": "starting"})
    assert client("jupyter", "start", "--detach", "-q").out == "s1abc\n"
    stub.handlers["POST /v1/jupyter/services"] = answer(201, {**SERVICE, "status": "error", "reason": "X: y"})
    ran = client("jupyter", "start")
    assert (ran.code, "X: y" in ran.err) == (100, True)


def test_ls_and_stop(client: Run, stub: Stub) -> None:
    stub.handlers["GET /v1/jupyter/services"] = answer(200, [RUNNING])
    assert client("jupyter", "ls").out.splitlines()[1].split()[:4] == ["s1abc", "lab", "running", "ada"]
    assert client("jupyter", "ls", "-q").out == "s1abc\n"
    stub.handlers["DELETE /v1/jupyter/services/s1abc"] = answer(204, None)
    assert client("jupyter", "stop", "s1").out == "s1abc stops\n"
    assert client("jupyter", "stop", "nothing").code == 3
