"""Several machines: they join, run tasks, are cut off, killed and restarted, and come back by themselves.

Each machine is a network namespace with its own address, data directory, Ray node and runner. What takes longer than every
change can afford is in the release's numbers (`make chaos`).
"""

import contextlib
import json
import os
import shutil
import signal
import subprocess
import sys
import tempfile
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import pytest

from tests.certificates import make_certificate
from tests.e2e.conftest import ROOT, Shell, free_port, until
from tests.e2e.lan import Lan, Machine, a_lan, why_not
from tests.e2e.test_outlives import is_runner, kill_all_but_the_runner_and
from tests.fault.conftest import LONG

pytestmark = pytest.mark.e2e

REASON = why_not()
if REASON:
    pytest.skip(REASON, allow_module_level=True)

release_only = pytest.mark.skipif(not LONG, reason="takes minutes: part of `make chaos`")


@dataclass(slots=True)
class Node:
    """A machine that joined, and somebody at its terminal."""

    machine: Machine
    shell: Shell

    @property
    def worker_id(self) -> str:
        return (self.shell.data_dir / "node" / "id").read_text().strip()


@dataclass(slots=True)
class Cluster:
    lan: Lan
    shell: Shell  # at the head
    head: Machine
    shared: Path  # what every machine sees, as a network file system would show it

    def start(self) -> None:
        folder = self.shell.data_dir.parent
        certificate, key = folder / "head.crt", folder / "head.key"
        make_certificate(certificate, key, "head.example")  # a name that nobody uses here: machines need not
        listen = ("--host", self.head.address, "--port", str(self.shell.port))
        tls = ("--tls-cert", str(certificate), "--tls-key", str(key))
        self.shell.fetchmld("start", "--head", *listen, *tls, "--num-cpus", "1")

    def add(self, folder: Path, *names: str) -> list[Node]:
        """Machines that join at the same time."""
        machines = [self.lan.machine(name) for name in names]
        nodes = [Node(machine, Shell(folder / machine.name, 0, within=machine.within)) for machine in machines]
        token = str(self.shell.data_dir / "join.token")
        with ThreadPoolExecutor() as threads:
            list(threads.map(lambda node: self.join(node, "--token-file", token), nodes))
        return nodes

    def join(self, node: Node, *flags: str) -> str:
        address = f"{self.head.address}:{self.shell.port + 1}"
        return node.shell.fetchmld("start", "--address", address, "--num-cpus", "2", *flags)

    def worker(self, node: Node) -> dict[str, Any]:
        found: dict[str, Any] = next(w for w in self.shell.json("workers") if w["id"] == node.worker_id)
        return found

    def status(self, node: Node) -> str:
        return str(self.worker(node)["status"])

    def is_back(self, node: Node) -> bool:
        """Active, and not silent."""
        worker = self.worker(node)
        return worker["status"] == "active" and not worker["suspect"]

    def await_back(self, node: Node) -> None:
        until(f"machine {node.machine.name} is back", lambda: self.is_back(node))

    def await_offline(self, node: Node) -> None:
        until(f"machine {node.machine.name} is offline", lambda: self.status(node) == "offline")

    def joined(self) -> list[str]:
        return [worker["id"] for worker in self.shell.json("workers") if worker["status"] == "active"]

    def run_on(self, node: Node, name: str, script: str, *flags: str) -> str:
        """A task that only this machine can run; its id."""
        others = [worker_id for worker_id in self.joined() if worker_id != node.worker_id]
        for worker_id in others:
            self.shell.fetchmld("drain", worker_id)
        task_id = self.shell.fetchmld(
            "submit", "-q", "--name", name, "--cpu", "1", *flags, "--", "sh", "-c", script
        ).strip()
        until(f"{name} runs on {node.machine.name}", lambda: self.shell.show(task_id)["status"] != "queued")
        for worker_id in others:
            self.shell.fetchmld("undrain", worker_id)
        return task_id


@pytest.fixture(scope="module")
def cluster(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Cluster]:
    with a_lan() as lan:
        head = lan.machine("h")
        folder = tmp_path_factory.mktemp("head")
        environment = {
            "FETCHMLD_REQUEUE_AFTER_S": "90",
            "PYTHONPATH": f"{ROOT}:{with_the_example_plugin(folder)}",
        }
        shell = Shell(folder / "data", free_port(), environment, head.within)
        with tempfile.TemporaryDirectory(prefix="fml-shared-") as shared, ending(shell):
            Path(shared).chmod(0o777)  # tasks may write to it, whoever they run as
            made = Cluster(lan, shell, head, Path(shared))
            made.start()
            yield made


