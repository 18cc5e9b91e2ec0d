"""Trains a network for more epochs, by labels or by what the unpruned network answers."""

from dataclasses import replace

from orchestrator.worker.kind import WHOLE_GPU, Kind, Made
from orchestrator.worker.learning import learn, trained
from orchestrator.worker.task import Task
from orchestrator.worker.work import Work, seed_of
from workloads.config import FineTuningConfig
from workloads.structure.copying import copied
from workloads.training.objectives import Distillation


def make(task: Task, work: Work) -> Made:
    """A trained copy of the network, with a row an epoch."""
    model, description = task.network(work.inputs[0])
    model = copied(model)
    config = FineTuningConfig(**work.parameters["training"])
    # The number of trainings before it gives every step of iterative pruning an order of its own.
    seed = seed_of("order", work.parameters["seed"], "fine-tuning", description.trainings)
    pool = task.first_images(work, config.images)
    objective = None
    if config.objective == "distillation":
        teachers = [task.network(key)[0].eval() for key in work.inputs[1:]]
        objective = Distillation(teachers, config)
    history = learn(task, work, model, config, pool, seed, objective)
    made = trained(task, work, model, replace(description, trainings=description.trainings + 1), history)
    if config.images is None and objective is None:
        return made
    task.loaded = len(pool)
    columns = {"training_images": len(pool), "calibration": task.calibration(), "objective": config.objective_label}
    rows = [row | columns for row in made.rows["evaluations"]]
    return replace(made, rows={**made.rows, "evaluations": rows})


KIND = Kind(
    code_version=3, make=make, gpus=WHOLE_GPU, tables=("evaluations", "epochs"), trains=True, reads=("fine_tuning",)
)
