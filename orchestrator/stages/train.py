"""Trains a model from scratch, on all training images or on one part of them."""

from dataclasses import replace

from orchestrator.worker.hardware import device
from orchestrator.worker.kind import WHOLE_GPU, Kind, Made
from orchestrator.worker.learning import learn, trained
from orchestrator.worker.rows import split_rows
from orchestrator.worker.task import Task, without_code
from orchestrator.worker.work import Work, seed_of
from workloads.config import ModelConfig, SplitsConfig, TrainingConfig
from workloads.data.splits import Part, samples_of, subsets
from workloads.networks.models import build


def make(task: Task, work: Work) -> Made:
    """The model, with a row an epoch, and one a stretch of the training set where it saw a part."""
    settings = work.parameters
    config = ModelConfig(**without_code(settings["model"]))
    classes = len(task.dataset.classes)
    # Split models start from weights of their own: those of equal ones would be aligned before any fusion.
    which = settings["seed"], settings.get("subset")
    weights_seed = seed_of("weights", config.model_dump(mode="json", exclude_defaults=True, exclude={"label"}), *which)
    model = build(config, channels=task.dataset.shape[0], classes=classes, seed=weights_seed)
    model.to(device())
    pool = task.dataset.train_pool
    labels = task.dataset.train.labels[pool]
    parts: list[Part] = []
    if "splits" in settings:
        parts = subsets(labels, SplitsConfig(**settings["splits"]), settings["seed"])[settings["subset"]]
        pool = pool[samples_of(parts)]
    history = learn(task, work, model, TrainingConfig(**settings["training"]), pool, seed_of("order", *which))
    description = replace(task.describe(model, config), trainings=1)
    made = trained(task, work, model, description, history)
    made.rows["splits"] = split_rows(parts, labels, classes)
    return made


KIND = Kind(
    code_version=4,
    make=make,
    gpus=WHOLE_GPU,
    tables=("evaluations", "epochs", "splits"),
    trains=True,
    reads=("dataset", "model", "training"),
)
