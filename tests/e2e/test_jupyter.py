"""JupyterLab itself, from the package index: started, used through the head, found again after a restart, stopped."""

import asyncio
import json
import os
import shutil
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path

import pytest

from tests.certificates import make_certificate
from tests.e2e.conftest import ROOT, Shell, free_port
from tests.e2e.lan import a_lan, why_not
from tests.e2e.notebook_user import Browser

pytestmark = pytest.mark.e2e

INSTALL_MAX_S = 400


@pytest.fixture(scope="module")
def environments(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Where JupyterLab is installed, once, by a notebook that nobody looks at: the machines of a test have no network."""
    shell = Shell(tmp_path_factory.mktemp("installing") / "data", free_port())
    try:
        shell.start()
        shell.fetchmld("jupyter", "start", "lab", wait_s=INSTALL_MAX_S)
    finally:
        shell.end()
    return shell.data_dir / "node" / "environments"


def start_with(environments: Path, shell: Shell, start: Callable[[], str]) -> None:
    """A node looks at what is installed when it starts, and only in a directory of its own making."""
    start()
    shell.fetchmld("stop")
    mine = shell.data_dir / "node" / "environments"
    for made in environments.glob("*/ready"):
        shutil.copytree(made.parent, mine / made.parent.name, symlinks=True, copy_function=os.link)
    start()


def test_a_notebook_from_start_to_stop(shell: Shell, environments: Path) -> None:
    start_with(environments, shell, shell.start)
    service = json.loads(shell.fetchmld("jupyter", "start", "lab", "--json", wait_s=INSTALL_MAX_S))
    assert service["status"] == "running"
    _assert_hidden(shell, service["token"])

    async def first() -> str:
        async with Browser(shell, service) as browser:
            kernel = await browser.kernel()
            assert await browser.run(kernel, "x = 6 * 7; open('kept.txt', 'w').write('kept'); print(x)") == "42\n"
            return kernel

    async def again(kernel: str) -> None:
        async with Browser(shell, service) as browser:
            assert await browser.run(kernel, "print(x + 1)") == "43\n"

    kernel = asyncio.run(first())
    shell.fetchmld("stop")
    shell.start()
    found = json.loads(shell.fetchmld("jupyter", "start", "--workspace", "default", "--json", code=5))
    assert service["id"] in found["error"]  # it is there still, and has the workspace
    shell.fetchmld("jupyter", "ls")
    asyncio.run(again(kernel))

    shell.fetchmld("jupyter", "stop", service["id"])
    shell.fetchmld("wait", service["id"], code=103)
    (listed,) = shell.json("jupyter", "ls")
    assert listed["status"] == "stopped"
    _assert_nothing_left(shell, service["id"])


def _assert_hidden(shell: Shell, token: str) -> None:
    """The token is in no argument and no log; in no environment but none at all."""
    for entry in Path("/proc").glob("[0-9]*"):
        for part in ("cmdline", "environ"):
            try:
                assert token.encode() not in (entry / part).read_bytes(), entry
            except (FileNotFoundError, ProcessLookupError, PermissionError):
                continue
    kept = [file for part in ("logs", "ledger", "node/logs") for file in (shell.data_dir / part).rglob("*")]
    for file in kept:
        assert not file.is_file() or token.encode() not in file.read_bytes(), file


def _assert_nothing_left(shell: Shell, service_id: str) -> None:
    left = [line for line in shell.processes().values() if "jupyterlab" in line or "ipykernel" in line]
    assert left == []
    assert list((shell.data_dir / "node" / "services").iterdir()) == []
    assert [path for path in (shell.data_dir / "node" / "attempts").iterdir() if service_id in path.name] == []
    assert (shell.data_dir / "workspaces" / "admin" / "default" / "kept.txt").read_text() == "kept"


@pytest.mark.skipif(bool(why_not()), reason=why_not())
def test_a_notebook_on_a_machine_that_joined_over_tls(tmp_path: Path, environments: Path) -> None:
    """Page and WebSocket come through the head and the tunnel that the machine dials; the head itself takes no service."""
    certificate, key = tmp_path / "head.crt", tmp_path / "head.key"
    make_certificate(certificate, key, "head.example")
    with a_lan() as lan:
        head, machine = lan.machine("h"), lan.machine("a")
        shell = Shell(tmp_path / "data", free_port(), within=head.within)
        joined = Shell(tmp_path / "joined", 0, within=machine.within)
        try:
            tls = ("--tls-cert", str(certificate), "--tls-key", str(key))
            shell.start("--host", head.address, *tls)
            token = str(shell.data_dir / "join.token")
            join = ("start", "--address", f"{head.address}:{shell.port + 1}", "--token-file", token)
            start_with(environments, joined, lambda: joined.fetchmld(*join))
            there = (joined.data_dir / "node" / "id").read_text().strip()
            (here,) = [worker["id"] for worker in shell.json("workers") if worker["id"] != there]
            shell.fetchmld("drain", here)
            service = json.loads(shell.fetchmld("jupyter", "start", "lab", "--json", wait_s=INSTALL_MAX_S))
            assert shell.show(service["id"])["worker_id"] == there
            words = [
                *head.within,
                sys.executable,
                "-m",
                "tests.e2e.notebook_user",
                str(shell.data_dir),
                str(shell.port),
            ]
            ran = subprocess.run([*words, json.dumps(service)], cwd=ROOT, capture_output=True, text=True, check=False)
            assert ran.returncode == 0, ran.stderr
            assert ran.stdout == "42 300000\n"
        finally:
            joined.end()
            shell.end()
