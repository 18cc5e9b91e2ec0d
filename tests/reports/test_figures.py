"""Figures: legends and titles fit, lines differ, letters of all languages, axes of percentages, bounded heights."""

import io
import warnings

import numpy as np
import pandas as pd
import pytest
from matplotlib import font_manager
from matplotlib.figure import Figure
from PIL import Image

from reports import figures
from reports.figures import text
from reports.names import in_order, natural, network_name

LONG = (
    "fusion-preserving(restore_norm=False, target=k-means), data-free repair, multiples of 8 · lamp(restore_order=True)"
)
GREEK, JAPANESE, SCRIPT = "αβγ", "剪定", "\N{MATHEMATICAL SCRIPT CAPITAL A}"


def drawn(names: list[str], titles: list[str], columns: int = 4) -> Figure:
    """A figure with a curve a name in each panel, laid out."""
    figure = made(names, titles, columns)
    figure.draw_without_rendering()
    return figure


def made(names: list[str], titles: list[str], columns: int = 4) -> Figure:
    figure, axes = figures.panels(titles, columns)
    looks = figures.style(names)
    for axis in axes:
        for name in names:
            points = pd.DataFrame({"x": [0.0, 1.0], "mean": [1.0, 99.0], "std": [5.0, 5.0], "n": 3})
            figures.curve(axis, points, "x", looks[name])
    figures.label(figure, "sparsity (%)", note="points: mean over 3 seeds; bars: standard deviation")
    figures.legend(figure, looks)
    return figure


@pytest.mark.parametrize("titles", [["one"], [f"group {number}" for number in range(6)]], ids=["one", "six"])
@pytest.mark.parametrize(
    "names",
    [
        ["a", "b"],
        [LONG],
        [LONG, "b", "c"],
        [f"{LONG} {number}" for number in range(4)],
        ["x" * 150, "y"],
        list("abcdefghij"),
    ],
    ids=["short", "long", "mixed", "several long", "one word", "many"],
)
def test_legend_and_labels_lie_within_the_figure_and_above_the_panels(names: list[str], titles: list[str]) -> None:
    figure = drawn(names, titles)
    box = figure.legends[0].get_window_extent()
    assert box.x0 >= 0
    assert box.x1 <= figure.bbox.width
    assert box.y1 <= figure.bbox.height
    shown = ["".join(entry.get_text().split()) for entry in figure.legends[0].get_texts()]
    assert shown == ["".join(name.split()) for name in names], "no letter is cut off"
    for axis in figure.axes:
        assert axis.title.get_window_extent().y1 <= box.y0 + 1
        assert axis.get_position().height * figure.get_figheight() > 0.6


def test_long_titles_stay_within_their_panels() -> None:
    figure = drawn(["a"], [f"VGG11-BN (0.5×), {LONG} {number}" for number in range(4)], columns=2)
    boxes = [axis.title.get_window_extent() for axis in figure.axes]
    assert all(box.x0 >= 0 and box.x1 <= figure.bbox.width for box in boxes)
    assert boxes[0].x1 < boxes[1].x0
    assert boxes[2].y1 < figure.axes[0].get_window_extent().y0


def test_a_long_name_is_broken_between_words_first() -> None:
    assert text.wrapped("intra-fusion · lamp(restore_order=True)", 1.8) == "intra-fusion ·\nlamp(restore_order=True)"
    assert text.wrapped("short", 1.0) == "short"


def test_what_a_figure_says_of_points_and_bars_is_in_its_label() -> None:
    figure = drawn(["a"], ["one"])
    assert "mean over 3 seeds; bars: standard deviation" in " ".join(figure.get_supxlabel().split())
    means = [pd.DataFrame({"n": counts}) for counts in ([1, 1], [2, 3])]
    assert figures.repetitions(means[0]) == "one seed"
    assert figures.repetitions(*means).startswith("points: mean over 1 to 3 seeds")
    assert figures.repetitions(pd.DataFrame({"n": []})) == ""


def test_axes_of_percentages_end_at_0_and_100() -> None:
    (axis,) = drawn(["a"], ["one"]).axes
    assert axis.get_ylim()[0] >= 0
    assert axis.get_ylim()[1] <= 100
    assert (axis.get_xlim()[0], axis.get_xlim()[1]) == (0, 100)
    bars = [segment for container in axis.containers for segment in container[2][0].get_segments()]
    assert [bar[:, 1].tolist() for bar in bars] == [[0, 6], [94, 100]]


