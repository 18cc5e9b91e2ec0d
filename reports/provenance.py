"""What a report tells of its runs besides results: how far they are, where they ran, with which settings."""

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import pandas as pd
import yaml

from orchestrator.store import Store, folder_name
from reports.results import load
from reports.tables import Table


@dataclass(frozen=True)
class Run:
    """A run as a report tells of it.

    Attributes:
        name: last part of its folder or URI.
        progress: one sentence: how many stages are done, failed and missing.
        command: makes the same run again from its settings.
        settings: its experiment as YAML; empty for a run without any.
    """

    name: str
    progress: str
    command: str
    settings: str


def run_of(place: str | Path) -> Run:
    """What there is to tell of the run in a folder or at a URI."""
    store = Store(place)
    settings = store.read("experiment.yaml").decode() if store.exists("experiment.yaml") else ""
    command = f"metaprune run experiment.yaml --out {place}"
    return Run(folder_name(place), progress(place), command, settings)


def settings_of(place: str | Path) -> dict[str, Any]:
    """The experiment of a run; empty for a run without any.

    Raises:
        ValueError: it is no experiment.
    """
    store = Store(place)
    if not store.exists("experiment.yaml"):
        return {}
    try:
        settings = yaml.safe_load(store.read("experiment.yaml"))
    except yaml.YAMLError as error:
        raise ValueError(f"'{store.path('experiment.yaml')}' is not YAML: run the experiment again") from error
    if not isinstance(settings, dict):
        raise ValueError(f"'{store.path('experiment.yaml')}' is no experiment: run the experiment again")
    return settings


def progress(place: str | Path) -> str:
    """One sentence on the stages of a run."""
    store = Store(place)
    planned, done, tried = (
        set(store.read_table(name, ["cell"])["cell"].to_pylist()) for name in ("plan", "timings", "failures")
    )
    failed = tried - done
    text = f"{len(planned & done)} of {len(planned)} stages are done"
    if failed & planned:
        text += f", {len(failed & planned)} failed"
    open_stages = len(planned - done - failed)
    return f"{text}, {open_stages} are still missing." if open_stages else f"{text}."


def environments_table(runs: Sequence[str | Path]) -> Table:
    """The environments that the rows of each run were made in."""
    body = []
    for place in runs:
        rows = Store(place).read_table("evaluations", ["environment"])["environment"].to_pandas().value_counts()
        known = load(place, "environments").drop_duplicates("environment").set_index("environment")
        for key, count in rows.items():
            row = known.loc[key] if key in known.index else pd.Series(dtype=object)
            told = [row.get(name) for name in ("processor", "gpu", "python", "torch", "ray", "metaprune", "git_commit")]
            texts = [text if isinstance(text, str) else "–" for text in told]
            body.append([folder_name(place), str(key), *texts, str(count)])
    head = ["run", "environment", "processor", "GPU", "Python", "PyTorch", "Ray", "metaprune", "commit", "rows"]
    return Table("Environments that the results were made in.", head, body, 9)


def failures_table(runs: Sequence[str | Path]) -> Table:
    """Stages that failed and were not done since, with the first line of their message."""
    body = []
    for place in runs:
        failures, done = load(place, "failures"), load(place, "timings")["cell"]
        for row in failures[~failures["cell"].isin(done)].itertuples():
            message = str(row.message).partition("\n")[0]
            body.append([folder_name(place), row.cell, row.kind, f"{row.error}: {message}"])
    return Table("Stages that failed.", ["run", "cell", "stage", "error"], body, 4)
