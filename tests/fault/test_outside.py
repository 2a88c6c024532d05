"""The outside checker can fail: for each of its rules a fault is planted in a record or a history, and it is named."""

import ast
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any, Final

import pytest

from tests.e2e.conftest import ROOT
from tests.fault import outside
from tests.fault.outside.case import load
from tests.fault.outside.ledger import Broken
from tests.fault.outside.rules import problems_of
from tests.fault.story import ONE, Line, Story, read, told

FOLDER: Final = Path(outside.__file__).parent


def test_it_shares_no_code_with_the_product() -> None:
    for path in FOLDER.glob("*.py"):
        for node in ast.walk(ast.parse(path.read_text())):
            if isinstance(node, ast.ImportFrom | ast.Import):
                named = [node.module or ""] if isinstance(node, ast.ImportFrom) else [one.name for one in node.names]
                for name in named:
                    allowed = name.startswith("tests.fault.outside") or name == "blake3"
                    assert allowed or name.partition(".")[0] in sys.stdlib_module_names, f"{path.name} imports {name}"


def test_a_story_in_which_all_is_well(tmp_path: Path) -> None:
    assert problems_of(load(*told().write(tmp_path))) == []


def facts_of(story: Story, action: str, resource: str) -> list[Line]:
    return [fact for fact in story.facts if (fact["action"], fact["resource"]) == (action, resource)]


def the_fact(story: Story, action: str, resource: str) -> Line:
    return facts_of(story, action, resource)[0]


def the_answer(story: Story, operation: str, place: int = 0, user: str = "") -> Line:
    """The `place`-th request for it (of this user) that was answered."""
    return [s for s in story.said if s["operation"] == operation and s["status"] and user in ("", s["user"])][place]


def read_of(story: Story, task: str, place: int = 0) -> Line:
    return [s for s in story.said if s["operation"] == ONE and s["path"].endswith(f"/{task}") and s["status"] == 200][
        place
    ]


def again(story: Story, fact: Line, **changes: Any) -> None:
    """Once more, behind all others."""
    story.facts.append({**fact, "at_us": story.tick(), **changes})


def without(story: Story, *facts: Line) -> None:
    story.facts = [fact for fact in story.facts if fact not in facts]


# -- the faults


def lose_a_task(story: Story) -> None:
    without(story, *[fact for fact in story.facts if fact["resource"] == "a"])


def keep_another_request(story: Story) -> None:
    the_fact(story, "task.submit", "a")["metadata"]["request"] = {"job_name": "a", "cpu": 2}


def lose_an_experiment(story: Story) -> None:
    without(story, the_fact(story, "experiment.create", "x1"))


def lose_a_priority(story: Story) -> None:
    without(story, the_fact(story, "task.reprioritise", "b"))


def lose_a_cancel(story: Story) -> None:
    the_fact(story, "task.cancelled", "d")["action"] = "task.attach"


def lose_a_drain(story: Story) -> None:
    without(story, the_fact(story, "worker.drain", "w"))


def lose_a_setting(story: Story) -> None:
    without(story, the_fact(story, "plugin.update", "p"))


def lose_a_verification(story: Story) -> None:
    without(story, the_fact(story, "audit.verify", "ledger"))


def make_two_of_one_key(story: Story) -> None:
    second = [s for s in story.said if s.get("key") == "k"][1]["trace"]
    again(story, the_fact(story, "task.submit", "b"), resource="b2", metadata={
        **the_fact(story, "task.submit", "b")["metadata"], "trace_id": second
    })  # fmt: skip


def make_the_same_twice(story: Story) -> None:
    again(story, the_fact(story, "experiment.create", "x1"))


def do_what_was_refused(story: Story) -> None:
    refused = next(s for s in story.said if s["status"] == 422)
    request = {"request": refused["body"], "priority": 11, "trace_id": refused["trace"]}
    again(story, the_fact(story, "task.submit", "a"), resource="c", metadata=request)


