"""A table that can be written as Markdown, LaTeX, CSV and HTML."""

import csv
import io
import re
from collections.abc import Sequence
from dataclasses import dataclass, replace
from html import escape

NUMBER = re.compile(r"[+−-]?\d{1,3}(,\d{3})*(\.\d+)?|[+−-]?\d+(\.\d+)?|–")
LATEX_COLUMNS = 6  # that fit half a page
LATEX_ROWS = 50  # that fit a page
LATEX_ESCAPES = str.maketrans(
    {
        "\\": r"\textbackslash{}",
        "&": r"\&",
        "%": r"\%",
        "$": r"\$",
        "#": r"\#",
        "_": r"\_",
        "{": r"\{",
        "}": r"\}",
        "~": r"\textasciitilde{}",
        "^": r"\textasciicircum{}",
        "<": r"\textless{}",
        ">": r"\textgreater{}",
        "|": r"\textbar{}",
        "±": r"$\pm$",
        "−": r"$-$",
        "×": r"$\times$",
    }
)


@dataclass(frozen=True)
class Table:
    """Rows of text under a head.

    Attributes:
        caption: one sentence.
        head: names of the columns, units included.
        rows: cells as text; numbers are formatted already.
        text_columns: how many columns at the left hold words.
    """

    caption: str
    head: Sequence[str]
    rows: Sequence[Sequence[str]]
    text_columns: int = 1

    @property
    def told(self) -> str:
        """The caption, and what stands after ± where it does not say so."""
        spread = any(" ± " in cell for row in self.rows for cell in row) and "deviation" not in self.caption
        return self.caption + " After ±: the standard deviation over seeds." * spread

    def markdown(self) -> str:
        """A table in GitHub's Markdown."""
        marks = [":--" if column < self.text_columns else "--:" for column in range(len(self.head))]
        head, *rows = [[escaped(cell) for cell in row] for row in (self.head, *self.rows)]
        lines = [f"| {' | '.join(row)} |" for row in (head, marks, *rows)]
        return f"{escaped(self.told)}\n\n" + "\n".join(lines) + "\n"

    def latex(self, label: str = "") -> str:
        r"""A `table` environment for the package booktabs, `table*` where it has many columns; with many rows a
        `longtable`, of the package of that name, which a two-column document takes after `\\onecolumn`.

        Words that all rows share stand in the caption.
        """
        table, shared = self.without_shared_words()
        columns = "l" * table.text_columns + "r" * (len(table.head) - table.text_columns)
        rows = [" & ".join(cell.translate(LATEX_ESCAPES) for cell in row) + r" \\" for row in (table.head, *table.rows)]
        told = " ".join([self.told, f"For all rows: {', '.join(shared)}."] if shared else [self.told])
        mark = rf"\label{{tab:{label}}}" if label else ""
        caption = rf"\caption{{{told.translate(LATEX_ESCAPES)}}}{mark}"
        head = [r"\toprule", rows[0], r"\midrule"]
        if len(rows) > LATEX_ROWS:
            begin = [rf"\begin{{longtable}}{{{columns}}}", caption + r" \\", *head, r"\endhead"]
            return "\n".join([*begin, *rows[1:], r"\bottomrule", r"\end{longtable}", ""])
        kind = "table*" if len(table.head) > LATEX_COLUMNS else "table"
        begin = [rf"\begin{{{kind}}}", r"\centering\small\setlength{\tabcolsep}{4pt}", caption]
        begin += [rf"\begin{{tabular}}{{{columns}}}", *head]
        return "\n".join([*begin, *rows[1:], r"\bottomrule", r"\end{tabular}", rf"\end{{{kind}}}", ""])

    def without_shared_words(self) -> tuple["Table", list[str]]:
        """The table without columns of words that are the same in all of several rows, and what these say."""
        words = range(self.text_columns)
        shared = [i for i in words if len(self.rows) > 1 and len({row[i] for row in self.rows}) == 1]
        head, *rows = [[cell for i, cell in enumerate(row) if i not in shared] for row in (self.head, *self.rows)]
        told = [f"{self.head[i]} {self.rows[0][i]}" for i in shared]
        return replace(self, head=head, rows=rows, text_columns=self.text_columns - len(shared)), told

    def html(self) -> str:
        """A `table` element; columns of words have the class `words`."""
        classes = [' class="words"' if column < self.text_columns else "" for column in range(len(self.head))]
        head = "".join(
            f'<th scope="col"{mark}>{escape(cell)}</th>' for mark, cell in zip(classes, self.head, strict=True)
        )
        rows = [
            "".join(f"<td{mark}>{escape(cell)}</td>" for mark, cell in zip(classes, row, strict=True))
            for row in self.rows
        ]
        body = "".join(f"<tr>{row}</tr>\n" for row in rows)
        return (
            f"<table><caption>{escape(self.told)}</caption>\n"
            f"<thead><tr>{head}</tr></thead>\n<tbody>\n{body}</tbody></table>\n"
        )

    def first(self, rows: int) -> "Table":
        """The table with no more than so many rows."""
        return replace(self, rows=self.rows[:rows])

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
    """A column's cells by the suffix of its name: numbers and their deviations apart, and the ends of intervals."""
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


def number(value: float, deviation: float | None = None, digits: int = 2) -> str:
    """`91.25`, or `91.25 ± 0.31` where there is a deviation; a dash for NaN."""
    if value != value:
        return "–"
    spread = f" ± {deviation:.{digits}f}" if deviation is not None and deviation == deviation else ""
    return f"{value:.{digits}f}{spread}"


def signed(value: float, digits: int = 2) -> str:
    """`+1.20` or `−0.35`; a dash for NaN."""
    return "–" if value != value else f"{value:+.{digits}f}".replace("-", "−")
