"""POST /v1/tasks: what a body may be, without a server."""

import json
import shlex
from pathlib import Path
from typing import Any

import pytest
from hypothesis import example, given
from hypothesis import strategies as st

from fetchmld.api.body import parse_object
from fetchmld.api.intake import Intake, _splittable
from fetchmld.config import Config, RegisteredDataset
from fetchmld.core.chain import FIELD_BYTES_MAX, decode, encode
from fetchmld.core.errors import BadRequest, Invalid
from fetchmld.core.messages import Fact
from fetchmld.core.model import TaskRequest

SUM = "ab" * 32


def intake(raw: bytes) -> TaskRequest:
    config = Config(
        data_dir=Path("/srv/fetchml"),
        dataset_roots=(Path("/data"), Path("/more/sets")),
        datasets={
            "digits": RegisteredDataset(source="https://example.org/digits.csv", sha256=SUM),
            "local": RegisteredDataset(source="/elsewhere/local.csv"),
        },
    )
    return Intake(config).task_request(parse_object(raw))


def ask(**body: Any) -> TaskRequest:
    return intake(json.dumps({"job_name": "x", **body}).encode())


def refusal(**body: Any) -> str:
    with pytest.raises(Invalid) as caught:
        ask(**body)
    return caught.value.message


def test_a_name_alone_is_enough_and_nothing_is_added() -> None:
    assert intake(b'{"job_name": "x"}') == {"job_name": "x"}


def test_every_field_is_taken() -> None:
    body: dict[str, Any] = {
        "job_name": "train-1_A",
        "priority": 10,
        "args": "--epochs 10 --name 'a b'",
        "entrypoint": '/bin/bash -c "echo hello"',
        "experiment_id": "e1",
        "cpu": 0,
        "memory_gb": 65536,
        "gpu": 1024,
        "gpu_type": "A100|H100",
        "node_count": 4096,
        "time_limit_s": 31_536_000,
        "kind": "service",
        "env": {"A": "1", "_b": ""},
        "metadata": {"any thing": "goes"},
        "max_retries": 100,
        "plugin_configs": {},
    }
    assert intake(json.dumps(body).encode()) == body


@pytest.mark.parametrize(
    ("raw", "error"),
    [
        (b"", BadRequest),
        (b"{", BadRequest),
        (b"nonsense", BadRequest),
        (b"\xff\xfe{}", BadRequest),
        (b'\xef\xbb\xbf{"job_name": "x"}', BadRequest),
        (b'{"job_name": "x", "cpu": NaN}', BadRequest),
        (b'{"job_name": "x", "cpu": -Infinity}', BadRequest),
        (b'{"job_name": "x", "job_name": "y"}', BadRequest),
        (b'{"job_name": "x", "env": {"A": "1", "A": "2"}}', BadRequest),
        (b'{"job_name": "x", "args": "\x00"}', BadRequest),
        (b'{"job_name": "x"} {}', BadRequest),
        (b"[" * 100_000, BadRequest),
        (b'{"job_name": "x", "cpu": ' + b"9" * 5000 + b"}", BadRequest),
        (b"[]", Invalid),
        (b"null", Invalid),
        (b'"x"', Invalid),
        (b"1", Invalid),
        (b"{}", Invalid),
        (b'{"job_name": "x", "args": "\\u0000"}', Invalid),
        (b'{"job_name": "x", "args": "\\ud800"}', Invalid),
        (b'{"job_name": "x", "env": {"A": "\\udfff"}}', Invalid),
        (b'{"job_name": "x", "metadata": {"\\u0000": "v"}}', Invalid),
        (b'{"job_name": "x", "\\ud800": "v"}', Invalid),
    ],
)
def test_bytes_that_are_not_a_request(raw: bytes, error: type[Exception]) -> None:
    with pytest.raises(error):
        intake(raw)


def test_escaped_text_that_is_sound_is_taken() -> None:
    assert intake(b'{"job_name": "x", "args": "\\ud83d\\ude00 \\u00e9"}')["args"] == "\U0001f600 \u00e9"


@pytest.mark.parametrize("name", ["", "a b", "a\n", "\n", "a/b", "é", "x" * 65, "a.b", None, 7, ["x"]])
def test_job_name_is_refused(name: Any) -> None:
    assert refusal(job_name=name).startswith("job_name: ")


