"""The table of cells: everything measured, mean over seeds."""

from collections.abc import Iterator

import pandas as pd

from reports.exhibits.exhibit import Item
from reports.exhibits.latency import INTERVAL, mean_intervals, measured_beside
from reports.exhibits.models import natural_column
from reports.results.selection import Tables, cuts_of
from reports.statistics import over_seeds
from reports.tables import Table, number

COORDINATES = {
    "model": "model",
    "dataset": "data set",
    "trained_on": "trained on",
    "pipeline": "pipeline",
    "stage": "stage",
    "criterion": "criterion",
    "method": "method",
    "note": "settings",
}
COSTS = ["weight_sparsity", "parameters", "macs", "latency_1"]
MOST_CELLS = 5000  # with more, the mean over groups is shown


def all_cells(tables: Tables) -> Iterator[Item]:
    """Every measured network with its accuracy and its costs."""
    frame = tables.evaluations
    rows = frame[frame["final"] | (frame["stage"] == "baseline")]
    if not rows.empty:
        yield "cells", cells_table(rows)


def cells_table(rows: pd.DataFrame, most: int = MOST_CELLS) -> Table:
    """A row a cell with its accuracy and its costs; mean over groups too where there are more cells than `most`."""
    data = zip(rows["training_data"], cuts_of(rows), strict=True)
    trained_on = [f"{subset} of {cut}" if isinstance(subset, str) and cut != "–" else subset for subset, cut in data]
    rows = rows.assign(trained_on=trained_on)
    names = [column for column in COORDINATES if column != "note" or (rows["note"] != "").any()]
    by = [*names, "group", "target_sparsity"]
    caption = "Every measured network: test accuracy (%), mean and deviation over seeds."
    beside = measured_beside(rows)
    if rows.groupby(by, dropna=False).ngroups > most:
        by.remove("group")
        caption = "Test accuracy (%) of every setting: mean over groups, then mean and deviation over seeds."
        values = ["accuracy", *COSTS, *INTERVAL]
        rows = rows.groupby([*by, "seed"], dropna=False, sort=False)[values].mean().reset_index()
    costs = rows.groupby(by, dropna=False, sort=False)[COSTS].mean().reset_index(drop=True)
    parts = [over_seeds(rows, by), costs, mean_intervals(rows, by)]
    means = pd.concat(parts, axis=1).sort_values(by, key=natural_column)
    intervals = [interval(*ends) for ends in zip(means["low"], means["high"], strict=True)]
    columns = {
        **{COORDINATES[column]: means[column].map(word) for column in names},
        **({"group": means["group"].map(lambda group: number(group, digits=0))} if "group" in by else {}),
        "sparsity (%)": percent(means["target_sparsity"]),
        "weight sparsity (%)": percent(means["weight_sparsity"]),
        "parameters": means["parameters"].map("{:,.0f}".format),
        "million MACs": (means["macs"] / 1e6).map(number),
        "ms an image": means["latency_1"].map(number),
        **({"ms, 95 % interval": intervals} if means["low"].notna().any() else {}),
        "accuracy": [number(*pair) for pair in zip(means["mean"], means["std"], strict=True)],
        "n": means["n"].map(str),
    }
    keys = len(names) + ("group" in by) + 1
    caption += f" Times were {beside}." if beside else ""
    return Table(caption, list(columns), list(zip(*columns.values(), strict=True)), len(names), keys)


def interval(low: float, high: float) -> str:
    """`0.35 to 0.39`; a dash where it is not known."""
    return number(low) if low != low else f"{number(low)} to {number(high)}"


def word(value: object) -> str:
    """A name; a dash where there is none."""
    return value if isinstance(value, str) and value else "–"


def percent(shares: pd.Series) -> pd.Series:
    """Shares as percentages with one digit; a dash for NaN."""
    return shares.map(lambda share: number(100 * share, digits=1))
