"""The style of all figures, and the panels that they are made of."""

import itertools
import re
from collections import Counter
from collections.abc import Sequence
from typing import Any

import matplotlib
import pandas as pd
from matplotlib.axes import Axes
from matplotlib.cm import ScalarMappable
from matplotlib.figure import Figure
from matplotlib.lines import Line2D
from matplotlib.ticker import MaxNLocator

# Okabe & Ito's palette, told apart with any colour vision; markers and dashes tell them apart in grey too.
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
FURTHER_COLOURS = ("#56B4E9", "#882255", "#999999")
MARKERS = ("o", "s", "^", "D", "v", "P", "X")
DASHES = ("-", "--", ":", "-.")
FILLS = ("full", "none", "left")
STYLE: Any = {
    "text.parse_math": False,
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
PUBLISHED = ", published"  # what ends the names of curves that the paper prints
TEXT_WIDTH = 5.5  # inches, of a page of the paper
LEGEND_HANDLE, LEGEND_LETTER, LEGEND_LINE = 0.6, 0.06, 0.18  # inches


def stem(*parts: object) -> str:
    """The name of a file from what it shows."""
    return re.sub(r"[^\w.]+", "-", " ".join(str(part) for part in parts)).strip("-")


def style(names: Sequence[str]) -> dict[str, Look]:
    """Colour, marker and dashes for each name, such as `intra-fusion, repair · l1`.

    What comes before a bracket, comma or dot gives colour and marker; known methods have the same ones everywhere.
    Variants of one method differ in dashes, beyond those in how their markers are filled. What is published is pale.
    """
    bases = {name: re.split(r"[(,·]", name)[0].strip() for name in names}
    order = list(dict.fromkeys(bases.values()))
    unknown = [base for base in order if base not in COLOURS]
    further = dict(zip(unknown, itertools.cycle(FURTHER_COLOURS), strict=False))
    places = {base: place for place, base in enumerate([*COLOURS, *unknown])}
    looks: dict[str, Look] = {}
    seen: Counter[str] = Counter()
    for name, base in bases.items():
        variant = seen[base]
        seen[base] += 1
        looks[name] = {
            "color": COLOURS.get(base) or further[base],
            "marker": MARKERS[places[base] % len(MARKERS)],
            "linestyle": DASHES[(places[base] + variant) % len(DASHES)],
            "fillstyle": FILLS[variant // len(DASHES) % len(FILLS)],
            **({"alpha": 0.45} if name.endswith(PUBLISHED) else {}),
        }
    return looks


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


def curve(axis: Axes, frame: pd.DataFrame, x: str, look: Look, scale: float = 100) -> None:
    """Mean against `x`, with the deviation as bars where there are several rows a point.

    Args:
        axis: where to draw.
        frame: columns `x`, mean and std.
        x: name of the column.
        look: colour, marker and dashes.
        scale: factor on `x`; a share becomes percent.
    """
    ordered = frame.sort_values(x)
    with matplotlib.rc_context(STYLE):
        bars = ordered["std"] if ordered["std"].notna().any() else None
        axis.errorbar(scale * ordered[x], ordered["mean"], yerr=bars, capsize=2, **look)


def label(figure: Figure, x: str, y: str = "test accuracy (%)") -> None:
    """Name what runs across, once below all panels, and what runs up, beside each row of them."""
    with matplotlib.rc_context(STYLE):
        figure.supxlabel(x, fontsize=STYLE["font.size"])
        for axis in figure.axes:
            place = axis.get_subplotspec()
            if place and place.is_first_col():
                axis.set_ylabel(y)


def colourbar(figure: Figure, shown: ScalarMappable, axes: Sequence[Axes], label: str) -> None:
    """The scale of what is shown in colours, beside the panels."""
    with matplotlib.rc_context(STYLE):
        bar = figure.colorbar(shown, ax=axes, label=label)
        bar.ax.grid(visible=False)
        bar.ax.yaxis.set_major_locator(MaxNLocator(5))


def legend(figure: Figure, looks: dict[str, Look]) -> None:
    """One legend for the whole figure, above the panels, which keep their height."""
    with matplotlib.rc_context(STYLE):
        lines = [Line2D([], [], **{**look, "label": name}) for name, look in looks.items()]
        entry = LEGEND_HANDLE + LEGEND_LETTER * max(len(name) for name in looks)
        columns = max(1, min(len(lines), int(figure.get_figwidth() / entry)))
        figure.set_figheight(figure.get_figheight() + LEGEND_LINE * (-(-len(lines) // columns) - 1))
        figure.legend(handles=lines, loc="outside upper center", ncols=columns)
