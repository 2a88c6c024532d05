"""`doctor` says what it found, and ends with 1 where something is bad."""

import json
import shutil
import socket
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
from click.testing import CliRunner

from fetchmld.cli import doctor as module
from fetchmld.cli import root
from fetchmld.config import Config
from fetchmld.store import disk_probe
from fetchmld.store.disk_probe import filesystem_kind, sync_latency
from tests.store.ledger_samples import fill, frames_of, open_ledger
from tests.store.pruned_samples import Life


@pytest.fixture
def port() -> Iterator[int]:
    """A port that somebody else has."""
    with socket.socket() as taken:
        taken.bind(("127.0.0.1", 0))
        taken.listen()
        yield taken.getsockname()[1]


@pytest.fixture(autouse=True)
def a_disk(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(disk_probe, "filesystem_kind", lambda _place: "ext4")


def checked(directory: Path, port: int = 0, **more: Any) -> dict[str, module.Finding]:
    config = Config(data_dir=directory, port=port or 65_000)
    found = module.findings(config, more.get("runs", not port))
    return {finding.name: finding for finding in found}


def test_a_machine_that_will_do(tmp_path: Path) -> None:
    found = checked(tmp_path / "new")
    assert {finding.verdict for finding in found.values()} <= {"ok", "note"}
    assert found["data directory"].value.endswith("(will be made)")
    assert not (tmp_path / "new").exists()
    assert "median" in found["disk sync"].value
    assert list(tmp_path.iterdir()) == []


def test_what_the_last_start_measured_is_shown_beside_what_is_measured_now(tmp_path: Path) -> None:
    disk_probe.keep(tmp_path / "disk_sync.json", disk_probe.SyncLatency(20, 7.25, 9.5), "2026-01-02T03:04:05Z")
    assert "at the last start median 7.25 ms, 2026-01-0" in checked(tmp_path)["disk sync"].value
    (tmp_path / "disk_sync.json").write_text("broken")
    assert "last start" not in checked(tmp_path)["disk sync"].value


def test_an_index_that_was_set_aside_and_a_record_that_was_pruned_are_shown(tmp_path: Path) -> None:
    assert "index" not in checked(tmp_path)
    for name in ("index.duckdb.bad-3", "index.duckdb.bad-3.wal"):
        (tmp_path / name).touch()
    found = checked(tmp_path)["index"]
    assert (found.verdict, "index.duckdb.bad-3 was set aside 20" in found.value) == ("note", True)
    life = Life(tmp_path / "ledger")
    life.days(8)
    assert "pruned" not in checked(tmp_path)["record"].value
    first = life.prune()
    life.close()
    assert f"the events before {first} were pruned" in checked(tmp_path)["record"].value
    (tmp_path / "ledger" / "pruned").write_text("broken")
    assert checked(tmp_path)["record"].verdict == "bad"


def test_a_record_without_its_first_event_is_bad(tmp_path: Path) -> None:
    first = tmp_path / "ledger" / "segments" / f"{0:020d}.log"
    open_ledger(tmp_path / "ledger").close()
    assert checked(tmp_path)["record"].verdict == "ok", "nothing was written yet"
    with open_ledger(tmp_path / "ledger") as ledger:
        fill(ledger, (5,) * 20)
    assert checked(tmp_path)["record"].verdict == "ok"
    raw = first.read_bytes()
    for spoilt in (b"", raw[:20], bytes(100) + raw[100:], raw[frames_of(tmp_path / "ledger")[0].end :]):
        first.write_bytes(spoilt)
        found = checked(tmp_path)["record"]
        assert (found.verdict, "event 0 is missing" in found.value) == ("bad", True), found
    first.unlink()
    assert checked(tmp_path)["record"].value.startswith("events 0 to ")
    shutil.rmtree(first.parent)
    assert checked(tmp_path)["record"].value == "every segment is gone"


def test_a_taken_port_is_bad_unless_our_own_daemon_has_it(tmp_path: Path, port: int) -> None:
    assert checked(tmp_path, port)["port"].verdict == "bad"
    assert checked(tmp_path, port, runs=True)["port"].verdict == "ok"


@pytest.mark.parametrize(("kind", "verdict"), [("nfs4", "bad"), ("tmpfs", "note"), ("xfs", "ok"), ("", "ok")])
def test_filesystems_that_do_not_keep_what_they_promise(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, kind: str, verdict: str
) -> None:
    monkeypatch.setattr(disk_probe, "filesystem_kind", lambda _place: kind)
    assert checked(tmp_path)["filesystem"].verdict == verdict


def test_a_full_disk_is_bad(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    def full(_place: Path) -> Any:
        raise OSError(28, "No space left on device")

    monkeypatch.setattr(disk_probe, "sync_latency", full)
    assert checked(tmp_path)["disk sync"].verdict == "bad"


def test_json_and_exit_code(tmp_path: Path, port: int, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("FETCHMLD_PORT", str(port))
    done = CliRunner().invoke(root, ["--data-dir", str(tmp_path), "doctor", "--json"], standalone_mode=False)
    said = json.loads(done.stdout)
    assert (said["ok"], done.return_value) == (False, 1)
    assert {"name", "verdict", "value", "advice"} == set(said["checks"][0])


def test_the_kind_is_that_of_the_innermost_mount(tmp_path: Path) -> None:
    line = "{} 1 0:1 / {} rw - {} none rw"
    mounts = [("1", "/", "ext4"), ("2", str(tmp_path), "nfs4"), ("3", str(tmp_path) + "x", "xfs")]
    text = "\n".join(line.format(*mount) for mount in mounts)
    assert filesystem_kind(tmp_path, text) == "nfs4"
    assert filesystem_kind(tmp_path.parent, text) == "ext4"


def test_a_probe_leaves_nothing(tmp_path: Path) -> None:
    took = sync_latency(tmp_path, 5)
    assert took.syncs == 5
    assert 0 < took.median_ms <= took.p99_ms
    assert list(tmp_path.iterdir()) == []
