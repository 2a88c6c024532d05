"""Sessions and tickets: bounds, expiry, and what the file keeps."""

from pathlib import Path

import pytest

from fetchmld.store import sessions
from fetchmld.store.sessions import PER_KEY_MAX, SessionStore

KEY = "ab" * 32


def test_a_restart_logs_nobody_out_and_the_file_opens_nothing(tmp_path: Path) -> None:
    file = tmp_path / "sessions.json"
    store = SessionStore(file)
    value = store.begin(KEY, "console", 100.0, now=1.0)
    assert value not in file.read_text()
    assert file.stat().st_mode & 0o777 == 0o600
    again = SessionStore(file)
    again.load()
    found = again.find(value, "console", now=99.0)
    assert found is not None
    assert found.key_sha256 == KEY
    assert again.find(value, "services", now=99.0) is None
    assert again.find(value, "console", now=100.0) is None


@pytest.mark.parametrize("text", ["", "{", "[]", '{"sessions": 1}', '{"sessions": {"a": {}}}'])
def test_a_file_that_cannot_be_read_logs_out(tmp_path: Path, text: str) -> None:
    file = tmp_path / "sessions.json"
    file.write_text(text)
    store = SessionStore(file)
    store.load()
    assert store.find("anything", "console", now=0.0) is None


def test_what_was_begun_or_ended_is_on_the_disk(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    synced = list[Path]()
    monkeypatch.setattr(sessions, "sync_directory", synced.append)
    store = SessionStore(tmp_path / "sessions.json")
    store.end(store.begin(KEY, "console", 100.0, now=1.0))
    assert synced == [tmp_path, tmp_path]


def test_one_key_has_so_many_sessions_and_the_oldest_goes(tmp_path: Path) -> None:
    store = SessionStore(tmp_path / "sessions.json")
    other = store.begin("cd" * 32, "console", 100.0, now=1.0)
    values = [store.begin(KEY, "console", 100.0, now=1.0) for _ in range(PER_KEY_MAX + 1)]
    assert [store.find(value, "console", 2.0) is not None for value in values] == [False] + [True] * PER_KEY_MAX
    assert store.find(other, "console", 2.0) is not None


def test_all_together_are_bounded(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(sessions, "TICKETS_MAX", 3)
    store = SessionStore(tmp_path / "sessions.json")
    tickets = [store.issue(f"{number:064x}", "console", now=1.0)[0] for number in range(4)]
    assert [store.redeem(ticket, now=2.0) is not None for ticket in tickets] == [False, True, True, True]


def test_a_ticket_lives_a_minute(tmp_path: Path) -> None:
    store = SessionStore(tmp_path / "sessions.json")
    ticket, expires_at = store.issue(KEY, "console", now=1.0)
    assert store.redeem(ticket, now=expires_at) is None


def test_where_nothing_can_be_written_nothing_has_changed(tmp_path: Path) -> None:
    store = SessionStore(tmp_path / "away" / "sessions.json")
    with pytest.raises(FileNotFoundError):
        store.begin(KEY, "console", 100.0, now=1.0)
    assert not store._sessions
