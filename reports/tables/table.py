"""A table that can be written as Markdown, CSV and HTML; `latex` does so for papers."""

import csv
import io
import re
from collections.abc import Sequence
from dataclasses import dataclass, replace
from html import escape

from reports.names import network_name
from reports.tables.latex import latex

NUMBER = re.compile(r"[+−-]?\d{1,3}(,\d{3})*(\.\d+)?|[+−-]?\d+(\.\d+)?|–")


class Measured(str):
    """A cell that knows what its text says: a mean, its deviation (NaN for one seed) and the number of seeds."""

    mean: float
    deviation: float
    n: int

    def __new__(cls, text: str, mean: float, deviation: float, n: int) -> "Measured":
        """A cell that reads as `text`."""
        cell = super().__new__(cls, text)
        cell.mean, cell.deviation, cell.n = mean, deviation, n
        return cell


@dataclass(frozen=True)
class Table:
    """Rows of text under a head.

    Attributes:
        caption: one sentence.
        head: names of the columns, units included.
        rows: cells as text; numbers are formatted already.
        text_columns: how many columns at the left hold words.
        key_columns: how many say what a row is about, words included.
        compared: names of the columns of which LaTeX prints the highest value of each row in bold.
        whole: where these are the first rows of a longer table, the number of its rows and the file that has them.
    """

    caption: str
    head: Sequence[str]
    rows: Sequence[Sequence[str]]
    text_columns: int = 1
    key_columns: int = 0
    compared: Sequence[str] = ()
    whole: tuple[int, str] | None = None

    @property
    def counts(self) -> set[int]:
        """The numbers of seeds behind the means."""
        return {cell.n for row in self.rows for cell in row if isinstance(cell, Measured)}

    @property
    def full_caption(self) -> str:
        """The caption, what stands after ±, and how many seeds a mean has."""
        spread = any(" ± " in cell for row in self.rows for cell in row)
        notes = []
        if spread and "deviation" not in self.caption:
            notes.append("After ±: the standard deviation over seeds.")
        if len(self.counts) == 1:
            (count,) = self.counts
            notes.append(f"n = {count} seed{'s' * (count != 1)}.")
        elif self.counts:
            notes.append("In brackets: the number of seeds.")
        return " ".join([self.caption, *notes])

    def shown(self) -> list[list[str]]:
        """The rows as readers see them: networks by the names of papers, and the number of seeds where it differs."""
        networks = {place for place, name in enumerate(self.head) if name == "model"}
        counted = len(self.counts) > 1
        return [
            [
                network_name(cell)
                if place in networks
                else f"{cell} ({cell.n})"
                if counted and isinstance(cell, Measured)
                else cell
                for place, cell in enumerate(row)
            ]
            for row in self.rows
        ]

    def markdown(self) -> str:
        """A table in GitHub's Markdown."""
        marks = [":--" if column < self.text_columns else "--:" for column in range(len(self.head))]
        head, *rows = [[escaped(cell) for cell in row] for row in (self.head, *self.shown())]
        lines = [f"| {' | '.join(row)} |" for row in (head, marks, *rows)]
        return f"{escaped(self.full_caption)}{self.rest('[{0}]({0})')}\n\n" + "\n".join(lines) + "\n"

    def latex(self, label: str = "") -> str:
        """The table for a paper (`reports.tables.latex`); words that all rows share stand in the caption."""
        table, shared = self.without_shared_words()
        common = [f"For all rows: {', '.join(shared)}."] * bool(shared)
        caption = " ".join([f"{self.full_caption}{self.rest('{0}')}", *common])
        keys = max(table.text_columns, table.key_columns)
        return latex(caption, table.head, table.shown(), table.text_columns, keys, self.compared, label)

    def without_shared_words(self) -> tuple["Table", list[str]]:
        """The table without columns of words that are the same in all of several rows, and what these say."""
        several = len(self.rows) > 1
        shared = [i for i in range(self.text_columns) if several and len({row[i] for row in self.rows}) == 1]
        head, *rows = [[cell for i, cell in enumerate(row) if i not in shared] for row in (self.head, *self.rows)]
        words = [f"{self.head[i]} {self.shown()[0][i]}" for i in shared]
        text, keys = (max(0, count - len(shared)) for count in (self.text_columns, self.key_columns))
        return replace(self, head=head, rows=rows, text_columns=text, key_columns=keys), words

    def html(self, link: str = '<a href="{0}">{0}</a>') -> str:
        """A `table` element; columns of words have the class `words`.

        Args:
            link: how a file is named that has all rows, where these are the first.
        """
        classes = [' class="words"' if column < self.text_columns else "" for column in range(len(self.head))]
        head = "".join(
            f'<th scope="col"{mark}>{escape(cell)}</th>' for mark, cell in zip(classes, self.head, strict=True)
        )
        rows = [
            "".join(f"<td{mark}>{escape(cell)}</td>" for mark, cell in zip(classes, row, strict=True))
            for row in self.shown()
        ]
        body = "".join(f"<tr>{row}</tr>\n" for row in rows)
        caption = escape(self.full_caption) + self.rest(link)
        return f"<table><caption>{caption}</caption>\n<thead><tr>{head}</tr></thead>\n<tbody>\n{body}</tbody></table>\n"

    def first(self, rows: int, file: str) -> "Table":
        """The table with no more than so many rows, which says that there are more, and that this file has all."""
        whole = (len(self.rows), file) if len(self.rows) > rows else None
        return replace(self, rows=self.rows[:rows], whole=whole)

    def rest(self, link: str) -> str:
        """What to say after the caption of rows that were left out; nothing where there are none.

        Args:
            link: to the file with all rows, where `{0}` is its name.
        """
        if self.whole is None:
            return ""
        count, file = self.whole
        return f" The first {len(self.rows):,} of {count:,} rows; all are in {link.format(file)}."

    def csv(self) -> str:
        """Comma-separated values with a head, to be computed with.

        Deviations and the ends of intervals have columns of their own, numbers neither signs of thousands nor a
        typographic minus, and what is missing is empty.
        """
        columns: dict[str, list[str]] = {}
        for name, *cells in zip(self.head, *self.rows, strict=True):
            for suffix, part in parted(cells).items():
                columns[f"{name}{suffix}"] = [plain(cell) for cell in part]
        text = io.StringIO()
        csv.writer(text, lineterminator="\n").writerows([list(columns), *zip(*columns.values(), strict=True)])
        return text.getvalue()


