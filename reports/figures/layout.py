"""The panels of figures, the curves in them, and the labels and the legend around them."""

import itertools
import warnings
from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path
from typing import BinaryIO, TypeVar

import matplotlib
import pandas as pd
from matplotlib.axes import Axes
from matplotlib.cm import ScalarMappable
from matplotlib.figure import Figure
from matplotlib.lines import Line2D
from matplotlib.text import Text
from matplotlib.ticker import MaxNLocator

from reports.figures.points import remember
from reports.figures.style import STYLE, Look
from reports.figures.text import FONT_SIZE, fonts_of, width, wrapped

Content = TypeVar("Content")

TEXT_WIDTH = 5.5  # inches, of a page of the paper
MOST_PANELS = 24  # in a figure, so that it fits a page; more go on in further figures
PANEL_HEIGHT, OUTSIDE_HEIGHT, SINGLE_HEIGHT = 1.45, 0.75, 2.6  # inches
LINE_HEIGHT = 0.16  # inches, of text
AXIS_WIDTH = 0.45  # inches that the numbers of an axis take
LEGEND_HANDLE, LEGEND_MARGIN = 0.62, 0.15  # inches, of a line and the space around its name, and beside the legend
NAMES_WIDTH, ROW_MARGIN = 2.6, 0.06  # inches, of the names of rows, and between them
BARS = "bars: standard deviation"


def pages(panels: Mapping[str, Content]) -> Iterator[tuple[list[str], dict[str, Content]]]:
    """The panels of each figure and how its name ends, where there are too many for one."""
    titles = list(panels)
    parts = [titles[start : start + MOST_PANELS] for start in range(0, len(titles), MOST_PANELS)]
    for number, part in enumerate(parts, start=1):
        yield [f"part-{number}"] * (len(parts) > 1), {title: panels[title] for title in part}


