"""What an attempt with a user of its own can do to others, and what is left when it is over: probes, as that user."""

import ctypes
import json
import os
import resource
import signal
import sys
from pathlib import Path

import pytest

from fetchmld.runner import isolation, proctree
from fetchmld.runner.isolation import Wanted
from fetchmld.runner.logs import mark_of_cut, read_live
from tests.runner.boxes import GB, home, output, uid
from tests.runner.client import RunnerClient, alive, until

pytestmark = pytest.mark.skipif(os.geteuid() != 0, reason="other users need root")

ADD_KEY, KEYCTL, SESSION_KEYRING, REVOKE = 248, 250, -3, 3  # of keyctl(2) on x86-64
DAEMONISE = (
    "import os, time\n"
    "for _ in range(3):\n"
    "    if os.fork() == 0:\n"
    "        os.setsid()\n"
    "        if os.fork() == 0:\n"
    "            os.environ.clear(); time.sleep(600)\n"
    "        os._exit(0)\n"
)
PROBE = """
import ctypes, json, os, resource, signal, socket, subprocess, sys
def tried(what):
    try:
        return f"done: {what()!r}"[:200]
    except Exception as error:
        return type(error).__name__
libc = ctypes.CDLL(None, use_errno=True)
given = json.loads(sys.argv[1])
def connect(path):
    with socket.socket(socket.AF_UNIX) as one:
        one.connect(path)
def ptrace(pid):
    if libc.ptrace(16, pid, 0, 0) < 0:
        raise OSError(ctypes.get_errno(), "ptrace")
def mount():
    if libc.mount(b"x", b"/mnt", b"tmpfs", 0, None) < 0:
        raise OSError(ctypes.get_errno(), "mount")
found = {f"read {path}": tried(lambda: open(path).read()) for path in given["files"]}
found |= {f"list {path}": tried(lambda: os.listdir(path)) for path in given["directories"]}
found |= {f"connect {path}": tried(lambda: connect(path)) for path in given["sockets"]}
found |= {f"signal {pid}": tried(lambda: os.kill(pid, 0)) for pid in given["pids"]}
found |= {f"ptrace {pid}": tried(lambda: ptrace(pid)) for pid in given["pids"]}
found |= {f"environ {pid}": tried(lambda: open(f"/proc/{pid}/environ").read()) for pid in given["pids"]}
hard = resource.getrlimit(resource.RLIMIT_NOFILE)[1]
found["raise a limit"] = tried(lambda: resource.setrlimit(resource.RLIMIT_NOFILE, (hard + 1, hard + 1)))
found["become root"] = tried(lambda: os.setuid(0))
found["other group"] = tried(lambda: os.setgroups([0]))
found["mount"] = tried(mount)
found["niceness"] = tried(lambda: os.nice(-5))
found["oom"] = tried(lambda: os.write(os.open("/proc/self/oom_score_adj", os.O_WRONLY), b"-1000"))
print(json.dumps({"found": found, "uids": os.getresuid(), "gids": os.getresgid(), "groups": os.getgroups(),
    "new_privileges": "NoNewPrivs:\\t1" in open("/proc/self/status").read(), "env": sorted(os.environ),
    "capabilities": [line.split()[1] for line in open("/proc/self/status") if line[:6] in ("CapEff", "CapPrm")],
    "core": resource.getrlimit(resource.RLIMIT_CORE)[1]}))
"""


def start(runner: RunnerClient, key: str, code: str, *words: str, number: int = 0, **options: object) -> Path:
    """Start Python as the `number`th user, in a directory of its own."""
    owner = uid(runner, number)
    directory = home(runner, key, owner)
    given = {"uid": owner, "cwd": str(directory), "pids": 200, "memory_bytes": GB, **options}
    runner.start(key, sys.executable, "-S", "-E", "-c", code, *words, **given)
    return directory


