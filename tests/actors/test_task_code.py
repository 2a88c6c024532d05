"""Tasks that run in a snapshot: a real agent and runner, the scheduler is a stand-in."""

import os
from typing import Any

import pytest

from fetchmld.manifest import CodeFile, CodeManifest
from fetchmld.store.code import CodeStore
from tests.actors.fake_scheduler import Node, on_node, until


def store(node: Node) -> CodeStore:
    return CodeStore(node.directory / "data" / "objects" / "code")


def keep(node: Node, files: dict[str, str], executable: frozenset[str] = frozenset()) -> str:
    """A snapshot of `files`, as if a user had sent it; its id."""
    entries = []
    code = store(node)
    for path, text in files.items():
        with code.receive() as incoming:
            incoming.write(text.encode())
            digest = incoming_digest(text)
            code.accept("u", digest, incoming)
        entries.append(CodeFile(path=path, executable=path in executable, size=len(text.encode()), hash=digest))
    manifest = CodeManifest(files=entries)
    code.check("u", manifest)
    return code.keep("u", manifest)["id"]


def incoming_digest(text: str) -> str:
    from blake3 import blake3

    return str(blake3(text.encode()).hexdigest())


def test_train_py_is_run_where_nothing_is_named_and_the_record_hears_who_read_it() -> None:
    async def story(node: Node) -> None:
        snapshot = keep(
            node,
            {"train.py": "import pkg.m\nprint(pkg.m.X, open('data/d').read())", "pkg/m.py": "X = 7", "data/d": "d"},
        )
        assert (await node.run("a", snapshot_id=snapshot))["exit_code"] == 0
        assert await node.output("a") == b"7 d\n"
        fact = await node.scheduler.heard("fact")
        assert (fact["action"], fact["resource"], fact["user_id"]) == ("snapshot.read", snapshot, "u")
        assert fact["metadata"] == {"task_id": "a", "attempt": 1, "worker_id": "w1", "files": 3, "bytes": 56}

    on_node(story)


def test_what_one_task_changes_no_other_sees() -> None:
    async def story(node: Node) -> None:
        spoil = "os.chmod('f', 0o666)\nopen('f', 'w').write('changed')\nos.unlink('g')\n"
        script = f"import os\nprint(open('f').read())\n{spoil}"
        snapshot = keep(node, {"train.py": script, "f": "as it was", "g": "g"})
        for task in ("a", "b"):
            assert (await node.run(task, snapshot_id=snapshot))["exit_code"] == 0
            assert await node.output(task) == b"as it was\n"
            node.ack(task)
        await until(lambda: not os.listdir(node.node_dir / "attempts"), "their directories to go")

    on_node(story)


def test_an_entrypoint_is_looked_for_in_the_snapshot() -> None:
    async def story(node: Node) -> None:
        files = {"src/go.py": "import sys; print(sys.argv[1:])", "run.sh": "pwd", "bin/tool": "#!/bin/sh\necho tool $1"}
        snapshot = keep(node, files, frozenset({"bin/tool"}))
        await node.run("a", "src/go.py", args="one", snapshot_id=snapshot)
        assert await node.output("a") == b"['one']\n"
        await node.run("b", "run.sh", snapshot_id=snapshot)
        assert (await node.output("b")).decode().strip() == str(node.node_dir / "attempts/b-1-0/work")
        await node.run("c", "./bin/tool", args="x", snapshot_id=snapshot)
        assert await node.output("c") == b"tool x\n"

    on_node(story)


@pytest.mark.parametrize(
    ("request_", "word", "said"),
    [
        ({}, "NO_ENTRYPOINT", "train.py"),
        ({"entrypoint": "main.py"}, "ENTRYPOINT_NOT_FOUND", "'main.py'"),
        ({"entrypoint": "../../../../../data/x.py"}, "ENTRYPOINT_NOT_FOUND", "x.py"),
        ({"entrypoint": "a/../other.py"}, "ENTRYPOINT_NOT_FOUND", "a/../other.py"),
        ({"snapshot_id": "0" * 64}, "SNAPSHOT_UNAVAILABLE", "0" * 64),
    ],
)
def test_what_is_not_there_is_named(request_: dict[str, Any], word: str, said: str) -> None:
    async def story(node: Node) -> None:
        snapshot = keep(node, {"other.py": ""})
        report = await node.run("a", **{"snapshot_id": snapshot, **request_})
        assert report["word"] == word
        assert said in report["detail"]
        node.ack("a")
        await until(lambda: not os.listdir(node.node_dir / "attempts"), "its directory to go")

    on_node(story)


def test_damaged_content_is_not_run() -> None:
    async def story(node: Node) -> None:
        snapshot = keep(node, {"train.py": "print('right')"})
        (blob,) = (node.directory / "data/objects/code/blobs").glob("??/*")
        blob.chmod(0o600)
        blob.write_text("print('wrong')")
        report = await node.run("a", snapshot_id=snapshot)
        assert (report["word"], report["infrastructure"]) == ("SNAPSHOT_UNAVAILABLE", True)
        assert "damaged" in report["detail"]

    on_node(story)
