"""Measuring the networks that stages make, one by one or several together."""

from collections.abc import Sequence
from dataclasses import replace

from orchestrator.storage.store import Store
from orchestrator.worker.kind import Made
from orchestrator.worker.rows import evaluation_row
from orchestrator.worker.task import Task
from orchestrator.worker.work import Work
from workloads.config import MeasuringConfig
from workloads.measuring.evaluation import Measurement, evaluate, evaluate_together


def precision(work: Work) -> str:
    """What the network of a stage is measured in."""
    return MeasuringConfig(**work.parameters.get("measuring", {})).precision


def measured_together(task: Task, made: Sequence[Made], work: Work) -> list[Measurement]:
    """The measurements of networks that were made from the same one; `work` is of one of them."""
    models = [each.network[0] for each in made if each.network]
    return evaluate_together(models, task.dataset, precision=precision(work))


def measured(task: Task, work: Work, made: Made, test: Measurement | None = None) -> Made:
    """The same with the row of its network, which is measured here unless `test` is given; rows that are there stay."""
    if made.network is None or not made.unmeasured:
        return made
    model, description = made.network
    test = test or evaluate(model, task.dataset, precision=precision(work))
    row = evaluation_row(
        Store(task.context.store), model, description, task.dataset, test, 0, precision(work), work.labels
    )
    return replace(made, rows={**made.rows, "evaluations": [{**row, **made.columns}]})
