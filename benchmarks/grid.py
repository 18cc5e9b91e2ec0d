"""The data-free grid: the published procedure, every cell from scratch, against metaprune's way.

    python benchmarks/grid.py [--model vgg11_bn] [--width 1] [--data FOLDER] [--checkpoint FILE] [--epochs 2]
        [--images 359] [--groups 0 1 ...] [--precision float32] [--device cpu] [--runs 1] [--threads 1]
        [--out grid.parquet]

All groups × 7 sparsities × {conventional, intra-fusion}, on the same network and test images, group by group in turn.
Without `--data`, a folder with train.parquet and test.parquet, the images are scikit-learn's digits at 32×32; without
`--checkpoint` the network is trained on them first, for `--epochs`. Groups are found by metaprune's own `trace` on both
sides. Prints wall clock and processor time, which depends less on what else runs on the machine, how many predicted
labels are equal, and what share metaprune's forward passes reach of the rate of a large convolution, by processor time
on a CPU and by wall clock on a GPU. `--precision` is that of metaprune's measuring; the published procedure keeps to
float32.
"""

import argparse
import contextlib
import copy
import time
from collections import defaultdict
from collections.abc import Iterator
from statistics import median
from typing import NamedTuple

import torch
from measuring import Table, announce, machine, parser, write
from torch import Tensor, nn
from torch.utils.data import DataLoader
from torch.utils.flop_counter import FlopCounterMode
from torchvision.transforms import v2 as transforms
from torchvision.transforms.functional import to_pil_image

from workloads.compression.compress import Sources, compress, score
from workloads.compression.criteria import importance
from workloads.compression.methods import maps
from workloads.compression.pairings import Pairings
from workloads.config import ChoiceConfig, CompressionConfig, DatasetConfig, ModelConfig, TrainingConfig
from workloads.data.datasets import load
from workloads.data.samples import Dataset
from workloads.measuring.evaluation import evaluate_together, fast_batch
from workloads.measuring.precision import products
from workloads.measuring.shared_forward import forward_together
from workloads.networks.checkpoints import load_state
from workloads.networks.models import build
from workloads.networks.weights import read_state
from workloads.structure.batch_norm import merge_batch_norm
from workloads.structure.finding import trace
from workloads.structure.groups import apply
from workloads.structure.network import Network
from workloads.training.loop import train

SPARSITIES = (0.1, 0.2, 0.3, 0.4, 0.5, 0.6, 0.7)
METHODS = ("conventional", "intra-fusion")
CELLS = [(sparsity, method) for sparsity in SPARSITIES for method in METHODS]
STEPS = ("copy, groups, batch-norm", "importance, plan, pruning", "test images")
PUBLISHED_BATCH = 128


Cell = tuple[int, float, str]


class Spent(NamedTuple):
    """Seconds of wall clock, and of the processor in all threads."""

    wall: float
    processor: float


class Side:
    """One way through the grid.

    Attributes:
        spent: by group and step, one a timed block of the present run; a group of None is all groups together.
        labels: predicted for every test image (N,) by group, sparsity and method.
    """

    def __init__(self) -> None:
        self.spent: dict[tuple[int | None, str], list[Spent]] = defaultdict(list)
        self.labels: dict[Cell, Tensor] = {}

    @contextlib.contextmanager
    def timed(self, group: int | None, step: str) -> Iterator[None]:
        """Keep how long the block takes, until a GPU is through with it."""
        wall, processor = time.perf_counter(), time.process_time()
        yield
        if torch.cuda.is_initialized():
            torch.cuda.synchronize()
        self.spent[group, step].append(Spent(time.perf_counter() - wall, time.process_time() - processor))

    def total(self, *, group: int | None = None, step: str | None = None) -> Spent:
        """The sum over the blocks of a group, of a step, or of both."""
        chosen = [
            spent
            for (its_group, its_step), blocks in self.spent.items()
            for spent in blocks
            if (group is None or its_group == group) and (step is None or its_step == step)
        ]
        return Spent(sum(spent.wall for spent in chosen), sum(spent.processor for spent in chosen))


class PublishedImages(torch.utils.data.Dataset[tuple[Tensor, int]]):
    """The test images as torchvision's data sets give them: a PIL image a time, through transforms."""

    def __init__(self, dataset: Dataset):
        self.images = [to_pil_image(image) for image in dataset.test.images[dataset.test_pool]]
        self.labels = dataset.test.labels[dataset.test_pool].tolist()
        to_float = [transforms.ToImage(), transforms.ToDtype(torch.float32, scale=True)]
        self.transform = transforms.Compose([*to_float, transforms.Normalize(dataset.mean, dataset.std)])

    def __len__(self) -> int:
        return len(self.images)

    def __getitem__(self, index: int) -> tuple[Tensor, int]:
        return self.transform(self.images[index]), self.labels[index]


