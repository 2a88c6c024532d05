"""The command lines and the environment of Ray's processes, as Ray 2.60's own `_private/services.py` builds them, less what
FetchML does without: dashboard, log monitor, autoscaler, Ray Client, usage statistics, metrics, the dashboard agent.

Pure: from a `Layout` to lists of words. Nothing here imports Ray, so that its first process starts before Ray is imported.
"""

import json
import os
import shlex
import sys
from dataclasses import dataclass
from pathlib import Path
from typing import Final

BOOT: Final = Path(__file__).with_name("ray_boot.py")
ZYGOTE: Final = Path(__file__).with_name("ray_zygote.py")
LEAN_PYTHON: Final = (sys.executable, "-I", "-S", str(BOOT))  # no site, no path: a script of the standard library
NOT_SERVED: Final = -1  # Ray's word for a port of a service that is not there
ROTATE_BYTES: Final = 20_000_000
ROTATE_COUNT: Final = 2
STORE_BYTES_MIN: Final = 80 * 2**20  # Ray's least; of ours only control messages travel
MEMBER_LABEL: Final = "fetchml-worker"  # of a Ray node that is a machine of ours beside the head's
ACCELERATOR_LABEL: Final = "ray.io/accelerator-type"
NODE_LABEL: Final = "fetchml-node"  # of every machine of ours: the worker's id, the same after each start of its raylet

ENVIRONMENT: Final = {
    "RAY_AUTH_MODE": "token",
    "RAY_USAGE_STATS_ENABLED": "0",
    "RAY_worker_niceness": "0",  # else every actor runs at niceness 15
    "RAY_worker_oom_score_adjustment": "0",
    "RAY_memory_monitor_refresh_ms": "0",  # else Ray kills the agent for memory that tasks use
    "RAY_health_check_period_ms": "1000",
    "RAY_health_check_timeout_ms": "2000",
    "RAY_health_check_failure_threshold": "3",
    "RAY_gcs_rpc_server_reconnect_timeout_s": "15",
    "RAY_ROTATION_MAX_BYTES": str(ROTATE_BYTES),
    "RAY_ROTATION_BACKUP_COUNT": str(ROTATE_COUNT),
    "RAY_DEDUP_LOGS": "0",
    "RAY_enable_metrics_collection": "0",
    "RAY_ACCEL_ENV_VAR_OVERRIDE_ON_ZERO": "1",  # who asked Ray for no GPU sees none; our tasks' are set by the agent
    "RAY_ENABLE_UV_RUN_RUNTIME_ENV": "0",
}

# The driver is the daemon itself: a GCS that dies is no reason to end the process, neither one that it waits for nor one
# that it left, of which a client lives on in the library now and then, and ended us when it had waited for so long. Some
# calls hold the interpreter's lock until they are given up, so that is to be soon.
DRIVER_ENVIRONMENT: Final = {
    "RAY_gcs_rpc_server_reconnect_timeout_s": "1000000000",
    "RAY_gcs_server_request_timeout_seconds": "15",
}


@dataclass(slots=True, frozen=True)
class Offer:
    """What a raylet says its machine has (`ray_offer`). `machine`: the worker's id, "" where nobody holds anything."""

    machine: str = ""
    cpu: int = 1
    gpus: tuple[str, ...] = ()  # UUIDs, in Ray's order
    gpu_type: str = ""
    memory_bytes: int = 0
    store_bytes: int = STORE_BYTES_MIN

    @property
    def environment(self) -> dict[str, str]:
        """Of the raylet and its workers."""
        return {"CUDA_VISIBLE_DEVICES": ",".join(self.gpus)} if self.machine else {}


NOTHING: Final = Offer()


@dataclass(slots=True, frozen=True)
class Layout:
    """One start of a node: where its files are and which ports it has. A head never uses a session directory twice."""

    ray_dir: Path  # the installed package
    run_dir: Path  # ours alone
    temp_dir: Path  # Ray's, below it
    session: str
    node_id: str  # 56 hex digits
    host: str
    gcs_host: str  # the head's
    gcs_port: int
    raylet_port: int
    object_port: int
    runtime_env_port: int
    token_path: Path
    offer: Offer
    worker_id: str = ""  # of a machine that joins; the head's own node has none here

    @property
    def session_dir(self) -> Path:
        return self.temp_dir / self.session

    @property
    def logs(self) -> Path:
        return self.session_dir / "logs"

    @property
    def zygote_socket(self) -> Path:
        return self.run_dir / "zygote.sock"

    @property
    def raylet_socket(self) -> Path:
        return self.session_dir / "sockets" / f"raylet-{self.node_id[:6]}"

    @property
    def plasma_socket(self) -> Path:
        return self.session_dir / "sockets" / f"plasma-{self.node_id[:6]}"

    @property
    def address(self) -> str:
        """Of the GCS, as its own processes call it."""
        return f"{self.gcs_host}:{self.gcs_port}"


