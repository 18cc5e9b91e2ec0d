"""What was measured beside what the paper prints: differences, and whether Intra-Fusion gains alike."""

from collections.abc import Iterator, Mapping
from typing import Any

import numpy as np
import pandas as pd

from reports import published
from reports.exhibits.exhibit import Item
from reports.results.selection import Tables, final_rows
from reports.statistics import over_seeds
from reports.tables import Table, number, signed

NO_GAIN = 0.5  # points of accuracy below which a gain has no clear sign
CLOSE = 5.0  # points within which two gains are of one size
GRADES = ("agrees", "same sign, other size", "no clear sign", "opposite sign")
METHODS = ["conventional", "intra-fusion"]
HEADS = ["model", "data set", "criterion", "fine-tuned", "group", "sparsity (%)"]

PAPER_SEEDS = 4
PROTOCOL = {
    "dataset.train_samples": None,
    "dataset.test_samples": None,
    "dataset.size": None,
    "dataset.channels": None,
    "dataset.test": None,
    "dataset.held_out": None,
    "dataset.mean": None,
    "dataset.std": None,
    "dataset.augmentation": ["flip", "crop"],
    "training.epochs": 300,
    "training.batch_size": 128,
    "training.learning_rate": 0.05,
    "training.schedule": "halving",
    "training.halve_every": 30,
    "training.momentum": 0.9,
    "training.nesterov": False,
    "training.weight_decay": 0.0,
    "fine_tuning.epochs": 80,
    "fine_tuning.step_epochs": 10,
    "fine_tuning.batch_size": 128,
    "fine_tuning.learning_rate": 0.01,
    "fine_tuning.schedule": "halving",
    "measuring.precision": "float32",
}


FUSION = {"alignment": "activations", "marginal": "uniform", "samples": 200, "repair": False}


def graded(rows: pd.DataFrame) -> pd.DataFrame:
    """Every cell that the paper prints too.

    Args:
        rows: final evaluations as in `Tables`, whose `network` and `dataset` name them as the paper does.

    Returns:
        Columns of `published.comparisons()`, model and note (as in `rows`), measured_conventional and
        measured_intra-fusion (percent, mean over seeds), n_conventional and n_intra-fusion (seeds), published_gain
        and measured_gain (points), and grade, one of `GRADES`.
    """
    plain = rows["plain"].isin(METHODS) & (rows["grid"] == "") & (rows["pipeline"] == "whole-data")
    ours = rows[plain]
    ours = ours.assign(group=ours["group"].fillna(-1).astype(int), target_sparsity=ours["target_sparsity"].round(4))
    keys = ["model", "note", *published.KEYS]
    means = over_seeds(ours, [*keys, "method"]).drop(columns="std").rename(columns={"mean": "measured"})
    sides = [means[means["method"] == method].drop(columns="method") for method in METHODS]
    measured = sides[0].merge(sides[1], on=keys, suffixes=[f"_{method}" for method in METHODS])
    cells = published.comparisons().merge(measured, on=published.KEYS)
    theirs = cells["intra-fusion"] - cells["conventional"]
    gain = cells["measured_intra-fusion"] - cells["measured_conventional"]
    return cells.assign(published_gain=theirs, measured_gain=gain, grade=grade(theirs, gain))


def grade(theirs: pd.Series, ours: pd.Series) -> np.ndarray:
    """One of `GRADES` for each pair of gains (points)."""
    sign = [np.sign(gain.where(gain.abs() >= NO_GAIN, 0)) for gain in (theirs, ours)]
    opposite, unclear = sign[0] * sign[1] < 0, sign[0] != sign[1]
    return np.select([opposite, unclear, (theirs - ours).abs() > CLOSE], [GRADES[3], GRADES[2], GRADES[1]], GRADES[0])


def reproduction_tables(tables: Tables) -> Iterator[Item]:
    """What was measured beside what the paper prints."""
    frame = tables.evaluations
    yield from measured_beside(final_rows(tables), frame[frame["stage"] == "baseline"], tables.settings)


def published_cells(tables: Tables, table: int) -> Iterator[Item]:
    """The cells of one of the paper's tables: published, measured and difference, and how far the gains agree."""
    cells = graded(final_rows(tables))
    if (cells["table"] == table).any():
        yield "published", cells_table(cells[cells["table"] == table])


def measured_beside(
    rows: pd.DataFrame, baselines: pd.DataFrame, settings: Mapping[str, Any]
) -> Iterator[tuple[str, Table]]:
    """The cells, their grades counted, the unpruned models, and what differs in the set-up."""
    cells = graded(rows)
    if not cells.empty:
        yield "reproduction-grades", grades_table(cells)
        yield "reproduction", cells_table(cells)
    models = models_table(baselines)
    if models.rows:
        yield "reproduction-models", models
    differences = differences_table(settings)
    if differences.rows and (models.rows or not cells.empty):
        yield "reproduction-setup", differences


