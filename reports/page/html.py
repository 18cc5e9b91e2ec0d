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

MOST_ROWS = 1000  # of a table in the page; the files hold all
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
        table: the table as HTML.
        note: what of the table was left out.
    """

    text: str
    alternative: str = ""
    image: str = ""
    width: int = 0
    table: str = ""
    note: str = ""


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
    """

    runs: Sequence[Run]
    sentences: Sequence[str]
    sections: Sequence[Section]
    lacking: Mapping[str, Exhibit]
    filters: Mapping[str, Sequence[str]]
    provenance: Sequence[Table]
    command: str

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
            provenance=[{"caption": table.caption, "html": Markup(table.html())} for table in self.provenance],
            style=Markup(texts["report.css"]),
            script=Markup(texts["report.js"]),
        )


def part(item: Figure | Table, stem: str, shows: str) -> Part:
    """A figure or a table as the page holds it."""
    if isinstance(item, Figure):
        return Part(
            f"{stem}: {shows}", description(item, shows), embedded(item), round(PIXELS_AN_INCH * item.get_figwidth())
        )
    left_out = len(item.rows) - MOST_ROWS
    note = f"The first {MOST_ROWS:,} rows; {left_out:,} more are in {stem}.csv." if left_out > 0 else ""
    return Part(item.caption, table=Markup(item.first(MOST_ROWS).html()), note=note)


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
