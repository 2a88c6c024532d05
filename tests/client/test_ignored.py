"""Ignore files held against git itself: random trees with nested files and tracked paths, and random patterns.

The same few examples with every change; FETCHML_CHAOS=1 takes many, and others each time.
"""

import os
import subprocess
from pathlib import Path

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from fetchmld.client.code import Code
from fetchmld.client.errors import CannotSnapshot
from fetchmld.client.ignore_lines import IgnoreFile
from fetchmld.client.ignored import BUILT_IN

LONG = bool(os.environ.get("FETCHML_CHAOS"))
TREES = 1500 if LONG else 25
PATTERNS = 3000 if LONG else 40
GIT = {**os.environ, "GIT_CONFIG_GLOBAL": "/dev/null", "GIT_CONFIG_SYSTEM": "/dev/null", "HOME": "/nonexistent"}


def git(directory: Path, *words: str, stdin: bytes = b"", right: tuple[int, ...] = (0,)) -> bytes:
    ran = subprocess.run(["git", *words], cwd=directory, env=GIT, input=stdin, capture_output=True, check=False)
    assert ran.returncode in right, ran.stderr
    return ran.stdout


def lay(top: Path, files: dict[str, str]) -> None:
    for path, text in files.items():
        (top / path).parent.mkdir(parents=True, exist_ok=True)
        (top / path).write_text(text)


NAMES = st.sampled_from(["a", "b", "a.log", "data", "x.py", "!x", "a b"])
PATHS = st.lists(NAMES, min_size=1, max_size=4).map("/".join)
LINES = st.lists(
    st.sampled_from(
        ["*.log", "a", "/a", "a/", "data/", "/data/*", "!data/a", "**/b", "data/**", "!data/b", "*", "!*/", "!*.py",
         "# x", "", "a/b", "[ab]", "\\!x", "b/", "!a", "data/*/b", "x.*", "?", "a b  ", "!/data/", "**", "/*", "!/b",
         "a/**/b", "**/data/**", "!**/a", "data", "!data", "*/a/", "a\\ b"]
    ),
    max_size=5,
)  # fmt: skip


@settings(max_examples=TREES, deadline=None, derandomize=not LONG)
@given(
    ignores=st.dictionaries(st.sampled_from(["", "data/", "a/", "data/a/", "a/data/b/"]), LINES, max_size=4),
    excludes=LINES,
    files=st.sets(PATHS, max_size=14),
    tracked=st.sets(st.integers(0, 13), max_size=4),
    top=st.sampled_from(["", "data"]),
)
def test_trees_are_read_as_git_reads_them(
    tmp_path_factory: pytest.TempPathFactory,
    ignores: dict[str, list[str]],
    excludes: list[str],
    files: set[str],
    tracked: set[int],
    top: str,
) -> None:
    directory = tmp_path_factory.mktemp("r")
    wanted = sorted(files | {f"{place}.gitignore" for place in ignores} | {"data/z"})
    good = [name for name in wanted if not any(other.startswith(name + "/") for other in wanted)]
    lay(directory, dict.fromkeys(good, ""))
    lay(directory, {f"{place}.gitignore": "\n".join(lines) for place, lines in ignores.items()})
    git(directory, "init", "-q", "--template=")
    lay(directory, {".git/info/exclude": "\n".join(excludes)})
    if added := [good[at] for at in tracked if at < len(good)]:
        git(directory, "add", "-f", "--", *added)
    said = git(directory / top, "ls-files", "-co", "--exclude-standard", "-z").decode().split("\0")
    if top and git(directory, "check-ignore", "--no-index", f"{top}/", right=(0, 1)):
        return  # git has nothing to say there; to push an ignored directory is to want it
    assert found(directory / top) == sorted({name for name in said if name})


def found(top: Path) -> list[str]:
    try:
        return [one.path for one in Code(top).files()]
    except CannotSnapshot:  # no files at all
        return []


PATTERN = st.text("ab*?[]!-\\/.^ :#é\t\r", max_size=9) | st.lists(
    st.sampled_from(["a", "b", "*", "**", "/", "?", "[a-b]", "[!a]", "[[:alpha:]]", "[^b-]", "\\", "]", "[", "é", ".",
                     "[]a]", "[[:x:]]", "[a\\]b]", "/**/", "**/", "[/]", "[[:]"]), max_size=6
).map("".join)  # fmt: skip
SUBJECT = st.lists(st.text("ab]-!\\.^: é[*", min_size=1, max_size=4), min_size=1, max_size=4).map("/".join)


