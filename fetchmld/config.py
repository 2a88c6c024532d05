"""Settings of the daemon: one frozen object, checked at start, and the paths that follow from it.

Read from a TOML file, then the environment (`FETCHMLD_<NAME>`), then flags; later ones win. Nothing else of the product
reads the environment for settings.
"""

import hashlib
import os
import re
import tomllib
from dataclasses import dataclass
from pathlib import Path
from typing import Annotated, Any, Final, Literal, Self
from urllib.parse import urlsplit

from pydantic import BaseModel, ConfigDict, Field, ValidationError, field_validator, model_validator
from pydantic_settings import BaseSettings, NoDecode, PydanticBaseSettingsSource, SettingsConfigDict

from fetchmld.core.errors import Invalid
from fetchmld.ray_share import RayShare

DATA_DIR_DEFAULT: Final = Path("~/.fetchml")
SOCKET_PATH_BYTES_MAX: Final = 107  # sun_path of AF_UNIX, less its final NUL
RUN_DIR_BYTES_MAX: Final = 40  # leaves room for Ray's session directory and socket names below it


# What each machine decides for itself; all other settings of one that joins are its head's.
NODE_SETTINGS: Final = (
    "data_dir",
    "num_cpus",
    "memory_gb",
    "num_gpus",
    "gpu_type",
    "nvml_library",
    "batch_slots",
    "service_slots",
    "ray_share",
    "dataset_roots",
    "dataset_bytes_max",
    "dataset_cache_bytes_max",
    "environment_cache_bytes_max",
    "nvml_library",
    "log_level",
)


class RegisteredDataset(BaseModel):
    """A dataset that tasks may name instead of describing: `[datasets.NAME]` in the TOML file.

    `options` go to the file system of fsspec that `source` names (`headers` for http and https): the place for
    credentials, which no request, record or log has.
    """

    model_config = ConfigDict(frozen=True, extra="forbid")

    source: str = Field(min_length=1, max_length=4096)
    sha256: str | None = Field(default=None, pattern=r"^[0-9a-f]{64}$")
    options: dict[str, Any] = Field(default_factory=dict, repr=False)


