"""S8: no name of a snapshot's file leaves the directory that it is unpacked to. (Nothing of FetchML unpacks archives.)"""

import ast
import io
import os
import random
from pathlib import Path
from typing import BinaryIO, Final

import pytest
from blake3 import blake3

from fetchmld.manifest import CodeFile, bare_remote, canonical, check_files, check_path, from_canonical
from fetchmld.unpacking import Damaged, unpack

ROOT = Path(__file__).parent.parent
DATA: Final = b"hostile"

_UP: Final = [
    "..",
    "../",
    "../x",
    "a/../../x",
    "a/b/../../../x",
    "./../x",
    "a/..",
    "a/../",
    "..//x",
    "../../../../../../x",
]
_ABSOLUTE: Final = ["/", "//", "/x", "//x", "/etc/passwd", "/proc/self/mem", "/dev/sda", "///x", "/../x", "/./x"]
_EMPTY: Final = ["", ".", "./", "./x", "a/", "a//b", "a/./b", "a/.", "//a", "a///b", "./.", ".//", "a/b/", "x/./", "/."]
_CONTROL: Final = [f"a{chr(code)}b" for code in (*range(32), 127)]
_NUL: Final = ["\0", "x\0", "\0x", "../\0", "x\0/../y", "a/\0/b", "train.py\0.txt", "\0\0", "a\0b/c", "..\0"]
_LONG: Final = ["x" * 256, "x" * 5000, "/".join(["d"] * 65), "a/" * 600 + "x", "é" * 128, "/".join(["y" * 200] * 6)]
_SURROGATES: Final = ["\ud800", "a\udc80", "\udcff/x", "x/\ud83d", "\udfff"]
_MIXED: Final = [f"{way}{name}" for way in ("../", "a/../../", "/", "./", "a//", "..//", "a/./", "a/b/../../../../")
                 for name in ("x", "root/.bashrc", "usr/lib/python3/sitecustomize.py", "tmp/x", "dev/shm/x",
                              "etc/passwd", "root/.ssh/authorized_keys", "train.py", ".bashrc", "lib/a.so", "é", "-rf",
                              "~", "~root", "$HOME", "`id`", "x y", "CON")]  # fmt: skip
HOSTILE: Final = sorted({*_UP, *_ABSOLUTE, *_EMPTY, *_CONTROL, *_NUL, *_LONG, *_SURROGATES, *_MIXED})

# Odd, but files of the directory like any others, whatever a shell, another system or a URL would make of them.
ODD: Final = [
    "~", "~root/x", "$HOME", "`id`", "-rf", "--", "...", "..a", "a..", ".../x", "a\\..\\b", "C:\\x", "C:x", "%2e%2e/x",
    "%00", "con", "x y", " ", " /x", "é/ü", "e\u0301", "\u202egnp.exe", "\u2025/x", "\uff0e\uff0e/x", "\u2215etc", "*",
    "?", "a:b", "x" * 255, "/".join(["d"] * 63) + "/x", ".git/hooks/pre-commit", ".bashrc", "train.py;rm",
]  # fmt: skip


def entry(path: str, data: bytes = DATA, executable: bool = False) -> CodeFile:
    return CodeFile(path=path, executable=executable, size=len(data), hash=blake3(data).hexdigest())


def give(_digest: str) -> BinaryIO:
    return io.BytesIO(DATA)


def everything(top: Path) -> set[str]:
    return {os.path.relpath(os.path.join(base, name), top) for base, names, files in os.walk(top) for name in files}


def test_there_are_200_hostile_names() -> None:
    assert len(HOSTILE) >= 200


@pytest.mark.parametrize("name", HOSTILE, ids=range(len(HOSTILE)))
def test_a_hostile_name_is_refused_before_anything_is_written(tmp_path: Path, name: str) -> None:
    with pytest.raises(ValueError, match="path"):
        check_path(name)
    inside = tmp_path / "a" / "b" / "c" / "inside"
    inside.mkdir(parents=True)
    with pytest.raises(ValueError, match="path"):
        unpack([entry(name)], str(inside), give)
    assert everything(tmp_path) == set()


@pytest.mark.parametrize("name", ODD, ids=range(len(ODD)))
def test_an_odd_name_stays_inside_as_it_is(tmp_path: Path, name: str) -> None:
    inside = tmp_path / "inside"
    inside.mkdir()
    unpack([entry(name)], str(inside), give)
    assert everything(tmp_path) == {f"inside/{name}"}


