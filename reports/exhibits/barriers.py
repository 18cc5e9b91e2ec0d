"""Loss and accuracy along the straight lines between two networks, aligned and not."""

from collections.abc import Iterator

import pandas as pd

from reports import figures
from reports.exhibits.exhibit import Item
from reports.names import in_order
from reports.results.selection import Tables, cuts_of, joined
from reports.statistics import over_seeds
from reports.tables import Table, number

PANELS = {"loss": "test loss (nat)", "accuracy": "test accuracy (%)"}
BY = ["model", "cut", "variant"]


def line_rows(tables: Tables) -> pd.DataFrame:
    """The points of all lines, a row a fusion, seed and share; of several pairs of one seed the mean.

    Returns:
        Columns `BY`, seed, share, loss, accuracy, and `excess` and `lost`: the loss above, and the accuracy below, the
        straight line between the ends.
    """
    rows = tables.barriers
    rows = rows.assign(cut=cuts_of(rows), variant=joined(rows[["fusion", "note"]]))
    ends = rows.sort_values("share").groupby("cell")["accuracy"]
    first, last = ends.transform("first"), ends.transform("last")
    rows = rows.assign(lost=(1 - rows["share"]) * first + rows["share"] * last - rows["accuracy"])
    values = ["loss", "accuracy", "excess", "lost"]
    return rows.groupby([*BY, "seed", "share"], sort=False)[values].mean().reset_index()


def barrier_figures(tables: Tables) -> Iterator[Item]:
    """Loss and accuracy against the share of the second network, a line a fusion, a figure a model."""
    if tables.barriers.empty:
        return
    rows = line_rows(tables)
    several = rows["cut"].nunique() > 1
    for (model, cut), frame in rows.groupby(["model", "cut"], sort=False):
        figure, axes = figures.panels(list(PANELS.values()), columns=2, share=False)
        looks = figures.style(in_order(frame["variant"]))
        for axis, value in zip(axes, PANELS, strict=True):
            points = over_seeds(frame, ["variant", "share"], value)
            for variant, look in looks.items():
                of_one = points[points["variant"] == variant]
                figures.curve(axis, of_one, "share", look, percent=value == "accuracy", name=variant)
        figures.label(figure, "share of the second network (%)", "", figures.repetitions(points))
        figures.legend(figure, looks)
        yield figures.stem("barriers", model, *[cut] * several), figure


def barrier_table(tables: Tables) -> Iterator[Item]:
    """The barrier of each fusion: the most that loss rises above, and accuracy falls below, the line of the ends."""
    if tables.barriers.empty:
        return
    rows = line_rows(tables)
    most = rows.groupby([*BY, "seed"], sort=False)[["excess", "lost"]].max()
    ends = rows[rows["share"].isin([0, 1])].groupby([*BY, "seed"], sort=False)[["loss", "accuracy"]].mean()
    found = most.join(ends).reset_index()
    columns = {
        "excess": "loss barrier (nat)",
        "lost": "accuracy barrier (points)",
        "loss": "loss of the ends",
        "accuracy": "accuracy of the ends (%)",
    }
    means = [over_seeds(found, BY, column).set_index(BY) for column in columns]
    body = [
        [*map(str, place), *(number(*of_one.loc[place, ["mean", "std", "n"]]) for of_one in means)]
        for place in means[0].index
    ]
    caption = (
        "Barriers on the straight line between two networks: by how much at most the test loss is above, and the test "
        "accuracy below, the line between the ends."
    )
    yield "barriers", Table(caption, ["model", "folds", "fusion", *columns.values()], body, 3, 3)
