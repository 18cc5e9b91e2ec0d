"""The data-free grid: the published procedure, every cell from scratch, against metaprune's way.

    python benchmarks/grid.py [--images 359] [--groups 0 1 ...] [--width 1] [--runs 1] [--threads 1]
        [--data FOLDER] [--checkpoint FILE] [--model vgg11_bn] [--epochs 2] [--out grid.parquet]

All groups × 7 sparsities × {conventional, intra-fusion}, on the same network and test images, group by group in turn.
Without `--data`, a folder with train.parquet and test.parquet, the images are scikit-learn's digits at 32×32; without
`--checkpoint` the network is trained on them first, for `--epochs`. Prints medians of n runs with hardware and
versions, how many predicted labels are equal, and what share metaprune's forward passes reach of the rate of a large
matrix product. Processor time hardly depends on what else runs on the machine. Every measurement stands in the Parquet
file. Groups are found by metaprune's own `trace` on both sides, as it is the one at hand.
"""

import argparse
import contextlib
import copy
import os
import platform
import sys
import time
from collections.abc import Iterator
from dataclasses import dataclass, field

import pandas as pd
import torch
from torch import Tensor, nn
from torch.utils.data import DataLoader
from torch.utils.flop_counter import FlopCounterMode
from torchvision.transforms import v2 as transforms
from torchvision.transforms.functional import to_pil_image

from orchestrator.environment import processor
from workloads.checkpoints import load_state, read_state
from workloads.compression import Network, Sources, compress, score
from workloads.config import CompressionConfig, DatasetConfig, ModelConfig, TrainingConfig
from workloads.criteria import importance
from workloads.datasets import load
from workloads.evaluation import evaluate_together
from workloads.groups import Pairings, apply, merge_batch_norm
from workloads.methods import maps
from workloads.models import build
from workloads.prefix import forward_together
from workloads.samples import Dataset
from workloads.tracing import trace
from workloads.training import train

SPARSITIES = (0.1, 0.2, 0.3, 0.4, 0.5, 0.6, 0.7)
METHODS = ("conventional", "intra-fusion")
CELLS = [(sparsity, method) for sparsity in SPARSITIES for method in METHODS]
STEPS = ("copy, groups, batch-norm", "importance, plan, pruning", "test images")
PUBLISHED_BATCH, BATCH = 128, 500


@dataclass
class Side:
    """One way through the grid.

    Attributes:
        name: published or metaprune.
        seconds: a row for every measurement: run, group, step, seconds of wall clock and of the processor.
        labels: predicted for every test image (N,) by group, sparsity and method.
    """

    name: str
    seconds: list[dict[str, object]] = field(default_factory=list)
    labels: dict[tuple[int, float, str], Tensor] = field(default_factory=dict)

    @contextlib.contextmanager
    def timed(self, run: int, group: int | None, step: str) -> Iterator[None]:
        """Keep how long the block takes."""
        wall, cpu = time.perf_counter(), time.process_time()
        yield
        spent = {"seconds": time.perf_counter() - wall, "cpu_seconds": time.process_time() - cpu}
        self.seconds.append({"side": self.name, "run": run, "group": group, "step": step, **spent})


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
def published(side: Side, run: int, model: nn.Module, number: int, loader: DataLoader, example: Tensor) -> None:
    """Every cell of a group from scratch: copy, groups, batch-norm, importance, plan, pruning, all test images."""
    for sparsity, method in CELLS:
        with side.timed(run, number, STEPS[0]):
            network = copy.deepcopy(model).eval()
            structure = trace(network, example)
            merge_batch_norm(network, structure)
        with side.timed(run, number, STEPS[1]):
            group = structure.groups[number]
            scores = importance("l1", network, group)
            keep = max(1, int(group.size * (1 - sparsity)))
            apply(network, group, maps(method, Pairings(network, group), scores, keep))
        with side.timed(run, number, STEPS[2]):
            labels = [network(images).argmax(1) for images, _ in loader]
        side.labels[number, sparsity, method] = torch.cat(labels)


def ours(side: Side, run: int, base: Network, number: int, dataset: Dataset, example: Tensor) -> list[nn.Module]:
    """The networks of a group: importance and cost once, then measured together."""
    sources = Sources(example)
    with side.timed(run, number, STEPS[1]):
        scored = score(base, number, {"name": "l1"}, sources)
        configs = [CompressionConfig(group=number, sparsity=s, method={"name": method}) for s, method in CELLS]
        networks = [compress(base, config, sources, scored=lambda _: scored).model for config in configs]
    with side.timed(run, number, STEPS[2]):
        evaluate_together(networks, dataset, BATCH)
    return networks


@torch.inference_mode()
def predicted(networks: list[nn.Module], dataset: Dataset, example: Tensor) -> tuple[list[Tensor], float]:
    """The labels (N,) by each network, as `evaluate_together` counts them, and floating-point operations an image."""
    forward = forward_together(networks, example)
    batches = dataset.batches("test", BATCH)
    labels = [
        [logits.argmax(1) for logits in forward(images.contiguous(memory_format=torch.channels_last))]
        for images, _ in batches
    ]
    with FlopCounterMode(display=False) as counter:
        list(forward(example))
    return [torch.cat(parts) for parts in zip(*labels, strict=True)], counter.get_total_flops() / len(example)


