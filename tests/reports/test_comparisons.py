"""Output distances and landscapes of a run, and several fusions in one experiment."""

from pathlib import Path

import pandas as pd
import pytest

from orchestrator import Experiment, run
from orchestrator.running.progress import NoProgress
from reports import load
from reports.page import write_report
from tests.conftest import TINY


@pytest.fixture(scope="module")
def compared(local_ray: None, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A run of whole-data and FaP by two fusions, with distances and landscapes."""
    folder = tmp_path_factory.mktemp("compared")
    grid = {
        "groups": [0],
        "sparsities": [0.0, 0.5],
        "importances": True,
        "output_distances": True,
        "landscape": {"size": 3},
    }
    settings = {
        **TINY,
        "pipelines": ["whole-data", "fap"],
        "fusion": [{"alignment": "weights"}, {"alignment": "none", "repair": False}],
        "pruning": grid,
    }
    result = run(Experiment.model_validate(settings), out=folder, progress=NoProgress())
    assert result.complete, result.failed
    return folder


def test_distances_are_kept_for_every_test_image(compared: Path) -> None:
    frame = load(compared, "output_distances")
    assert len(frame) == 3 * 4  # networks to start from × (methods × sparsities)
    assert (frame["distances"].map(len) == 60).all()
    at_zero = frame["target_sparsity"] == 0
    assert frame.loc[at_zero, "mean"].max() < 1e-4
    assert frame.loc[~at_zero, "mean"].min() > 1e-4
    assert frame["distances"].map(lambda values: sum(values) / len(values)).tolist() == pytest.approx(
        frame["mean"].tolist(), rel=1e-4, abs=1e-6
    )


def test_importances_are_kept_once_for_each_network_group_and_criterion(compared: Path) -> None:
    frame = load(compared, "importances")
    assert list(frame["pipeline"].sort_values()) == ["fap", "fap", "whole-data"]
    assert frame["scores"].map(len).tolist() == [32] * 3
    assert frame["scores"].map(min).min() > 0


def test_the_corners_of_a_landscape_are_the_measured_networks(compared: Path) -> None:
    frame, measured = (load(compared, table).fillna({"fusion": "none"}) for table in ("landscapes", "evaluations"))
    assert set(frame["target_sparsity"]) == {0.5}
    key = ["pipeline", "fusion", "target_sparsity"]
    for point, landscape in frame.groupby(key):
        grid, corners = landscape[landscape["corner"].isna()], landscape.dropna(subset="corner").set_index("corner")
        assert (len(grid), grid["x"].nunique(), grid["y"].nunique()) == (9, 3, 3)
        assert (corners.at["original", "x"], corners.at["original", "y"], corners.at["against", "y"]) == (0, 0, 0)
        cells = measured[measured["final"]].groupby(key).get_group(point).set_index("method")["accuracy"]
        assert corners.at["method", "accuracy"] == cells["intra-fusion"]
        assert corners.at["against", "accuracy"] == cells["conventional"]


def test_every_fusion_has_its_rows(compared: Path) -> None:
    frame = load(compared)
    fused = frame[frame["stage"] == "fused"]
    assert sorted(fused["fusion"]) == ["none(repair=False)", "weights"]
    assert fused["loss"].nunique() == 2
    final = frame[frame["final"]]
    assert final.groupby("fusion", dropna=False).size().tolist() == [4, 4, 4]
    assert final.loc[final["pipeline"] == "whole-data", "fusion"].isna().all()


def test_timings_tell_all_kinds(compared: Path) -> None:
    kinds: pd.Series = load(compared, "timings").groupby("kind").size()
    assert kinds.to_dict()["landscape"] == 9
    assert kinds.to_dict()["distances"] == len(load(compared, "output_distances"))


def test_the_report_draws_them(compared: Path, tmp_path: Path) -> None:
    report = write_report(
        compared, tmp_path, only=["output-distances-figure", "output-distances", "landscapes", "models"]
    )
    assert not report.lacking
    names = [name for name in report.files if name.endswith(".png")]
    runs = ["whole-data", "FaP-weights", "FaP-none-repair-False"]
    assert {name for name in names if name.startswith("landscape")} == {
        f"landscape-vgg11_bn-w0.0625-{run}-0-l1-group-0-intra-fusion.png" for run in runs
    }
    assert len([name for name in names if name.startswith("output-distances")]) == 3
    assert "subsets, fused by none(repair=False)" in (tmp_path / "models.md").read_text()


def test_distributions_are_compared_over_seeds(tmp_path: Path) -> None:
    marginals = [{"name": "intra-fusion"}, {"name": "intra-fusion", "source_marginal": "importance"}]
    grid = {"groups": [0, 1], "sparsities": [0.5], "methods": marginals}
    experiment = Experiment.model_validate({**TINY, "seeds": [0, 1], "pruning": grid})
    assert run(experiment, out=tmp_path / "run", progress=NoProgress()).complete
    report = write_report(tmp_path / "run", tmp_path / "report", only=["distributions", "distributions-figure"])
    assert {"distributions.csv", "distributions-vgg11_bn-w0.0625.png"} <= set(report.files)
    head, *body = (tmp_path / "report" / "distributions.csv").read_text().splitlines()
    assert head == (
        'model,criterion,group,sparsity (%),uTuS,"uTuS, deviation","uTuS, n",uTiS,"uTiS, deviation","uTiS, n",p'
    )
    assert all(0 <= float(line.rpartition(",")[2]) <= 1 for line in body)
    assert len(body) == 2
