"""Allocations compared: the widths that each search finds, and the accuracy at what each one's networks cost."""

from collections.abc import Iterator

import pandas as pd
from matplotlib.figure import Figure

from reports import figures
from reports.exhibits.exhibit import Item, Make
from reports.exhibits.tradeoffs import COSTS, figures_against
from reports.names import in_order
from reports.results.selection import (
    GRID,
    SHARES_OF,
    Tables,
    by_values,
    final_rows,
    joined,
    unusual_settings,
    variants,
)
from reports.statistics import over_seeds

BY_SCORES = ("global", "isomorphic")
UNIFORM: figures.Look = {"color": "#777777", "linestyle": ":", "label": "uniform"}


def widths_figures(tables: Tables) -> Iterator[Item]:
    """A figure a model and what the budget counts, a panel a sparsity, a line an allocation, from input to output.

    Searches that compress networks as cells do are named with the method. Widths in networks that were pruned or
    fused before are not shown, nor are sparsities on the way to those of cells.
    """
    rows = tables.allocations
    rows = rows[(rows["pipeline"] == "whole-data") & rows["step"].isna()]
    asked = tables.plan[tables.plan["final"].astype(bool)]
    rows = rows[rows["target_sparsity"].isin(asked["target_sparsity"])]
    rows = rows.assign(
        kept=rows["width"] / rows["neurons"],
        same=rows["uniform_width"].astype(float) / rows["neurons"],
        variant=names_of(rows),
    )
    # All cells of a threshold repeat its widths.
    rows = rows.drop_duplicates(["model", "sparsity_of", "target_sparsity", "variant", "seed", "of_group", "width"])
    for (model, of), frame in rows.groupby(["model", "sparsity_of"], sort=False):
        counted = SHARES_OF.get(str(of), "of neurons")
        for part_of, panels in figures.pages(panels_of(frame, counted)):
            yield figures.stem("widths", str(model), counted, *part_of), drawn(panels)


def names_of(rows: pd.DataFrame) -> pd.Series:
    """How each row's allocation is told from others; thresholds depend on the criterion alone."""
    searched = joined(pd.DataFrame({"method": variants(rows, of="plain"), "variation": rows["variation"]}))
    by_scores = rows["allocation"].isin(BY_SCORES)
    names = rows["allocation"].astype(str)
    if rows.loc[by_scores, "criterion"].nunique() > 1:
        names = names + " · " + rows["criterion"].astype(str)
    return searched.where(~by_scores, names)


def panels_of(rows: pd.DataFrame, counted: str) -> dict[str, pd.DataFrame]:
    """The rows of each sparsity, by its title; `counted` says what that is a share of."""
    targets = rows["target_sparsity"].drop_duplicates().sort_values()
    return {f"{100 * target:g} % {counted}": rows[rows["target_sparsity"] == target] for target in targets}


def drawn(panels: dict[str, pd.DataFrame]) -> Figure:
    """The share of neurons that each group keeps; the first group is the last before the output."""
    figure, axes = figures.panels(list(panels), columns=3)
    looks = figures.style(in_order(name for rows in panels.values() for name in rows["variant"]))
    means = []
    for axis, rows in zip(axes, panels.values(), strict=True):
        for variant, frame in rows.groupby("variant", sort=False):
            points = over_seeds(frame.assign(accuracy=100 * frame["kept"]), ["of_group"], cells=True)
            figures.curve(axis, points, "of_group", looks[str(variant)], 1, percent=False, name=str(variant))
            means.append(points)
        first = rows[rows["variant"] == rows["variant"].iloc[0]]
        same = over_seeds(first.assign(accuracy=100 * first["same"]), ["of_group"], cells=True)
        figures.curve(axis, same, "of_group", UNIFORM, 1, percent=False, name="uniform")
        if not axis.xaxis_inverted():
            axis.invert_xaxis()  # from the input to the output
    figures.label(figure, "group, from the input to the output", "neurons kept (%)", figures.repetitions(*means))
    figures.legend(figure, {**looks, "uniform": UNIFORM})
    return figure


def accuracy_against(name: str) -> Make:
    """What makes the figures of all allocations' accuracy against a cost."""

    def make(tables: Tables) -> Iterator[Item]:
        rows = final_rows(tables)
        start = tables.evaluations[tables.evaluations["stage"] == "baseline"]
        compared = by_allocation(rows[rows["group"].isna() & rows["method"].notna()])
        for suffix, figure in figures_against(COSTS[name], compared, start[start["training_data"] == "whole"]):
            yield figures.stem("allocations-against", name, *suffix), figure

    return make


def by_allocation(rows: pd.DataFrame) -> pd.DataFrame:
    """The rows of panels with several allocations, a panel each method with the other settings of its grid, a line
    each allocation: columns `variation` and `variant`."""
    others = by_values(rows[GRID].assign(allocation="uniform"), unusual_settings)
    parts = {"method": variants(rows, "pipeline", of="plain"), "grid": others, "note": rows["note"]}
    named = rows.assign(variation=joined(pd.DataFrame(parts)), variant=rows["allocation"])
    several = named.groupby(["model", "stage", "variation"])["variant"].transform("nunique") > 1
    return named[several]
