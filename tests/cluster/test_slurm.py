"""slurm.sh under a real Slurm: a job over two nodes is preempted by a more urgent one, comes back, and goes on."""

import json
import os
from pathlib import Path

import pytest
import yaml

from reports import load
from tests.cluster import slurm
from tests.conftest import TINY

ROOT = Path(__file__).parents[2]
pytestmark = [pytest.mark.slow, pytest.mark.skipif(slurm.lacking() is not None, reason=str(slurm.lacking()))]


def test_a_preempted_job_leaves_snapshots_comes_back_and_goes_on(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(ROOT)
    order, run, log = tmp_path / "order.json", tmp_path / "run", tmp_path / "job.log"
    order.write_text(json.dumps({"action": "hang", "place": "train", "after": 6, "again": False}))
    monkeypatch.setenv("FAULT_ORDER", str(order))
    changes = {
        "model": {"name": "tests.faulty:net"},
        "training": {**TINY["training"], "epochs": 3},
        "pruning": {"groups": [0], "sparsities": [0.5]},
        "resources": {"train": {"gpus": 1}, "snapshot_every": 10},  # without a GPU in the cluster it waited for one
    }
    (tmp_path / "tiny.yaml").write_text(yaml.safe_dump({**TINY, **changes}))
    with slurm.running(["one", "two"], tmp_path) as cluster:
        own = ["--cpus-per-task=1", "--gres=gpu:1", "--mem=0", f"--output={log}"]
        job = cluster.submit(*own, "slurm.sh", "run", tmp_path / "tiny.yaml", "--out", run)
        cluster.wait(job, lambda: not order.exists())
        urgent = cluster.submit("--partition=high", "--nodes=2", "--output=/dev/null", "--wrap=true")
        cluster.wait(job, lambda: cluster.state(urgent) == "COMPLETED")
        assert "metaprune: stopped by SIGTERM; what is done is kept" in log.read_text()
        assert not (run / "driver.json").exists()
        assert os.listdir(run / "snapshots"), "the training, interrupted in its second epoch, has left its first"
        cluster.wait(job, lambda: cluster.state(job) == "PENDING")
        cluster.start_now(job)
        cluster.wait(job, lambda: cluster.state(job) == "COMPLETED")
        assert "Restarts=1 " in cluster("scontrol", "show", "job", job)
    assert "3 stages done, 0 were there before" in log.read_text()
    assert load(run)["final"].sum() == 2
    assert not list(Path("/tmp").glob(f"ray-{job}-*")), "each node has cleared up"
