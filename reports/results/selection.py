"""The tables of runs that exhibits are made from, and the rows of them that each exhibit is about."""

from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd

from reports.results.naming import notes
from reports.results.reading import tables_in
from reports.results.runs import run_names, settings_of

NAMED = {
    "evaluations": "evaluations",
    "importances": "importances",
    "distances": "output_distances",
    "landscapes": "landscapes",
    "allocations": "allocations",
    "barriers": "barriers",
}
OTHERS = {name: name for name in ("epochs", "splits", "plan", "timings")}
FROM_FILES = ("parquet", "image-folder")
GRID = ["groups", "repair", "allocation", "order", "sparsity_of", "round_to"]
REPAIRS = {"none": None, "data-free": "data-free repair", "data": "repair"}
SHARES_OF = {"weights": "of weights", "macs": "of MACs", "latency": "of latency"}
NAMELESS = ("data", "default", "plain_text")  # folders of the Hub, which are in that of the data set
# What results of several pipelines have in common that are compared.
SAME_WORK = ["model", "criterion", "method", "note", "target_sparsity", "seed"]
PIPELINES = {"whole-data": "whole-data", "fap": "FaP", "paf": "PaF", "fuse": "fused"}


@dataclass(frozen=True)
class Tables:
    """The tables of one or several runs that exhibits are made from.

    Attributes:
        evaluations, epochs, splits, plan, timings, importances, distances, landscapes, allocations, barriers: as
            `reports.load` gives them, with models, pipelines and methods named so that they differ. Further columns:
            `network` and `plain`, the bare names of network and method; `grid`, the unusual settings of the grid;
            `note`, what tells apart rows whose other columns agree; `variation`, both of these.
        settings: the experiment of each run, by the run's name.
        published: whether figures show the paper's curves too.
    """

    evaluations: pd.DataFrame
    epochs: pd.DataFrame
    splits: pd.DataFrame
    plan: pd.DataFrame
    timings: pd.DataFrame
    importances: pd.DataFrame
    distances: pd.DataFrame
    landscapes: pd.DataFrame
    allocations: pd.DataFrame
    barriers: pd.DataFrame
    settings: Mapping[str, Any]
    published: bool = False


def tables_of(run: str | Path | Sequence[str | Path], published: bool = False) -> Tables:
    """The tables of runs, everything named so that no two variants share a name.

    If several runs contain a cell, the first run's value is used. Methods are named with the unusual settings of their
    grids, pipelines with folds, splits and fusions where there are several. What has equal coordinates and differs in
    another setting gets a note (`reports.results.naming`).
    """
    names = run_names([run] if isinstance(run, (str, Path)) else run)
    runs = list(names)
    settings = {str(place): settings_of(place) for place in runs}
    loaded = tables_in(runs, {**NAMED, **OTHERS}.values())
    frames = {name: table_of(loaded.pop(table), settings) for name, table in {**NAMED, **OTHERS}.items()}
    found = notes(frames["plan"], settings, names)
    frames = {name: with_branches(with_grid(with_notes(frame, found))) for name, frame in frames.items()}
    of_runs = {names[place]: each for place, each in settings.items()}
    return Tables(**frames, settings=of_runs, published=published)


def with_notes(frame: pd.DataFrame, notes: pd.DataFrame) -> pd.DataFrame:
    """The rows, their networks named with what tells them from others of the name, and a note beside the method.

    Args:
        notes: by cell, as `naming.notes` gives them.
    """
    network = frame["cell"].map(notes["network_note"]).fillna("")
    model = frame["model"].where(network == "", frame["model"] + ", " + network)
    return frame.assign(model=model, note=frame["cell"].map(notes["note"]).fillna(""))


def table_of(frame: pd.DataFrame, settings: Mapping[str, Any]) -> pd.DataFrame:
    """A table of several runs, each cell from the first run that has it."""
    if frame["run"].nunique() > 1:
        first = frame.drop_duplicates("cell").set_index("cell")["run"]
        frame = frame[frame["run"] == frame["cell"].map(first)]
    return with_datasets(frame, settings)


def with_datasets(frame: pd.DataFrame, settings: Mapping[str, Any]) -> pd.DataFrame:
    """The rows, data sets that are read from files named by their folder, and models by the data set where there are
    several; `network` is the plain name."""
    roots = {run: each["dataset"]["root"] for run, each in settings.items() if each.get("dataset", {}).get("root")}
    paths = {run: Path(root) for run, root in roots.items()}
    folders = frame["run"].map({run: p.parent.name if p.name in NAMELESS else p.name for run, p in paths.items()})
    datasets = frame["dataset"].mask(frame["dataset"].isin(FROM_FILES) & folders.notna(), folders)
    several = datasets.nunique() > 1
    model = frame["model"] + " on " + datasets if several else frame["model"]
    return frame.assign(dataset=datasets, network=frame["model"], model=model)


