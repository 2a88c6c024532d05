"""A project that asks for a package, sent, its environment made from the index, and run."""

import subprocess
import tempfile
from pathlib import Path

import pytest

from actors.uv import environment, find_uv
from tests.e2e.conftest import Shell

pytestmark = pytest.mark.e2e

PACKAGE = "iniconfig==2.1.0"  # one file of pure Python, without dependencies


def index_answers() -> bool:
    """Can uv have the package from the index of this machine, as a daemon would?"""
    command = find_uv()
    if command is None:
        return False
    with tempfile.TemporaryDirectory() as directory:
        words = [command, "pip", "install", "--no-deps", "--no-build", "--target", f"{directory}/t", PACKAGE]
        told = environment(Path(directory) / "cache")
        return (
            subprocess.run(words, env=told, cwd=directory, capture_output=True, timeout=60, check=False).returncode == 0
        )


def test_a_package_from_the_index(shell: Shell, tmp_path: Path) -> None:
    if not index_answers():
        pytest.skip(f"uv cannot have {PACKAGE} from the package index of this machine")
    code = tmp_path / "project"
    (code / "mine").mkdir(parents=True)
    (code / "mine" / "__init__.py").write_text("from iniconfig import IniConfig\n")
    (code / "train.py").write_text(
        "import sys, mine\nconfig = mine.IniConfig('x', data='[a]\\nb = 7')\nprint('b is', config['a']['b'], sys.prefix)\n"
    )
    (code / "requirements.txt").write_text(f"{PACKAGE}\n")
    shell.start()
    first = shell.fetchmld("submit", "--snapshot", str(code), "--follow")
    assert f"+ {PACKAGE}" in first
    assert "b is 7" in first
    assert str(shell.data_dir / "node" / "environments") in first
    assert PACKAGE in shell.json("show", "last")["output"]
    second = shell.fetchmld("submit", "--snapshot", str(code), "--follow")
    assert second.splitlines()[-1] == first.splitlines()[-1]
    assert "installing" not in second

    (code / "requirements.txt").write_text("no-such-package-of-fetchml\n")
    failed = shell.fetchmld("submit", "--snapshot", str(code), "--wait", code=100)
    assert "ENVIRONMENT_FAILED: requirements.txt: " in failed
    assert "no-such-package-of-fetchml" in failed