@pytest.mark.parametrize(
    ("field", "value"),
    [
        ("priority", 0),
        ("priority", 11),
        ("priority", "5"),
        ("priority", 5.0),
        ("priority", True),
        ("priority", None),
        ("cpu", -1),
        ("cpu", 4097),
        ("cpu", True),
        ("cpu", 10**400),
        ("memory_gb", 1.5),
        ("memory_gb", 65_537),
        ("gpu", 1025),
        ("gpu", "1"),
        ("node_count", 0),
        ("node_count", 4097),
        ("max_retries", -1),
        ("max_retries", 101),
        ("time_limit_s", 0),
        ("time_limit_s", 31_536_001),
        ("kind", "plugin"),
        ("gpu_type", ""),
        ("gpu_type", "A|"),
        ("env", {"1A": ""}),
        ("env", {"": ""}),
        ("env", {"A=B": ""}),
        ("env", {"A\n": ""}),
        ("env", {"A": 1}),
        ("env", {"FETCHML_TASK_ID": "x"}),
        ("env", ["A=1"]),
        ("env", {"A": "x" * 65_536}),
        ("env", {"A": "x" * 16_385}),
        ("args", "x" * 16_385),
        ("entrypoint", "é" * 8_193),
        ("env", {f"A{i}": "" for i in range(1001)}),
        ("metadata", {"a": None}),
        ("metadata", {"a": "x" * 65_536}),
        ("entrypoint", ""),
        ("entrypoint", "  "),
        ("entrypoint", "sh -c 'open"),
        ("entrypoint", "sh \\"),
        ("entrypoint", 5),
        ("entrypoint", "x" * 65_537),
        ("args", '"open'),
        ("datasets", "digits"),
        ("datasets", [1]),
        ("datasets", ["nobody-registered-this"]),
        ("dataset_specs", {}),
        ("dataset_specs", [{"source": "/data/a", "sha512": "x"}]),
        ("plugin_configs", {"nobody-installed-this": {"enabled": True}}),
        ("plugin_configs", {"mlflow": {"settings": {"surprise": 1}}}),
        ("plugin_configs", {"tensorboard": {"settings": {"experiment": "x"}}}),
        ("plugin_configs", {"mlflow": {"mode": "sideways"}}),
        ("snapshot_id", ""),
        ("reservation_id", ""),
        ("depends_on", "t1"),
        ("depends_on", [{"condition": "ok"}]),
        ("depends_on", [{"task_id": "t1", "condition": "never"}]),
        ("depends_on", ["t1", {"task_id": "t1"}]),
        ("depends_on", ["t 1"]),
        ("depends_on", [f"t{n}" for n in range(65)]),
        ("array", "1-10"),
        ("experiment_id", ""),
        ("surprise", 1),
    ],
)
def test_a_bad_value_is_refused_by_its_field(field: str, value: Any) -> None:
    assert refusal(**{field: value}).startswith(field)


