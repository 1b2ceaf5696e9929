"""A Slurm of one node on this machine, for tests: its own authentication, controller and node, in a temporary folder.

Debian: ``apt-get install slurmctld slurmd slurm-client munge``. Nothing of the machine's own Slurm is read or changed.
"""

from __future__ import annotations

import os
import shutil
import signal
import socket
import subprocess
import tempfile
import time
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from pathlib import Path

PROGRAMS = ("slurmctld", "slurmd", "munged", "sbatch", "srun", "squeue", "scontrol", "scancel")

#: No accounting, no cgroups, one partition that preempts another; every wait as short as Slurm allows.
CONFIG = """\
ClusterName=test
SlurmctldHost={host}(127.0.0.1)
SlurmctldPort={ports[0]}
SlurmdPort={ports[1]}
SlurmUser=root
SlurmdUser=root
AuthType=auth/munge
AuthInfo=socket={folder}/munge.socket
CredType=cred/munge
StateSaveLocation={folder}/state
SlurmdSpoolDir={folder}/spool
SlurmctldPidFile={folder}/slurmctld.pid
SlurmdPidFile={folder}/slurmd.pid
SlurmctldLogFile={folder}/slurmctld.log
SlurmdLogFile={folder}/slurmd.log
ProctrackType=proctrack/linuxproc
TaskPlugin=task/none
JobAcctGatherType=jobacct_gather/none
AccountingStorageType=accounting_storage/none
MpiDefault=none
SwitchType=switch/none
SelectType=select/cons_tres
SelectTypeParameters=CR_Core
SchedulerType=sched/builtin
SchedulerParameters=batch_sched_delay=0,sched_interval=1,requeue_setup_env_fail
PreemptType=preempt/partition_prio
PreemptMode=REQUEUE
JobRequeue=1
ReturnToService=2
KillWait=2
MinJobAge=300
SlurmdTimeout={node_timeout}
SlurmctldTimeout=30
InactiveLimit=0
UnkillableStepTimeout=10
NodeName=node NodeHostname={host} NodeAddr=127.0.0.1 CPUs={cpus} RealMemory=1000 State=UNKNOWN
PartitionName=main Nodes=node Default=YES MaxTime=INFINITE State=UP PriorityTier=1 GraceTime=5
PartitionName=urgent Nodes=node MaxTime=INFINITE State=UP PriorityTier=9
"""


def missing() -> list[str]:
    """The programs that this machine lacks; some of Debian's are where only root's PATH leads."""
    return [name for name in PROGRAMS if _which(name) is None]


def _which(name: str) -> str | None:
    return shutil.which(name, path=os.environ.get("PATH", "") + ":/usr/sbin:/usr/local/sbin")


