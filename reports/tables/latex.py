r"""Tables in LaTeX that fit a column or a page of a paper, without being scaled.

A table takes the largest of a few type sizes in which it fits one column of a two-column paper, else a page; failing
that its long words are broken over lines, and last its columns go on below in further blocks that repeat what the rows
are about. Widths are estimated from those of Computer Modern, which is wider than the fonts of most papers.
"""

import unicodedata
from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass, field, replace
from functools import lru_cache
from itertools import groupby

COLUMN, PAGE = 230.0, 392.0  # points: of two columns (3.25 in each, less a rest), and of a page (5.5 in)
SIZES = {r"\small": 9.0, r"\footnotesize": 8.0, r"\scriptsize": 7.0}  # points
GAP = 6.0  # points between columns
WORD = 60.0  # points of a word in a head that is not broken without need
ROWS = 50  # lines that fit a page
BREAK_AFTER = " (,=·/_-"
LONGEST_PART = 24  # letters
# Widths of Computer Modern in thousandths of the type size; small sizes are a little wider.
LETTERS = {
    **dict.fromkeys("ijl.,:;'|!", 290),
    **dict.fromkeys("frst()[]-/ I", 400),
    **dict.fromkeys("acegkovxyzCq0123456789–", 530),
    **dict.fromkeys("bdhnpuJ", 560),
    **dict.fromkeys("mwM%W@", 920),
    **dict.fromkeys("+=±−×<>~", 780),
}
WIDEST, SMALL_IS_WIDER, BOLD_IS_WIDER = 780, 1.07, 1.15
GREEK = {
    letter: unicodedata.name(letter).rpartition(" ")[2].replace("LAMDA", "LAMBDA")
    for letter in "αβγδεζηθικλμνξπρστυφχψωΓΔΘΛΞΠΣΥΦΨΩ"
}
ESCAPES = {
    "\\": r"\textbackslash{}",
    **{letter: rf"\{letter}" for letter in "&%$#_{}"},
    "~": r"\textasciitilde{}",
    "^": r"\textasciicircum{}",
    "<": r"\textless{}",
    ">": r"\textgreater{}",
    "|": r"\textbar{}",
    "±": r"$\pm$",
    "−": r"$-$",
    "×": r"$\times$",
    **{letter: rf"$\{name.title() if letter.isupper() else name.lower()}$" for letter, name in GREEK.items()},
}
KEPT = set("–—‘’“”…·")
ACCENTS = {"COMBINING ACUTE ACCENT", "COMBINING GRAVE ACCENT", "COMBINING DIAERESIS", "COMBINING CIRCUMFLEX ACCENT"}
ACCENTS |= {"COMBINING TILDE", "COMBINING CARON", "COMBINING RING ABOVE", "COMBINING CEDILLA"}


def escaped(text: str) -> str:
    """Text as LaTeX prints it; letters that pdfLaTeX lacks by their code point."""
    return "".join(ESCAPES.get(letter) or (letter if printable(letter) else f"U+{ord(letter):04X}") for letter in text)


def printable(letter: str) -> bool:
    """Whether pdfLaTeX has a letter without further packages: ASCII, some signs, and letters with common accents."""
    if letter.isascii() or letter in KEPT:
        return True
    parts = unicodedata.normalize("NFD", letter)
    return len(parts) == 2 and parts[0].isascii() and unicodedata.name(parts[1], "") in ACCENTS


def width(text: str, size: float) -> float:
    """Points that text takes at a type size, rather too many than too few."""
    return SMALL_IS_WIDER * size / 1000 * thousandths(text)


@lru_cache(maxsize=2**16)
def thousandths(text: str) -> int:
    """The width of text in thousandths of the type size; tables repeat most of their words."""
    shown = (letter if printable(letter) or letter in ESCAPES else "UUUUUU" for letter in text)
    return sum(LETTERS.get(letter, WIDEST) for part in shown for letter in part)


@dataclass(frozen=True)
class Column:
    """One column of a table.

    Attributes:
        head: its name, without that of its group.
        group: what it shares with its neighbours, printed above them; empty for none.
        cells: text.
        words: whether it holds words, which may be broken, rather than numbers.
        bold: rows whose cell is the best.
        limit: points that its words may take; 0 is as many as they want.
        bodies: what `body` has found, as every row asks for it.
    """

    head: str
    group: str
    cells: Sequence[str]
    words: bool
    bold: frozenset[int] = frozenset()
    limit: float = 0.0
    bodies: dict[float, float] = field(default_factory=dict, init=False, repr=False, compare=False)

    def body(self, size: float) -> float:
        """Points of its cells."""
        if size not in self.bodies:
            self.bodies[size] = max(
                (width(cell, size) * (BOLD_IS_WIDER if row in self.bold else 1) for row, cell in enumerate(self.cells)),
                default=0.0,
            )
        return self.bodies[size]

    def natural(self, size: float) -> float:
        """Points that it wants: those of its cells, and of the longest word of its head, if that is not very long."""
        words = [
            part for word in self.head.split(" ") for part in ([word] if width(word, size) <= WORD else broken(word))
        ]
        return max([self.body(size), *(width(word, size) for word in words)])

    def whole(self, size: float) -> "Column":
        """The column as wide as its name and cells are without a break."""
        return replace(self, limit=max(self.body(size), width(self.head, size)))

    def least(self, size: float) -> float:
        """Points below which a part of a word is left that cannot be broken."""
        parts = [part for text in (self.head, *(self.cells if self.words else ())) for part in broken(text)]
        return max([width(part, size) for part in parts] + ([] if self.words else [self.body(size)]), default=0)

    def width(self, size: float) -> float:
        """Points that it gets."""
        return self.limit or self.natural(size)


