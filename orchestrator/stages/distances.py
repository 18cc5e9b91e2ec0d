"""Compares the outputs of a network with those of the one that it was pruned from."""

from collections.abc import Hashable

from orchestrator.worker.kind import SHARE_OF_GPU, Kind, Made, StageLike
from orchestrator.worker.rows import distance_row
from orchestrator.worker.task import Task
from orchestrator.worker.work import Work
from workloads.measuring.evaluation import logits


def make(task: Task, work: Work) -> Made:
    """One row with the distance of the logits for every test image."""
    original, pruned = work.inputs
    memory = task.memory.setdefault("logits", {})
    if original not in memory:
        memory[original] = logits(task.network(original)[0], task.dataset)
    row = distance_row(memory[original], logits(task.network(pruned)[0], task.dataset))
    return Made(None, {"output_distances": [row]})


def shares_task(stage: StageLike) -> Hashable:
    """Stages that compare with the same network."""
    return stage.inputs[0]


KIND = Kind(code_version=2, make=make, gpus=SHARE_OF_GPU, tables=("output_distances",), shares_task=shares_task)