def parted(cells: Sequence[str]) -> dict[str, list[str]]:
    """A column's cells by the suffix of its name: numbers, their deviations and numbers of seeds apart, and the ends of
    intervals."""
    if any(isinstance(cell, Measured) for cell in cells):
        counts = [str(cell.n) if isinstance(cell, Measured) else "" for cell in cells]
        return {**parted([str(cell) for cell in cells]), ", n": counts}
    for separator, suffixes in ((" ± ", ("", ", deviation")), (" to ", (", low", ", high"))):
        pairs = [cell.partition(separator)[::2] for cell in cells]
        numbers = [part for pair in pairs for part in pair if part]
        if any(separator in cell for cell in cells) and all(NUMBER.fullmatch(part) for part in numbers):
            return {suffix: list(part) for suffix, part in zip(suffixes, zip(*pairs, strict=True), strict=True)}
    return {"": list(cells)}


def plain(cell: str) -> str:
    """A cell as programs read it."""
    if cell == "–":
        return ""
    return cell.replace(",", "").replace("−", "-").removeprefix("+") if NUMBER.fullmatch(cell) else cell


def escaped(text: str) -> str:
    """Text that Markdown, also within a table, shows as it is."""
    return " ".join(escape(text, quote=False).replace("|", "\\|").replace("`", "\\`").split())


def number(value: float, deviation: float | None = None, n: float | None = None, digits: int = 2) -> str:
    """`91.25`, or `91.25 ± 0.31` where there is a deviation; a dash for NaN.

    Args:
        n: number of seeds behind the value; the cell then remembers all three.
    """
    if value != value:
        return "–"
    spread = f" ± {deviation:.{digits}f}" if deviation is not None and deviation == deviation else ""
    text = f"{value:.{digits}f}{spread}"
    if n is None:
        return text
    return Measured(text, value, float("nan") if deviation is None else deviation, int(n))


def signed(value: float, digits: int = 2) -> str:
    """`+1.20` or `−0.35`; a dash for NaN."""
    return "–" if value != value else f"{value:+.{digits}f}".replace("-", "−")