def do_what_nobody_asked_for(story: Story) -> None:
    again(story, the_fact(story, "reservation.create", "r"), action="reservation.release", metadata={"by": "u2"})


def do_it_to_another(story: Story) -> None:
    the_fact(story, "worker.drain", "w")["resource"] = "v"
    again(story, the_fact(story, "worker.join", "w"), resource="v")


def do_it_before_it_is_asked_for(story: Story) -> None:
    the_fact(story, "reservation.create", "r")["at_us"] -= 5_000_000


def do_it_as_another_user(story: Story) -> None:
    the_fact(story, "experiment.create", "x1")["user"] = "u2"


def end_twice(story: Story) -> None:
    again(story, the_fact(story, "task.completed", "a"))


def never_end(story: Story) -> None:
    without(story, the_fact(story, "task.completed", "a"))


def start_after_the_end(story: Story) -> None:
    again(
        story,
        the_fact(story, "task.start", "a"),
        metadata={**the_fact(story, "task.start", "a")["metadata"], "attempt": 2},
    )


def skip_an_attempt(story: Story) -> None:
    facts_of(story, "task.start", "b")[1]["metadata"]["attempt"] = 3


def start_without_a_repeat(story: Story) -> None:
    without(story, the_fact(story, "task.requeue", "b"))


def claim_what_is_over(story: Story) -> None:
    again(story, the_fact(story, "reservation.expire", "r"), action="reservation.claim")


def runs_of(story: Story, task: str, attempt: int) -> list[Line]:
    return [line for line in story.runs if (line["task"], line["attempt"]) == (task, attempt)]


def overlap(story: Story) -> None:
    """The first attempt lives on until the second has begun."""
    last, later = runs_of(story, "b", 1)[-1], runs_of(story, "b", 2)[1]
    last |= {"boot_s": later["boot_s"], "wall_us": later["wall_us"]}


def run_an_attempt_twice(story: Story) -> None:
    story.runs += [
        {**line, "pid": 7, "boot_s": line["boot_s"] + 0.0035, "wall_us": line["wall_us"]}
        for line in runs_of(story, "a", 1)
    ]


def run_on_after_the_end(story: Story) -> None:
    runs_of(story, "a", 1)[-1]["wall_us"] += 1_000_000


def run_before_the_start(story: Story) -> None:
    runs_of(story, "a", 1)[0]["wall_us"] -= 1_000_000


def complete_what_failed(story: Story) -> None:
    runs_of(story, "a", 1)[-1]["exit"] = 3


def complete_what_never_ran(story: Story) -> None:
    story.runs = [line for line in story.runs if line["task"] != "a"]


def start_beside(story: Story, task: str, **changes: Any) -> None:
    """The start of `task` is on record before another one's end."""
    start = the_fact(story, "task.start", task)
    start["metadata"] = {**start["metadata"], **changes}
    story.facts.remove(start)
    place = story.facts.index(facts_of(story, "task.start", "b")[1]) + 1
    submitted = the_fact(story, "task.submit", task)
    story.facts.remove(submitted)
    story.facts[place - 1 : place - 1] = [submitted, start]


def book_cores_twice(story: Story) -> None:
    start_beside(story, "e")


def book_a_gpu_twice(story: Story) -> None:
    the_fact(story, "task.submit", "e")["metadata"]["request"] = {"job_name": "e", "cpu": 0, "gpu": 1}
    start_beside(story, "e", assignments=[{"rank": 0, "worker_id": "w", "gpus": [0]}])


def use_a_gpu_twice(story: Story) -> None:
    """On record one after the other; in truth one lives on."""
    start = the_fact(story, "task.start", "e")["metadata"]
    start["assignments"] = [{"rank": 0, "worker_id": "w", "gpus": [0]}]
    last, later = runs_of(story, "b", 2)[-1], runs_of(story, "e", 1)[1]
    last["boot_s"] = later["boot_s"]


def start_where_it_is_to_be_empty(story: Story) -> None:
    drain = the_fact(story, "worker.drain", "w")
    story.facts.remove(drain)
    story.facts.insert(1, drain)


