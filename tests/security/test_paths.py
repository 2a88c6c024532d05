"""S8: no name that anybody gives leads out of its root, and no archive is unpacked: some 200 names and 70 archives.

At the door where the name comes in, and once more at the place that writes, without the door before it. What is around
the root is looked at before and after. (Names of a snapshot's files at the writer: `tests/test_unpacking.py`.)
"""

import contextlib
import hashlib
import os
from collections.abc import Awaitable, Callable, Iterator
from pathlib import Path
from typing import Any, Final

import pytest
from blake3 import blake3
from yarl import URL

from actors.notebooks import Notebooks
from actors.workspace import CannotRun, program_of
from fetchmld.client.errors import CannotSnapshot
from fetchmld.client.push import pull
from fetchmld.core.model import DatasetSpec, TaskRequest
from fetchmld.store.dataset_cache import Dataset
from fetchmld.store.datasets import DatasetError, mount
from tests.api.served import KEYS, Api, with_api
from tests.client.stub import Stub, answer
from tests.security.hostile_archives import archives
from tests.store.test_datasets import get, spec, store_in
from tests.test_unpacking import HOSTILE

ARCHIVES: Final = dict(archives())
SECRET: Final = b"a secret that lies outside"
SUM: Final = "ab" * 32
MARK: Final = Path("/tmp/fetchml-escaped")  # what the absolute names of some archives would make


@pytest.fixture(autouse=True)
def nothing_escapes() -> Iterator[None]:
    yield
    assert not MARK.exists()


def fence(tmp_path: Path) -> Path:
    """A root that lies deep, with something worth reading beside each directory above it."""
    root = tmp_path / "a" / "b" / "c" / "root"
    root.mkdir(parents=True)
    for above in root.parents[:4]:
        for name in ("x", "train.py", "escaped", "secret.py"):
            (above / name).write_bytes(SECRET)
    return root


def around(tmp_path: Path, root: Path) -> dict[str, bytes]:
    """Everything that is not below the root."""
    return {
        str(path): path.read_bytes()
        for path in tmp_path.rglob("*")
        if path.is_file() and not path.is_symlink() and root not in path.parents
    }


def test_there_are_200_hostile_names_and_archives() -> None:
    assert len(HOSTILE) >= 200
    assert len(ARCHIVES) >= 70
    assert len(set(ARCHIVES.values())) == len(ARCHIVES)


# -- at the door


Ask = Callable[[Api, str], Awaitable[tuple[int, Any]]]


async def as_file_of_a_snapshot(api: Api, name: str) -> tuple[int, Any]:
    """Of content that is there, so that nothing but the name can be wrong."""
    await api.call("PUT", f"/v1/blobs/{blake3(b'x').hexdigest()}", data=b"x")
    file = {"path": name, "size": 1, "hash": blake3(b"x").hexdigest()}
    return await api.call("POST", "/v1/snapshots", json={"files": [file]})


async def as_workspace(api: Api, name: str) -> tuple[int, Any]:
    return await api.call("POST", "/v1/jupyter/services", json={"name": "lab", "workspace": name})


async def as_name_of_a_dataset(api: Api, name: str) -> tuple[int, Any]:
    given = {"name": name, "source": "https://example.org/d", "sha256": SUM}
    return await api.call("POST", "/v1/tasks", json={"job_name": "x", "dataset_specs": [given]})


async def as_user_of_a_key(api: Api, name: str) -> tuple[int, Any]:
    """A user's name is a part of paths on the workers."""
    return await api.call("POST", "/v1/keys", key=KEYS["admin"], json={"user_id": name, "role": "user"})


async def as_job_name(api: Api, name: str) -> tuple[int, Any]:
    return await api.call("POST", "/v1/tasks", json={"job_name": name})


# What each takes after all: these are names like any others there, with nothing in them that leads anywhere.
@pytest.mark.parametrize(
    "ask", [as_file_of_a_snapshot, as_workspace, as_name_of_a_dataset, as_user_of_a_key, as_job_name]
)
def test_no_hostile_name_is_taken(tmp_path: Path, ask: Ask) -> None:
    async def test(api: Api) -> None:
        assert (await ask(api, "good-name"))[0] == 201
        for name in HOSTILE:
            status, error = await ask(api, name)
            if ask is as_name_of_a_dataset and not name:
                assert status == 422 or "dataset_specs" in error  # "" is none: the source's last part is the name
                continue
            assert status in (400, 422), (name, error)

    with_api(tmp_path, test)


