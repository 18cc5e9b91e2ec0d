"""What a node of a Slurm job gives to Ray, and what its end means to Slurm; tests/cluster has the rest."""

import signal
import subprocess
from pathlib import Path

import pytest

from orchestrator.slurm import job_status, share

ROOT = Path(__file__).parents[2]


@pytest.mark.parametrize(
    ("limit", "mebibytes"),
    [({"SLURM_MEM_PER_NODE": "2048"}, 2048), ({"SLURM_MEM_PER_CPU": "512"}, 4096), ({"SLURM_MEM_PER_NODE": "0"}, None)],
)
def test_ray_gets_what_the_job_has_of_a_node(limit: dict[str, str], mebibytes: int | None) -> None:
    options = dict(option.lstrip("-").partition("=")[::2] for option in share({"SLURM_CPUS_ON_NODE": "8", **limit}))
    assert (options["num-cpus"], options["num-gpus"]) == ("8", "0")
    store = int(options["object-store-memory"])
    assert int(options["memory"]) + store == mebibytes * 2**20 if mebibytes else "memory" not in options
    assert "--num-gpus=4" in share({"SLURM_CPUS_ON_NODE": "8", "SLURM_GPUS_ON_NODE": "4"})


@pytest.mark.parametrize(
    ("status", "came", "expected"),
    [
        (0, {signal.SIGUSR1}, 0),  # the run was done before it took notice
        (1, set(), 1),
        (75, {signal.SIGUSR1}, 75),
        (-signal.SIGUSR1, {signal.SIGUSR1}, 75),  # while it was planning
        (75, {signal.SIGTERM}, 143),  # cancelled, or preempted and requeued by Slurm
        (75, {signal.SIGUSR1, signal.SIGTERM}, 143),
        (-signal.SIGKILL, set(), 137),
    ],
)
def test_a_job_goes_back_into_the_queue_only_where_slurm_has_warned_it(
    status: int, came: set[int], expected: int
) -> None:
    assert job_status(status, came) == expected


def test_the_script_is_valid_and_asks_for_a_warning_and_a_requeue() -> None:
    script = ROOT / "slurm.sh"
    subprocess.run(["bash", "-n", script], check=True)
    asked = [line.split()[1] for line in script.read_text().splitlines() if line.startswith("#SBATCH")]
    assert {"--requeue", "--signal=USR1@120", "--open-mode=append", "--ntasks-per-node=1"} <= set(asked)
