"""A report as one HTML file that holds all it shows: figures, tables to sort and filter, how it was made."""

import base64
import io
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from datetime import UTC, datetime
from importlib.resources import files

import jinja2
import numpy as np
import pandas as pd
from markupsafe import Markup
from matplotlib.figure import Figure

from reports import figures
from reports.exhibits.exhibit import Exhibit
from reports.names import in_order, network_name
from reports.results.runs import Run
from reports.tables import Table

MOST_ROWS = 1000  # of a table in the page
MOST_DOWNLOADED = 20_000  # rows of a table that the page holds as CSV
PIXELS_AN_INCH = 160
MOST_POINTS = 4000  # of a figure as SVG; one with more is embedded as PNG


@dataclass(frozen=True)
class Part:
    """A figure or a table of the page.

    Attributes:
        text: what it shows.
        alternative: a figure in words.
        image: the figure as a data URI; empty for a table.
        width: of the figure in the page, in pixels.
        points: the points of a figure: place across and down as shares of it, text, and run and key of each cell.
        table: the table as HTML.
        download: the whole table as CSV, as a data URI; empty where it is too large for a page.
        file: the name of the file that this makes.
    """

    text: str
    alternative: str = ""
    image: str = ""
    width: int = 0
    points: Sequence[tuple[float, float, str, Sequence[tuple[int, str]]]] = ()
    table: str = ""
    download: str = ""
    file: str = ""


@dataclass(frozen=True)
class Section:
    """The figures and tables of one result."""

    id: str
    title: str
    parts: Sequence[Part]


@dataclass(frozen=True)
class Page:
    """All that the page shows.

    Attributes:
        runs: what it reports.
        sentences: the summary.
        sections: the results that there are.
        lacking: the others, by id.
        filters: values to choose from, by the head of their column.
        provenance: tables on how the results were made.
        command: what made the page.
        exports: for each run, how the command begins that exports a network of it.
    """

    runs: Sequence[Run]
    sentences: Sequence[str]
    sections: Sequence[Section]
    lacking: Mapping[str, Exhibit]
    filters: Mapping[str, Sequence[str]]
    provenance: Sequence[Part]
    command: str
    exports: Sequence[str] = ()

    def html(self) -> str:
        """The page, complete in one file; all text is escaped."""
        folder = files("reports.page") / "templates"
        texts = {
            name: (folder / name).read_text(encoding="utf-8") for name in ("report.html", "report.css", "report.js")
        }
        environment = jinja2.Environment(autoescape=True, undefined=jinja2.StrictUndefined)
        return environment.from_string(texts["report.html"]).render(
            vars(self),
            title=", ".join(run.name for run in self.runs),
            made=f"{datetime.now(UTC):%Y-%m-%d %H:%M} UTC",
            style=Markup(texts["report.css"]),
            script=Markup(texts["report.js"]),
        )


def part(item: Figure | Table, stem: str, shows: str, places: Mapping[str, int]) -> Part:
    """A figure or a table as the page holds it.

    Args:
        places: of the run of each cell in the page's list of runs.
    """
    if isinstance(item, Figure):
        width = round(PIXELS_AN_INCH * item.get_figwidth())
        image = embedded(item)  # drawn first: then its points have their places
        return Part(f"{stem}: {shows}", description(item, shows), image, width, pointed_at(item, places))
    content = base64.b64encode(item.csv().encode()).decode() if len(item.rows) <= MOST_DOWNLOADED else ""
    download = content and f"data:text/csv;charset=utf-8;base64,{content}"
    table = item.first(MOST_ROWS, f"{stem}.csv").html(link="{0}")  # the page may be without the files beside it
    return Part(item.caption, table=Markup(table), download=download, file=f"{stem}.csv")


def pointed_at(figure: Figure, places: Mapping[str, int]) -> list[tuple[float, float, str, Sequence[tuple[int, str]]]]:
    """The points of a figure as the page knows them; none where there are too many to tell apart."""
    points = figures.points_of(figure)
    if len(points) > MOST_POINTS:
        return []
    return [
        (
            round(point.across, 4),
            round(point.down, 4),
            point.text,
            [(places[cell], cell) for cell in point.cells if cell in places],
        )
        for point in points
    ]


def description(figure: Figure, shows: str) -> str:
    """A figure in words: what it shows, its axes, panels and lines."""
    axes = [axis for axis in figure.axes if axis.get_visible()]
    x, *notes = (figure.get_supxlabel() or axes[0].get_xlabel()).split("\n")
    y = figure.get_supylabel() or axes[0].get_ylabel()
    parts = {
        "Across": [x],
        "Up": [y],
        "Note": [" ".join(notes)],
        "Panels": [on_one_line(axis.get_title()) for axis in axes],
        "Lines": [on_one_line(text.get_text()) for legend in figure.legends for text in legend.get_texts()],
    }
    named = [f"{name}: {', '.join(texts)}." for name, texts in parts.items() if any(texts)]
    return " ".join([f"{shows}.", *named])


def on_one_line(text: str) -> str:
    """Text that was broken over lines."""
    return " ".join(text.split())


def embedded(figure: Figure) -> str:
    """A figure as a data URI."""
    points = sum(np.size(line.get_xdata()) for axis in figure.axes for line in axis.lines)
    kind, mime = ("svg", "image/svg+xml") if points <= MOST_POINTS else ("png", "image/png")
    content = io.BytesIO()
    figures.save(figure, content, kind)
    return f"data:{mime};base64,{base64.b64encode(content.getvalue()).decode()}"


def filters(evaluations: pd.DataFrame) -> dict[str, list[str]]:
    """Values to choose from, by the head of their column in tables."""
    columns = {"model": "model", "data set": "dataset", "criterion": "criterion", "method": "method"}
    values = {head: in_order(evaluations[column].dropna()) for head, column in columns.items()}
    return {**values, "model": [network_name(name) for name in values["model"]]}
