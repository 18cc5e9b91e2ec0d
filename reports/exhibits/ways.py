"""Whole networks by every way in which they were compressed: a row each, ordered by accuracy."""

from collections.abc import Iterator, Sequence

import pandas as pd
from matplotlib.figure import Figure

from reports import figures
from reports.exhibits.exhibit import Item
from reports.results.selection import SHARES_OF, Tables, baselines, variants, whole_network_rows
from reports.statistics import over_seeds

MOST_WAYS = 40  # rows of a figure; the best ones, where there are more
FEWEST_WAYS = 3
UNPRUNED: figures.Look = {"color": "#000000", "linestyle": "--", "linewidth": 0.8, "zorder": 0}


def ways_figures(tables: Tables) -> Iterator[Item]:
    """A figure a model and what its sparsities are shares of, a panel a sparsity, a row each choice and repair.

    Nothing is drawn of models that were compressed in one or two ways, or without any repair.
    """
    rows = whole_network_rows(tables)
    rows = rows.assign(way=variants(rows, "pipeline"), of=rows["sparsity_of"].fillna("neurons"))
    for (model, of), frame in rows.groupby(["model", "of"], sort=False):
        if frame["way"].nunique() >= FEWEST_WAYS and frame["repair"].nunique() > 1:
            means = over_seeds(frame, ["way", "target_sparsity"], cells=True)
            counted = SHARES_OF.get(str(of), "of neurons")
            name = figures.stem("ways", str(model), *[counted] * (of != "neurons"))
            yield name, drawn(means, baselines(tables.evaluations, str(model))["accuracy"].mean(), counted)


def drawn(means: pd.DataFrame, base: float, counted: str) -> Figure:
    """A panel a sparsity, which is a share of what `counted` says; `base` is the accuracy of the unpruned model."""
    sparsities = sorted(means["target_sparsity"].unique())
    shown = ordered(means)[:MOST_WAYS]
    figure, axes, places = figures.rows([f"{100 * sparsity:g} % {counted}" for sparsity in sparsities], shown)
    looks = figures.style(shown)
    for axis, sparsity in zip(axes, sparsities, strict=True):
        points = means[means["target_sparsity"] == sparsity].set_index("way")
        for way, place in zip(shown, places, strict=True):
            if way in points.index:
                figures.dot(axis, place, points.loc[way], looks[way], way)
        if pd.notna(base):
            axis.axvline(base, **UNPRUNED)
    left_out = means["way"].nunique() - len(shown)
    note = [figures.repetitions(means), "dashed: unpruned", *[f"{left_out} worse ones left out"] * (left_out > 0)]
    figures.label(figure, "test accuracy (%)", "", "; ".join(filter(None, note)))
    return figure


def ordered(means: pd.DataFrame) -> Sequence[str]:
    """The ways, the best first, at the sparsity that most have; those without it follow, by their own means."""
    counts = means["target_sparsity"].value_counts()
    most = counts[counts == counts.max()].index.max()
    every = means.groupby("way")["mean"].mean().sort_values(ascending=False)
    common = means[means["target_sparsity"] == most].set_index("way")["mean"].sort_values(ascending=False)
    return [*map(str, common.index), *(str(way) for way in every.index if way not in common.index)]