def cells_table(cells: pd.DataFrame) -> Table:
    """A row a cell: published, measured, difference, and the gains with their grade."""
    body = []
    for cell in cells.to_dict("records"):
        row = [
            noted(cell["model"], cell["note"]),
            cell["dataset"],
            cell["criterion"],
            "yes" if cell["stage"] == "fine-tuned" else "no",
        ]
        row += ["all" if cell["group"] < 0 else str(cell["group"]), f"{100 * cell['target_sparsity']:g}"]
        for method in METHODS:
            theirs, ours = cell[method], cell[f"measured_{method}"]
            row += [number(theirs), number(ours), signed(ours - theirs)]
        row += [signed(cell["published_gain"]), signed(cell["measured_gain"]), cell["grade"], str(cell["table"])]
        body.append(row)
    three = [f"{method}, {what}" for method in METHODS for what in ("published", "measured", "difference")]
    head = [*HEADS, *three, "gain, published", "gain, measured", "grade", "published in Table"]
    caption = (
        f"Test accuracy (%) beside the published. A gain is Intra-Fusion minus conventional, in points; below "
        f"{NO_GAIN} it has no clear sign, and gains within {CLOSE:g} points are of one size."
    )
    return Table(caption, head, body, 4, len(HEADS))


def noted(model: str, note: str) -> str:
    """A network's name, followed by what tells its rows from others of the name."""
    return f"{model}, {note}" if note else model


def grades_table(cells: pd.DataFrame) -> Table:
    """How many cells have which grade, by model, data set and criterion."""
    body = []
    named = cells.assign(model=[noted(*each) for each in zip(cells["model"], cells["note"], strict=True)])
    for key, part in named.groupby(["model", "dataset", "criterion", "stage"], sort=False):
        counts = part["grade"].value_counts().reindex(GRADES, fill_value=0)
        distance = [(part[f"measured_{method}"] - part[method]).abs().mean() for method in METHODS]
        gains = [signed(part[f"{whose}_gain"].mean()) for whose in ("published", "measured")]
        body.append([*key, str(len(part)), *map(str, counts), *gains, *map(number, distance)])
    head = ["model", "data set", "criterion", "stage", "cells", *GRADES, "mean gain, published", "mean gain, measured"]
    head += [f"mean distance, {method}" for method in METHODS]
    return Table("How the gains of Intra-Fusion compare with the published, in cells.", head, body, 4)


def models_table(baselines: pd.DataFrame) -> Table:
    """Accuracy of unpruned models beside Tables 6–8."""
    keys = ["network", "dataset", "training_data", "folds"]
    as_published = baselines[baselines["split"].isna() | (baselines["split"] == "unions")]
    ours = over_seeds(as_published.assign(folds=as_published["folds"].fillna(1)), ["model", *keys])
    both = over_seeds(published.base_models(), keys).merge(ours, on=keys, suffixes=("_published", ""))
    body = []
    for row in both.itertuples():
        accuracies = [
            number(row.mean_published, row.std_published, row.n_published),
            number(row.mean, row.std, row.n),
        ]
        names = [row.model, row.dataset, row.training_data, f"{row.folds:g}"]
        body.append([*names, *accuracies, signed(row.mean - row.mean_published)])
    head = ["model", "data set", "trained on", "folds", "published", "measured", "difference"]
    return Table(
        "Test accuracy (%) of unpruned models beside the published, mean and deviation over seeds.", head, body, 3
    )


def differences(settings: Mapping[str, Any]) -> dict[str, tuple[str, str]]:
    """The settings of an experiment that are not the paper's: setting -> the paper's value, the run's."""
    found = {}
    for path, value in PROTOCOL.items():
        part, name = path.split(".")
        ours = settings.get(part, {}).get(name, value)
        if ours != value:
            found[path] = ("all, as they are" if value is None else str(value), str(ours))
    split = {"fap", "paf"} & {*settings.get("pipelines", [])}
    for name, paper in FUSION.items():
        others = sorted({str(each.get(name)) for each in settings.get("fusion", [])} - {str(paper)})
        if split and others:
            found[f"fusion.{name}"] = (str(paper), ", ".join(others))
    source = settings.get("dataset", {}).get("name", "")
    if source in ("parquet", "image-folder"):
        found["dataset.name"] = ("the original files", source)
    given = [model["checkpoint"] for model in settings.get("models", []) if model.get("checkpoint")]
    if given:
        found["training"] = ("its own", f"given weights: {', '.join(path.rpartition('/')[2] for path in given)}")
        found = {path: values for path, values in found.items() if not path.startswith("training.")}
    seeds = settings.get("seeds", [])
    if 0 < len(seeds) < PAPER_SEEDS:
        found["seeds"] = (f"{PAPER_SEEDS} models where it gives deviations", str(len(seeds)))
    return found


def differences_table(settings: Mapping[str, Any]) -> Table:
    """What of the set-up differs, a row a setting of a run; settings by the name of their run."""
    body = [[run, path, *values] for run, each in settings.items() for path, values in differences(each).items()]
    return Table("Settings that are not the paper's.", ["run", "setting", "paper", "here"], body, 4)


def sentence(rows: pd.DataFrame, settings: Mapping[str, Any]) -> str:
    """What the comparison with the paper comes to; empty where no cell is published."""
    cells = graded(rows)
    if cells.empty:
        return ""
    clear = cells[cells["grade"] != GRADES[2]]
    same = (clear["grade"] != GRADES[3]).sum()
    paths = dict.fromkeys(path for each in settings.values() for path in differences(each))
    text = (
        f"Of {len(cells)} cells that the paper prints, Intra-Fusion's gain has the published sign, or as published "
        f"none, in {same}, the opposite in {len(clear) - same} and no clear one in {len(cells) - len(clear)}; the mean "
        f"gain is {signed(cells['measured_gain'].mean())} points, published {signed(cells['published_gain'].mean())}."
    )
    return f"{text} The set-up differs in {', '.join(paths)}." if paths else text