@torch.no_grad()
def published(
    side: Side, model: nn.Module, number: int, loader: DataLoader[tuple[Tensor, int]], example: Tensor
) -> None:
    """Every cell of a group from scratch: copy, groups, batch-norm, importance, plan, pruning, all test images."""
    for sparsity, method in CELLS:
        with side.timed(number, STEPS[0]):
            network = copy.deepcopy(model).eval()
            structure = trace(network, example)
            merge_batch_norm(network, structure)
        with side.timed(number, STEPS[1]):
            group = structure.groups[number]
            scores = importance("l1", network, group)
            keep = max(1, int(group.size * (1 - sparsity)))
            apply(network, group, maps(method, Pairings(network, group), scores, keep))
        with side.timed(number, STEPS[2]):
            labels = [network(images.to(example.device)).argmax(1).cpu() for images, _ in loader]
        side.labels[number, sparsity, method] = torch.cat(labels)


def ours(side: Side, base: Network, number: int, dataset: Dataset, example: Tensor, precision: str) -> list[nn.Module]:
    """The networks of a group: importance and cost once, then measured together."""
    sources = Sources(example)
    with side.timed(number, STEPS[1]):
        scored = score(base, number, ChoiceConfig(name="l1"), sources)
        configs = [CompressionConfig(group=number, sparsity=s, method=ChoiceConfig(name=method)) for s, method in CELLS]
        networks = [compress(base, config, sources, scored=lambda _: scored).model for config in configs]
    with side.timed(number, STEPS[2]):
        evaluate_together(networks, dataset, precision=precision)
    return networks


@torch.inference_mode()
def predicted(
    networks: list[nn.Module], dataset: Dataset, example: Tensor, precision: str
) -> tuple[list[Tensor], float]:
    """The labels (N,) by each network, as `evaluate_together` counts them, and floating-point operations an image."""
    with products(precision, example.device):
        forward = forward_together(networks, example)
        labels = [
            [logits.argmax(1).cpu() for logits in forward(images.contiguous(memory_format=torch.channels_last))]
            for images, _ in dataset.batches("test", fast_batch(example.device, dataset.shape), example.device)
        ]
    with FlopCounterMode(display=False) as counter:
        list(forward(example))
    return [torch.cat(parts) for parts in zip(*labels, strict=True)], counter.get_total_flops() / len(example)


@torch.inference_mode()
def convolution_rate(precision: str, device: str, channels: int = 256, attempts: int = 6) -> float:
    """The most operations a second of a 3×3 convolution of 8×8 maps, near the hardware's peak.

    On some processors matrix products are far from it.
    """
    inputs = torch.randn(64 if device == "cpu" else 4096, channels, 8, 8, device=device)
    weight = torch.randn(channels, channels, 3, 3, device=device)
    inputs, weight = (
        tensor.to(getattr(torch, precision), memory_format=torch.channels_last) for tensor in (inputs, weight)
    )
    side = Side()
    for _ in range(attempts):
        with side.timed(None, "convolution"):
            torch.conv2d(inputs, weight, padding=1)
    fastest = min(computing(spent, device) for spent in side.spent[None, "convolution"])
    return 2 * 9 * channels**2 * inputs[:, 0].numel() / fastest


def computing(spent: Spent, device: str) -> float:
    """Seconds in which the device was at work: other programs take a CPU away, and a processor waits for a GPU."""
    return spent.processor if device == "cpu" else spent.wall


def trained(options: argparse.Namespace, dataset: Dataset) -> nn.Module:
    """The network of the checkpoint, or one that is trained here."""
    config = ModelConfig(name=options.model, width=options.width)
    model = build(config, channels=dataset.shape[0], classes=len(dataset.classes)).to(options.device)
    if options.checkpoint:
        load_state(model, read_state(options.checkpoint), options.checkpoint)
    else:
        train(model, dataset, TrainingConfig(epochs=options.epochs, evaluate_every=options.epochs), seed=0)
    return model.eval()


def arguments() -> argparse.Namespace:
    options = parser(__doc__, "grid.parquet", runs=1)
    options.add_argument("--model", default="vgg11_bn")
    options.add_argument("--width", type=float, default=1.0)
    options.add_argument("--data", help="folder with train.parquet and test.parquet")
    options.add_argument("--checkpoint", help="safetensors state dict of the network")
    options.add_argument("--epochs", type=int, default=2, help="of training without a checkpoint")
    options.add_argument("--images", type=int, help="of the test set; all unless given")
    options.add_argument("--precision", default="float32", choices=["float32", "bfloat16"])
    options.add_argument("--device", default="cuda" if torch.cuda.is_available() else "cpu")
    options.add_argument("--groups", type=int, nargs="+", help="all unless given")
    return options.parse_args()