class Config(BaseSettings):
    """Every setting, with its unit, bounds and reason."""

    model_config = SettingsConfigDict(env_prefix="FETCHMLD_", frozen=True, extra="forbid")

    host: str = Field(
        default="127.0.0.1", description="Address that the API listens on; loopback unless TLS is set up."
    )
    port: int = Field(default=9101, ge=1, le=65535, description="TCP port of the API.")
    data_dir: Path = Field(default=DATA_DIR_DEFAULT, description="Everything durable lives here.")
    node_address: str = Field(
        default="",
        max_length=64,
        description="IPv4 address at which the other machines reach this one; default: host, or the way to the head.",
    )
    ray_port: int = Field(
        default=0, ge=0, le=65535, description="TCP port that machines join at; default: the API's port plus one."
    )

    num_cpus: int | None = Field(default=None, ge=1, le=4096, description="Cores offered; default: what is found.")
    memory_gb: int | None = Field(
        default=None, ge=1, le=65536, description="Memory offered, GB; default: what is found."
    )
    num_gpus: int | None = Field(default=None, ge=0, le=1024, description="GPUs declared; default: what NVML finds.")
    nvml_library: str = Field(
        default="",
        max_length=4096,
        description="fake:FILE reads GPUs from a JSON file, for tests; default: the driver.",
    )
    gpu_type: str = Field(default="", max_length=64, description="Type of the declared GPUs.")
    batch_slots: int | None = Field(default=None, ge=1, le=65536, description="Batch slots; default: one per core.")
    ray_share: str = Field(
        default="",
        max_length=100,
        description="What Ray-native programs may use of this machine, like cpu=4,gpu=1,memory=16 (GB); else nothing.",
    )
    service_slots: int = Field(default=2, ge=0, le=1024, description="Slots for long-lived services.")

    isolation: Literal["auto", "uid", "none"] = Field(
        default="auto",
        description="How tasks are kept apart: the best that works; a user of its own for each, or no start; not at all.",
    )
    job_uid_first: int = Field(
        default=1_900_000_000, ge=10_000, lt=2**32 - 2, description="First of the user ids that tasks run under."
    )
    job_uid_count: int = Field(default=65_536, ge=4_096, le=2**24, description="How many user ids from there are ours.")
    task_memory_gb: int = Field(
        default=0, ge=0, le=65536, description="Memory of a task that asks for none, GB; 0: an equal share per slot."
    )
    task_pids_max: int = Field(default=4096, ge=16, le=2**22, description="Processes and threads of one task.")
    task_file_bytes_max: int = Field(default=2**40, ge=2**20, description="Largest file that a task may write, bytes.")
    log_bytes_max: int = Field(
        default=2**30, ge=1024, description="What is kept of one attempt's output, bytes; it goes on, unrecorded."
    )

    log_retention_days: float = Field(
        default=30.0, ge=0, le=36_500, description="Days that the output of tasks is kept; 0: for ever."
    )
    artifact_retention_days: float = Field(
        default=30.0,
        ge=0,
        le=36_500,
        description="Days that artifacts are kept after their attempt's end; 0: for ever.",
    )
    artifact_files_max: int = Field(
        default=100_000, ge=1, le=1_000_000, description="Files that are collected of one attempt."
    )
    artifact_bytes_max: int = Field(
        default=64 * 2**30, ge=1, description="Bytes that are collected of one attempt, all files together."
    )

    ageing_tau_s: float = Field(default=600.0, gt=0, le=1e9, description="Seconds of waiting worth one priority point.")
    user_priority_max: int = Field(default=10, ge=1, le=10, description="Highest priority that a user may ask for.")
    grace_s: float = Field(default=10.0, ge=0, le=3600, description="Between SIGTERM and SIGKILL of a stopped task.")
    heartbeat_s: float = Field(default=1.0, gt=0, le=60, description="Between an agent's heartbeats.")
    suspect_after_s: float = Field(default=3.0, gt=0, le=600, description="Silence after which nothing new is placed.")
    offline_after_s: float = Field(default=15.0, gt=0, le=3600, description="Silence after which a worker is offline.")
    offline_workers_days: float = Field(
        default=7.0, ge=0, le=36_500, description="Days after which an offline worker is listed no more; 0: for ever."
    )
    requeue_after_s: float = Field(
        default=600.0, ge=90, le=86400, description="Silence after which a lost worker's tasks start elsewhere."
    )

    gpu_release_after_s: float = Field(
        default=600.0, ge=0, le=1e9, description="Health after which a GPU leaves its quarantine; 0: only by hand."
    )
    reservation_lead_s: float = Field(
        default=3600.0, ge=0, le=604800, description="How long before its start a reservation gathers capacity."
    )
    user_gpus_max: int = Field(default=0, ge=0, description="GPUs that one user may have reserved; 0: any number.")
    unsatisfiable: Literal["queue", "fail"] = Field(
        default="queue", description="What happens to a request that no worker could ever meet."
    )
    plans_max: int = Field(
        default=1,
        ge=1,
        le=16,
        description="Blocked tasks that are given a planned start at a time; others may not delay it.",
    )
    stage_datasets: bool = Field(
        default=True, description="Are datasets fetched and verified before a task is given GPUs? Off: with them."
    )
    backfill: bool = Field(
        default=True, description="May tasks start before a blocked one where that delays no plan? Off: strict order."
    )

    dataset_roots: tuple[Path, ...] = Field(
        default=(), description="Directories that local dataset sources may lie in; default: DIR/datasets."
    )
    datasets: dict[str, RegisteredDataset] = Field(default_factory=dict, description="Datasets that tasks may name.")
    dataset_bytes_max: int = Field(default=2**40, ge=1, description="Largest dataset that is fetched, bytes.")
    dataset_cache_bytes_max: int = Field(
        default=100 * 2**30, ge=0, description="Datasets that a worker keeps beyond what its tasks use, bytes."
    )
    private_hosts: bool = Field(
        default=False, description="May http(s) datasets come from loopback and private addresses? Off against SSRF."
    )

    task_url: str = Field(
        default="",
        pattern=r"^$|^https?://[^/\s]+$",
        description="Where tasks reach this daemon's plugins, such as https://ml.example.org; empty: by its address.",
    )
    plugin_private_hosts: bool = Field(
        default=False, description="May a plugin's remote server be on a loopback or private address? Off against SSRF."
    )

    environment_cache_bytes_max: int = Field(
        default=50 * 2**30,
        ge=0,
        description="Python environments that a worker keeps beyond what its tasks use, bytes.",
    )
    environment_build_s: float = Field(
        default=1800.0, gt=0, le=86400, description="Longest that the making of an environment may take, seconds."
    )
    environment_from_source: bool = Field(
        default=False,
        description="May packages without a wheel be built? Building runs their code with the agent's rights.",
    )
    environment_indexes: tuple[str, ...] = Field(
        default=("https://pypi.org/simple", "https://download.pytorch.org/whl"),
        max_length=64,
        description="Package indexes that the requirement files of tasks may name, and what lies below them.",
    )
    snapshot_bytes_max: int = Field(
        default=10 * 2**30, ge=1, description="Largest snapshot of code that is taken, all files together, bytes."
    )

    segment_bytes: int = Field(
        default=64 * 2**20,
        ge=2**16,
        le=2**32,
        description="Size of a ledger segment; a full disk shows one segment early.",
    )
    snapshot_events: int = Field(
        default=50_000, ge=1_000, description="Events between two snapshots of the state; fewer: a quicker restart."
    )
    seal_after_segments: int = Field(
        default=8, ge=0, description="Newest segments that stay uncompressed; older ones take a sixth. 0: all stay."
    )
    audit_retention_days: int = Field(
        default=0,
        ge=0,
        le=36_500,
        description="Days that the record is kept; older segments go, their hashes stay. 0: for ever.",
    )
    audit_on_failure: Literal["closed", "halt"] = Field(
        default="closed", description="When the record cannot be written: refuse changes until it can, or stop."
    )
    audit_sinks: Annotated[tuple[str, ...], NoDecode] = Field(
        default=(),
        max_length=16,
        description="Where signed checkpoints go: file:///PATH on another mount, http(s)://URL, syslog:///dev/log, "
        "syslog://HOST[:PORT] (UDP).",
    )
    history_query_s: float = Field(
        default=10.0, gt=0, le=600, description="Longest that a query of the history may take, seconds."
    )
    history_rows_max: int = Field(
        default=10_000, ge=1, le=100_000, description="Rows that one answer of `fetchmld history` has at most."
    )
    tls_cert: Path | None = Field(default=None, description="Certificate and its chain, PEM; read again when renewed.")
    tls_key: Path | None = Field(default=None, description="Private key of that certificate, PEM.")
    insecure: bool = Field(
        default=False,
        description="May the API be reached from other machines without TLS? Keys then travel in the clear.",
    )
    allowed_hosts: Annotated[tuple[str, ...], NoDecode] = Field(
        default=(),
        max_length=256,
        description="Further names of this server, NAME or NAME:PORT, as they stand in the Host header.",
    )
    allowed_origins: Annotated[tuple[str, ...], NoDecode] = Field(
        default=(),
        max_length=256,
        description="Pages of which origins may ask, https://NAME[:PORT], beside our own; for a proxy in front.",
    )
    rate_per_s: float = Field(default=200.0, ge=0, le=1e6, description="Requests a second of one key; 0: any number.")
    rate_burst: int = Field(default=1000, ge=1, le=10**7, description="Requests of one key at once, after a pause.")
    login_failures_per_minute: int = Field(
        default=60, ge=1, le=10**6, description="Requests without a valid key from one address before they are 429."
    )
    connections_unauthenticated_max: int = Field(
        default=100, ge=1, le=10**6, description="Connections of one address on which no key has come yet."
    )
    connections_per_key_max: int = Field(default=2000, ge=1, le=10**6, description="Connections of one key.")
    header_s: float = Field(default=10.0, ge=1, le=600, description="In which a request's header has to be complete.")
    stalled_s: float = Field(
        default=30.0,
        ge=1,
        le=3600,
        description="After which a body that does not come, or an answer that is not read, is given up.",
    )
    body_bytes_max: int = Field(default=2**20, ge=1024, le=2**30, description="Largest JSON request body, bytes.")
    stream_max_s: float = Field(
        default=0.0,
        ge=0,
        le=86400,
        description="How long a stream of events lasts, seconds; 0: until the client leaves.",
    )
    jupyter_idle_s: float = Field(
        default=28_800.0,
        ge=0,
        le=1e9,
        description="A Jupyter server without activity for so long is ended; its workspace stays. 0: never.",
    )
    services_port: int = Field(
        default=0,
        ge=0,
        le=65535,
        description="TCP port that the pages of Jupyter and plugins have to themselves; 0: they share the API's.",
    )
    services_url: str = Field(
        default="",
        max_length=256,
        pattern=r"^(https?://[A-Za-z0-9.:\[\]_-]+/?)?$",
        description="Where browsers find those pages, if not at services_port of the host that they asked.",
    )
    session_s: float = Field(
        default=43_200.0, ge=60, le=2_592_000, description="How long a browser stays logged in, seconds."
    )
    log_level: str = Field(default="INFO", pattern="^(DEBUG|INFO|WARNING|ERROR)$", description="Least level logged.")

    @field_validator("data_dir")
    @classmethod
    def _resolved(cls, value: Path) -> Path:
        return value.expanduser().resolve()

    @field_validator("ray_share")
    @classmethod
    def _known_share(cls, value: str) -> str:
        RayShare.parse(value)
        return value

    @field_validator("dataset_roots", mode="before")
    @classmethod
    def _split_roots(cls, value: Any) -> Any:
        return tuple(part for part in value.split(os.pathsep) if part) if isinstance(value, str) else value

    @field_validator("allowed_hosts", "allowed_origins", "audit_sinks", mode="before")
    @classmethod
    def _split_words(cls, value: Any) -> Any:
        return tuple(value.split()) if isinstance(value, str) else value

    @field_validator("audit_sinks")
    @classmethod
    def _known_sinks(cls, value: tuple[str, ...]) -> tuple[str, ...]:
        for url in value:
            _check_sink(url)
        return value

    @field_validator("allowed_origins")
    @classmethod
    def _are_origins(cls, value: tuple[str, ...]) -> tuple[str, ...]:
        for origin in value:
            if not re.fullmatch(r"https?://[^/?#@\s]+", origin):
                raise ValueError(f"{origin!r} is no origin: http(s)://NAME[:PORT], without a path")
        return value

    @field_validator("tls_cert", "tls_key")
    @classmethod
    def _resolved_file(cls, value: Path | None) -> Path | None:
        return None if value is None else value.expanduser().resolve()

    @model_validator(mode="after")
    def _key_with_certificate(self) -> Self:
        if (self.tls_cert is None) != (self.tls_key is None):
            raise ValueError("tls_cert and tls_key are set together or not at all")
        return self

    @field_validator("dataset_roots")
    @classmethod
    def _resolved_roots(cls, value: tuple[Path, ...]) -> tuple[Path, ...]:
        return tuple(root.expanduser().resolve() for root in value)

    @classmethod
    def settings_customise_sources(
        cls,
        settings_cls: type[BaseSettings],
        init_settings: PydanticBaseSettingsSource,
        env_settings: PydanticBaseSettingsSource,
        dotenv_settings: PydanticBaseSettingsSource,
        file_secret_settings: PydanticBaseSettingsSource,
    ) -> tuple[PydanticBaseSettingsSource, ...]:
        return init_settings, env_settings

    @property
    def share(self) -> RayShare:
        return RayShare.parse(self.ray_share)

    @property
    def job_uids(self) -> range:
        """The user ids that tasks may have, on any start."""
        return range(self.job_uid_first, self.job_uid_first + self.job_uid_count)

    @property
    def local_roots(self) -> tuple[Path, ...]:
        """The directories that local dataset sources may lie in."""
        return self.dataset_roots or (self.data_dir / "datasets",)

    @property
    def source_roots(self) -> tuple[Path, ...]:
        """All that a worker may read as a local source: the roots, and what the administrator registered by name."""
        sources = (dataset.source.removeprefix("file://") for dataset in self.datasets.values())
        return (*self.local_roots, *(Path(source) for source in sources if source.startswith("/")))

    @property
    def paths(self) -> "Paths":
        return Paths(self.data_dir)

    @classmethod
    def load(cls, file: Path | None = None, flags: dict[str, Any] | None = None) -> Self:
        """Settings from `file`, then the environment, then `flags` (None values count as not given).

        Raises `Invalid` naming the setting, its value and what is allowed.
        """
        given = {name: value for name, value in (flags or {}).items() if value is not None}
        from_file = {n: v for n, v in _read_toml(file).items() if f"FETCHMLD_{n.upper()}" not in os.environ}
        try:
            return cls(**{**from_file, **given})
        except ValidationError as error:
            raise Invalid(_say(error)) from None

    @classmethod
    def from_dump(cls, dump: dict[str, Any]) -> Self:
        """The settings that `model_dump(mode="json")` wrote in another process of ours; extra keys are ignored."""
        return cls(**{name: value for name, value in dump.items() if name in cls.model_fields})


