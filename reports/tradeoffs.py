"""Accuracy against what a network costs, with the Pareto front of all methods."""

from collections.abc import Iterator
from dataclasses import dataclass
from typing import NamedTuple

import matplotlib
import pandas as pd
from matplotlib.axes import Axes
from matplotlib.figure import Figure

from reports import figures

FRONT: figures.Look = {"color": "#BBBBBB", "linewidth": 4, "zorder": 0, "label": "Pareto front"}
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


def figures_against(cost: Cost, rows: pd.DataFrame, baselines: pd.DataFrame) -> Iterator[tuple[str, Figure]]:
    """A figure a model, a panel for what was not and what was fine-tuned, each setting of the grid (and a device, of
    latency); the front is that of all settings.

    Args:
        cost: the horizontal axis.
        rows: final evaluations of networks pruned in all groups, with a column `variant` to be drawn as one line, and
            `settings` of the grid.
        baselines: evaluations of the unpruned networks.
    """
    apart = ["device"] * (cost.column == "latency_1" and rows["device"].nunique() > 1)
    stages = rows["stage"].eq("fine-tuned").map(STAGES)
    titles = stages.str.cat([rows[column].fillna("unknown device") for column in apart], sep=", ")
    known = rows.assign(title=titles)[rows[cost.column].notna()]
    for model, frame in known.groupby("model", sort=False):
        start = baselines[baselines["model"] == model]
        panels = {}
        for title, part in frame.groupby("title"):
            same = start[start["device"].isin(part["device"])] if apart else start
            unpruned = means(same, ["model"], cost)
            points = means(part, ["settings", "variant", "target_sparsity"], cost)
            front = pareto_front(pd.concat([points, unpruned]), cost)
            for settings, pruned in points.groupby("settings", sort=True):
                panels[f"{title}, {settings}" if settings else str(title)] = Panel(pruned, unpruned, front)
        if all(title.startswith(STAGES[False]) for title in panels):
            panels = {title.removeprefix(f"{STAGES[False]}, "): panel for title, panel in panels.items()}
        yield str(model), tradeoff_figure(cost, panels)


def means(rows: pd.DataFrame, by: list[str], cost: Cost) -> pd.DataFrame:
    """Mean cost, and mean and deviation of accuracy over seeds, for each combination of `by`."""
    grouped = rows.groupby(by, sort=False)
    accuracy = grouped["accuracy"].agg(["mean", "std"])
    return accuracy.assign(**{cost.column: grouped[cost.column].mean()}).reset_index()


class Panel(NamedTuple):
    """What one panel shows: means of pruned networks, of the unpruned one, and those on the front."""

    pruned: pd.DataFrame
    unpruned: pd.DataFrame
    front: pd.DataFrame


def tradeoff_figure(cost: Cost, panels: dict[str, Panel]) -> Figure:
    """A line a variant, the unpruned network, and the front."""
    figure, axes = figures.panels(list(panels), columns=3 if len(panels) == 3 else 2)
    looks = figures.style(sorted({name for panel in panels.values() for name in panel.pruned["variant"]}))
    for axis, panel in zip(axes, panels.values(), strict=True):
        draw_front(axis, panel.front, cost)
        for variant, points in panel.pruned.groupby("variant"):
            figures.curve(axis, points, cost.column, looks[str(variant)], cost.scale)
        figures.curve(axis, panel.unpruned, cost.column, UNPRUNED, cost.scale)
    figures.label(figure, cost.label)
    figures.legend(
        figure, {**looks, "unpruned": UNPRUNED, "Pareto front" + " of all panels" * (len(panels) > 1): FRONT}
    )
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
