"""Barriers on lines between networks, as a report shows them."""

from dataclasses import fields

import pandas as pd
import pytest

from reports.exhibits.barriers import barrier_figures, barrier_table
from reports.results.selection import Tables


def points(fusion: str, seed: int, rise: float, pair: str = "subset-1, subset-2") -> list[dict]:
    """A line of three points whose loss rises by `rise` in the middle, and whose accuracy falls by ten times that."""
    shared = {"model": "net", "folds": 2.0, "split": "unions", "fusion": fusion, "note": "", "seed": seed}
    shared |= {"cell": f"{fusion} {seed} {pair}"}
    values = [(0.0, 1.0, 80.0, 0.0), (0.5, 1.5 + rise, 75 - 10 * rise, rise), (1.0, 2.0, 70.0, 0.0)]
    return [
        {**shared, "share": share, "loss": loss, "accuracy": accuracy, "excess": excess}
        for share, loss, accuracy, excess in values
    ]


def tables(rows: list[dict]) -> Tables:
    names = [each.name for each in fields(Tables) if each.name not in ("settings", "published", "barriers")]
    return Tables(**dict.fromkeys(names, pd.DataFrame()), barriers=pd.DataFrame(rows), settings={})


MEASURED = [
    *points("none", 0, 1.0),
    *points("none", 1, 2.0),
    *points("weights", 0, 0.5),
    *points("weights", 1, 0.25),
    *points("weights", 1, 0.75, "subset-1, subset-3"),
]


def test_the_barrier_is_the_most_above_the_ends_over_seeds() -> None:
    ((name, table),) = barrier_table(tables(MEASURED))
    assert name == "barriers"
    found = {row[2]: row for row in table.rows}
    assert [cell.mean for cell in found["none"][3:]] == pytest.approx([1.5, 15, 1.5, 75])
    assert [cell.mean for cell in found["weights"][3:]] == pytest.approx([0.5, 5, 1.5, 75])
    assert {cell.n for row in table.rows for cell in row[3:]} == {2}


def test_the_figure_has_loss_and_accuracy_and_a_line_for_each_fusion() -> None:
    ((name, figure),) = barrier_figures(tables(MEASURED))
    assert name == "barriers-net"
    loss, accuracy = figure.axes
    drawn = {tuple(line.get_ydata()) for line in loss.lines if len(line.get_ydata()) == 3}
    assert {(1.0, 3.0, 2.0), (1.0, 2.0, 2.0)} <= drawn
    assert accuracy.get_title() == "test accuracy (%)"


def test_a_run_without_lines_has_neither() -> None:
    empty = tables(MEASURED[:0])
    assert [*barrier_figures(empty), *barrier_table(empty)] == []
