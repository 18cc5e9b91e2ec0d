"""Keeps the scores that a criterion gives to the neurons of a group."""

from collections.abc import Hashable

from orchestrator.worker.kind import SHARE_OF_GPU, Kind, Made, StageLike
from orchestrator.worker.task import Task, without_code
from orchestrator.worker.work import Work
from workloads.compression import score
from workloads.config import ChoiceConfig


def make(task: Task, work: Work) -> Made:
    """One row with the scores of all neurons."""
    base, _ = task.merged(work.inputs[0])
    criterion = ChoiceConfig(**without_code(work.parameters["criterion"]))
    _, scores = score(base, work.parameters["group"], criterion, task.sources(work))
    return Made(None, {"importances": [{"scores": scores.tolist()}]})


def shares_task(stage: StageLike) -> Hashable:
    """Stages that look at the same network."""
    return stage.inputs[0]


KIND = Kind(code_version=3, make=make, gpus=SHARE_OF_GPU, tables=("importances",), shares_task=shares_task)
