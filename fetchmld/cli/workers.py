"""`workers` and `queue`: what there is to run on, and how much waits for it."""

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
        head = ("ID", "STATUS", "BATCH FREE", "SERVICE FREE", "CORES", "MEMORY", "GPUS", "RUNNING")
        layout.table(head, [_row(worker) for worker in found])
        if gpus := [_gpu_row(worker, gpu) for worker in found for gpu in worker.get("gpus", [])]:
            click.echo()
            layout.table(("WORKER", "GPU", "TYPE", "STATUS", "MEMORY USED", "BUSY", "TASK OR CAUSE"), gpus)


def _row(worker: dict[str, Any]) -> tuple[str, ...]:
    has, slots = worker.get("capabilities", {}), worker.get("slots", {})
    return (
        worker["id"],
        "silent" if worker.get("suspect") else worker.get("status", ""),
        f"{slots.get('batch_available', 0)}/{slots.get('batch_total', 0)}",
        f"{slots.get('service_available', 0)}/{slots.get('service_total', 0)}",
        str(has.get("cpu_cores", "")),
        f"{has.get('memory_gb', 0)} GB",
        f"{has.get('gpu_count', 0)} {has.get('gpu_type', '')}".rstrip(),
        str(len(worker.get("active_tasks", []))),
    )


def _gpu_row(worker: dict[str, Any], gpu: dict[str, Any]) -> tuple[str, ...]:
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