def test_a_mount_path_is_refused_or_stays_inside(tmp_path: Path) -> None:
    async def test(api: Api) -> None:
        taken = []
        for name in HOSTILE:
            given = {"name": "d", "source": "https://example.org/d", "sha256": SUM, "mount_path": name}
            status, made = await api.call("POST", "/v1/tasks", json={"job_name": "x", "dataset_specs": [given]})
            assert status in (201, 400, 422), (name, made)
            if status == 201:
                taken.append(made["dataset_specs"][0]["mount_path"])
        for name in taken:  # control characters, as in any file's name; and long ones within what a file system takes
            parts = name.split("/")
            assert not {"", ".", ".."} & set(parts), name
            assert "\0" not in name
            assert max(len(part.encode()) for part in parts) <= 255

    with_api(tmp_path, test)


def test_a_local_source_is_refused_or_lies_in_its_root(tmp_path: Path) -> None:
    """What the door lets through by its words, the worker opens only where it really lies in a root."""
    root = fence(tmp_path)

    async def test(api: Api) -> None:
        for name in HOSTILE:
            for source in (f"{root}/{name}", f"file://{root}/{name}", name):
                body = {"job_name": "x", "dataset_specs": [{"name": "d", "source": source}]}
                status, made = await api.call("POST", "/v1/tasks", json=body)
                if status == 201:
                    plain = os.path.normpath(made["dataset_specs"][0]["source"].removeprefix("file://"))
                    assert plain == str(root) or plain.startswith(f"{root}/"), source
                else:
                    assert status in (400, 422), (source, made)

    with_api(tmp_path / "daemon", test, dataset_roots=(root,))


@pytest.mark.parametrize("place", ["artifacts", "console", "docs", "blobs", "snapshots", "objects"])
def test_nothing_outside_is_served(tmp_path: Path, place: str) -> None:
    """Names in a path, as they are and percent-encoded, once and twice."""

    async def test(api: Api) -> None:
        task = await api.submit()
        await api.head.run(task["id"])
        await api.head.end(task["id"], files={"left.txt": b"left"})
        base = {
            "artifacts": f"/v1/tasks/{task['id']}/artifacts/",
            "console": "/console/",
            "docs": "/docs/",
            "blobs": "/v1/blobs/",
            "snapshots": "/v1/snapshots/",
            "objects": "/v1/objects/",
        }[place]
        for name in HOSTILE:
            raw = name.encode("utf-8", "surrogatepass")
            once = "".join(f"%{byte:02X}" for byte in raw)
            for path in (once, once.replace("%", "%25"), once.replace("%2F", "/")):
                key = KEYS["admin"] if place == "objects" else KEYS["user"]
                async with api.client.get(
                    URL(base + path, encoded=True), headers={"X-API-Key": key}, allow_redirects=False
                ) as found:
                    text = await found.read()
                    assert SECRET not in text
                    assert b"root:" not in text
                    is_itself = place in ("docs", "artifacts", "snapshots") and not path.strip("/.")
                    assert found.status in (400, 404, 405, 414, 422) or is_itself, (name, path, found.status)

    with_api(tmp_path, test, body_bytes_max=2**22)


# -- where it is written, without the door


def test_no_mount_leaves_the_working_directory(tmp_path: Path) -> None:
    root = fence(tmp_path)
    source = tmp_path / "cached"
    source.write_bytes(b"data")
    dataset = Dataset(source, SUM, 4, cached=True)
    before, inside = around(tmp_path, root), 0
    for name in HOSTILE:
        with contextlib.suppress(ValueError, OSError):
            target = mount(dataset, root, name)
            assert root in Path(os.path.realpath(target)).parents, name
            inside += 1
    assert around(tmp_path, root) == before
    assert inside > 0, "some are odd and nothing worse"


def test_no_workspace_of_jupyter_leaves_its_users_directory(tmp_path: Path) -> None:
    root = fence(tmp_path)
    before = around(tmp_path, root)
    for name in HOSTILE:
        for user, workspace in ((name, "default"), ("ada", name)):
            with contextlib.suppress(CannotRun, ValueError, OSError):
                made = Notebooks(root, range(0)).make(user, workspace, -1)
                assert root in Path(os.path.realpath(made)).parents, name
    assert around(tmp_path, root) == before
    assert {path.name for path in tmp_path.iterdir()} == {"a", "x", "train.py", "escaped", "secret.py"}


