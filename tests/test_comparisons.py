"""Output distances and landscapes of a run, and several fusions in one experiment."""

from pathlib import Path

import pandas as pd
import pytest

from orchestrator import Experiment, run
from orchestrator.progress import NoProgress
from reports import load
from tests.conftest import TINY


@pytest.fixture(scope="module")
def compared(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A run of whole-data and FaP by two fusions, with distances and landscapes."""
    folder = tmp_path_factory.mktemp("compared")
    grid = {"groups": [0], "sparsities": [0.0, 0.5], "output_distances": True, "landscape": {"size": 3}}
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


def test_the_corners_of_a_landscape_are_the_measured_networks(compared: Path) -> None:
    frame, measured = load(compared, "landscapes"), load(compared)
    assert set(frame["target_sparsity"]) == {0.5}
    key = ["pipeline", "fusion", "target_sparsity"]
    for point, landscape in frame.groupby(key, dropna=False):
        grid, corners = landscape[landscape["corner"].isna()], landscape.dropna(subset="corner").set_index("corner")
        assert (len(grid), grid["x"].nunique(), grid["y"].nunique()) == (9, 3, 3)
        assert (corners.at["original", "x"], corners.at["original", "y"], corners.at["against", "y"]) == (0, 0, 0)
        cells = measured[measured["final"]].groupby(key, dropna=False).get_group(point).set_index("method")["accuracy"]
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
