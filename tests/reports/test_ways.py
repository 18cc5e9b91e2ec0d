"""Whole networks by every way in which they were compressed."""

from pathlib import Path

import matplotlib.colors
import pytest

from reports import figures
from reports.exhibits.catalog import EXHIBITS
from reports.exhibits.ways import MOST_WAYS
from reports.page import write_report
from reports.results.selection import tables_of
from tests.reports.test_exhibits import stored
from tests.reports.test_reports import evaluation

ACCURACIES = {("conventional", "none"): 20.0, ("conventional", "data"): 50.0, ("folding", "none"): 60.0}


def cells() -> list[dict]:
    """Two methods with and without repair at 30 and 50 %, one way at 70 %, two seeds, and the unpruned network."""
    rows = [
        evaluation(
            f"{method} {repair} {target} {seed}",
            method=method,
            repair=repair,
            target_sparsity=target,
            seed=seed,
            accuracy=accuracy + 100 * (0.5 - target) + 2 * seed,
        )
        for (method, repair), accuracy in ACCURACIES.items()
        for target in (0.3, 0.5, *[0.7] * (method == "folding"))
        for seed in (0, 1)
    ]
    base = evaluation("base", stage="baseline", training_data="whole", final=False, accuracy=95.0)
    return [*rows, base]


def test_a_row_a_way_with_the_best_on_top_and_a_panel_a_sparsity(tmp_path: Path) -> None:
    ((name, figure),) = EXHIBITS["ways"].make(tables_of(stored(tmp_path, cells())))
    assert name == "ways-net"
    assert [axis.get_title() for axis in figure.axes] == ["30 % of neurons", "50 % of neurons", "70 % of neurons"]
    names = [text.get_text() for text in figure.axes[0].get_yticklabels()]
    assert names == ["folding", "conventional, repair", "conventional"]
    assert figure.axes[0].yaxis_inverted()
    figure.draw_without_rendering()
    points = figures.points_of(figure)
    assert [point.text for point in points if "50 %" in point.text] == [
        "50 % of neurons, folding: 61.00 ± 1.41",
        "50 % of neurons, conventional, repair: 51.00 ± 1.41",
        "50 % of neurons, conventional: 21.00 ± 1.41",
    ]
    assert len(points) == 7
    above = [point.down for point in points if "50 %" in point.text]
    assert above == sorted(above)
    assert points[0].cells == ("folding none 0.3 0", "folding none 0.3 1")


def test_of_many_ways_the_best_are_shown(tmp_path: Path) -> None:
    rows = [
        evaluation(
            f"{number}",
            method="conventional",
            criterion=f"c{number}",
            repair=repair,
            target_sparsity=0.5,
            accuracy=value,
        )
        for number in range(MOST_WAYS + 5)
        for repair, value in [("data" if number % 2 else "none", 90.0 - number)]
    ]
    ((_, figure),) = EXHIBITS["ways"].make(tables_of(stored(tmp_path, rows)))
    names = [text.get_text() for text in figure.axes[0].get_yticklabels()]
    assert len(names) == MOST_WAYS
    assert names[:2] == ["conventional · c0", "conventional, repair · c1"]
    assert "5 worse ones left out" in figure.get_supxlabel()
    assert matplotlib.colors.same_color(figure.axes[0].lines[0].get_color(), "black")


@pytest.mark.parametrize("repairs", [("none",), ("none", "data")])
def test_one_or_two_ways_are_no_figure(tmp_path: Path, repairs: tuple[str, ...]) -> None:
    rows = [
        evaluation(repair, method="folding", repair=repair, target_sparsity=0.5, accuracy=1.0) for repair in repairs
    ]
    assert list(EXHIBITS["ways"].make(tables_of(stored(tmp_path, rows)))) == []


def test_a_figure_and_a_table_of_one_name_are_both_written(tmp_path: Path) -> None:
    stored(tmp_path / "run", cells())
    report = write_report(tmp_path / "run", tmp_path / "out", only=["whole-network-figure", "whole-network-table"])
    assert {"whole-network.png", "whole-network.md"} <= set(report.files)
    assert (tmp_path / "out" / "whole-network.png").is_file()
    page = (tmp_path / "out" / "README.md").read_text(encoding="utf-8")
    assert "](whole-network.png)" in page
    assert "| conventional |" in page
