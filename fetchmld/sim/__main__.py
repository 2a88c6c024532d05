"""`python -m fetchmld.sim --seed N`: run one seed, or many of them, and print every one that breaks a rule."""

import sys
import time
from concurrent.futures import ProcessPoolExecutor
from typing import Final

import click

from fetchmld.sim.cluster import Broken, Outcome, simulate

CHUNK: Final = 25  # seeds that one process takes at a time
SHOWN_MAX: Final = 20


def run_chunk(first: int, count: int) -> tuple[list[Outcome], list[Broken]]:
    """The outcomes of `count` seeds from `first` on."""
    fine: list[Outcome] = []
    broken: list[Broken] = []
    for seed in range(first, first + count):
        try:
            fine.append(simulate(seed))
        except Broken as error:
            broken.append(error)
    return fine, broken


@click.command()
@click.option("--seed", type=int, help="Run this seed alone.")
@click.option("--seeds", default=1000, show_default=True, type=click.IntRange(1), help="How many seeds to run.")
@click.option("--first", default=0, show_default=True, help="The first of them.")
@click.option("-j", "--jobs", default=1, show_default=True, type=click.IntRange(1, 256), help="Processes.")
def main(seed: int | None, seeds: int, first: int, jobs: int) -> None:
    """Simulate clusters under faults; exit status 1 where a rule was broken."""
    if seed is not None:
        try:
            click.echo(str(simulate(seed)))
        except Broken as error:
            click.echo(f"{error}\n{error.faults}")
            sys.exit(1)
        return
    began = time.monotonic()
    firsts = range(first, first + seeds, CHUNK)
    counts = [min(CHUNK, first + seeds - start) for start in firsts]
    fine: list[Outcome] = []
    broken: list[Broken] = []
    with ProcessPoolExecutor(jobs) as pool:
        for outcomes, failures in pool.map(run_chunk, firsts, counts):
            fine += outcomes
            for failure in failures[: max(0, SHOWN_MAX - len(broken))]:
                click.echo(str(failure))
            broken += failures
    _tell(fine, broken, time.monotonic() - began, jobs)
    sys.exit(bool(broken))


def _tell(fine: list[Outcome], broken: list[Broken], wall_s: float, jobs: int) -> None:
    if broken:
        click.echo(f"{len(broken)} seeds broke a rule; run one again: python -m fetchmld.sim --seed {broken[0].seed}")
    hours = sum(outcome.virtual_s for outcome in fine) / 3600
    events, starts = sum(outcome.events for outcome in fine), sum(outcome.starts for outcome in fine)
    click.echo(
        f"{len(fine) + len(broken)} seeds, {events} events, {starts} starts, {hours:.1f} simulated hours in {wall_s:.1f} s"
        f" ({hours / max(wall_s, 1e-9) / jobs:.2f} h/s per process)"
    )


if __name__ == "__main__":
    main()
