"""The style of all figures: colours, markers and dashes that tell lines apart."""

import itertools
import re
from collections import Counter
from collections.abc import Sequence
from typing import Any

from reports.figures.text import FONT, FONT_SIZE

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
FURTHER_COLOURS = ("#56B4E9", "#882255", "#999999", "#117733", "#AA4499", "#88CCEE")
MARKERS = ("o", "s", "^", "D", "v", "P", "X", "<", ">", "p", "h", "*", "d")
DASHES = ("-", "--", ":", "-.")
FILLS = ("full", "none", "left", "right", "top", "bottom")
STYLE: Any = {
    "text.parse_math": False,
    "font.family": [FONT],
    "font.size": FONT_SIZE,
    "axes.titlesize": FONT_SIZE,
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


def stem(*parts: object) -> str:
    """The name of a file from what it shows."""
    return re.sub(r"[^\w.]+", "-", " ".join(str(part) for part in parts)).strip("-")


def style(names: Sequence[str]) -> dict[str, Look]:
    """Colour, marker and dashes for each name, such as `intra-fusion, repair · l1`.

    What comes before a bracket, comma or dot gives the colour; known methods have the same look everywhere. Variants of
    one method differ in how their markers are filled, then in the markers, so that single points can be told apart,
    and in dashes. What is published is pale.
    """
    bases = {name: re.split(r"[(,·]", name)[0].strip() for name in names}
    unknown = [base for base in dict.fromkeys(bases.values()) if base not in COLOURS]
    colours = {**COLOURS, **dict(zip(unknown, itertools.cycle(FURTHER_COLOURS), strict=False))}
    places = {base: place for place, base in enumerate(colours)}
    seen: Counter[str] = Counter()
    taken: set[tuple[str, str, str]] = set()
    looks: dict[str, Look] = {}
    for name, base in bases.items():
        colour, place = colours[base], places[base]
        points = ((MARKERS[(place + later) % len(MARKERS)], fill) for later in range(len(MARKERS)) for fill in FILLS)
        marker, fill = next((point for point in points if (colour, *point) not in taken), (MARKERS[0], FILLS[0]))
        taken.add((colour, marker, fill))
        looks[name] = {
            "color": colour,
            "marker": marker,
            "linestyle": DASHES[(place + seen[base]) % len(DASHES)],
            "fillstyle": fill,
            **({"alpha": 0.45} if name.endswith(PUBLISHED) else {}),
        }
        seen[base] += 1
    return looks
