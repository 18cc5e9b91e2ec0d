"""Kinds of stages: each is one file, and trainings that are compared start alike."""

import dataclasses
from pathlib import Path
from typing import Any

import pytest
import torch

from orchestrator import Experiment, stages
from orchestrator.planning.building import make_plan
from orchestrator.planning.context import shared_context
from orchestrator.planning.facts import gather
from orchestrator.planning.plan import Stage
from orchestrator.settings.resources import ResourcesConfig
from orchestrator.stages import kinds
from orchestrator.storage.schema import SCHEMAS
from orchestrator.storage.store import Store
from orchestrator.worker.task import Task
from orchestrator.worker.work import Work
from tests.conftest import TINY
from workloads.data.samples import Dataset, Samples
from workloads.measuring.evaluation import mac_count
from workloads.networks.models import build
from workloads.structure.network import Network

NEW_KIND = '''"""Counts the parameters of a network."""

from orchestrator.worker.kind import SHARE_OF_GPU, Kind, Made

KIND = Kind(code_version=1, make=lambda task, work: Made(None, {}), gpus=SHARE_OF_GPU, tables=())
'''


def test_a_module_among_the_stages_is_a_kind(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    (tmp_path / "count_parameters.py").write_text(NEW_KIND)
    monkeypatch.setattr(stages, "__path__", [*stages.__path__, str(tmp_path)])
    kinds.cache_clear()
    try:
        assert kinds()["count-parameters"].code_version == 1
        assert len(Stage("count-parameters", {}, (), {}, 1.0).key) == 20
    finally:
        kinds.cache_clear()


def test_every_kind_has_resources_and_known_tables() -> None:
    for name, kind in kinds().items():
        assert name.replace("-", "_") in ResourcesConfig.model_fields
        assert kind.tables
        assert set(kind.tables) <= SCHEMAS.keys()


def first_weights(folder: Path, **changes: object) -> dict[str, torch.Tensor]:
    """The initial weights of each training of an experiment, by its training data, side by side."""
    training = {"epochs": 0, **changes.pop("training", {})}  # type: ignore[dict-item]
    grid = {"groups": [0], "sparsities": [0.5], "methods": ["conventional"]}
    experiment = Experiment.model_validate(TINY | {"training": training, "pruning": grid} | changes)
    facts = gather(experiment)
    context = shared_context(experiment, facts, Store(folder))
    found = {}
    for s in make_plan(experiment, facts).stages.values():
        if s.kind == "train":
            work = Work(s.kind, s.key, s.parameters, s.inputs, s.labels, keep=True, record=True)
            network = kinds()["train"].make(Task(context), work).network
            assert network
            found[s.labels["training_data"]] = torch.cat([p.detach().flatten() for p in network[0].parameters()])
    return found


def test_trainings_that_are_compared_start_from_equal_weights(tmp_path: Path) -> None:
    usual = first_weights(tmp_path)["whole"]
    fewer_images = TINY["dataset"] | {"train_samples": 100}
    for changes in (
        {"training": {"learning_rate": 0.3}},
        {"dataset": fewer_images},
        {"measuring": {"precision": "bfloat16"}},
    ):
        assert torch.equal(first_weights(tmp_path, **changes)["whole"], usual)
    assert not torch.equal(first_weights(tmp_path, seeds=[1])["whole"], usual)


def test_split_models_start_from_weights_of_their_own(tmp_path: Path) -> None:
    weights = first_weights(tmp_path, pipelines=["whole-data", "fap"])
    assert weights.keys() == {"whole", "subset-1", "subset-2"}
    assert len({tuple(each.tolist()) for each in weights.values()}) == 3


def test_each_step_of_iterative_pruning_learns_in_an_order_of_its_own(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    grid = {"mode": "fine-tuned", "groups": [0], "sparsities": [0.5], "methods": ["conventional"], "steps": 2}
    settings = TINY | {"pruning": grid, "fine_tuning": {"epochs": 1, "step_epochs": 1}}
    experiment = Experiment.model_validate(settings)
    facts = gather(experiment)
    store = Store(tmp_path)
    context = shared_context(experiment, facts, store)
    seeds: list[int] = []

    def noted(task, work, lesson):
        seeds.append(lesson.seed)
        return []

    monkeypatch.setattr("orchestrator.stages.train.learn", noted)
    monkeypatch.setattr("orchestrator.stages.fine_tune.learn", noted)
    from orchestrator.running.tasks import execute

    for s in make_plan(experiment, facts).stages.values():
        work = Work(s.kind, s.key, s.parameters, s.inputs, s.labels, keep=True, record=True)
        (outcome,) = execute([work], dataclasses.replace(context))
        assert outcome.error is None
    assert len(seeds) == len(set(seeds)) == 4


def compressed(
    folder: Path,
    monkeypatch: pytest.MonkeyPatch,
    criterion: object,
    repair: object,
    grid: dict | None = None,
    **dataset: object,
) -> tuple[Task, dict]:
    """The task and the columns of a compression; the network that it starts from is not trained."""
    pruning = {"groups": "all", "sparsities": [0.5], "criteria": [criterion], "methods": ["conventional"]}
    changes = {"pruning": {**pruning, "repair": repair, **(grid or {})}, "dataset": TINY["dataset"] | dataset}
    experiment = Experiment.model_validate(TINY | changes)
    facts = gather(experiment)
    context = shared_context(experiment, facts, Store(folder))
    works = {
        s.kind: Work(s.kind, s.key, s.parameters, s.inputs, s.labels, keep=True, record=True)
        for s in make_plan(experiment, facts).stages.values()
    }
    task = Task(context)
    start = task.dataset.shape
    network = build(experiment.models[0], channels=start[0], classes=len(task.dataset.classes)).eval()
    base = Network.prepared(network, torch.zeros(1, *start)), task.describe(network, experiment.models[0])
    monkeypatch.setattr(Task, "merged", lambda self, key: base)
    return task, dict(kinds()["compress"].make(task, works["compress"]).columns)


@pytest.mark.parametrize(
    ("criterion", "repair", "images", "calibration"),
    [
        ("l1", "none", 0, "none"),
        ("l1", "data", 200, "200 of the 200 images of train"),
        ("l1", {"name": "least-squares", "images": 20}, 20, "20 of the 200 images of train"),
        (
            {"name": "elimination", "images": 30},
            {"name": "least-squares", "images": 20},
            30,
            "30 of the 200 images of train",
        ),
        (
            {"name": "elimination", "images": "synthetic", "count": 16},
            {"name": "least-squares", "images": "synthetic", "count": 16},
            0,
            "16 made-up images (dead-leaves)",
        ),
    ],
)
def test_results_say_which_images_a_compression_has_looked_at(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, criterion: object, repair: object, images: int, calibration: str
) -> None:
    _, columns = compressed(tmp_path, monkeypatch, criterion, repair)
    assert columns == {"training_images": images, "calibration": calibration}


@pytest.mark.parametrize("of", ["weights", "macs", "latency"])
def test_what_is_reached_stands_in_the_row(tmp_path: Path, monkeypatch: pytest.MonkeyPatch, of: str) -> None:
    monkeypatch.setattr(Task, "milliseconds", lambda self, model, description: mac_count(model, self.dataset.shape))
    _, columns = compressed(tmp_path, monkeypatch, "l1", "none", {"sparsity_of": of})
    assert columns["reached_sparsity"] == pytest.approx(0.5, abs=0.06)


def test_calibration_images_are_of_the_training_set_and_never_of_what_is_measured_on(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    drawn: list[tuple[str, torch.Tensor]] = []
    batches = Dataset.batches

    def recorded(self: Dataset, part: str, size: int, device: object, indices: torch.Tensor) -> object:
        drawn.append((part, indices))
        return batches(self, part, size, device, indices)  # type: ignore[arg-type]

    monkeypatch.setattr(Dataset, "batches", recorded)
    repair = {"name": "least-squares", "images": 20}
    held_out = {"held_out": 0.2, "train_samples": 150}
    task, columns = compressed(tmp_path, monkeypatch, {"name": "elimination", "images": 40}, repair, **held_out)
    assert columns["calibration"] == "40 of the 150 images of train, less the held-out 0.2"
    assert {part for part, _ in drawn} == {"train"}
    shown = torch.cat([indices for _, indices in drawn])
    assert set(shown.tolist()) <= set(task.dataset.train_pool.tolist())
    assert not set(shown.tolist()) & set(task.dataset.test_pool.tolist())
    by_size = sorted((indices for _, indices in drawn), key=len)
    assert torch.equal(by_size[0], by_size[-1][: len(by_size[0])])


def test_a_run_on_made_up_images_loads_none_of_the_training_set(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def refuse(*args: object, **kwargs: object) -> None:
        raise AssertionError("an image was loaded")

    monkeypatch.setattr(Samples, "batches", refuse)
    monkeypatch.setattr(Samples, "nearest", refuse)
    synthetic = {"images": "synthetic", "count": 16}
    compressed(
        tmp_path,
        monkeypatch,
        {"name": "elimination", **synthetic},
        {"name": "least-squares", **synthetic},
    )


def test_a_distillation_learns_the_calibration_images_and_its_row_says_so(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    grid = {"mode": "fine-tuned", "steps": 1, "groups": "all", "sparsities": [0.5], "methods": ["conventional"]}
    tuning = {"objective": "distillation", "labels": 0.25, "images": 20, "epochs": 1, "step_epochs": 0}
    experiment = Experiment.model_validate(TINY | {"pruning": grid, "fine_tuning": tuning, "seeds": [7]})
    facts = gather(experiment)
    task = Task(shared_context(experiment, facts, Store(tmp_path)))
    stage = next(s for s in make_plan(experiment, facts).stages.values() if s.kind == "fine-tune")
    work = Work(stage.kind, stage.key, stage.parameters, stage.inputs, stage.labels, keep=True, record=True)
    start = task.dataset.shape
    network = build(experiment.models[0], channels=start[0], classes=len(task.dataset.classes)).eval()
    monkeypatch.setattr(Task, "network", lambda self, key: (network, task.describe(network, experiment.models[0])))
    learnt: list[torch.Tensor] = []
    batches = Dataset.batches

    def seen(self: Dataset, split: str, *args: Any) -> object:
        if split == "train":
            learnt.append(args[2])
        return batches(self, split, *args)

    monkeypatch.setattr(Dataset, "batches", seen)
    row = kinds()["fine-tune"].make(task, work).rows["evaluations"][0]
    assert row["objective"] == "distillation(labels=0.25)"
    assert (row["training_images"], row["calibration"]) == (20, "20 of the 200 images of train")
    passes = learnt.copy()
    task.calibration_images(work, 20)
    assert [set(each.tolist()) for each in passes] == [set(learnt[-1].tolist())] * len(passes)
    assert len(passes) == 2  # twice the epochs, as there are no other points to train at
