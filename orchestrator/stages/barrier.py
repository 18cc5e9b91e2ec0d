"""Measures the straight line between two networks, the one aligned to the other."""

from collections.abc import Hashable

from orchestrator.worker.kind import SHARE_OF_GPU, Kind, Made, StageLike
from orchestrator.worker.measuring import precision
from orchestrator.worker.rows import barrier_rows
from orchestrator.worker.task import Task
from orchestrator.worker.work import Work
from workloads.config import BarrierConfig, FusionConfig
from workloads.fusion import Line


def make(task: Task, work: Work) -> Made:
    """A row of `barriers` for each point."""
    fusion = FusionConfig(**work.parameters["fusion"])
    networks = [task.merged(key)[0] for key in work.inputs]
    images = [images for images, _ in task.training_batches(work, 1, fusion.samples)]
    line = Line(networks, images, fusion)
    config = BarrierConfig(**work.parameters["barrier"])
    return Made(None, {"barriers": barrier_rows(line, config, task.dataset, precision(work))})


def shares_task(stage: StageLike) -> Hashable:
    """Lines between the same networks."""
    return stage.inputs


KIND = Kind(
    code_version=1,
    make=make,
    gpus=SHARE_OF_GPU,
    tables=("barriers",),
    reads=("measuring",),
    shares_task=shares_task,
)
