"""Slurm running `/bin/true`, one node, tuned for many short jobs: `python slurm_peer.py lone|many|queued COUNT DIRECTORY`.

munged, slurmctld and slurmd of this machine's packages, started here, below DIRECTORY, on loopback, and ended here. The
controller starts waiting jobs once a second only, so it is told that the node has 256 processors. `lone` is
`sbatch --wait`, `lone_srun` is `srun`. Needs root (to become munge's user). Prints one line of JSON, as
`hyperqueue_peer.py` does.
"""

import contextlib
import json
import os
import pwd
import shutil
import statistics
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Final

HERE: Final = Path(__file__).resolve().parent
CONTROLLER_PORT, NODE_PORT = 16817, 16818
CPUS: Final = 256
READY_MAX_S: Final = 30.0
END_S_PER_JOB: Final = 0.1
CONFIGURATION: Final = """
ClusterName=bench
SlurmctldHost=localhost(127.0.0.1)
SlurmUser=root
SlurmdUser=root
SlurmctldPort={controller}
SlurmdPort={node}
CommunicationParameters=NoCtldInAddrAny,NoInAddrAny
AuthType=auth/munge
CredType=cred/munge
AuthInfo=socket={munge}/socket
StateSaveLocation={directory}/state
SlurmdSpoolDir={directory}/spool
SlurmctldPidFile={directory}/controller.pid
SlurmdPidFile={directory}/node.pid
SlurmctldLogFile={directory}/controller.log
SlurmdLogFile={directory}/node.log
ProctrackType=proctrack/pgid
TaskPlugin=task/none
SwitchType=switch/none
MpiDefault=none
ReturnToService=2
JobAcctGatherType=jobacct_gather/none
AccountingStorageType=accounting_storage/none
JobCompType=jobcomp/none
SelectType=select/cons_tres
SelectTypeParameters=CR_CPU
PriorityType=priority/basic
SchedulerType=sched/builtin
SchedulerParameters=sched_interval=1,batch_sched_delay=0,default_queue_depth=1000,max_rpc_cnt=0
SlurmdParameters=config_overrides
MaxJobCount=300000
MinJobAge=2
CompleteWait=0
KillWait=5
MessageTimeout=60
EpilogMsgTime=0
NodeName=localhost NodeAddr=127.0.0.1 CPUs={cpus} RealMemory=20000 State=UNKNOWN
PartitionName=all Nodes=localhost Default=YES MaxTime=INFINITE State=UP
"""


@contextlib.contextmanager
def running(words: list[str], environment: dict[str, str]) -> Iterator[subprocess.Popen[bytes]]:
    quiet = subprocess.DEVNULL
    process = subprocess.Popen(words, env=environment, stdin=quiet, stdout=quiet, stderr=quiet)
    try:
        yield process
    finally:
        process.terminate()
        try:
            process.wait(10)
        except subprocess.TimeoutExpired:
            process.kill()
            process.wait()


