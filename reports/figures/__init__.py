"""The style of all figures, and the panels, curves and legends that they are made of."""

from reports.figures.layout import (
    TEXT_WIDTH,
    colourbar,
    curve,
    dot,
    label,
    legend,
    pages,
    panels,
    repetitions,
    rows,
    save,
)
from reports.figures.points import points_of
from reports.figures.style import PUBLISHED, STYLE, Look, stem, style
from reports.figures.text import FONT_SIZE, fonts_of

__all__ = [
    "FONT_SIZE",
    "PUBLISHED",
    "STYLE",
    "TEXT_WIDTH",
    "Look",
    "colourbar",
    "curve",
    "dot",
    "fonts_of",
    "label",
    "legend",
    "pages",
    "panels",
    "points_of",
    "repetitions",
    "rows",
    "save",
    "stem",
    "style",
]