def product_rate(size: int = 2048) -> float:
    """Floating-point operations of a float32 product of square matrices a second of the processor."""
    a, b = torch.randn(size, size), torch.randn(size, size)
    started = time.process_time()
    torch.mm(a, b)
    return 2 * size**3 / (time.process_time() - started)


def trained(options: argparse.Namespace, dataset: Dataset) -> nn.Module:
    """The network of the checkpoint, or one that is trained here."""
    config = ModelConfig(name=options.model, width=options.width)
    model = build(config, channels=dataset.shape[0], classes=len(dataset.classes))
    if options.checkpoint:
        load_state(model, read_state(options.checkpoint), options.checkpoint)
    else:
        train(model, dataset, TrainingConfig(epochs=options.epochs, evaluate_every=options.epochs), seed=0)
    return model.eval()


def arguments() -> argparse.Namespace:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--model", default="vgg11_bn")
    parser.add_argument("--width", type=float, default=1.0)
    parser.add_argument("--data")
    parser.add_argument("--checkpoint")
    parser.add_argument("--epochs", type=int, default=2)
    parser.add_argument("--images", type=int)
    parser.add_argument("--groups", type=int, nargs="*")
    parser.add_argument("--runs", type=int, default=1)
    parser.add_argument("--threads", type=int, default=os.cpu_count())
    parser.add_argument("--out", default="grid.parquet")
    return parser.parse_args()


def table(title: str, rows: pd.DataFrame, by: str, cells: int) -> None:
    """Print medians over the runs: wall clock a cell of both sides, and the ratios of wall clock and processor time."""
    sums = rows.groupby([by, "side", "run"], sort=False)[["seconds", "cpu_seconds"]].sum()
    medians = sums.groupby(level=[0, 1], sort=False).median()
    print(f"{title:<28} {'published (ms)':>15} {'metaprune (ms)':>15} {'ratio':>7} {'of processor time':>18}")
    for name in rows[by].unique():
        theirs, mine = medians.loc[name, "published"], medians.loc[name, "metaprune"]
        ratios = theirs / mine
        print(
            f"{name!s:<28} {1000 * theirs['seconds'] / cells:>15.1f} {1000 * mine['seconds'] / cells:>15.1f} "
            f"{ratios['seconds']:>7.1f} {ratios['cpu_seconds']:>18.1f}"
        )


def report(sides: list[Side], runs: int) -> pd.DataFrame:
    """Print what a cell costs on both sides, by step and by group; the measurements."""
    rows = pd.DataFrame([row for side in sides for row in side.seconds])
    cells = len(sides[0].labels)
    print(f"a cell of {cells}, n = {runs}, medians")
    table("step", pd.concat([rows, rows.assign(step="whole grid")]), "step", cells)
    measuring = rows[rows["step"] == STEPS[2]]
    table("test images of group", measuring.astype({"group": int}), "group", len(CELLS))
    return rows


def main() -> None:
    options = arguments()
    torch.set_num_threads(options.threads)
    source = {"name": "parquet", "root": options.data} if options.data else {"name": "digits", "size": 32}
    dataset = load(DatasetConfig(**source, test_samples=options.images))
    model = trained(options, dataset)
    one, few = torch.zeros(1, *dataset.shape), torch.randn(2, *dataset.shape)
    loader = DataLoader(PublishedImages(dataset), batch_size=PUBLISHED_BATCH)
    sides = [Side("published"), Side("metaprune")]
    groups = options.groups or range(len(trace(model, one).groups))
    operations, most = 0.0, 0.0
    for run in range(options.runs):
        with sides[1].timed(run, None, STEPS[0]):
            base = Network.prepared(model, one)
        for number in groups:
            published(sides[0], run, model, number, loader, one)
            networks = ours(sides[1], run, base, number, dataset, one)
            labels, flops = predicted(networks, dataset, few.contiguous(memory_format=torch.channels_last))
            sides[1].labels |= {(number, *cell): found for cell, found in zip(CELLS, labels, strict=True)}
            operations += flops * len(dataset.test_pool)
            most = max(most, *(product_rate() for _ in range(3)))
    versions = f"Python {platform.python_version()}, torch {torch.__version__}, {sys.platform}"
    print(f"{processor()}, {options.threads} thread{'s' * (options.threads > 1)}, {versions}")
    print(f"{options.model}, width {options.width:g}, {len(dataset.test_pool)} test images of {dataset.shape}")
    rows = report(sides, options.runs)
    keys, truth = list(sides[0].labels), dataset.test.labels[dataset.test_pool]
    theirs, mine = (torch.stack([side.labels[key] for key in keys]) for side in sides)
    points = 100 * ((theirs == truth).double().mean(1) - (mine == truth).double().mean(1)).abs().max()
    print(f"{int((theirs == mine).sum())} of {mine.numel()} labels equal; accuracies differ by {points:.3f} at most")
    spent = rows[(rows["side"] == "metaprune") & (rows["step"] == STEPS[2])]["cpu_seconds"].sum()
    rate = operations / spent
    share = f"{100 * rate / most:.0f} % of the {most / 1e9:.0f} of a large matrix product"
    print(f"metaprune's forward passes: {rate / 1e9:.0f} GFLOP/s a core, {share}")
    about = {"processor": processor(), "threads": options.threads, "torch": torch.__version__, "model": options.model}
    rows.assign(**about, width=options.width, images=len(dataset.test_pool)).to_parquet(options.out)
    print(f"Every measurement is in {options.out}")


if __name__ == "__main__":
    main()