def panels(titles: Sequence[str], columns: int = 4, share: bool = True) -> tuple[Figure, list[Axes]]:
    """A figure of text width with one small axis for each title, sharing both scales unless told otherwise."""
    columns = min(columns, len(titles))
    rows = -(-len(titles) // columns)
    inches = TEXT_WIDTH if columns > 1 else TEXT_WIDTH * 0.6
    lines = [wrapped(title, (inches - AXIS_WIDTH) / columns - 0.1) for title in titles]
    further = max(text.count("\n") for text in lines) * LINE_HEIGHT * rows
    height = PANEL_HEIGHT * rows + OUTSIDE_HEIGHT if columns > 1 else SINGLE_HEIGHT + PANEL_HEIGHT * (rows - 1)
    with matplotlib.rc_context(STYLE):
        figure = Figure(figsize=(inches, height + further), layout="constrained")
        grid = figure.subplots(rows, columns, sharex=share, sharey=share, squeeze=False)
        axes = list(grid.flat)
        for axis, title in zip(axes, lines, strict=False):
            axis.set_title(title)
        for axis in axes[len(titles) :]:
            axis.set_visible(False)
            above = axes[axes.index(axis) - columns]
            above.tick_params(labelbottom=True)
    return figure, axes[: len(titles)]


def rows(titles: Sequence[str], names: Sequence[str]) -> tuple[Figure, list[Axes], list[float]]:
    """A figure of text width with panels side by side, whose rows are named at the left.

    Returns:
        The figure, its panels, and where each row lies on their y axis, in inches from the top.
    """
    lines = [wrapped(name, NAMES_WIDTH) for name in names]
    heights = [LINE_HEIGHT * (name.count("\n") + 1) + ROW_MARGIN for name in lines]
    ends = list(itertools.accumulate(heights))
    places = [end - height / 2 for end, height in zip(ends, heights, strict=True)]
    room = (TEXT_WIDTH - NAMES_WIDTH) / len(titles)
    with matplotlib.rc_context(STYLE):
        figure = Figure(figsize=(TEXT_WIDTH, ends[-1] + OUTSIDE_HEIGHT), layout="constrained")
        axes = list(figure.subplots(1, len(titles), sharex=True, sharey=True, squeeze=False).flat)
        for axis, title in zip(axes, titles, strict=True):
            axis.set_title(wrapped(title, room))
            axis.set_ylim(ends[-1], 0)
            axis.xaxis.set_major_locator(MaxNLocator(max(2, round(2 * room)), integer=True))
        axes[0].set_yticks(places, lines)
    return figure, axes, places


def dot(axis: Axes, place: float, point: pd.Series, look: Look, name: str) -> None:
    """A mean with its deviation, across, at a place of `rows`; `point` has mean, std and `cells`."""
    with matplotlib.rc_context(STYLE):
        bar = point["std"] if pd.notna(point["std"]) else None
        axis.errorbar([point["mean"]], [place], xerr=bar, capsize=2, **{**look, "linestyle": ""})
    remember(axis, name, pd.Series([place]), point.to_frame().T, across=True)


def curve(
    axis: Axes, frame: pd.DataFrame, x: str, look: Look, scale: float = 100, percent: bool = True, name: str = ""
) -> None:
    """Mean against `x`, with the deviation as bars where there are several rows a point.

    Args:
        axis: where to draw.
        frame: columns `x`, mean and std; where they are known, the ends `low` and `high` of an interval of `x`, and
            the keys of the `cells` behind a mean.
        x: name of the column.
        look: colour, marker and dashes.
        scale: factor on `x`; a share becomes percent.
        percent: whether the mean is of shares in percent, so that bars end at 0 and 100.
        name: of the line, for who points at it.
    """
    ordered = frame.sort_values(x)
    mean, deviation = ordered["mean"], ordered["std"]
    bars = None
    if deviation.notna().any():
        below, above = (mean, 100 - mean) if percent else (deviation, deviation)
        bars = [deviation.clip(upper=below), deviation.clip(upper=above)]
    across = None
    if {"low", "high"} <= set(ordered) and ordered["low"].notna().any():
        across = [
            scale * (ordered[x] - ordered["low"]).clip(lower=0),
            scale * (ordered["high"] - ordered[x]).clip(lower=0),
        ]
    if "cells" in ordered:
        remember(axis, name, scale * ordered[x], ordered)
    with matplotlib.rc_context(STYLE):
        axis.errorbar(scale * ordered[x], mean, yerr=bars, xerr=across, capsize=2, **look)


def label(figure: Figure, x: str, y: str = "test accuracy (%)", note: str = "") -> None:
    """Label the x axis once below all panels and the y axis beside each row; percentages stay within 0 and 100.

    Args:
        note: what the points and bars are, in a line below the label.
    """
    with matplotlib.rc_context(STYLE):
        figure.supxlabel("\n".join([x, *[wrapped(note, figure.get_figwidth() - 0.2)] * bool(note)]), fontsize=FONT_SIZE)
        figure.set_figheight(figure.get_figheight() + LINE_HEIGHT * figure.get_supxlabel().count("\n"))
        for axis in figure.axes:
            place = axis.get_subplotspec()
            if place and place.is_first_col():
                axis.set_ylabel(y)
            if "(%)" in y:
                low, high = axis.get_ylim()
                axis.set_ylim(max(0.0, low), min(100.0, high))
            if "(%)" in x:
                low, high = axis.get_xlim()
                axis.set_xlim(max(0.0, low), min(100.0, high))
            for line in axis.lines:
                line.set_clip_on(False)  # a marker at 0 or 100 % is drawn whole


def repetitions(*means: pd.DataFrame) -> str:
    """What the points and bars of some curves are, from the number of seeds `n` behind each mean."""
    counts = [int(count) for frame in means for count in frame["n"]]
    if not counts:
        return ""
    fewest, most = min(counts), max(counts)
    if most < 2:
        return "one seed"
    seeds = f"{most} seeds" if fewest == most else f"{fewest} to {most} seeds"
    return f"points: mean over {seeds}; {BARS}"


def colourbar(figure: Figure, shown: ScalarMappable, axes: Sequence[Axes], label: str) -> None:
    """The scale of what is shown in colours, beside the panels."""
    with matplotlib.rc_context(STYLE):
        bar = figure.colorbar(shown, ax=axes, label=label)
        bar.ax.grid(visible=False)
        bar.ax.yaxis.set_major_locator(MaxNLocator(5))


def legend(figure: Figure, looks: Mapping[str, Look]) -> None:
    """One legend for the whole figure, above the panels, which keep their height; long names go on in a new line."""
    room = figure.get_figwidth() - LEGEND_MARGIN
    names = [wrapped(name, room - LEGEND_HANDLE) for name in looks]
    widths = [LEGEND_HANDLE + max(map(width, name.split("\n"))) for name in names]
    columns = next(count for count in range(len(names), 0, -1) if count == 1 or legend_width(widths, count) <= room)
    lines = [name.count("\n") + 1 for name in names]
    rows = -(-len(names) // columns)
    height = max(sum(lines[start : start + rows]) for start in range(0, len(names), rows))
    with matplotlib.rc_context(STYLE):
        shown = [Line2D([], [], **{**look, "label": name}) for name, look in zip(names, looks.values(), strict=True)]
        figure.set_figheight(figure.get_figheight() + LINE_HEIGHT * 1.15 * (height - 1))
        figure.legend(handles=shown, loc="outside upper center", ncols=columns)


def legend_width(widths: Sequence[float], columns: int) -> float:
    """Inches of a legend in so many columns, which are filled one after the other as matplotlib does."""
    rows, longer = divmod(len(widths), columns)
    sizes = [rows + 1] * longer + [rows] * (columns - longer)
    starts = [sum(sizes[:number]) for number in range(columns)]
    return sum(max(widths[start : start + size]) for start, size in zip(starts, sizes, strict=True))


def save(figure: Figure, place: Path | BinaryIO, kind: str) -> None:
    """Write a figure, with the fonts that its letters need; boxes stand for letters that no font has.

    Args:
        place: a file's path, or an open file.
        kind: png, pdf or svg.
    """
    families, _ = fonts_of(figure)
    for text in figure.findobj(Text):
        text.set_fontfamily(families)
    with matplotlib.rc_context({**STYLE, "font.family": families}), warnings.catch_warnings():
        warnings.filterwarnings("ignore", r"Glyph .* missing from font")  # the report says so
        figure.savefig(place, format=kind)
