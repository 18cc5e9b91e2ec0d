"""What orchestration costs: overhead a cell, memory of the driver, trials a second beside Ray Tune, and makespan.

    python benchmarks/orchestration.py [--cells 1000 10000 100000] [--trials 1000] [--workers 8 64] [--runs 3]
        [--compression 100] [--out orchestration.parquet]

Needs `python -m pip install -e ".[benchmarks]"`. Every line is the median of n runs, each in a process with
a Ray of its own; hardware and versions are printed above and stand in the Parquet file. Tasks write their rows in
`timings` as real ones do; no network is built. Where workers only sleep, a second stands for `--compression` seconds of
work, so that what orchestration costs weighs as many times more than in earnest.
"""

import argparse
import json
import logging
import os
import platform
import random
import statistics
import subprocess
import sys
import tempfile
import threading
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import bodies
import pandas as pd
import ray
from planning import FACTS, experiment

from orchestrator import Experiment
from orchestrator.planning.building import make_plan
from orchestrator.planning.plan import Plan
from orchestrator.running.driver import missing, run_plan
from orchestrator.running.progress import NoProgress
from orchestrator.running.remote import Body
from orchestrator.storage.store import Store
from orchestrator.worker.environment import processor

os.environ["RAY_USAGE_STATS_ENABLED"] = "0"


def resident() -> float:
    """Memory of this process in MiB."""
    pages = int(Path("/proc/self/statm").read_text().split()[1])
    return pages * os.sysconf("SC_PAGESIZE") / 2**20


class Peak:
    """The largest memory of this process while a block runs, in MiB."""

    def __enter__(self) -> "Peak":
        self.before = self.most = resident()
        self.over = threading.Event()
        self.thread = threading.Thread(target=self._watch)
        self.thread.start()
        return self

    def _watch(self) -> None:
        while not self.over.wait(0.05):
            self.most = max(self.most, resident())

    def __exit__(self, *exception: object) -> None:
        self.over.set()
        self.thread.join()


def start_ray(cpus: int) -> None:
    """A local Ray whose workers are all up."""
    ray.init(num_cpus=cpus, include_dashboard=False, logging_level=logging.ERROR, log_to_driver=False)
    with tempfile.TemporaryDirectory() as folder:
        ray.get([ray.remote(bodies.meet).remote(folder, cpus) for _ in range(cpus)])


def executed(settings: Experiment, plan: Plan, body: Body, folder: str) -> float:
    """Seconds of a whole run of a plan."""
    started = time.perf_counter()
    result = run_plan(settings, FACTS, plan, out=folder, progress=NoProgress(), body=body)
    seconds = time.perf_counter() - started
    assert result.complete, result
    return seconds


def cells(count: int, _: float) -> dict[str, float]:
    """Planning, running and finding done a grid of stages that do nothing, at the default grain."""
    settings = experiment(count)
    started = time.perf_counter()
    plan = make_plan(settings, FACTS)
    planning = time.perf_counter() - started
    start_ray(os.cpu_count() or 1)
    with tempfile.TemporaryDirectory() as folder:
        with Peak() as peak:
            seconds = executed(settings, plan, bodies.nothing, folder)
        started = time.perf_counter()
        assert missing(plan, Store(folder)) == set()
        finding = time.perf_counter() - started
    return {
        "planned cells/s": plan.cells / planning,
        "cells/s": plan.cells / seconds,
        "overhead (ms/cell)": 1000 * seconds / plan.cells,
        "memory with plan (MiB)": peak.before,
        "grown by (MiB)": peak.most - peak.before,
        "all done found in (s)": finding,
    }


