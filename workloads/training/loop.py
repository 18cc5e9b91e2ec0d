"""Training and fine-tuning, epoch by epoch."""

import math
import time
from collections.abc import Callable, Iterable, Iterator, Sequence
from dataclasses import dataclass
from itertools import count

import torch
from torch import Tensor, nn
from torch.optim.swa_utils import AveragedModel

from workloads.data.augmentation import Rows, augment
from workloads.data.samples import Dataset
from workloads.measuring.evaluation import evaluate
from workloads.measuring.precision import float32_products, resolved
from workloads.recipes import AugmentationStep, TrainingConfig
from workloads.training.objectives import CrossEntropy, Objective
from workloads.training.optimizers import average_of, learning_rate, optimizer_of
from workloads.training.parallel import ALONE, Rank
from workloads.training.snapshots import Epoch, Snapshot

Mix = Callable[[Tensor, Tensor], tuple[Tensor, Tensor]]


def train(
    model: nn.Module,
    dataset: Dataset,
    config: TrainingConfig,
    *,
    seed: int,
    indices: Tensor | None = None,
    augmentation: Sequence[AugmentationStep] = ("flip", "crop"),
    objective: Objective | None = None,
    start: Snapshot | None = None,
    snapshot_every: int = 0,
    on_snapshot: Callable[[Snapshot], None] = lambda snapshot: None,
    on_epoch: Callable[[list[Epoch]], None] = lambda history: None,
    rank: Rank = ALONE,
) -> list[Epoch]:
    """Train a network in place, on the device of its weights.

    A training that goes on from a snapshot ends with the weights of an undisturbed one on the same hardware.

    Args:
        model: any classifier of (B, C, H, W) images.
        dataset: training and test images.
        config: optimizer, schedule, epochs, augmentation and precision.
        seed: of the order of the images and their augmentation.
        indices: numbers of the training samples to use; None is the whole pool.
        augmentation: what is done to images where `config` does not say.
        objective: what it brings down; None is the cross entropy of the labels, smoothed as `config` says.
        start: an earlier training of the same network with the same settings, to go on from.
        snapshot_every: epochs between two snapshots; 0 takes none.
        on_snapshot: gets them.
        on_epoch: gets all epochs so far after each.
        rank: of this process among those that train the network together, see `parallel.process_group`. All are called
            with the same arguments. The first one alone measures, takes snapshots and calls; `start` is its own.

    Raises:
        ValueError: there are fewer than two images.
        FloatingPointError: the loss became infinite or NaN; names the epoch.
    """
    device = next(model.parameters()).device
    pool = dataset.train_pool if indices is None else indices
    if len(pool) < 2:
        raise ValueError("a training needs at least two images")
    precision = resolved(config.precision, device)
    steps_per_epoch = math.ceil(len(pool) / (config.batch_size * config.accumulation))
    generator = torch.Generator().manual_seed(seed)
    steps = augmentation if config.augmentation is None else config.augmentation
    mixed = None
    if config.mixup or config.cutmix:
        from workloads.data.transforms import mixing  # here, as torchvision takes seconds to load

        mixed = mixing(config, len(dataset.classes))
    with (
        torch.random.fork_rng(devices=[device] if device.type == "cuda" else []),
        float32_products(tf32=precision == "tf32"),
    ):
        torch.manual_seed(seed)  # for layers that draw, such as dropout
        model.to(memory_format=torch.channels_last)
        learner = Learner(
            model,
            optimizer_of(model, config),
            config,
            objective or CrossEntropy(config.label_smoothing),
            mixed,
            average_of(model, config.ema) if config.ema else None,
            precision,
            seed,
            rank,
        )
        state = model, learner.optimizer, generator
        start = rank.shared(start)
        history = start.restore(*state, learner.average) if start else []
        for epoch in range(len(history) + 1, config.epochs + 1):
            started = time.perf_counter()
            rank.draw_alike()
            order = pool[torch.randperm(len(pool), generator=generator)]
            if len(order) % config.batch_size == 1:
                order = order[:-1]  # batch-norm cannot learn from a single image
            rows = rank.rows(len(order), config.batch_size, mixed=mixed is not None)
            batches = augmented_batches(dataset, order, rows, steps, generator, device)
            rates = (learning_rate(config, step, steps_per_epoch) for step in count((epoch - 1) * steps_per_epoch))
            totals = learner.learn(batches, rows, rates, epoch)
            train_loss, train_accuracy = (totals / len(order)).tolist()
            if not math.isfinite(train_loss):
                raise FloatingPointError(
                    f"training diverged in epoch {epoch} (loss {train_loss}): "
                    f"lower the learning rate, now {config.learning_rate}"
                )
            seconds = time.perf_counter() - started
            due = rank.leads and (epoch % config.evaluate_every == 0 or epoch == config.epochs)
            test = evaluate(learner.measured, dataset) if due else None
            rate = learner.optimizer.param_groups[0]["lr"]
            history.append(Epoch(epoch, rate, train_loss, 100 * train_accuracy, test, seconds))
            if not rank.leads:
                continue
            if snapshot_every and epoch % snapshot_every == 0 and epoch < config.epochs:
                on_snapshot(Snapshot.take(*state, history, learner.average))
            on_epoch(history)
        if learner.average is not None and history:
            model.load_state_dict(learner.average.module.state_dict())
    model.eval()
    return history


