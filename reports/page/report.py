"""Writing a report: the files of every exhibit that the runs have data for, and two pages that lead to them."""

import shlex
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path

import pandas as pd
from matplotlib.figure import Figure

from reports import figures
from reports.exhibits import ranking, reproduction
from reports.exhibits.catalog import EXHIBITS, TOGETHER
from reports.exhibits.exhibit import Item
from reports.exhibits.provenance import environments_table, failures_table
from reports.names import network_name
from reports.page import html
from reports.page.place import Place
from reports.results.runs import run_names, runs_of
from reports.results.selection import Tables, final_rows, pipeline_rows, tables_of
from reports.statistics import AmbiguousRows, balanced, side_by_side
from reports.tables import Table, escaped, number

FORMATS = ("png", "pdf", "svg")
TABLE_FORMATS = ("md", "tex", "csv", "html")
PAGES = ("README.md", "index.html")
MOST_NAMES = 5  # in a sentence
MOST_LINES = 100  # of a table in README.md
MOST_ROWS = 1000  # of a table that is read; its CSV has all


@dataclass(frozen=True)
class Report:
    """What was written.

    Attributes:
        folder: where.
        files: names in it.
        lacking: ids of the exhibits without data, by the built-in experiment that makes it.
        headline: a few sentences with the main numbers.
        refused: why an exhibit is not shown although there is data, by its id.
    """

    folder: Path
    files: list[str]
    lacking: dict[str, list[str]]
    headline: list[str]
    refused: dict[str, str] = field(default_factory=dict)


def write_report(
    run: str | Path | Sequence[str | Path],
    out: str | Path,
    formats: Sequence[str] = ("png",),
    only: Sequence[str] = (),
    *,
    published: bool = False,
    command: str = "reports.page.write_report",
) -> Report:
    """Draw all exhibits of one or several runs, or only some.

    Args:
        run: folder or URI of the run, or a list of them, reported as one.
        out: folder for the files.
        formats: of the figures: png, pdf, svg.
        only: ids from the catalogue; empty is all.
        published: whether figures show the paper's curves too.
        command: what made the report; the page says it.

    Raises:
        FileNotFoundError: no such run.
        FileExistsError: a file of somebody else's has the name of one of the report's.
        ValueError: an unknown format or id, or `out` is no folder of this machine.
        OSError: the folder cannot be written to.
    """
    place = Place(out)
    place.check(PAGES)
    for name in formats:
        if name not in FORMATS:
            raise ValueError(f"unknown figure format '{name}': give {', '.join(FORMATS)}")
    only = list(dict.fromkeys(TOGETHER.get(name, name) for name in only))
    for name in only:
        if name not in EXHIBITS:
            raise ValueError(f"unknown result '{name}'. Known: {', '.join(EXHIBITS)}")
    runs = [run] if isinstance(run, (str, Path)) else list(run)
    tables = tables_of(runs, published)
    made = {name: EXHIBITS[name].made(tables) for name in only or EXHIBITS}
    exhibits = {name: items for name, (items, _) in made.items()}
    refused = {name: reason for name, (_, reason) in made.items() if reason}
    lacking: dict[str, list[str]] = {}
    for name in (name for name, items in exhibits.items() if not items and name not in refused):
        lacking.setdefault(EXHIBITS[name].experiment, []).append(name)
    sentences = [
        *headline(tables),
        *(f"{name} is not shown: {reason}." for name, reason in refused.items()),
        *missing_letters(exhibits),
    ]
    shown = [item for items in exhibits.values() for item in items]
    files = [*(name for stem, item in shown for name in file_names(item, stem, formats)), *PAGES]
    place.claim(files)
    for stem, item in shown:
        write_item(item, place.folder, stem, formats)
    texts = (
        markdown(runs, sentences, exhibits, formats),
        web_page(runs, tables, sentences, exhibits, lacking, command).html(),
    )
    for name, text in zip(PAGES, texts, strict=True):
        (place.folder / name).write_text(text, encoding="utf-8")
    return Report(place.folder, files, lacking, sentences, refused)


def file_names(item: Figure | Table, stem: str, formats: Sequence[str]) -> list[str]:
    """The names of the files of a figure or a table."""
    return [f"{stem}.{suffix}" for suffix in (TABLE_FORMATS if isinstance(item, Table) else formats)]


def write_item(item: Figure | Table, folder: Path, stem: str, formats: Sequence[str]) -> None:
    """Write a figure in each format, or a table in all of its."""
    if isinstance(item, Figure):
        for suffix in formats:
            figures.save(item, folder / f"{stem}.{suffix}", suffix)
        return
    read = item.first(MOST_ROWS, f"{stem}.csv")
    texts = (read.markdown(), read.latex(stem), item.csv(), read.html())
    for suffix, text in zip(TABLE_FORMATS, texts, strict=True):
        (folder / f"{stem}.{suffix}").write_text(text, encoding="utf-8")


def missing_letters(exhibits: Mapping[str, list[Item]]) -> list[str]:
    """A sentence on the letters for which figures have boxes, because no installed font has them."""
    shown = [item for items in exhibits.values() for _, item in items if isinstance(item, Figure)]
    letters = "".join(sorted({letter for figure in shown for letter in figures.fonts_of(figure)[1]}))
    if not letters:
        return []
    return [
        f"No installed font has {letters}: figures show boxes there until one is installed that does, such as Noto "
        f"Sans CJK, and matplotlib's list of fonts is made anew."
    ]


