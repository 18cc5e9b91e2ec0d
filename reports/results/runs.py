"""What there is to say of runs besides their results: their names, how far they are, and their settings."""

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import yaml

from orchestrator.storage.store import EXPERIMENT, Store, place_parts


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
