"""A cluster of several hosts: `ray start` on each, a shared folder, and `metaprune run --address` from the head."""

import contextlib
import time
from collections.abc import Iterator
from pathlib import Path

import pandas as pd
import pytest
import yaml

from orchestrator import run
from orchestrator.running.progress import NoProgress
from reports import load
from tests.cluster import hosts
from tests.cluster.hosts import Host
from tests.conftest import TINY

pytestmark = [pytest.mark.slow, pytest.mark.skipif(hosts.lacking() is not None, reason=str(hosts.lacking()))]

STUCK = """
import pathlib, socket, time
from workloads.criteria import l1

def stuck_on_two(model, group):
    marker = pathlib.Path({marker!r})
    if socket.gethostname() == "two":
        marker.touch()
        time.sleep(600)
    while socket.gethostname() == "one" and not marker.exists():  # the head only tries it out
        time.sleep(0.1)
    return l1(model, group)
"""


@contextlib.contextmanager
def cluster(folder: Path) -> Iterator[list[Host]]:
    """A head that runs no tasks, and two nodes of one CPU, all with the head's token."""
    with hosts.running(["head", "one", "two"], folder) as (head, *nodes):
        token = checked(head, "ray", "get-auth-token", "--generate")
        for node in nodes:
            checked(node, "bash", "-c", f"mkdir -p ~/.ray && echo -n {token.split()[-1]} > ~/.ray/auth_token")
        start_ray(head, "--head", "--port=6379", "--num-cpus=0", "--dashboard-host=127.0.0.1")
        for node in nodes:
            start_ray(node, f"--address={head.address}:6379", "--num-cpus=1")
        yield [head, *nodes]


def start_ray(host: Host, *options: str) -> None:
    memory = "--object-store-memory=100000000"
    checked(host, "ray", "start", f"--node-ip-address={host.address}", memory, "--disable-usage-stats", *options)


def checked(host: Host, *command: str) -> str:
    """What a command prints that must succeed."""
    result = host.run(*command, RAY_AUTH_MODE="token")
    assert result.returncode == 0, result.stdout + result.stderr
    return result.stdout


def results(folder: Path) -> pd.DataFrame:
    columns = ["cell", "stage", "method", "group", "accuracy", "loss", "parameters", "macs"]
    return load(folder)[columns].sort_values("cell", ignore_index=True)


def test_a_run_outlives_a_node_and_equals_a_local_one(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Host `one` waits until `two` has a stage that does not end there; then `two` is killed with all its processes."""
    monkeypatch.chdir(tmp_path)
    marker = tmp_path / "stuck"
    (tmp_path / "stuck.py").write_text(STUCK.format(marker=str(marker)))
    grid = {"groups": [0, 1], "sparsities": [0.3, 0.5], "criteria": ["l1", "stuck:stuck_on_two"]}
    (tmp_path / "mine.yaml").write_text(yaml.safe_dump({**TINY, "pipelines": ["fap"], "pruning": grid}))
    with cluster(tmp_path) as (head, _, two):
        command = ["python", "-m", "orchestrator", "run", "mine.yaml", "--address", f"{head.address}:6379"]
        stranger = head.run(*command, "--out", "stranger", RAY_AUTH_MODE="disabled")
        assert stranger.returncode == 2
        assert "give this node its token" in stranger.stderr.strip().splitlines()[-1], stranger.stderr
        assert not (tmp_path / "stranger").exists()

        running = head.start(*command, "--out", "killed", RAY_AUTH_MODE="token")
        deadline = time.monotonic() + 600
        while not marker.exists():
            assert running.poll() is None, running.communicate()
            assert time.monotonic() < deadline
            time.sleep(0.1)
        two.kill()
        output, errors = running.communicate(timeout=600)
        assert running.returncode == 0, output + errors

    assert run("mine.yaml", out="local", address="local", progress=NoProgress()).complete
    pd.testing.assert_frame_equal(results(tmp_path / "killed"), results(tmp_path / "local"))
    killed = load(tmp_path / "killed", "timings")
    assert killed["cell"].is_unique
    assert killed["node"].nunique() == 2, "both hosts have done a part"


def test_a_submitted_job_runs_from_the_repositorys_folder(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(Path(__file__).parents[2])
    (tmp_path / "tiny.yaml").write_text(yaml.safe_dump({**TINY, "pruning": {"groups": [0], "sparsities": [0.5]}}))
    with hosts.running(["head"], tmp_path) as (head,):
        checked(head, "ray", "get-auth-token", "--generate")
        start_ray(head, "--head", "--num-cpus=2", "--dashboard-host=127.0.0.1")
        metaprune = ["metaprune", "run", tmp_path / "tiny.yaml", "--address", "auto"]
        submit = ["ray", "job", "submit", "--working-dir", ".", "--"]
        lost = head.run(*submit, *metaprune, RAY_AUTH_MODE="token", RAY_ADDRESS="http://127.0.0.1:8265")
        assert lost.returncode != 0
        assert "is in Ray's copy of the working folder" in lost.stdout + lost.stderr
        kept = [*metaprune, "--out", tmp_path / "run"]
        printed = head.run(*submit, *kept, RAY_AUTH_MODE="token", RAY_ADDRESS="http://127.0.0.1:8265")
        assert printed.returncode == 0, printed.stdout + printed.stderr
        assert "3 stages done" in printed.stdout
    assert load(tmp_path / "run")["final"].sum() == 2
