"""Training the networks of stages: from the snapshot on that a lost worker left, with an epoch a row."""

import contextlib
from typing import Any

from torch import Tensor, nn

from orchestrator.storage.store import Store
from orchestrator.worker.hardware import device
from orchestrator.worker.kind import Made
from orchestrator.worker.rows import epoch_row, evaluation_row
from orchestrator.worker.task import Task
from orchestrator.worker.training_progress import TrainingProgress
from orchestrator.worker.work import Work
from workloads.config import TrainingConfig
from workloads.measuring.evaluation import evaluate
from workloads.measuring.precision import resolved
from workloads.networks.checkpoints import Description
from workloads.training import train
from workloads.training.objectives import Objective
from workloads.training.snapshots import Epoch, Snapshot


def snapshot_place(key: str) -> tuple[str, str]:
    """Where the snapshot of a stage's training lies in the store."""
    return "snapshots", f"{key}.safetensors"


def learn(
    task: Task,
    work: Work,
    model: nn.Module,
    config: TrainingConfig,
    pool: Tensor,
    seed: int,
    objective: Objective | None = None,
) -> list[Epoch]:
    """Train a network in place; its epochs.

    Every few epochs it leaves a snapshot in the run, and one of its last epoch where it is interrupted.

    Args:
        pool: numbers of the training images.
        seed: of their order and augmentation.
        objective: what it brings down; None is the cross entropy of the labels.
    """
    store, place = Store(task.context.store), snapshot_place(work.key)
    progress = TrainingProgress(store, work.key, config.epochs)
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
        return train(
            model,
            task.dataset,
            config,
            seed=seed,
            indices=pool,
            augmentation=task.augmentation,
            objective=objective,
            start=start,
            snapshot_every=min(every, 1),
            on_snapshot=keep,
            on_epoch=progress,
        )
    except KeyboardInterrupt:
        if latest is not start and latest is not None:
            store.write(latest.dumps(), *place)
        raise
    finally:
        progress.forget()


def trained(task: Task, work: Work, model: nn.Module, description: Description, history: list[Epoch]) -> Made:
    """A network and the rows of its training, which measured it after the last epoch."""
    precision = resolved(work.parameters["training"].get("precision", "auto"), device())
    test = history[-1].test if history else evaluate(model, task.dataset)
    assert test is not None
    store = Store(task.context.store)
    row = evaluation_row(store, model, description, task.dataset, test, len(history), "float32", work.labels)
    epochs: list[dict[str, Any]] = [epoch_row(epoch, precision) | {"final": False} for epoch in history]
    return Made((model, description), {"evaluations": [row], "epochs": epochs})
