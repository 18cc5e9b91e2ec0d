"""How commands grow with the grid: seconds, processor seconds and memory for runs of 10k, 100k and 1M cells.

    python benchmarks/planning.py [--cells 10000 100000 1000000] [--seeds N] [--folder DIR] [--out planning.parquet]

Each command is a process of its own, started as a user does, on a run whose rows are made up: no network is trained,
but the files are as small and as many as those of real tasks. `--seeds` gives the grid that many seeds; without it
there are as many as sparsities. A million cells take about half an hour and 3 GB of disk.
"""

import json
import math
import shutil
import subprocess
import sys
import tempfile
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import bodies
import numpy as np
import pyarrow as pa
import yaml
from measuring import Table, announce, growth, machine, parser, write

from orchestrator import Experiment
from orchestrator.planning.building import make_plan
from orchestrator.planning.facts import Facts, ModelFacts, gather
from orchestrator.planning.plan import Plan
from orchestrator.running.driver import run_plan, write_plan
from orchestrator.running.progress import NoProgress
from orchestrator.storage.parquet import parquet_bytes
from orchestrator.storage.schema import SCHEMA_VERSION, SCHEMAS
from orchestrator.storage.store import Store

GROUPS = 20
FACTS = Facts(1000, 500, "fingerprint", {"vgg11_bn": ModelFacts((64,) * GROUPS, 1_000_000, None, 0.001)}, {})
TASK_STAGES = 64
CHUNK_STAGES = 64 * TASK_STAGES
VGG_GROUPS, CRITERIA, METHODS = 8, ["l1", "l2"], ["conventional", "intra-fusion", "folding", "neuron-merging"]


def experiment(cells: int) -> Experiment:
    """A data-free grid of this many cells: groups × two methods × sparsities; for `FACTS`."""
    count = cells // (GROUPS * 2)
    sparsities = [round(number / count * 0.9, 6) for number in range(count)]
    return Experiment.model_validate(
        {
            "name": "planning",
            "dataset": {"name": "digits"},
            "model": {"name": "vgg11_bn"},
            "pruning": {"sparsities": sparsities},
        }
    )


def settings(cells: int, seeds: int | None) -> dict[str, Any]:
    """About this many cells on real digits: seeds × groups × criteria × methods × sparsities."""
    points = cells / (VGG_GROUPS * len(CRITERIA) * len(METHODS))
    seeds = seeds or round(math.sqrt(points))
    count = round(points / seeds)
    return {
        "name": "planning",
        "dataset": {"name": "digits", "size": 32},
        "models": [{"name": "vgg11_bn", "width": 0.125}],
        "seeds": list(range(seeds)),
        "pruning": {
            "criteria": CRITERIA,
            "methods": METHODS,
            "sparsities": [round(0.9 * (number + 1) / count, 6) for number in range(count)],
        },
    }


def make_up(store: Store, loaded: Experiment, plan: Plan, share: float) -> None:
    """Write the rows that a run of this share of the plan would leave, in files of as many stages as a task has."""
    write_plan(store, loaded, plan)
    stages = list(plan.stages.values())[: int(share * len(plan.stages))]
    random = np.random.default_rng(0)
    store.write_rows("environments", "here", [{"environment": "here", "python": "3", "torch": "2"}])
    for start in range(0, len(stages), CHUNK_STAGES):
        chunk = stages[start : start + CHUNK_STAGES]
        common = [
            {**stage.labels, "cell": stage.key, "environment": "here", "schema_version": SCHEMA_VERSION}
            for stage in chunk
        ]
        accuracies = random.uniform(0, 100, len(chunk)).tolist()
        measured = {"epoch": 0, "parameters": 1000, "macs": 1000, "latency_1": 1.0, "weight_sparsity": 0.5, "loss": 1.0}
        evaluations = [
            {**row, **measured, "accuracy": accuracy} for row, accuracy in zip(common, accuracies, strict=True)
        ]
        timings = [
            {**row, "kind": stage.kind, "seconds": 1.0, "tables": ["evaluations"]}
            for row, stage in zip(common, chunk, strict=True)
        ]
        for table, rows in (("evaluations", evaluations), ("timings", timings)):
            whole = pa.Table.from_pylist(rows, SCHEMAS[table])
            for place in range(0, len(chunk), TASK_STAGES):
                name = f"{chunk[place].key}.parquet"
                path = Path(store.path("results", table, name))
                path.parent.mkdir(parents=True, exist_ok=True)
                path.write_bytes(parquet_bytes([whole.slice(place, TASK_STAGES)], SCHEMAS[table]))


class Begun(NoProgress):
    """Stops a run as a user would, once its first tasks are sent."""

    def running(self, kinds: Any) -> None:
        """Stop at the first sign of work."""
        raise KeyboardInterrupt


