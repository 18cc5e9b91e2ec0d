"""Stages that compute different things differ in their coordinates or in the column `settings`."""

import copy
import json
from typing import Any

import pytest

from orchestrator import Experiment
from orchestrator.planning.building import make_plan
from orchestrator.planning.facts import Facts, ModelFacts
from orchestrator.planning.plan import Plan
from orchestrator.storage.schema import COORDINATES
from workloads.config import (
    BarrierConfig,
    Config,
    DatasetConfig,
    FineTuningConfig,
    LandscapeConfig,
    MeasuringConfig,
    ModelConfig,
    TrainingConfig,
)

TRAINED: dict[str, Any] = {
    "name": "e",
    "dataset": {"name": "digits", "size": 32},
    "model": {"name": "net"},
    "training": {"epochs": 8, "batch_size": 50},
    "pipelines": ["whole-data", "fap", "paf", "fuse"],
    "barrier": {"points": 5},
    "pruning": [
        {
            "groups": [0],
            "sparsities": [0.25, 0.5],
            "criteria": ["mine:score"],
            "importances": True,
            "output_distances": True,
            "landscape": {"size": 3},
        },
        {"mode": "fine-tuned", "groups": "all", "sparsities": [0.5], "steps": 2, "output_distances": True},
    ],
    "fine_tuning": {"epochs": 8, "step_epochs": 6, "objective": "distillation"},
}
GIVEN = {
    **TRAINED,
    "barrier": None,
    "pipelines": ["whole-data"],
    "model": {"name": "net", "checkpoint": "weights.safetensors"},
}
# Another value of every setting that results depend on and that is not a coordinate.
OTHERS = {
    **{
        "dataset.name": "mnist",
        "dataset.size": 64,
        "dataset.resize": 70,
        "dataset.mean": [0.5],
        "dataset.std": [0.5],
        "dataset.augmentation": [],
        "dataset.train_samples": 100,
        "dataset.test_samples": 100,
        "dataset.train": "training",
        "dataset.test": "validation",
        "dataset.held_out": 0.1,
        "dataset.channels": 1,
        "dataset.image_column": "picture",
        "dataset.label_column": "fine_label",
        "dataset.background": "white",
    },
    **{"model.name": "other:net", "model.width": 0.9999999, "model.options": {"a": 1}},
    **{
        f"{part}.{name}": value
        for part in ("training", "fine_tuning")
        for name, value in {
            "epochs": 7,
            "batch_size": 7,
            "learning_rate": 0.7,
            "schedule": "constant",
            "halve_every": 7,
            "momentum": 0.7,
            "nesterov": True,
            "weight_decay": 0.7,
            "precision": "float32",
            "evaluate_every": 7,
            "recipe": "deit",
            "accumulation": 7,
            "optimizer": "NAdam",
            "warmup_epochs": 1,
            "clip_norm": 0.7,
            "ema": 0.7,
            "label_smoothing": 0.7,
            "mixup": 0.7,
            "cutmix": 0.7,
            "augmentation": ["flip", {"name": "erasing", "probability": 0.7}],
        }.items()
    },
    **{
        f"fine_tuning.{name}": value
        for name, value in {
            "step_epochs": 7,
            "images": 7,
            "objective": "labels",
            "temperature": 7.0,
            "labels": 0.7,
            "features": 0.7,
        }.items()
    },
    "measuring.precision": "bfloat16",
    "pruning.steps": 3,
    "pruning.landscape.size": 4,
    "pruning.landscape.margin": 0.5,
    "pruning.landscape.samples": 9,
    "barrier.points": 4,
    "barrier.samples": 9,
}
IN_NO_KEY = {f"dataset.{name}" for name in ("root", "stream", "label", "revision", "configuration")} | {
    f"model.{name}" for name in ("checkpoint", "checkpoints", "label")
}
KNOWN_BY_DIGEST = {"model.pretrained", "model.weights"}


