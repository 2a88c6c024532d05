"""`simulate`: how a recorded workload would have fared under our scheduler, with other nodes or other settings."""

import json
import time
from dataclasses import fields
from pathlib import Path
from typing import TYPE_CHECKING, Any

import click

from fetchmld.cli import show as layout
from fetchmld.cli.exits import INVALID, Failure
from fetchmld.cli.session import Session, pass_session

if TYPE_CHECKING:
    from fetchmld.core.scheduler import Policy

File = click.Path(dir_okay=False, path_type=Path)


@click.command()
@click.option("--nodes", type=File, help="CSV of the nodes; an .swf with MaxProcs in its header needs none.")
@click.option("--tasks", required=True, type=File, help="CSV or .swf of the tasks.")
@click.option(
    "--set", "given", multiple=True, metavar="NAME=VALUE", help="A setting of the policy, as ageing_tau_s=60."
)
@click.option(
    "--compare",
    "others",
    multiple=True,
    metavar="NAME=VALUE[,...]",
    help="Play it once more with these settings changed, and show both; backfill=false is strict order.",
)
@click.option("--nodes-take", type=click.IntRange(1), help="Use only so many of the nodes, chosen by --seed.")
@click.option("--seed", default=0, show_default=True, help="Which nodes --nodes-take chooses.")
@click.option("--time-compress", default=1.0, show_default=True, help="Submit so many times as fast; run times stay.")
@click.option(
    "--limit-factor", default=1.5, show_default=True, help="Declare run time times this as the time limit; 0 = none."
)
@click.option("--json", "as_json", is_flag=True, help="Print the report as JSON.")
@click.option("--plot", "picture", type=File, help="Draw GPU use and waiting tasks over time: .svg, or .png.")
@pass_session
def simulate(
    session: Session,
    nodes: Path | None,
    tasks: Path,
    given: tuple[str, ...],
    others: tuple[str, ...],
    nodes_take: int | None,
    seed: int,
    time_compress: float,
    limit_factor: float,
    as_json: bool,
    picture: Path | None,
) -> None:
    """Play a recorded workload through the scheduler, and report waits, GPU use and fragmentation.

    Columns are those of the Alibaba GPU cluster trace (cpu_milli, memory_mib, num_gpu, creation_time, ...) or plain ones:
    cpu, memory_gb, gpu, gpu_type, priority, node_count, time_limit_s, submit_s, run_s. Shares of a GPU are rounded up.
    """
    from fetchmld.sim.plot import CannotPlot, plot
    from fetchmld.sim.replay import Options, play
    from fetchmld.sim.report import report
    from fetchmld.sim.traces import BadTrace, read_trace

    if not time_compress > 0 or limit_factor < 0:
        raise click.UsageError("--time-compress must be above 0, --limit-factor not below it")
    options = [Options(_policy((*given, *words)), time_compress, limit_factor) for words in _changes(others)]

    def played(one: Options) -> dict[str, Any]:
        began = time.perf_counter()
        return report(trace, play(trace, one), time.perf_counter() - began)

    try:
        trace = read_trace(nodes, tasks)
        if nodes_take is not None:
            trace.take_nodes(nodes_take, seed)
        result = played(options[0])
        result["compared"] = {words: played(one) for words, one in zip(others, options[1:], strict=True)}
        if picture is not None:
            plot(result, picture)
    except (BadTrace, CannotPlot) as error:
        raise Failure(str(error), INVALID) from None
    except OSError as error:
        raise Failure(f"cannot write {picture}: {error.strerror}", INVALID) from None
    if as_json or session.json_output:
        click.echo(json.dumps(result))
    else:
        _show(result)


def _changes(others: tuple[str, ...]) -> list[tuple[str, ...]]:
    """The settings of each play beyond those of --set: none for the first."""
    return [(), *(tuple(words.split(",")) for words in others)]


def _policy(given: tuple[str, ...]) -> "Policy":
    """The policy with these settings, the last one of each name; nobody goes silent in a simulation."""
    from fetchmld.core.scheduler import Policy

    never = float("inf")
    settings: dict[str, Any] = {"suspect_after_s": never, "offline_after_s": never, "requeue_after_s": never}
    known = [field.name for field in fields(Policy) if field.name not in settings]
    for word in given:
        name, _, value = word.partition("=")
        if name not in known:
            raise click.UsageError(f"{word}: no setting {name!r}; there are {', '.join(known)}")
        settings[name] = _value(name, value)
    return Policy(**settings)


def _value(name: str, value: str) -> Any:
    """What the daemon would take this setting for. Raises UsageError where it would refuse it."""
    from fetchmld.config import Config
    from fetchmld.core.errors import Invalid

    try:
        return getattr(Config.load(None, {name: value}), name)
    except Invalid as error:
        raise click.UsageError(str(error)) from None


def _show(result: dict[str, Any]) -> None:
    starved = result["starvation"]
    pairs: list[tuple[str, object]] = [
        ("tasks", f"{result['tasks']} on {result['nodes']} nodes with {result['gpus']} GPUs"),
        ("left out", ", ".join(f"{count} {why}" for why, count in result["left_out"].items()) or "none"),
        ("columns not used", ", ".join(result["unknown_columns"]) or "none"),
        ("span", f"{result['span_s'] / 3600:.1f} h"),
        ("GPU use", f"{result['gpu_use']:.2%}"),
        ("fragmentation", f"{result['fragmentation']:.2%} of GPU time was free while somebody waited for no more"),
        ("never started", starved["never_started"]),
        ("later than planned", starved["later_than_first_plan"]),
        ("longest wait", f"{starved['longest_wait_s']:.0f} s {starved['longest_wait_task']}".rstrip()),
        ("decisions", f"{result['decisions_per_s']:.0f} starts/s, {result['events_per_s']:.0f} events/s"),
        ("took", f"{result['wall_s']:.1f} s"),
    ]
    layout.fields(pairs)
    for title, groups in (
        ("WAIT", {"all": result["waits"]}),
        ("PRIORITY", result["waits_by_priority"]),
        ("GPUS ASKED", result["waits_by_gpus"]),
    ):
        click.echo()
        layout.table((title, "TASKS", "P50", "P95", "P99", "MAX"), [_row(name, row) for name, row in groups.items()])
    if result["compared"]:
        click.echo()
        rows = [("as set", result), *result["compared"].items()]
        layout.table(
            ("COMPARED", "TASKS", "P50", "P95", "P99", "MAX", "GPU USE", "LATER THAN PLANNED"),
            [(*_row(name, one["waits"]), f"{one['gpu_use']:.2%}", _later(one)) for name, one in rows],
        )


def _later(result: dict[str, Any]) -> str:
    return str(result["starvation"]["later_than_first_plan"])


def _row(name: str, row: dict[str, Any]) -> tuple[str, ...]:
    return (name, str(row["count"]), *(f"{row[key]:.1f} s" for key in ("p50_s", "p95_s", "p99_s", "max_s")))