def part_a_gang(story: Story) -> None:
    the_fact(story, "task.submit", "a")["metadata"]["request"]["node_count"] = 2


def show_what_never_was(story: Story) -> None:
    read_of(story, "a")["answer"]["priority"] = 8


def go_back(story: Story) -> None:
    read(story, "u1", "a", "running", 1)


def start_where_nobody_is(story: Story) -> None:
    the_fact(story, "task.start", "a")["metadata"]["assignments"][0]["worker_id"] = "nobody"


def forget_ones_own_write(story: Story) -> None:
    read_of(story, "b")["answer"]["priority"] = 5


def show_it_before_it_is_on_record(story: Story) -> None:
    early = read_of(story, "a", 1)
    early["begun_us"] = early["ended_us"] = the_fact(story, "task.completed", "a")["at_us"] - 1


def hide_what_is_there(story: Story) -> None:
    read = read_of(story, "b")
    read["status"], read["answer"] = 404, {"error": "x", "code": "NOT_FOUND", "trace_id": "x"}


def stream_what_never_was(story: Story) -> None:
    the_answer(story, "GET /v1/scheduler/jobs/{jobId}/stream")["events"][0]["data"]["task"]["attempt"] = 7


def stream_backwards(story: Story) -> None:
    events = the_answer(story, "GET /v1/scheduler/jobs/{jobId}/stream")["events"]
    events.append({"id": "1", "event": "queue_update", "data": {}})


def stream_two_ends(story: Story) -> None:
    events = the_answer(story, "GET /v1/scheduler/jobs/{jobId}/stream")["events"]
    events.append(events[0])


def rewrite_the_record(story: Story) -> None:
    """With a chain that holds."""
    story.facts[0]["user"] = "mallory"


def call_it_invalid(story: Story) -> None:
    the_answer(story, "POST /v1/audit/verify")["answer"]["valid"] = False


def show_another_event(story: Story) -> None:
    the_answer(story, "GET /v1/audit/events")["answer"]["events"][0]["action"] = "task.start"


def answer_with_a_fault(story: Story) -> None:
    story.answer(story.ask("u1", "GET /v1/queue"), 500, {"error": "x", "code": "INTERNAL_ERROR", "trace_id": "x"})


def refuse_a_good_key(story: Story) -> None:
    story.answer(story.ask("u1", "GET /v1/queue"), 401, {"error": "x", "code": "UNAUTHORIZED", "trace_id": "x"})


def refuse_without_a_word(story: Story) -> None:
    story.answer(story.ask("u1", "GET /v1/queue"), 403, None)


def show_it_to_a_stranger(story: Story) -> None:
    stranger = next(s for s in story.said if s.get("query") == {"stranger": "yes"})
    stranger["status"], stranger["answer"] = 200, read_of(story, "a", 1)["answer"]


def list_in_another_order(story: Story) -> None:
    the_answer(story, "GET /v1/tasks")["answer"]["tasks"].reverse()


def list_anothers(story: Story) -> None:
    the_answer(story, "GET /v1/tasks")["answer"]["tasks"][0]["user_id"] = "u1"


