"""The examples run."""

import importlib.util
import os
import subprocess
import sys
from pathlib import Path

import nbformat
import pytest
import torch
from nbclient import NotebookClient

from metaprune import Experiment
from tests.project.documents import ROOT
from workloads.compression.criteria import importance
from workloads.structure.network import Network

EXAMPLES = ROOT / "examples"


def run_script(name: str, *arguments: str, folder: Path) -> str:
    """The output of an example as a user starts it, from another folder."""
    environment = os.environ | {"OMP_NUM_THREADS": "1", "RAY_USAGE_STATS_ENABLED": "0", "PYTHONPATH": str(ROOT)}
    command = [sys.executable, str(EXAMPLES / name), *arguments]
    done = subprocess.run(command, capture_output=True, text=True, cwd=folder, env=environment)
    assert done.returncode == 0, done.stderr
    return done.stdout


def test_every_example_is_in_the_list_and_in_a_test() -> None:
    tested = {"compress_one_network.py", "own_criterion", "grid_on_a_cluster", "read_results.ipynb"}
    there = {path.name for path in EXAMPLES.iterdir() if not path.name.startswith((".", "__"))} - {"README.md"}
    assert there == tested
    listed = (EXAMPLES / "README.md").read_text(encoding="utf-8")
    assert all(f"]({name}" in listed for name in tested)


@pytest.mark.parametrize("name", ["own_criterion", "grid_on_a_cluster"])
def test_the_experiment_of_an_example_is_read_at_every_scale(name: str) -> None:
    file = EXAMPLES / name / "experiment.yaml"
    assert Experiment.load(file).name
    if name == "grid_on_a_cluster":
        small = Experiment.load(file, ["scale=small"])
        assert small.resources.task("train").gpus is None, "the small scale runs without a GPU"


def test_the_own_criterion_counts_how_often_neurons_are_active() -> None:
    specification = importlib.util.spec_from_file_location(
        "criteria_of_example", EXAMPLES / "own_criterion/criteria.py"
    )
    assert specification is not None
    assert specification.loader is not None
    module = importlib.util.module_from_spec(specification)
    sys.modules["criteria_of_example"] = module
    specification.loader.exec_module(module)
    model = torch.nn.Sequential(
        torch.nn.Conv2d(1, 3, 1),
        torch.nn.ReLU(),
        torch.nn.AdaptiveAvgPool2d(1),
        torch.nn.Flatten(),
        torch.nn.Linear(3, 2),
    )
    with torch.no_grad():
        model[0].weight.fill_(1)
        model[0].bias.copy_(torch.tensor([-1e3, 0.0, 1e3]))  # never, as the pixel says, always
    images = torch.tensor([1.0, -1.0, 1.0, 1.0]).view(4, 1, 1, 1).expand(4, 1, 2, 2)
    network = Network.prepared(model, images[:1])
    try:
        scores = importance(
            "criteria_of_example:share_of_zeros",
            network.model,
            network.structure.groups[0],
            images=[images],
            options={"count": 4},
        )
    finally:
        del sys.modules["criteria_of_example"]
    torch.testing.assert_close(scores, torch.tensor([0.0, 0.75, 1.0]))


@pytest.mark.slow
def test_the_notebook_runs() -> None:
    notebook = nbformat.read(EXAMPLES / "read_results.ipynb", as_version=4)
    NotebookClient(notebook, timeout=120, resources={"metadata": {"path": str(EXAMPLES)}}).execute()
    shown = [output for cell in notebook.cells for output in cell.get("outputs", [])]
    assert any("image/png" in output.get("data", {}) for output in shown)
    assert any("folding" in str(output.get("data", {}).get("text/plain", "")) for output in shown)


@pytest.mark.slow
def test_compressing_one_network_prints_a_line_a_method(tmp_path: Path) -> None:
    printed = run_script("compress_one_network.py", "--epochs", "1", folder=tmp_path)
    assert [line.split()[0] for line in printed.splitlines()[1:4]] == ["none", "conventional", "intra-fusion"]


@pytest.mark.slow
def test_the_grid_for_a_cluster_runs_here_at_its_small_scale(tmp_path: Path) -> None:
    printed = run_script("grid_on_a_cluster/run.py", "--scale", "small", folder=tmp_path)
    assert "reconstruction" in printed
    assert (tmp_path / "runs" / "grid-on-a-cluster-small" / "experiment.yaml").is_file()


@pytest.mark.slow
def test_the_experiment_with_an_own_criterion_runs(tmp_path: Path) -> None:
    few = ["dataset.train_samples=200", "dataset.test_samples=60", "training.epochs=1", "seeds=[0]"]
    few += ["pruning.groups=[0]", "pruning.sparsities=[0.5]", "model.width=0.0625"]
    environment = os.environ | {"OMP_NUM_THREADS": "1", "RAY_USAGE_STATS_ENABLED": "0", "PYTHONPATH": str(ROOT)}
    file = str(EXAMPLES / "own_criterion" / "experiment.yaml")
    command = [sys.executable, "-m", "metaprune", "run", file, "--out", str(tmp_path / "run"), "--set", *few]
    done = subprocess.run(command, capture_output=True, text=True, cwd=tmp_path, env=environment)
    assert done.returncode == 0, done.stderr
