"""Trainings that several workers share, in a run: what they make, and how they end."""

from collections.abc import Sequence
from pathlib import Path
from typing import Any

import pytest
import torch
from pydantic import ValidationError

from orchestrator import Experiment, run
from orchestrator.planning.building import make_plan
from orchestrator.planning.context import shared_context
from orchestrator.planning.facts import gather
from orchestrator.planning.plan import Plan, Stage
from orchestrator.running.cluster import reserved, taken
from orchestrator.running.connection import check_fits
from orchestrator.running.progress import NoProgress
from orchestrator.running.tasks import execute
from orchestrator.settings.resources import TrainingTaskConfig
from orchestrator.storage.store import Store
from orchestrator.worker.work import Work
from reports import load
from tests.conftest import TINY
from workloads.networks import checkpoints

NETS = """
import os, signal, torch
import torch.distributed as dist

class Net(torch.nn.Sequential):
    def forward(self, x):
        if self.training and dist.is_initialized() and dist.get_rank() == 1:
            self.step()
        return super().forward(x)

class Dying(Net):
    def step(self):
        with open({steps!r}, "a") as file:
            file.write(".")
        if os.path.getsize({steps!r}) == 6:
            os.kill(os.getpid(), signal.SIGKILL)

class Failing(Net):
    def step(self):
        raise RuntimeError("the second worker does not like this image")

def dying(*, in_channels, num_classes, kind=Dying):
    nn = torch.nn
    layers = [nn.Conv2d(in_channels, 8, 3, stride=2), nn.BatchNorm2d(8), nn.ReLU(), nn.AdaptiveAvgPool2d(4)]
    return kind(*layers, nn.Flatten(), nn.Linear(128, num_classes))

def failing(*, in_channels, num_classes):
    return dying(in_channels=in_channels, num_classes=num_classes, kind=Failing)
"""


