"""Widths of groups by each search, from the input to the output."""

from pathlib import Path

from reports.exhibits.catalog import EXHIBITS
from reports.results.selection import tables_of
from tests.reports.test_exhibits import lines_of, stored
from tests.reports.test_reports import evaluation

MEASURED = ("epoch", "weight_sparsity", "parameters", "macs")
SEARCHED = {"stage": "allocated", "final": False, "criterion": None, "sparsity_of": "macs"}


def row(allocation: str, target: float, seed: int, group: int, width: int, **more: object) -> dict:
    cell = f"{allocation}{target}{seed}{more.get('pipeline')}"
    columns = {**SEARCHED, "allocation": allocation, "target_sparsity": target, "seed": seed, **more}
    found = evaluation(cell, **columns, of_group=group, layer=f"layer{group}", neurons=20, width=width)
    found |= {"uniform_width": 10, "loss": 0.1, "why": "losing some costs little"}
    return {
        name: value for name, value in found.items() if name not in ("epoch", "weight_sparsity", "parameters", "macs")
    }


def test_a_line_a_search_and_a_panel_a_budget(tmp_path: Path) -> None:
    widths = {"elimination": (5, 15), "elimination(images=synthetic)": (4, 16)}
    rows = [
        row(allocation, target, seed, group, width + seed)
        for allocation, kept in widths.items()
        for target in (0.3, 0.5)
        for seed in (0, 2)
        for group, width in enumerate(kept)
    ]
    rows += [row("elimination", 0.3, 0, group, 1, pipeline="fap") for group in (0, 1)]
    tables = tables_of(stored(tmp_path, [evaluation("base", stage="baseline", final=False)], allocations=rows))
    ((name, figure),) = EXHIBITS["widths"].make(tables)
    assert name == "widths-net-of-MACs"
    assert [axis.get_title() for axis in figure.axes] == ["30 % of MACs", "50 % of MACs"]
    uniform = [[0, 50], [1, 50]]
    assert lines_of(figure) == 2 * [[[0, 30], [1, 80]], [[0, 25], [1, 85]], uniform]
    assert all(axis.xaxis_inverted() for axis in figure.axes)


def test_without_a_search_there_is_no_figure(tmp_path: Path) -> None:
    assert not list(EXHIBITS["widths"].make(tables_of(stored(tmp_path, [evaluation("a", method="folding")]))))
