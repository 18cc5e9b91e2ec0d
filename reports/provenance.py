"""What a report tells of its runs besides results: how far they are, where they ran, with which settings."""

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import pandas as pd
import yaml

from orchestrator.storage.store import EXPERIMENT, Store, place_parts
from reports.results import load
from reports.tables import Table


@dataclass(frozen=True)
class Run:
    """A run as a report tells of it.

    Attributes:
        name: the last part of its folder or URI, or more of them where another has the same.
        progress: one sentence: how many stages are done, failed and missing.
        command: makes the same run again from its settings.
        settings: its experiment as YAML; empty for a run without any.
    """

    name: str
    progress: str
    command: str
    settings: str


def run_names(runs: Sequence[str | Path]) -> dict[str, str]:
    """A short name for each run, by its place: as many of the last parts of its path as tell it from the others."""
    parts = {str(place): [*place_parts(place)] for place in runs}
    for count in range(1, max(map(len, parts.values())) + 1):
        names = {place: "/".join(each[-count:]) for place, each in parts.items()}
        if len({*names.values()}) == len(names):
            return names
    return {place: place for place in parts}


def runs_of(runs: Sequence[str | Path]) -> list[Run]:
    """What there is to tell of the runs in some folders or at URIs."""
    told = []
    for place, name in run_names(runs).items():
        store = Store(place)
        settings = store.read(EXPERIMENT).decode() if store.exists(EXPERIMENT) else ""
        told.append(Run(name, progress(place), f"metaprune run {EXPERIMENT} --out {place}", settings))
    return told


def settings_of(place: str | Path) -> dict[str, Any]:
    """The experiment of a run; empty for a run without any.

    Raises:
        ValueError: it is no experiment.
    """
    store = Store(place)
    if not store.exists(EXPERIMENT):
        return {}
    try:
        settings = yaml.safe_load(store.read(EXPERIMENT))
    except yaml.YAMLError as error:
        raise ValueError(f"'{store.path(EXPERIMENT)}' is not YAML: run the experiment again") from error
    if not isinstance(settings, dict):
        raise ValueError(f"'{store.path(EXPERIMENT)}' is no experiment: run the experiment again")
    return settings


def progress(place: str | Path) -> str:
    """One sentence on the stages of a run."""
    store = Store(place)
    planned, tried = (set(store.read_table(name, ["cell"])["cell"].to_pylist()) for name in ("plan", "failures"))
    done = store.done()
    failed = tried - done
    text = f"{len(planned & done)} of {len(planned)} stages are done"
    if failed & planned:
        text += f", {len(failed & planned)} failed"
    open_stages = len(planned - done - failed)
    return f"{text}, {open_stages} are still missing." if open_stages else f"{text}."


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
        for row in failures[~failures["cell"].isin(Store(place).done())].itertuples():
            body.append([name, row.cell, row.kind, f"{row.error}: {str(row.message).strip().partition(chr(10))[0]}"])
    return Table("Stages that failed.", ["run", "cell", "stage", "error"], body, 4)
