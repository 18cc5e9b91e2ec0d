"""Training the networks of stages: from the snapshot on that a lost worker left, with an epoch a row."""

import contextlib
from collections.abc import Iterator
from typing import Any

import torch
from torch import nn

from orchestrator.storage.store import Store
from orchestrator.worker.hardware import device, training_device
from orchestrator.worker.kind import Lesson, Made
from orchestrator.worker.meeting import joined
from orchestrator.worker.rows import epoch_row, evaluation_row
from orchestrator.worker.task import Task
from orchestrator.worker.training_progress import TrainingProgress
from orchestrator.worker.work import Work
from workloads.measuring.evaluation import evaluate
from workloads.measuring.precision import resolved
from workloads.networks.checkpoints import Description
from workloads.training import train
from workloads.training.objectives import Distillation
from workloads.training.parallel import Rank
from workloads.training.snapshots import Epoch, Snapshot


def snapshot_place(key: str) -> tuple[str, str]:
    """Where the snapshot of a stage's training lies in the store."""
    return "snapshots", f"{key}.safetensors"


def learn(task: Task, work: Work, lesson: Lesson) -> list[Epoch]:
    """Train the network of a lesson in place; its epochs.

    Every few epochs it leaves a snapshot in the run, and one of its last epoch where it is interrupted. Where several
    processes train the network together, the first one does.
    """
    alone = task.context.member is None
    with joined(task.context.member) as rank, moved(lesson, training_device() if alone else device()):
        if rank.leads:
            return leading(task, work, lesson, rank)
        return trained_with(task, lesson, rank)


@contextlib.contextmanager
def moved(lesson: Lesson, where: torch.device) -> Iterator[None]:
    """Have the networks of a lesson on a device for the length of a block, and then back where the stage goes on."""
    if where == device():
        yield
        return
    teachers = lesson.objective.teachers if isinstance(lesson.objective, Distillation) else ()
    networks = [lesson.model, *teachers]
    for network in networks:
        network.to(where)
    try:
        yield
    finally:
        for network in networks:
            network.to(device())


def trained_with(task: Task, lesson: Lesson, rank: Rank, **further: Any) -> list[Epoch]:
    """The epochs of a lesson, as one of those that train together; `further` goes to `train`."""
    return train(
        lesson.model,
        task.dataset,
        lesson.config,
        seed=lesson.seed,
        indices=lesson.pool,
        augmentation=task.augmentation,
        objective=lesson.objective,
        rank=rank,
        **further,
    )


def leading(task: Task, work: Work, lesson: Lesson, rank: Rank) -> list[Epoch]:
    """The same by the one that takes snapshots, goes on from them, and says how far it is."""
    store, place = Store(task.context.store), snapshot_place(work.key)
    progress = TrainingProgress(store, work.key, lesson.config.epochs)
    start = None
    with contextlib.suppress(FileNotFoundError, ValueError):
        start = Snapshot.loads(store.read(*place))
    every, latest = task.context.snapshot_every, start

    def keep(snapshot: Snapshot) -> None:
        nonlocal latest
        latest = snapshot
        if len(snapshot.history) % every == 0:
            store.write(snapshot.dumps(), *place)

    try:
        return trained_with(
            task, lesson, rank, start=start, snapshot_every=min(every, 1), on_snapshot=keep, on_epoch=progress
        )
    except KeyboardInterrupt:
        if latest is not start and latest is not None:
            store.write(latest.dumps(), *place)
        raise
    finally:
        progress.forget()


def trained(task: Task, work: Work, model: nn.Module, description: Description, history: list[Epoch]) -> Made:
    """A network and the rows of its training, which measured it after the last epoch."""
    precision = resolved(work.parameters["training"].get("precision", "auto"), training_device())
    test = history[-1].test if history else evaluate(model, task.dataset)
    assert test is not None
    store = Store(task.context.store)
    row = evaluation_row(store, model, description, task.dataset, test, len(history), "float32", work.labels)
    epochs: list[dict[str, Any]] = [epoch_row(epoch, precision) | {"final": False} for epoch in history]
    return Made((model, description), {"evaluations": [row], "epochs": epochs})
