"""Real MLflow and real TensorBoard beside a real daemon, installed from the index once per machine. Prints its figures."""

import fcntl
import importlib.util
import json
import os
import shutil
import signal
import time
import urllib.error
import urllib.request
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

from tests.e2e.conftest import ROOT, Shell, free_port, until
from tests.e2e.test_outlives import kill_all_but_the_runner_and

pytestmark = pytest.mark.e2e

ENVIRONMENTS = Path("/tmp") / f"fetchml-test-environments-{os.geteuid()}"
MADE_S = 600.0  # the first time, with every package to be fetched


@pytest.fixture(scope="module")
def served(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Shell]:
    """A daemon with both plugins, whose environments are made once per machine; nobody else uses them meanwhile."""
    mine = Shell(tmp_path_factory.mktemp("plugins") / "data", free_port())
    ENVIRONMENTS.mkdir(mode=0o755, exist_ok=True)
    with open(ENVIRONMENTS / "lock", "w") as lock:
        fcntl.flock(lock, fcntl.LOCK_EX)
        mine.start()
        (mine.data_dir / "node" / "plugins" / ".environments").symlink_to(ENVIRONMENTS)
        for name in ("tensorboard", "mlflow"):
            mine.fetchmld("plugins", "enable", name, "--wait", wait_s=MADE_S)
        yield mine
        for name in ("tensorboard", "mlflow"):
            mine.fetchmld("plugins", "disable", name, code=None)
        mine.fetchmld("stop", code=None)
        for pid in mine.processes():
            try:
                os.kill(pid, signal.SIGKILL)
            except ProcessLookupError:
                continue


def ask(shell: Shell, path: str, body: Any = None) -> Any:
    """Through the head's proxy, as an administrator."""
    key = (shell.data_dir / "admin.key").read_text().strip()
    data = None if body is None else json.dumps(body).encode()
    headers = {"Authorization": f"Bearer {key}", "Content-Type": "application/json"}
    asked = urllib.request.Request(f"http://127.0.0.1:{shell.port}/plugins/{path}", data, headers)
    with urllib.request.urlopen(asked, timeout=30) as answer:
        return json.loads(answer.read())


def run_of(shell: Shell, task: dict[str, Any]) -> dict[str, Any]:
    run_id = task["plugin_status"]["mlflow"]["run_id"]
    found: dict[str, Any] = ask(shell, f"mlflow/api/2.0/mlflow/runs/get?run_id={run_id}")["run"]
    return found


def ended_run(shell: Shell, task: dict[str, Any]) -> dict[str, Any]:
    """The task's run, once it has been ended as well."""
    found: dict[str, Any] = until("the run's end", lambda: _ended(run_of(shell, task)))
    return found


def _ended(run: dict[str, Any]) -> dict[str, Any] | None:
    return run if run["info"]["status"] != "RUNNING" else None


def metrics(run: dict[str, Any]) -> dict[str, float]:
    return {one["key"]: one["value"] for one in run["data"].get("metrics", [])}


def python_of(shell: Shell, name: str) -> str:
    (found,) = (shell.data_dir / "node" / "plugins" / ".environments" / name).glob("*/env/bin/python")
    return str(found)


def pid_of(shell: Shell, name: str) -> int:
    """Of the sidecar, which is one process."""
    (found,) = [pid for pid, line in shell.processes().items() if f"/{name}/" in line and "-I -c" in line]
    return found


def status(shell: Shell, name: str) -> str:
    found: str = shell.json("plugins", "show", name)["status"]["status"]
    return found


def digits(shell: Shell, *more: str) -> str:
    """The id of a task that trains on the digits and reports to both plugins."""
    spec = importlib.util.find_spec("sklearn")
    assert spec is not None
    assert spec.origin is not None
    data = shell.data_dir / "datasets" / "digits.csv.gz"
    if not data.exists():
        data.parent.mkdir(exist_ok=True)
        shutil.copyfile(Path(spec.origin).parent / "datasets" / "data" / "digits.csv.gz", data)
        data.chmod(0o644)
    words = ("submit", "-q", "--name", "digits", "--plugin", "mlflow", "--plugin", "tensorboard")
    dataset = f"{data},name=digits,mount=data/digits.csv.gz"
    script = str(ROOT / "examples" / "digits" / "train.py")
    return shell.fetchmld(*words, "--dataset", dataset, "--", script, *more).strip()


