"""Widths of groups by each search, and accuracy by each allocation."""

from pathlib import Path

import pytest

from reports.exhibits.catalog import EXHIBITS
from reports.results.selection import tables_of
from tests.reports.test_exhibits import lines_of, stored
from tests.reports.test_reports import evaluation

MEASURED = ("epoch", "weight_sparsity", "parameters", "macs")
SEARCHED = {"stage": "allocated", "final": False, "criterion": None, "sparsity_of": "macs"}


def row(allocation: str, target: float, seed: int, group: int, width: int, **more: object) -> dict:
    cell = f"{allocation}{target}{seed}{more.get('pipeline')}{more.get('method')}"
    columns = {**SEARCHED, "allocation": allocation, "target_sparsity": target, "seed": seed, **more}
    found = evaluation(cell, **columns, of_group=group, layer=f"layer{group}", neurons=20, width=width)
    found |= {"uniform_width": 10, "loss": 0.1, "why": "losing some costs little"}
    return {
        name: value for name, value in found.items() if name not in ("epoch", "weight_sparsity", "parameters", "macs")
    }


def test_a_line_a_search_and_a_panel_a_budget(tmp_path: Path) -> None:
    widths = {
        ("elimination", None): (5, 15),
        ("elimination(images=synthetic)", None): (4, 16),
        ("greedy", "folding"): (2, 17),
        ("greedy", "conventional"): (3, 16),
    }
    rows = [
        row(allocation, target, seed, group, width + seed, method=method)
        for (allocation, method), kept in widths.items()
        for target in (0.3, 0.5)
        for seed in (0, 2)
        for group, width in enumerate(kept)
    ]
    rows += [row("elimination", 0.3, 0, group, 1, pipeline="fap") for group in (0, 1)]
    rows += [row("greedy", 0.1, 0, group, 1) for group in (0, 1)]  # a step on the way
    rows += [  # which all cells of the threshold repeat
        row("global", target, seed, group, 12 + group + seed, method=method, criterion="l1")
        for method in ("conventional", "folding")
        for target in (0.3, 0.5)
        for seed in (0, 2)
        for group in (0, 1)
    ]
    cells = [evaluation(f"cell{target}", method="folding", target_sparsity=target) for target in (0.3, 0.5)]
    tables = tables_of(stored(tmp_path, cells, allocations=rows))
    ((name, figure),) = EXHIBITS["widths"].make(tables)
    assert name == "widths-net-of-MACs"
    assert [axis.get_title() for axis in figure.axes] == ["30 % of MACs", "50 % of MACs"]
    uniform = [[0, 50], [1, 50]]
    searched = [[[0, 30], [1, 80]], [[0, 25], [1, 85]], [[0, 15], [1, 90]], [[0, 20], [1, 85]], [[0, 65], [1, 70]]]
    assert lines_of(figure) == 2 * [*searched, uniform]
    names = [text.get_text() for text in figure.legends[0].get_texts()]
    assert [name.partition(",")[0] for name in names if "greedy" in name] == ["conventional", "folding"]
    assert "global" in names
    assert all(axis.xaxis_inverted() for axis in figure.axes)


def test_without_a_search_there_is_no_figure(tmp_path: Path) -> None:
    assert not list(EXHIBITS["widths"].make(tables_of(stored(tmp_path, [evaluation("a", method="folding")]))))


@pytest.mark.parametrize("cost", ["macs", "latency"])
def test_allocations_are_lines_of_a_panel_for_each_method_with_one_front(tmp_path: Path, cost: str) -> None:
    accuracies = {"uniform": 60.0, "elimination": 70.0, "greedy": 80.0}
    rows = [
        evaluation(
            f"{method}{allocation}{target}",
            method=method,
            allocation=allocation,
            sparsity_of="macs",
            target_sparsity=target,
            accuracy=accuracy - 50 * target,
            macs=round(2e6 * (1 - target)),
            latency_1=2 - target,
            device="cpu",
        )
        for method in ("conventional", "folding")
        for allocation, accuracy in accuracies.items()
        for target in (0.2, 0.4)
    ]
    rows.append(evaluation("alone", method="intra-fusion", allocation="uniform", target_sparsity=0.2, accuracy=1.0))
    base = evaluation("base", stage="baseline", final=False, training_data="whole", accuracy=90.0, latency_1=2.0)
    tables = tables_of(stored(tmp_path, [*rows, {**base, "device": "cpu"}]))
    ((name, figure),) = EXHIBITS[f"allocations-against-{cost}"].make(tables)
    assert name == f"allocations-against-{cost}-net"
    titles = [axis.get_title() for axis in figure.axes]
    assert titles == [f"not fine-tuned, {method}, of MACs" for method in ("conventional", "folding")]
    lines = lines_of(figure)
    assert len(lines) == 2 * (len(accuracies) + 1)  # the unpruned network's too
    x = [1.6, 1.2] if cost == "macs" else [1.8, 1.6]
    assert sorted(zip(x, [70.0, 60.0], strict=True)) in [sorted(map(tuple, line)) for line in lines]
    names = {text.get_text() for text in figure.legends[0].get_texts()}
    assert names == {*accuracies, "unpruned", "Pareto front of the panel"}


def test_one_allocation_is_not_compared(tmp_path: Path) -> None:
    rows = [evaluation("a", method="folding", allocation="greedy", target_sparsity=0.2, accuracy=1.0)]
    assert not list(EXHIBITS["allocations-against-macs"].make(tables_of(stored(tmp_path, rows))))
