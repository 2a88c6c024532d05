"""Clients that other people's generators make of the served document submit a task and read it, on a real daemon.

The generators come from their registries into a cache of their own (`FETCHML_TEST_CACHE`, else ~/.cache/fetchml-tests), not
into our environment. Where a registry cannot be reached, or there is no Node.js, the test says so and is skipped.
"""

import json
import os
import shutil
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path
from typing import Final

import pytest

from tests.e2e.conftest import Shell, free_port

CACHE: Final = Path(os.environ.get("FETCHML_TEST_CACHE") or Path.home() / ".cache" / "fetchml-tests")
PYTHON_GENERATOR: Final = "openapi-python-client==0.29.1"
NODE_GENERATORS: Final = ("@hey-api/openapi-ts@0.95.0", "typescript@5.9.3")
INSTALL_MAX_S: Final = 180

PYTHON_PROGRAM: Final = """
import sys
from made import Client
from made.api.tasks import create_task, get_task, list_tasks
from made.models import CreateTaskRequest, ErrorResponse, Task
client = Client(base_url=sys.argv[1], headers={"X-API-Key": sys.argv[2]})
task = create_task.sync(client=client, body=CreateTaskRequest(job_name="made", entrypoint="/bin/echo", args="python"))
assert isinstance(task, Task), task
while (task := get_task.sync(task.id, client=client, wait_s=30)).status not in ("completed", "failed"):
    pass
refused = create_task.sync(client=client, body=CreateTaskRequest(job_name="not valid"))
assert isinstance(refused, ErrorResponse), refused
assert any(one.id == task.id for one in list_tasks.sync(client=client, limit=5).tasks)
print(task.status, refused.code, task.output.strip())
"""

NODE_PROGRAM: Final = """
const { client } = require("./js/client.gen.js");
const { createTask, getTask, listTasks } = require("./js/index.js");
client.setConfig({ baseUrl: process.argv[2], headers: { "X-API-Key": process.argv[3] } });
(async () => {
  const made = await createTask({ body: { job_name: "made", entrypoint: "/bin/echo", args: "typescript" } });
  let task = made.data;
  do {
    task = (await getTask({ path: { taskId: task.id }, query: { wait_s: 30 } })).data;
  } while (!["completed", "failed"].includes(task.status));
  const refused = await createTask({ body: { job_name: "not valid" } });
  const listed = (await listTasks({ query: { limit: 5 } })).data.tasks.some((one) => one.id === task.id);
  console.log(task.status, refused.error.code, task.output.trim(), listed);
})();
"""

TYPESCRIPT: Final = {
    "compilerOptions": {
        "target": "es2022", "module": "commonjs", "moduleResolution": "node", "strict": True, "outDir": "js",
        "skipLibCheck": True, "lib": ["es2022", "dom", "dom.iterable"],
    },
    "include": ["gen"],
}  # fmt: skip


@pytest.fixture(scope="module")
def daemon(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Shell]:
    """One daemon for all generators."""
    shell = Shell(tmp_path_factory.mktemp("generators") / "data", free_port())
    try:
        shell.start()
        yield shell
    finally:
        shell.fetchmld("stop", code=None)


@pytest.fixture(scope="module")
def document(daemon: Shell, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The document, as the daemon serves it."""
    import urllib.request

    path = tmp_path_factory.mktemp("document") / "openapi.json"
    with urllib.request.urlopen(f"{address(daemon)}/openapi.json") as answer:
        path.write_bytes(answer.read())
    return path


def address(daemon: Shell) -> str:
    return f"http://127.0.0.1:{daemon.port}"


def key(daemon: Shell) -> str:
    return (daemon.data_dir / "admin.key").read_text().strip()


def run(*command: str | Path, cwd: Path | None = None, path: str = "") -> str:
    """What it printed; a failure shows all of it."""
    environment = {**os.environ, "PATH": f"{path}{os.pathsep}{os.environ['PATH']}" if path else os.environ["PATH"]}
    ran = subprocess.run(
        [*map(str, command)],
        cwd=cwd,
        env=environment,
        capture_output=True,
        text=True,
        timeout=INSTALL_MAX_S,
        check=False,
    )
    assert ran.returncode == 0, f"{command[0]} ended with {ran.returncode}\n{ran.stdout[-4000:]}\n{ran.stderr[-4000:]}"
    return ran.stdout


def installed(folder: Path, *steps: tuple[str | Path, ...]) -> None:
    """Carry out `steps` in `folder` once; skips the test where they cannot be: there is no registry to be had."""
    if (folder / "done").exists():
        return
    shutil.rmtree(folder, ignore_errors=True)
    folder.mkdir(parents=True)
    try:
        for step in steps:
            run(*step, cwd=folder)
    except (AssertionError, FileNotFoundError, subprocess.TimeoutExpired) as error:
        pytest.skip(f"the generator cannot be installed here: {str(error)[-300:]}")
    (folder / "done").touch()


@pytest.mark.e2e
def test_a_client_by_openapi_python_client(daemon: Shell, document: Path, tmp_path: Path) -> None:
    folder = CACHE / PYTHON_GENERATOR
    uv = Path(sys.executable).parent / "uv"
    python = folder / "venv" / "bin" / "python"
    installed(
        folder,
        (uv, "venv", "--quiet", "--python", sys.executable, "venv"),
        (uv, "pip", "install", "--quiet", "--python", python, PYTHON_GENERATOR),
    )
    generate = python.parent / "openapi-python-client"
    said = run(
        generate, "generate", "--path", document, "--meta", "none", "--output-path", tmp_path / "made",
        path=str(Path(sys.executable).parent),
    )  # fmt: skip
    assert "WARNING" not in said.upper(), said
    (tmp_path / "program.py").write_text(PYTHON_PROGRAM)
    said = run(python, tmp_path / "program.py", address(daemon), key(daemon), cwd=tmp_path)
    assert said.split() == ["completed", "VALIDATION_ERROR", "python"]


@pytest.mark.e2e
def test_a_client_by_hey_api(daemon: Shell, document: Path, tmp_path: Path) -> None:
    folder = CACHE / "hey-api-0.95.0-typescript-5.9.3"
    if shutil.which("npm") is None or shutil.which("node") is None:
        pytest.skip("there is no Node.js here")
    installed(folder, ("npm", "install", "--no-audit", "--no-fund", "--silent", *NODE_GENERATORS))
    tools = folder / "node_modules" / ".bin"
    (tmp_path / "tsconfig.json").write_text(json.dumps(TYPESCRIPT))
    run(tools / "openapi-ts", "-i", document, "-o", tmp_path / "gen", "-c", "@hey-api/client-fetch", cwd=tmp_path)
    run(tools / "tsc", "-p", tmp_path)
    (tmp_path / "program.js").write_text(NODE_PROGRAM)
    said = run("node", tmp_path / "program.js", address(daemon), key(daemon))
    assert said.split() == ["completed", "VALIDATION_ERROR", "typescript", "true"]
