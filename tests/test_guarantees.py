"""docs/guarantees.md names every promise once, and nothing that is not there: tests, scripts, targets, pages."""

import re
import subprocess
from pathlib import Path
from typing import Final

import pytest

ROOT: Final = Path(__file__).resolve().parents[1]
PAGE: Final = (ROOT / "docs" / "guarantees.md").read_text()
NAMES: Final = [*(f"G{number}" for number in range(1, 16)), *(f"S{number}" for number in range(1, 14))]
ROWS: Final = {
    cells[0]: cells[1:]
    for line in PAGE.splitlines()
    if re.match(r"\| [GS]\d+ \|", line)
    for cells in [[cell.strip() for cell in line.strip("|").split(" | ")]]
}
MAKEFILE: Final = (ROOT / "Makefile").read_text()


def test_every_promise_is_there_once_and_in_order() -> None:
    assert re.findall(r"^\| ([GS]\d+) \|", PAGE, re.MULTILINE) == NAMES
    assert list(ROWS) == NAMES


@pytest.mark.parametrize("name", NAMES)
def test_a_row_says_all_of_it(name: str) -> None:
    promise, short, long, seen = ROWS[name]
    assert len(promise) > 20
    assert short.startswith("`pytest tests/"), "what runs with every change is a test"
    assert long == "the same" or "`" in long
    assert seen.strip(" |")


def commands() -> list[str]:
    return sorted({command for row in ROWS.values() for cell in row[1:3] for command in re.findall(r"`([^`]+)`", cell)})


@pytest.mark.parametrize("command", commands())
def test_what_a_command_names_is_there(command: str) -> None:
    words = command.removeprefix("FETCHML_CHAOS=1 ").removeprefix(".venv/bin/python ").split()
    if words[0] == "make":
        assert re.search(rf"^{words[1]}:", MAKEFILE, re.MULTILINE), f"the Makefile has no target {words[1]}"
        return
    files = [word for word in words if "/" in word]
    assert files, "a command names what it runs"
    for file in files:
        path, _, test = file.partition("::")
        assert (ROOT / path).exists(), path
        assert not test or f"def {test}(" in (ROOT / path).read_text(), file
    if words[0] == "pytest":
        tests = [
            found
            for file in files
            for found in ([ROOT / file] if file.endswith(".py") else (ROOT / file).rglob("test_*.py"))
        ]
        assert all("def test_" in test.read_text() for test in tests)


def test_make_chaos_runs_the_long_forms() -> None:
    """Whatever row says `make chaos`: one at least of its tests is run by it."""
    would = subprocess.run(["make", "--dry-run", "chaos"], cwd=ROOT, capture_output=True, text=True, check=True).stdout
    run = [word for word in would.split() if word.startswith("tests/")]
    for name, (_, short, long, _) in ROWS.items():
        if "`make chaos`" in long:
            tests = re.findall(r"tests/[\w/.]+", short)
            assert any(test == one or test.startswith(f"{one}/") for test in tests for one in run), name


def test_links_lead_somewhere() -> None:
    for target in re.findall(r"\]\(([^)#]+)\)", PAGE):
        assert (ROOT / "docs" / target).exists(), target
