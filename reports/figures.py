"""The style of all figures, and the panels that they are made of."""

import itertools
from collections.abc import Sequence
from typing import Any

import matplotlib
import pandas as pd
from matplotlib.axes import Axes
from matplotlib.cm import ScalarMappable
from matplotlib.figure import Figure
from matplotlib.lines import Line2D
from matplotlib.ticker import MaxNLocator

# Okabe & Ito's palette: told apart with any colour vision, and by brightness in grey.
COLOURS = {
    "conventional": "#000000",
    "intra-fusion": "#0072B2",
    "fusion-preserving": "#D55E00",
    "folding": "#E69F00",
    "neuron-merging": "#009E73",
    "reconstruction": "#CC79A7",
    "whole-data": "#000000",
    "FaP": "#D55E00",
    "PaF": "#009E73",
}
FURTHER_COLOURS = ("#56B4E9", "#F0E442", "#999999")
MARKERS = ("o", "s", "^", "D", "v", "P", "X")
DASHES = ("-", "--", ":", "-.")
STYLE: Any = {
    "font.size": 8,
    "axes.titlesize": 8,
    "axes.spines.top": False,
    "axes.spines.right": False,
    "axes.grid": True,
    "grid.alpha": 0.3,
    "grid.linewidth": 0.5,
    "lines.linewidth": 1.2,
    "lines.markersize": 3.5,
    "legend.frameon": False,
    "savefig.dpi": 200,
    "pdf.fonttype": 42,
    "svg.hashsalt": "metaprune",
}
Look = dict[str, Any]
TEXT_WIDTH = 5.5  # inches, of a page of the paper
LEGEND_HANDLE, LEGEND_LETTER, LEGEND_LINE = 0.6, 0.06, 0.18  # inches


def style(names: Sequence[str]) -> dict[str, Look]:
    """Colour, marker and dashes for each name; those of known names never change."""
    further = itertools.cycle(FURTHER_COLOURS)
    return {
        name: {
            "color": COLOURS.get(name) or next(further),
            "marker": MARKERS[position % len(MARKERS)],
            "linestyle": DASHES[position % len(DASHES)],
        }
        for position, name in enumerate(names)
    }


def panels(titles: Sequence[str], columns: int = 4, share: bool = True) -> tuple[Figure, list[Axes]]:
    """A figure of text width with one small axis for each title, sharing both scales unless told otherwise."""
    columns = min(columns, len(titles))
    rows = -(-len(titles) // columns)
    width = TEXT_WIDTH if columns > 1 else TEXT_WIDTH * 0.6
    with matplotlib.rc_context(STYLE):
        figure = Figure(figsize=(width, 1.45 * rows + 0.75 if columns > 1 else 2.6), layout="constrained")
        grid = figure.subplots(rows, columns, sharex=share, sharey=share, squeeze=False)
        axes = list(grid.flat)
        for axis, title in zip(axes, titles, strict=False):
            axis.set_title(title)
        for axis in axes[len(titles) :]:
            axis.set_visible(False)
            above = axes[axes.index(axis) - columns]
            above.tick_params(labelbottom=True)
    return figure, axes[: len(titles)]


def curve(axis: Axes, frame: pd.DataFrame, x: str, look: Look) -> None:
    """Mean against `x` in percent, with the deviation as bars where there are several rows a point.

    Args:
        axis: where to draw.
        frame: columns `x` (a share), mean and std.
        x: name of the column.
        look: colour, marker and dashes.
    """
    ordered = frame.sort_values(x)
    with matplotlib.rc_context(STYLE):
        bars = ordered["std"] if ordered["std"].notna().any() else None
        axis.errorbar(100 * ordered[x], ordered["mean"], yerr=bars, capsize=2, **look)


def colourbar(figure: Figure, shown: ScalarMappable, axes: Sequence[Axes], label: str) -> None:
    """The scale of what is shown in colours, beside the panels."""
    with matplotlib.rc_context(STYLE):
        bar = figure.colorbar(shown, ax=axes, label=label)
        bar.ax.grid(visible=False)
        bar.ax.yaxis.set_major_locator(MaxNLocator(5))


def legend(figure: Figure, looks: dict[str, Look]) -> None:
    """One legend for the whole figure, above the panels, which keep their height."""
    with matplotlib.rc_context(STYLE):
        lines = [Line2D([], [], label=name, **look) for name, look in looks.items()]
        entry = LEGEND_HANDLE + LEGEND_LETTER * max(len(name) for name in looks)
        columns = max(1, min(len(lines), int(figure.get_figwidth() / entry)))
        figure.set_figheight(figure.get_figheight() + LEGEND_LINE * (-(-len(lines) // columns) - 1))
        figure.legend(handles=lines, loc="outside upper center", ncols=columns)
