"""The paper's results: what feeds them, and which rows of a run they are about."""

from dataclasses import fields

import pandas as pd
import pytest

from orchestrator import Experiment
from orchestrator.planning.building import make_plan
from orchestrator.planning.facts import gather
from orchestrator.settings.reading import built_in
from reports.exhibits.catalog import EXHIBITS, TOGETHER
from reports.exhibits.paper import EXPERIMENTS, PAPER, View
from reports.results.selection import Tables

NAMED = [1, *range(4, 22)], [*range(2, 7), 19, 20, *range(22, 29)]


def test_every_table_and_figure_has_an_entry() -> None:
    tables, numbered = NAMED
    wanted = {f"table-{number}" for number in tables} | {f"figure-{number}" for number in numbered}
    assert set(PAPER) == wanted | {"figures-8-14", "figures-15-18"}
    assert set(TOGETHER) == {f"figure-{number}" for number in range(8, 19)}
    assert set(TOGETHER.values()) <= set(PAPER)


def test_exhibits_are_fed_by_built_in_experiments() -> None:
    assert set(built_in()) == EXPERIMENTS
    assert {exhibit.experiment for exhibit in EXHIBITS.values()} <= set(built_in())


@pytest.mark.parametrize("name", sorted(set(built_in()) - {"quickstart"}))
def test_an_experiment_has_a_small_form_of_its_shape(name: str) -> None:
    full, small = Experiment.load(name), Experiment.load(name, ["scale=small"])
    assert small.name == f"{name}-small"
    assert [grid.methods for grid in small.pruning] == [grid.methods for grid in full.pruning]
    assert [grid.criteria for grid in small.pruning] == [grid.criteria for grid in full.pruning]
    assert small.splits == full.splits
    plan = make_plan(small, gather(small))
    assert 0 < plan.cells < 1000


def rows(**columns: object) -> dict:
    base = {"experiment": "mine", "network": "vgg11_bn", "dataset": "cifar10", "criterion": "l1", "group": 0.0}
    return {**base, "method": "conventional", "split": None, "folds": None, **columns}


def test_a_view_takes_the_paper_s_networks_from_any_run_and_the_experiment_at_any_scale() -> None:
    view = View("table-10", "data-free-cifar10", networks=("vgg11_bn",), criteria=("l1",), groups=(0, 1))
    frame = pd.DataFrame(
        [
            rows(),
            rows(experiment="data-free-cifar10-small", network="vgg11_bn-w0.125", dataset="digits"),
            rows(criterion=None, group=None),
            rows(dataset="digits"),
            rows(network="resnet18"),
            rows(criterion="taylor"),
            rows(group=5.0),
            rows(experiment="data-free-cifar100-small", dataset="digits"),
        ]
    )
    assert view.mask(frame).tolist() == [True, True, True, False, False, False, False, False]


def test_a_stand_in_counts_where_the_small_form_lacks_the_network() -> None:
    view = View("table-18", "data-free-imagenet", "imagenet", networks=("resnet50",))
    small = {"experiment": "data-free-imagenet-small", "dataset": "digits"}
    frame = pd.DataFrame([rows(**small, network="resnet10-w0.125"), rows(network="resnet18")])
    assert view.mask(frame).tolist() == [True, False]


@pytest.mark.parametrize("there", [(), (2,), (4,), (2, 4)])
@pytest.mark.parametrize("needed", [(2,), (4,), (2, 4), (0,)])
def test_what_is_of_folds_needs_them_all(there: tuple[int, ...], needed: tuple[int, ...]) -> None:
    frame = pd.DataFrame([rows(), *(rows(folds=float(folds), split="unions") for folds in there)])
    names = [each.name for each in fields(Tables) if each.name not in ("settings", "published")]
    tables = Tables(**dict.fromkeys(names, frame), settings={})
    chosen = View("figure", "split-data", folds=needed).of(tables).evaluations
    assert (not chosen.empty) == (set(needed) <= {0, *there})


def test_rows_of_another_built_in_experiment_do_not_count() -> None:
    names = ("split-data-small", "split-data-folds", "split-data-folds-small")
    frame = pd.DataFrame([rows(experiment=name, dataset="digits") for name in names])
    assert View("figure-23", "split-data").mask(frame).tolist() == [True, False, False]
