"""Where in a figure the points of its curves lie, and which cells they are, for a page on which one points at them."""

from collections.abc import Sequence
from dataclasses import dataclass
from weakref import WeakKeyDictionary

import pandas as pd
from matplotlib.axes import Axes
from matplotlib.figure import Figure


@dataclass(frozen=True)
class Point:
    """A point of a curve.

    Attributes:
        across, down: where it lies, as shares of the figure's width and height, from the upper left corner.
        text: panel, line and values.
        cells: keys of the networks that it is the mean of.
    """

    across: float
    down: float
    text: str
    cells: Sequence[str]


@dataclass(frozen=True)
class Mark:
    """A point in the values of its axes."""

    x: float
    y: float
    text: str
    cells: Sequence[str]


MARKS: WeakKeyDictionary[Axes, list[Mark]] = WeakKeyDictionary()


def remember(axis: Axes, name: str, places: pd.Series, means: pd.DataFrame, across: bool = False) -> None:
    """Keep which cells the points of a curve are.

    Args:
        name: of the line.
        places: of the points on the axis that the means are drawn against, in its unit.
        means: a row a point, with mean, std and `cells`.
        across: whether means are drawn from left to right, in rows, whose numbers say nothing.
    """
    marks = MARKS.setdefault(axis, [])
    for place, mean, deviation, cells in zip(places, means["mean"], means["std"], means["cells"], strict=True):
        if len(cells) and place == place and mean == mean:
            spread = f" ± {deviation:.2f}" if deviation == deviation else ""
            where = "" if across else f"{place:.4g}, "
            x, y = (mean, place) if across else (place, mean)
            marks.append(Mark(float(x), float(y), f"{name}: {where}{mean:.2f}{spread}", tuple(cells)))


def points_of(figure: Figure) -> list[Point]:
    """The points of a figure that was drawn; none of those outside its axes."""
    width, height = figure.bbox.size
    found = []
    for axis in figure.axes:
        title = " ".join(axis.get_title().split())
        for mark in MARKS.get(axis, ()):
            x, y = axis.transData.transform((mark.x, mark.y))
            if axis.bbox.padded(1).contains(x, y):
                text = ", ".join(part for part in (title, mark.text) if part)
                found.append(Point(x / width, 1 - y / height, text, mark.cells))
    return found
