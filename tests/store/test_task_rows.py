"""The fold from facts to one task's row."""

import pytest

from fetchmld.core.messages import Fact
from fetchmld.store import task_rows
from fetchmld.store.task_rows import TaskRow, fold
from tests.store import task_facts as facts
from tests.store.task_facts import START_US


def folded(*story: Fact) -> TaskRow:
    row = None
    for seq, fact in enumerate(story):
        row = fold(row, seq, fact)
    assert row is not None
    return row


def test_a_submitted_task_is_queued_and_has_its_request() -> None:
    row = folded(facts.submit("t1", user="bob", priority=7, node_count=2, reservation_id="r1"))
    assert row.view["status"] == "queued"
    assert (row.view["user_id"], row.view["priority"], row.view["priority_aged"]) == ("bob", 7, 7.0)
    assert row.view["created_at"] == START_US / 1e6
    named = dict(zip(task_rows.SCHEMA.names, row.columns(), strict=True))
    assert (named["node_count"], named["reservation_id"], named["job_name"]) == (2, "r1", "train")


def test_a_whole_life_ends_completed() -> None:
    row = folded(*facts.whole_life("t1"))
    assert row.view["status"] == "completed"
    assert row.ended
    assert (row.view["started_at"], row.view["ended_at"]) == (START_US / 1e6 + 1, START_US / 1e6 + 3)
    assert row.view["report"] == {"exit_code": 0, "ended_at": START_US / 1e6 + 3}
    assert (row.view["attempt"], row.view["priority_aged"], row.view["last_seq"]) == (1, 5.25, 2)


def test_a_requeue_keeps_where_the_output_lies() -> None:
    failed = facts.requeue("t1")
    place = {"worker_id": "w1", "file": "segment", "offset": 3, "length": 4}
    failed.metadata["log"] = place
    row = folded(facts.submit("t1"), facts.start("t1"), failed, facts.start("t1", attempt=2), facts.requeue("t1"))
    assert row is not None
    assert row.view["earlier"] == [{"attempt": 1, "log": place}]


def test_a_requeue_counts_as_a_retry_and_is_queued_again() -> None:
    row = folded(facts.submit("t1"), facts.start("t1"), facts.requeue("t1"), facts.start("t1", attempt=2))
    assert (row.view["status"], row.view["retry_count"], row.view["attempt"]) == ("running", 1, 2)
    queued = folded(facts.submit("t1"), facts.start("t1"), facts.requeue("t1"))
    assert (queued.view["status"], queued.ended) == ("queued", False)


def test_cancelled_in_the_queue_is_failed_with_its_reason_and_no_report() -> None:
    row = folded(facts.submit("t1"), facts.end("t1", "cancelled", attempt=0, error="CANCELLED: by ann"))
    assert (row.view["status"], row.view["reason"], row.view["report"]) == ("failed", "cancelled", None)
    assert row.view["error"] == "CANCELLED: by ann"


def test_a_cancel_request_moves_only_the_last_sequence_number() -> None:
    before, after = folded(facts.submit("t1")), folded(facts.submit("t1"), facts.cancel_requested("t1"))
    assert after.view == {**before.view, "last_seq": 1}


def test_deleted_keeps_the_view() -> None:
    row = folded(*facts.whole_life("t1"), facts.deleted("t1"))
    assert row.deleted
    assert row.view["status"] == "completed"


def test_a_fold_leaves_its_input_alone() -> None:
    before = folded(facts.submit("t1"))
    fold(before, 1, facts.start("t1"))
    assert (before.view["status"], before.view["last_seq"]) == ("queued", 0)


@pytest.mark.parametrize("fact", [facts.start("t1"), facts.end("t1"), facts.deleted("t1")])
def test_facts_about_a_task_that_nobody_submitted_make_no_row(fact: Fact) -> None:
    assert fold(None, 0, fact) is None


def test_a_fact_that_lacks_fields_leaves_them_as_they_were() -> None:
    row = folded(
        facts.submit("t1"), Fact("job_started", "task.start", "t1"), Fact("job_completed", "task.failed", "t1")
    )
    assert (row.view["status"], row.view["attempt"], row.view["assignments"]) == ("failed", 0, [])


def test_a_row_is_read_back_as_it_was_written() -> None:
    row = folded(*facts.whole_life("t1", plugin_configs={"mlflow": {}, "a": {}}))
    named = dict(zip(task_rows.SCHEMA.names, row.columns(), strict=True))
    assert TaskRow.read(*(named[name.strip()] for name in task_rows.KEPT.split(","))) == row
    assert named["plugins"] == ["a", "mlflow"]
    assert task_rows.to_arrow([row]).to_pylist() == [named]
    assert task_rows.to_arrow([]).num_rows == 0
