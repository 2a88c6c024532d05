"""Old segments are sealed by a process of its own."""

import asyncio
from pathlib import Path

from actors.helper_process import ask_helper
from actors.retention_keeper import RetentionKeeper
from fetchmld.store.ledger import Ledger
from fetchmld.store.retention import unsealed
from tests.store.ledger_samples import fill, open_ledger


def ledger_of_segments(directory: Path) -> Ledger:
    ledger = open_ledger(directory)
    fill(ledger, [5] * 40)
    return ledger


def test_what_is_due_is_sealed_beside_the_writer(tmp_path: Path) -> None:
    with ledger_of_segments(tmp_path / "ledger") as ledger:
        keeper = RetentionKeeper(tmp_path / "ledger", 2)
        assert unsealed(tmp_path / "ledger", 2)
        assert asyncio.run(keeper.seal())
        assert not unsealed(tmp_path / "ledger", 2)
        fill(ledger, [5])
        assert sum(1 for _ in ledger.read()) == 205


def test_what_could_not_be_sealed_is_tried_again_later(tmp_path: Path) -> None:
    with ledger_of_segments(tmp_path / "ledger"):
        blocker = tmp_path / "ledger" / "segments" / "00000000000000000000.log.gz.new"
        blocker.mkdir()
        assert not asyncio.run(RetentionKeeper(tmp_path / "ledger", 2).seal())
        assert unsealed(tmp_path / "ledger", 2)


def test_a_helper_that_fails_says_why() -> None:
    said = asyncio.run(ask_helper("fetchmld.store.retention"))
    assert said["error"].startswith("status 2: ")
