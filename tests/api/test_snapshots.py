"""Snapshots of code over HTTP: blobs, manifests, whose they are, and what is refused."""

import asyncio
from collections.abc import AsyncIterator
from pathlib import Path
from typing import Any

import pytest
from blake3 import blake3

from fetchmld.api import connections
from tests.api.served import KEYS, Api, with_api

OTHER, VIEWER = KEYS["other"], KEYS["viewer"]


def digest(data: bytes) -> str:
    return blake3(data).hexdigest()


def entry(path: str, data: bytes, **more: Any) -> dict[str, Any]:
    return {"path": path, "size": len(data), "hash": digest(data), **more}


async def put(api: Api, data: bytes, key: str = KEYS["user"], name: str = "") -> int:
    status, _ = await api.call("PUT", f"/v1/blobs/{name or digest(data)}", key=key, data=data)
    return status


async def push(api: Api, files: dict[str, bytes], key: str = KEYS["user"], **more: Any) -> dict[str, Any]:
    for data in files.values():
        assert await put(api, data, key) == 204
    body = {"files": [entry(path, data) for path, data in files.items()], **more}
    status, made = await api.call("POST", "/v1/snapshots", key=key, json=body)
    assert status == 201, made
    return dict(made)


def test_only_what_is_missing_is_sent_and_the_same_files_are_the_same_snapshot(tmp_path: Path) -> None:
    async def test(api: Api) -> None:
        hashes = [digest(b"a"), digest(b"b")]
        assert await api.call("POST", "/v1/snapshots/diff", json=hashes) == (200, {"missing": hashes})
        first = await push(api, {"b.py": b"b", "a/a.py": b"a"})
        assert await api.call("POST", "/v1/snapshots/diff", json=hashes) == (200, {"missing": []})
        again = await push(api, {"a/a.py": b"a", "b.py": b"b"})
        assert again == first
        assert (first["file_count"], first["total_bytes"]) == (2, 2)
        status, found = await api.call("GET", f"/v1/snapshots/{first['id']}")
        assert status == 200
        assert [file["path"] for file in found["files"]] == ["a/a.py", "b.py"]
        assert await api.call("GET", "/v1/snapshots") == (200, [first])
        assert await api.call("GET", f"/v1/blobs/{hashes[0]}") == (200, b"a")
        facts = [(f.action, f.resource, f.user_id) for f in api.head.facts if f.event_type == "file_access"]
        assert facts == [("snapshot.write", first["id"], "user"), ("snapshot.read", first["id"], "user")]

    with_api(tmp_path, test)


def test_many_uploads_at_the_same_time_are_all_there_and_leave_nothing_half(tmp_path: Path) -> None:
    """Of the same and of different content, by two users, and snapshots of it."""
    blobs = [bytes([number]) * (1 + 40_000 * (number % 3)) for number in range(25)]

    async def test(api: Api) -> None:
        keys = (KEYS["user"], OTHER)
        sent = await asyncio.gather(*(put(api, data, key) for data in blobs * 2 for key in keys))
        assert set(sent) == {204}
        files = {f"{number}": data for number, data in enumerate(blobs)}
        made = await asyncio.gather(*(push(api, files, key) for key in keys * 3))
        assert len({one["id"] for one in made}) == 1
        for key in keys:
            asked = [digest(data) for data in blobs]
            assert await api.call("POST", "/v1/snapshots/diff", key=key, json=asked) == (200, {"missing": []})
            assert len((await api.call("GET", "/v1/snapshots", key=key))[1]) == 1
        assert [path for path in tmp_path.rglob("incoming/*") if path.is_file()] == []

    with_api(tmp_path, test)