def planned(settings: dict[str, Any], **facts: Any) -> Plan:
    experiment = Experiment.model_validate(settings)
    (model,) = experiment.models
    digest = "weights" if model.checkpoint else None
    given = {
        "train": 500,
        "test": 100,
        "fingerprint": "f",
        "models": {model.name_in_results: ModelFacts((8, 8), 1000, digest, 1e-3)},
        "code": {"mine:score": "c"},
    }
    return make_plan(experiment, Facts(**{**given, **facts}))


def changed(settings: dict[str, Any], path: str, value: object) -> dict[str, Any]:
    other = copy.deepcopy(settings)
    first, *middle, last = path.split(".")
    place = other[first] if first != "pruning" else other[first][0 if middle else 1]
    other.setdefault(first, {})
    place = other[first] if place is None else place
    for name in middle:
        place = place[name]
    place[last] = value
    return other


def named(plan: Plan) -> dict[tuple[Any, ...], set[str]]:
    """Keys by all columns that are told of a stage; rows of one plane share them."""
    names = [column.name for column in COORDINATES if column.name not in ("experiment", "cell", "final")]
    found: dict[tuple[Any, ...], set[str]] = {}
    for stage in plan.stages.values():
        place = (stage.kind, stage.parameters.get("row"), *(stage.labels.get(name) for name in names))
        found.setdefault(place, set()).add(stage.key)
    return found


def assert_told_apart(one: Plan, other: Plan) -> None:
    assert one.stages.keys() != other.stages.keys(), "the setting changes nothing"
    first, second = named(one), named(other)
    mixed = {place: (first[place], second[place]) for place in first.keys() & second.keys()}
    assert {place for place, (ours, theirs) in mixed.items() if len(ours | theirs) > 1} == set()


CASES = [
    (name, path)
    for name in ("trained", "given")
    for path in OTHERS
    if name == "trained" or not path.startswith(("training", "barrier"))
]


@pytest.mark.parametrize(("name", "path"), CASES)
def test_a_changed_setting_shows_in_the_rows_that_depend_on_it(name: str, path: str) -> None:
    settings = {**(TRAINED if name == "trained" else GIVEN), "measuring": {}}
    one, other = planned(settings), planned(changed(settings, path, OTHERS[path]))
    assert_told_apart(one, other)


@pytest.mark.parametrize("facts", [{"fingerprint": "g"}, {"code": {"mine:score": "d"}}, {"code": {"net": "d"}}])
def test_changed_files_and_code_show_too(facts: dict[str, Any]) -> None:
    assert_told_apart(planned(TRAINED), planned(TRAINED, **facts))


def test_grids_of_one_experiment_are_told_apart() -> None:
    tuned = TRAINED["pruning"][1]
    for grids in ([tuned, {**tuned, "steps": 4}], TRAINED["pruning"]):
        assert {len(keys) for keys in named(planned({**TRAINED, "pruning": grids})).values()} == {1}


def test_every_setting_is_tried() -> None:
    sections: dict[str, type[Config]] = {
        "dataset": DatasetConfig,
        "model": ModelConfig,
        "training": TrainingConfig,
        "fine_tuning": FineTuningConfig,
        "measuring": MeasuringConfig,
        "pruning.landscape": LandscapeConfig,
        "barrier": BarrierConfig,
    }
    fields = {f"{part}.{name}" for part, config in sections.items() for name in config.model_fields}
    assert fields - IN_NO_KEY - KNOWN_BY_DIGEST == set(OTHERS) - {"pruning.steps"}


def test_settings_are_json_by_their_path_in_the_experiment() -> None:
    ends = [stage for stage in planned(TRAINED).stages.values() if stage.labels["final"]]
    tuned = [json.loads(stage.labels["settings"]) for stage in ends if stage.labels["stage"] == "fine-tuned"]
    assert {(each["pruning.steps"], each["fine_tuning.epochs"], each["training.epochs"]) for each in tuned} == {
        (2, 8, 8)
    }
    pruned = [json.loads(stage.labels["settings"]) for stage in ends if stage.labels["stage"] == "pruned"]
    assert all("pruning.steps" not in each and each["criterion.code"] == "c" for each in pruned)
