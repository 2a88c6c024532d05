"""Environments of tasks: one build for all who wait, kept and removed, and what a user's files cannot make uv do.

uv installs from a directory of wheels that the tests make, so no index is needed.
"""

import asyncio
import base64
import hashlib
import io
import os
import platform
import subprocess
import sys
import time
import zipfile
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

from actors import uv
from actors.environments import Environments, key_of
from actors.requirements import Wanted, exported, wanted_by
from actors.task_code import TaskCode
from actors.workspace import CannotRun
from fetchmld.manifest import CodeFile
from tests.actors.fake_scheduler import Node, on_node, until
from tests.actors.test_task_code import keep

LOCK = """version = 1
revision = 1
requires-python = ">=3.11"

[[package]]
name = "tiny"
version = "1.0"
source = { registry = "https://pypi.org/simple" }
wheels = [{ url = "https://canary.invalid/tiny-1.0-py3-none-any.whl", hash = "sha256:HASH" }]

[[package]]
name = "mine"
version = "0"
source = { virtual = "." }
dependencies = [{ name = "tiny" }]
"""
PROJECT = '[project]\nname = "mine"\nversion = "0"\nrequires-python = ">=3.11"\ndependencies = ["tiny"]\n'


def wheel(directory: Path, name: str, version: str = "1.0", more: dict[str, str] | None = None) -> Path:
    """A wheel of one module that says its version."""
    info = f"{name}-{version}.dist-info"
    files = {
        f"{name}.py": f"VERSION = {version!r}\n",
        f"{info}/METADATA": f"Metadata-Version: 2.1\nName: {name}\nVersion: {version}\n",
        f"{info}/WHEEL": "Wheel-Version: 1.0\nGenerator: test\nRoot-Is-Purelib: true\nTag: py3-none-any\n",
        **(more or {}),
    }
    record = "".join(f"{path},{_sum(text)},{len(text)}\n" for path, text in files.items()) + f"{info}/RECORD,,\n"
    path = directory / f"{name}-{version}-py3-none-any.whl"
    with zipfile.ZipFile(path, "w") as archive:
        for inner, text in {**files, f"{info}/RECORD": record}.items():
            archive.writestr(inner, text)
    return path


def _sum(text: str) -> str:
    return "sha256=" + base64.urlsafe_b64encode(hashlib.sha256(text.encode()).digest()).rstrip(b"=").decode()