@dataclass(frozen=True)
class Learner:
    """A network and what changes its weights.

    Attributes:
        mixed: makes images (B, C, H, W) and labels (B,) to mixed ones with shares of labels (B, classes).
        average: of the weights, where one is wanted.
        precision: of the products.
        seed: of what layers draw where several processes learn.
        rank: of this process among these.
    """

    model: nn.Module
    optimizer: torch.optim.Optimizer
    config: TrainingConfig
    objective: Objective
    mixed: Mix | None
    average: AveragedModel | None
    precision: str
    seed: int = 0
    rank: Rank = ALONE

    @property
    def measured(self) -> nn.Module:
        """What the training makes: the average of the weights, where there is one."""
        return self.model if self.average is None else self.average.module

    def learn(
        self, batches: Iterable[tuple[Tensor, Tensor]], rows: Sequence[Rows], rates: Iterator[float], epoch: int
    ) -> Tensor:
        """One pass over batches, with a step of the optimizer for every few of them.

        A step follows the mean gradient of its images, over however many batches and processes they are divided.

        Args:
            rows: of each batch that this process learns.

        Returns:
            (2,) on the device of the network: summed loss, and how many images were classified rightly, both of
            the images as they were learnt; of a mixed one, as the label with the largest share.
        """
        device = next(self.model.parameters()).device
        totals = torch.zeros(2, device=device)
        images_a_step = self.config.batch_size * self.config.accumulation
        count, seen = sum(batch.count for batch in rows), 0
        with self.objective.learning(self.model):
            learner = self.rank.learner(self.model, self.seed, epoch)
            for batch, (images, labels) in zip(rows, batches, strict=True):
                if seen % images_a_step == 0:
                    self.optimizer.zero_grad(set_to_none=True)
                    of_step = min(images_a_step, count - seen)
                if self.mixed is not None:
                    images, labels = self.mixed(images, labels)
                    if self.rank.divides(batch.count):  # the first is the neighbour of the second
                        images, labels = images[1:], labels[1:]
                images = images.contiguous(memory_format=torch.channels_last)
                share = len(images) if self.rank.divides(batch.count) else batch.count / self.rank.count
                seen += batch.count
                steps = seen % images_a_step == 0 or seen == count
                with learner.batch(batch.count, steps=steps):
                    with torch.autocast(device.type, torch.bfloat16, enabled=self.precision == "bfloat16"):
                        logits, loss = self.objective.loss(learner.network, images, labels)
                    (loss * (share * self.rank.count / of_step)).backward()
                if steps:
                    self.step(next(rates))
                classes = labels if labels.ndim == 1 else labels.argmax(1)
                right = (logits.argmax(1) == classes).sum()
                totals += torch.stack([loss.detach() * share, right * (share / len(images))])
        return self.rank.total(totals)

    def step(self, rate: float) -> None:
        """Change the weights by their gradients."""
        for group in self.optimizer.param_groups:
            group["lr"] = rate
        if self.config.clip_norm is not None:
            nn.utils.clip_grad_norm_(self.model.parameters(), self.config.clip_norm)
        self.optimizer.step()
        if self.average is not None:
            self.average.update_parameters(self.model)


def augmented_batches(
    dataset: Dataset,
    order: Tensor,
    rows: Sequence[Rows],
    steps: Sequence[AugmentationStep],
    generator: torch.Generator,
    device: torch.device,
) -> Iterator[tuple[Tensor, Tensor]]:
    """Normalised training images, augmented by `steps`, and their labels: of every batch of an order, these rows."""
    own = torch.cat([batch.start + batch.own for batch in rows])
    sizes = [len(batch.own) for batch in rows]
    names = [step for step in steps if isinstance(step, str)]
    if len(names) == len(steps):  # whole batches at a time
        batches = iter(rows)
        return dataset.batches(
            "train", sizes, device, order[own], lambda images: augment(images, names, generator, next(batches))
        )
    from workloads.data.transforms import ImageByImage, transform_of

    seeds = torch.randint(2**62, (len(order),), generator=generator)[own]
    each = ImageByImage(transform_of(steps, dataset.shape, dataset.mean), seeds)
    return dataset.batches("train", sizes, device, order[own], each=each)
