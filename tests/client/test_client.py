import inspect
import json
import pickle
import socket
import threading
import time
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import cast

import pytest

from fetchmld.client import ApiError, Client, Lost, RateLimited, TimedOut, Unavailable, Unreachable
from fetchmld.client import line as line_module
from fetchmld.client import patience as patience_module
from fetchmld.client.blocking import BlockingTransport
from fetchmld.client.errors import BY_CODE
from tests.client.stub import CLOSE, Asked, Stub, answer, chunked, refused


@pytest.fixture
def stub() -> Iterator[Stub]:
    with Stub() as running:
        yield running


@pytest.fixture(autouse=True)
def impatient(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(patience_module, "PAUSE_FIRST_S", 0.001)


def test_the_key_and_the_body_travel(stub: Stub) -> None:
    stub.handlers["POST /v1/tasks"] = answer(201, {"id": "t1"})
    with Client(stub.address, "fml_k") as client:
        assert client.submit({"job_name": "x"}) == {"id": "t1"}
    assert stub.asked[0].json == {"job_name": "x"}
    assert stub.asked[0].headers["x-api-key"] == "fml_k"
    assert stub.asked[0].headers["content-type"] == "application/json"


def test_address_and_key_come_from_the_environment(stub: Stub, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("FETCHML_ADDRESS", stub.address + "/")
    monkeypatch.setenv("FETCHML_API_KEY", "fml_env")
    stub.handlers["GET /v1/queue"] = answer(200, {"queued": 0})
    with Client() as client:
        assert client.queue() == {"queued": 0}
    assert stub.asked[0].headers["x-api-key"] == "fml_env"


def test_one_connection_serves_many_calls(stub: Stub) -> None:
    stub.handlers["GET /health"] = answer(200, {})
    with Client(stub.address) as client:
        for _ in range(5):
            client.health()
    assert stub.connections == 1


def test_a_connection_that_was_closed_meanwhile_is_not_used_for_a_post(stub: Stub) -> None:
    stub.close_after = True
    stub.handlers["POST /v1/tasks"] = answer(201, {"id": "t1"})
    with Client(stub.address) as client:
        for _ in range(20):
            client.submit({"job_name": "x"})
            _until_readable(client)
    assert len(stub.asked) == 20


def _until_readable(client: Client) -> None:
    """Wait until the server's end of the kept connection has arrived here."""
    for kept in cast(BlockingTransport, client.line.transport)._idle:
        kept.sock.settimeout(5)
        kept.sock.recv(1, socket.MSG_PEEK)


def test_a_get_that_was_cut_off_is_asked_once_more(stub: Stub) -> None:
    stub.handlers["GET /health"] = [CLOSE, answer(200, {"status": "healthy"})]
    with Client(stub.address) as client:
        assert client.health()["status"] == "healthy"


def test_threads_share_a_client(stub: Stub) -> None:
    stub.handlers["GET /health"] = answer(200, {"status": "healthy"})
    with Client(stub.address) as client, ThreadPoolExecutor(8) as threads:
        found = list(threads.map(lambda _: client.health()["status"], range(200)))
    assert found == ["healthy"] * 200


def test_nobody_there_names_the_address() -> None:
    with socket.create_server(("127.0.0.1", 0)) as probe:
        port = probe.getsockname()[1]
    with Client(f"http://127.0.0.1:{port}") as client, pytest.raises(Unreachable, match=f"127.0.0.1:{port}.*nothing"):
        client.health()


def test_a_bad_address_is_said_at_once() -> None:
    with pytest.raises(Unreachable, match="looks like http://HOST:PORT"):
        Client("localhost:9101")


def test_silence_is_a_time_out() -> None:
    with socket.create_server(("127.0.0.1", 0)) as quiet:
        address = f"http://127.0.0.1:{quiet.getsockname()[1]}"
        with Client(address, timeout_s=0.05) as client, pytest.raises(TimedOut, match="within 0.05 s"):
            client.health()


def test_waiting_ends_with_the_task(stub: Stub) -> None:
    stub.handlers["GET /v1/tasks/t"] = [answer(200, {"status": "running"}), answer(200, {"status": "completed"})]
    seen: list[str] = []
    with Client(stub.address) as client:
        ended = client.wait("t", on_answer=lambda task: seen.append(task["status"]))
    assert ended["status"] == "completed"
    assert seen == ["running", "completed"]


def test_waiting_gives_up_in_time(stub: Stub) -> None:
    stub.handlers["GET /v1/tasks/t"] = answer(200, {"status": "queued"})
    with Client(stub.address) as client:
        assert client.wait("t", timeout_s=0.05)["status"] == "queued"


def test_waiting_outlives_a_daemon_that_is_away(stub: Stub) -> None:
    away = refused(503, "SERVICE_UNAVAILABLE")
    stub.handlers["GET /v1/tasks/t"] = [away, CLOSE, CLOSE, CLOSE, answer(200, {"status": "failed"})]
    with Client(stub.address) as client:
        assert client.wait("t")["status"] == "failed"


def test_waiting_does_not_outlive_a_refusal(stub: Stub) -> None:
    with Client(stub.address) as client, pytest.raises(ApiError) as caught:
        client.wait("gone")
    assert caught.value.status == 404


def test_a_daemon_that_stays_away_is_an_error(monkeypatch: pytest.MonkeyPatch, stub: Stub) -> None:
    stub.handlers["GET /v1/tasks/t"] = refused(503, "SERVICE_UNAVAILABLE")
    monkeypatch.setattr(patience_module, "PAUSE_MAX_S", 0.002)
    monkeypatch.setattr(patience_module.Patience.__init__, "__defaults__", (0.05,))
    with Client(stub.address) as client, pytest.raises(ApiError):
        client.wait("t")


def test_a_followed_log_is_taken_up_where_it_broke(stub: Stub) -> None:
    text = b"one\ntwo \xc3\xa4\nthree\n"

    def serve(asked: Asked) -> bytes:
        offset = int(asked.target.split("offset=")[1].split("&")[0])
        rest = text[offset:]
        return chunked(rest[:5], whole=len(rest) <= 5)

    stub.handlers["GET /v1/tasks/t/logs"] = serve
    with Client(stub.address) as client:
        assert b"".join(client.logs("t", follow=True)) == text
    assert "follow=true" in stub.asked[0].target
    assert len(stub.asked) > 1


def test_a_whole_log_with_a_length_is_read_too(stub: Stub) -> None:
    stub.handlers["GET /v1/tasks/t/logs"] = answer(200, b"abc")
    with Client(stub.address) as client:
        assert b"".join(client.logs("t")) == b"abc"
        assert b"".join(client.logs("t", offset=2)) == b"abc"


def test_a_short_body_is_not_taken_for_the_end(stub: Stub) -> None:
    cut = b"HTTP/1.1 200 -\r\nContent-Length: 6\r\n\r\nabc"
    stub.close_after = True
    stub.handlers["GET /v1/tasks/t/logs"] = [cut, answer(200, b"def")]
    with Client(stub.address) as client:
        assert b"".join(client.logs("t", follow=True)) == b"abcdef"
    assert "offset=3" in stub.asked[1].target


def test_following_an_unknown_task_says_so(stub: Stub) -> None:
    with Client(stub.address) as client, pytest.raises(ApiError) as caught:
        list(client.logs("gone", follow=True))
    assert caught.value.status == 404


def test_a_follower_can_leave(stub: Stub) -> None:
    stub.handlers["GET /v1/tasks/t/logs"] = chunked(b"a", b"b")
    with Client(stub.address) as client:
        pieces = client.logs("t", follow=True)
        assert next(pieces) in (b"a", b"ab")
        pieces.close()  # type: ignore[attr-defined]


def test_waiting_is_not_polling(stub: Stub) -> None:
    """The daemon holds the answer back; the client asks again only after it."""
    released = threading.Event()

    def hold(asked: Asked) -> bytes:
        assert "wait_s=30" in asked.target
        assert released.wait(10)
        return answer(200, {"status": "completed"})

    stub.handlers["GET /v1/tasks/t"] = hold
    with Client(stub.address) as client, ThreadPoolExecutor(1) as threads:
        waiting = threads.submit(client.wait, "t")
        deadline = time.monotonic() + 10
        while not stub.asked and time.monotonic() < deadline:
            released.wait(0.001)
        released.set()
        assert waiting.result(10)["status"] == "completed"
    assert len(stub.asked) == 1


def test_the_client_imports_nothing_of_the_daemon() -> None:
    import fetchmld.client

    folder = Path(fetchmld.client.__file__).parent
    for source in folder.glob("*.py"):
        for line in source.read_text().splitlines():
            if line.startswith(("import ", "from ")) and "fetchmld" in line:
                assert any(f"fetchmld.{name}" in line for name in ("client", "inner_tls", "manifest", "unpacking")), (
                    f"{source.name}: {line}"
                )


# -- answers that are lost


def test_a_submit_whose_answer_was_lost_is_sent_again_under_its_key(stub: Stub) -> None:
    busy = [refused(503, "SERVICE_UNAVAILABLE"), refused(409, "CONFLICT", headers={"Retry-After": "0"})]
    stub.handlers["POST /v1/tasks"] = [CLOSE, CLOSE, *busy, answer(201, {"id": "t1"})]
    with Client(stub.address) as client:
        assert client.submit({"job_name": "x"}) == {"id": "t1"}
        assert client.submit({"job_name": "x"}) == {"id": "t1"}
    keys = [asked.headers["idempotency-key"] for asked in stub.asked]
    assert len(set(keys[:5])) == 1
    assert keys[5] != keys[0]
    assert len(keys[0]) == 32


def test_a_key_of_ones_own_is_kept(stub: Stub) -> None:
    stub.handlers["POST /v1/tasks"] = [CLOSE, answer(201, {"id": "t1"})]
    with Client(stub.address) as client:
        client.submit({"job_name": "x"}, idempotency_key="mine")
    assert [asked.headers["idempotency-key"] for asked in stub.asked] == ["mine", "mine"]


def test_what_was_answered_is_not_asked_again(stub: Stub) -> None:
    for status in (400, 409, 422, 500):
        stub.handlers["POST /v1/tasks"] = refused(status, "X")
        with Client(stub.address) as client, pytest.raises(ApiError):
            client.submit({"job_name": "x"})
    assert len(stub.asked) == 4


def test_nobody_there_is_said_at_once() -> None:
    with Stub() as gone:
        address = gone.address
    with Client(address) as client, pytest.raises(Unreachable):
        client.submit({"job_name": "x"})


def test_a_lost_answer_is_waited_for_only_so_long(stub: Stub, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(line_module, "LOST_MAX_S", 0.05)
    stub.handlers["POST /v1/experiments"] = CLOSE
    with Client(stub.address) as client, pytest.raises(Lost):
        client.create_experiment("digits")
    assert len(stub.asked) > 1


def test_a_change_that_makes_nothing_is_sent_once(stub: Stub) -> None:
    stub.handlers["PATCH /v1/scheduler/jobs/t1/priority"] = CLOSE
    with Client(stub.address) as client, pytest.raises(Lost):
        client.set_priority("t1", 9)
    assert len(stub.asked) == 1


# -- what is refused for now


def test_what_is_refused_for_a_moment_is_asked_again_when_it_says(stub: Stub, monkeypatch: pytest.MonkeyPatch) -> None:
    pauses: list[float] = []
    monkeypatch.setattr("time.sleep", pauses.append)
    limited = refused(429, "RATE_LIMITED", headers={"Retry-After": "2"})
    stub.handlers["PATCH /v1/scheduler/jobs/t1/priority"] = [limited, answer(200, {"id": "t1"})]
    with Client(stub.address) as client:
        assert client.set_priority("t1", 9) == {"id": "t1"}
    assert pauses == [2]


def test_what_is_refused_for_longer_than_one_waits_is_an_error_at_once(stub: Stub) -> None:
    stub.handlers["GET /v1/queue"] = refused(429, "RATE_LIMITED", headers={"Retry-After": "31"})
    with Client(stub.address) as client, pytest.raises(RateLimited) as caught:
        client.queue()
    assert caught.value.retry_after_s == 31
    assert len(stub.asked) == 1


def test_whoever_does_not_want_to_wait_need_not(stub: Stub) -> None:
    stub.handlers["GET /v1/queue"] = refused(503, "SERVICE_UNAVAILABLE", headers={"Retry-After": "1"})
    with Client(stub.address, retry_s=0) as client, pytest.raises(Unavailable):
        client.queue()


@pytest.mark.parametrize(("code", "kind"), BY_CODE.items())
def test_each_code_has_its_error(stub: Stub, code: str, kind: type[ApiError]) -> None:
    stub.handlers["GET /v1/queue"] = refused(418, code)
    with Client(stub.address) as client, pytest.raises(ApiError) as caught:
        client.queue()
    assert type(caught.value) is kind
    assert caught.value.code == code
    assert type(pickle.loads(pickle.dumps(caught.value))) is kind


def test_lines_are_whole_and_text(stub: Stub) -> None:
    stub.handlers["GET /v1/tasks/t/logs"] = chunked(b"on", b"e\ntw\xc3", b"\xa4\n\xff")
    with Client(stub.address) as client:
        assert list(client.lines("t", follow=True)) == ["one\n", "twä\n", "�"]


def test_a_notebook_shows_a_table(stub: Stub) -> None:
    stub.handlers["GET /v1/tasks"] = answer(200, {"tasks": [{"id": "t1", "error": "<b>"}], "total": 1})
    stub.handlers["GET /v1/tasks/t1"] = answer(200, {"id": "t1", "output": "a\nb<script>"})
    stub.handlers["GET /v1/scheduler/workers"] = answer(200, [{"id": "w1"}])
    with Client(stub.address) as client:
        page, task, workers = client.tasks(), client.task("t1"), client.workers()
        assert "Client" in repr(client)
    assert json.loads(json.dumps(page)) == {"tasks": [{"id": "t1", "error": "<b>"}], "total": 1}
    for one in (page, task, workers):
        html = one._repr_html_()  # type: ignore[union-attr]
        assert "<table>" in html
        assert "<script>" not in html
        assert "<b>" not in html


def test_a_method_tells_what_it_takes() -> None:
    assert list(inspect.signature(Client.tasks).parameters)[:2] == ["status", "user_id"]
    assert "newest first" in (Client.tasks.__doc__ or "")
