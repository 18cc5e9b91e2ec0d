"""Training and fine-tuning by stochastic gradient descent."""

import math
import time
from collections.abc import Callable, Iterable
from functools import partial
from itertools import count

import torch
from torch import Tensor, nn

from workloads.config import TrainingConfig
from workloads.data.augmentation import augment
from workloads.data.samples import Dataset
from workloads.measuring.evaluation import evaluate
from workloads.measuring.precision import float32_products, resolved
from workloads.training.objectives import CrossEntropy, Objective
from workloads.training.snapshots import Epoch, Snapshot


def learning_rate(config: TrainingConfig, step: int, steps_per_epoch: int) -> float:
    """The rate of the update number `step` = 0, 1, …."""
    if config.schedule == "halving":
        return config.learning_rate * 0.5 ** (step // steps_per_epoch // config.halve_every)
    if config.schedule == "one-cycle":
        progress = (step + 1) / (config.epochs * steps_per_epoch)
        return config.learning_rate * min(progress / 0.3, max(0.0, (1 - progress) / 0.7))
    return config.learning_rate


def train(
    model: nn.Module,
    dataset: Dataset,
    config: TrainingConfig,
    *,
    seed: int,
    indices: Tensor | None = None,
    augmentation: tuple[str, ...] = ("flip", "crop"),
    objective: Objective | None = None,
    start: Snapshot | None = None,
    snapshot_every: int = 0,
    on_snapshot: Callable[[Snapshot], None] = lambda snapshot: None,
    on_epoch: Callable[[list[Epoch]], None] = lambda history: None,
) -> list[Epoch]:
    """Train a network in place, on the device of its weights.

    A training that goes on from a snapshot ends with the weights of an undisturbed one on the same hardware.

    Args:
        model: any classifier of (B, C, H, W) images.
        dataset: training and test images.
        config: optimiser, schedule, epochs and precision.
        seed: of the order of the images and their augmentation.
        indices: numbers of the training samples to use; None is the whole pool.
        augmentation: names in `workloads.augmentation.AUGMENTATIONS`.
        objective: what it brings down; None is the cross entropy of the labels.
        start: an earlier training of the same network with the same settings, to go on from.
        snapshot_every: epochs between two snapshots; 0 takes none.
        on_snapshot: gets them.
        on_epoch: gets all epochs so far after each.

    Raises:
        ValueError: there are fewer than two images.
        FloatingPointError: the loss became infinite or NaN; names the epoch.
    """
    device = next(model.parameters()).device
    pool = dataset.train_pool if indices is None else indices
    if len(pool) < 2:
        raise ValueError("a training needs at least two images")
    precision = resolved(config.precision, device)
    steps_per_epoch = math.ceil(len(pool) / config.batch_size)
    generator = torch.Generator().manual_seed(seed)
    augmented = partial(augment, names=augmentation, generator=generator)
    with (
        torch.random.fork_rng(devices=[device] if device.type == "cuda" else []),
        float32_products(tf32=precision == "tf32"),
    ):
        torch.manual_seed(seed)  # for layers that draw, such as dropout
        model.to(memory_format=torch.channels_last)
        optimizer = descent(model, config)
        history = start.restore(model, optimizer, generator) if start else []
        for epoch in range(len(history) + 1, config.epochs + 1):
            started = time.perf_counter()
            order = pool[torch.randperm(len(pool), generator=generator)]
            if len(order) % config.batch_size == 1:
                order = order[:-1]  # batch-norm cannot learn from a single image
            batches = dataset.batches("train", config.batch_size, device, order, augmented)
            rates = (learning_rate(config, step, steps_per_epoch) for step in count((epoch - 1) * steps_per_epoch))
            totals = learn(model, optimizer, batches, rates, precision, objective or CrossEntropy())
            train_loss, train_accuracy = (totals / len(order)).tolist()
            if not math.isfinite(train_loss):
                raise FloatingPointError(
                    f"training diverged in epoch {epoch} (loss {train_loss}): "
                    f"lower the learning rate, now {config.learning_rate}"
                )
            seconds = time.perf_counter() - started
            due = epoch % config.evaluate_every == 0 or epoch == config.epochs
            test = evaluate(model, dataset) if due else None
            rate = optimizer.param_groups[0]["lr"]
            history.append(Epoch(epoch, rate, train_loss, 100 * train_accuracy, test, seconds))
            if snapshot_every and epoch % snapshot_every == 0 and epoch < config.epochs:
                on_snapshot(Snapshot.take(model, optimizer, generator, history))
            on_epoch(history)
    model.eval()
    return history


def descent(model: nn.Module, config: TrainingConfig) -> torch.optim.SGD:
    """Stochastic gradient descent with the momentum and decay of the settings."""
    return torch.optim.SGD(
        model.parameters(),
        config.learning_rate,
        config.momentum,
        weight_decay=config.weight_decay,
        nesterov=config.nesterov,
    )


def learn(
    model: nn.Module,
    optimizer: torch.optim.Optimizer,
    batches: Iterable[tuple[Tensor, Tensor]],
    rates: Iterable[float],
    precision: str,
    objective: Objective,
) -> Tensor:
    """One step of the optimizer a batch, at these learning rates.

    Returns:
        (2,) on the device of the network: summed loss, and how many images were classified rightly, both of
        the images as they were learnt.
    """
    device = next(model.parameters()).device
    totals = torch.zeros(2, device=device)
    with objective.learning(model):
        for (images, labels), rate in zip(batches, rates, strict=False):
            optimizer.param_groups[0]["lr"] = rate
            images = images.contiguous(memory_format=torch.channels_last)
            with torch.autocast(device.type, torch.bfloat16, enabled=precision == "bfloat16"):
                logits, loss = objective.loss(model, images, labels)
            optimizer.zero_grad(set_to_none=True)
            loss.backward()
            optimizer.step()
            totals += torch.stack([loss.detach() * len(labels), (logits.argmax(1) == labels).sum()])
    return totals