@pytest.mark.parametrize("limits", [{}, {"cores": 1}, {"weight_cores": 0}], ids=["plain", "quota", "small share"])
def test_it_is_in_its_cgroups_and_who_starts_it_in_none_of_them(runner: RunnerClient, limits: dict[str, int]) -> None:
    if "cgroup" not in runner.state["isolation"]["label"]:
        pytest.skip("no cgroups here")
    for number in range(3):
        start(runner, f"t{number}-1-0", "import time; time.sleep(600)", number=number, **limits)
    pids = [runner.take("started", f"t{number}-1-0")["pid"] for number in range(3)]
    cells = [cgroups_of(f"/proc/{pid}") for pid in pids]
    controllers = {"memory", "pids", "cpu"} & cells[0].keys() or {""}
    assert all("fetchml-" in cell[name] for cell in cells for name in controllers)
    assert len({tuple(cell[name] for name in controllers) for cell in cells}) == 3
    for thread in Path(f"/proc/{runner.state['pid']}/task").iterdir():
        assert not any("fetchml-" in path for path in cgroups_of(str(thread)).values())


def cgroups_of(process: str) -> dict[str, str]:
    """The cgroup of each controller, of version 1; of version 2 the one of the controller ""."""
    lines = [line.split(":", 2) for line in Path(f"{process}/cgroup").read_text().splitlines()]
    return {name: path for _, names, path in lines for name in names.split(",")}


def test_probes_of_another_user_are_refused(runner: RunnerClient, tmp_path: Path) -> None:
    neighbour = start(runner, "n-1-0", "import time; open('secret', 'w').write('x'); time.sleep(600)", number=1)
    other_pid = runner.take("started", "n-1-0")["pid"]
    until((neighbour / "secret").exists, "the neighbour's secret")
    key = tmp_path / "admin.key"
    key.write_text("fml_secret")
    key.chmod(0o600)
    live = runner.node_dir / "logs" / "live"
    probes = {
        "files": [str(key), "/etc/shadow", str(runner.node_dir / "journal"), str(neighbour / "secret")],
        "directories": [str(runner.node_dir), str(live), str(neighbour), str(runner.node_dir / "attempts")],
        "sockets": [runner.socket_path],
        "pids": [runner.pid, other_pid, os.getpid()],
    }
    limits = [[resource.RLIMIT_CORE, 0, 0], [resource.RLIMIT_NOFILE, 100, 100]]
    start(runner, "t-1-0", PROBE, json.dumps(probes), limits=limits)
    ended = runner.take("exited", "t-1-0")
    said = json.loads(output(runner, ended))
    assert {name: what for name, what in said["found"].items() if what.startswith("done")} == {}
    assert said["uids"] == said["gids"] == [uid(runner)] * 3
    assert said["groups"] == []
    assert said["new_privileges"]
    assert [int(number, 16) for number in said["capabilities"]] == [0, 0]
    assert said["env"] == [proctree.MARK, "LC_CTYPE", "PATH"]  # LC_CTYPE is Python's own doing
    assert said["core"] == 0


def test_programs_that_change_the_user_do_not(runner: RunnerClient) -> None:
    """A copy of `id` that belongs to root and bears the setuid bit."""
    directory = home(runner, "t-1-0", uid(runner))
    program = directory / "id"
    program.write_bytes(Path("/usr/bin/id").read_bytes())
    program.chmod(0o4755)
    ended = runner.run("t-1-0", str(program), "-u", uid=uid(runner), cwd=str(directory))
    assert output(runner, ended) == f"{uid(runner)}\n"


def test_it_writes_where_it_should_and_may_open_its_output_anew(runner: RunnerClient) -> None:
    code = "open('a', 'w').write('x'); open('/dev/stdout', 'a').write('to the log\\n')"
    directory = start(runner, "t-1-0", code)
    ended = runner.take("exited")
    assert (ended["code"], output(runner, ended)) == (0, "to the log\n")
    assert (directory / "a").stat().st_uid == uid(runner)


def test_a_user_id_that_is_not_ours_is_refused(runner: RunnerClient) -> None:
    for number in (0, 1, uid(runner) - 1, uid(runner) + 4096):
        runner.start(f"t-{number}-0", "/bin/true", uid=number)
        assert runner.take("start_failed", f"t-{number}-0")["errno"] == 1


def test_what_daemonised_and_hid_is_ended_with_its_leader(runner: RunnerClient) -> None:
    """Sessions of their own, an empty environment, no parent: only the user and the cgroup tell whose they are."""
    before = set(proctree.all_pids())
    start(runner, "t-1-0", DAEMONISE + "print('left', flush=True)")
    assert runner.take("exited")["code"] == 0
    assert [pid for pid in set(proctree.all_pids()) - before if proctree.uid_of(pid) == uid(runner)] == []