class Slurm:
    """A cluster of one node, while `started`."""

    def __init__(self, directory: Path) -> None:
        self.directory = directory
        self.environment = {**os.environ, "SLURM_CONF": str(directory / "slurm.conf")}
        self.controller_pid = 0

    def ask(self, *words: str) -> str:
        return subprocess.run(
            words, env=self.environment, capture_output=True, text=True, timeout=120, check=True
        ).stdout

    @contextlib.contextmanager
    def started(self) -> Iterator["Slurm"]:
        for name in ("state", "spool"):
            (self.directory / name).mkdir()
        munge = Path(tempfile.mkdtemp(prefix="munge-bench-", dir="/run"))
        try:
            self.write(munge)
            with contextlib.ExitStack() as stack:
                user = ["setpriv", "--reuid=munge", "--regid=munge", "--clear-groups"]
                files = [f"--{name}-file={munge}/{name}" for name in ("key", "pid", "log", "seed")]
                stack.enter_context(
                    running([*user, "munged", "-F", f"--socket={munge}/socket", *files], self.environment)
                )
                until((munge / "socket").exists, "munged")
                configuration = ["-D", "-f", self.environment["SLURM_CONF"]]
                controller = stack.enter_context(running(["slurmctld", "-c", *configuration], self.environment))
                self.controller_pid = controller.pid
                stack.enter_context(running(["slurmd", "-N", "localhost", *configuration], self.environment))
                until(self.is_idle, "slurmctld and slurmd")
                yield self
        finally:
            shutil.rmtree(munge)

    def write(self, munge: Path) -> None:
        owner = pwd.getpwnam("munge")
        key = munge / "key"
        key.write_bytes(os.urandom(1024))
        key.chmod(0o400)
        for each in (munge, key):
            os.chown(each, owner.pw_uid, owner.pw_gid)
        munge.chmod(0o755)
        places = {"controller": CONTROLLER_PORT, "node": NODE_PORT, "cpus": CPUS}
        text = CONFIGURATION.format(directory=self.directory, munge=munge, **places)
        Path(self.environment["SLURM_CONF"]).write_text(text)

    def is_idle(self) -> bool:
        try:
            return "idle" in self.ask("sinfo", "-h", "-o", "%T")
        except subprocess.CalledProcessError:
            return False

    def submit(self, count: int, held: bool) -> float:
        """Seconds that the submissions took."""
        program = HERE.parent / "bin" / "slurm_submit"
        words = [str(program), str(count), "held" if held else "free", str(self.directory)]
        return float(subprocess.run(words, env=self.environment, capture_output=True, check=True).stdout)

    def wait_for_end(self, count: int) -> float:
        deadline = time.monotonic() + 60 + count * END_S_PER_JOB
        while left := len(self.ask("squeue", "-h", "-r", "-o", "%i").splitlines()):
            if time.monotonic() > deadline:
                raise SystemExit(f"Slurm still has {left} of {count} jobs")
            time.sleep(0.05 if left < 200 else 0.5)
        return time.perf_counter()

    def resident_bytes(self) -> int:
        pages = int(Path(f"/proc/{self.controller_pid}/statm").read_text().split()[1])
        return pages * os.sysconf("SC_PAGE_SIZE")


def until(holds: Callable[[], bool], what: str) -> None:
    deadline = time.monotonic() + READY_MAX_S
    while not holds():
        if time.monotonic() > deadline:
            raise SystemExit(f"{what} did not get ready within {READY_MAX_S:.0f} s")
        time.sleep(0.05)


def median_ms(count: int, run: Callable[[], object]) -> float:
    took_ms = []
    for _ in range(count):
        begun = time.perf_counter()
        run()
        took_ms.append((time.perf_counter() - begun) * 1e3)
    return statistics.median(took_ms)


def main() -> None:
    what, count, directory = sys.argv[1], int(sys.argv[2]), Path(sys.argv[3])
    with Slurm(directory).started() as slurm:
        found: dict[str, float] = {}
        if what == "lone":
            script = directory / "true.sh"
            script.write_text("#!/bin/true\n")
            batch = ("sbatch", "--wait", "--quiet", "-o", "/dev/null", str(script))
            found["lone_p50_ms"] = median_ms(count, lambda: slurm.ask(*batch))
            found["lone_srun_p50_ms"] = median_ms(count, lambda: slurm.ask("srun", "-Q", "/bin/true"))
        elif what == "many":
            begun = time.perf_counter()
            submitted_s = slurm.submit(count, held=False)
            found = {
                "per_s": count / (slurm.wait_for_end(count) - begun),
                "submitted_per_s": count / submitted_s,
            }
        else:
            before = slurm.resident_bytes()
            slurm.submit(count, held=True)
            found = {"bytes_per_task": (slurm.resident_bytes() - before) / count}
    print(json.dumps(found))


if __name__ == "__main__":
    main()
