"""A small run that faults may be ordered for, its drivers, and what has to be the same after a fault."""

import os
import shutil
import subprocess
import sys
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pandas as pd

from orchestrator import Experiment, run
from orchestrator.running.driver import RunSummary
from orchestrator.running.lease import holder
from orchestrator.running.progress import NoProgress
from orchestrator.storage.store import Store
from reports import load
from tests.conftest import MEASURED_TIMES, TINY

SETTINGS = {
    **TINY,
    "model": {"name": "tests.faulty:net"},
    "training": {**TINY["training"], "epochs": 3},
    "pruning": {"groups": [0, 1], "sparsities": [0.3, 0.5], "criteria": ["tests.faulty:criterion"]},
    "resources": {"snapshot_every": 1},
}
EXPERIMENT = Experiment.model_validate(SETTINGS)
# What depends on the clock, the machine or the process.
UNEQUAL = [*MEASURED_TIMES, "environment", "device"]


def start(folder: Path, experiment: Experiment = EXPERIMENT, **more: Any) -> RunSummary:
    return run(experiment, out=folder, progress=more.pop("progress", NoProgress()), **more)


def changed(**settings: Any) -> Experiment:
    return Experiment.model_validate({**SETTINGS, **settings})


def copied(calm: Path, folder: Path, kept: Callable[[dict[str, Any]], bool]) -> Path:
    """A copy of a run in which only the kept rows of the evaluations, epochs and timings remain."""
    shutil.copytree(calm, folder)
    store = Store(folder)
    for table in ("evaluations", "epochs", "timings"):
        rows = [row for row in store.read_table(table).to_pylist() if kept(row)]
        shutil.rmtree(folder / "results" / table)
        if rows:
            store.write_rows(table, "first", [{k: v for k, v in row.items() if k != "schema_version"} for row in rows])
    return folder


def assert_equal(disturbed: Path, calm: Path) -> None:
    """Every table has the same rows, by any reader, and the same values."""
    for table, by in (("evaluations", ["cell"]), ("epochs", ["cell", "epoch"])):
        frames = [
            pd.read_parquet(folder / "results" / table).drop(columns=UNEQUAL, errors="ignore").sort_values(by)
            for folder in (disturbed, calm)
        ]
        pd.testing.assert_frame_equal(*(frame.reset_index(drop=True) for frame in frames))
    assert sorted(load(disturbed, "timings")["cell"]) == sorted(load(calm, "timings")["cell"])
    assert load(disturbed, "failures").empty
    leftovers = [p for p in disturbed.rglob("*.safetensors") if p.parent.name == "snapshots"]
    assert not leftovers
    assert holder(Store(disturbed)) is None
    assert not (disturbed / "driver.json").exists()


# As in the foreground of a terminal; where the tests run in a shell's background, they ignore interrupts themselves.
HEEDING_INTERRUPTS = """
import signal
signal.signal(signal.SIGINT, signal.default_int_handler)
from orchestrator.cli import main
main()
"""


def driver(folder: Path, *arguments: str, experiment: Experiment = EXPERIMENT) -> subprocess.Popen[str]:
    """`metaprune run` in a process and a session of its own."""
    path = folder.parent / "experiment.yaml"
    path.write_text(experiment.to_yaml())
    return subprocess.Popen(
        [sys.executable, "-c", HEEDING_INTERRUPTS, "run", str(path), "--out", str(folder), *arguments],
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        text=True,
        start_new_session=True,
        cwd=Path(__file__).parents[2],
        env={**os.environ, "RAY_ADDRESS": "local"},
    )


def descendants(pid: int) -> list[int]:
    """Processes that stem from this one."""
    listed = subprocess.run(["ps", "-eo", "pid=,ppid="], capture_output=True, text=True, check=True).stdout
    parents = {int(pid): int(parent) for pid, parent in (line.split() for line in listed.splitlines())}
    found = [pid]
    for parent in found:
        found += [child for child, its_parent in parents.items() if its_parent == parent]
    return found[1:]


def is_process(pid: int) -> bool:
    """Whether it lives; what is dead and waits to be collected does not count."""
    try:
        return "\nState:\tZ" not in Path(f"/proc/{pid}/status").read_text()
    except (FileNotFoundError, ProcessLookupError):  # gone before it was opened, or before it was read
        return False


def wait_for(condition: Callable[[], Any], seconds: float = 300.0) -> None:
    deadline = time.monotonic() + seconds
    while not condition():
        assert time.monotonic() < deadline, "it did not happen"
        time.sleep(0.1)