def test_what_git_said_is_part_of_it_without_credentials(tmp_path: Path) -> None:
    async def test(api: Api) -> None:
        await put(api, b"diff --git")
        plain = await push(api, {"a": b"a"})
        remote = "https://ada:ghp_canary@github.com/o/r.git?token=canary"
        made = await push(api, {"a": b"a"}, commit="c" * 40, diff=digest(b"diff --git"), remote=remote)
        assert made["id"] != plain["id"]
        assert (made["commit"], made["dirty"], made["remote"]) == ("c" * 40, True, "https://github.com/o/r.git")
        status, found = await api.call("GET", f"/v1/snapshots/{made['id']}")
        assert (status, found["diff"]) == (200, digest(b"diff --git"))
        assert "canary" not in repr(api.head.facts)

    with_api(tmp_path, test)


def test_what_others_have_is_not_there(tmp_path: Path) -> None:
    async def test(api: Api) -> None:
        made = await push(api, {"a": b"mine"})
        mine = digest(b"mine")
        assert (await api.call("POST", "/v1/snapshots/diff", key=OTHER, json=[mine]))[1] == {"missing": [mine]}
        for path in (f"/v1/snapshots/{made['id']}", f"/v1/blobs/{mine}", f"/v1/blobs/{made['id']}"):
            assert (await api.call("GET", path, key=OTHER))[0] == 404, path
        assert (await api.call("GET", f"/v1/blobs/{made['id']}"))[0] == 404  # a manifest is no blob
        body = {"files": [entry("x", b"mine")]}
        status, theirs = await api.call("POST", "/v1/snapshots", key=OTHER, json=body)
        status_none, none = await api.call("POST", "/v1/snapshots", key=OTHER, json={"files": [entry("x", b"none")]})
        assert (status, status_none) == (422, 422)
        assert theirs["error"].replace(mine, "") == none["error"].replace(digest(b"none"), "")
        assert await api.call("GET", "/v1/snapshots", key=OTHER) == (200, [])
        assert await put(api, b"mine", OTHER) == 204
        assert (await push(api, {"a": b"mine"}, OTHER))["id"] == made["id"]

    with_api(tmp_path, test)


def test_a_task_runs_in_a_snapshot_of_its_submitter_only(tmp_path: Path) -> None:
    async def test(api: Api) -> None:
        made = await push(api, {"train.py": b"print(1)"})
        task = await api.submit(snapshot_id=made["id"])
        assert task["snapshot_id"] == made["id"]
        body = {"job_name": "x", "snapshot_id": made["id"]}
        status, theirs = await api.call("POST", "/v1/tasks", key=OTHER, json=body)
        unknown = "0" * 64
        status_none, none = await api.call("POST", "/v1/tasks", key=OTHER, json={**body, "snapshot_id": unknown})
        assert (status, status_none) == (422, 422)
        assert theirs["error"].replace(made["id"], unknown) == none["error"]
        for bad in ("../../etc/passwd", "x", "A" * 64):
            assert "no snapshot" in await api.refused({"job_name": "x", "snapshot_id": bad})

    with_api(tmp_path, test)


def test_bytes_of_another_hash_are_refused_and_not_kept(tmp_path: Path) -> None:
    async def test(api: Api) -> None:
        wanted = digest(b"right")
        status, error = await api.call("PUT", f"/v1/blobs/{wanted}", data=b"wrong")
        assert status == 422
        assert digest(b"wrong") in error["error"]
        assert (await api.call("POST", "/v1/snapshots/diff", json=[wanted, digest(b"wrong")]))[1]["missing"]
        assert not list(api.config.paths.code.glob("blobs/??/*"))
        assert not list(api.config.paths.code.glob("blobs/incoming/*"))
        assert await put(api, b"", name=digest(b"")) == 204

    with_api(tmp_path, test)


@pytest.mark.parametrize("name", ["x", "A" * 64, "0" * 63, "..%2f..%2fetc%2fpasswd", "0" * 65])
def test_a_blob_is_named_by_its_hash_alone(tmp_path: Path, name: str) -> None:
    async def test(api: Api) -> None:
        assert (await api.call("PUT", f"/v1/blobs/{name}", data=b"x"))[0] == 422
        assert (await api.call("GET", f"/v1/blobs/{name}"))[0] == 404

    with_api(tmp_path, test)