class Run(NamedTuple):
    """Both sides of one run, operations of metaprune's forward passes, and the best rate of a convolution."""

    published: Side
    metaprune: Side
    operations: float
    convolution_rate: float


def measured(model: nn.Module, dataset: Dataset, groups: list[int], precision: str, device: str) -> Run:
    """Both sides, group by group in turn."""
    theirs, mine, operations, rate = Side(), Side(), 0.0, 0.0
    one, few = torch.zeros(1, *dataset.shape, device=device), torch.randn(2, *dataset.shape, device=device)
    loader = DataLoader(PublishedImages(dataset), batch_size=PUBLISHED_BATCH)
    with mine.timed(None, STEPS[0]):
        base = Network.prepared(model, one)
    for number in groups:
        published(theirs, model, number, loader, one)
        networks = ours(mine, base, number, dataset, one, precision)
        labels, flops = predicted(networks, dataset, few.contiguous(memory_format=torch.channels_last), precision)
        mine.labels |= {(number, *cell): found for cell, found in zip(CELLS, labels, strict=True)}
        operations += flops * len(dataset.test_pool)
        rate = max(rate, convolution_rate(precision, device))
    return Run(theirs, mine, operations, rate)


def add(
    table: Table, column: str, name: str, runs: list[Run], cells: int, group: int | None = None, step: str | None = None
) -> None:
    """Add the medians over the runs of what both sides spent a cell."""
    spent = [[side.total(group=group, step=step) for side in run[:2]] for run in runs]
    theirs, mine = (Spent(*(median(kind) for kind in zip(*side, strict=True))) for side in zip(*spent, strict=True))
    milliseconds = {
        "published (ms)": 1000 * theirs.wall / cells,
        "metaprune (ms)": 1000 * mine.wall / cells,
    }
    ratios = {"ratio": theirs.wall / mine.wall, "ratio of processor time": theirs.processor / mine.processor}
    table.add(**{column: name}, **milliseconds, **ratios)


def compared(runs: list[Run], dataset: Dataset, device: str) -> Table:
    """How far both sides agree, and how fast metaprune's forward passes are."""
    table = Table("Agreement and speed")
    truth = dataset.test.labels[dataset.test_pool]
    for run in runs:
        keys = list(run.published.labels)
        theirs, mine = (torch.stack([side.labels[key] for key in keys]) for side in run[:2])
        accuracies = [100 * (labels == truth).double().mean(1) for labels in (theirs, mine)]
        rate = run.operations / computing(run.metaprune.total(step=STEPS[2]), device)
        table.add(
            labels=mine.numel(),
            equal=int((theirs == mine).sum()),
            **{
                "accuracy differs by (points)": float((accuracies[0] - accuracies[1]).abs().max()),
                "GFLOP/s": rate / 1e9,
                "a convolution": run.convolution_rate / 1e9,
                "share (%)": 100 * rate / run.convolution_rate,
            },
        )
    return table


def main() -> None:
    options = arguments()
    torch.set_num_threads(options.threads)
    source = {"name": "parquet", "root": options.data} if options.data else {"name": "digits", "size": 32}
    dataset = load(DatasetConfig(**source, test_samples=options.images))
    model = trained(options, dataset)
    groups = options.groups or list(
        range(len(trace(model, torch.zeros(1, *dataset.shape, device=options.device)).groups))
    )
    settings = {"model": options.model, "width": options.width, "images": len(dataset.test_pool)}
    settings |= {"precision": options.precision, "device": options.device}
    if options.device == "cuda":
        settings["gpu"] = torch.cuda.get_device_name()
    conditions = machine("torch", "torchvision") | {"threads": options.threads, "runs": options.runs} | settings
    announce(conditions)
    runs = [measured(model, dataset, groups, options.precision, options.device) for _ in range(options.runs)]
    cells = len(groups) * len(CELLS)
    steps, measuring = Table(f"A cell, mean of {cells}"), Table("The test images, a cell")
    for step in STEPS:
        add(steps, "step", step, runs, cells, step=step)
    add(steps, "step", "all", runs, cells)
    for number in groups:
        add(measuring, "group", str(number), runs, len(CELLS), group=number, step=STEPS[2])
    write(options.out, conditions, steps, measuring, compared(runs, dataset, options.device))


if __name__ == "__main__":
    main()