@pytest.fixture
def wheels(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """A directory that uv finds its packages in, and nowhere else."""
    for name in [name for name in os.environ if name.startswith(("UV_", "PIP_"))]:
        monkeypatch.delenv(name)
    directory = tmp_path / "wheels"
    directory.mkdir()
    wheel(directory, "tiny")
    config = tmp_path / "uv.toml"
    config.write_text(f'no-index = true\nfind-links = ["{directory}"]\n')
    monkeypatch.setenv("UV_CONFIG_FILE", str(config))
    return directory


@pytest.fixture
def made(tmp_path: Path) -> Iterator[Environments]:
    found = environments(tmp_path)
    yield found
    found.close()


def environments(tmp_path: Path, bytes_max: int = 2**40, held: frozenset[str] = frozenset()) -> Environments:
    found = Environments(tmp_path / "environments", bytes_max, 60.0, False, held.__contains__)
    found.open()
    return found


def code(files: dict[str, str]) -> TaskCode:
    entries = [
        CodeFile(path=path, executable=False, size=len(text.encode()), hash=path) for path, text in files.items()
    ]
    return TaskCode("s", entries, lambda path: io.BytesIO(files[path].encode()))


def wanted(files: dict[str, str], script: str = "train.py", indexes: tuple[str, ...] = ()) -> Wanted | None:
    return wanted_by(code(files), script, indexes)


def header(*lines: str) -> str:
    return "\n".join(["# /// script", *(f"# {line}" for line in lines), "# ///", "import tiny"]) + "\n"


def test_which_file_is_asked() -> None:
    every = {
        "train.py": header('dependencies = ["a"]'),
        "uv.lock": "",
        "pyproject.toml": PROJECT,
        "requirements.txt": "b",
    }
    for source in ("train.py", "uv.lock", "requirements.txt", "pyproject.toml"):
        found = wanted(every)
        assert found is not None
        assert found.source == source
        every["train.py" if source == "train.py" else source] = "print(1)"
        if source != "train.py":
            del every[source]
    assert wanted(every) is None
    for nothing in (
        {"pyproject.toml": "[tool.ruff]\n"},
        {"train.py": header("dependencies = []")},
        {"x": ""},
        {"uv.lock": ""},
    ):
        assert wanted(nothing) is None
    assert wanted({"run.sh": header('dependencies = ["a"]')}, "run.sh") is None


def test_requirement_lines_keep_what_they_say() -> None:
    text = """
# a comment
tiny[extra,more] >=1.0, <2 ; python_version < '4' and platform_machine == "x86_64"   # another
torch==2.9.0+cpu
hashed==1.0 \\
    --hash=sha256:0000000000000000000000000000000000000000000000000000000000000000
-r more/base.txt
-c constraints.txt
--extra-index-url https://download.pytorch.org/whl/cpu
"""
    files = {
        "requirements.txt": text,
        "more/base.txt": "six\n-r ../requirements.txt\n-r other.txt",
        "more/other.txt": "b~=1.0",
        "constraints.txt": "numpy<3",
    }
    found = wanted(files, indexes=("https://download.pytorch.org/whl",))
    assert found is not None
    assert found.lines == (
        "tiny[extra,more] >=1.0, <2 ; python_version < '4' and platform_machine == \"x86_64\"",
        "torch==2.9.0+cpu",
        "hashed==1.0 --hash=sha256:" + "0" * 64,
        "six",
        "b~=1.0",
    )
    assert (found.constraints, found.indexes) == (("numpy<3",), ("https://download.pytorch.org/whl/cpu",))


HOSTILE = [
    "-r /etc/passwd", "-r ../../etc/passwd", "-r http://canary/x", "-c /etc/shadow", "-r absent.txt", "-e .",
    "-e git+https://x/y", ".", "./x", "/tmp/x.whl", "file:///tmp/x.whl", "tiny @ file:///tmp/x.whl", "tiny @ https://canary/x.whl",
    "git+https://canary/x", "https://canary/${UV_INDEX_PASSWORD}", "tiny==${HOME}", "$HOME", "${UV_INDEX_X_PASSWORD}",
    "--index-url https://canary/simple", "-i https://canary", "-ihttps://canary", "--extra-index-url=https://canary",
    "--extra-index-url https://pypi.org/simple@canary/", "--extra-index-url https://pypi.org/simple/../../canary",
    "--extra-index-url https://pypi.org/simpleton/", "--extra-index-url https://pypi.org/simple/$HOME",
    "--find-links /etc", "-f http://canary", "--trusted-host canary", "--no-binary :all:", "--config-settings x=y",
    "--global-option x", "tiny --install-option=x", "tiny --hash=md5:00", "tiny\x00", "tiny; `id`", "tiny | sh",
    "--python /bin/sh",
    "--", "-", "'", "-r 'x", "tiny==1.0 -r x", "tiny @ ../x", "a" * 10_000 + "/", "[x]", ">=1", "tiny=1", "tiny >= ",
]  # fmt: skip


@pytest.mark.parametrize("line", HOSTILE, ids=range(len(HOSTILE)))
def test_a_hostile_line_never_reaches_uv(line: str) -> None:
    for files in (
        {"requirements.txt": f"tiny\n{line}\n"},
        {"pyproject.toml": f"[project]\ndependencies = [{line!r}]\n"},
    ):
        if "\x00" in line and "pyproject.toml" in files:
            continue
        with pytest.raises(CannotRun) as caught:
            wanted(files, indexes=("https://pypi.org/simple",))
        assert caught.value.word == "ENVIRONMENT_FAILED"
    with pytest.raises(CannotRun):
        exported(f"tiny==1.0\n{line}\n")


@pytest.mark.parametrize(
    "files",
    [
        {"pyproject.toml": "[project"},
        {"pyproject.toml": "project = 1"},
        {"pyproject.toml": "[project]\ndependencies = 'x'"},
        {"pyproject.toml": "[project]\ndependencies = ['a']\nrequires-python = '/bin/sh'"},
        {"pyproject.toml": "[project]\nrequires-python = 3"},
        {"train.py": header("dependencies = [")},
        {"train.py": header("dependencies = [1]")},
        {"train.py": header("x = 1") + header("x = 1")},
        {"requirements.txt": "\udcff"},
    ],
)
def test_a_file_that_cannot_be_read_says_which(files: dict[str, str]) -> None:
    name = next(iter(files))
    found = code(files) if name != "requirements.txt" else raw(b"\xff")
    with pytest.raises(CannotRun, match=name):
        wanted_by(found, "train.py", ())


def raw(data: bytes) -> TaskCode:
    entry = CodeFile(path="requirements.txt", executable=False, size=len(data), hash="")
    return TaskCode("s", [entry], lambda _: io.BytesIO(data))


def test_uv_is_told_of_the_index_and_of_nothing_else(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    for name in ("AWS_SECRET_ACCESS_KEY", "FETCHML_API_KEY", "RAY_AUTH_TOKEN", "UV_PYTHON", "UV_OVERRIDE"):
        monkeypatch.setenv(name, "canary")
    monkeypatch.setenv("UV_INDEX_CORP_PASSWORD", "p")
    monkeypatch.setenv("PIP_INDEX_URL", "https://corp/simple")
    monkeypatch.delenv("UV_DEFAULT_INDEX", raising=False)
    found = uv.environment(tmp_path)
    assert "canary" not in found.values()
    assert (found["UV_INDEX_CORP_PASSWORD"], found["UV_DEFAULT_INDEX"]) == ("p", "https://corp/simple")
    assert uv.clean(b"\x1b[31mfailed https://ada:secret@corp/simple\r") == "[31mfailed https://corp/simple"


def test_one_build_for_all_who_wait_and_none_for_who_comes_later(
    tmp_path: Path, wheels: Path, made: Environments
) -> None:
    async def story() -> None:
        said: list[list[str]] = [[] for _ in range(5)]
        asked = Wanted("requirements.txt", ("tiny",))
        first, *others = await asyncio.gather(*(made.get(asked, lines.append) for lines in said))
        assert {other.base for other in others} == {first.base}
        assert all("tiny==1.0" in " ".join(lines) for lines in said)
        assert said[0][-1].startswith("ready after")
        silent: list[str] = []
        assert (await made.get(asked, silent.append)).base == first.base
        assert silent == []
        assert (await made.get(Wanted("x", ("tiny==1.0",)), silent.append)).base != first.base
        assert [path.name for path in first.base.iterdir() if path.name == "scratch"] == []
        installed = next(first.top.glob("lib/*/site-packages/tiny.py"))
        assert installed.stat().st_nlink == 1
        assert installed.stat().st_mode & 0o077 == 0o044
        assert list(tmp_path.glob("environments/*/ready")).__len__() == 2

    asyncio.run(story())


def test_a_lock_is_read_for_its_versions_not_for_its_addresses(wheels: Path, made: Environments) -> None:
    digest = hashlib.sha256((wheels / "tiny-1.0-py3-none-any.whl").read_bytes()).hexdigest()
    wheel(wheels, "tiny", "2.0")

    async def story(lock: str) -> str:
        found = await made.get(Wanted("uv.lock", lock=(PROJECT.encode(), lock.encode())), lambda _: None)
        return next(found.top.glob("lib/*/site-packages/tiny.py")).read_text()

    assert asyncio.run(story(LOCK.replace("HASH", digest))) == "VERSION = '1.0'\n"
    with pytest.raises(CannotRun, match=r"(?i)hash"):
        asyncio.run(story(LOCK.replace("HASH", "0" * 64)))


def test_our_own_python_is_taken_where_it_will_do(wheels: Path, made: Environments) -> None:
    major, minor = sys.version_info[:2]
    asked = Wanted("pyproject.toml", ("tiny",), requires_python=f">={major}.{minor}")
    found = asyncio.run(made.get(asked, lambda _: None))
    said = subprocess.run([found.python, "-V"], capture_output=True, text=True, check=True).stdout
    assert said.split()[1] == platform.python_version()


@pytest.mark.parametrize(
    ("asked", "said"),
    [
        (Wanted("requirements.txt", ("nosuchpackage",)), "nosuchpackage"),
        (Wanted("requirements.txt", ("tiny>=2",)), "tiny"),
        (Wanted("pyproject.toml", ("tiny",), requires_python=">=4"), "4"),
        (Wanted("uv.lock", lock=(b"[project]\nname='x'\nversion='0'\n", b"nonsense")), "uv.lock"),
    ],
)
def test_a_failure_has_the_last_lines_of_uv(
    tmp_path: Path, wheels: Path, made: Environments, asked: Wanted, said: str
) -> None:
    async def story() -> None:
        with pytest.raises(CannotRun, match=said) as caught:
            await made.get(asked, lambda _: None)
        assert caught.value.word == "ENVIRONMENT_FAILED"
        begun_t = time.monotonic()
        with pytest.raises(CannotRun):
            await made.get(asked, lambda _: None)
        assert time.monotonic() - begun_t < 60
        assert [path.name for path in (tmp_path / "environments").iterdir() if path.name != "cache"] == []

    asyncio.run(story())


def test_nothing_is_built_from_source(tmp_path: Path, wheels: Path, made: Environments) -> None:
    import tarfile

    marker = tmp_path / "ran"
    with tarfile.open(wheels / "evil-1.0.tar.gz", "w:gz") as archive:
        for name, text in (
            ("setup.py", f"open({str(marker)!r}, 'w')"),
            ("PKG-INFO", "Metadata-Version: 2.1\nName: evil\nVersion: 1.0\n"),
        ):
            entry = tarfile.TarInfo(f"evil-1.0/{name}")
            entry.size = len(text)
            archive.addfile(entry, io.BytesIO(text.encode()))
    with pytest.raises(CannotRun, match="evil"):
        asyncio.run(made.get(Wanted("requirements.txt", ("evil",)), lambda _: None))
    assert not marker.exists()


def test_what_a_package_runs_at_start_is_not_run_by_us(tmp_path: Path, wheels: Path, made: Environments) -> None:
    marker = tmp_path / "ran"
    wheel(wheels, "sly", more={"sly.pth": f"import pathlib; pathlib.Path({str(marker)!r}).touch()\n"})
    found = asyncio.run(made.get(Wanted("requirements.txt", ("sly",)), lambda _: None))
    assert list(found.top.glob("lib/*/site-packages/sly.pth"))
    assert not marker.exists()


def test_the_longest_unused_goes_first_and_none_that_is_used(tmp_path: Path, wheels: Path) -> None:
    for name in ("a1", "b1", "c1"):
        wheel(wheels, name)
    found = environments(tmp_path, bytes_max=0, held=frozenset({"t-1-0"}))

    async def story() -> None:
        first = await found.get(Wanted("x", ("a1",)), lambda _: None)
        found.hold(first, "t-1-0")
        found.hold(first, "gone-1-0")
        found.let_go(first)
        second = await found.get(Wanted("x", ("b1",)), lambda _: None)
        found.let_go(second)
        third = await found.get(Wanted("x", ("c1",)), lambda _: None)
        assert [one.base.exists() for one in (first, second, third)] == [True, False, True]
        assert os.listdir(first.base / "holders") == ["t-1-0"]

    asyncio.run(story())
    found.close()
    (first,) = (tmp_path / "environments").glob("*/holders/t-1-0")
    after = environments(tmp_path, bytes_max=0, held=frozenset({"t-1-0"}))  # another agent knows who uses what
    after.trim()
    assert first.exists()
    after.forget("t-1-0")
    assert not first.exists()
    after.trim()
    assert not first.parent.exists()
    after.close()


def test_what_was_left_unfinished_is_removed_and_the_rest_found_again(
    tmp_path: Path, wheels: Path, made: Environments
) -> None:
    asked = Wanted("x", ("tiny",))
    first = asyncio.run(made.get(asked, lambda _: None))
    (tmp_path / "environments" / f"{key_of(asked)}-dead" / "env").mkdir(parents=True)
    again = environments(tmp_path)
    assert asyncio.run(again.get(asked, lambda _: None)).base == first.base
    assert not list((tmp_path / "environments").glob("*-dead"))
    again.close()


def test_a_build_that_nobody_waits_for_is_given_up(
    tmp_path: Path, wheels: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    slow = tmp_path / "uv"
    slow.write_text("#!/bin/sh\necho begun\nexec sleep 100\n")
    slow.chmod(0o755)
    monkeypatch.setattr(uv, "find_uv", lambda: str(slow))
    found = environments(tmp_path)

    async def story() -> None:
        begun = asyncio.Event()
        waiting = asyncio.create_task(
            found.get(Wanted("x", ("tiny",)), lambda line: begun.set() if line == "begun" else None)
        )
        await begun.wait()
        waiting.cancel()
        with pytest.raises(asyncio.CancelledError):
            await waiting

    asyncio.run(story())
    found.close()
    assert not list((tmp_path / "environments").glob("*-*"))


def test_a_build_has_a_time_limit(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    slow = tmp_path / "uv"
    slow.write_text("#!/bin/sh\nexec sleep 100\n")
    slow.chmod(0o755)
    monkeypatch.setattr(uv, "find_uv", lambda: str(slow))
    found = Environments(tmp_path / "environments", 0, 0.1, False, lambda _: False)
    found.open()
    with pytest.raises(CannotRun, match="environment_build_s"):
        asyncio.run(found.get(Wanted("x", ("tiny",)), lambda _: None))
    found.close()


def test_a_task_runs_in_its_environment_and_its_log_begins_with_the_build(wheels: Path) -> None:
    async def story(node: Node) -> None:
        said = "tiny.VERSION, sys.prefix == os.environ['VIRTUAL_ENV'], 'UV_CONFIG_FILE' in os.environ"
        script = f"import sys, os, tiny\nprint({said})"
        snapshot = keep(node, {"requirements.txt": "tiny\n", "train.py": script})
        report = await node.run("a", snapshot_id=snapshot)
        assert report["exit_code"] == 0, (await node.output("a")).decode()
        lines = (await node.output("a")).decode().splitlines()
        assert lines[0] == "[fetchmld] requirements.txt: installing what it asks for"
        assert lines[-2].startswith("[fetchmld] ready after")
        assert lines[-1] == "1.0 True False"
        await node.run("b", "python train.py", snapshot_id=snapshot)
        assert await node.output("b") == b"1.0 True False\n"
        refused = keep(node, {"requirements.txt": "nosuch\n", "train.py": ""})
        report = await node.run("c", snapshot_id=refused)
        assert report["word"] == "ENVIRONMENT_FAILED"
        assert "nosuch" in report["detail"]
        assert "infrastructure" not in report
        for task in "abc":
            node.ack(task)
        await until(lambda: not os.listdir(node.node_dir / "attempts"), "their directories to go")
        assert not list(node.node_dir.glob("environments/*/holders/*"))

    on_node(story)


def test_a_build_is_seen_while_it_goes_on(wheels: Path, monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    gate, real = tmp_path / "gate", uv.find_uv()
    slow = tmp_path / "uv"
    slow.write_text(f'#!/bin/sh\necho looking\nuntil [ -e {gate} ]; do sleep 0.02; done\nexec {real} "$@"\n')
    slow.chmod(0o755)
    monkeypatch.setattr(uv, "find_uv", lambda: str(slow))

    async def story(node: Node) -> None:
        snapshot = keep(node, {"requirements.txt": "tiny\n", "train.py": "print('done')"})
        node.launch("a", snapshot_id=snapshot)
        answer: Any = None
        while answer is None or b"looking" not in answer.blob:
            answer = await node.read("a", wait_s=1.0)
        assert not answer.body["ended"]
        seen = answer.blob
        gate.touch()
        assert (await node.scheduler.ended("a"))["exit_code"] == 0
        whole = await node.output("a")
        assert whole.startswith(seen)
        assert whole.endswith(b"done\n")

    on_node(story)
