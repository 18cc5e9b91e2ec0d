"""Fuses several networks into one."""

from dataclasses import replace

from orchestrator.worker.kind import SHARE_OF_GPU, Kind, Made
from orchestrator.worker.task import Task, without_code
from orchestrator.worker.work import Work
from workloads.config import FusionConfig
from workloads.fusion import fuse
from workloads.fusion.fuse import by_width
from workloads.measuring.evaluation import accuracy


def make(task: Task, work: Work) -> Made:
    """The fused network, in the shape of its anchor."""
    settings = dict(work.parameters["fusion"])
    settings |= {part: without_code(settings[part]) for part in ("criterion", "method") if part in settings}
    config = FusionConfig(**settings)
    networks, descriptions = zip(*(task.merged(key) for key in work.inputs), strict=True)
    batches = task.training_batches(work, 1, config.samples)
    accuracies = [accuracy(network.model, batches) for network in networks]
    images = [images for images, _ in batches]
    sources = replace(task.sources(work), images=images)
    fused = fuse(networks, images=images, config=config, accuracies=accuracies, sources=sources)
    anchor = by_width([network.structure for network in networks], accuracies)[0]
    return Made((fused, replace(descriptions[anchor], places={})))


KIND = Kind(code_version=4, make=make, gpus=SHARE_OF_GPU, tables=("evaluations",), reads=("measuring",))