def markdown(
    runs: Sequence[str | Path],
    sentences: Sequence[str],
    exhibits: Mapping[str, list[Item]],
    formats: Sequence[str],
) -> str:
    """The report as one Markdown page beside its files."""
    page = [f"# {escaped(', '.join(run_names(runs).values()))}", "", *map(escaped, sentences), ""]
    for name, items in exhibits.items():
        for stem, item in items:
            first = file_names(item, stem, formats)[0]
            figure = f"![{EXHIBITS[name].shows}]({first})"
            page += [
                f"## {escaped(stem)}",
                "",
                figure if isinstance(item, Figure) else item.first(MOST_LINES, f"{stem}.csv").markdown(),
                "",
            ]
    return "\n".join(page)


def web_page(
    runs: Sequence[str | Path],
    tables: Tables,
    sentences: Sequence[str],
    exhibits: Mapping[str, list[Item]],
    lacking: Mapping[str, Sequence[str]],
    command: str,
) -> html.Page:
    """The report as one self-contained page."""
    named = [str(run) for run in runs]
    evaluations = tables.evaluations
    places = dict(zip(evaluations["cell"], evaluations["run"].map(named.index), strict=True))
    sections = [
        html.Section(
            name, EXHIBITS[name].shows, [html.part(item, stem, EXHIBITS[name].shows, places) for stem, item in items]
        )
        for name, items in exhibits.items()
        if items
    ]
    made = {"environments": environments_table(runs), "failures": failures_table(runs)}
    provenance = [html.part(table, stem, stem, places) for stem, table in made.items() if table.rows]
    described = runs_of(runs)
    return html.Page(
        runs=described,
        sentences=[*sentences, *(f"{run.name}: {run.progress}" for run in described)],
        sections=sections,
        lacking={name: EXHIBITS[name] for names in lacking.values() for name in names},
        filters=html.filters(tables.evaluations),
        provenance=provenance,
        command=command,
        exports=[f"metaprune export {shlex.quote(run)}" for run in named],
    )


def headline(tables: Tables) -> list[str]:
    """The main numbers in a few sentences; none where rows cannot be told apart, which the exhibits say."""
    try:
        return [*means_by_method(tables), *means_by_pipeline(tables), *conclusions(tables)]
    except AmbiguousRows:
        return []


def means_by_method(tables: Tables) -> list[str]:
    """The mean accuracy of each method, of the rows of the table `ranks`; those of several pipelines stand apart."""
    rows = final_rows(tables)
    tuned = pipeline_rows(tables)
    pipelines = tuned.groupby("model")["pipeline"].nunique()
    several = rows["cell"].isin(tuned["cell"]) & rows["model"].isin(pipelines.index[pipelines > 1])
    sentences = []
    for model, scope, accuracies in ranking.comparisons(rows[rows["method"].notna() & ~several]):
        pruned, *further = scope.split(", ", 2)
        tuning = "and fine-tuned" if further[:1] == ["fine-tuned"] else "without fine-tuning"
        note = [", ".join(further[further[:1] == ["fine-tuned"] :])] if further else []
        place = ", ".join([network_name(model), f"{pruned} pruned {tuning}", *filter(None, note)])
        sentences.append(mean_sentence(place, accuracies))
    return sorted(sentences, key=lambda sentence: ("fine-tuned" in sentence, "all groups" in sentence))


def means_by_pipeline(tables: Tables) -> list[str]:
    """The mean accuracy of each pipeline where there are several, over the cells that all of them have."""
    sentences = []
    by = ["criterion", "method", "note", "target_sparsity"]
    for model, frame in pipeline_rows(tables).groupby("model", sort=False):
        if frame["pipeline"].nunique() > 1:
            accuracies = balanced(side_by_side(frame, by, "pipeline"))
            if not accuracies.empty:
                place = f"{network_name(str(model))}, all groups pruned and fine-tuned"
                sentences.append(mean_sentence(place, accuracies))
    return sentences


def mean_sentence(place: str, accuracies: pd.DataFrame) -> str:
    """The means of some accuracies, a column each, over their cells and seeds."""
    cells = accuracies.index.droplevel("seed").nunique()
    return f"{place}, mean over {counted(cells, 'cell')}: {best(accuracies.mean())}."


def conclusions(tables: Tables) -> list[str]:
    """What the comparison of methods supports, and how it compares with the paper."""
    rows = final_rows(tables)
    compared = reproduction.sentence(rows, tables.settings)
    return [*ranking.sentences(rows[rows["method"].notna()]), *[compared] * bool(compared)]


def counted(number: int, what: str) -> str:
    """`1 cell` or `12 cells`."""
    return f"{number} {what}{'s' * (number != 1)}"


def best(means: pd.Series) -> str:
    """Names and means, best first; of many only some, but conventional pruning always."""
    ordered = means.sort_values(ascending=False)
    shown = [name for rank, name in enumerate(ordered.index) if rank < MOST_NAMES or name == "conventional"]
    text = ", ".join(f"{ranking.listed([name])} {number(ordered[name], digits=1)} %" for name in shown)
    return f"{text} ({len(ordered) - len(shown)} more)" if len(shown) < len(ordered) else text