def environment(layout: Layout) -> dict[str, str]:
    """Ours, without whatever else the caller's says about Ray."""
    inherited = {name: value for name, value in os.environ.items() if not name.startswith("RAY_")}
    ours = {"RAY_TMPDIR": str(layout.temp_dir), "RAY_AUTH_TOKEN_PATH": str(layout.token_path)}
    return {**inherited, **ENVIRONMENT, **ours}


def zygote_environment(layout: Layout, raylet_pid: int) -> dict[str, str]:
    """Ray's library reads these two when imported; `ffffffff` is a worker that may serve any job."""
    one_thread = {
        "OMP_NUM_THREADS": "1",
        "OPENBLAS_NUM_THREADS": "1",
    }  # else numpy starts threads, and forks are a gamble
    return {**environment(layout), **one_thread, "RAY_RAYLET_PID": str(raylet_pid), "RAY_JOB_ID": "ffffffff"}


def zygote(layout: Layout, raylet_pid: int, preload: tuple[str, ...]) -> list[str]:
    return [sys.executable, "-P", str(ZYGOTE), str(layout.zygote_socket), str(raylet_pid), *preload]


def gcs(layout: Layout) -> list[str]:
    return [
        str(layout.ray_dir / "core/src/ray/gcs/gcs_server"),
        f"--log_dir={layout.logs}",
        "--config_list=e30=",  # {} in base64: everything is said by the environment
        f"--gcs_server_port={layout.gcs_port}",
        "--metrics-agent-port=0",
        f"--node-ip-address={layout.host}",
        f"--session-name={layout.session}",
        "--ray-commit=none",
        f"--session-dir={layout.session_dir}",
        f"--node-id={layout.node_id}",
        f"--stdout_filepath={layout.logs}/gcs_server.out",
        f"--stderr_filepath={layout.logs}/gcs_server.err",
    ]


def raylet(layout: Layout, cluster_id: str) -> list[str]:
    idle = shlex.join([*LEAN_PYTHON, "idle"])
    return [
        str(layout.ray_dir / "core/src/ray/raylet/raylet"),
        f"--raylet_socket_name={layout.raylet_socket}",
        f"--store_socket_name={layout.plasma_socket}",
        f"--object_manager_port={layout.object_port}",
        "--min_worker_port=0",
        "--max_worker_port=0",
        f"--node_manager_port={layout.raylet_port}",
        f"--node_id={layout.node_id}",
        f"--node_ip_address={layout.host}",
        f"--maximum_startup_concurrency={max(2, layout.offer.cpu)}",
        f"--static_resource_list={resources(layout)}",
        f"--python_worker_command={shlex.join(worker(layout, cluster_id))}",
        "--java_worker_command=",
        "--cpp_worker_command=",
        f"--native_library_path={layout.ray_dir / 'cpp/lib'}",
        f"--temp_dir={layout.temp_dir}",
        f"--session_dir={layout.session_dir}",
        f"--log_dir={layout.logs}",
        f"--resource_dir={layout.session_dir / 'runtime_resources'}",
        f"--metrics-agent-port={NOT_SERVED}",
        f"--metrics_export_port={NOT_SERVED}",
        f"--runtime_env_agent_port={layout.runtime_env_port}",
        f"--object_store_memory={layout.offer.store_bytes}",
        "--plasma_directory=/dev/shm",
        f"--fallback_directory={layout.session_dir}",
        "--ray-debugger-external=0",
        f"--gcs-address={layout.address}",
        f"--session-name={layout.session}",
        f"--labels={labels(layout)}",
        f"--cluster-id={cluster_id}",
        f"--stdout_filepath={layout.logs}/raylet.out",
        f"--stderr_filepath={layout.logs}/raylet.err",
        *(() if layout.worker_id else ("--head",)),
        "--num_prestart_python_workers=0",  # the first driver would wait for them, and for a timer of 1 s before that
        f"--dashboard_agent_command={idle}",
        f"--runtime_env_agent_command={shlex.join(runtime_env_agent(layout, cluster_id))}",
    ]


