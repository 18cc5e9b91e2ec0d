"""Slurm on hosts of this machine: its own daemons, from Debian's packages, set up in a folder of the test.

Every host is a node with one CPU and one GPU, which Slurm only counts. Jobs in partition `high` preempt those in `low`.
"""

import contextlib
import os
import shutil
import time
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path

from tests.cluster import hosts
from tests.cluster.hosts import Host

CONFIGURATION = """
ClusterName=test
SlurmctldHost={first}
SlurmUser=root
SlurmdUser=root
AuthInfo=socket={folder}/munge.socket
StateSaveLocation={folder}/state
SlurmdSpoolDir={folder}/spool-%n
SlurmctldPidFile={folder}/slurmctld.pid
SlurmdPidFile={folder}/slurmd-%n.pid
ProctrackType=proctrack/linuxproc
TaskPlugin=task/none
MpiDefault=none
SelectType=select/cons_tres
SelectTypeParameters=CR_CPU
SchedulerParameters=sched_interval=1,bf_interval=1
PreemptType=preempt/partition_prio
PreemptMode=REQUEUE
GresTypes=gpu
ReturnToService=2
{nodes}
PartitionName=low Nodes=ALL Default=YES PriorityTier=1
PartitionName=high Nodes=ALL PriorityTier=2
"""


def lacking() -> str | None:
    """Why there can be no Slurm here; None where there can."""
    missing = [name for name in ("slurmctld", "slurmd", "munged", "sbatch") if not shutil.which(name)]
    return hosts.lacking() or (
        f"needs {', '.join(missing)} (packages slurmctld, slurmd, slurm-client and munge)" if missing else None
    )


@dataclass
class Slurm:
    """Slurm at work.

    Attributes:
        nodes: by the order of their names.
        configuration: its file.
    """

    nodes: list[Host]
    configuration: Path

    def __call__(self, *command: str | Path) -> str:
        """What a command of Slurm's prints on the first node; it must succeed."""
        result = self.nodes[0].run(*command, SLURM_CONF=str(self.configuration))
        assert result.returncode == 0, result.stdout + result.stderr
        return result.stdout.strip()

    def submit(self, *arguments: str | Path) -> str:
        """Submit a job; its number."""
        return self("sbatch", "--parsable", *arguments)

    def state(self, job: str) -> str:
        """The state of a job, such as RUNNING."""
        fields = self("scontrol", "show", "job", "--oneliner", job).split()
        return next(field.partition("=")[2] for field in fields if field.startswith("JobState="))

    def start_now(self, job: str) -> None:
        """Let a requeued job start as soon as it can; Slurm would have it wait for two minutes."""
        self("scontrol", "update", f"JobId={job}", "StartTime=now")

    def wait(self, job: str, condition: Callable[[], bool], seconds: float = 300.0) -> None:
        """Wait for what a job must bring about.

        Raises:
            TimeoutError: it does not; with what Slurm knows of the job.
            RuntimeError: the job has failed; likewise.
        """
        deadline = time.monotonic() + seconds
        while not condition():
            if time.monotonic() > deadline:
                raise TimeoutError(self("scontrol", "show", "job", job))
            if self.state(job) == "FAILED":
                raise RuntimeError(self("scontrol", "show", "job", job))
            time.sleep(0.5)


@contextlib.contextmanager
def running(names: Sequence[str], folder: Path) -> Iterator[Slurm]:
    """Slurm with nodes of these names, until the context ends: every process of theirs ends with its host."""
    with contextlib.ExitStack() as ending, hosts.running(names, folder) as nodes:
        lines = [f"NodeName={n.name} NodeAddr={n.address} CPUs=1 RealMemory=2000 Gres=gpu:1" for n in nodes]
        configuration = folder / "slurm.conf"
        configuration.write_text(CONFIGURATION.format(first=nodes[0].name, folder=folder, nodes="\n".join(lines)))
        (folder / "gres.conf").write_text("Name=gpu File=/dev/zero\n")
        (folder / "cgroup.conf").write_text("CgroupPlugin=cgroup/v1\n")
        (folder / "munge.key").write_bytes(os.urandom(128))
        (folder / "munge.key").chmod(0o600)
        (folder / "hosts").write_text("127.0.0.1 localhost\n" + "".join(f"{n.address} {n.name}\n" for n in nodes))

        def start(host: Host, *command: str) -> None:
            """Start a daemon; it ends with its host."""
            with (folder / f"{command[0]}-{host.name}.log").open("w") as log:
                ending.callback(host.start(*command, output=log, SLURM_CONF=str(configuration)).wait)

        for node in nodes:
            for mount in (["--bind", folder / "hosts", "/etc/hosts"], ["-t", "tmpfs", "tmpfs", "/sys/fs/cgroup"]):
                assert not node.run("mount", *mount).returncode
        files = [f"--{name}-file={folder}/munge.{name}" for name in ("key", "pid", "seed", "log")]
        start(nodes[0], "munged", "--foreground", "--force", f"--socket={folder}/munge.socket", *files)
        hosts.until((folder / "munge.socket").exists)
        start(nodes[0], "slurmctld", "-D")
        for node in nodes:
            start(node, "slurmd", "-D", "-N", node.name)
        slurm = Slurm(nodes, configuration)
        hosts.until(lambda: nodes[0].run("sinfo", SLURM_CONF=str(configuration)).returncode == 0)
        hosts.until(lambda: slurm("sinfo", "--noheader", "--format=%t", "--partition=low") == "idle")
        yield slurm
