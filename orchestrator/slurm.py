"""What `slurm.sh` starts on every node of an allocation: Ray, and on the first node the driver too.

    srun python -P -m orchestrator.slurm run EXPERIMENT --out PLACE

`ray symmetric-run` does the like, but it ends by `ray stop`, which ends the Ray of the user's other jobs on a node as
well, and Slurm's signals would end its Ray before the driver has asked the trainings for snapshots.
"""

import contextlib
import os
import select
import shutil
import signal
import socket
import subprocess
import sys
import tempfile
import threading
import time
from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path

from orchestrator.ending import REQUEUE
from orchestrator.running.signals import STOPPING, sheltered

START_SECONDS = 120.0
POLL_SECONDS = 1.0
OBJECT_STORE = 256 * 2**20
STARTED = "ray_current_cluster"  # the file that `ray start` leaves in its folder when it has done its work


def main() -> None:
    """Be a node of the cluster until the run has ended; the exit status is that of the run, or 0 on other nodes."""
    nodes, port = os.environ["METAPRUNE_NODES"].split(), int(os.environ["METAPRUNE_PORT"])
    is_first = os.environ["SLURM_NODEID"] == "0"
    came: set[int] = set()
    for number in STOPPING:
        signal.signal(number, lambda signum, frame: came.add(signum))
    try:
        if is_first:
            sys.exit(lead(nodes, port, came))
        follow(nodes[0], port, came)
    except (OSError, RuntimeError) as error:
        if came:
            sys.exit(job_status(REQUEUE, came) if is_first else 0)
        print(f"metaprune: node {socket.gethostname()} takes no part in the run: {error}", file=sys.stderr)
        sys.exit(is_first)


def lead(nodes: Sequence[str], port: int, came: set[int]) -> int:
    """Start the cluster's head and the driver on it; the exit status of the job.

    Args:
        nodes: names of the allocation's nodes, this one first.
        port: where the others ask for the head's address, and learn that it is gone.
        came: the signals that have come so far.

    Raises:
        RuntimeError: Ray cannot start here.
    """
    address = own_address(nodes[1]) if len(nodes) > 1 else "127.0.0.1"
    head = f"{address}:{free_port()}"
    # Nobody needs the server for Ray's clients, but it cannot be left out, and another job has its usual port.
    options = ["--head", f"--port={head.rpartition(':')[2]}", f"--ray-client-server-port={free_port()}"]
    options += ["--include-dashboard=false", f"--node-ip-address={address}", *share(os.environ)]
    with socket.create_server(("", port), backlog=len(nodes)) as door, ray_node(options, came):
        threading.Thread(target=admit, args=(door, head), daemon=True).start()
        command = [sys.executable, "-P", "-m", "metaprune", *sys.argv[1:]]
        status = subprocess.Popen(command, env={**os.environ, "RAY_ADDRESS": head}).wait()
    return job_status(status, came)


def admit(door: socket.socket, head: str) -> None:
    """Tell each node that asks where the head is, and keep the connection, whose end is that of the run."""
    admitted = []
    with contextlib.suppress(OSError):  # the door is closed
        while True:
            node, _ = door.accept()
            admitted.append(node)
            node.sendall(f"{head}\n".encode())


def job_status(status: int, came: set[int]) -> int:
    """The exit status of the job by that of its driver: 75 where it shall be requeued, as Slurm has warned by SIGUSR1.

    A driver that SIGTERM stops has the status 75 as well. But who cancels a job does not want it back; and a job that
    Slurm preempts in this way is requeued by Slurm itself.
    """
    if status in (REQUEUE, -signal.SIGUSR1):
        return REQUEUE if signal.SIGUSR1 in came and signal.SIGTERM not in came else 128 + signal.SIGTERM
    return status if status >= 0 else 128 - status


