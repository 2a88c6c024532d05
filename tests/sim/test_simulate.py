"""Recorded workloads: what is read, what is played, what is said and drawn."""

import json
import os
import random
from dataclasses import replace
from pathlib import Path

import pytest
from click.testing import CliRunner, Result

from fetchmld.cli import root
from fetchmld.core.model import Capacity, Gpu
from fetchmld.core.scheduler import Policy
from fetchmld.sim.plot import CannotPlot, plot
from fetchmld.sim.replay import Options, play
from fetchmld.sim.report import report, waits
from fetchmld.sim.traces import BadTrace, Trace, TraceTask, read_trace

NODES = "sn,cpu_milli,memory_mib,gpu,model,rack\nn0,4000,8192,2,T4,r1\nn1,8000,16384,0,,r1\nn2,0,1,0,,r1\n"
TASKS = """name,cpu_milli,memory_mib,num_gpu,gpu_milli,gpu_spec,pod_phase,creation_time,deletion_time,scheduled_time
a,1000,1024,1,500,,Running,100,200,100
b,1500,1500,2,1000,T4|A100,Running,110,150,120
c,1000,1024,1,1000,,Pending,120,200,
d,what,1024,1,1000,,Running,120,200,130
"""
SWF = """; MaxNodes: 2
; MaxProcs: 8
1 0 5 60 4 -1 -1 4 120 -1 1 1 1 1 1 1 -1 -1
2 10 5 60 8 -1 -1 8 -1 -1 1 1 1 1 1 1 -1 -1
3 20 5 -1 4 -1 -1 4 120 -1 5 1 1 1 1 1 -1 -1
broken line
"""
POLICY = Policy(suspect_after_s=float("inf"), offline_after_s=float("inf"), requeue_after_s=float("inf"))
TRACES = Path(os.environ.get("FETCHML_TRACE_DIR", "/nowhere")) / "alibaba-gpu-v2023"


@pytest.fixture
def files(tmp_path: Path) -> tuple[Path, Path]:
    nodes, tasks = tmp_path / "nodes.csv", tmp_path / "tasks.csv"
    nodes.write_text(NODES)
    tasks.write_text(TASKS)
    return nodes, tasks


def small(*tasks: TraceTask) -> Trace:
    gpus = (Gpu(0, "T4", "GPU-0"), Gpu(1, "T4", "GPU-1"))
    return Trace([Capacity(4, 8, 4, 2, gpus)], list(tasks))


def test_csv_is_read_with_shares_rounded_up(files: tuple[Path, Path]) -> None:
    trace = read_trace(*files)
    assert trace.nodes[0] == Capacity(4, 8, 4, 2, (Gpu(0, "T4", "GPU-0"), Gpu(1, "T4", "GPU-1")))
    assert trace.nodes[1].gpus == ()
    assert trace.tasks[1] == TraceTask("b", 110.0, 30.0, 2, 2, 2, "T4|A100")
    assert [task.name for task in trace.tasks] == ["a", "b"]


def test_what_cannot_be_used_is_named_and_counted(files: tuple[Path, Path]) -> None:
    trace = read_trace(*files)
    assert trace.unknown_columns == ["nodes.csv: rack", "tasks.csv: pod_phase"]
    assert trace.left_out == {"never ran": 1, "bad row in tasks.csv": 1, "bad row in nodes.csv": 1}


def test_swf_brings_its_own_nodes_and_splits_what_no_node_holds(tmp_path: Path) -> None:
    path = tmp_path / "log.swf"
    path.write_text(SWF)
    trace = read_trace(None, path)
    assert [node.cpu for node in trace.nodes] == [4, 4]
    assert [(task.cpu, task.node_count, task.time_limit_s) for task in trace.tasks] == [(4, 1, 120), (4, 2, 0)]
    assert trace.left_out == {"never ran": 1, "bad row": 1}


@pytest.mark.parametrize("text", ["", "who,knows\n1,2\n"])
def test_a_file_of_something_else_is_refused(files: tuple[Path, Path], text: str) -> None:
    files[1].write_text(text)
    with pytest.raises(BadTrace, match=r"tasks\.csv has none of the columns"):
        read_trace(*files)


