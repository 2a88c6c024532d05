"""`workers` and `queue`: what there is to run on, and how much waits for it."""

from collections.abc import Mapping
from typing import Any

import click

from fetchmld.cli import show as layout
from fetchmld.cli.session import Session, client_command


@click.command()
@client_command
def workers(session: Session) -> None:
    """The machines, what each has and what of it is free."""
    found = session.client.workers()
    if session.json_output:
        session.show_json(found)
    elif session.quiet:
        for worker in found:
            click.echo(worker["id"])
    else:
        head = ("ID", "HOST", "STATUS", "BATCH FREE", "SERVICE FREE", "CORES", "MEMORY", "GPUS", "RUNNING")
        layout.table(head, [_row(worker) for worker in found])
        if gpus := [_gpu_row(worker, gpu) for worker in found for gpu in worker.get("gpus", [])]:
            click.echo()
            layout.table(("WORKER", "GPU", "TYPE", "STATUS", "MEMORY USED", "BUSY", "TASK OR CAUSE"), gpus)
        for line in filter(None, map(_lent, found)):
            click.echo(f"\n{line}")


def _row(worker: Mapping[str, Any]) -> tuple[str, ...]:
    has, slots = worker.get("capabilities", {}), worker.get("slots", {})
    return (
        worker["id"],
        worker.get("hostname", ""),
        "silent" if worker.get("suspect") else worker.get("status", ""),
        f"{slots.get('batch_available', 0)}/{slots.get('batch_total', 0)}",
        f"{slots.get('service_available', 0)}/{slots.get('service_total', 0)}",
        str(has.get("cpu_cores", "")),
        f"{has.get('memory_gb', 0)} GB",
        f"{has.get('gpu_count', 0)} {has.get('gpu_type', '')}".rstrip(),
        str(len(worker.get("active_tasks", []))),
    )


def _lent(worker: Mapping[str, Any]) -> str:
    """What Ray-native programs may use of it, and what else of it they still have."""
    detail = worker.get("detail", {})
    share, others = detail.get("ray_share", {}), detail.get("ray_has", {})
    parts = [f"lent to Ray: {_amounts(share)}"] if share else []
    if others:
        parts.append(f"Ray-native programs also have {_amounts(others)}, which are waited for")
    return f"{worker['id']}: {'; '.join(parts)}" if parts else ""


def _amounts(of: Mapping[str, Any]) -> str:
    gpus = of.get("gpus", 0)
    said = [_number(of["cpu"], "core")] if "cpu" in of else []
    if gpus:
        said.append(_number(gpus, "GPU") if isinstance(gpus, int) else f"GPU {', '.join(map(str, gpus))}")
    return ", ".join(said + ([f"{of['memory_gb']} GB of memory"] if "memory_gb" in of else []))


def _number(count: int, what: str) -> str:
    return f"{count} {what}{'' if count == 1 else 's'}"


def _gpu_row(worker: Mapping[str, Any], gpu: Mapping[str, Any]) -> tuple[str, ...]:
    used = [f"{gpu[name] / 1024:.1f}" if name in gpu else "?" for name in ("used_mb", "memory_mb")]
    known = "used_mb" in gpu or "memory_mb" in gpu
    return (
        worker["id"],
        str(gpu["index"]),
        gpu["type"],
        gpu["status"],
        f"{used[0]}/{used[1]} GB" if known else "",
        f"{gpu['utilization']} %" if "utilization" in gpu else "",
        gpu.get("cause", "") or gpu.get("held_by", ""),
    )


@click.command()
@client_command
def queue(session: Session) -> None:
    """Counts of tasks: queued and running now, ended today (UTC)."""
    stats = session.client.queue()
    if session.json_output:
        session.show_json(stats)
    else:
        names = ("queued", "running", "completed", "failed", "workers")
        layout.fields((name, stats.get(name, 0)) for name in names)