def with_the_example_plugin(folder: Path) -> Path:
    """A directory with the plugin of a third party installed in it."""
    copy, target = folder / "example", folder / "packages"  # building writes beside what is built
    shutil.copytree(ROOT / "examples" / "plugin", copy)
    uv = [str(Path(sys.executable).parent / "uv"), "pip", "install", "--quiet", "--no-deps", "--no-build-isolation"]
    subprocess.run([*uv, "--python", sys.executable, "--target", str(target), str(copy)], check=True)
    return target


@pytest.fixture(scope="module")
def nodes(cluster: Cluster, tmp_path_factory: pytest.TempPathFactory) -> Iterator[tuple[Node, Node]]:
    folder = tmp_path_factory.mktemp("nodes")
    one, two = cluster.add(folder, "a", "b")
    with ending(one.shell), ending(two.shell):
        yield one, two


@contextlib.contextmanager
def ending(shell: Shell) -> Iterator[None]:
    """Nothing of this machine is left afterwards."""
    try:
        yield
    finally:
        shell.fetchmld("stop", code=None)
        for pid in shell.processes():
            with contextlib.suppress(ProcessLookupError):
                os.kill(pid, signal.SIGKILL)


@pytest.fixture(autouse=True)
def whole(cluster: Cluster, nodes: tuple[Node, Node]) -> None:
    """Each test begins with all machines there, whatever the last one did."""
    for node in nodes:
        node.machine.mend(cluster.head)
        cluster.await_back(node)


def sleeper(folder: Path, name: str) -> str:
    """Writes its pid, then waits for a file; ends with 0."""
    mark = folder / name
    return f"echo $$ > {mark}.new; mv {mark}.new {mark}.pid; until test -e {mark}.go; do sleep 0.1; done; echo done"


def pid_of(folder: Path, name: str) -> int:
    until(f"{name} has begun", (folder / f"{name}.pid").exists)
    return int((folder / f"{name}.pid").read_text())


def test_a_machine_that_joined_runs_tasks_and_their_output_is_at_the_head(
    cluster: Cluster, nodes: tuple[Node, Node]
) -> None:
    content = os.urandom(1_500_000).hex()
    (cluster.shared / "in").write_text(content)
    code = cluster.shared / "code"
    code.mkdir()
    (code / "say.sh").write_text("for i in $(seq 20000); do echo line $i of many; done\n")
    task_id = cluster.run_on(
        nodes[0],
        "remote",
        f". ./say.sh; mkdir -p $FETCHML_OUTPUT_DIR; cp {cluster.shared}/in $FETCHML_OUTPUT_DIR/out",
        "--snapshot",
        str(code),
    )
    cluster.shell.fetchmld("wait", task_id)
    task = cluster.shell.show(task_id)
    assert task["status"] == "completed"
    expected = "".join(f"line {number} of many\n" for number in range(1, 20001))
    assert cluster.shell.fetchmld("logs", task_id) == expected
    assert cluster.shell.fetchmld("artifacts", task_id, "out") == content
    assert nodes[0].worker_id in nodes[0].shell.fetchmld("status")
    assert "3 of 3 active" in cluster.shell.fetchmld("status")


def test_a_plugin_at_the_head_shows_what_a_task_on_another_machine_writes(
    cluster: Cluster, nodes: tuple[Node, Node]
) -> None:
    """While the task runs: its files come over the network. The plugin is a third party's, installed at the head only."""
    cluster.shell.fetchmld("plugins", "enable", "scoreboard", "--set", "title=Best so far", "--wait")
    go = cluster.shared / "go"
    script = f"mkdir -p $SCOREBOARD_DIR; echo 17 > $SCOREBOARD_DIR/s.txt; while [ ! -e {go} ]; do sleep 0.1; done"
    task_id = cluster.run_on(nodes[0], "scored", script, "--plugin", "scoreboard")
    page = [sys.executable, "-c", PAGE, f"https://{cluster.head.address}:{cluster.shell.port}/plugins/scoreboard/"]
    key = (cluster.shell.data_dir / "admin.key").read_text().strip()

    def shown() -> list[str]:
        asked = subprocess.run([*cluster.head.within, *page, key], capture_output=True, text=True, check=False)
        return asked.stdout.splitlines()

    expected = ["Best so far", f"scored/{task_id}-1: 17"]
    until("the page shows it", lambda: shown() == expected)
    go.touch()
    cluster.shell.fetchmld("wait", task_id)
    assert cluster.shell.show(task_id)["plugin_status"]["scoreboard"]["status"] == "healthy"
    cluster.shell.fetchmld("plugins", "disable", "scoreboard")


