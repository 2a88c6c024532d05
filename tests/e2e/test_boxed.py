"""What a task can reach of a whole daemon on its machine: all that there is to try, tried as the task's user."""

import json
import os
from pathlib import Path
from typing import Any

import pytest

from tests.e2e.conftest import Shell

pytestmark = [pytest.mark.e2e, pytest.mark.skipif(os.geteuid() != 0, reason="other users need root")]

PROBE = r"""
import ctypes, glob, json, os, signal, socket, sys, urllib.error, urllib.request

given = json.loads(sys.argv[1])
libc = ctypes.CDLL(None, use_errno=True)
done = []

def tried(name, what):
    try:
        found = what()
    except Exception as error:
        return type(error).__name__
    done.append(f"{name}: {found!r}"[:300])

def checked(result):
    if result < 0:
        raise OSError(ctypes.get_errno(), "refused")
    return result

def connected(address):
    with socket.socket(socket.AF_UNIX) as one:
        one.connect(address)

for top in given["private"]:
    tried(f"list {top}", lambda: os.listdir(top))
for path in given["files"]:
    tried(f"read {path}", lambda: open(path, "rb").read(10))
    tried(f"write {path}", lambda: open(path, "ab"))
    tried(f"remove {path}", lambda: os.unlink(path))
for path in given["sockets"]:
    tried(f"connect {path}", lambda: connected(path))
for line in open("/proc/net/unix").read().splitlines()[1:]:
    name = line.split()[-1]
    if name.startswith("@") and not name.startswith("@/tmp/.X11"):
        tried(f"connect {name}", lambda: connected("\0" + name[1:]))
seen = [int(name) for name in os.listdir("/proc") if name.isdigit()]
strangers = [pid for pid in seen if os.stat(f"/proc/{pid}").st_uid != os.getuid()]
if strangers:
    done.append(f"sees processes of others: {strangers[:5]}")
for pid in given["pids"]:
    for number in (0, signal.SIGKILL, signal.SIGSTOP):
        tried(f"signal {number} to {pid}", lambda: os.kill(pid, number))
    tried(f"ptrace {pid}", lambda: checked(libc.ptrace(16, pid, 0, 0)))
    for name in ("environ", "mem", "maps", "cmdline", "fd", "root", "cwd"):
        tried(f"/proc/{pid}/{name}", lambda: os.listdir(f"/proc/{pid}/{name}") if name == "fd" else
              os.readlink(f"/proc/{pid}/{name}") if name in ("root", "cwd") else open(f"/proc/{pid}/{name}", "rb").read(1))
    tried(f"limits of {pid}", lambda: __import__("resource").prlimit(pid, 7, (10, 10)))
    tried(f"pidfd of {pid}", lambda: signal.pidfd_send_signal(os.pidfd_open(pid), signal.SIGKILL))
    tried(f"niceness of {pid}", lambda: os.setpriority(os.PRIO_PROCESS, pid, 19))
tried("signal everybody", lambda: [os.kill(-pid, signal.SIGTERM) for pid in given["pids"]])
for path in glob.glob("/dev/shm/*"):
    if os.stat(path).st_uid == 0 and os.path.isfile(path):
        tried(f"write {path}", lambda: open(path, "r+b"))
for path in ("/dev/mem", "/dev/kmsg", "/dev/sda", "/dev/vda", "/dev/kvm"):
    tried(f"open {path}", lambda: os.open(path, os.O_RDWR))
for kind in ("cgroup.procs", "tasks"):
    for path in glob.glob(f"/sys/fs/cgroup/**/{kind}", recursive=True)[:50]:
        tried(f"join {path}", lambda: os.write(os.open(path, os.O_WRONLY), b"0"))
for path in ("/proc/sys/kernel/core_pattern", "/proc/sysrq-trigger", "/proc/self/oom_score_adj"):
    tried(f"write {path}", lambda: os.write(os.open(path, os.O_WRONLY), b"-900"))
tried("trace with bpf", lambda: checked(libc.syscall(321, 5, ctypes.create_string_buffer(128), 128)))
tried("load a module", lambda: checked(libc.syscall(175, b"", 0, b"")))
tried("set the clock", lambda: __import__("time").clock_settime(0, 0))
tried("host name", lambda: socket.sethostname("x"))
tried("raw socket", lambda: socket.socket(socket.AF_INET, socket.SOCK_RAW, 1))
tried("core dumps", lambda: __import__("resource").setrlimit(4, (1, 1)))
body = json.dumps({"job_id": "x", "serialized_runtime_env": "{}"}).encode()
for port in given["ports"]:
    for target in ("/get_or_create_runtime_env", "/v1/tasks", "/v1/objects/x", "/v1/blobs/x", "/api/jobs/"):
        for data in (None, body):
            tried(f"http {port} {target}", lambda: urllib.request.urlopen(
                urllib.request.Request(f"http://127.0.0.1:{port}{target}", data), timeout=3).status)
print(json.dumps({"done": done, "env": sorted(os.environ), "core": __import__("resource").getrlimit(4)[1]}))
"""


def test_a_task_reaches_nothing_of_the_daemons(shell: Shell, open_dir: Path) -> None:
    shell.start()
    run_dir = Path((shell.data_dir / "run_dir").read_text().strip())
    script = open_dir / "probe.py"
    script.write_text(PROBE)
    files = [path for path in (*shell.data_dir.rglob("*"), *run_dir.rglob("*")) if path.is_file()]
    given: dict[str, list[Any]] = {
        "private": [
            str(shell.data_dir),
            str(shell.data_dir / "ledger"),
            str(shell.data_dir / "node"),
            str(run_dir),
            "/root",
        ],
        "files": [str(path) for path in files if path.suffix != ".so"][:200],
        "sockets": [str(path) for path in run_dir.rglob("*") if path.is_socket()],
        "pids": [1, shell.daemon["pid"], *shell.processes()],
        "ports": listening({shell.daemon["pid"], *shell.processes()}),
    }
    assert len(given["files"]) > 20, "the probe has something to try"
    assert len(given["sockets"]) >= 4
    assert len(given["ports"]) >= 4
    (open_dir / "given").write_text(json.dumps(given))
    out = shell.fetchmld(
        "submit", "--follow", "--time-limit", "120", "--", "sh", "-c",
        f'exec python3 -I {script} "$(cat {open_dir}/given)"',
    )  # fmt: skip
    said = json.loads(next(line for line in out.splitlines() if line.startswith("{")))
    assert said["done"] == []
    assert said["core"] == 0
    assert [name for name in said["env"] if "RAY" in name or "TOKEN" in name or "KEY" in name] == []
    assert shell.fetchmld("submit", "--follow", "--", "echo", "the runner lives").strip()
    assert {pid for pid in given["pids"] if Path(f"/proc/{pid}").exists()} >= {1, shell.daemon["pid"]}
    assert shell.fetchmld("audit", "verify").startswith("valid")


def listening(pids: set[int]) -> list[int]:
    """The TCP ports that these processes listen on."""
    inodes = set()
    for pid in pids:
        for fd in Path(f"/proc/{pid}/fd").iterdir():
            try:
                target = os.readlink(fd)
            except OSError:
                continue
            if target.startswith("socket:["):
                inodes.add(target[8:-1])
    found = set()
    for name in ("tcp", "tcp6"):
        for line in Path(f"/proc/net/{name}").read_text().splitlines()[1:]:
            words = line.split()
            if words[3] == "0A" and words[9] in inodes:
                found.add(int(words[1].rpartition(":")[2], 16))
    return sorted(found)
