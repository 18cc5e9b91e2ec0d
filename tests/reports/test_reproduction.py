"""The paper's numbers and the comparison with them."""

from pathlib import Path

import pandas as pd
import pytest
import yaml
from matplotlib.figure import Figure

from orchestrator import Experiment
from orchestrator.storage.store import Store
from reports import published
from reports.exhibits import reproduction
from reports.exhibits.catalog import EXHIBITS
from reports.results.selection import tables_of
from tests.reports.test_reports import evaluation, plan
from workloads.compression.criteria import CRITERIA
from workloads.compression.methods import METHODS
from workloads.config import ModelConfig
from workloads.networks.models import MODELS


def test_the_published_gains_are_the_differences_of_the_published_accuracies() -> None:
    cells = published.comparisons()
    printed = pd.concat([published.read("data_free")["delta"], published.read("fine_tuned")["gain"]], ignore_index=True)
    assert len(cells) == 1268
    assert not cells.isna().any(axis=None)
    assert (cells["intra-fusion"] - cells["conventional"] - printed).abs().max() < 0.0201


def test_published_names_are_ours() -> None:
    cells = published.comparisons()
    assert set(cells["network"]) <= {*MODELS, ModelConfig(name="torchvision.models:resnet50").name_in_results}
    assert set(cells["criterion"]) <= set(CRITERIA)
    assert {name.partition("(")[0] for name in published.distributions()["method"]} <= set(METHODS)
    assert set(published.base_models()["network"]) <= set(MODELS)


def test_fine_tuned_sparsities_are_of_neurons() -> None:
    cells = published.comparisons()
    tuned = cells[(cells["table"] == 1) & (cells["network"] == "vgg11_bn")].set_index("target_sparsity")
    assert tuned["intra-fusion"].to_dict() == {0.4: 89.19, 0.6: 88.51, 0.7: 88.15, 0.8: 85.89}


@pytest.mark.parametrize(
    ("theirs", "ours", "expected"),
    [
        (2.0, 4.0, "agrees"),
        (0.1, -0.4, "agrees"),
        (2.0, 9.0, "same sign, other size"),
        (-2.0, -9.0, "same sign, other size"),
        (2.0, 0.4, "no clear sign"),
        (0.2, -3.0, "no clear sign"),
        (2.0, -0.6, "opposite sign"),
    ],
)
def test_grades(theirs: float, ours: float, expected: str) -> None:
    assert list(reproduction.grade(pd.Series([theirs]), pd.Series([ours]))) == [expected]


SETTINGS = Experiment.model_validate(
    {"name": "e", "dataset": {"name": "cifar10"}, "model": {"name": "vgg11_bn"}, "seeds": [0, 1, 2, 3]}
).model_dump(mode="json")


@pytest.fixture
def run(tmp_path: Path) -> Path:
    """VGG11-BN on CIFAR-10 read from Parquet, two seeds: group 1 at 60 %, which is published, and more."""
    same = {"model": "vgg11_bn", "dataset": "parquet", "sparsity_of": "neurons", "repair": "none"}
    cell = {**same, "group": 1, "neuron_sparsity": 0.6, "target_sparsity": 0.6}
    rows = [
        evaluation(
            f"{method}{seed}{changed}", seed=seed, method=method, accuracy=accuracy + seed, **{**cell, **changed}
        )
        for seed in (0, 1)
        for method, accuracy in (("conventional", 70.0), ("intra-fusion", 85.0))
        for changed in ({}, {"target_sparsity": 0.65}, {"model": "vgg11_bn-w0.5"}, {"repair": "data"})
    ]
    base = {**same, "stage": "baseline", "training_data": "whole", "neuron_sparsity": 0.0, "final": False}
    rows.append(evaluation("base", accuracy=90.0, **base))
    store = Store(tmp_path / "run")
    store.write_rows("evaluations", "all", rows)
    plan(store, rows)
    settings = {**SETTINGS, "dataset": {**SETTINGS["dataset"], "name": "parquet", "root": "some/cifar10"}}
    store.write(yaml.safe_dump(settings).encode(), "experiment.yaml")
    return tmp_path / "run"


def test_a_cell_is_printed_beside_the_published(run: Path) -> None:
    tables = dict(EXHIBITS["reproduction"].make(tables_of(run)))
    (row,) = tables["reproduction"].rows
    assert row[:6] == ["vgg11_bn", "cifar10", "l1", "no", "1", "60"]
    assert row[6:12] == ["77.81", "70.50", "−7.31", "87.58", "85.50", "−2.08"]
    assert row[12:] == ["+9.77", "+15.00", "same sign, other size", "10"]
    assert tables["reproduction-grades"].rows[0][4:9] == ["1", "0", "1", "0", "0"]
    assert tables["reproduction-models"].rows == [
        ["vgg11_bn", "cifar10", "whole", "1", "89.25 ± 0.18", "90.00", "+0.75"]
    ]
    assert tables["reproduction-setup"].rows == [["run", "dataset.name", "the original files", "parquet"]]


def test_the_sentence_counts_signs_and_names_what_differs(run: Path) -> None:
    tables = tables_of(run)
    assert reproduction.sentence(tables.evaluations, tables.settings) == (
        "Of 1 cells that the paper prints, Intra-Fusion's gain has the published sign, or as published none, in 1, the "
        "opposite in 0 and no clear one in 0; the mean gain is +15.00 points, published +9.77. The set-up differs in "
        "dataset.name."
    )


def test_the_default_experiment_is_the_papers() -> None:
    assert reproduction.differences(SETTINGS) == {}
    for path in reproduction.PROTOCOL:
        part, name = path.split(".")
        assert name in SETTINGS[part]


def test_given_weights_replace_the_settings_of_training() -> None:
    model = {**SETTINGS["models"][0], "checkpoint": "some/where/weights.safetensors"}
    settings = {**SETTINGS, "models": [model], "seeds": [0], "training": {**SETTINGS["training"], "epochs": 1}}
    found = reproduction.differences(settings)
    assert set(found) == {"training", "seeds"}
    assert found["training"][1] == "given weights: weights.safetensors"


def test_published_curves_are_drawn_beside_the_measured(run: Path) -> None:
    figures = dict(EXHIBITS["data-free-figure"].make(tables_of(run, published=True)))
    figure = figures["data-free-vgg11_bn"]
    assert isinstance(figure, Figure)
    names = [text.get_text() for text in figure.legends[0].get_texts()]
    assert "intra-fusion, published" in names
    axis = next(axis for axis in figure.axes if axis.get_title() == "group 1")
    lines = [container[0].get_xydata() for container in axis.containers]
    theirs = [line[5].tolist() for line in lines if len(line) == 7]
    assert theirs == [[60.0, 77.81], [60.0, 87.58]]


def test_the_papers_tables_have_their_own_cells_beside_the_published(run: Path) -> None:
    tables = tables_of(run)
    found = {name: dict(EXHIBITS[name].make(tables)) for name in EXHIBITS if name.startswith("table-")}
    beside = {name: items[f"{name}-published"] for name, items in found.items() if f"{name}-published" in items}
    assert list(beside) == ["table-10"]
    assert [row[6:9] for row in beside["table-10"].rows] == [["77.81", "70.50", "−7.31"]]
