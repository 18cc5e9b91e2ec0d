"""Accuracy against what a network costs, with the Pareto front of each panel."""

from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from typing import NamedTuple

import matplotlib
import pandas as pd
from matplotlib.axes import Axes
from matplotlib.figure import Figure

from reports import figures
from reports.exhibits.exhibit import Item, Make
from reports.exhibits.latency import mean_intervals, measured_beside
from reports.names import in_order
from reports.results.selection import Tables, final_rows, variants
from reports.statistics import over_seeds

# The rings show a front of one point too.
FRONT: figures.Look = {
    "color": "#BBBBBB",
    "linewidth": 4,
    "marker": "o",
    "markersize": 10,
    "markerfacecolor": "none",
    "markeredgewidth": 2,
    "zorder": 0,
}
STAGES = {True: "fine-tuned", False: "not fine-tuned"}
UNPRUNED: figures.Look = {"color": "#000000", "marker": "*", "linestyle": "", "markersize": 8, "label": "unpruned"}


@dataclass(frozen=True)
class Cost:
    """What accuracy is drawn against.

    Attributes:
        column: of the evaluations.
        label: of the axis, with the unit.
        scale: from the column's unit to the label's.
        more_is_better: whether the network with more of it is the cheaper one.
    """

    column: str
    label: str
    scale: float
    more_is_better: bool = False


COSTS = {
    "weight-sparsity": Cost("weight_sparsity", "weight sparsity (%)", 100, more_is_better=True),
    "parameters": Cost("parameters", "parameters (millions)", 1e-6),
    "macs": Cost("macs", "multiply-accumulate operations of an image (millions)", 1e-6),
    "latency": Cost("latency_1", "forward pass of one image (ms)", 1),
}


def accuracy_against(name: str) -> Make:
    """What makes the figures of accuracy against a cost."""

    def make(tables: Tables) -> Iterator[Item]:
        rows = final_rows(tables)
        whole = rows[rows["group"].isna() & rows["method"].notna()]
        start = tables.evaluations[tables.evaluations["stage"] == "baseline"]
        start = start[start["training_data"] == "whole"]
        drawn = whole.assign(variant=variants(whole, "pipeline", of="plain"))
        for suffix, figure in figures_against(COSTS[name], drawn, start):
            yield figures.stem("accuracy-against", name, *suffix), figure

    return make


def figures_against(
    cost: Cost, rows: pd.DataFrame, baselines: pd.DataFrame
) -> Iterator[tuple[tuple[str, ...], Figure]]:
    """A figure a model, a panel for what was not and what was fine-tuned, each setting of the grid (and a device, of
    latency).

    Args:
        cost: the horizontal axis.
        rows: final evaluations of networks pruned in all groups, with a column `variant` to be drawn as one line, and
            `variation` of the grid.
        baselines: evaluations of the unpruned networks.

    Yields:
        How the figure's name ends, and the figure.
    """
    apart = ["device"] * (cost.column == "latency_1" and rows["device"].nunique() > 1)
    titles = rows["stage"].eq("fine-tuned").map(STAGES)
    for column in apart:
        titles = titles + ", " + rows[column].fillna("unknown device")
    titles = titles.where(rows["variation"] == "", titles + ", " + rows["variation"])
    known = rows.assign(title=titles)[rows[cost.column].notna()]
    for model, frame in known.groupby("model", sort=False):
        start = baselines[(baselines["model"] == model) & baselines[cost.column].notna()]
        every = {}
        for title, part in ((title, frame[frame["title"] == title]) for title in in_order(frame["title"])):
            same = start[start["device"].isin(part["device"])] if apart else start
            unpruned = means(same, ["model"], cost)
            pruned = means(part, ["variant", "target_sparsity"], cost)
            every[title] = Panel(pruned, unpruned, pareto_front(pd.concat([pruned, unpruned]), cost))
        beside = measured_beside(frame) if cost.column == "latency_1" else ""
        for part_of, panels in figures.pages(every):
            yield (str(model), *part_of), tradeoff_figure(cost, panels, beside)


def means(rows: pd.DataFrame, by: list[str], cost: Cost) -> pd.DataFrame:
    """Mean cost, and mean and deviation of accuracy over seeds, for each combination of `by`; of latency also the mean
    ends of its interval, `low` and `high`."""
    found = over_seeds(rows, by, x=cost.column, cells=True)
    return pd.concat([found, mean_intervals(rows, by)], axis=1) if cost.column == "latency_1" else found


class Panel(NamedTuple):
    """What one panel shows: means of pruned networks, of the unpruned one, and those on the front."""

    pruned: pd.DataFrame
    unpruned: pd.DataFrame
    front: pd.DataFrame


def tradeoff_figure(cost: Cost, panels: Mapping[str, Panel], beside: str = "") -> Figure:
    """A line a variant, the unpruned network, and the front of each panel.

    Args:
        beside: what else went on while times were measured.
    """
    figure, axes = figures.panels(list(panels), columns=3 if len(panels) == 3 else 2)
    looks = figures.style(in_order(name for panel in panels.values() for name in panel.pruned["variant"]))
    for axis, panel in zip(axes, panels.values(), strict=True):
        draw_front(axis, panel.front, cost)
        for variant, points in panel.pruned.groupby("variant"):
            figures.curve(axis, points, cost.column, looks[str(variant)], cost.scale, name=str(variant))
        figures.curve(axis, panel.unpruned, cost.column, UNPRUNED, cost.scale, name="unpruned")
    notes = [figures.repetitions(*(panel.pruned for panel in panels.values()))]
    if any("low" in panel.pruned and panel.pruned["low"].notna().any() for panel in panels.values()):
        notes.append("horizontal bars: 95 % interval of the median time")
    figures.label(figure, cost.label, note="; ".join([*notes, *[beside] * bool(beside)]))
    front = "Pareto front" + " of the panel" * (len(panels) > 1)
    figures.legend(figure, {**looks, "unpruned": UNPRUNED, front: FRONT})
    return figure


def pareto_front(points: pd.DataFrame, cost: Cost) -> pd.DataFrame:
    """The points that no other beats in accuracy at its cost or less, by their cost."""
    ordered = points.sort_values([cost.column, "mean"], ascending=[not cost.more_is_better, False])
    before = ordered["mean"].cummax().shift(fill_value=-float("inf"))
    return ordered[ordered["mean"] > before].sort_values(cost.column)


def draw_front(axis: Axes, front: pd.DataFrame, cost: Cost) -> None:
    """The best accuracy to be had for each cost."""
    with matplotlib.rc_context(figures.STYLE):
        steps = "steps-pre" if cost.more_is_better else "steps-post"
        axis.plot(cost.scale * front[cost.column], front["mean"], drawstyle=steps, **FRONT)