def broken(text: str) -> list[str]:
    """The parts of a text between which a line may end: after spaces and signs, and within very long words."""
    parts = [""]
    for letter in text:
        if len(parts[-1]) == LONGEST_PART:
            parts.append("")
        parts[-1] += letter
        if letter in BREAK_AFTER:
            parts.append("")
    return parts


def lines(text: str, points: float, size: float) -> list[str]:
    """Text in lines that take at most so many points, as far as it can be broken."""
    found = [""]
    for part in broken(text):
        if found[-1] and width((found[-1] + part).rstrip(), size) > points:
            found.append("")
        found[-1] += part
    return [line.strip() for line in found]


def latex(
    caption: str,
    head: Sequence[str],
    rows: Sequence[Sequence[str]],
    text_columns: int,
    key_columns: int,
    compared: Sequence[str],
    label: str,
) -> str:
    r"""A `table` environment for the package booktabs, `table*` where it needs the width of a page; with many rows a
    `longtable`, of the package of that name, which a two-column document takes after `\\onecolumn`."""
    columns = columns_of(head, rows, text_columns, compared)
    keys, values = columns[:key_columns], columns[key_columns:]
    size, blocks, room = layout(keys, values)
    points = SIZES[size]
    mark = rf"\label{{tab:{label}}}" if label else ""
    title = rf"\caption{{{escaped(caption)}}}{mark}"
    heights = [row_lines(block, row, points) for block in blocks for row in range(len(rows))]
    if sum(heights) > ROWS:
        parts = [longtable(block, points, title if number == 0 else "") for number, block in enumerate(blocks)]
        return "\n".join([rf"{{\centering{size}\setlength{{\tabcolsep}}{{{GAP / 2:g}pt}}", *parts, "}", ""])
    kind = "table" if room == COLUMN else "table*"
    begin = [rf"\begin{{{kind}}}", rf"\centering{size}\setlength{{\tabcolsep}}{{{GAP / 2:g}pt}}", title]
    parts = [
        "\n".join(
            [
                rf"\begin{{tabular}}{{{specification(block, points)}}}",
                *head_lines(block, points),
                *body_lines(block, points),
                r"\bottomrule",
                r"\end{tabular}",
            ]
        )
        for block in blocks
    ]
    return "\n".join([*begin, "\n\n\\medskip\n".join(parts), rf"\end{{{kind}}}", ""])


def columns_of(
    head: Sequence[str], rows: Sequence[Sequence[str]], text_columns: int, compared: Sequence[str]
) -> list[Column]:
    """The columns, neighbours that share the beginning of their names under one head."""
    best = best_cells(head, rows, compared)
    split = [name_parts(name) if place >= text_columns else (name, "") for place, name in enumerate(head)]
    found = []
    for first, part in groupby(enumerate(split), key=lambda each: each[1][0]):
        members = list(part)
        for place, (_, rest) in members:
            group, own = (first, rest or "–") if len(members) > 1 else ("", head[place])
            cells = [row[place] for row in rows]
            found.append(Column(own, group, cells, place < text_columns, frozenset(best.get(place, ()))))
    return found


def name_parts(name: str) -> tuple[str, str]:
    """A column's name before and after its first comma outside brackets."""
    depth = 0
    for place, letter in enumerate(name):
        depth += (letter == "(") - (letter == ")")
        if depth == 0 and name.startswith(", ", place):
            return name[:place], name[place + 2 :]
    return name, ""


def best_cells(head: Sequence[str], rows: Sequence[Sequence[str]], compared: Sequence[str]) -> dict[int, list[int]]:
    """The rows in which a column has the highest value, as it is printed, of several columns that are compared."""
    places = [place for place, name in enumerate(head) if name in set(compared)]
    found: dict[int, list[int]] = {}
    for number, row in enumerate(rows):
        values = {place: value for place in places if (value := printed_value(row[place])) is not None}
        for place in (place for place, value in values.items() if len(values) > 1 and value == max(values.values())):
            found.setdefault(place, []).append(number)
    return found


def printed_value(cell: str) -> float | None:
    """The number that a cell begins with; None for none."""
    try:
        return float(cell.split(" ")[0].replace(",", "").replace("−", "-"))
    except (ValueError, IndexError):
        return None


