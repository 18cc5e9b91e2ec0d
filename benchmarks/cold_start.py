"""How long metaprune takes to start, and how much room a run takes.

    python benchmarks/cold_start.py [--experiment quickstart] [--runs 3] [--whole] [--out cold_start.parquet]

Imports are timed in fresh processes, and compared with an empty one and with PyTorch, Ray, pyarrow and pandas alone.
The first task is the first stage that is done, by the time at which it started; the run is then stopped. It is compared
with the least possible: a script that imports PyTorch and Ray, starts Ray, and runs a task that imports PyTorch.
`--whole` lets one run end, and counts its files.
"""

import os
import subprocess
import sys
import tempfile
import time
from functools import partial
from pathlib import Path

import pandas as pd
from measuring import Table, announce, machine, medians, parser, side_by_side, write

from reports import load

IMPORTS = {
    "nothing": "pass",
    "orchestrator.cli": "import orchestrator.cli",
    "torch, ray, pyarrow, pandas": "import torch, ray, pyarrow.dataset, pandas",
    "orchestrator.running.driver": "import orchestrator.running.driver",
}
LEAST = """
import torch, ray
ray.init(include_dashboard=False, object_store_memory=256 * 1024**2, log_to_driver=False, logging_level=40)

@ray.remote
def first():
    import time
    import torch
    return time.time()

print(ray.get(first.remote()))
"""


def python(code: str) -> str:
    """What a fresh interpreter prints."""
    return subprocess.run([sys.executable, "-c", code], check=True, stdout=subprocess.PIPE, text=True).stdout


def least_seconds() -> float:
    """From the start of a bare script to its first task."""
    started = time.time()
    return float(python(LEAST)) - started


def first_task_seconds(experiment: str) -> float:
    """From the start of `metaprune run` to its first task; the run is stopped after it."""
    with tempfile.TemporaryDirectory() as folder:
        started = time.time()
        process = start(experiment, folder)
        while not any(Path(folder, "results").glob("timings/*.parquet")):
            if process.poll() is not None:
                raise SystemExit(f"`metaprune run {experiment}` ended before any task: run it by itself to see why")
            time.sleep(0.05)
        process.terminate()
        process.wait()
        return float(pd.read_parquet(Path(folder, "results", "timings"))["started"].min().timestamp()) - started


def start(experiment: str, folder: str) -> subprocess.Popen[bytes]:
    """A run in a process of its own, which prints nothing."""
    command = [sys.executable, "-m", "orchestrator", "run", experiment, "--out", folder]
    return subprocess.Popen(command, stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL)


def measure_size(table: Table, experiment: str) -> None:
    """Add a row for each folder of a whole run, and for all of it."""
    with tempfile.TemporaryDirectory() as folder:
        if start(experiment, folder).wait():
            raise SystemExit(f"`metaprune run {experiment}` failed: run it by itself to see why")
        cells = int(load(folder)["final"].sum())
        for place in (*sorted(path for path in Path(folder).iterdir() if path.is_dir()), Path(folder)):
            sizes = [file.stat().st_size / 2**10 for file in place.rglob("*") if file.is_file()]
            name = "all" if place == Path(folder) else place.name
            table.add(folder=name, files=len(sizes), KiB=sum(sizes), cells=cells, **{"KiB/cell": sum(sizes) / cells})


def main() -> None:
    arguments = parser(__doc__, "cold_start.parquet")
    arguments.add_argument("--experiment", default="quickstart")
    arguments.add_argument("--whole", action="store_true", help="also let a run end and measure its size")
    options = arguments.parse_args()
    os.environ["RAY_USAGE_STATS_ENABLED"] = "0"
    conditions = machine("torch", "ray") | {"experiment": options.experiment, "runs": options.runs}
    announce(conditions)
    imports, tasks, sizes = Table("Imports"), Table("To the first task"), Table("A run on disk")
    for name, value in side_by_side({n: partial(python, code) for n, code in IMPORTS.items()}, options.runs).items():
        imports.add(imported=name, seconds=value)
    ours = partial(first_task_seconds, options.experiment)
    taken = medians({"bare script": least_seconds, "metaprune run": ours}, options.runs)
    for name, value in taken.items():
        tasks.add(started=name, seconds=value, ratio=value / taken["bare script"])
    if options.whole:
        measure_size(sizes, options.experiment)
    write(options.out, conditions, imports, tasks, sizes)


if __name__ == "__main__":
    main()