PAGE = """
import ssl, sys, urllib.request
asked = urllib.request.Request(sys.argv[1], headers={"X-API-Key": sys.argv[2]})
print(urllib.request.urlopen(asked, context=ssl._create_unverified_context()).read().decode())
"""


def test_a_gang_trains_on_two_machines_and_fails_as_one(cluster: Cluster, nodes: tuple[Node, Node]) -> None:
    """`examples/gang` over the network between them: with two cores each it fits on no other machine."""
    gang = ("submit", "-q", "--node-count", "2", "--cpu", "2")
    task_id = cluster.shell.fetchmld(
        *gang, "--snapshot", str(ROOT / "examples" / "gang"), "--", "train_together.py"
    ).strip()
    lone = cluster.shell.fetchmld(*gang, "--", "sh", "-c", "test $NODE_RANK = 1 && exit 3; sleep 600").strip()
    cluster.shell.fetchmld("wait", task_id, code=0)
    model = json.loads(cluster.shell.fetchmld("artifacts", task_id, "model.json"))
    assert (round(model["a"], 1), round(model["b"], 1)) == (3.0, -1.0)
    cluster.shell.fetchmld("wait", lone, code=100)
    assert "exit status 3" in cluster.shell.show(lone)["error"]
    until("both are free", lambda: not any(cluster.worker(node).get("active_tasks") for node in nodes))


def test_without_the_token_nobody_joins(cluster: Cluster, nodes: tuple[Node, Node], tmp_path: Path) -> None:
    address = f"{cluster.head.address}:{cluster.shell.port + 1}"
    stranger = Shell(tmp_path / "stranger", 0, within=nodes[0].machine.within)
    with ending(stranger):
        assert "join.token" in stranger.fetchmld("start", "--address", address, code=4)
        wrong = tmp_path / "wrong"
        wrong.write_text("0" * 64)
        assert "refused the token" in stranger.fetchmld(
            "start", "--address", address, "--token-file", str(wrong), code=4
        )
        away = f"{cluster.head.address}:1"
        assert "nothing answers" in stranger.fetchmld("start", "--address", away, "--token-file", str(wrong), code=6)
        api = f"{cluster.head.address}:{cluster.shell.port}"
        assert "port plus one" in stranger.fetchmld("start", "--address", api, "--token-file", str(wrong), code=6)
        assert not (stranger.data_dir / "join.token").exists(), "what no head took is not remembered"
    assert len(cluster.joined()) == 3


def test_machines_that_are_cut_off_go_offline_and_come_back_with_what_they_run(
    cluster: Cluster, nodes: tuple[Node, Node]
) -> None:
    """One is cut off in both directions; the head does not hear the other, which still hears it."""
    folder = cluster.shared
    hello = "seq 30000; "
    ids = [cluster.run_on(node, f"cut-{n}", hello + sleeper(folder, f"cut-{n}")) for n, node in enumerate(nodes)]
    pids = [pid_of(folder, f"cut-{n}") for n in range(2)]
    seq = "".join(f"{number}\n" for number in range(1, 30001))
    for node, task_id in zip(nodes, ids, strict=True):
        sent = cluster.shell.data_dir / "objects" / "logs" / node.worker_id / "live" / f"{task_id}-1-0.log"
        until("the head has its log so far", lambda sent=sent: sent.exists() and sent.stat().st_size >= len(seq))  # type: ignore[misc]
    nodes[0].machine.cut()
    nodes[1].machine.deafen(cluster.head)
    for node in nodes:
        cluster.await_offline(node)
    until("it says so itself", lambda: "lost" in nodes[0].shell.fetchmld("status"))
    for pid in pids:
        os.kill(pid, 0)  # it goes on
    for task_id in ids:
        assert cluster.shell.fetchmld("logs", task_id) == seq  # what it sent before it was cut off
    (folder / "cut-1.go").touch()  # ends while nobody can be told
    for node in nodes:
        node.machine.mend(cluster.head)
    for node in nodes:
        cluster.await_back(node)
        until("it says so", lambda node=node: "lost" not in node.shell.fetchmld("status"))  # type: ignore[misc]
    os.kill(pids[0], 0)
    (folder / "cut-0.go").touch()
    cluster.shell.fetchmld("wait", *ids)
    for task_id in ids:
        task = cluster.shell.show(task_id)
        assert (task["status"], task["retry_count"]) == ("completed", 0)
        assert cluster.shell.fetchmld("logs", task_id) == seq + "done\n"