def layout(keys: Sequence[Column], values: Sequence[Column]) -> tuple[str, list[list[Column]], float]:
    """Type size, the columns of each block, and the room that they fit."""
    for room, sizes in ((COLUMN, list(SIZES)[:2]), (PAGE, list(SIZES))):
        for size in sizes:
            whole = [column.whole(SIZES[size]) for column in (*keys, *values)]
            for columns in (whole, [*keys, *values]):
                if total(columns, SIZES[size]) <= room:
                    return size, [columns], room
    size = list(SIZES)[-1]
    points = SIZES[size]
    most = max((column.least(points) for column in values), default=0.0)
    keys = narrowed(keys, max(PAGE * 0.4, PAGE - total(values, points)) - GAP if values else PAGE, points)
    rest = PAGE - total(keys, points) - GAP
    if not values:
        return size, [keys], PAGE
    values = [column if column.natural(points) <= rest else replace(column, limit=max(most, rest)) for column in values]
    blocks: list[list[Column]] = [[]]
    for column in values:
        if blocks[-1] and total([*keys, *blocks[-1], column], points) > PAGE:
            blocks.append([])
        blocks[-1].append(column)
    return size, [[*keys, *block] for block in blocks], PAGE


def total(columns: Sequence[Column], size: float) -> float:
    """Points that columns and the gaps between them take; a group's name may need more than its columns."""
    taken = sum(column.width(size) for column in columns) + GAP * (len(columns) - 1)
    for group, part in groupby(columns, key=lambda column: column.group):
        members = list(part)
        own = sum(column.width(size) for column in members) + GAP * (len(members) - 1)
        taken += max(0.0, max((width(word, size) for word in broken(group)), default=0.0) - own)
    return taken


def narrowed(columns: Sequence[Column], room: float, size: float) -> list[Column]:
    """The columns with the widest words limited so far that all fit the room, if they can."""
    found = list(columns)
    while total(found, size) > room:
        least = [column.least(size) for column in found]
        spare = [column.width(size) - low if column.words else 0.0 for column, low in zip(found, least, strict=True)]
        widest = max(range(len(found)), key=spare.__getitem__)
        if spare[widest] < 1:
            break
        excess = min(spare[widest], max(1.0, (total(found, size) - room) / 2))
        found[widest] = replace(found[widest], limit=found[widest].width(size) - excess)
    return found


def specification(block: Sequence[Column], size: float) -> str:
    """The columns of a `tabular`, without space at its sides."""
    kinds = ["l" if column.words else "r" for column in block]
    return "@{}" + "".join(kinds) + "@{}"


def head_lines(block: Sequence[Column], size: float) -> Iterator[str]:
    """The rules and names above the rows, those of groups in a line of their own."""
    yield r"\toprule"
    if any(column.group for column in block):
        names, rules, place = [], [], 1
        for group, part in groupby(block, key=lambda column: column.group):
            members = list(part)
            if group:
                room = sum(column.width(size) for column in members) + GAP * (len(members) - 1)
                names.append(rf"\multicolumn{{{len(members)}}}{{c}}{{{stacked(lines(group, room, size), 'c')}}}")
                rules.append(rf"\cmidrule(lr){{{place}-{place + len(members) - 1}}}")
            else:
                names += [""] * len(members)
            place += len(members)
        yield " & ".join(names) + r" \\"
        yield "".join(rules)
    heads = (stacked(lines(c.head, c.width(size), size), "l" if c.words else "r") for c in block)
    yield " & ".join(heads) + r" \\"
    yield r"\midrule"


def body_lines(block: Sequence[Column], size: float) -> Iterator[str]:
    """The rows; long words go on in further lines of their cell."""
    for row in range(len(block[0].cells)):
        texts = []
        for column in block:
            cell = column.cells[row]
            parts = lines(cell, column.width(size), size) if column.words else [cell]
            text = stacked(parts, "l", "t") if len(parts) > 1 else escaped(cell)
            if row in column.bold:
                value, separator, rest = cell.partition(" ")
                text = rf"\textbf{{{escaped(value)}}}{escaped(separator + rest)}"
            texts.append(text)
        yield " & ".join(texts) + r" \\"


def stacked(parts: Iterable[str], side: str, place: str = "b") -> str:
    """Lines above each other in one cell."""
    texts = [escaped(part) for part in parts]
    if len(texts) == 1:
        return texts[0]
    return rf"\begin{{tabular}}[{place}]{{@{{}}{side}@{{}}}}" + r" \\ ".join(texts) + r"\end{tabular}"


def longtable(block: Sequence[Column], size: float, title: str) -> str:
    """A table over several pages."""
    begin = [rf"\begin{{longtable}}{{{specification(block, size)}}}", *([title + r" \\"] if title else [])]
    rows = [*head_lines(block, size), r"\endhead", *body_lines(block, size)]
    return "\n".join([*begin, *rows, r"\bottomrule", r"\end{longtable}"])


def row_lines(block: Sequence[Column], row: int, size: float) -> int:
    """How many lines a row takes."""
    return max(len(lines(c.cells[row], c.width(size), size)) if c.words else 1 for c in block)
