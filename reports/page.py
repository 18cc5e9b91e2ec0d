"""Writing a report: the files of every result that the run has data for, and a page that leads to them."""

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

import matplotlib
import pandas as pd
from matplotlib.figure import Figure

from orchestrator.store import folder_name
from reports import figures
from reports.catalog import RESULTS, Tables, data_free_rows, pipeline_rows, tables_of, whole_network_rows
from reports.statistics import mean_by_method
from reports.tables import Table, number

FORMATS = ("png", "pdf", "svg")


@dataclass(frozen=True)
class Report:
    """What was written.

    Attributes:
        folder: where.
        files: names in it.
        lacking: what each result without data needs, by id.
        headline: a few sentences with the main numbers.
    """

    folder: Path
    files: list[str]
    lacking: dict[str, str]
    headline: list[str]


def write_report(
    run: str | Path, out: str | Path, formats: Sequence[str] = ("png",), only: Sequence[str] = ()
) -> Report:
    """Draw all results of a run, or only some.

    Args:
        run: folder or URI of the run.
        out: folder for the files.
        formats: of the figures: png, pdf, svg.
        only: ids from the catalogue; empty is all.

    Raises:
        FileNotFoundError: no such run.
        ValueError: an unknown format or id.
    """
    for name in formats:
        if name not in FORMATS:
            raise ValueError(f"unknown figure format '{name}': give {', '.join(FORMATS)}")
    for name in only:
        if name not in RESULTS:
            raise ValueError(f"unknown result '{name}'. Known: {', '.join(RESULTS)}")
    tables = tables_of(run)
    folder = Path(out)
    folder.mkdir(parents=True, exist_ok=True)
    files: list[str] = []
    lacking: dict[str, str] = {}
    page = [f"# {folder_name(run)}", "", *headline(tables), ""]
    for name in only or RESULTS:
        items = list(RESULTS[name].make(tables))
        if not items:
            lacking[name] = RESULTS[name].needs
        for stem, item in items:
            written = write_item(item, folder, stem, formats)
            files += written
            shown = f"![{RESULTS[name].shows}]({written[0]})" if isinstance(item, Figure) else item.markdown()
            page += [f"## {stem}", "", shown, ""]
    (folder / "README.md").write_text("\n".join(page), encoding="utf-8")
    return Report(folder, [*files, "README.md"], lacking, headline(tables))


def write_item(item: Figure | Table, folder: Path, stem: str, formats: Sequence[str]) -> list[str]:
    """Write a figure in each format, or a table in all of its; the names of the files."""
    if isinstance(item, Table):
        for suffix, text in (("md", item.markdown()), ("tex", item.latex()), ("csv", item.csv())):
            (folder / f"{stem}.{suffix}").write_text(text, encoding="utf-8")
        return [f"{stem}.{suffix}" for suffix in ("md", "tex", "csv")]
    with matplotlib.rc_context(figures.STYLE):
        for suffix in formats:
            item.savefig(folder / f"{stem}.{suffix}")
    return [f"{stem}.{suffix}" for suffix in formats]


def headline(tables: Tables) -> list[str]:
    """The main numbers in a few sentences."""
    sentences = []
    scopes = {"one group": data_free_rows(tables), "all groups": whole_network_rows(tables)}
    for scope, rows in scopes.items():
        for model, frame in rows.groupby("model", sort=False):
            means = mean_by_method(frame)
            shown = ", ".join(f"{method} {number(mean, digits=1)} %" for method, mean in means.items())
            sentences.append(f"{model}, {scope} pruned without fine-tuning, mean over {cells(frame)} cells: {shown}.")
    tuned = pipeline_rows(tables)
    if not tuned.empty:
        for model, frame in tuned.groupby("model", sort=False):
            means = frame.groupby("pipeline")["accuracy"].mean().sort_values(ascending=False)
            shown = ", ".join(f"{pipeline} {number(mean, digits=1)} %" for pipeline, mean in means.items())
            sentences.append(f"{model}, all groups pruned and fine-tuned, mean over {cells(frame)} cells: {shown}.")
    return sentences


def cells(frame: pd.DataFrame) -> int:
    """Number of distinct cells."""
    return frame["cell"].nunique()
