"""Trains a model from scratch, on all training images or on one part of them."""

from dataclasses import replace

from orchestrator.worker.hardware import device
from orchestrator.worker.kind import WHOLE_GPU, Kind, Lesson, Made
from orchestrator.worker.learning import learn, trained
from orchestrator.worker.rows import split_rows
from orchestrator.worker.task import Task, without_code
from orchestrator.worker.work import Work, seed_of
from workloads.config import ModelConfig, SplitsConfig, TrainingConfig
from workloads.data.splits import Part, samples_of, subsets
from workloads.networks.models import build


def lesson(task: Task, work: Work) -> Lesson:
    """The model with its initial weights, and the images that it sees."""
    settings = work.parameters
    config = ModelConfig(**without_code(settings["model"]))
    classes = len(task.dataset.classes)
    # Split models start from weights of their own: those of equal ones would be aligned before any fusion.
    which = settings["seed"], settings.get("subset")
    weights_seed = seed_of("weights", config.model_dump(mode="json", exclude_defaults=True, exclude={"label"}), *which)
    model = build(config, channels=task.dataset.shape[0], classes=classes, seed=weights_seed)
    model.to(device())
    pool = task.dataset.train_pool
    if "splits" in settings:
        pool = pool[samples_of(parts_of(task, work))]
    return Lesson(model, TrainingConfig(**settings["training"]), pool, seed_of("order", *which))


def parts_of(task: Task, work: Work) -> list[Part]:
    """The stretches of the training set that it sees; none where it sees all of it."""
    settings = work.parameters
    if "splits" not in settings:
        return []
    labels = task.dataset.train.labels[task.dataset.train_pool]
    return subsets(labels, SplitsConfig(**settings["splits"]), settings["seed"])[settings["subset"]]


def make(task: Task, work: Work) -> Made:
    """The model, with a row an epoch, and one a stretch of the training set where it saw a part."""
    learnt = lesson(task, work)
    history = learn(task, work, learnt)
    config = ModelConfig(**without_code(work.parameters["model"]))
    description = replace(task.describe(learnt.model, config), trainings=1)
    made = trained(task, work, learnt.model, description, history)
    labels = task.dataset.train.labels[task.dataset.train_pool]
    made.rows["splits"] = split_rows(parts_of(task, work), labels, len(task.dataset.classes))
    return made


KIND = Kind(
    code_version=4,
    make=make,
    gpus=WHOLE_GPU,
    tables=("evaluations", "epochs", "splits"),
    lesson=lesson,
    reads=("dataset", "model", "training"),
)