def test_a_machine_comes_back_after_the_death_of_all_but_its_runner(cluster: Cluster, nodes: tuple[Node, Node]) -> None:
    node, folder = nodes[0], cluster.shared
    task_id = cluster.run_on(node, "kept", sleeper(folder, "kept"))
    pid, worker_id = pid_of(folder, "kept"), node.worker_id
    kill_all_but_the_runner_and(node.shell, pid)
    assert worker_id in cluster.join(node, "-q"), "the token is remembered, and the id"
    os.kill(pid, 0)
    (folder / "kept.go").touch()
    cluster.shell.fetchmld("wait", task_id)
    assert cluster.shell.show(task_id)["retry_count"] == 0


def test_machines_find_a_head_that_was_restarted(cluster: Cluster, nodes: tuple[Node, Node]) -> None:
    folder = cluster.shared
    ids = [cluster.run_on(node, f"head-{n}", sleeper(folder, f"head-{n}")) for n, node in enumerate(nodes)]
    pids = [pid_of(folder, f"head-{n}") for n in range(2)]
    cluster.shell.fetchmld("stop")
    (folder / "head-1.go").touch()  # ends while there is no head
    until("it has ended", lambda: not Path(f"/proc/{pids[1]}").exists())
    cluster.start()
    for node in nodes:
        cluster.await_back(node)
    os.kill(pids[0], 0)
    (folder / "head-0.go").touch()
    cluster.shell.fetchmld("wait", *ids)
    for task_id in ids:
        task = cluster.shell.show(task_id)
        assert (task["status"], task["retry_count"], task["output"]) == ("completed", 0, "done\n")


def test_machines_find_a_head_whose_ray_died(cluster: Cluster, nodes: tuple[Node, Node]) -> None:
    folder = cluster.shared
    task_id = cluster.run_on(nodes[0], "gcs", sleeper(folder, "gcs"))
    gcs = gcs_of(cluster)
    os.kill(gcs, signal.SIGKILL)
    until("the head has another", lambda: gcs_of(cluster) not in (0, gcs))
    until("it answers again", lambda: "healthy" in cluster.shell.fetchmld("status", code=None))
    for node in nodes:
        cluster.await_back(node)
    (folder / "gcs.go").touch()
    cluster.shell.fetchmld("wait", task_id)
    assert cluster.shell.show(task_id)["retry_count"] == 0


def gcs_of(cluster: Cluster) -> int:
    return next((pid for pid, line in cluster.shell.processes().items() if "gcs_server" in line), 0)


def test_a_machine_that_is_stopped_leaves_and_joins_again(cluster: Cluster, nodes: tuple[Node, Node]) -> None:
    node = nodes[1]
    long = cluster.run_on(node, "long", "seq 300000")
    short = cluster.run_on(node, "short", "echo short")
    cluster.shell.fetchmld("wait", long, short)
    assert "drain" in node.shell.fetchmld("stop", "--drain", code=5)
    worker_id = node.worker_id
    sent = cluster.shell.data_dir / "objects" / "logs" / worker_id
    until("its logs are at the head", (sent / "whole" / f"{long}-1-0.log").exists)
    node.shell.fetchmld("stop")
    assert not [line for line in node.shell.processes().values() if not is_runner(line)]
    until("it is silent", lambda: cluster.worker(node)["suspect"] or cluster.status(node) == "offline")
    assert cluster.shell.fetchmld("logs", long) == "".join(f"{number}\n" for number in range(1, 300001))
    assert cluster.shell.fetchmld("logs", short) == "short\n"
    wrong = node.shell.data_dir.parent / "wrong"
    wrong.write_text("0" * 64)
    address = f"{cluster.head.address}:{cluster.shell.port + 1}"
    refused = node.shell.fetchmld("start", "--address", address, "--token-file", str(wrong), code=4)
    assert f"refused the token in {wrong}" in refused
    assert worker_id in cluster.join(node, "-q"), "the token that was right is still there"
    assert cluster.is_back(node)


def test_a_copy_of_another_machines_data_directory_does_not_join(
    cluster: Cluster, nodes: tuple[Node, Node], tmp_path: Path
) -> None:
    copy = Node(nodes[1].machine, Shell(tmp_path / "copy", 0, within=nodes[1].machine.within))
    (copy.shell.data_dir / "node").mkdir(parents=True)
    for name in ("fetchml.json", "join.token", "node/id"):
        shutil.copy(nodes[0].shell.data_dir / name, copy.shell.data_dir / name)
    with ending(copy.shell):
        address = f"{cluster.head.address}:{cluster.shell.port + 1}"
        said = copy.shell.fetchmld("start", "--address", address, code=4)
    assert f"{nodes[0].machine.address} has joined as worker {nodes[0].worker_id}" in said
    assert all(cluster.is_back(node) for node in nodes)