def test_what_the_digits_log_is_in_mlflow(served: Shell) -> None:
    task_id = digits(served, "--epochs", "5")
    served.fetchmld("wait", task_id, code=None)
    task = served.show(task_id)
    assert task["status"] == "completed", task
    run = ended_run(served, task)
    logged = metrics(run)
    assert logged["test_accuracy"] == pytest.approx(
        json.loads(served.fetchmld("artifacts", task_id, "metrics.json"))["test_accuracy"], abs=1e-4
    )
    assert run["info"]["status"] == "FINISHED"
    tags = {tag["key"]: tag["value"] for tag in run["data"]["tags"]}
    assert (tags["fetchml.task_id"], tags["fetchml.job_name"]) == (task_id, "digits")
    history = ask(served, f"mlflow/api/2.0/mlflow/metrics/get-history?run_id={run['info']['run_id']}&metric_key=loss")
    assert [one["step"] for one in history["metrics"]] == [1, 2, 3, 4, 5]


CLIENT = """
import mlflow
with mlflow.start_run() as run:
    mlflow.log_metric("answer", 42.0)
    mlflow.log_text("hello", "words.txt")
    print(mlflow.MlflowClient().download_artifacts(run.info.run_id, "words.txt"))
raise SystemExit(3)
"""


def test_mlflows_own_client_goes_on_with_the_run_that_was_made_for_it(served: Shell) -> None:
    python = python_of(served, "mlflow")
    named = ("--plugin", "mlflow,experiment=by its own client", "--env", "GIT_PYTHON_REFRESH=quiet")
    task_id = served.fetchmld("submit", "-q", *named, "--", python, "-c", CLIENT).strip()
    served.fetchmld("wait", task_id, code=100, wait_s=300)
    task = served.show(task_id)
    run = ended_run(served, task)
    assert metrics(run) == {"answer": 42.0}
    assert "words.txt" in task["output"]
    until(
        "the task's own status", lambda: run_of(served, task)["info"]["status"] == "FAILED"
    )  # the client said FINISHED
    found = ask(served, "mlflow/api/2.0/mlflow/experiments/get-by-name?experiment_name=by%20its%20own%20client")
    assert found["experiment"]["experiment_id"] == run["info"]["experiment_id"]


def test_somebody_elses_server_with_its_credentials(served: Shell, tmp_path: Path) -> None:
    """A second daemon, whose plugin is the first one's MLflow: a real server behind a real key."""
    key = served.json("keys", "create", "--user", "ada")["key"]
    address = f"http://127.0.0.1:{served.port}/plugins/mlflow"
    other = Shell(tmp_path / "data", free_port(), {"FETCHMLD_PLUGIN_PRIVATE_HOSTS": "true"})
    try:
        other.start()
        remote = ("--mode", "remote", "--set", f"tracking_uri={address}", "--wait")
        refused = other.fetchmld("plugins", "enable", "mlflow", *remote, "--set", "token=fml_wrong", code=None)
        assert "401" in refused, refused
        other.fetchmld("plugins", "enable", "mlflow", *remote, "--set", f"token={key}")
        shown = other.fetchmld("plugins", "show", "mlflow")
        assert key not in shown
        (python,) = (
            str(path) for path in (ENVIRONMENTS / "mlflow").glob("*/env/bin/python")
        )  # not in the first's directory
        words = ("submit", "-q", "--name", "afar", "--plugin", "mlflow", "--env", "GIT_PYTHON_REFRESH=quiet")
        task_id = other.fetchmld(*words, "--", python, "-c", CLIENT).strip()
        other.fetchmld("wait", task_id, code=100, wait_s=300)
        task = other.show(task_id)
        assert "words.txt" in task["output"], task
        run = ended_run(served, task)
        assert metrics(run) == {"answer": 42.0}
        until("the task's own status", lambda: run_of(served, task)["info"]["status"] == "FAILED")
        assert {tag["key"]: tag["value"] for tag in run["data"]["tags"]}["fetchml.task_id"] == task_id
        assert (
            ask(other, f"mlflow/api/2.0/mlflow/runs/get?run_id={run['info']['run_id']}")["run"]["info"] == run["info"]
        )
        keyless = [path for path in other.data_dir.rglob("*") if path.is_file() and "secrets" not in path.parts]
        assert not [path for path in keyless if key.encode() in path.read_bytes()]
    finally:
        other.end()


WRITER = """
import os, time
from tensorboard.summary import Writer
writer = Writer(os.environ["TENSORBOARD_LOGDIR"])
for step in range(3):
    writer.add_scalar("loss", 1.0 / (step + 1), step)
writer.flush()
while not os.path.exists("{go}"):
    time.sleep(0.1)
writer.add_scalar("loss", 0.0, 3)
writer.close()
"""


