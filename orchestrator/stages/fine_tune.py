"""Trains a network for more epochs, by labels or by what the unpruned network answers."""

from dataclasses import replace

from orchestrator.worker.kind import WHOLE_GPU, Kind, Lesson, Made
from orchestrator.worker.learning import learn, trained
from orchestrator.worker.task import Task
from orchestrator.worker.work import Work, seed_of
from workloads.config import FineTuningConfig
from workloads.structure.copying import copied
from workloads.training.objectives import Distillation


def lesson(task: Task, work: Work) -> Lesson:
    """A copy of the network, the images that it sees, and what it is brought near to."""
    model, description = task.network(work.inputs[0])
    config = FineTuningConfig(**work.parameters["training"])
    # The number of trainings before it gives every step of iterative pruning an order of its own.
    seed = seed_of("order", work.parameters["seed"], "fine-tuning", description.trainings)
    pool = task.first_images(work, config.images)
    objective = None
    if config.objective == "distillation":
        teachers = [task.network(key)[0].eval() for key in work.inputs[1:]]
        objective = Distillation(teachers, config)
    return Lesson(copied(model), config, pool, seed, objective)


def make(task: Task, work: Work) -> Made:
    """A trained copy of the network, with a row an epoch."""
    learnt = lesson(task, work)
    history = learn(task, work, learnt)
    description = task.network(work.inputs[0])[1]
    description = replace(description, trainings=description.trainings + 1)
    made = trained(task, work, learnt.model, description, history)
    config = learnt.config
    assert isinstance(config, FineTuningConfig)
    if config.images is None and learnt.objective is None:
        return made
    task.loaded = len(learnt.pool)
    columns = {
        "training_images": len(learnt.pool),
        "calibration": task.calibration(),
        "objective": config.objective_label,
    }
    rows = [row | columns for row in made.rows["evaluations"]]
    return replace(made, rows={**made.rows, "evaluations": rows})


KIND = Kind(
    code_version=3, make=make, gpus=WHOLE_GPU, tables=("evaluations", "epochs"), lesson=lesson, reads=("fine_tuning",)
)