@pytest.mark.parametrize("wrong", ["-1", "nan", "inf", "1e300", "x"])
@pytest.mark.parametrize("column", ["cpu", "memory_gb", "gpu", "submit_s", "run_s", "node_count", "time_limit_s"])
def test_absurd_numbers_are_bad_rows(files: tuple[Path, Path], column: str, wrong: str) -> None:
    row = {
        "cpu": "1",
        "memory_gb": "1",
        "gpu": "0",
        "submit_s": "0",
        "run_s": "9",
        "node_count": "1",
        "time_limit_s": "9",
    }
    lines = [",".join(row), ",".join(row.values()), ",".join({**row, column: wrong}.values())]
    files[1].write_text("\n".join(lines))
    trace = read_trace(*files)
    assert (len(trace.tasks), trace.left_out["bad row in tasks.csv"]) == (1, 1)


def test_a_node_of_a_billion_gpus_is_a_bad_row(files: tuple[Path, Path]) -> None:
    files[0].write_text(NODES + "n9,4000,8192,1e9,T4,r1\n")
    assert read_trace(*files).left_out["bad row in nodes.csv"] == 2


@pytest.mark.parametrize("wrong", ["1e400", "nan", "-1e300"])
def test_absurd_numbers_in_swf_are_bad_rows(tmp_path: Path, wrong: str) -> None:
    path = tmp_path / "log.swf"
    path.write_text(SWF + f"9 30 5 {wrong} 4 -1 -1 4 120 -1 5 1 1 1 1 1 -1 -1\n")
    assert read_trace(None, path).left_out == {"never ran": 1, "bad row": 2}


def test_nodes_are_taken_by_seed() -> None:
    trace = Trace([Capacity(n, 1, n, 1) for n in range(1, 20)])
    trace.take_nodes(5, seed=1)
    other = Trace([Capacity(n, 1, n, 1) for n in range(1, 20)])
    other.take_nodes(5, seed=1)
    assert trace.nodes == other.nodes
    assert [node.cpu for node in trace.nodes] == sorted(node.cpu for node in trace.nodes)
    with pytest.raises(BadTrace, match="cannot take 9 nodes of 5"):
        trace.take_nodes(9, seed=1)


def test_waits_and_use_add_up() -> None:
    first, second = TraceTask("a", 0, 100, 1, 1, gpu=2), TraceTask("b", 10, 50, 1, 1, gpu=1)
    played = play(small(first, second), Options(POLICY, limit_factor=0))
    assert played.waits == {0: 0.0, 1: 90.0}
    assert (played.busy_s, played.used_s, played.idle_s) == (150.0, 2 * 100 + 50, 0.0)


def test_free_gpus_that_do_not_help_who_waits_are_fragmentation() -> None:
    blocked = TraceTask("b", 10, 50, 1, 1, gpu=1, gpu_type="T4")
    cores = TraceTask("a", 0, 100, 4, 1)
    played = play(small(cores, blocked), Options(POLICY, limit_factor=0))
    assert played.idle_s == 2 * 90


def test_compressed_time_brings_tasks_closer() -> None:
    tasks = [TraceTask(str(n), 100.0 * n, 100, 4, 1) for n in range(5)]
    assert max(play(small(*tasks), Options(POLICY)).waits.values()) == 0
    assert play(small(*tasks), Options(POLICY, compress=2.0)).waits[4] == 200


