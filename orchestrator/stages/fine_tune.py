"""Trains a network for more epochs on all training images."""

import copy

from orchestrator.worker.kind import WHOLE_GPU, Kind, Made
from orchestrator.worker.learning import learn, trained
from orchestrator.worker.task import Task
from orchestrator.worker.work import Work
from workloads.config import FineTuningConfig


def make(task: Task, work: Work) -> Made:
    """A trained copy of the network, with a row an epoch."""
    model, description = task.network(work.inputs[0])
    model = copy.deepcopy(model)
    history = learn(task, work, model, FineTuningConfig(**work.parameters["training"]), task.dataset.train_pool)
    return trained(task, work, model, description, history)


KIND = Kind(code_version=2, make=make, gpus=WHOLE_GPU, tables=("evaluations", "epochs"), trains=True)