@pytest.fixture(scope="module")
def repository(tmp_path_factory: pytest.TempPathFactory) -> Path:
    directory = tmp_path_factory.mktemp("patterns")
    git(directory, "init", "-q", "--template=")
    return directory


def verdict_on(rules: IgnoreFile, path: bytes, is_directory: bool) -> bool:
    """As for a file in a walk: one of the directories above decides, or the path itself."""
    parts = path.split(b"/")
    above = (b"/".join(parts[:count]) for count in range(1, len(parts)))
    return any(rules.verdict(one, True) for one in above) or bool(rules.verdict(path, is_directory))


@settings(max_examples=PATTERNS, deadline=None, derandomize=not LONG)
@given(lines=st.lists(PATTERN, min_size=1, max_size=3), subjects=st.sets(SUBJECT, min_size=1, max_size=12))
def test_patterns_match_what_they_match_for_git(repository: Path, lines: list[str], subjects: set[str]) -> None:
    usable = sorted(path for path in subjects if not {".", "..", ".git"} & set(path.split("/")))
    asked = "".join(f"./{path}\0" for path in usable).encode()  # else a colon at the beginning is magic
    if not asked:
        return
    (repository / ".gitignore").write_bytes("\n".join(lines).encode())
    said = git(repository, "check-ignore", "--no-index", "--stdin", "-z", stdin=asked, right=(0, 1))
    rules = IgnoreFile("\n".join(lines).encode())
    ours = [path for path in usable if verdict_on(rules, path.encode(), is_directory=False)]
    assert ours == [path.removeprefix("./") for path in said.decode().split("\0") if path]


def test_git_reads_the_users_file_and_the_repositorys_and_so_do_we(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    (tmp_path / "home").mkdir()
    top = tmp_path / "top"
    lay(top, {"a.log": "", "b.swp": "", "c": "", "keep.swp": ""})
    git(top, "init", "-q")
    lay(top, {".git/info/exclude": "*.log\n!keep.swp\n"})
    config = tmp_path / "config"
    config.write_text(f"[core]\nexcludesFile = {tmp_path}/mine\n")
    (tmp_path / "mine").write_text("*.swp\n")
    monkeypatch.setenv("GIT_CONFIG_GLOBAL", str(config))
    assert found(top) == ["c", "keep.swp"]


def test_a_linked_working_tree_has_the_excludes_of_its_repository(tmp_path: Path) -> None:
    top = tmp_path / "top"
    lay(top, {"a": ""})
    git(top, "init", "-q")
    git(top, "add", ".")
    git(top, "-c", "user.name=a", "-c", "user.email=a@a", "commit", "-q", "-m", "one")
    git(top, "worktree", "add", "-q", str(tmp_path / "other"))
    lay(top, {".git/info/exclude": "*.log\n"})
    lay(tmp_path / "other", {"x.log": "", "y": ""})
    assert found(tmp_path / "other") == ["a", "y"]


def test_ours_has_the_last_word_also_on_what_git_ignores_or_tracks(tmp_path: Path) -> None:
    lay(
        tmp_path,
        {
            ".gitignore": "data/\n*.log\nout/\n", "data/a": "", "data/deep/b": "", "data/x.log": "", "keep.log": "",
            "out/o": "", "tracked": "", "__pycache__/m.pyc": "",
            ".fetchmlignore": "!data/\n!keep.log\ntracked\n!__pycache__\n",
        },
    )  # fmt: skip
    git(tmp_path, "init", "-q")
    git(tmp_path, "add", "-f", "tracked")
    assert found(tmp_path) == [
        ".fetchmlignore", ".gitignore", "__pycache__/m.pyc", "data/a", "data/deep/b", "keep.log"
    ]  # fmt: skip


def test_what_nobody_means_is_left_out_unless_it_is_tracked_or_taken_back(tmp_path: Path) -> None:
    assert BUILT_IN
    lay(tmp_path, {"__pycache__/m.pyc": "", "sub/__pycache__/m.pyc": "", ".venv/x": "", "a": "", ".DS_Store": ""})
    assert found(tmp_path) == ["a"]
    git(tmp_path, "init", "-q")
    git(tmp_path, "add", "-f", "sub/__pycache__/m.pyc")
    assert found(tmp_path) == ["a", "sub/__pycache__/m.pyc"]
    lay(tmp_path, {".gitignore": "!__pycache__\n"})
    assert found(tmp_path) == [".gitignore", "__pycache__/m.pyc", "a", "sub/__pycache__/m.pyc"]
