"""How wide text in figures is, where to break it, and the fonts for letters that the usual one lacks."""

import functools
import re
from collections.abc import Iterable, Iterator

from matplotlib.figure import Figure
from matplotlib.font_manager import FontProperties, fontManager, get_font
from matplotlib.text import Text
from matplotlib.textpath import TextToPath

FONT = "DejaVu Sans"
FONT_SIZE = 8.0  # points
NO_LETTERS = "Last Resort"  # a font that has a box for every letter
# Words that are too long for a line break after these.
BREAKS = re.compile(r"(?<=[(,=·/_-])")


@functools.lru_cache(maxsize=4096)
def width(text: str, size: float = FONT_SIZE) -> float:
    """Inches that a line of text takes."""
    plain = "".join(letter if letter in letters_of(FONT) else "W" for letter in text)
    points, _, _ = TextToPath().get_text_width_height_descent(plain, FontProperties(family=FONT, size=size), False)
    return float(points) / 72


def wrapped(text: str, inches: float, size: float = FONT_SIZE) -> str:
    """Text in lines of at most so many inches, broken between words and options, if need be within a word."""
    lines, line = [], ""
    for part in parts_of(text, inches, size):
        if line and width((line + part).rstrip(), size) > inches:
            lines.append(line.rstrip())
            line = ""
        line += part
    return "\n".join([*lines, line.rstrip()])


def parts_of(text: str, inches: float, size: float) -> Iterator[str]:
    """What stays together on a line: words, and parts of words that are too long for one."""
    for word in re.split(r"(?<=\s)", text):
        for part in [word] if width(word.rstrip(), size) <= inches else BREAKS.split(word):
            while width(part.rstrip(), size) > inches and len(part) > 1:
                fitting = max(1, sum(width(part[:end], size) <= inches for end in range(1, len(part))))
                yield part[:fitting]
                part = part[fitting:]
            yield part


@functools.cache
def letters_of(family: str) -> frozenset[str]:
    """The letters that a font family has."""
    files = [font.fname for font in fontManager.ttflist if font.name == family and font.style == "normal"]
    return frozenset(map(chr, get_font(files[0]).get_charmap())) if files else frozenset()


def fonts_for(texts: Iterable[str]) -> tuple[list[str], str]:
    """The families that are needed for some texts, the usual one first, and the letters that no installed font has."""
    families, lacking = [FONT], set("".join(texts)) - letters_of(FONT) - {"\n", "\t"}
    others = sorted({font.name for font in fontManager.ttflist if not font.name.startswith(NO_LETTERS)} - {FONT})
    while lacking and others:
        best = max(others, key=lambda family: len(lacking & letters_of(family)))
        if not lacking & letters_of(best):
            break
        families.append(best)
        lacking -= letters_of(best)
    return families, "".join(sorted(lacking))


def fonts_of(figure: Figure) -> tuple[list[str], str]:
    """The families that a figure needs, and the letters in it that no installed font has."""
    return fonts_for(text.get_text() for text in figure.findobj(Text))
