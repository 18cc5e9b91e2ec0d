"""Fuses several networks into one."""

from dataclasses import replace

from orchestrator.worker.kind import SHARE_OF_GPU, Kind, Made
from orchestrator.worker.task import Task
from orchestrator.worker.work import Work
from workloads.config import FusionConfig
from workloads.fusion import fuse
from workloads.measuring.evaluation import accuracy


def make(task: Task, work: Work) -> Made:
    """The fused network, in the shape of its anchor."""
    config = FusionConfig(**work.parameters["fusion"])
    parents = [task.merged(key) for key in work.inputs]
    batches = task.training_batches(work, 1, config.samples)
    models = [network.model for network, _ in parents]
    accuracies = [accuracy(model, batches) for model in models]
    images = [images for images, _ in batches]
    fused = fuse(models, [network.structure for network, _ in parents], images, config, accuracies)
    return Made((fused, replace(parents[0][1], places={})))


KIND = Kind(code_version=4, make=make, gpus=SHARE_OF_GPU, tables=("evaluations",))