@pytest.mark.slow
def test_two_workers_make_the_network_that_one_makes_although_one_dies_and_a_failing_one_says_why(
    local_ray: None, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """One network is trained through the death of a worker; of another, the second worker alone fails."""
    (tmp_path / "shared_nets.py").write_text(NETS.format(steps=str(tmp_path / "steps")))
    monkeypatch.syspath_prepend(str(tmp_path))
    settings = {
        **TINY,
        "models": [{"name": f"shared_nets:{name}"} for name in ("dying", "failing")],
        "training": {**TINY["training"], "epochs": 2, "precision": "float32"},
        "pruning": {"groups": [0], "sparsities": [0.5], "methods": ["conventional"]},
        "resources": {"snapshot_every": 1, "train": {"workers": 2}},
    }
    del settings["model"]
    experiment = Experiment.model_validate(settings)
    result = run(experiment, out=tmp_path / "run", progress=NoProgress())
    (error,) = result.failed.values()
    assert error == "RuntimeError: the second worker does not like this image"
    assert load(tmp_path / "run", "failures")["traceback"].str.contains("in step").all()
    # 4 steps an epoch: 6 in the first life; the second epoch again, and none of the first, in the second.
    assert (tmp_path / "steps").read_text() == "." * 10
    timings = load(tmp_path / "run", "timings").set_index("kind")
    assert timings["workers"].to_dict() == {"train": 2, "compress": 1}

    facts, store = gather(experiment), Store(tmp_path / "alone")
    stage = next(stage for stage in make_plan(experiment, facts).stages.values() if "dying" in stage.labels["model"])
    work = Work(stage.kind, stage.key, stage.parameters, stage.inputs, stage.labels, keep=True, record=True)
    assert [outcome.error for outcome in execute([work], shared_context(experiment, facts, store))] == [None]
    shared, alone = (state_of(Store(tmp_path / name), stage.key) for name in ("run", "alone"))
    for name, tensor in alone.items():
        torch.testing.assert_close(shared[name], tensor, atol=1e-4, rtol=1e-4)


def state_of(store: Store, key: str) -> dict[str, torch.Tensor]:
    """The weights that a stage left."""
    return checkpoints.loads(*store.read_network(key))[0].state_dict()


@pytest.mark.parametrize(
    ("settings", "gpus", "expected"),
    [
        ({}, 0.0, (1, {"CPU": 1, "GPU": 0.0, "memory": 0})),
        ({}, 1.0, (1, {"CPU": 1, "GPU": 1.0, "memory": 0})),
        ({"gpus": 0.5}, 1.0, (1, {"CPU": 1, "GPU": 0.5, "memory": 0})),
        ({"gpus": 4}, 1.0, (4, {"CPU": 1.0, "GPU": 1.0, "memory": 0})),
        ({"gpus": 4, "cpus": 16, "memory": 2}, 1.0, (4, {"CPU": 4.0, "GPU": 1.0, "memory": 2**29})),
        ({"workers": 2}, 0.0, (2, {"CPU": 1.0, "GPU": 0.0, "memory": 0})),
        ({"workers": 2}, 1.0, (2, {"CPU": 1.0, "GPU": 1.0, "memory": 0})),
        ({"workers": 2, "gpus": 0, "cpus": 4}, 1.0, (2, {"CPU": 2.0, "GPU": 0.0, "memory": 0})),
    ],
)
def test_what_a_training_reserves_is_divided_among_its_workers(
    settings: dict[str, Any], gpus: float, expected: tuple[int, dict[str, float]]
) -> None:
    task = TrainingTaskConfig(**settings)
    assert (task.processes, reserved(task, gpus)) == expected


@pytest.mark.parametrize(
    ("settings", "text"),
    [
        ({"gpus": 4}, "'resources.train.gpus' is 4, but this machine has 0 GPUs"),
        ({"workers": 4}, "'resources.train.workers' is 4, but this machine has 2 CPUs"),
        ({"cpus": 4, "workers": 2}, "'resources.train.cpus' is 4, but this machine has 2 CPUs"),
        ({"memory": 9, "workers": 2}, "'resources.train.memory' is 9, but this machine has 8 GiB for tasks"),
    ],
)
def test_what_this_machine_does_not_have_is_refused_by_the_setting_that_asks_for_it(
    settings: dict[str, Any], text: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("ray.cluster_resources", lambda: {"CPU": 2.0, "memory": 8 * 2.0**30})
    plan = Plan({"key": Stage("train", {}, (), {}, 1.0)})
    check_fits(Experiment.model_validate({**TINY, "resources": {"train": {"workers": 2}}}), plan)
    with pytest.raises(ValueError, match=text):
        check_fits(Experiment.model_validate({**TINY, "resources": {"train": settings}}), plan)


@pytest.mark.parametrize(
    ("nodes", "enough"), [([2, 2], True), ([3, 1], True), ([4], True), ([1, 1, 1], False), ([0.5] * 9, False)]
)
def test_workers_have_room_where_the_nodes_hold_all_of_them(nodes: Sequence[float], enough: bool) -> None:
    free = [{"CPU": 8.0, "GPU": float(gpus)} for gpus in nodes]
    before = [dict(node) for node in free]
    assert taken(free, {"CPU": 1.0, "GPU": 1.0}, 4) == enough
    assert sum(node["GPU"] for node in before) - sum(node["GPU"] for node in free) == 4 * enough


@pytest.mark.parametrize(
    ("settings", "text"),
    [
        ({"resources": {"train": {"gpus": 1.5}}}, "a training takes a share of one GPU, or a whole number of them"),
        ({"resources": {"train": {"gpus": 2, "workers": 4}}}, "each worker has a GPU of its own"),
        ({"resources": {"compress": {"workers": 2}}}, "workers"),
        ({"resources": {"train": {"gpus": 64}}}, "training.batch_size is 50, fewer images than the 64 workers"),
        (
            {
                "fine_tuning": {**TINY["fine_tuning"], "objective": "distillation", "features": 1.0},
                "resources": {"fine_tune": {"workers": 2}},
            },
            "fine_tuning.features compares all images of a batch",
        ),
    ],
)
def test_workers_that_cannot_share_a_training_are_refused(settings: dict[str, Any], text: str) -> None:
    with pytest.raises(ValidationError, match=text):
        Experiment.model_validate({**TINY, **settings})
