"""A run on one machine: it takes all its cores, and ends with no process left behind."""

import os
import subprocess
import sys
from pathlib import Path

import pytest
import yaml
from ray._private.utils import get_num_cpus

from tests.cluster.hosts import until
from tests.conftest import TINY


def processes_with(variable: str) -> list[str]:
    """The commands of all processes whose environment holds the text."""
    found = []
    for folder in Path("/proc").glob("[0-9]*"):
        try:
            if variable.encode() in (folder / "environ").read_bytes():
                found.append((folder / "cmdline").read_text().replace("\0", " "))
        except OSError:
            continue
    return found


RUN = """
import ray
from orchestrator import run
from orchestrator.progress import NoProgress

class Telling(NoProgress):
    def start(self, total, done, cost):
        print(int(ray.cluster_resources()["CPU"]), flush=True)
        input()

assert run("tiny.yaml", out="run", address="local", progress=Telling()).complete
"""


@pytest.mark.slow
def test_it_takes_all_cores_and_leaves_no_process(tmp_path: Path) -> None:
    (tmp_path / "tiny.yaml").write_text(yaml.safe_dump({**TINY, "pruning": {"groups": [0], "sparsities": [0.5]}}))
    mark = str(tmp_path)
    running = subprocess.Popen(
        [sys.executable, "-c", RUN],
        cwd=tmp_path,
        env={**os.environ, "METAPRUNE_TEST": mark},
        stdin=subprocess.PIPE,
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        text=True,
    )
    assert running.stdout
    cores = running.stdout.readline()
    during = processes_with(mark)
    _, errors = running.communicate("go on\n", timeout=300)
    assert running.returncode == 0, errors
    assert int(cores) == get_num_cpus()
    assert any("raylet" in command for command in during)
    until(lambda: not processes_with(mark))