def with_grid(frame: pd.DataFrame) -> pd.DataFrame:
    """The rows, their methods named with all unusual settings of their grid; `grid` has these alone, `plain` the method
    without, and `variation` these and the note."""
    grid = by_values(frame[GRID], unusual_settings)
    return frame.assign(
        plain=frame["method"],
        grid=grid,
        method=frame["method"].where(grid == "", frame["method"] + ", " + grid),
        variation=joined(pd.DataFrame({"grid": grid, "note": frame["note"]})),
    )


def unusual_settings(grids: pd.DataFrame) -> Iterable[str]:
    """The unusual settings of some grids, a row each, as words."""
    words = pd.DataFrame(
        {
            "groups": grids["groups"].map("groups {}".format, na_action="ignore"),
            "repair": grids["repair"].map(lambda repair: REPAIRS.get(repair, repair)),
            "allocation": grids["allocation"].where(grids["allocation"] != "uniform"),
            "order": grids["order"].map({"input-first": "input first"}),
            "sparsity_of": grids["sparsity_of"].map(
                {"weights": "of weights", "macs": "of MACs", "latency": "of latency"}
            ),
            "round_to": grids["round_to"].map(lambda n: f"multiples of {n:g}" if n > 1 else None),
        }
    )
    return list(joined(words))


def joined(parts: pd.DataFrame) -> pd.Series:
    """The texts of each row, without those that are empty or missing, with commas between."""

    def texts(rows: pd.DataFrame) -> Iterable[str]:
        return [", ".join(part for part in row if isinstance(part, str) and part) for row in rows.to_numpy()]

    return by_values(parts, texts)


def by_values(rows: pd.DataFrame, texts: Callable[[pd.DataFrame], Iterable[str]]) -> pd.Series:
    """A text for each row that depends on its values alone; made once for equal rows, since there may be a million.

    Args:
        texts: gives the text of each of some rows.
    """
    numbers = rows.groupby(list(rows), dropna=False, sort=False, observed=True).ngroup().to_numpy()
    _, firsts = np.unique(numbers, return_index=True)
    found = np.array([*texts(rows.iloc[firsts])], dtype=object)
    return pd.Series(found[numbers] if len(rows) else found, rows.index, dtype=object)


def with_branches(frame: pd.DataFrame) -> pd.DataFrame:
    """The rows, their pipelines as they are written, with what tells them apart: folds, splits and fusions."""
    pipeline = frame["pipeline"].replace(PIPELINES)
    folds = frame["folds"].map("{:g} folds".format, na_action="ignore")
    for told in (folds, frame["split"], frame["fusion"]):
        if told.nunique() > 1:
            pipeline = pipeline.where(told.isna(), pipeline + ", " + told)
    return frame.assign(pipeline=pipeline)


def pipelines_of(frame: pd.DataFrame) -> list[str]:
    """The pipelines of some rows in the paper's order."""
    order = list(PIPELINES.values())
    return sorted(frame["pipeline"].dropna().unique(), key=lambda name: (order.index(name.partition(",")[0]), name))


def data_free_rows(tables: Tables) -> pd.DataFrame:
    """Final rows measured without fine-tuning after pruning one group."""
    frame = untuned(tables)
    return frame[frame["group"].notna()].astype({"group": int})


def whole_network_rows(tables: Tables) -> pd.DataFrame:
    """Final rows measured without fine-tuning after pruning all groups."""
    frame = untuned(tables)
    return frame[frame["group"].isna()]


def final_rows(tables: Tables) -> pd.DataFrame:
    """The rows that end a cell."""
    return tables.evaluations[tables.evaluations["final"].astype(bool)]


def untuned(tables: Tables) -> pd.DataFrame:
    """Final rows of pruned models that were not fine-tuned; PaF's end with the fusion."""
    frame = tables.evaluations
    return frame[frame["final"] & frame["stage"].isin(["pruned", "fused"]) & frame["method"].notna()]


def pipeline_rows(tables: Tables) -> pd.DataFrame:
    """Final rows after pruning all groups with fine-tuning."""
    frame = tables.evaluations
    return frame[frame["final"] & (frame["stage"] == "fine-tuned") & frame["group"].isna()]


def baselines(frame: pd.DataFrame, model: str) -> pd.DataFrame:
    """The whole-data model before pruning, as the point at sparsity 0."""
    return frame[(frame["model"] == model) & (frame["stage"] == "baseline") & (frame["training_data"] == "whole")]


def cuts_of(frame: pd.DataFrame) -> list[str]:
    """How the training set was cut for each row, as `2 unions`; a dash for whole-data."""

    def texts(cuts: pd.DataFrame) -> Iterable[str]:
        return [f"{folds:g} {split}" if isinstance(split, str) else "–" for folds, split in cuts.to_numpy()]

    return list(by_values(frame[["folds", "split"]], texts))


def variants(frame: pd.DataFrame, *further: str, of: str = "method") -> pd.Series:
    """The method, followed by the criterion, and by further columns, where there are several.

    Args:
        of: the column that names the method: with its grid's settings, and then with the note too, or `plain` where
            `variation` stands elsewhere.
    """
    names = frame[of]
    if of == "method":
        names = names.where(frame["note"] == "", names + ", " + frame["note"])
    for column in ("criterion", *further):
        if frame[column].nunique() > 1:
            names = names + " · " + frame[column]
    return names