def test_a_broken_promise_is_an_error(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("fetchmld.core.placement.static_key", lambda _priority, submit_t, _tau_s: submit_t)
    tasks = [TraceTask(str(n), 4000.0 * n, 10_000, 4, 1) for n in range(3)]
    with pytest.raises(AssertionError, match="task 2 passes task 1, beyond the ageing promise"):
        play(small(*tasks), Options(POLICY))


def test_percentiles_are_by_nearest_rank() -> None:
    assert waits(range(1, 101)) == {"count": 100, "p50_s": 50, "p95_s": 95, "p99_s": 99, "max_s": 100}
    assert waits([]) == {"count": 0, "p50_s": 0, "p95_s": 0, "p99_s": 0, "max_s": 0}


# ---- the command --------------------------------------------------------------------------------------------------


def run(*words: object) -> Result:
    return CliRunner().invoke(root, ["simulate", *map(str, words)])


def test_the_command_reports_and_draws(files: tuple[Path, Path], tmp_path: Path) -> None:
    picture = tmp_path / "use.svg"
    done = run("--nodes", files[0], "--tasks", files[1], "--plot", picture, "--set", "ageing_tau_s=60")
    assert done.exit_code == 0, done.output
    assert "2 on 2 nodes with 2 GPUs" in done.output
    assert "P95" in done.output
    assert picture.read_text().startswith("<svg")


def test_json_has_it_all(files: tuple[Path, Path]) -> None:
    done = run("--nodes", files[0], "--tasks", files[1], "--json")
    said = json.loads(done.output)
    assert said["waits"]["count"] == 2
    assert said["waits_by_gpus"]["2"]["max_s"] == pytest.approx(90.0)
    assert set(said["waits_by_priority"]) == {"5"}
    assert said["starvation"]["never_started"] == 0
    assert len(said["gpu_use_over_time"]) == 120
    assert sum(point["used"] for point in said["gpu_use_over_time"]) / 120 / 2 == pytest.approx(said["gpu_use"])


@pytest.mark.parametrize(
    ("words", "said"),
    [
        (("--set", "colour=red"), "no setting 'colour'"),
        (("--set", "ageing_tau_s=soon"), "setting ageing_tau_s='soon': Input should be a valid number"),
        (("--set", "ageing_tau_s=0"), "setting ageing_tau_s='0': Input should be greater than 0"),
        (("--set", "plans_max=17"), "setting plans_max='17': Input should be less than or equal to 16"),
        (("--set", "backfill=maybe"), "setting backfill='maybe': Input should be a valid boolean"),
        (("--compare", "backfill=false,colour=red"), "no setting 'colour'"),
        (("--time-compress", "0"), "above 0"),
        (("--nodes-take", "7"), "cannot take 7 nodes of 2"),
        (("--plot", "use.gif"), "must end in .svg or .png"),
    ],
)
def test_what_is_wrong_is_said(files: tuple[Path, Path], words: tuple[str, ...], said: str) -> None:
    done = run("--nodes", files[0], "--tasks", files[1], *words)
    assert done.exit_code != 0
    assert said in (done.output + str(done.exception))


def test_a_png_without_matplotlib_says_what_to_do(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    monkeypatch.setitem(__import__("sys").modules, "matplotlib.figure", None)
    trace = small(TraceTask("a", 0, 10, 1, 1))
    with pytest.raises(CannotPlot, match=r"needs matplotlib.*name a \.svg"):
        plot(report(trace, play(trace, Options(POLICY)), 0.1), tmp_path / "use.png")


def crowded(seed: int) -> Trace:
    """A workload like the Alibaba trace, made by `seed`: most tasks ask for one GPU, run times of any length."""
    dice = random.Random(seed)
    nodes = [
        Capacity(64, 256, 64, 2, tuple(Gpu(i, kind, f"GPU-{i}") for i in range(count)))
        for kind, count in [("T4", 2)] * 6 + [("V100", 8)] * 4 + [("P100", 4)] * 4
    ]
    gpus = dice.choices([0, 1, 2, 4, 8], [15, 70, 6, 5, 4], k=600)
    tasks, now = [], 0.0
    for number, gpu in enumerate(gpus):
        now += dice.expovariate(1 / 80)
        run_s, kind = min(50_000.0, dice.lognormvariate(7.5, 1.5)), dice.choice(["", "", "", "V100|P100"])
        cpu, memory_gb = dice.choice([2, 4, 8, 12]) * max(1, gpu) // 2, dice.choice([8, 16, 32])
        tasks.append(TraceTask(str(number), now, run_s, cpu, memory_gb, gpu, kind, dice.choice([3, 5, 5, 5, 8])))
    return Trace(nodes, tasks)


STRICT = replace(POLICY, backfill=False)


@pytest.mark.parametrize("seed", [1, 2, 3])
def test_backfill_waits_less_than_strict_order_and_delays_no_plan(seed: int) -> None:
    strict, backfill = (play(crowded(seed), Options(policy)) for policy in (STRICT, POLICY))
    assert waits(backfill.waits.values())["p95_s"] < waits(strict.waits.values())["p95_s"]
    assert (backfill.late_starts, strict.late_starts) == (0, 0)
    assert len(backfill.waits) == len(strict.waits) == 600


def test_in_strict_order_nobody_passes_anybody() -> None:
    tasks = crowded(1).tasks
    played = play(crowded(1), Options(STRICT))
    first_s = tasks[0].submit_s
    lines = [
        (task.submit_s / POLICY.ageing_tau_s - task.priority, task.submit_s - first_s, played.waits[index])
        for index, task in enumerate(tasks)
    ]
    passed = [
        (one, other)
        for one, (key, submit_s, wait_s) in enumerate(lines)
        for other, (ahead, since_s, waited_s) in enumerate(lines)
        if ahead < key and since_s < submit_s + wait_s < since_s + waited_s
    ]
    assert not passed


def in_one_line(trace: Trace) -> Trace:
    """All of one priority, so that nobody comes between a plan and its task."""
    trace.tasks = [replace(task, priority=5) for task in trace.tasks]
    return trace


@pytest.mark.parametrize("factor", [1.0, 1.5])
def test_no_first_blocked_task_starts_later_than_its_first_plan(factor: float) -> None:
    assert play(in_one_line(crowded(2)), Options(POLICY, limit_factor=factor)).late_starts == 0


def test_a_plan_that_is_not_kept_is_counted(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("fetchmld.core.promises.spare", lambda _wanted, _plan, node: node.free)
    assert play(in_one_line(crowded(2)), Options(POLICY, limit_factor=1.0)).late_starts > 0


@pytest.mark.parametrize("plans_max", [1, 2, 5])
def test_with_more_plans_the_first_is_kept_as_well(plans_max: int) -> None:
    played = play(crowded(2), Options(replace(POLICY, plans_max=plans_max)))
    assert (len(played.waits), played.late_starts) == (600, 0)


def test_two_policies_are_compared_in_one_command(files: tuple[Path, Path]) -> None:
    done = run("--nodes", files[0], "--tasks", files[1], "--compare", "backfill=false,ageing_tau_s=60", "--json")
    other = json.loads(done.output)["compared"]["backfill=false,ageing_tau_s=60"]
    assert other["waits"]["max_s"] == 90.0
    shown = run("--nodes", files[0], "--tasks", files[1], "--compare", "backfill=false").output
    assert "as set" in shown
    assert "backfill=false" in shown


@pytest.mark.skipif(not TRACES.is_dir(), reason="FETCHML_TRACE_DIR names no directory with alibaba-gpu-v2023")
@pytest.mark.parametrize(("count", "compress"), [(60, 20.0), (60, 50.0), (200, 200.0)])
def test_backfill_on_the_crowded_alibaba_trace_waits_less_than_strict_order(count: int, compress: float) -> None:
    p95_s = []
    for policy in (POLICY, STRICT):
        trace = read_trace(TRACES / "nodes.csv", TRACES / "pods.csv")
        trace.take_nodes(count, seed=0)
        played = play(trace, Options(policy, compress=compress))
        assert (len(played.waits), played.late_starts) == (7255, 0)
        p95_s.append(waits(played.waits.values())["p95_s"])
    assert p95_s[0] < p95_s[1]


@pytest.mark.skipif(not TRACES.is_dir(), reason="FETCHML_TRACE_DIR names no directory with alibaba-gpu-v2023")
def test_the_alibaba_trace_plays_in_seconds() -> None:
    trace = read_trace(TRACES / "nodes.csv", TRACES / "pods.csv")
    said = report(trace, play(trace, Options(POLICY)), 0.0)
    assert (said["nodes"], said["tasks"], said["left_out"]) == (1213, 7255, {"never ran": 897})
    assert said["starvation"]["never_started"] == 0