def test_no_script_is_looked_for_outside(tmp_path: Path) -> None:
    """A program anywhere may be named, as the task's user may run it; a script is one of the snapshot, or absolute."""
    root = fence(tmp_path)
    for name in [*HOSTILE, "../secret", "../../secret", "a/../../secret", "./../secret"]:
        for script in (f"{name}.py", name, f"{name}/secret.py"):
            if script.startswith("/") or not script.strip() or not script.endswith((".py", ".sh")):
                continue
            with contextlib.suppress(CannotRun, ValueError):
                _, words = program_of(TaskRequest(job_name="x", entrypoint=f"'{script}'"), str(root), "/usr/bin:/bin")
                found = [word for word in words[1:] if (root / word).exists()]
                assert not found, script


def test_no_local_dataset_is_opened_outside_its_root(tmp_path: Path) -> None:
    """Also through links, which the words do not show."""
    root = fence(tmp_path)
    (root / "data").write_bytes(b"data")
    links = {"up": "..", "out": str(tmp_path), "file": str(tmp_path / "x"), "etc": "/etc/passwd", "deep": "up/up"}
    for name, target in links.items():
        (root / name).symlink_to(target)
    sources = [f"{root}/{name}" for name in HOSTILE]
    sources += [
        f"{root}/{way}{name}"
        for way in ("up/", "out/", "up/../", "deep/", "up/root/../")
        for name in ("x", "secret.py")
    ]
    sources += [f"{root}/{name}" for name in links]
    with store_in(tmp_path) as store:
        store._roots = (root,)
        for source in sources:
            for written in (source, f"file://{source}"):
                try:
                    found = get(store, DatasetSpec(name="d", source=written, mount_path="data/d"))
                except (DatasetError, ValueError):
                    continue
                assert found.path.read_bytes() != SECRET, written
                assert b"root:" not in found.path.read_bytes(), written
        assert get(store, spec(root / "data")).total_bytes == 4


@pytest.mark.parametrize("name", [*HOSTILE[::5], "../escaped", "/tmp/fetchml-escaped"])
def test_no_snapshot_of_a_hostile_daemon_writes_elsewhere(tmp_path: Path, name: str) -> None:
    """What `snapshots pull` is told to write comes from a server."""
    from fetchmld.client import Client

    root = fence(tmp_path)
    before = around(tmp_path, root)
    digest = blake3(b"hostile").hexdigest()
    listed = {"files": [{"path": name, "size": 7, "hash": digest, "executable": False}]}
    with Stub() as stub:
        stub.handlers["GET /v1/snapshots/s"] = answer(200, listed)
        stub.handlers[f"GET /v1/blobs/{digest}"] = answer(200, b"hostile")
        with Client(stub.address, api_key="k") as client, pytest.raises(CannotSnapshot):
            pull(client, "s", root / "here")
    assert around(tmp_path, root) == before
    assert not [path for path in root.rglob("*") if path.is_file()]


# -- archives are files like any others


@pytest.mark.parametrize("name", ARCHIVES)
def test_an_archive_is_one_file_wherever_it_comes_from(tmp_path: Path, name: str) -> None:
    """As a dataset it is mounted as it is; nothing looks inside. (That nothing of ours can: `tests/test_unpacking.py`.)"""
    root, data = fence(tmp_path), ARCHIVES[name]
    with store_in(tmp_path) as store:
        (tmp_path / "root" / name).write_bytes(data)
        before = around(tmp_path, root)
        wanted = spec(tmp_path / "root" / name, hashlib.sha256(data).hexdigest())
        found = get(store, wanted)
        target = mount(found, root, f"data/{name}")
        store.let_go(found)
        assert target.read_bytes() == data
        assert [path for path in root.rglob("*") if path.is_file()] == [target]
        added = {path: kept for path, kept in around(tmp_path, root).items() if path not in before}
        assert list(added.values()) == [data], "the cache has it, and nothing else is there"


def test_archives_in_a_snapshot_stay_what_they_are(tmp_path: Path) -> None:
    from tests.api.test_snapshots import push

    async def test(api: Api) -> None:
        made = await push(api, dict(ARCHIVES))
        assert made["file_count"] == len(ARCHIVES)
        for name, data in ARCHIVES.items():
            status, got = await api.call("GET", f"/v1/blobs/{blake3(data).hexdigest()}")
            assert (status, got) == (200, data), name

    with_api(tmp_path, test)
