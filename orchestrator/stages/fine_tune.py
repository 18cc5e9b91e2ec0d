"""Trains a network for more epochs on all training images."""

from dataclasses import replace

from orchestrator.worker.kind import WHOLE_GPU, Kind, Made
from orchestrator.worker.learning import learn, trained
from orchestrator.worker.task import Task
from orchestrator.worker.work import Work, seed_of
from workloads.config import FineTuningConfig
from workloads.structure.copying import copied


def make(task: Task, work: Work) -> Made:
    """A trained copy of the network, with a row an epoch."""
    model, description = task.network(work.inputs[0])
    model = copied(model)
    config = FineTuningConfig(**work.parameters["training"])
    # The number of trainings before it gives every step of iterative pruning an order of its own.
    seed = seed_of("order", work.parameters["seed"], "fine-tuning", description.trainings)
    history = learn(task, work, model, config, task.dataset.train_pool, seed)
    return trained(task, work, model, replace(description, trainings=description.trainings + 1), history)


KIND = Kind(
    code_version=3, make=make, gpus=WHOLE_GPU, tables=("evaluations", "epochs"), trains=True, reads=("fine_tuning",)
)