def test_many_that_end_at_once_leave_nothing_each(runner: RunnerClient) -> None:
    """More than one page of what the kernel lists, all to be killed at the same time: each once in a while."""
    litter = DAEMONISE + "import ctypes; assert ctypes.CDLL(None).shmget(0, 4096, 0o1600) >= 0"
    keys = [f"t-{number}-0" for number in range(50)]
    for number, key in enumerate(keys):
        start(runner, key, litter, number=number)
    ends = [runner.take("exited", key, wait_s=60) for key in keys]
    assert [end for end in ends if end.get("unkillable") or end["code"]] == []
    ours = range(uid(runner), uid(runner) + len(keys))
    assert [pid for pid in proctree.all_pids() if proctree.uid_of(pid) in ours] == []
    assert [
        line for line in Path("/proc/sysvipc/shm").read_text().splitlines()[1:] if int(line.split()[7]) in ours
    ] == []


def test_a_fork_bomb_ends_with_its_attempt(runner: RunnerClient) -> None:
    bomb = "import os\nwhile True:\n    try:\n        os.fork()\n    except OSError:\n        pass"
    start(runner, "t-1-0", bomb, pids=60, cores=0.2)
    runner.take("started")
    until(lambda: _count(uid(runner)) >= 55, "the bomb")
    assert _count(uid(runner)) <= 60
    runner.send({"do": "stop", "key": "t-1-0", "word": "CANCELLED", "grace_s": 0.0})
    assert runner.take("exited")["word"] == "CANCELLED"
    assert _count(uid(runner)) == 0


def _count(user: int) -> int:
    return sum(proctree.uid_of(pid) == user and alive(pid) for pid in proctree.all_pids())


def test_who_takes_too_much_memory_is_named_and_nobody_else_is_hurt(runner: RunnerClient) -> None:
    if "cgroup" not in runner.state["isolation"]["label"]:
        pytest.skip("no memory cgroup on this machine")
    start(runner, "n-1-0", "import time; time.sleep(600)", number=1)
    neighbour = runner.take("started")["pid"]
    start(runner, "t-1-0", "a = bytearray(200 << 20)", memory_bytes=64 << 20)
    ended = runner.take("exited")
    assert (ended["word"], ended["signal"]) == ("OOM_KILLED", signal.SIGKILL)
    assert ended["detail"] == "it used more than its 64 MB of memory"
    assert alive(neighbour)
    start(runner, "u-1-0", "raise SystemExit(3)", memory_bytes=64 << 20)  # perhaps in the same cgroup
    ended = runner.take("exited", "u-1-0")
    assert (ended["word"], ended["code"]) == ("", 3)


def test_files_and_memory_left_in_shared_places_go(runner: RunnerClient) -> None:
    code = (
        "import ctypes, os; libc = ctypes.CDLL(None)\n"
        "open('/dev/shm/fml-left', 'w').write('x'); os.makedirs('/tmp/fml-left/a/b'); open('/tmp/fml-left/a/c', 'w')\n"
        "os.symlink('/etc', '/tmp/fml-left/a/etc'); print(libc.shmget(0, 4096, 0o1600), libc.semget(0, 1, 0o1600))"
    )
    start(runner, "t-1-0", code)
    ended = runner.take("exited")
    assert ended["code"] == 0, output(runner, ended)
    assert [path for path in ("/dev/shm/fml-left", "/tmp/fml-left") if os.path.exists(path)] == []
    assert os.path.exists("/etc/passwd")
    assert [
        kind for kind in ("shm", "sem") if str(uid(runner)) in Path(f"/proc/sysvipc/{kind}").read_text().split()
    ] == []


KEYS = """
import ctypes, sys
libc = ctypes.CDLL(None, use_errno=True)
def keyctl(*words):
    return libc.syscall(250, *words)
for ring in (-3, -4, -5):
    print("found" if keyctl(10, ring, b"user", sys.argv[1].encode(), 0) > 0 else "nothing", end=" ")
print(libc.syscall(248, b"user", sys.argv[1].encode(), b"mine", 4, -4) > 0, keyctl(22, -1, -2) > 0)
"""


