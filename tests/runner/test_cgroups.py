"""Cells and their limits: on directories that stand in for cgroups (few machines have version 2), and on real ones."""

from pathlib import Path

import pytest

from fetchmld.runner import cgroups
from fetchmld.runner.cgroups import Limits, NoCgroups, Tree

V2_FILES = ("cgroup.procs", "memory.max", "memory.oom.group", "memory.events", "pids.max", "pids.current", "cpu.max")


def cgroup2(mount: Path) -> tuple[str, str]:
    """A mounted version 2, as the kernel would show it: what /proc says of it."""
    (mount / "cgroup.controllers").write_text("cpuset cpu io memory pids\n")
    (mount / "cgroup.subtree_control").write_text("")
    return f"cgroup2 {mount} cgroup2 rw,nosuid 0 0\n", "0::/\n"


def make_cell(tree: Tree, number: int) -> Path:
    """The files that the kernel makes with a directory; taken over as if it had been there."""
    cell = Path(tree.roots["memory"]) / f"a{number}"
    cell.mkdir()
    for name in (*V2_FILES, "cpu.weight"):
        (cell / name).write_text("0\n")
    (cell / "memory.events").write_text("low 0\nhigh 0\nmax 9\noom 3\noom_kill 2\noom_group_kill 1\n")
    return cell


def make_root(mount: Path) -> None:
    root = mount / "fetchml-x"
    root.mkdir()
    for name in ("cgroup.subtree_control", "memory.max"):
        (root / name).write_text("")


def test_version_2_is_asked_for_the_same_things_in_its_own_words(tmp_path: Path) -> None:
    mounts, own = cgroup2(tmp_path)
    make_root(tmp_path)
    tree = cgroups.find_tree("fetchml-x", 5 << 30, mounts, own)
    assert tree.label == "cgroup-v2"
    assert all(map(tree.controls, ("memory", "pids", "cpu")))
    assert (tmp_path / "cgroup.subtree_control").read_text() == "+cpu +memory +pids"
    assert (tmp_path / "fetchml-x" / "cgroup.subtree_control").read_text() == "+cpu +memory +pids"
    assert (tmp_path / "fetchml-x" / "memory.max").read_text() == str(5 << 30)
    directory = make_cell(tree, 7)
    cell = tree.adopt(7, ooms=1)
    assert cell is not None
    cell.limit(Limits(memory_bytes=1 << 30, pids=50, cores=1.5, weight_cores=2))
    said = {name: (directory / name).read_text().split("\n")[0] for name in V2_FILES if name.endswith(("max", "group"))}
    assert said == {
        "memory.max": str(1 << 30),
        "memory.oom.group": "1",
        "pids.max": "50",
        "cpu.max": "150000 100000",
    }
    assert (directory / "cpu.weight").read_text().startswith("200")
    assert len(cell.join_fds) == 1
    assert cell.oom_kills() == 1
    assert cell.oom_kills() == 0
    cell.close()


def test_without_the_memory_controller_there_are_none(tmp_path: Path) -> None:
    mounts, own = cgroup2(tmp_path)
    (tmp_path / "cgroup.controllers").write_text("hugetlb\n")
    with pytest.raises(NoCgroups, match="memory controller"):
        cgroups.find_tree("fetchml-x", 0, mounts, own)


def test_without_a_mount_there_are_none() -> None:
    with pytest.raises(NoCgroups, match="no cgroups are mounted"):
        cgroups.find_tree("fetchml-x", 0, "proc /proc proc rw 0 0\n", "0::/\n")


def test_a_hierarchy_that_cannot_be_written_is_none(tmp_path: Path) -> None:
    mounts, own = cgroup2(tmp_path)
    (tmp_path / "cgroup.subtree_control").unlink()
    with pytest.raises(NoCgroups, match="cgroup.subtree_control"):
        cgroups.find_tree("fetchml-x", 0, mounts, own)


def test_version_1_has_a_directory_in_each_hierarchy(tmp_path: Path) -> None:
    mounts = ""
    for names in ("memory", "cpu,cpuacct", "pids", "freezer"):
        (tmp_path / names / "job").mkdir(parents=True)
        (tmp_path / names / "job" / "fetchml-x").mkdir()
        (tmp_path / names / "job" / "fetchml-x" / "memory.limit_in_bytes").write_text("")
        mounts += f"cgroup {tmp_path}/{names} cgroup rw,relatime,{names} 0 0\n"
    tree = cgroups.find_tree("fetchml-x", 9, mounts, "4:memory:/job\n3:cpu,cpuacct:/job\n2:pids:/elsewhere\n")
    assert tree.label == "cgroup-v1"
    assert tree.roots == {
        "memory": f"{tmp_path}/memory/job/fetchml-x",
        "cpu": f"{tmp_path}/cpu,cpuacct/job/fetchml-x",
        "pids": f"{tmp_path}/pids/fetchml-x",
    }


def test_cells_are_used_again_and_only_differences_are_written(tmp_path: Path) -> None:
    tree = real_tree("fetchml-test-cells")
    try:
        first = tree.acquire(Limits(memory_bytes=64 << 20, pids=10))
        assert first.is_empty()
        assert first.pids() == []
        tree.release(first)
        second = tree.acquire(Limits(memory_bytes=128 << 20, pids=10))
        assert second is first
        assert second.memory_bytes == 128 << 20
        third = tree.acquire(Limits())
        assert third.number != first.number
        tree.release(second)
        tree.release(third)
    finally:
        tree.close()
    assert not any(Path(root).exists() for root in tree.roots.values())


def test_what_a_killed_runner_left_is_removed_where_it_is_empty() -> None:
    tree = real_tree("fetchml-test-here")
    other = real_tree("fetchml-test-gone")
    other.release(other.acquire(Limits()))
    try:
        assert "fetchml-test-gone" in tree.siblings()
        assert tree.drop_sibling("fetchml-test-gone")
        assert not any(Path(root).exists() for root in other.roots.values())
    finally:
        tree.close()


def real_tree(name: str) -> Tree:
    try:
        return cgroups.find_tree(name, 0)
    except NoCgroups as reason:
        pytest.skip(f"no cgroups here: {reason}")
