"""How results were made: the environments they come from, and what failed."""

from collections.abc import Sequence
from pathlib import Path

import pandas as pd

from orchestrator.storage.store import Store
from reports.results.reading import load
from reports.results.runs import run_names
from reports.tables import Table


def environments_table(runs: Sequence[str | Path]) -> Table:
    """The environments that the rows of each run were made in."""
    body = []
    for place, name in run_names(runs).items():
        rows = Store(place).read_table("evaluations", ["environment"])["environment"].to_pandas().value_counts()
        known = load(place, "environments").drop_duplicates("environment").set_index("environment")
        for key, count in rows.items():
            row = known.loc[key] if key in known.index else pd.Series(dtype=object)
            columns = ("processor", "gpu", "python", "torch", "ray", "metaprune", "git_commit")
            told = [row.get(column) for column in columns]
            texts = [text if isinstance(text, str) else "–" for text in told]
            body.append([name, str(key), *texts, str(count)])
    head = ["run", "environment", "processor", "GPU", "Python", "PyTorch", "Ray", "metaprune", "commit", "rows"]
    return Table("Environments that the results were made in.", head, body, 9)


def failures_table(runs: Sequence[str | Path]) -> Table:
    """Stages that failed and were not done since, with the first line of their message."""
    body = []
    for place, name in run_names(runs).items():
        failures = load(place, "failures")
        if failures.empty:
            continue
        for row in failures[~failures["cell"].isin(Store(place).done())].itertuples():
            body.append([name, row.cell, row.kind, f"{row.error}: {str(row.message).strip().partition(chr(10))[0]}"])
    return Table("Stages that failed.", ["run", "cell", "stage", "error"], body, 4)
