"""What the benchmarks share: the clock, the machine, and a table that is printed as it grows and kept as Parquet."""

import argparse
import functools
import importlib.metadata
import multiprocessing
import os
import platform
import statistics
import sys
import time
from collections.abc import Callable, Iterable, Mapping, Sequence
from concurrent.futures import ProcessPoolExecutor
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd

from orchestrator.worker.environment import processor

SHORT = 0.1
CLOCKS = {"wall": time.perf_counter, "processor": time.process_time}
Timed = Callable[[Mapping[str, Callable[[], object]]], dict[str, float]]


def machine(*packages: str) -> dict[str, Any]:
    """Hardware and versions, in the order in which they are printed."""
    versions = {name: importlib.metadata.version(name) for name in packages}
    return {
        "processor": processor(),
        "cores": os.cpu_count(),
        "platform": sys.platform,
        "python": platform.python_version(),
        **versions,
    }


def seconds(action: Callable[[], object], clock: Callable[[], float] = time.perf_counter) -> float:
    """Time of one call; of a short one, the fastest of those that fit into `SHORT` seconds."""
    taken: list[float] = []
    while sum(taken) < SHORT:
        started = clock()
        action()
        taken.append(clock() - started)
    return min(taken)


def medians(measures: Mapping[str, Callable[[], float]], runs: int) -> dict[str, float]:
    """The median of what each function returns, called in turns, so that what else the machine does meets all."""
    taken = [{name: measure() for name, measure in measures.items()} for _ in range(runs)]
    return {name: statistics.median(run[name] for run in taken) for name in measures}


def side_by_side(
    actions: Mapping[str, Callable[[], object]], runs: int, clock: Callable[[], float] = time.perf_counter
) -> dict[str, float]:
    """Median time of each action, likewise."""
    return medians({name: functools.partial(seconds, action, clock) for name, action in actions.items()}, runs)


def growth(sizes: Sequence[float], values: Sequence[float]) -> float:
    """The exponent k of values that grow like sizes ** k, by least squares on logarithms."""
    return float(np.polyfit(np.log(sizes), np.log(values), 1)[0])


def in_fresh_process(function: Callable[..., Any], *arguments: Any) -> Any:
    """What a function of a module returns, called in a process that has done nothing else."""
    with ProcessPoolExecutor(1, mp_context=multiprocessing.get_context("spawn")) as pool:
        return pool.submit(function, *arguments).result()


def largest_memory() -> float:
    """The most memory that this process has had, in MiB (Linux)."""
    lines = Path("/proc/self/status").read_text().splitlines()
    return next(int(line.split()[1]) for line in lines if line.startswith("VmHWM")) / 2**10


def parser(description: str | None, out: str, runs: int = 3) -> argparse.ArgumentParser:
    """A command line with the options that all benchmarks have."""
    options = argparse.ArgumentParser(description=description, formatter_class=argparse.RawDescriptionHelpFormatter)
    options.add_argument("--runs", type=int, default=runs, help="measurements of each number; their median counts")
    options.add_argument("--threads", type=int, default=os.cpu_count(), help="of PyTorch")
    options.add_argument("--out", default=out, help="Parquet file for the table")
    return options


class Table:
    """Rows of equal columns, printed as they come.

    Args:
        title: what the numbers are.
    """

    def __init__(self, title: str):
        self.title = title
        self.rows: list[dict[str, Any]] = []

    def add(self, **row: Any) -> None:
        """Print one row, the first below the title and the names of the columns, and keep it."""
        cells = [f"{value:.3g}" if isinstance(value, float) else str(value) for value in row.values()]
        if not self.rows:
            self.widths = [max(10, len(name), len(cell)) for name, cell in zip(row, cells, strict=True)]
            print(f"\n{self.title}\n" + self._line(row))
        print(self._line(cells), flush=True)
        self.rows.append(row)

    def _line(self, cells: Iterable[str]) -> str:
        return "  ".join(f"{cell:>{width}}" for cell, width in zip(cells, self.widths, strict=True))


def announce(conditions: Mapping[str, Any]) -> None:
    """Print hardware, versions, n and settings."""
    print(", ".join(f"{name} {value}" for name, value in conditions.items()) + ", medians", flush=True)


def write(path: str, conditions: Mapping[str, Any], *tables: Table) -> None:
    """Write the tables to one Parquet file, with their titles and the conditions in each row."""
    rows = [{**conditions, "table": table.title, **row} for table in tables for row in table.rows]
    pd.DataFrame(rows).to_parquet(path)
    print(f"\nThe numbers are in {path}")