def trials(count: int, _: float) -> dict[str, float]:
    """Ray Tune and metaprune on the same trivial grid, one after the other on one Ray."""
    from ray import tune

    settings = experiment(count)
    plan = make_plan(settings, FACTS)
    start_ray(os.cpu_count() or 1)
    with tempfile.TemporaryDirectory() as folder:
        ours = plan.cells / executed(settings, plan, bodies.nothing, folder)
        started = time.perf_counter()
        tuner = tune.Tuner(
            lambda config: {"score": 0.0},
            param_space={"cell": tune.grid_search(list(range(plan.cells)))},
            tune_config=tune.TuneConfig(reuse_actors=True),
            run_config=tune.RunConfig(storage_path=folder, verbose=0),
        )
        assert len(tuner.fit()) == plan.cells
        theirs = plan.cells / (time.perf_counter() - started)
    return {"metaprune (cells/s)": ours, "Ray Tune (trials/s)": theirs, "ratio": ours / theirs}


def paper_like(workers: int, compression: float) -> Plan:
    """Long trainings of 600 to 1500 s, three a worker, each before 128 prunings of 2 s.

    Estimates are not compressed, so that tasks hold as many stages as they would.
    """
    plan, draw = Plan(), random.Random(0)
    for number in range(3 * workers):
        cost = draw.uniform(600, 1500)
        trained = plan.add("train", {"number": number, "seconds": cost / compression}, (), {}, cost)
        for group in range(8):
            for sparsity in range(16):
                where = {"group": group, "sparsity": sparsity, "criterion": {"name": "l1"}}
                plan.add("compress", {**where, "seconds": 2 / compression}, (trained,), {"final": True}, 2.0)
    return plan


def makespan(workers: int, compression: float) -> dict[str, float]:
    """The time that a graph like the paper's takes, against the least possible."""
    plan = paper_like(workers, compression)
    start_ray(workers)
    with tempfile.TemporaryDirectory() as folder:
        seconds = executed(experiment(40), plan, bodies.sleep, folder)
    work = sum(stage.cost for stage in plan.stages.values())
    bound = max(max(plan.priorities().values()), work / workers) / compression
    return {"makespan (s)": seconds, "lower bound (s)": bound, "over it (%)": 100 * (seconds / bound - 1)}


MEASURES: dict[str, Callable[[int, float], dict[str, float]]] = {"cells": cells, "trials": trials, "workers": makespan}


def measured(name: str, size: int, compression: float) -> dict[str, float]:
    """One measurement in a process of its own."""
    command = [sys.executable, __file__, "--only", name, str(size), "--compression", str(compression)]
    printed = subprocess.run(command, check=True, stdout=subprocess.PIPE, text=True).stdout
    numbers = next(line for line in printed.splitlines() if line.startswith("{"))  # Ray may print too
    return {key: float(value) for key, value in json.loads(numbers).items()}


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--cells", type=int, nargs="*", default=[1_000, 10_000, 100_000])
    parser.add_argument("--trials", type=int, nargs="*", default=[1_000])
    parser.add_argument("--workers", type=int, nargs="*", default=[8, 64])
    parser.add_argument("--runs", type=int, default=3)
    parser.add_argument("--compression", type=float, default=100)
    parser.add_argument("--out", default="orchestration.parquet")
    parser.add_argument("--only", nargs=2, help=argparse.SUPPRESS)
    options = parser.parse_args()
    if options.only:
        print(json.dumps(MEASURES[options.only[0]](int(options.only[1]), options.compression)))
        return
    machine: dict[str, Any] = {
        "processor": processor(),
        "cores": os.cpu_count(),
        "python": platform.python_version(),
        "ray": ray.__version__,
        "compression": options.compression,
    }
    print(", ".join(f"{name} {value}" for name, value in machine.items()) + f", n = {options.runs}, medians")
    rows: list[dict[str, Any]] = []
    for name in MEASURES:
        for size in getattr(options, name):
            runs = [measured(name, size, options.compression) for _ in range(options.runs)]
            for quantity in runs[0]:
                median = statistics.median(run[quantity] for run in runs)
                print(f"{name:<8} {size:>7}  {quantity:<24} {median:>12.4g}", flush=True)
                rows += [{**machine, name: size, "quantity": quantity, "value": run[quantity]} for run in runs]
    pd.DataFrame(rows).to_parquet(options.out)
    print(f"Every run is in {options.out}")


if __name__ == "__main__":
    main()