FAULTS: Final[dict[Callable[[Story], None], str]] = {
    lose_a_task: "acknowledged",
    keep_another_request: "acknowledged",
    lose_an_experiment: "acknowledged",
    lose_a_priority: "acknowledged",
    lose_a_cancel: "acknowledged",
    lose_a_drain: "acknowledged",
    lose_a_setting: "acknowledged",
    lose_a_verification: "acknowledged",
    make_two_of_one_key: "one intent, one deed",
    make_the_same_twice: "one intent, one deed",
    do_what_was_refused: "asked",
    do_what_nobody_asked_for: "asked",
    do_it_to_another: "asked",
    do_it_before_it_is_asked_for: "asked",
    do_it_as_another_user: "asked",
    end_twice: "one end",
    never_end: "one end",
    start_after_the_end: "forward",
    skip_an_attempt: "forward",
    start_without_a_repeat: "forward",
    claim_what_is_over: "forward",
    overlap: "never two at once",
    run_an_attempt_twice: "never two at once",
    run_on_after_the_end: "as on record",
    run_before_the_start: "as on record",
    complete_what_failed: "as on record",
    complete_what_never_ran: "as on record",
    book_cores_twice: "booked once",
    book_a_gpu_twice: "booked once",
    use_a_gpu_twice: "booked once",
    start_where_it_is_to_be_empty: "booked once",
    start_where_nobody_is: "booked once",
    part_a_gang: "booked once",
    show_what_never_was: "true reads",
    go_back: "true reads",
    forget_ones_own_write: "true reads",
    show_it_before_it_is_on_record: "true reads",
    hide_what_is_there: "true reads",
    stream_what_never_was: "true streams",
    stream_backwards: "true streams",
    stream_two_ends: "true streams",
    rewrite_the_record: "one record",
    call_it_invalid: "one record",
    show_another_event: "one record",
    answer_with_a_fault: "true answers",
    refuse_a_good_key: "true answers",
    refuse_without_a_word: "true answers",
    show_it_to_a_stranger: "true answers",
    list_in_another_order: "lists",
    list_anothers: "lists",
}


@pytest.mark.parametrize("plant", FAULTS, ids=lambda plant: str(plant.__name__))
def test_a_planted_fault_is_named(tmp_path: Path, plant: Callable[[Story], None]) -> None:
    story = told()
    plant(story)
    found = problems_of(load(*story.write(tmp_path)))
    assert FAULTS[plant] in {problem.rule for problem in found}, found


def test_who_was_stopped_after_one_word_holds_its_gpu_no_longer(tmp_path: Path) -> None:
    story = told()
    the_fact(story, "task.start", "e")["metadata"]["assignments"] = [{"rank": 0, "worker_id": "w", "gpus": [0]}]
    silenced = runs_of(story, "b", 2)[1:]
    story.runs = [line for line in story.runs if line not in silenced]
    assert "booked once" not in {problem.rule for problem in problems_of(load(*story.write(tmp_path)))}


def flip_a_byte(segment: Path, _head: Path) -> None:
    raw = bytearray(segment.read_bytes())
    raw[len(raw) // 2] ^= 1
    segment.write_bytes(raw)


def cut_the_tail(segment: Path, _head: Path) -> None:
    raw = segment.read_bytes()
    segment.write_bytes(raw[: raw.rindex(b"FMLFRM01")] + bytes(512))


def lose_the_middle(segment: Path, _head: Path) -> None:
    frames = segment.read_bytes().split(b"FMLFRM01")
    segment.write_bytes(b"FMLFRM01".join(frames[:3] + frames[4:]))


def say_more_after_the_end(segment: Path, _head: Path) -> None:
    segment.write_bytes(segment.read_bytes() + b"more")


def know_another_end(_segment: Path, head: Path) -> None:
    head.write_text(head.read_text().replace('"event_hash": "', '"event_hash": "0'))


@pytest.mark.parametrize(
    "damage", [flip_a_byte, cut_the_tail, lose_the_middle, say_more_after_the_end, know_another_end]
)
def test_a_chain_that_does_not_hold_is_named(tmp_path: Path, damage: Callable[[Path, Path], None]) -> None:
    histories, data = told().write(tmp_path)
    damage(data / "ledger" / "segments" / f"{0:020}.log", data / "ledger" / "head")
    with pytest.raises(Broken):
        load(histories, data)


def test_it_is_a_program_that_says_what_is_wrong(tmp_path: Path) -> None:
    story = told()
    end_twice(story)
    command = [sys.executable, "-m", "tests.fault.outside", *map(str, story.write(tmp_path))]
    ran = subprocess.run(command, cwd=ROOT, capture_output=True, text=True, check=False)
    assert ran.returncode == 1
    assert "one end: task a: 2 ends on record" in ran.stdout
