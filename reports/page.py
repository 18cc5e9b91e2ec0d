"""Writing a report: the files of every result that the runs have data for, and two pages that lead to them."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path

import matplotlib
import pandas as pd
from matplotlib.figure import Figure

from reports import figures, html, ranking, reproduction
from reports.catalog import RESULTS, TOGETHER, Item
from reports.provenance import environments_table, failures_table, run_names, runs_of
from reports.selection import (
    SAME_WORK,
    Tables,
    data_free_rows,
    final_rows,
    pipeline_rows,
    tables_of,
    whole_network_rows,
)
from reports.statistics import CELL, by_method
from reports.tables import Table, escaped, number

FORMATS = ("png", "pdf", "svg")
MOST_NAMES = 5  # in a sentence
MOST_LINES = 100  # of a table in README.md; the files hold all


@dataclass(frozen=True)
class Report:
    """What was written.

    Attributes:
        folder: where.
        files: names in it.
        lacking: ids of the results without data, by the built-in experiment that makes it.
        headline: a few sentences with the main numbers.
    """

    folder: Path
    files: list[str]
    lacking: dict[str, list[str]]
    headline: list[str]


def write_report(
    run: str | Path | Sequence[str | Path],
    out: str | Path,
    formats: Sequence[str] = ("png",),
    only: Sequence[str] = (),
    *,
    published: bool = False,
    command: str = "reports.page.write_report",
) -> Report:
    """Draw all results of one or several runs, or only some.

    Args:
        run: folder or URI of the run, or a list of them, reported as one.
        out: folder for the files.
        formats: of the figures: png, pdf, svg.
        only: ids from the catalogue; empty is all.
        published: whether figures show the paper's curves too.
        command: what made the report, to be told in it.

    Raises:
        FileNotFoundError: no such run.
        ValueError: an unknown format or id.
    """
    for name in formats:
        if name not in FORMATS:
            raise ValueError(f"unknown figure format '{name}': give {', '.join(FORMATS)}")
    only = list(dict.fromkeys(TOGETHER.get(name, name) for name in only))
    for name in only:
        if name not in RESULTS:
            raise ValueError(f"unknown result '{name}'. Known: {', '.join(RESULTS)}")
    runs = [run] if isinstance(run, (str, Path)) else list(run)
    tables = tables_of(runs, published)
    folder = Path(out)
    folder.mkdir(parents=True, exist_ok=True)
    results = {name: list(RESULTS[name].make(tables)) for name in only or RESULTS}
    lacking: dict[str, list[str]] = {}
    for name in (name for name, items in results.items() if not items):
        lacking.setdefault(RESULTS[name].experiment, []).append(name)
    sentences = headline(tables)
    written = {stem: write_item(item, folder, stem, formats) for items in results.values() for stem, item in items}
    (folder / "README.md").write_text(markdown(runs, sentences, results, written), encoding="utf-8")
    page = web_page(runs, tables, sentences, results, lacking, command)
    (folder / "index.html").write_text(page.html(), encoding="utf-8")
    files = [name for names in written.values() for name in names]
    return Report(folder, [*files, "README.md", "index.html"], lacking, sentences)


def write_item(item: Figure | Table, folder: Path, stem: str, formats: Sequence[str]) -> list[str]:
    """Write a figure in each format, or a table in all of its; the names of the files."""
    if isinstance(item, Table):
        texts = {"md": item.markdown(), "tex": item.latex(stem), "csv": item.csv(), "html": item.html()}
        for suffix, text in texts.items():
            (folder / f"{stem}.{suffix}").write_text(text, encoding="utf-8")
        return [f"{stem}.{suffix}" for suffix in texts]
    with matplotlib.rc_context(figures.STYLE):
        for suffix in formats:
            item.savefig(folder / f"{stem}.{suffix}")
    return [f"{stem}.{suffix}" for suffix in formats]


def markdown(
    runs: Sequence[str | Path],
    sentences: Sequence[str],
    results: Mapping[str, list[Item]],
    written: Mapping[str, list[str]],
) -> str:
    """The report as one Markdown page beside its files."""
    page = [f"# {escaped(', '.join(run_names(runs).values()))}", "", *map(escaped, sentences), ""]
    for name, items in results.items():
        for stem, item in items:
            figure = f"![{RESULTS[name].shows}]({written[stem][0]})"
            page += [
                f"## {escaped(stem)}",
                "",
                figure if isinstance(item, Figure) else item.first(MOST_LINES).markdown(),
                "",
            ]
    return "\n".join(page)


def web_page(
    runs: Sequence[str | Path],
    tables: Tables,
    sentences: Sequence[str],
    results: Mapping[str, list[Item]],
    lacking: Mapping[str, Sequence[str]],
    command: str,
) -> html.Page:
    """The report as one self-contained page."""
    sections = [
        html.Section(name, RESULTS[name].shows, [html.part(item, stem, RESULTS[name].shows) for stem, item in items])
        for name, items in results.items()
        if items
    ]
    provenance = [table for table in (environments_table(runs), failures_table(runs)) if table.rows]
    told = runs_of(runs)
    return html.Page(
        runs=told,
        sentences=[*sentences, *(f"{run.name}: {run.progress}" for run in told)],
        sections=sections,
        lacking={name: RESULTS[name] for names in lacking.values() for name in names},
        filters=html.filters(tables.evaluations),
        provenance=provenance,
        command=command,
    )


def headline(tables: Tables) -> list[str]:
    """The main numbers in a few sentences."""
    sentences = []
    scopes = {"one group": data_free_rows(tables), "all groups": whole_network_rows(tables)}
    for scope, rows in scopes.items():
        for model, frame in rows.groupby("model", sort=False):
            if not (shared := by_method(frame)).empty:
                means = f"mean over {counted(shared.groupby(CELL).ngroups, 'cell')}: {best(shared.mean())}"
                sentences.append(f"{model}, {scope} pruned without fine-tuning, {means}.")
    for model, frame in pipeline_rows(tables).groupby("model", sort=False):
        by = ["pipeline", *SAME_WORK]
        apart = "pipeline" if frame["pipeline"].nunique() > 1 else "method"
        by.remove(apart)
        of_all = frame.pivot_table(index=by, columns=apart, values="accuracy").dropna()
        if not of_all.empty:
            told = f"mean over {counted(of_all.groupby(by[:-1]).ngroups, 'cell')}: {best(of_all.mean())}"
            sentences.append(f"{model}, all groups pruned and fine-tuned, {told}.")
    rows = final_rows(tables)
    compared = reproduction.sentence(rows, tables.settings)
    return [*sentences, *ranking.sentences(rows[rows["method"].notna()]), *[compared] * bool(compared)]


def counted(number: int, what: str) -> str:
    """`1 cell` or `12 cells`."""
    return f"{number} {what}{'s' * (number != 1)}"


def best(means: pd.Series) -> str:
    """Names and means, best first; of many only some, but conventional pruning always."""
    ordered = means.sort_values(ascending=False)
    shown = [name for rank, name in enumerate(ordered.index) if rank < MOST_NAMES or name == "conventional"]
    text = ", ".join(f"{ranking.listed([name])} {number(ordered[name], digits=1)} %" for name in shown)
    return f"{text} ({len(ordered) - len(shown)} more)" if len(shown) < len(ordered) else text