def _check_sink(url: str) -> None:
    """Raises ValueError where checkpoints cannot be sent to `url`."""
    parts = urlsplit(url)
    if parts.username or parts.password:
        raise ValueError("a sink's URL has no user and password: it is shown to auditors")
    if parts.scheme in ("http", "https"):
        right = bool(parts.hostname)
    elif parts.scheme == "file":
        right = not parts.netloc and len(parts.path) > 1
    else:
        right = parts.scheme == "syslog" and (bool(parts.hostname) or len(parts.path) > 1)
    if not right:
        raise ValueError(
            f"{url!r} is none of file:///PATH, http(s)://HOST/PATH, syslog:///SOCKET, syslog://HOST[:PORT]"
        )


def _read_toml(file: Path | None) -> dict[str, Any]:
    if file is None:
        return {}
    try:
        return tomllib.loads(file.read_text())
    except FileNotFoundError:
        raise Invalid(f"no configuration file at {file}") from None
    except (OSError, UnicodeDecodeError, tomllib.TOMLDecodeError) as error:
        raise Invalid(f"cannot read the configuration file {file}: {error}") from None


def _say(error: ValidationError) -> str:
    first = error.errors()[0]
    where = ".".join(str(part) for part in first["loc"]) or "settings"
    return f"setting {where}={first.get('input')!r}: {first['msg']}"