def begin(path: str, folder: str) -> None:
    """Take up a run until its first tasks are sent."""
    loaded = Experiment.load(path)
    facts = gather(loaded)
    try:
        run_plan(loaded, facts, make_plan(loaded, facts), out=folder, progress=Begun(), body=bodies.nothing)
    except KeyboardInterrupt:
        return
    raise RuntimeError("there was nothing to take up")


LAUNCHER = """
import json, os, sys, time
started = time.perf_counter()
process = os.posix_spawn(sys.argv[1], sys.argv[1:], os.environ, file_actions=[(os.POSIX_SPAWN_DUP2, 2, 1)])
_, status, usage = os.wait4(process, 0)
print(json.dumps([time.perf_counter() - started, status, usage.ru_utime + usage.ru_stime, usage.ru_maxrss]))
"""  # a process begins with the memory of the one that starts it as its peak, so a small one has to


def measured(command: Sequence[str]) -> dict[str, float]:
    """Seconds, processor seconds and peak memory of a process with those that it started (Linux, macOS)."""
    ended = subprocess.run([sys.executable, "-c", LAUNCHER, *command], capture_output=True, text=True, check=True)
    seconds, status, processor, memory = json.loads(ended.stdout)
    if status:
        raise RuntimeError(f"{' '.join(command)} ended with {status}: {ended.stderr[-2000:]}")
    unit = 1 if sys.platform == "darwin" else 1024
    return {"seconds": seconds, "processor (s)": processor, "memory (GiB)": memory * unit / 2**30}


def commands(path: Path, folder: Path, half: Path) -> Mapping[str, list[str]]:
    """What is measured, in this order, by what it is called in the table."""
    ours = [sys.executable, "-m", "orchestrator"]
    where = [str(path), "--out", str(folder)]
    return {
        "plan": [*ours, "plan", str(path)],
        "dry run, half done": [*ours, "run", str(path), "--out", str(half), "--dry-run"],
        "status, half done": [*ours, "status", str(half)],
        "taken up, half done": [sys.executable, __file__, "--begin", str(path), str(half)],
        "status, as tasks left it": [*ours, "status", str(folder)],
        "report, as tasks left it": [*ours, "report", str(folder)],
        "run again, merges and reports": [*ours, "run", *where],
        "run again, reports": [*ours, "run", *where],
        "dry run, done": [*ours, "run", *where, "--dry-run"],
        "status, done": [*ours, "status", str(folder)],
        "report, done": [*ours, "report", str(folder)],
    }


def main() -> None:
    options = parser(__doc__, "planning.parquet", runs=1)
    options.add_argument("--cells", type=int, nargs="*", default=[10_000, 100_000, 1_000_000])
    options.add_argument("--seeds", type=int)
    options.add_argument("--folder", help="where the runs are made; default a temporary folder")
    options.add_argument("--only", nargs="*", default=[], help="commands, by their name in the table")
    options.add_argument("--begin", nargs=2, metavar=("FILE", "RUN"), help="only take up this run, and stop")
    chosen = options.parse_args()
    if chosen.begin:
        begin(*chosen.begin)
        return
    conditions = machine("metaprune", "pandas", "pyarrow")
    announce(conditions)
    table = Table("Commands on runs of many cells")
    with tempfile.TemporaryDirectory(dir=chosen.folder) as place:
        for cells in chosen.cells:
            path, folder, half = (Path(place, name) for name in ("planning.yaml", "done", "half"))
            path.write_text(yaml.safe_dump(settings(cells, chosen.seeds)))
            loaded = Experiment.load(str(path))
            plan = make_plan(loaded, gather(loaded))
            for run, share in ((folder, 1.0), (half, 0.5)):
                shutil.rmtree(run, ignore_errors=True)
                make_up(Store(run), loaded, plan, share)
            for name, command in commands(path, folder, half).items():
                if not chosen.only or name in chosen.only:
                    table.add(cells=plan.cells, command=name, **measured(command))
            del plan
        page = folder / "report" / "index.html"
        if page.exists():
            print(f"The page of the last report has {page.stat().st_size / 2**20:.2f} MiB.")
    if len(chosen.cells) > 1:
        grown = Table("How they grow: the exponent k of cells ** k, and the first and last memory")
        for name in dict.fromkeys(row["command"] for row in table.rows):
            rows = [row for row in table.rows if row["command"] == name]
            sizes = [row["cells"] for row in rows]
            grown.add(command=name, **{f"k of {of}": growth(sizes, [row[of] for row in rows]) for of in KEPT})
        write(chosen.out, conditions, table, grown)
        return
    write(chosen.out, conditions, table)


KEPT = ("seconds", "processor (s)", "memory (GiB)")

if __name__ == "__main__":
    main()