def resources(layout: Layout) -> str:
    """What Ray may lend, as it wants it written: all there is, of which FetchML holds what is its own in groups."""
    offer = layout.offer
    offered = {
        f"node:{layout.host}": 1.0,
        "node:__internal_head__": 0.0 if layout.worker_id else 1.0,
        "CPU": offer.cpu,
        "GPU": len(offer.gpus),
        "memory": offer.memory_bytes,
        "object_store_memory": offer.store_bytes,
    }
    if offer.gpu_type:
        offered[f"accelerator_type:{offer.gpu_type}"] = 1
    return ",".join(f"{name},{amount}" for name, amount in offered.items() if amount)


def labels(layout: Layout) -> str:
    given = {
        MEMBER_LABEL: layout.worker_id,
        NODE_LABEL: layout.offer.machine,
        ACCELERATOR_LABEL: layout.offer.gpu_type,
    }
    return json.dumps({name: value for name, value in given.items() if value})


def worker(layout: Layout, cluster_id: str) -> list[str]:
    """The raylet drops the second word of this where a worker needs no runtime environment to be set up first."""
    workers = layout.ray_dir / "_private" / "workers"
    return [
        sys.executable,
        str(workers / "setup_worker.py"),
        *LEAN_PYTHON[1:],
        "worker",
        str(layout.zygote_socket),
        sys.executable,
        str(workers / "default_worker.py"),
        f"--node-ip-address={layout.host}",
        "--node-manager-port=RAY_NODE_MANAGER_PORT_PLACEHOLDER",
        f"--object-store-name={layout.plasma_socket}",
        f"--raylet-name={layout.raylet_socket}",
        "--redis-address=None",
        f"--metrics-agent-port={NOT_SERVED}",
        f"--logging-rotate-bytes={ROTATE_BYTES}",
        f"--logging-rotate-backup-count={ROTATE_COUNT}",
        f"--runtime-env-agent-port={layout.runtime_env_port}",
        f"--gcs-address={layout.address}",
        f"--session-name={layout.session}",
        f"--temp-dir={layout.temp_dir}",
        "--webui=",
        f"--cluster-id={cluster_id}",
        "RAY_WORKER_DYNAMIC_OPTION_PLACEHOLDER",
    ]


def runtime_env_agent(layout: Layout, cluster_id: str) -> list[str]:
    """Started at the first task or actor that brings a `runtime_env`; FetchML's own never do."""
    agent = [
        sys.executable,
        str(layout.ray_dir / "_private/runtime_env/agent/main.py"),
        f"--node-id={layout.node_id}",
        f"--node-ip-address={layout.host}",
        f"--runtime-env-agent-port={layout.runtime_env_port}",
        f"--session-dir={layout.session_dir}",
        f"--gcs-address={layout.address}",
        f"--cluster-id-hex={cluster_id}",
        f"--runtime-env-dir={layout.session_dir / 'runtime_resources'}",
        f"--logging-rotate-bytes={ROTATE_BYTES}",
        f"--logging-rotate-backup-count={ROTATE_COUNT}",
        f"--log-dir={layout.logs}",
        f"--temp-dir={layout.temp_dir}",
        f"--stdout-filepath={layout.logs}/runtime_env_agent.out",
        f"--stderr-filepath={layout.logs}/runtime_env_agent.err",
    ]
    return [*LEAN_PYTHON, "on-demand", layout.host, str(layout.runtime_env_port), *agent]


def port_files(layout: Layout) -> dict[Path, str]:
    """What agents would write when they listen; the raylet waits up to 30 s for these before it says that it is up."""
    ports = {
        "metrics_agent_port": NOT_SERVED,
        "metrics_export_port": NOT_SERVED,
        "dashboard_agent_listen_port": NOT_SERVED,
        "runtime_env_agent_port": layout.runtime_env_port,
    }
    return {layout.session_dir / f"{name}_{layout.node_id}": str(port) for name, port in ports.items()}