@dataclass(slots=True, frozen=True)
class Paths:
    """Where things lie below one data directory."""

    data_dir: Path

    @property
    def marker(self) -> Path:
        return self.data_dir / "fetchml.json"

    @property
    def lock(self) -> Path:
        return self.data_dir / "lock"

    @property
    def daemon_file(self) -> Path:
        return self.data_dir / "daemon.json"

    @property
    def admin_key(self) -> Path:
        return self.data_dir / "admin.key"

    @property
    def join_token(self) -> Path:
        return self.data_dir / "join.token"

    @property
    def sessions(self) -> Path:
        """Who is logged in with a browser: hashes only."""
        return self.data_dir / "sessions.json"

    @property
    def plugins(self) -> Path:
        """What the plugins' actors remember; the sidecars' own files are in the node's directory."""
        return self.data_dir / "plugins"

    @property
    def secrets(self) -> Path:
        """Values of settings that are not on record."""
        return self.data_dir / "secrets"

    @property
    def task_tokens_key(self) -> Path:
        return self.secrets / "task-tokens.key"

    @property
    def inner_tls(self) -> Path:
        """Certificate and key by which our own programs know the head."""
        return self.data_dir / "inner-tls.pem"

    @property
    def ledger_dir(self) -> Path:
        return self.data_dir / "ledger"

    @property
    def index(self) -> Path:
        return self.data_dir / "index.duckdb"

    @property
    def disk_sync(self) -> Path:
        """What a sync took at the last start."""
        return self.data_dir / "disk_sync.json"

    @property
    def objects(self) -> Path:
        return self.data_dir / "objects"

    @property
    def code(self) -> Path:
        """Snapshots of code, on the head."""
        return self.objects / "code"

    @property
    def shipped_logs(self) -> Path:
        """The output of tasks that ran on other machines, on the head."""
        return self.objects / "logs"

    @property
    def datasets(self) -> Path:
        return self.data_dir / "datasets"

    @property
    def node_dir(self) -> Path:
        return self.data_dir / "node"

    @property
    def logs(self) -> Path:
        return self.data_dir / "logs"

    def make_run_dir(self) -> Path:
        """The short directory for sockets and Ray's session, 0700, ours alone; remembered in `DIR/run_dir`.

        Unix socket paths end at 107 bytes, so it cannot lie in the data directory. Raises `Invalid` where the
        directory belongs to somebody else.
        """
        name = "fetchml-" + hashlib.blake2b(os.fsencode(self.data_dir), digest_size=4).hexdigest()
        base = Path("/run") if os.access("/run", os.W_OK) else Path("/tmp")
        run_dir = base / name
        run_dir.mkdir(mode=0o700, exist_ok=True)
        status = run_dir.lstat()
        if status.st_uid != os.geteuid() or run_dir.is_symlink():
            raise Invalid(
                f"the run directory {run_dir} belongs to uid {status.st_uid}; remove it, or use another data directory"
            )
        run_dir.chmod(0o700)
        (self.data_dir / "run_dir").write_text(f"{run_dir}\n")
        return run_dir
