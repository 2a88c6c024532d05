"""`make bench-peers`: the same work through FetchML and through others, in turns, within one run on one machine.

    one alone       `/bin/true` from handing in to its seen end, one after the other: median of COUNT
    many at once    from the first submission to the last end, as a share of what a C loop over posix_spawn (`../spawn.c`)
                    reaches just before and just after
    queued          bytes of memory for each task that waits, in the process that keeps the queue

HyperQueue comes from the package index into an environment of its own, Slurm from Debian's packages (installed where
this is root and has apt-get), Ray is here anyway. Each runs in a network namespace of its own, because HyperQueue
listens on every address; without root that cannot be had, and then they are left out. What could not be run is said.

Only FetchML makes a task durable before it accepts it, keeps its output and answers over HTTP: the others are measured
in their fastest form.
"""

import argparse
import json
import os
import shutil
import statistics
import subprocess
import sys
import tempfile
from collections.abc import Callable
from pathlib import Path
from typing import Final

HERE: Final = Path(__file__).resolve().parent
sys.path.insert(0, str(HERE.parent))

import bench  # noqa: E402

ROOT: Final = HERE.parent.parent
ENVIRONMENT: Final = ROOT / "build" / "peers"
PACKAGES: Final = ["slurmctld", "slurmd", "slurm-client", "libslurm-dev", "munge"]
# A private network with loopback only; the second address is for glibc, which asks for one that is not 127.x.
NAMESPACE: Final = 'ip link set lo up && ip addr add 10.99.0.1/32 dev lo && exec "$@"'
RUN_MAX_S: Final = 420.0
FETCHML: Final = "FetchML"

Found = dict[str, float]
Peer = Callable[[str, int], Found]


class Missing(Exception):
    """A peer cannot be run here; the text says why."""


def quiet(*words: str) -> None:
    """Run it; raises `Missing` with its last words where it fails."""
    done = subprocess.run(words, capture_output=True, text=True, check=False)
    if done.returncode:
        said = (done.stderr or done.stdout).strip().splitlines()
        raise Missing(f"`{' '.join(words[:4])} …` ended with {done.returncode}: {said[-1] if said else 'no word'}")


def in_namespace(python: str, script: str) -> Peer:
    """A peer's program, in a network of its own and an empty directory that goes with it."""
    if os.geteuid() != 0 or not shutil.which("unshare") or not shutil.which("ip"):
        raise Missing("a network namespace needs root, unshare and ip")

    def run(what: str, count: int) -> Found:
        directory = tempfile.mkdtemp(prefix="fetchml-peer-")
        try:
            words = [
                "unshare",
                "-n",
                "sh",
                "-c",
                NAMESPACE,
                "sh",
                python,
                str(HERE / script),
                what,
                str(count),
                directory,
            ]
            done = subprocess.run(words, capture_output=True, text=True, timeout=RUN_MAX_S, check=False)
            if done.returncode or not done.stdout.strip():
                raise Missing(f"{script} {what} ended with {done.returncode}: {done.stderr.strip()[-300:]}")
            found: Found = json.loads(done.stdout.strip().splitlines()[-1])
            return found
        except subprocess.TimeoutExpired:
            raise Missing(f"{script} {what} of {count} took more than {RUN_MAX_S:.0f} s") from None
        finally:
            shutil.rmtree(directory, ignore_errors=True)

    return run


def hyperqueue() -> Peer:
    python, uv = ENVIRONMENT / "bin" / "python", str(Path(sys.executable).parent / "uv")
    if not python.exists():
        quiet(uv, "venv", "--quiet", "--python", sys.executable, str(ENVIRONMENT))
    lock = str(HERE / "hyperqueue.lock")
    quiet(uv, "pip", "install", "--quiet", "--python", str(python), "--require-hashes", "-r", lock)
    return in_namespace(str(python), "hyperqueue_peer.py")


def slurm() -> Peer:
    if not all(shutil.which(name) for name in ("slurmctld", "slurmd", "munged", "sbatch")):
        if os.geteuid() != 0 or not shutil.which("apt-get"):
            raise Missing(f"needs {' '.join(PACKAGES)}, and root with apt-get to install them")
        quiet("apt-get", "update", "-qq")
        quiet("apt-get", "install", "-y", "-qq", "--no-install-recommends", *PACKAGES)
    built = HERE.parent / "bin" / "slurm_submit"
    built.parent.mkdir(exist_ok=True)
    quiet(os.environ.get("CC", "cc"), "-O2", "-o", str(built), str(HERE / "slurm_submit.c"), "-lslurm")
    return in_namespace(sys.executable, "slurm_peer.py")