def test_event_files_are_shown_while_the_task_runs_and_after(served: Shell, open_dir: Path) -> None:
    go = open_dir / "go"
    words = ("submit", "-q", "--name", "curve", "--plugin", "tensorboard", "--", python_of(served, "tensorboard"), "-c")
    task_id = served.fetchmld(*words, WRITER.replace("{go}", str(go))).strip()
    run = f"curve/{task_id}-1"
    where = f"tensorboard/data/plugin/scalars/scalars?run={run.replace('/', '%2F')}&tag=loss"
    until("three points", lambda: _points(served, where) == 3)
    go.touch()
    served.fetchmld("wait", task_id)
    until("four points", lambda: _points(served, where) == 4)
    assert any(
        one["path"].startswith("tensorboard/") for one in json.loads(served.fetchmld("--json", "artifacts", task_id))
    )


def _points(shell: Shell, where: str) -> int:
    try:
        return len(ask(shell, where))
    except urllib.error.HTTPError:
        return 0


def test_a_killed_sidecar_is_noticed_in_10_s_back_in_30_and_no_task_fails(served: Shell) -> None:
    task_id = digits(served, "--epochs", "40", "--pause", "0.5")
    until("the task to run", lambda: served.show(task_id)["status"] == "running")
    for name in ("mlflow", "tensorboard"):
        old = pid_of(served, name)
        os.kill(old, signal.SIGKILL)
        killed_t = time.monotonic()
        until(f"the death of {name} to be noticed", lambda name=name: status(served, name) != "healthy", 10)  # type: ignore[misc]
        noticed_s = time.monotonic() - killed_t
        until(f"{name} to be back", lambda name=name: status(served, name) == "healthy", 60)  # type: ignore[misc]
        back_s = time.monotonic() - killed_t
        print(f"{name}: noticed after {noticed_s:.1f} s, back after {back_s:.1f} s, load {os.getloadavg()[0]:.1f}")
        assert pid_of(served, name) != old
    served.fetchmld("wait", task_id, code=None, wait_s=120)
    task = served.show(task_id)
    assert task["status"] == "completed"
    assert ended_run(served, task)["info"]["status"] == "FINISHED"


def test_settings_hot_cold_and_wrong(served: Shell) -> None:
    pid = pid_of(served, "mlflow")
    served.fetchmld("plugins", "config", "mlflow", "--set", "experiment_prefix=team-", "--wait")
    assert pid_of(served, "mlflow") == pid
    wrong = "backend_store_uri=postgresql://nobody:hunter2@127.0.0.1:1/nothing"
    served.fetchmld("plugins", "config", "mlflow", "--set", wrong)
    shown = until("it to be taken back", lambda: _with_problem(served), 120)
    assert shown["config"]["settings"] == {"experiment_prefix": "team-"}
    assert shown["status"]["status"] == "healthy"
    assert "hunter2" not in json.dumps(shown)
    assert pid_of(served, "mlflow") == pid
    grep = [path for path in served.data_dir.rglob("*") if path.is_file() and path.parent.name != "secrets"]
    assert not [path for path in grep if b"hunter2" in path.read_bytes()]
    old = pid_of(served, "tensorboard")
    served.fetchmld("plugins", "config", "tensorboard", "--set", "reload_interval_s=2")
    until("the new one", lambda: _other_pid(served, "tensorboard", old), 60)
    until("it to be healthy", lambda: status(served, "tensorboard") == "healthy")


def _with_problem(shell: Shell) -> Any:
    found = shell.json("plugins", "show", "mlflow")
    return found if "problem" in found["status"] else None


def _other_pid(shell: Shell, name: str, old: int) -> bool:
    try:
        return pid_of(shell, name) != old
    except ValueError:  # both are there
        return False


def test_the_same_sidecars_after_the_daemon_was_killed(served: Shell) -> None:
    before = {name: pid_of(served, name) for name in ("mlflow", "tensorboard")}
    kill_all_but_the_runner_and(served)
    served.start()
    for name in before:
        until(f"{name} to be healthy", lambda name=name: status(served, name) == "healthy")  # type: ignore[misc]
    assert {name: pid_of(served, name) for name in before} == before


def test_ready_within(served: Shell) -> None:
    """Once the environment exists: TensorBoard in 5 s, MLflow in 20 s; on a busy machine it is said, not asserted."""
    for name, bound_s in (("tensorboard", 5.0), ("mlflow", 20.0)):
        served.fetchmld("plugins", "disable", name)
        until(f"{name} to stop", lambda name=name: status(served, name) == "stopped")  # type: ignore[misc]
        asked_t = time.monotonic()
        served.fetchmld("plugins", "enable", name, "--wait")
        took_s, pid = time.monotonic() - asked_t, pid_of(served, name)
        rss = int(Path(f"/proc/{pid}/statm").read_text().split()[1]) * os.sysconf("SC_PAGE_SIZE") // 2**20
        print(
            f"{name}: ready after {took_s:.1f} s (bound {bound_s:g}), one process, {rss} MiB, load {os.getloadavg()[0]:.1f}"
        )
