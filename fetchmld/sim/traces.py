"""Recorded workloads, read as they are published: CSV (the Alibaba GPU cluster trace of 2023 among them) and the Standard
Workload Format (.swf, https://www.cs.huji.ac.il/labs/parallel/workload/swf.html).

Columns go by the names in NODE_COLUMNS and TASK_COLUMNS; others are named in what is found, and rows that cannot be used
are counted. Times are seconds, cores and GPUs are whole: shares are rounded up, for one GPU belongs to one task.
"""

import csv
import math
from collections import Counter
from collections.abc import Callable, Iterator
from dataclasses import dataclass, field
from pathlib import Path
from random import Random
from typing import Any, Final

from fetchmld.core.model import PRIORITY_DEFAULT, Capacity, Gpu

SERVICE_SLOTS: Final = 2
ROWS_MAX: Final = 10_000_000
NUMBER_MAX: Final = 1e10  # of anything; seconds: three centuries. Beyond it the row is a mistake
GPUS_MAX: Final = 1024  # of one node
NODES_MAX: Final = 1_000_000  # of one .swf header
NODE_COLUMNS: Final = frozenset(
    {"sn", "name", "cpu_milli", "cpu", "memory_mib", "memory_gb", "gpu", "model", "gpu_type"}
)
TASK_COLUMNS: Final = frozenset(
    {
        "name",
        "cpu_milli",
        "cpu",
        "memory_mib",
        "memory_gb",
        "num_gpu",
        "gpu",
        "gpu_milli",
        "gpu_spec",
        "gpu_type",
        "priority",
        "node_count",
        "time_limit_s",
        "creation_time",
        "deletion_time",
        "scheduled_time",
        "submit_s",
        "run_s",
    }
)
SWF_FIELDS: Final = 18


class BadTrace(ValueError):
    """The file cannot be used; says which and why."""


@dataclass(slots=True, frozen=True)
class TraceTask:
    """One task as it was recorded. `submit_s` from the trace's own zero."""

    name: str
    submit_s: float
    run_s: float
    cpu: int
    memory_gb: int
    gpu: int = 0
    gpu_type: str = ""
    priority: int = PRIORITY_DEFAULT
    node_count: int = 1
    time_limit_s: int = 0


@dataclass(slots=True)
class Trace:
    """What was read: tasks in the order of submission, nodes, and what could not be used."""

    nodes: list[Capacity] = field(default_factory=list)
    tasks: list[TraceTask] = field(default_factory=list)
    unknown_columns: list[str] = field(default_factory=list)
    left_out: Counter[str] = field(default_factory=Counter)  # rows, by the reason

    def take_nodes(self, count: int, seed: int) -> None:
        """Keep `count` nodes, chosen by `seed`, in their order."""
        if not 0 < count <= len(self.nodes):
            raise BadTrace(f"cannot take {count} nodes of {len(self.nodes)}")
        chosen = sorted(Random(seed).sample(range(len(self.nodes)), count))
        self.nodes = [self.nodes[index] for index in chosen]


def read_trace(nodes: Path | None, tasks: Path) -> Trace:
    """Read both files. An .swf may do without nodes, if its header says how many there were. Raises `BadTrace`."""
    trace = Trace()
    if nodes is not None:
        _read_csv(nodes, NODE_COLUMNS, trace, lambda row: trace.nodes.append(_node(row)))
    if tasks.suffix == ".swf":
        _read_swf(tasks, trace)
    else:
        _read_csv(tasks, TASK_COLUMNS, trace, lambda row: trace.tasks.append(_task(row)))
    if not trace.nodes:
        raise BadTrace(f"{nodes or tasks} has no nodes; name a file of them with --nodes")
    if not trace.tasks:
        raise BadTrace(f"{tasks} has no usable task; left out: {dict(trace.left_out)}")
    trace.tasks.sort(key=lambda task: task.submit_s)
    return trace


# ---- CSV ----------------------------------------------------------------------------------------------------------

Row = dict[str, str]


class _Unusable(Exception):
    """This row is left out, for this reason."""


def _read_csv(path: Path, known: frozenset[str], trace: Trace, take: Callable[[Row], None]) -> None:
    for row in _rows(path, known, trace):
        try:
            take(row)
        except _Unusable as reason:
            trace.left_out[str(reason)] += 1
        except (ValueError, TypeError, KeyError, OverflowError):
            trace.left_out[f"bad row in {path.name}"] += 1


def _rows(path: Path, known: frozenset[str], trace: Trace) -> Iterator[Row]:
    try:
        with path.open(newline="") as file:
            reader = csv.DictReader(file)
            columns = reader.fieldnames or []
            if not known & set(columns):
                raise BadTrace(f"{path} has none of the columns {', '.join(sorted(known))}")
            trace.unknown_columns += [f"{path.name}: {name}" for name in columns if name not in known]
            for count, row in enumerate(reader):
                if count >= ROWS_MAX:
                    raise BadTrace(f"{path} has more than {ROWS_MAX} rows")
                yield row
    except (OSError, UnicodeDecodeError, csv.Error) as error:
        raise BadTrace(f"cannot read {path}: {error}") from None


