"""Training against the published loop: torchvision's transforms on PIL images in a DataLoader, float32, contiguous.

    python benchmarks/training.py [--models resnet18 vgg11_bn] [--images 512] [--workers 2] [--device cpu] [--runs 3]
    python benchmarks/training.py --accuracy [--seeds 3] [--epochs 8] [--width 0.25]
    python benchmarks/training.py --recipe deit [--models vit_cifar] [--images 512] [--runs 3]

The first measures epochs over random 32×32 colour images, in turns after one that does not count, evaluation left out;
the share is that of the rate of one large convolution in the same precision. The second trains both ways on
scikit-learn's digits from the same initial weights; the interval of the difference of final test accuracies is
Student's, at 95 %. The third measures epochs of a recipe in turns with the form that torchvision's references give it:
PIL images, the same augmentation in the DataLoader, mixing where batches are collated. Where other programs share the
cores, `--threads 1` disturbs least.
"""

import argparse
import statistics
import time
from collections.abc import Callable, Sequence
from typing import Any

import torch
import torchvision.transforms as T
from measuring import Table, announce, machine, parser, seconds, write
from PIL import Image
from scipy.stats import t as student
from torch import Tensor, nn
from torchvision.transforms import v2

from workloads.config import DatasetConfig, ModelConfig, TrainingConfig
from workloads.data import datasets
from workloads.data.samples import Dataset, in_memory
from workloads.data.transforms import mixing, transform_of
from workloads.measuring.evaluation import evaluate, mac_count
from workloads.measuring.precision import resolved
from workloads.networks.models import build
from workloads.recipes import RECIPES, ErasingConfig
from workloads.training.loop import train
from workloads.training.optimizers import optimizer_of


class Pictures(torch.utils.data.Dataset[tuple[Tensor, int]]):
    """A data set's training images as torchvision's data sets hold them."""

    def __init__(self, dataset: Dataset, transform: Callable[[Image.Image], Tensor]):
        pixels = dataset.train.images[dataset.train_pool].permute(0, 2, 3, 1).squeeze(3).numpy()
        self.images = [Image.fromarray(image) for image in pixels]
        self.labels = dataset.train.labels[dataset.train_pool].tolist()
        self.transform = transform

    def __len__(self) -> int:
        return len(self.images)

    def __getitem__(self, index: int) -> tuple[Tensor, int]:
        return self.transform(self.images[index]), self.labels[index]


