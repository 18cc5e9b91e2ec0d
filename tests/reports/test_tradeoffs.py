"""Accuracy against costs."""

import pandas as pd
import pytest
from matplotlib.figure import Figure

from orchestrator.storage.store import Store
from reports import figures
from reports.exhibits.catalog import EXHIBITS
from reports.exhibits.tradeoffs import COSTS, pareto_front
from reports.results.selection import tables_of
from tests.reports.test_reports import evaluation, plan

POINTS = pd.DataFrame(
    {"macs": [1.0, 2.0, 2.0, 3.0, 4.0, 5.0], "mean": [50.0, 70.0, 60.0, 65.0, 80.0, 80.0], "name": list("abcdef")}
)


def test_the_front_has_what_nothing_cheaper_beats() -> None:
    assert pareto_front(POINTS, COSTS["macs"])["name"].tolist() == ["a", "b", "e"]


def test_of_sparsity_more_is_cheaper() -> None:
    points = POINTS.rename(columns={"macs": "weight_sparsity"})
    assert pareto_front(points, COSTS["weight-sparsity"])["name"].tolist() == ["f"]
    worse = points.assign(mean=-points["mean"])
    assert pareto_front(worse, COSTS["weight-sparsity"])["name"].tolist() == ["a", "c", "d", "f"]


@pytest.fixture
def tables(tmp_path):
    """All groups pruned by half by two methods, two seeds, on two devices, and one group of one network."""
    pruned = {"target_sparsity": 0.5, "neuron_sparsity": 0.5, "weight_sparsity": 0.75, "macs": 500_000}
    rows = [
        evaluation(
            f"{method}{seed}",
            method=method,
            seed=seed,
            accuracy=80.0 + 2 * seed,
            **pruned,
            latency_1=1.0 + seed,
            device=device,
        )
        for seed, device in ((0, "old"), (1, "new"))
        for method in ("conventional", "folding")
    ]
    rows.append(evaluation("one", method="folding", group=0, accuracy=1.0, **pruned))
    base = {
        "stage": "baseline",
        "training_data": "whole",
        "final": False,
        "weight_sparsity": 0.0,
        "neuron_sparsity": 0.0,
    }
    rows += [
        evaluation(f"base {device}", seed=seed, accuracy=90.0, latency_1=4.0, device=device, **base)
        for seed, device in enumerate(("old", "new"))
    ]
    store = Store(tmp_path)
    store.write_rows("evaluations", "all", rows)
    plan(store, rows)
    return tables_of(tmp_path)


def drawn(tables, cost: str) -> Figure:
    ((name, figure),) = EXHIBITS[f"accuracy-against-{cost}"].make(tables)
    assert isinstance(figure, Figure)
    assert name == f"accuracy-against-{cost}-net"
    return figure


@pytest.mark.parametrize(("cost", "x", "start"), [("macs", 0.5, 2.0), ("weight-sparsity", 75.0, 0.0)])
def test_lines_go_through_the_means_in_the_units_of_the_axis(tables, cost: str, x: float, start: float) -> None:
    figure = drawn(tables, cost)
    (axis,) = figure.axes
    points = [container[0].get_xydata().tolist() for container in axis.containers]
    assert points == [[[x, 81.0]], [[x, 81.0]], [[start, 90.0]]]
    assert [text.get_text() for text in figure.legends[0].get_texts()] == [
        "conventional",
        "folding",
        "unpruned",
        "Pareto front",
    ]


def test_latencies_of_different_devices_are_not_mixed(tables) -> None:
    axes = drawn(tables, "latency").axes
    assert [axis.get_title() for axis in axes] == ["not fine-tuned, new", "not fine-tuned, old"]
    assert axes[0].containers[0][0].get_xydata().tolist() == [[2.0, 82.0]]


def test_a_long_legend_leaves_the_labels_free() -> None:
    figure, _ = figures.panels(["one"])
    figures.label(figure, "sparsity (%)")
    figures.legend(figure, figures.style([f"a rather long name of a method, {number}" for number in range(30)]))
    figure.draw_without_rendering()
    below = figure.legends[0].get_window_extent().y0
    assert figure.axes[0].yaxis.label.get_window_extent().y1 <= below