def follow(first: str, port: int, came: set[int]) -> None:
    """Give this node to the cluster until the first one has ended.

    Raises:
        OSError: the first node cannot be reached.
        RuntimeError: Ray cannot start here, or ends before the first node.
    """
    with knock(first, port, came) as line:
        head = line.makefile().readline().strip()
        if not head:
            raise RuntimeError(f"node {first} has ended")
        options = [f"--address={head}", f"--node-ip-address={own_address(first)}", *share(os.environ)]
        with ray_node(options, came) as ray:
            while not select.select([line], [], [], POLL_SECONDS)[0]:
                if ray.poll() is not None:
                    raise RuntimeError("its Ray has ended")


def knock(first: str, port: int, came: set[int]) -> socket.socket:
    """A connection to the first node, which may start a little later than this one.

    Raises:
        OSError: it does not answer.
    """
    deadline = time.monotonic() + START_SECONDS
    while True:
        try:
            line = socket.create_connection((first, port), timeout=START_SECONDS)
        except OSError as error:
            if came or time.monotonic() > deadline:
                raise OSError(f"node {first} does not answer at port {port} ({error})") from error
            time.sleep(POLL_SECONDS)
        else:
            line.settimeout(None)
            return line


def own_address(other: str) -> str:
    """The address of this node on the network on which it reaches another one; nothing is sent."""
    with socket.socket(socket.AF_INET, socket.SOCK_DGRAM) as probe:
        probe.connect((other, 9))
        return str(probe.getsockname()[0])


def free_port() -> int:
    """A port that nobody listens on at the moment."""
    with socket.create_server(("", 0)) as server:
        return int(server.getsockname()[1])


def share(environment: Mapping[str, str]) -> list[str]:
    """What of this node the job has, as options of `ray start`; CPUs, GPUs and, where Slurm limits it, memory.

    Ray would take the whole node. No port is a fixed one, so that two jobs can be on one node.
    """
    cpus = int(environment["SLURM_CPUS_ON_NODE"])
    options = [f"--num-cpus={cpus}", f"--num-gpus={environment.get('SLURM_GPUS_ON_NODE', '0')}"]
    mebibytes = int(environment.get("SLURM_MEM_PER_NODE", 0)) or cpus * int(environment.get("SLURM_MEM_PER_CPU", 0))
    if mebibytes:
        options.append(f"--memory={max(mebibytes * 2**20 - OBJECT_STORE, 0)}")
    ports = ["--min-worker-port=0", "--max-worker-port=0", "--dashboard-agent-listen-port=0"]
    return [*options, f"--object-store-memory={OBJECT_STORE}", *ports, "--disable-usage-stats"]


@contextlib.contextmanager
def ray_node(options: Sequence[str], came: set[int]) -> Iterator[subprocess.Popen[bytes]]:
    """Ray on this node, with a folder of its own, for the length of a block; `ray start`, by which all of it ends.

    Slurm signals every process of a job. These take none of them: they are needed until the driver has ended.

    Raises:
        RuntimeError: it cannot start, in Ray's words; or signals came before it had.
    """
    base = os.environ.get("RAY_TMPDIR", "/tmp")  # a job's own TMPDIR is often longer than the path of a socket may be
    folder = Path(tempfile.mkdtemp(prefix=f"ray-{os.environ['SLURM_JOB_ID']}-", dir=base))
    log = folder / "start.log"
    command = [sys.executable, "-P", "-m", "ray.scripts.scripts", "start", "--block", f"--temp-dir={folder}", *options]
    try:
        with log.open("wb") as output, sheltered(STOPPING):
            ray = subprocess.Popen(command, stdin=subprocess.DEVNULL, stdout=output, stderr=output)
        try:
            while not (folder / STARTED).exists():
                if came:
                    raise RuntimeError("it was stopped while Ray was starting")
                if ray.poll() is not None:
                    raise RuntimeError(f"Ray cannot start ({' '.join(log.read_text(errors='replace').split())[-500:]})")
                time.sleep(POLL_SECONDS / 10)
            yield ray
        finally:
            ray.kill()  # the processes that it has started go with it
            ray.wait()
    finally:
        shutil.rmtree(folder, ignore_errors=True)


if __name__ == "__main__":
    main()