def ray_tasks() -> Peer:
    return in_namespace(sys.executable, "ray_peer.py")


def fetchml(what: str, count: int) -> Found:
    with bench.Daemon() as daemon:
        daemon.start()
        if what == "lone":
            bench.lone(daemon, 20)
            took_ms = bench.lone(daemon, count)
            return {"lone_p50_ms": statistics.median(took_ms), "lone_p95_ms": bench.percentile(took_ms, 0.95)}
        if what == "many":
            posts, ended = bench.burst(daemon, count)
            return {"per_s": ended, "submitted_per_s": posts}
        return {"bytes_per_task": bench.queued_bytes(daemon, count)}


def fetchml_batches(what: str, count: int) -> Found:
    """The same tasks, a thousand in each request."""
    if what != "many":
        return {}
    with bench.Daemon() as daemon:
        daemon.start()
        posts, ended = bench.burst_of_batches(daemon, count)
        return {"per_s": ended, "submitted_per_s": posts}


PEERS: Final[dict[str, Callable[[], Peer]]] = {
    FETCHML: lambda: fetchml,
    "in batches": lambda: fetchml_batches,
    "HyperQueue": hyperqueue,
    "Slurm": slurm,
    "Ray tasks": ray_tasks,
}


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--rounds", type=int, default=3, help="each peer runs so many times, in turn")
    parser.add_argument("--lone", type=int, default=100, help="tasks one after the other (Slurm: 5)")
    parser.add_argument("--many", type=int, default=1000, help="tasks at once")
    parser.add_argument("--queued", type=int, default=20_000, help="tasks that wait (Slurm: 10,000 at most)")
    options = parser.parse_args()

    loop = bench.build_loop()
    missing: list[str] = []
    ready: dict[str, Peer] = {}
    for name, make in PEERS.items():
        try:
            ready[name] = make()
        except Missing as why:
            missing.append(f"{name}: {why}")

    found: dict[str, list[Found]] = {name: [] for name in ready}
    for number in range(1, options.rounds + 1):
        for name in list(ready):
            counts = {"lone": min(options.lone, 5 if name == "Slurm" else options.lone), "many": options.many}
            if number == 1:
                counts["queued"] = min(options.queued, 10_000) if name == "Slurm" else options.queued
            row: Found = {}
            try:
                for what, count in counts.items():
                    before = bench.limit(loop)
                    row |= ready[name](what, count)
                    after = bench.limit(loop)
                    if what == "many":
                        row["share"] = row["per_s"] / ((before["per_s"] + after["per_s"]) / 2)
            except Missing as why:
                missing.append(f"{name}: {why}")
                del ready[name]
                continue
            found[name].append(row)
            print(f"round {number} {name:12}", " ".join(f"{key}={value:.4g}" for key, value in row.items()), flush=True)
    report(found, options.many)
    for line in missing:
        print(f"not run: {line}")


def report(found: dict[str, list[Found]], many: int) -> None:
    """Medians over the rounds, and what FetchML is of each."""
    names = ["lone_p50_ms", "per_s", "share", "submitted_per_s", "bytes_per_task"]
    heads = ["one alone, ms", f"{many} at once, /s", "share of C", "submitted/s", "bytes queued"]
    print(f"\n{'':14}" + "".join(f"{head:>18}" for head in heads) + "    one alone: FetchML is")
    medians = {
        name: {key: statistics.median(values) for key in names if (values := [row[key] for row in rows if key in row])}
        for name, rows in found.items()
    }
    for name, row in medians.items():
        cells = "".join(f"{row[key]:18.4g}" if key in row else f"{'-':>18}" for key in names)
        ratio = medians.get(FETCHML, {}).get("lone_p50_ms", 0.0) / row["lone_p50_ms"] if "lone_p50_ms" in row else 0.0
        print(f"{name:14}{cells}    {ratio:.2f} of it" if ratio else f"{name:14}{cells}")


if __name__ == "__main__":
    main()