def test_no_two_of_many_variants_have_points_that_look_alike() -> None:
    names = [f"intra-fusion · c{number}" for number in range(50)] + [f"m{number}" for number in range(30)]
    looks = figures.style(names)
    points = {(look["color"], look["marker"], look["fillstyle"]) for look in looks.values()}
    assert len(points) == len(names)
    assert {look["color"] for name, look in looks.items() if name.startswith("intra")} == {"#0072B2"}


def test_many_panels_go_on_in_further_figures() -> None:
    every = {f"group {number}": number for number in range(101)}
    parts = list(figures.pages(every))
    assert [suffix for suffix, _ in parts] == [[f"part-{number}"] for number in range(1, 6)]
    assert [title for _, panels in parts for title in panels] == list(every)
    heights = [figures.panels(list(panels))[0].get_figheight() for _, panels in parts]
    assert max(heights) < 11, "inches, of a page"
    assert [suffix for suffix, _ in figures.pages({"one": 1})] == [[]]


def test_fonts_are_taken_that_have_the_letters() -> None:
    assert text.fonts_for([GREEK, "Accuracy (%)"]) == ([text.FONT], "")
    families, lacking = text.fonts_for([SCRIPT])
    assert len(families) == 2
    assert lacking == ""
    assert SCRIPT in text.letters_of(families[1])


@pytest.mark.parametrize("kind", ["png", "svg", "pdf"])
def test_letters_that_no_font_has_are_named_and_the_figure_is_written(
    kind: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(text, "fontManager", type("Fonts", (), {"ttflist": only(text.FONT)}))
    monkeypatch.setattr(text, "letters_of", text.letters_of.__wrapped__)
    figure = made([f"method {GREEK} {JAPANESE}"], ["one"])
    assert figures.fonts_of(figure)[1] == "".join(sorted(JAPANESE))
    content = io.BytesIO()
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        figures.save(figure, content, kind)
    assert len(content.getvalue()) > 1000


def only(family: str) -> list:
    return [font for font in font_manager.fontManager.ttflist if font.name == family]


def test_networks_have_the_names_of_papers() -> None:
    names = {
        "vgg11_bn-w0.5": "VGG11-BN (0.5×)",
        "vgg11_bn": "VGG11-BN",
        "resnet18-w0.0625, training.epochs=3": "ResNet18 (0.0625×), training.epochs=3",
        "resnet50 on imagenet": "ResNet50 on imagenet",
        "vit_b_16": "ViT-B/16",
        "my-net-wide": "my-net-wide",
        "mine": "mine",
        "": "",
    }
    assert {name: network_name(name) for name in names} == names


def test_names_are_sorted_by_the_numbers_in_them() -> None:
    assert in_order(["10", "2", "1", "0", "1"]) == ["0", "1", "2", "10"]
    assert in_order(["a(p=10)", "a(p=0.5)", "a(p=0.25)", "a"]) == ["a", "a(p=0.25)", "a(p=0.5)", "a(p=10)"]
    assert sorted(np.arange(12).astype(str), key=natural) == [str(number) for number in range(12)]


def test_points_lie_where_their_markers_are_drawn() -> None:
    """Their places are read from a picture: what is drawn around each is the marker, in the colour of its curve."""
    figure, axes = figures.panels(["one panel", "another"], columns=2)
    means = pd.DataFrame({"s": [0.1, 0.5], "mean": [90.0, 40.0], "std": [np.nan] * 2, "cells": [("a", "b"), ("c",)]})
    look = {"color": "#ff0000", "marker": "o", "markersize": 6, "linestyle": ""}
    figures.curve(axes[1], means, "s", look, name="a method")
    figures.label(figure, "sparsity (%)")
    content = io.BytesIO()
    figures.save(figure, content, "png")
    points = figures.points_of(figure)
    assert [point.text for point in points] == ["another, a method: 10, 90.00", "another, a method: 50, 40.00"]
    assert [point.cells for point in points] == [("a", "b"), ("c",)]
    with Image.open(content) as image:
        for point in points:
            place = round(point.across * image.width), round(point.down * image.height)
            assert image.convert("RGB").getpixel(place) == (255, 0, 0), point