@pytest.mark.parametrize("letter", ["x", "\n", "é", "\U0001f600"])
def test_the_longest_texts_that_are_taken_are_recorded_uncut(letter: str) -> None:
    """A restart makes the task of its record: cut there, another command would run."""
    longest = letter * (FIELD_BYTES_MAX // len(letter.encode()))
    request = ask(
        args=longest,
        entrypoint="run " + longest[8:],
        env={"A": longest},
        metadata={"note": longest, "k" * FIELD_BYTES_MAX: ""},
    )
    fact = Fact("job_queued", "task.submit", "t1", "ada", metadata={"request": request, "priority": 5})
    assert decode(encode(fact, 0, bytes(32)))[2] == fact
    assert refusal(args=longest + "x").startswith("args: has 16385 bytes")


def test_a_refusal_says_the_value_and_what_is_allowed() -> None:
    assert refusal(priority=11) == "priority: must be at most 10, not 11"
    assert refusal(cpu=True) == "cpu: must be an integer, not true"
    assert refusal(kind="x") == "kind: must be 'batch' or 'service', not \"x\""
    assert refusal(surprise=1) == "surprise: is not a field of this request"
    assert "; " in refusal(cpu=-1, gpu=-1)


def test_a_refusal_never_repeats_what_may_be_secret() -> None:
    assert "hunter2" not in refusal(env={"PASSWORD": ["hunter2"]}, metadata={"a": "hunter2" * 10_000})
    assert "hunter2" not in refusal(args=["hunter2"], entrypoint="'hunter2")


def test_many_problems_are_counted_not_listed() -> None:
    assert refusal(**{f"surprise{i}": 1 for i in range(50)}).endswith("and 45 more")


@pytest.mark.parametrize(
    "crowd",
    [
        {f"k{i}": 1 for i in range(5001)},
        {"datasets": [1] * 5001},
        {"env": {f"{i}": 1 for i in range(5001)}},
        {"metadata": {f"{i}": [1] * 100 for i in range(60)}},
    ],
)
def test_a_crowd_of_values_is_refused_before_it_is_looked_at(crowd: dict[str, Any]) -> None:
    assert refusal(**crowd) == "the body holds more than 5000 values"


@given(st.text(alphabet="ab \\'\"\n#\té", max_size=30))
@example('\'a\'"b\\""\\ ')
def test_splittable_is_what_shlex_accepts(text: str) -> None:
    try:
        shlex.split(text)
    except ValueError:
        with pytest.raises(ValueError, match="quote"):
            _splittable(text)
    else:
        assert _splittable(text) == text


# -- datasets


def spec(**given: Any) -> Any:
    return ask(dataset_specs=[given])["dataset_specs"][0]


def test_a_spec_is_completed() -> None:
    assert spec(source="/data/iris data.csv") == {
        "name": "iris_data.csv",
        "source": "/data/iris data.csv",
        "mount_path": "data/iris_data.csv",
    }
    assert spec(source="file:///more/sets/b%20c/", sha256=SUM.upper()) == {
        "name": "b_c",
        "source": "file:///more/sets/b%20c/",
        "mount_path": "data/b_c",
        "sha256": SUM,
    }
    assert spec(source="https://h/a/b.zip?x=/y", sha256=SUM)["name"] == "b.zip"
    assert spec(source="https://h", sha256=SUM)["name"] == "dataset"
    assert spec(source="/data/a", name="n", mount_path="deep/er")["mount_path"] == "deep/er"


def test_registered_names_become_specs() -> None:
    digits = {
        "name": "digits",
        "source": "https://example.org/digits.csv",
        "mount_path": "data/digits",
        "sha256": SUM,
    }
    assert ask(datasets=["digits"]) == {"job_name": "x", "datasets": ["digits"], "dataset_specs": [digits]}
    assert spec(name="digits") == digits
    assert spec(name="digits", source="https://example.org/digits.csv") == digits
    assert spec(name="local", mount_path="here")["source"] == "/elsewhere/local.csv"


@pytest.mark.parametrize(
    "source",
    [
        "relative.csv",
        "../data/x",
        "/etc/passwd",
        "/data/../etc/passwd",
        "/database/x",
        "/",
        "file:///data/../etc/passwd",
        "file:///data/%2e%2e/etc/passwd",
        "file:///data/%00",
        "file:///data/%ff",
        "file://host/data/x",
        "file:data/x",
        "file:///data/x?y",
        "s3://bucket/x",
        "ftp://h/x",
        "data:text/plain,x",
        "gopher:x",
        "http://",
        "http:///x",
        "http://h:99999/x",
        "http://[::1/x",
        "http://user:secret@h/x",
        "http://h/a b",
        "http://h/\u00e9",
        "",
        "/data/" + "x" * 4096,
    ],
)
def test_a_source_is_refused(source: str) -> None:
    said = refusal(dataset_specs=[{"source": source, "sha256": SUM}])
    assert said.startswith("dataset_specs.0.source")
    assert "secret" not in said


@pytest.mark.parametrize("source", ["/data", "/data/x", "/data/./y/../x", "/more/sets/z", "file://localhost/data/x"])
def test_a_local_source_in_its_roots_is_taken(source: str) -> None:
    assert spec(source=source)["source"] == source


def test_a_remote_source_needs_its_sum() -> None:
    assert "needs its sha256" in refusal(dataset_specs=[{"source": "https://h/x"}])
    assert "64 hex" in refusal(dataset_specs=[{"source": "/data/x", "sha256": "abc"}])
    assert "64 hex" in refusal(dataset_specs=[{"source": "/data/x", "sha256": ""}])
    assert "64 hex" in refusal(dataset_specs=[{"source": "/data/x", "sha256": SUM + "\n"}])


@pytest.mark.parametrize(
    "path",
    ["", "/abs", "..", "../up", "a/../../up", "a/..", ".", "./a", "a//b", "a/", "\0", "a\0b", "x" * 1025, "é" * 200],
)
def test_a_mount_path_is_refused(path: str) -> None:
    said = refusal(dataset_specs=[{"source": "/data/x", "mount_path": path}])
    assert "mount_path" in said or "NUL" in said


@pytest.mark.parametrize("name", ["..", ".", "a/b", "a b", "a\n", "x" * 129, "é"])
def test_a_dataset_name_is_refused(name: str) -> None:
    assert refusal(dataset_specs=[{"source": "/data/x", "name": name}]).startswith("dataset_specs.0.name")


@pytest.mark.parametrize(
    ("one", "two"),
    [
        ({"mount_path": "a"}, {"mount_path": "a"}),
        ({"mount_path": "a/b"}, {"mount_path": "a"}),
        ({"mount_path": "a"}, {"mount_path": "a/b/c"}),
        ({"name": "n-1", "mount_path": "a"}, {"name": "N_1", "mount_path": "b"}),
        ({}, {}),
    ],
)
def test_datasets_that_collide_are_refused(one: dict[str, str], two: dict[str, str]) -> None:
    specs = [{"source": "/data/x", **one}, {"source": "/more/sets/x", **two}]
    assert "dataset_specs" in refusal(dataset_specs=specs)


def test_names_and_specs_may_not_collide_either() -> None:
    assert "collide" in refusal(
        datasets=["digits"], dataset_specs=[{"source": "/data/x", "mount_path": "data/digits/x"}]
    )


def test_neighbours_do_not_collide() -> None:
    specs = [{"source": "/data/a", "mount_path": "d/a"}, {"source": "/data/ab", "mount_path": "d/ab"}]
    assert len(ask(dataset_specs=specs)["dataset_specs"]) == 2


def test_too_many_datasets_are_refused() -> None:
    assert "at most 64" in refusal(dataset_specs=[{"source": f"/data/{i}"} for i in range(65)])