def test_modes_directories_and_content(tmp_path: Path) -> None:
    files = [entry("b/c/d", executable=True), entry("a"), entry("b/c/e"), entry("b/x"), entry("b/c2/y")]
    unpack(files, str(tmp_path), give)
    assert everything(tmp_path) == {"a", "b/c/d", "b/c/e", "b/x", "b/c2/y"}
    assert [(tmp_path / name).stat().st_mode & 0o7777 for name in ("a", "b/c/d", "b")] == [0o644, 0o755, 0o755]
    assert all((tmp_path / file["path"]).read_bytes() == DATA for file in files)


@pytest.mark.parametrize(
    "what", ["link to a directory", "link to a file", "dangling link", "file", "pipe", "hard link"]
)
def test_nothing_that_is_there_is_followed_or_written_to(tmp_path: Path, what: str) -> None:
    """Somebody else has put something into the way, in the directory that is unpacked to."""
    outside, inside = tmp_path / "outside", tmp_path / "inside"
    outside.mkdir()
    inside.mkdir()
    (outside / "file").write_text("kept")
    match what:
        case "link to a directory":
            (inside / "a").symlink_to(outside)
        case "link to a file":
            (inside / "a").symlink_to(outside / "file")
        case "dangling link":
            (inside / "a").symlink_to(outside / "new")
        case "file":
            (inside / "a").write_text("there")
        case "pipe":
            os.mkfifo(inside / "a")
        case "hard link":
            os.link(outside / "file", inside / "a")
    for path in ("a", "a/new", "a/file"):
        with pytest.raises(OSError):  # noqa: PT011 - which one depends on what is in the way
            unpack([entry(path)], str(inside), give)
    assert os.listdir(outside) == ["file"]
    assert (outside / "file").read_text() == "kept"


def test_another_content_than_the_hash_says_is_found(tmp_path: Path) -> None:
    for wrong in ({**entry("a"), "hash": "0" * 64}, {**entry("b"), "size": 3}):
        with pytest.raises(Damaged):
            unpack([wrong], str(tmp_path), give)  # type: ignore[list-item]


@pytest.mark.parametrize("names", [["a", "a"], ["a", "a/b"], ["a/b/c", "a/b"], ["x", "a/b", "a/b/c/d"]])
def test_a_name_cannot_be_two_things(names: list[str]) -> None:
    with pytest.raises(ValueError, match=r"twice|both"):
        check_files([entry(name) for name in names])


def test_the_form_is_one_whatever_the_order_and_comes_back_as_it_was() -> None:
    files = [entry(name, executable=name == "b/c") for name in ("a", "b/c", "z", "é")]
    manifest = from_canonical(canonical({"files": files, "commit": "c" * 40, "remote": "h:p"}))
    assert manifest == {"files": files, "commit": "c" * 40, "remote": "h:p"}
    shuffled = random.Random(1).sample(files, len(files))
    assert canonical({"files": shuffled}) == canonical({"files": files})
    assert canonical({"files": files}) != canonical(manifest)


@pytest.mark.parametrize(
    ("given", "bare"),
    [
        ("https://github.com/o/r.git", "https://github.com/o/r.git"),
        ("https://token@github.com/o/r.git", "https://github.com/o/r.git"),
        ("https://user:pass@host:8443/r", "https://host:8443/r"),
        ("https://user:p%40ss@host/r?access_token=x#y", "https://host/r"),
        ("https://a:b@c@host/r", "https://host/r"),
        ("ssh://git@host:22/r", "ssh://host:22/r"),
        ("git@github.com:o/r.git", "github.com:o/r.git"),
        ("oauth2:token@host:o/r", ""),
        ("/home/ada/repository", ""),
        ("file:///home/ada/r", ""),
        ("../r", ""),
        ("https://host:port/r", ""),
        ("ext::sh -c whoami", ""),
        ("https://host/\nr", ""),
        ("", ""),
        ("x" * 5000, ""),
        ("https://[::1]:3000/r", "https://[::1]:3000/r"),
    ],
)
def test_remotes_lose_their_credentials(given: str, bare: str) -> None:
    assert bare_remote(given) == bare


def test_nothing_of_ours_unpacks_archives() -> None:
    ours = {*ROOT.glob("fetchmld/**/*.py"), *ROOT.glob("actors/**/*.py")}
    for file in ours - {ROOT / "fetchmld" / "single.py"}:  # which reads the archive that it is itself
        for node in ast.walk(ast.parse(file.read_text())):
            names = [alias.name for alias in node.names] if isinstance(node, ast.Import) else []
            names += [node.module or ""] if isinstance(node, ast.ImportFrom) else []
            assert not {"tarfile", "zipfile"} & set(names), file
            assert not (isinstance(node, ast.Attribute) and node.attr == "unpack_archive"), file