def published(
    model: nn.Module, dataset: Dataset, config: TrainingConfig, augmentation: Sequence[str], workers: int
) -> list[float]:
    """Train as Intra-Fusion's authors do; seconds of each epoch."""
    size = dataset.shape[1]
    steps: dict[str, Any] = {"flip": T.RandomHorizontalFlip(), "crop": T.RandomCrop(size, padding=size // 8)}
    transform = T.Compose(
        [*(steps[name] for name in augmentation), T.ToTensor(), T.Normalize(dataset.mean, dataset.std)]
    )
    loader = torch.utils.data.DataLoader(
        Pictures(dataset, transform), config.batch_size, shuffle=True, num_workers=workers
    )
    device = next(model.parameters()).device
    loss_of = nn.CrossEntropyLoss()
    optimizer = torch.optim.SGD(model.parameters(), config.learning_rate, config.momentum)
    schedule = torch.optim.lr_scheduler.StepLR(optimizer, config.halve_every, 0.5)
    taken = []
    for _ in range(config.epochs):
        started = time.perf_counter()
        model.train()
        total = 0.0
        for images, labels in loader:
            images, labels = images.to(device), labels.to(device)
            optimizer.zero_grad()
            loss = loss_of(model(images), labels)
            loss.backward()
            optimizer.step()
            total += loss.item()
        schedule.step()
        taken.append(time.perf_counter() - started)
    return taken


def reference(model: nn.Module, dataset: Dataset, config: TrainingConfig, workers: int) -> float:
    """An epoch of the settings as torchvision's reference scripts train; seconds."""
    pixels = [v2.PILToTensor(), v2.ToDtype(torch.float32, scale=True), v2.Normalize(dataset.mean, dataset.std)]
    erasing = [step.probability for step in config.augmentation or () if isinstance(step, ErasingConfig)]
    before = [step for step in config.augmentation or () if not isinstance(step, ErasingConfig)]
    transform = v2.Compose(
        [transform_of(before, dataset.shape, dataset.mean), *pixels, *(v2.RandomErasing(share) for share in erasing)]
    )
    mixed = mixing(config, len(dataset.classes)) if config.mixup or config.cutmix else None

    def collate(batch: list[tuple[Tensor, int]]) -> tuple[Tensor, Tensor]:
        images, labels = torch.utils.data.default_collate(batch)
        return (images, labels) if mixed is None else mixed(images, labels)

    loader = torch.utils.data.DataLoader(
        Pictures(dataset, transform), config.batch_size, shuffle=True, num_workers=workers, collate_fn=collate
    )
    device = next(model.parameters()).device
    loss_of = nn.CrossEntropyLoss(label_smoothing=config.label_smoothing)
    optimizer = optimizer_of(model, config)
    started = time.perf_counter()
    model.train()
    for images, labels in loader:
        images, labels = images.to(device, non_blocking=True), labels.to(device, non_blocking=True)
        loss = loss_of(model(images), labels)
        optimizer.zero_grad()
        loss.backward()
        if config.clip_norm is not None:
            nn.utils.clip_grad_norm_(model.parameters(), config.clip_norm)
        optimizer.step()
    loss.item()
    return time.perf_counter() - started


def measure_recipe(table: Table, name: str, options: argparse.Namespace) -> None:
    """Add the rows of a network: a recipe in the reference's form, and metaprune's, both in float32, in turns."""
    dataset = noise(options.images)
    config = TrainingConfig(recipe=options.recipe, epochs=1, warmup_epochs=0, batch_size=128, precision="float32")
    if config.augmentation is None:
        config = config.model_copy(update={"augmentation": ("flip", "crop")})
    taken: list[tuple[float, float]] = []
    for _ in range(options.runs + 1):
        theirs, ours = (build(ModelConfig(name=name), channels=3, classes=10).to(options.device) for _ in range(2))
        seconds_of_reference = reference(theirs, dataset, config, options.workers)
        taken.append((seconds_of_reference, train(ours, dataset, config, seed=0)[0].seconds))
    rates = [options.images / statistics.median(column) for column in zip(*taken[1:], strict=True)]
    for loop, rate in zip(("reference", "metaprune"), rates, strict=True):
        ratio = {"images/s": rate, "ratio": rate / rates[0]}
        table.add(model=name, recipe=options.recipe, loop=loop, n=options.runs, **ratio)


def noise(count: int) -> Dataset:
    """Random 32×32 colour images of ten classes, all to train on and one of them to test."""
    generator = torch.Generator().manual_seed(0)
    images = torch.randint(0, 256, (count, 3, 32, 32), dtype=torch.uint8, generator=generator)
    labels = torch.randint(0, 10, (count,), generator=generator)
    source = in_memory((images, labels), (images, labels), "0123456789", "noise")
    every, one = torch.arange(count), torch.arange(1)
    return Dataset(source.train, source.test, source.classes, source.fingerprint, (0.5,) * 3, (0.25,) * 3, every, one)


def limit(precision: str, device: str) -> float:
    """Floating-point operations a second of a 3×3 convolution of 256 to 256 channels on 128 maps of 16×16."""
    dtype = getattr(torch, precision)
    layer = nn.Conv2d(256, 256, 3, padding=1, bias=False)
    layer.to(device, dtype).to(memory_format=torch.channels_last)
    images = torch.rand(128, 256, 16, 16, device=device, dtype=dtype).contiguous(memory_format=torch.channels_last)

    @torch.inference_mode()
    def convolve() -> None:
        layer(images)[0, 0, 0, 0].item()

    convolve()
    return 2 * images.numel() * 9 * 256 / min(seconds(convolve) for _ in range(10))


def measure_speed(table: Table, name: str, options: argparse.Namespace) -> None:
    """Add the rows of a network: the published loop, and metaprune in float32 and in the precision it would choose."""
    dataset = noise(options.images)
    config = TrainingConfig(epochs=1, precision="float32")
    chosen = resolved("auto", torch.device(options.device))
    precisions = dict.fromkeys(["float32", chosen])
    network = build(ModelConfig(name=name), channels=3, classes=10)
    operations = 3 * 2 * mac_count(network, dataset.shape)

    def epoch_of(precision: str | None) -> float:
        model = build(ModelConfig(name=name), channels=3, classes=10).to(options.device)
        if precision is None:
            return published(model, dataset, config, ("flip", "crop"), options.workers)[0]
        return train(model, dataset, config.model_copy(update={"precision": precision}), seed=0)[0].seconds

    ways = (None, *precisions)
    taken = [[epoch_of(way) for way in ways] for _ in range(options.runs + 1)][1:]
    rates = [options.images / statistics.median(column) for column in zip(*taken, strict=True)]
    for way, rate in zip(ways, rates, strict=True):
        share = 100 * operations * rate / limit(way or "float32", options.device)
        table.add(
            model=name,
            loop="metaprune" if way else "published",
            precision=way or "float32",
            **{"images/s": rate, "share (%)": share, "ratio": rate / rates[0]},
        )


def measure_accuracy(table: Table, name: str, options: argparse.Namespace) -> None:
    """Add the row of a network: final test accuracies of both loops over seeds, and their difference by seed."""
    dataset = datasets.load(DatasetConfig(name="digits", size=32))
    config = TrainingConfig(epochs=options.epochs, batch_size=64, halve_every=max(1, options.epochs // 3))
    accuracies: list[tuple[float, float]] = []
    for seed in range(options.seeds):
        theirs, ours = (
            build(ModelConfig(name=name, width=options.width), channels=1, classes=10, seed=seed).to(options.device)
            for _ in range(2)
        )
        torch.manual_seed(seed)
        published(theirs, dataset, config, ("crop",), options.workers)
        train(ours, dataset, config, seed=seed, augmentation=("crop",))
        accuracies.append((evaluate(theirs, dataset).accuracy, evaluate(ours, dataset).accuracy))
    differences = [ours - theirs for theirs, ours in accuracies]
    reach = student.ppf(0.975, options.seeds - 1) * statistics.stdev(differences) / options.seeds**0.5
    columns: dict[str, float] = {}
    for loop, values in zip(("published", "metaprune"), zip(*accuracies, strict=True), strict=True):
        columns |= {f"{loop} (%)": statistics.mean(values), f"{loop} sd": statistics.stdev(values)}
    table.add(
        model=name, seeds=options.seeds, **columns, difference=statistics.mean(differences), interval=float(reach)
    )


def main() -> None:
    arguments = parser(__doc__, "training.parquet")
    arguments.add_argument("--models", nargs="+", default=["resnet18", "vgg11_bn"])
    arguments.add_argument("--images", type=int, default=512, help="in an epoch of the speed measurement")
    arguments.add_argument("--workers", type=int, default=2, help="of the published loop's DataLoader")
    arguments.add_argument("--device", default="cuda" if torch.cuda.is_available() else "cpu")
    arguments.add_argument("--accuracy", action="store_true", help="compare final accuracies instead of speed")
    arguments.add_argument("--recipe", choices=sorted(RECIPES), help="compare the epochs of a recipe instead")
    arguments.add_argument("--seeds", type=int, default=3)
    arguments.add_argument("--epochs", type=int, default=8)
    arguments.add_argument("--width", type=float, default=0.25)
    options = arguments.parse_args()
    torch.set_num_threads(options.threads)
    settings = ("threads", "device", "workers") + (("epochs", "width") if options.accuracy else ("images", "runs"))
    conditions = machine("torch", "torchvision") | {name: getattr(options, name) for name in settings}
    if options.device == "cuda":
        conditions["gpu"] = torch.cuda.get_device_name()
    announce(conditions)
    table = Table("Test accuracy on digits" if options.accuracy else "Training, batches of 128 images of 32×32")
    measure = measure_accuracy if options.accuracy else measure_recipe if options.recipe else measure_speed
    for name in options.models:
        measure(table, name, options)
    write(options.out, conditions, table)


if __name__ == "__main__":
    main()