# -- what takes minutes


@release_only
def test_a_cut_off_attempt_is_dead_before_the_next_one_starts(cluster: Cluster, nodes: tuple[Node, Node]) -> None:
    """One node is cut off in both directions, of the other nothing is heard. Both attempts ignore SIGTERM."""
    folder = cluster.shared / "overlap"
    folder.mkdir()
    folder.chmod(0o777)  # each attempt has a user of its own
    ids = [cluster.run_on(node, f"beats-{n}", beats(folder, f"{n}")) for n, node in enumerate(nodes)]
    until("both beat", lambda: all(times(folder, f"{n}", 1) for n in range(2)))
    nodes[0].machine.cut()
    nodes[1].machine.deafen(cluster.head)
    for n in range(2):
        until("its next attempt beats", lambda n=n: times(folder, f"{n}", 2), within_s=240)  # type: ignore[misc]
    for node in nodes:
        node.machine.mend(cluster.head)
        cluster.await_back(node)
    cluster.shell.fetchmld("wait", *ids)
    for n, task_id in enumerate(ids):
        first, second = times(folder, f"{n}", 1), times(folder, f"{n}", 2)
        print(f"{nodes[n].machine.name}: dead {second[0] - first[-1]:.1f} s before the next attempt")
        assert first[-1] < second[0]
        assert not times(folder, f"{n}", 3)
        assert cluster.shell.show(task_id)["status"] == "completed"
    assert cluster.shell.fetchmld("audit", "verify").startswith("valid")


def beats(folder: Path, name: str) -> str:
    """Writes the time again and again: the first attempt for ever, later ones for a second."""
    times = "[ $FETCHML_ATTEMPT = 1 ] && n=1000000 || n=20"
    beat = f"date +%s.%N >> {folder}/{name}-$FETCHML_ATTEMPT; sleep 0.05"
    return f"trap '' TERM; {times}; i=0; while [ $i -lt $n ]; do i=$((i+1)); {beat}; done"


def times(folder: Path, name: str, attempt: int) -> list[float]:
    file = folder / f"{name}-{attempt}"
    return [float(line) for line in file.read_text().splitlines()] if file.exists() else []


@release_only
def test_an_agent_that_hangs_is_replaced_and_a_runner_that_hangs_is_waited_for(
    cluster: Cluster, nodes: tuple[Node, Node]
) -> None:
    node, folder = nodes[0], cluster.shared
    task_id = cluster.run_on(node, "hang", sleeper(folder, "hang"))
    pid = pid_of(folder, "hang")
    os.kill(process_of(node, "ray::agent"), signal.SIGSTOP)
    cluster.await_offline(node)
    cluster.await_back(node)
    runner = process_of(node, "fetchmld.runner")
    os.kill(runner, signal.SIGSTOP)
    (folder / "hang.go").touch()
    until("it has ended", lambda: state_of(pid) == "Z")  # and nobody took notice
    assert cluster.shell.show(task_id)["status"] == "running"
    os.kill(runner, signal.SIGCONT)
    cluster.shell.fetchmld("wait", task_id)
    task = cluster.shell.show(task_id)
    assert (task["status"], task["retry_count"], task["output"]) == ("completed", 0, "done\n")


def process_of(node: Node, what: str) -> int:
    return next(pid for pid, line in node.shell.processes().items() if what in line)


def state_of(pid: int) -> str:
    return Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()[0]


@release_only
def test_nothing_is_lost_or_run_twice_while_machines_die_and_come_back(
    cluster: Cluster, nodes: tuple[Node, Node]
) -> None:
    folder = cluster.shared / "storm"
    folder.mkdir()
    (folder / "ran").touch()
    (folder / "ran").chmod(0o666)  # each task has a user of its own
    script = f"echo $FETCHML_TASK_ID >> {folder}/ran; sleep 2"
    ids = [cluster.shell.fetchmld("submit", "-q", "--cpu", "1", "--", "sh", "-c", script).strip() for _ in range(60)]
    for turn in range(6):
        node = nodes[turn % 2]
        if turn % 3 == 2:
            os.kill(node.shell.daemon["pid"], signal.SIGKILL)
        with contextlib.suppress(StopIteration):  # it is being started again
            os.kill(process_of(node, "ray::agent" if turn % 3 else "raylet/raylet"), signal.SIGKILL)
        if turn % 3 == 2:
            cluster.join(node)
        cluster.await_back(node)
    cluster.shell.fetchmld("wait", *ids, wait_s=300)
    assert sorted((folder / "ran").read_text().split()) == sorted(ids)
    assert {cluster.shell.show(task_id)["retry_count"] for task_id in ids} == {0}
