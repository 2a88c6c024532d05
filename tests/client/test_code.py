"""Which files of a directory are a snapshot of it: ignore files of both kinds, links, odd files, git."""

import os
import subprocess
from pathlib import Path

import pytest

from fetchmld.client import code as code_module
from fetchmld.client.code import Code
from fetchmld.client.errors import CannotSnapshot
from fetchmld.client.push import manifest_of

IDENTITY = {
    "GIT_AUTHOR_NAME": "a", "GIT_AUTHOR_EMAIL": "a@a", "GIT_COMMITTER_NAME": "a", "GIT_COMMITTER_EMAIL": "a@a",
    "GIT_CONFIG_GLOBAL": "/dev/null", "GIT_CONFIG_SYSTEM": "/dev/null",
}  # fmt: skip


def git(directory: Path, *words: str) -> bytes:
    environment = {**os.environ, **IDENTITY}
    return subprocess.run(["git", *words], cwd=directory, env=environment, capture_output=True, check=True).stdout


def lay(top: Path, files: dict[str, str]) -> Path:
    for path, text in files.items():
        (top / path).parent.mkdir(parents=True, exist_ok=True)
        (top / path).write_text(text)
    return top


def paths(top: Path) -> list[str]:
    return [one.path for one in Code(top).files()]


def test_all_files_by_path_with_their_executable_bit(tmp_path: Path) -> None:
    lay(tmp_path, {"b.py": "b", "a/x.sh": "x", "a/.hidden": "h"})
    (tmp_path / "a/x.sh").chmod(0o755)
    found = Code(tmp_path).files()
    assert [(one.path, one.executable) for one in found] == [("a/.hidden", False), ("a/x.sh", True), ("b.py", False)]


def test_ignore_files_of_both_kinds(tmp_path: Path) -> None:
    lay(
        tmp_path,
        {
            ".gitignore": "*.log\n/data/\n!keep.log\n",
            ".fetchmlignore": "*.md\n!small.log\nnotes/\n",
            "a.log": "", "keep.log": "", "small.log": "", "README.md": "", "notes/n.txt": "", "data/big": "",
            "sub/data/kept": "", "sub/.gitignore": "*.tmp\n", "sub/x.tmp": "", "x.tmp": "",
            "__pycache__/m.pyc": "", ".git/config": "", ".venv/bin/python": "",
        },
    )  # fmt: skip
    assert paths(tmp_path) == [
        ".fetchmlignore", ".gitignore", "keep.log", "small.log", "sub/.gitignore", "sub/data/kept", "x.tmp"
    ]  # fmt: skip


def test_a_directory_inside_a_repository_obeys_the_files_above_it(tmp_path: Path) -> None:
    lay(tmp_path, {".gitignore": "*.log\n/top/only\n", "top/only": "", "top/a.log": "", "top/b.py": ""})
    git(tmp_path, "init", "-q")
    lay(tmp_path, {".git/info/exclude": "secret\n", "top/secret": ""})
    assert paths(tmp_path / "top") == ["b.py"]


def test_what_git_tracks_is_not_ignored_by_git_but_may_be_by_us(tmp_path: Path) -> None:
    lay(tmp_path, {".gitignore": "data/\n", "data/a.csv": "", "data/b.csv": "", "data/c.csv": ""})
    git(tmp_path, "init", "-q")
    git(tmp_path, "add", "-f", "data/a.csv", "data/c.csv")
    lay(tmp_path, {".fetchmlignore": "c.csv\n"})
    assert paths(tmp_path) == [".fetchmlignore", ".gitignore", "data/a.csv"]


def test_links_inside_are_followed_and_others_are_refused_by_name(tmp_path: Path) -> None:
    top = lay(tmp_path / "top", {"real/a.py": "a"})
    (top / "link.py").symlink_to("real/a.py")
    (top / "linked").symlink_to("real")
    assert paths(top) == ["link.py", "linked/a.py", "real/a.py"]
    for name, target, said in [
        ("out", "/etc/passwd", "outside"), ("up", "../..", "outside"), ("dangling", "nothing", "not there"),
        ("real/self", "../real", "lies in"), ("abs", str(tmp_path), "outside"),
    ]:  # fmt: skip
        (top / name).symlink_to(target)
        with pytest.raises(CannotSnapshot, match=said) as caught:
            paths(top)
        assert name.split("/")[-1] in str(caught.value)
        (top / name).unlink()


def test_what_is_no_file_is_refused_unless_it_is_ignored(tmp_path: Path) -> None:
    lay(tmp_path, {"a": ""})
    os.mkfifo(tmp_path / "pipe")
    with pytest.raises(CannotSnapshot, match="'pipe' is neither a file nor a directory"):
        paths(tmp_path)
    lay(tmp_path, {".fetchmlignore": "pipe"})
    assert paths(tmp_path) == [".fetchmlignore", "a"]


@pytest.mark.parametrize("name", [b"new\nline", b"bell\x07", b"latin\xe9"])
def test_a_name_that_no_snapshot_can_have_is_refused(tmp_path: Path, name: bytes) -> None:
    (tmp_path / os.fsdecode(name)).write_text("")
    with pytest.raises(CannotSnapshot, match="fetchmlignore"):
        paths(tmp_path)


def test_nothing_and_too_much_are_refused(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    with pytest.raises(CannotSnapshot, match="no files"):
        paths(tmp_path)
    with pytest.raises(CannotSnapshot, match="no directory"):
        paths(tmp_path / "absent")
    monkeypatch.setattr(code_module, "FILES_MAX", 1)
    with pytest.raises(CannotSnapshot, match="more than 1 files"):
        paths(lay(tmp_path, {"a": "", "b": ""}))


def test_the_commit_what_is_not_committed_and_the_bare_remote(tmp_path: Path) -> None:
    lay(tmp_path, {"a.py": "one\n", "b.py": "b\n", "secret.py": "s\n", "sub/c.py": "c\n"})
    git(tmp_path, "init", "-q")
    git(tmp_path, "add", ".")
    git(tmp_path, "commit", "-q", "-m", "one")
    git(tmp_path, "remote", "add", "origin", "https://ada:canary@example.org/o/r.git")
    manifest, _ = manifest_of(tmp_path)
    assert manifest["commit"] == git(tmp_path, "rev-parse", "HEAD").decode().strip()
    assert (manifest["remote"], "diff" in manifest) == ("https://example.org/o/r.git", False)

    lay(tmp_path, {"a.py": "two\n", "secret.py": "canary\n", ".fetchmlignore": "secret.py\n"})
    (tmp_path / "b.py").unlink()
    manifest, sources = manifest_of(tmp_path)
    diff = sources[manifest["diff"]]
    assert isinstance(diff, bytes)
    assert b"+two" in diff
    assert b"deleted file" in diff
    assert b"canary" not in diff
    below, _ = manifest_of(tmp_path / "sub")
    assert below["commit"] == manifest["commit"]
    assert "diff" not in below


def test_a_directory_without_git_has_nothing_of_git(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("PATH", "/nonexistent")
    manifest, _ = manifest_of(lay(tmp_path, {"a": "a"}))
    assert manifest.keys() == {"files"}
