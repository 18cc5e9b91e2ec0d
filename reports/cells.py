"""The table of cells: everything measured, mean over seeds."""

import pandas as pd

from reports.statistics import over_seeds
from reports.tables import Table, number

COORDINATES = ["model", "dataset", "pipeline", "stage", "criterion", "method"]
COSTS = ["weight_sparsity", "parameters", "macs", "latency_1"]
MOST_CELLS = 5000  # with more, the mean over groups is shown


def cells_table(rows: pd.DataFrame, most: int = MOST_CELLS) -> Table:
    """A row a cell with its accuracy and its costs; mean over groups too where there are more cells than `most`."""
    by = [*COORDINATES, "group", "target_sparsity"]
    caption = "Every measured network: test accuracy (%), mean and deviation over seeds."
    if rows.groupby(by, dropna=False).ngroups > most:
        by.remove("group")
        caption = "Test accuracy (%) of every setting, mean and deviation over groups and seeds."
    costs = rows.groupby(by, dropna=False, sort=False)[COSTS].mean().reset_index(drop=True)
    means = pd.concat([over_seeds(rows, by), costs], axis=1).sort_values(by)
    columns = {
        **{head: means[column].fillna("–") for head, column in zip(HEADS, COORDINATES, strict=True)},
        **({"group": means["group"].map(lambda group: number(group, digits=0))} if "group" in by else {}),
        "sparsity (%)": percent(means["target_sparsity"]),
        "weight sparsity (%)": percent(means["weight_sparsity"]),
        "parameters": means["parameters"].map("{:,.0f}".format),
        "million MACs": (means["macs"] / 1e6).map(number),
        "ms an image": means["latency_1"].map(number),
        "accuracy": [number(*pair) for pair in zip(means["mean"], means["std"], strict=True)],
        "n": means["n"].map(str),
    }
    return Table(caption, list(columns), list(zip(*columns.values(), strict=True)), len(COORDINATES))


HEADS = ["model", "data set", "pipeline", "stage", "criterion", "method"]


def percent(shares: pd.Series) -> pd.Series:
    """Shares as percentages with one digit; a dash for NaN."""
    return shares.map(lambda share: number(100 * share, digits=1))
