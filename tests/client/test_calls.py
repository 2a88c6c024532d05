import pytest

from fetchmld.client.calls import Answer, api_error, path
from fetchmld.client.endpoints import create_task, get_artifact, get_task, list_tasks
from fetchmld.client.errors import ApiError


def test_a_target_leaves_out_what_was_not_given() -> None:
    assert list_tasks().target == "/v1/tasks"
    assert list_tasks(status="queued", limit=5).target == "/v1/tasks?status=queued&limit=5"


@pytest.mark.parametrize(("part", "quoted"), [("a/../b", "a%2F..%2Fb"), ("a?b#c", "a%3Fb%23c"), ("ä ", "%C3%A4%20")])
def test_an_id_stays_one_segment_of_the_path(part: str, quoted: str) -> None:
    assert path("/v1/tasks/{}", part) == f"/v1/tasks/{quoted}"


def test_an_artifact_keeps_its_directories() -> None:
    assert get_artifact("t", "plots/a b.png").target == "/v1/tasks/t/artifacts/plots/a%20b.png"


def test_a_wait_prolongs_the_time_limit() -> None:
    assert get_task("t", wait_s=7.5).wait_s == 7.5
    assert get_task("t").wait_s == 0


def test_an_idempotency_key_travels_as_a_header() -> None:
    assert create_task({"job_name": "x"}, "k").headers == {"Idempotency-Key": "k"}
    assert create_task({"job_name": "x"}).headers == {}


def test_an_error_response_is_kept_whole() -> None:
    body = b'{"error": "slow down", "code": "RATE_LIMITED", "trace_id": "t"}'
    error = api_error(Answer(429, {"retry-after": "3"}, body))
    assert (error.status, error.code, error.trace_id, error.retry_after_s) == (429, "RATE_LIMITED", "t", 3)
    assert str(error) == "slow down"


@pytest.mark.parametrize("body", [b"", b"<html>Bad gateway", b"[]", b'"x"', b"\xff"])
def test_an_answer_that_is_no_error_response_still_says_something(body: bytes) -> None:
    error = api_error(Answer(502, {}, body))
    assert "502" in str(error)
    assert error.retry_after_s is None


def test_a_result_raises_for_an_error_and_reads_the_rest() -> None:
    assert get_task("t").result(Answer(200, {}, b'{"id": "t"}')) == {"id": "t"}
    with pytest.raises(ApiError):
        get_task("t").result(Answer(404, {}, b"{}"))
