"""S12: Ray does nothing for who has no token: asked in the bare protocol at every port, and by Ray's own driver."""

import os
import socket
import subprocess
import sys
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import pytest

from actors.ray_closed import OF_GCS, answers_strangers, is_cluster, speaks_grpc
from actors.ray_compat import RayOptions, gcs_client
from actors.ray_processes import marked
from tests.actors.test_ray_compat import listening, run_task, running

# A call that changes nothing of each of Ray's gRPC services, and two that would.
METHODS = (
    OF_GCS,
    "/ray.rpc.NodeManagerService/GetNodeStats",
    "/ray.rpc.NodeManagerService/RequestWorkerLease",
    "/ray.rpc.CoreWorkerService/GetCoreWorkerStats",
    "/ray.rpc.CoreWorkerService/PushTask",
    "/ray.rpc.InternalKVGcsService/InternalKVGet",
    "/ray.rpc.ActorInfoGcsService/GetAllActorInfo",
    "/ray.rpc.ObjectManagerService/Pull",
)
DRIVER = (
    "import ray, sys\n"
    "ray.init(address=sys.argv[1], namespace='fetchmld', log_to_driver=False, configure_logging=False)\n"
    "print('IN', ray.get(ray.remote(num_cpus=0)(lambda: 7).remote(), timeout=20))\n"
)


@pytest.mark.ray
def test_no_port_answers_a_stranger(run_dir: Path, ray_options: RayOptions) -> None:
    with running(run_dir, ray_options) as runtime:
        runtime.connect()
        run_task()  # so that a worker listens, too
        token = runtime.token_path.read_text()
        ports = {port for _, port in listening([*marked(run_dir), os.getpid()])}
        assert len(ports) >= 4
        opened = 0
        for port in sorted(ports):
            for method in METHODS:
                assert not _answers(port, method), (port, method)
                assert not _answers(port, method, "0" * len(token)), (port, method)
                opened += method == OF_GCS and _answers(port, method, token)
        assert opened == 1, "the same call with the token is answered by the GCS: the probe could fail"


def _answers(port: int, method: str, token: str = "") -> bool:
    try:
        return answers_strangers("127.0.0.1", port, method, token)
    except OSError:
        return False  # it hung up


@pytest.mark.ray
def test_ray_is_told_from_what_else_answers(run_dir: Path, ray_options: RayOptions) -> None:
    with running(run_dir, ray_options) as runtime:
        runtime.connect()
        host, _, said = runtime.address.rpartition(":")
        port, token, cluster_id = (
            int(said),
            runtime.token_path.read_text(),
            gcs_client(runtime.address).cluster_id.hex(),
        )
        assert speaks_grpc(host, port)
        assert is_cluster(host, port, cluster_id, token)
        assert not is_cluster(host, port, "ab" * 28, token), "another was started at that port since"
        assert not is_cluster(host, port, cluster_id, "0" * 64)
    assert not speaks_grpc(host, port), "nobody is there any more"
    with pytest.raises(OSError, match="refused"):
        is_cluster(host, port, cluster_id, token)


@pytest.mark.parametrize("answer", [b"HTTP/1.1 400 Bad Request\r\n\r\n", b"\x15\x03\x01\x00\x02\x02\x46", b""])
def test_what_answers_otherwise_is_not_ray(answer: bytes) -> None:
    with socket.create_server(("127.0.0.1", 0)) as server:

        def say() -> None:
            connection, _ = server.accept()
            with connection:
                connection.recv(4096)
                connection.sendall(answer)

        with ThreadPoolExecutor() as threads:
            said = threads.submit(say)
            assert not speaks_grpc("127.0.0.1", server.getsockname()[1])
            said.result()
            threads.submit(say)
            with pytest.raises(ConnectionError):
                is_cluster("127.0.0.1", server.getsockname()[1], "ab" * 28, "0" * 64)


@pytest.mark.ray
def test_no_driver_gets_in_without_the_token(run_dir: Path, ray_options: RayOptions, tmp_path: Path) -> None:
    """All at once: some of them Ray has try for 20 s."""
    wrong, empty = tmp_path / "wrong", tmp_path / "empty"
    for path, text in ((wrong, "0" * 64), (empty, "")):
        path.write_text(text)
        path.chmod(0o600)
    given: dict[str, dict[str, str]] = {
        "nothing": {},
        "a mode without a token": {"RAY_AUTH_MODE": "token"},
        "a wrong token": {"RAY_AUTH_MODE": "token", "RAY_AUTH_TOKEN_PATH": str(wrong)},
        "an empty token": {"RAY_AUTH_MODE": "token", "RAY_AUTH_TOKEN_PATH": str(empty)},
        "no mode": {"RAY_AUTH_MODE": "disabled", "RAY_AUTH_TOKEN_PATH": str(wrong)},
    }
    with running(run_dir, ray_options) as runtime:
        plain = {name: value for name, value in os.environ.items() if not name.startswith("RAY_")}
        command = [sys.executable, "-c", DRIVER, runtime.driver_address]
        drivers = {
            name: subprocess.Popen(
                command, env={**plain, "HOME": str(tmp_path), **more}, stdout=subprocess.PIPE, stderr=subprocess.STDOUT
            )
            for name, more in given.items()
        }
        for name, driver in drivers.items():
            try:
                said, _ = driver.communicate(timeout=60)
            except subprocess.TimeoutExpired:  # it tries on and on
                driver.kill()
                said, _ = driver.communicate()
            assert driver.returncode != 0, name
            assert b"IN 7" not in said, name
        runtime.connect()
        assert run_task(), "whoever has the token gets in"


@pytest.mark.ray
def test_a_ray_that_is_open_is_not_started_on(
    run_dir: Path,
) -> None:
    program = (
        "import sys\nfrom pathlib import Path\nfrom actors import ray_commands\n"
        "from actors.ray_compat import RayHopeless, RayRuntime\n"
        "ray_commands.ENVIRONMENT['RAY_AUTH_MODE'] = 'disabled'\n"
        "runtime = RayRuntime(Path(sys.argv[1]))\n"
        "try:\n    runtime.start()\n    print('started')\nexcept RayHopeless as error:\n    print('refused:', error)\n"
        "finally:\n    runtime.stop()\n"
    )
    ran = subprocess.run(
        [sys.executable, "-c", program, str(run_dir)], capture_output=True, text=True, timeout=90, check=True
    )
    assert "refused: Ray's GCS at 127.0.0.1:" in ran.stdout, ran.stdout + ran.stderr
    assert marked(run_dir) == []
