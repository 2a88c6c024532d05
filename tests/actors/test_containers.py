"""Tasks in images, with a command that records what it is asked and then runs the words here. No real container runtime."""

import stat
from pathlib import Path
from typing import Any

import pytest

from actors import containers, jupyter
from actors.workspace import CannotRun, Workspace
from fetchmld.core.model import TaskRequest
from tests.actors.fake_scheduler import Node, on_node
from tests.actors.test_task_code import keep

FAKE = """#!/bin/sh
case $1 in info|version) exit $WORKS;; esac
printf '%s\\n' "$@" >> {said}
printf 'SECRET=%s\\n' "$SECRET" >> {said}
[ "$1" = rm ] && exit 0
while [ "$1" != IMAGE ] && [ "$1" != docker://IMAGE ]; do shift; done
shift
exec "$@"
"""


def fake(tmp_path: Path, monkeypatch: pytest.MonkeyPatch, *names: str, works: int = 0) -> Path:
    """Container commands of these names, the only ones there are; the file that has what they were asked."""
    said = tmp_path / "said"
    (tmp_path / "bin").mkdir()
    for name in names:
        command = tmp_path / "bin" / name
        command.write_text(FAKE.replace("{said}", str(said)).replace("$WORKS", str(works)))
        command.chmod(command.stat().st_mode | stat.S_IXUSR)
    found = {name: str(tmp_path / "bin" / name) for name in names}
    monkeypatch.setattr(containers, "which", found.get)
    return said


def test_only_what_works_counts_best_first(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    fake(tmp_path, monkeypatch, "docker", "podman", "apptainer")
    assert containers.found(isolated=False) == ["apptainer", "podman", "docker"]
    assert containers.found(isolated=True) == ["apptainer"]


def test_what_is_there_but_does_not_work_does_not_count(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    fake(tmp_path, monkeypatch, "docker", works=1)
    assert containers.found(isolated=False) == []


def argv(runtime: str, words: list[str], **request: object) -> list[str]:
    env = {"PATH": "/host", "SECRET": "canary", "CUDA_VISIBLE_DEVICES": "GPU-1,GPU-2"}
    asked: TaskRequest = {"image": "IMAGE", **request}  # type: ignore[typeddict-item]
    return containers.command([runtime], asked, words, "t-1-0", Workspace("/base"), env)


def test_the_words_of_each(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    fake(tmp_path, monkeypatch, "docker", "podman", "apptainer")
    docker = argv("docker", ["python3", "a.py"], cpu=2, memory_gb=3)
    assert docker[-3:] == ["IMAGE", "python3", "a.py"]
    assert {"--cpus=2", "--memory=3g", "--volume=/base:/base", "--workdir=/base/work", "--env=SECRET"} <= set(docker)
    assert '--gpus="device=GPU-1,GPU-2"' in docker
    assert "--env=PATH" not in docker
    assert {"--device=nvidia.com/gpu=GPU-1", "--device=nvidia.com/gpu=GPU-2"} <= set(argv("podman", ["x"]))
    assert argv("apptainer", ["x"])[1:] == [
        "exec", "--no-home", "--bind=/base:/base", "--pwd=/base/work", "--nv", "docker://IMAGE", "x"
    ]  # fmt: skip
    assert argv("apptainer", [])[1] == "run"
    for runtime in ("docker", "podman", "apptainer"):
        assert not [word for word in argv(runtime, ["x"]) if "canary" in word]


def test_a_server_sees_its_workspace_and_its_sockets_too(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    fake(tmp_path, monkeypatch, "docker", "apptainer")
    server = jupyter.Server("s1", 1, "ada", 0, "/jupyter/s1", "t0ken", "/home", "/run1")
    words = jupyter.words(server, "")
    asked: TaskRequest = {"image": "IMAGE"}
    for runtime, flags in (
        ("docker", {"--volume=/base:/base", "--volume=/home:/home", "--volume=/run1:/run1", "--workdir=/home"}),
        ("apptainer", {"--bind=/base:/base", "--bind=/home:/home", "--bind=/run1:/run1", "--pwd=/home"}),
    ):
        env = {"CUDA_VISIBLE_DEVICES": ""}
        made = containers.command([runtime], asked, words, "s1-1-0", Workspace("/base"), env, ["/home", "/run1"])
        assert flags <= set(made)
        assert made[-3:] == ["jupyter", "lab", "--config=/run1/settings.json"]


def test_a_worker_without_any_says_so(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    fake(tmp_path, monkeypatch)
    with pytest.raises(CannotRun) as caught:
        containers.command([], {"image": "IMAGE"}, ["x"], "t-1-0", Workspace("/base"), {})
    assert caught.value.infrastructure


@pytest.mark.parametrize("runtime", ["docker", "podman", "apptainer"])
def test_a_task_runs_in_its_directory_with_its_environment(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, runtime: str
) -> None:
    said = fake(tmp_path, monkeypatch, runtime)

    async def story(node: Node) -> None:
        assert (await node.scheduler.heard("hello"))["detail"]["containers"] == [runtime]
        snapshot = keep(
            node, {"train.py": "import os\nprint(os.getcwd(), os.environ['SECRET'])", "requirements.txt": "x"}
        )
        request: dict[str, Any] = {"image": "IMAGE", "snapshot_id": snapshot, "env": {"SECRET": "s3cret"}}
        report = await node.run("a", **request)
        assert report.get("exit_code") == 0, report
        assert (await node.output("a")).decode() == f"{node.node_dir}/attempts/a-1-0/work s3cret\n"
        lines = said.read_text().splitlines()
        assert "s3cret" not in [line for line in lines if not line.startswith("SECRET=")]
        assert (lines[-5:-1] == ["rm", "--force", "--volumes", "fetchml-a-1-0"]) is (runtime == "docker")
        await node.run("b", "/bin/sh", args="-c 'echo plain'")
        assert await node.output("b") == b"plain\n"
        assert said.read_text().splitlines() == lines

    on_node(story)