class Slurm:
    """The running programs.

    Attributes:
        folder: where its files are.
        environment: what a command needs in its environment to speak to this Slurm.
    """

    def __init__(self, folder: Path, cpus: int, node_timeout: int) -> None:
        self.folder = folder
        self.environment = {"SLURM_CONF": str(folder / "slurm.conf")}
        self.running: dict[str, subprocess.Popen[bytes]] = {}
        self.waiting: dict[str, float] = {}
        ports = _free_ports(2)
        host = socket.gethostname().partition(".")[0]
        text = CONFIG.format(folder=folder, host=host, ports=ports, cpus=cpus, node_timeout=node_timeout)
        (folder / "slurm.conf").write_text(text)
        (folder / "munge.key").write_bytes(os.urandom(128))
        (folder / "munge.key").chmod(0o400)
        for name in ("state", "spool"):
            (folder / name).mkdir()

    def start(self) -> None:
        """Starts all and waits for the node."""
        self._start(
            *("munged", "--foreground", "--force", "--num-threads=2"),
            *(f"--{name}-file={self.folder}/munge.{name}" for name in ("key", "pid", "log", "seed")),
            f"--socket={self.folder}/munge.socket",
        )
        _wait(lambda: (self.folder / "munge.socket").exists(), 20, "munged")
        self._start("slurmctld", "-D", "-c", "-i")
        self.start_node()

    def start_node(self) -> None:
        """Starts the node's program, also after ``kill_node``."""
        self._start("slurmd", "-D", "-N", "node")
        _wait(lambda: self.node() == "idle", 60, "the node")

    def node(self) -> str:
        """The node's state, as ``sinfo`` says it."""
        return self.command("sinfo", "-h", "-p", "main", "-o", "%t")

    def kill_node(self) -> None:
        """The node is gone from one moment to the next: its program, and all that jobs started on it."""
        node = self.running.pop("slurmd")
        families = [process for process in _descendants(node.pid) if process != node.pid]
        for process in (node.pid, *families):
            _kill(process)
        node.wait()
        for process in _stepds(self.folder):
            for each in _descendants(process):
                _kill(each)

    def hurry(self) -> None:
        """Has jobs start that were queued again, after which Slurm waits two minutes, as soon as it has cleared up."""
        lines = self.command("squeue", "--noheader", "--array", "--format=%i|%T|%r").splitlines()
        jobs = {line.partition("|")[0] for line in lines if line.endswith("PENDING|BeginTime")}
        now = time.monotonic() if self.node() == "idle" else float("inf")
        self.waiting = {job: self.waiting.get(job, now) for job in jobs}
        for job, since in self.waiting.items():
            if now - since > 3:
                self.command("scontrol", "update", f"jobid={job}", "StartTime=now")

    def command(self, *words: str) -> str:
        """What one of Slurm's commands prints; empty where it fails."""
        environment = {**os.environ, **self.environment}
        done = subprocess.run(words, env=environment, capture_output=True, text=True, timeout=60, check=False)
        return done.stdout.strip()

    def stop(self) -> None:
        """Ends all jobs and programs."""
        if "slurmctld" in self.running:
            self.command("scancel", "-f", "--user=root")
        for name in ("slurmd", "slurmctld", "munged"):
            if name in self.running:
                self.running[name].terminate()
        for process in self.running.values():
            try:
                process.wait(20)
            except subprocess.TimeoutExpired:
                process.kill()
        for process in _stepds(self.folder):
            for each in _descendants(process):
                _kill(each)

    def _start(self, program: str, *words: str) -> None:
        path = _which(program)
        assert path is not None
        with open(self.folder / f"{program}.out", "ab") as output:
            self.running[program] = subprocess.Popen(
                [path, *words], env={**os.environ, **self.environment}, stdout=output, stderr=output
            )


@contextmanager
def slurm(cpus: int = 2, node_timeout: int = 10) -> Iterator[Slurm]:
    """A Slurm that is ready for jobs.

    Args:
        cpus: of its node, whatever the machine has.
        node_timeout: seconds of silence after which a node counts as down.
    """
    with tempfile.TemporaryDirectory(prefix="slurm", ignore_cleanup_errors=True) as folder:
        service = Slurm(Path(folder), cpus, node_timeout)
        try:
            service.start()
            yield service
        finally:
            service.stop()


def _free_ports(count: int) -> list[int]:
    sockets = [socket.socket() for _ in range(count)]
    for each in sockets:
        each.bind(("127.0.0.1", 0))
    ports = [int(each.getsockname()[1]) for each in sockets]
    for each in sockets:
        each.close()
    return ports


def _wait(ready, seconds: float, what: str) -> None:
    until = time.monotonic() + seconds
    while not ready():
        assert time.monotonic() < until, f"{what} did not come up in {seconds:.0f} s"
        time.sleep(0.1)


def _descendants(process: int) -> list[int]:
    """The process and all below it."""
    try:
        children = Path(f"/proc/{process}/task/{process}/children").read_text().split()
    except OSError:
        return []
    return [process, *(each for child in children for each in _descendants(int(child)))]


def _stepds(folder: Path) -> list[int]:
    """The processes that look after steps on this node: they belong to nobody."""
    found = []
    for entry in Path("/proc").iterdir():
        if entry.name.isdecimal():
            try:
                words = (entry / "cmdline").read_bytes()
                environment = (entry / "environ").read_bytes()
            except OSError:
                continue
            if words.startswith(b"slurmstepd") and str(folder).encode() in environment:
                found.append(int(entry.name))
    return found


def _kill(process: int) -> None:
    with suppress(ProcessLookupError):
        os.kill(process, signal.SIGKILL)