@pytest.mark.skipif(os.uname().machine != "x86_64", reason="system calls by number")
@pytest.mark.skipif(not Path("/proc/key-users").exists(), reason="this kernel has no keys")
def test_keys_in_the_kernel_are_neither_inherited_nor_left(short_dir: Path) -> None:
    """Not those of the session that the runner was started in, nor those of an attempt that had the same user id."""
    libc, name = ctypes.CDLL(None, use_errno=True), f"fetchml-test-{os.getpid()}"
    ours = libc.syscall(ADD_KEY, b"user", name.encode(), b"secret", 6, SESSION_KEYRING)
    if ours < 0:
        pytest.skip(f"no key can be added here: {os.strerror(ctypes.get_errno())}")
    runner = RunnerClient(short_dir)  # started now, in our session
    try:
        runner.connect()
        for turn in range(2):
            start(runner, f"k-{turn}-0", KEYS, name)
            ended = runner.take("exited", f"k-{turn}-0")
            assert output(runner, ended) == "nothing nothing nothing True True\n"
            runner.forget(f"k-{turn}-0")  # the agent gives nobody the user before it says so
    finally:
        runner.close()
        libc.syscall(KEYCTL, REVOKE, ours)


def test_what_a_neighbour_keeps_in_shared_places_stays_until_its_own_end(runner: RunnerClient) -> None:
    mine = Path("/dev/shm/fml-mine")
    start(runner, "n-1-0", f"import time; open('{mine}', 'w'); time.sleep(600)", number=1)
    until(mine.exists, "the neighbour's file")
    start(runner, "t-1-0", "pass")
    runner.take("exited", "t-1-0")
    assert mine.exists()
    runner.send({"do": "stop", "key": "n-1-0", "word": "CANCELLED", "grace_s": 0.0})
    runner.take("exited", "n-1-0")
    assert not mine.exists()


def test_a_log_that_is_too_long_is_cut_and_says_so(runner: RunnerClient) -> None:
    writes = "import os, time\nfor n in range(3000):\n    os.write(1, b'%09d\\n' % n)\n"
    code = writes + "open('done', 'w'); time.sleep(600)"
    directory = start(runner, "t-1-0", code, log_bytes_max=10_000)
    slot = runner.take("started")["slot"]
    until((directory / "done").exists, "all of its output: it is neither stopped nor ended")
    wanted = b"".join(b"%09d\n" % n for n in range(1000)) + mark_of_cut(10_000)
    logs = f"{runner.node_dir}/logs"
    until(lambda: read_live(logs, slot, 0, 1 << 20, 10_000) == (wanted, len(wanted)), "the mark")
    runner.send({"do": "stop", "key": "t-1-0", "word": "CANCELLED", "grace_s": 0.0})
    ended = runner.take("exited")
    assert output(runner, ended).encode() == wanted
    assert ended["log"]["length"] == len(wanted)


def test_a_new_runner_knows_users_and_cgroups_of_what_it_adopts(fresh: RunnerClient) -> None:
    start(fresh, "t-1-0", DAEMONISE + "time.sleep(600)")
    pid = fresh.take("started")["pid"]
    until(lambda: _count(uid(fresh)) == 4, "its children")
    users = fresh.state["isolation"]["uids"]
    fresh.kill_runner()
    fresh.connect()
    assert fresh.state["isolation"]["uids"] == users
    assert fresh.state["running"] == [{"key": "t-1-0", "pid": pid, "slot": 0}]
    fresh.send({"do": "stop", "key": "t-1-0", "word": "CANCELLED", "grace_s": 0.0})
    assert fresh.take("exited")["word"] == "CANCELLED"
    assert _count(users[0]) == 0


def test_a_clean_end_leaves_no_cgroup(short_dir: Path) -> None:
    runner = RunnerClient(short_dir, idle_s=0.1).connect()
    start(runner, "t-1-0", "pass")
    runner.take("exited")
    runner.forget("t-1-0")
    runner.disconnect()
    until(lambda: not alive(runner.pid), "the runner to leave")
    name = isolation.tree_name(str(runner.node_dir))
    assert list(Path("/sys/fs/cgroup").glob(f"**/{name}")) == []


def test_two_runners_have_users_of_their_own(runner: RunnerClient, fresh: RunnerClient) -> None:
    assert runner.state["isolation"]["uids"] != fresh.state["isolation"]["uids"]


def test_none_means_none(short_dir: Path) -> None:
    said: list[str] = []
    found = isolation.find(str(short_dir / "node"), Wanted(isolation="none"), set(), said.append)
    assert found.facts() == {
        "label": "single-trust",
        "limits": {"memory": "rlimits", "pids": "rlimits", "cores": "not limited"},
        "why": "isolation = none",
    }