def test_size_limits_hold_whether_the_length_is_said_or_not(tmp_path: Path) -> None:
    async def test(api: Api) -> None:
        big = bytes(20_000)

        async def chunks() -> AsyncIterator[bytes]:
            yield big

        assert (await api.call("PUT", f"/v1/blobs/{digest(big)}", data=big))[0] == 413
        assert (await api.call("PUT", f"/v1/blobs/{digest(big)}", data=chunks()))[0] == 413
        half = bytes(6_000)
        assert await put(api, half) == 204
        body = {"files": [entry("a", half), entry("b", half)]}
        status, error = await api.call("POST", "/v1/snapshots", json=body)
        assert status == 422
        assert "snapshot_bytes_max=10000" in error["error"]

    with_api(tmp_path, test, snapshot_bytes_max=10_000)


def test_an_upload_without_progress_is_cut(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(connections, "LOOK_S", 0.02)

    async def test(api: Api) -> None:
        reader, writer = await asyncio.open_connection("127.0.0.1", api.port())
        lines = [
            f"PUT /v1/blobs/{digest(b'ab')} HTTP/1.1",
            "Host: 127.0.0.1",
            f"X-API-Key: {KEYS['user']}",
            "Content-Length: 2",
        ]
        writer.write("\r\n".join([*lines, "", "a"]).encode())
        assert b" 408 " in await reader.readline()
        writer.close()
        assert not list(api.config.paths.code.glob("blobs/incoming/*"))

    with_api(tmp_path, test, stalled_s=1)


FILE = entry("a", b"a")


@pytest.mark.parametrize(
    ("body", "said"),
    [
        ({}, "files"),
        ({"files": []}, "files"),
        ({"files": {}}, "files"),
        ({"files": [1]}, "files.0"),
        ({"files": [{**FILE, "mode": 4}]}, "files.0"),
        ({"files": [{**FILE, "path": 1}]}, "files.0.path"),
        ({"files": [{**FILE, "path": "../a"}]}, "'../a'"),
        ({"files": [{**FILE, "path": "/a"}]}, "'/a'"),
        ({"files": [{**FILE, "size": -1}]}, "files.0.size"),
        ({"files": [{**FILE, "size": True}]}, "files.0.size"),
        ({"files": [{**FILE, "size": 2}]}, "has 1 bytes, not 2"),
        ({"files": [{**FILE, "hash": "x"}]}, "files.0.hash"),
        ({"files": [{**FILE, "executable": 1}]}, "files.0.executable"),
        ({"files": [FILE, FILE]}, "twice"),
        ({"files": [FILE, {**FILE, "path": "a/b"}]}, "both a file and a directory"),
        ({"files": [FILE], "commit": "main"}, "commit"),
        ({"files": [FILE], "diff": "x"}, "diff"),
        ({"files": [FILE], "remote": 1}, "remote"),
        ({"files": [FILE], "owner": "me"}, "owner"),
    ],
)
def test_a_bad_manifest_is_refused_by_name(tmp_path: Path, body: dict[str, Any], said: str) -> None:
    async def test(api: Api) -> None:
        await put(api, b"a")
        status, error = await api.call("POST", "/v1/snapshots", json=body)
        assert status == 422, error
        assert said in error["error"]
        assert await api.call("GET", "/v1/snapshots") == (200, [])

    with_api(tmp_path, test)


@pytest.mark.parametrize("body", [{}, ["x"], [1], [None], ["0" * 63]])
def test_a_bad_list_of_hashes_is_refused(tmp_path: Path, body: Any) -> None:
    async def test(api: Api) -> None:
        assert (await api.call("POST", "/v1/snapshots/diff", json=body))[0] == 422

    with_api(tmp_path, test)


def test_a_snapshot_is_not_there_before_it_is_on_record(tmp_path: Path) -> None:
    async def test(api: Api) -> None:
        await put(api, b"a")
        api.head.broken = RuntimeError("no record")
        assert (await api.call("POST", "/v1/snapshots", json={"files": [FILE]}))[0] == 500
        assert await api.call("GET", "/v1/snapshots") == (200, [])

    with_api(tmp_path, test)
