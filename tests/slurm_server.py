"""A Slurm of our own: a controller, and a node with two cores and a GPU that is /dev/null, in a folder.

It has its own munge, ports and state, and is met through SLURM_CONF alone, so that it stands beside a
site's Slurm, or beside another one of these, without touching it. There is no accounting daemon, as on
some sites. Without cgroups (which need systemd) memory is watched by polling.

    with SlurmServer() as slurm:
        subprocess.run(["sinfo"], env=os.environ | slurm.environment)
"""

from __future__ import annotations

import os
import secrets
import shutil
import socket
import subprocess
import tempfile
import time
from collections.abc import Callable
from contextlib import ExitStack
from pathlib import Path
from typing import Self

PROGRAMS = ("munged", "slurmctld", "slurmd", "sbatch", "squeue", "scontrol", "scancel", "sinfo")

_CONF = """\
ClusterName=heliodor
SlurmctldHost={host}(127.0.0.1)
SlurmUser=root
SlurmdUser=root
SlurmctldPort={controller_port}
SlurmdPort={node_port}
AuthType=auth/munge
CredType=cred/munge
AuthInfo=socket={folder}/munge.socket,cred_expire=5
StateSaveLocation={folder}/state
SlurmdSpoolDir={folder}/node
SlurmctldPidFile={folder}/slurmctld.pid
SlurmdPidFile={folder}/slurmd.pid
SlurmctldLogFile={folder}/slurmctld.log
SlurmdLogFile={folder}/slurmd.log
MpiDefault=none
SwitchType=switch/none
ProctrackType=proctrack/linuxproc
TaskPlugin=task/none
AccountingStorageType=accounting_storage/none
JobAcctGatherType=jobacct_gather/linux
JobAcctGatherFrequency=task=1
JobAcctGatherParams=OverMemoryKill
SchedulerType=sched/backfill
SchedulerParameters=batch_sched_delay=0,sched_interval=1,bf_interval=1
SelectType=select/cons_tres
SelectTypeParameters=CR_Core_Memory
SlurmdParameters=config_overrides
PreemptType=preempt/partition_prio
PreemptMode=CANCEL
GresTypes=gpu
DefMemPerCPU=200
KillWait=2
MinJobAge={kept}
ReturnToService=2
EnforcePartLimits=ALL
NodeName=node NodeHostname={host} NodeAddr=127.0.0.1 CPUs=2 RealMemory=8000 Gres=gpu:h200:1
PartitionName=batch Nodes=node Default=YES MaxTime=7-0 PriorityTier=2 State=UP
PartitionName=spare Nodes=node MaxTime=7-0 PriorityTier=1 State=UP
"""


def _free_port() -> int:
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        return int(probe.getsockname()[1])


def why_not() -> str | None:
    """Why no Slurm can be started here; None where it can."""
    missing = [name for name in PROGRAMS if shutil.which(name, path=_PATH) is None]
    if missing:
        return f"no {', '.join(missing)} (Debian: apt-get install slurm-wlm munge)"
    if os.geteuid() != 0:
        return "Slurm's daemons are started as root"
    if socket.gethostname().partition(".")[0] == "localhost":
        return "Slurm takes no host of the name localhost"
    return None


_PATH = os.pathsep.join([os.environ.get("PATH", ""), "/usr/sbin"])


class SlurmServer:
    """A Slurm that lives as long as the context.

    Args:
        kept: seconds for which the controller knows jobs that have ended (MinJobAge).
    """

    def __init__(self, kept: int = 300) -> None:
        self._kept = kept
        self._stack = ExitStack()
        self._controller: subprocess.Popen[bytes] | None = None

    def __enter__(self) -> Self:
        self.folder = Path(tempfile.mkdtemp(prefix="heliodor-slurm-"))
        self._stack.callback(shutil.rmtree, self.folder, ignore_errors=True)
        try:
            self._start()
        except BaseException:
            self._stack.close()
            raise
        return self

    def __exit__(self, *_error: object) -> None:
        self.command("scancel", "--user=root", "--signal=KILL", "--full", check=False)
        self._stack.close()

    @property
    def environment(self) -> dict[str, str]:
        """What makes Slurm's programs speak to this one."""
        return {"SLURM_CONF": str(self.folder / "slurm.conf")}

    def command(self, *words: str, check: bool = True) -> str:
        """The output of one of Slurm's programs."""
        done = subprocess.run(
            words,
            env=os.environ | self.environment,
            capture_output=True,
            text=True,
            timeout=60,
            check=check,
        )
        return done.stdout

    def _start(self) -> None:
        self.folder.chmod(0o755)
        for name in ("state", "node"):
            (self.folder / name).mkdir()
        key = self.folder / "munge.key"
        key.write_bytes(secrets.token_bytes(128))
        key.chmod(0o400)
        text = _CONF.format(
            host=socket.gethostname().partition(".")[0],
            controller_port=_free_port(),
            node_port=_free_port(),
            folder=self.folder,
            kept=self._kept,
        )
        (self.folder / "slurm.conf").write_text(text)
        (self.folder / "gres.conf").write_text("Name=gpu Type=h200 File=/dev/null\n")
        places = {
            "socket": "socket",
            "key-file": "key",
            "pid-file": "pid",
            "log-file": "log",
            "seed-file": "seed",
        }
        options = [f"--{name}={self.folder}/munge.{place}" for name, place in places.items()]
        self._daemon("munged", "--foreground", "--force", "--num-threads=2", *options)
        self._wait((self.folder / "munge.socket").exists, "munged")
        self.start_controller()
        self._daemon("slurmd", "-D", "-N", "node")
        self._wait(lambda: "idle" in self.command("sinfo", "-h", "-o%t", check=False), "slurmd")

    def start_controller(self) -> None:
        """Start the controller; it goes on with the queue that it had."""
        self._controller = self._daemon("slurmctld", "-D")
        self._wait(lambda: "UP" in self.command("scontrol", "ping", check=False), "slurmctld")

    def kill_controller(self) -> None:
        """End the controller at once; jobs that run go on."""
        assert self._controller is not None
        self._controller.kill()
        self._controller.wait()

    def _daemon(self, *command: str) -> subprocess.Popen[bytes]:
        log = (self.folder / f"{command[0]}.out").open("ab")
        self._stack.enter_context(log)
        environment = os.environ | self.environment | {"PATH": _PATH}
        process = subprocess.Popen(command, env=environment, stdout=log, stderr=log)
        self._stack.callback(_end, process)
        return process

    def _wait(self, ready: Callable[[], bool], what: str) -> None:
        deadline = time.monotonic() + 60
        while not ready():
            if time.monotonic() > deadline:
                logs = "\n".join(
                    p.read_text(errors="replace")[-2000:] for p in self.folder.glob("*.out")
                )
                raise RuntimeError(f"{what} does not come up: {logs}")
            time.sleep(0.05)


def _end(process: subprocess.Popen[bytes]) -> None:
    if process.poll() is None:
        process.terminate()
        try:
            process.wait(10)
        except subprocess.TimeoutExpired:
            process.kill()
            process.wait()