def _number(row: Row, *names: str, default: float = 0.0, scale: float = 1.0) -> float:
    """The first of these columns that has a value; `scale` divides the first name's."""
    for name in names:
        if row.get(name):
            value = float(row[name]) / (scale if name == names[0] else 1.0)
            return _sane(value, name)
    return default


def _sane(value: float, name: str) -> float:
    if not 0 <= value <= NUMBER_MAX:  # nor if it is no number at all
        raise ValueError(name)
    return value


def _whole(row: Row, *names: str, default: float = 0.0, scale: float = 1.0) -> int:
    return math.ceil(_number(row, *names, default=default, scale=scale))


def _node(row: Row) -> Capacity:
    cpu = _whole(row, "cpu_milli", "cpu", scale=1000)
    gpu_type = row.get("model") or row.get("gpu_type") or "GPU"
    count = _whole(row, "gpu")
    if cpu < 1 or count > GPUS_MAX:
        raise ValueError("cpu" if cpu < 1 else "gpu")
    gpus = tuple(Gpu(index, gpu_type, f"GPU-{index}") for index in range(count))
    return Capacity(cpu, int(_number(row, "memory_mib", "memory_gb", scale=1024)), cpu, SERVICE_SLOTS, gpus)


def _task(row: Row) -> TraceTask:
    return TraceTask(
        name=row.get("name") or "",
        submit_s=_number(row, "creation_time", "submit_s"),
        run_s=_run_s(row),
        cpu=_whole(row, "cpu_milli", "cpu", scale=1000, default=1),
        memory_gb=_whole(row, "memory_mib", "memory_gb", scale=1024),
        gpu=_whole(row, "num_gpu", "gpu"),
        gpu_type=row.get("gpu_spec") or row.get("gpu_type") or "",
        priority=min(10, max(1, _whole(row, "priority", default=PRIORITY_DEFAULT))),
        node_count=max(1, _whole(row, "node_count", default=1)),
        time_limit_s=_whole(row, "time_limit_s"),
    )


def _run_s(row: Row) -> float:
    if row.get("run_s"):
        return _number(row, "run_s")
    if not row.get("scheduled_time"):
        raise _Unusable("never ran")
    run_s = float(row["deletion_time"]) - float(row["scheduled_time"])
    if run_s < 0:
        raise _Unusable("ended before it began")
    return _sane(run_s, "deletion_time")


# ---- SWF ----------------------------------------------------------------------------------------------------------


def _read_swf(path: Path, trace: Trace) -> None:
    header: dict[str, str] = {}
    try:
        with path.open() as file:
            for line in file:
                if line.startswith(";"):
                    name, _, value = line.lstrip("; ").partition(":")
                    header[name.strip()] = value.strip()
                elif line.strip():
                    _take_job(line.split(), trace, header)
    except (OSError, UnicodeDecodeError) as error:
        raise BadTrace(f"cannot read {path}: {error}") from None


def _take_job(words: list[str], trace: Trace, header: dict[str, str]) -> None:
    if not trace.nodes:
        trace.nodes += _nodes_of(header)
    try:
        task = _job(words, max((node.cpu for node in trace.nodes), default=1))
    except _Unusable as reason:
        trace.left_out[str(reason)] += 1
    except (ValueError, IndexError):
        trace.left_out["bad row"] += 1
    else:
        trace.tasks.append(task)


def _nodes_of(header: dict[str, str]) -> list[Capacity]:
    """The machine that the header describes: MaxProcs over MaxNodes."""
    try:
        procs = int(header["MaxProcs"])
        count = int(header.get("MaxNodes", "1"))
    except (KeyError, ValueError):
        return []
    if not 0 < count <= min(procs, NODES_MAX):
        return []
    cpu = procs // count
    return [Capacity(cpu, 2**20, cpu, SERVICE_SLOTS)] * count


def _job(words: list[str], cpu_max: int) -> TraceTask:
    """One line: what does not fit on one node is asked for as a gang of equal parts."""
    if len(words) < SWF_FIELDS:
        raise ValueError(words)
    number: list[Any] = [float(word) for word in words[:SWF_FIELDS]]
    if not all(abs(value) <= NUMBER_MAX for value in number):  # nor if one is no number at all
        raise ValueError(words)
    run_s, procs, limit_s = number[3], int(number[7] if number[7] > 0 else number[4]), number[8]
    if run_s < 0 or procs < 1:
        raise _Unusable("never ran")
    nodes = math.ceil(procs / cpu_max)
    return TraceTask(
        name=words[0],
        submit_s=max(0.0, number[1]),
        run_s=run_s,
        cpu=math.ceil(procs / nodes),
        memory_gb=0,
        node_count=nodes,
        time_limit_s=max(0, int(limit_s)),
    )
