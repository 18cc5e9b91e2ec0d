"""Searches for widths: what they cost beside an epoch of fine-tuning, and what they find beside every choice there is.

    python benchmarks/allocation.py [--models vgg11_bn resnet18] [--width 1] [--images 512] [--sparsity 0.5]
        [--epoch 50000] [--runs 3] [--threads 1] [--clock wall|processor]

The first table has a row a network and a method: seconds of each search for widths that leave a share of the
multiplications, on random 32×32 colour images, whose content neither time nor ratios hang on, with default settings;
and of an epoch of fine-tuning the pruned network on `--epoch` images, from 512 of them.

The second one compares with exhaustive search. VGG11-BN (0.125×), trained on digits for six epochs, is pruned in its
four groups next to the input, which hold most of its multiplications. Every combination of the widths at which
`sensitivity` measures each group alone is compressed and measured on the images of the search: how far the answers move
(nats), and of the best one at the budget, the accuracy on the test images. Searches may take widths in between.
"""

import argparse
import itertools
from collections.abc import Callable, Sequence
from functools import partial

import torch
from measuring import CLOCKS, Table, announce, machine, parser, side_by_side, write
from torch import Tensor
from training import noise

from workloads.allocations import SensitivityConfig
from workloads.compression import Sources, compress
from workloads.compression.allocation import allocate
from workloads.compression.allocation.sensitivity import measured_widths
from workloads.compression.allocation.trials import Trials
from workloads.compression.budgets import Budget, MacBudget, floors
from workloads.compression.group_sizes import widths
from workloads.config import CompressionConfig, DatasetConfig, ModelConfig, TrainingConfig
from workloads.data import datasets
from workloads.measuring.evaluation import evaluate
from workloads.networks.models import build
from workloads.structure.groups import Group
from workloads.structure.network import Network
from workloads.training.loop import train

EPOCH_IMAGES = 512  # of which an epoch's time is taken
METHODS = ("conventional", "folding")
SEARCHES = ("elimination", "sensitivity", "greedy")
SMALL_EPOCHS = 6
SMALL_GROUPS = 4


def settings(sparsity: float, allocation: str, method: str, groups: Sequence[int] | None = None) -> CompressionConfig:
    """A compression to a share of the multiplications."""
    return CompressionConfig.model_validate(
        {
            "sparsity": sparsity,
            "sparsity_of": "macs",
            "allocation": allocation,
            "method": method,
            "groups": groups,
        }
    )


def sizes_of(groups: Sequence[Group]) -> list[int]:
    """Neurons of each group."""
    return [group.size for group in groups]


def costs(table: Table, name: str, options: argparse.Namespace, timed: Callable[..., dict[str, float]]) -> None:
    """Add the rows of a network."""
    model = build(ModelConfig(name=name, width=options.width), channels=3, classes=10).eval()
    network = Network.prepared(model, torch.zeros(1, 3, 32, 32))
    images = [batch for batch, _ in noise(options.images).batches("train", 128)]
    groups, few = network.structure.groups, noise(EPOCH_IMAGES)
    for method in METHODS:

        def search(allocation: str, method: str = method) -> None:
            allocate(
                network,
                settings(options.sparsity, allocation, method),
                Sources(images[0][:1], images=images),
                groups=groups,
                originals=sizes_of(groups),
                budget=MacBudget(network, images[0][:1], network.model),
            )

        pruned = compress(network, settings(options.sparsity, "uniform", method), Sources(images[0][:1]))
        actions: dict[str, Callable[[], object]] = {each: partial(search, each) for each in SEARCHES}
        actions["epoch"] = lambda pruned=pruned: train(pruned.model, few, TrainingConfig(epochs=1), seed=0)  # type: ignore[misc]
        taken = timed(actions)
        taken["epoch"] *= options.epoch / EPOCH_IMAGES
        columns = {f"{column} (s)": value for column, value in taken.items()}
        ratios = {f"{column}/epoch": taken[column] / taken["epoch"] for column in SEARCHES}
        table.add(network=name, groups=len(groups), method=method, **columns, **ratios)


def exhaustive(trials: Trials, groups: Sequence[Group], budget: Budget, sparsity: float) -> tuple[dict[int, int], int]:
    """The combination of measured widths that meets the budget and moves the answers least, and how many do."""
    points = SensitivityConfig().points
    lowest = floors(groups, sizes_of(groups), SensitivityConfig().least, 1)
    choices = [[g.size, *measured_widths(g, lowest[g.number], points, 1)] for g in groups]
    every = [dict(zip(lowest, each, strict=True)) for each in itertools.product(*choices)]
    allowed = [each for each in every if 1 - budget.left(each) >= sparsity]
    # What costs less than another allowed one in every group cannot be the only best; only the widest are measured.
    widest = [
        each
        for each in allowed
        if not any(
            1 - budget.left({**each, g.number: wider[wider.index(each[g.number]) - 1]}) >= sparsity
            for g, wider in zip(groups, choices, strict=True)
            if each[g.number] < g.size
        )
    ]
    return min(widest, key=trials.loss), len(widest)


def compare(table: Table, options: argparse.Namespace, clock: Callable[[], float]) -> None:
    """Add the rows of the small network."""
    digits = datasets.load(DatasetConfig(name="digits", size=32, augmentation=("crop",)))
    torch.manual_seed(0)
    model = build(ModelConfig(name="vgg11_bn", width=0.125), channels=1, classes=10)
    training = TrainingConfig(
        epochs=SMALL_EPOCHS, batch_size=64, schedule="one-cycle", learning_rate=0.1, evaluate_every=SMALL_EPOCHS
    )
    train(model, digits, training, seed=0)
    network = Network.prepared(model.eval(), torch.zeros(1, *digits.shape))
    images: list[Tensor] = [batch for batch, _ in digits.batches("train", 128, torch.device("cpu"), torch.arange(512))]
    sources = Sources(images[0][:1], images=images)
    groups = network.structure.groups[-SMALL_GROUPS:]
    numbers = [group.number for group in groups]
    for method, sparsity in itertools.product(METHODS, (0.15, 0.3)):
        budget = MacBudget(network, images[0][:1], network.model)
        trials = Trials(network, settings(sparsity, "greedy", method), sources)

        def row(name: str, sizes: dict[int, int], seconds: float, trials: Trials = trials) -> None:
            narrow = compress(network, trials.config, sources, sizes=sizes).model
            table.add(
                method=trials.config.method.name,
                target=float(trials.config.sparsity),  # type: ignore[arg-type]
                search=name,
                seconds=seconds,
                nats=trials.loss(sizes),
                accuracy=round(evaluate(narrow, digits).accuracy, 2),
            )

        row("uniform", dict(zip(numbers, widths(groups, sizes_of(groups), sparsity, budget=budget), strict=True)), 0)
        for search in SEARCHES:
            config = settings(sparsity, search, method, numbers)
            began = clock()
            found = allocate(network, config, sources, groups=groups, originals=sizes_of(groups), budget=budget)
            row(search, dict(found.sizes), clock() - began)
        began = clock()
        best, measured = exhaustive(trials, groups, budget, sparsity)
        row(f"exhaustive ({measured})", best, clock() - began)


def main() -> None:
    arguments = parser(__doc__, "allocation.parquet")
    arguments.add_argument("--models", nargs="*", default=["vgg11_bn", "resnet18"])
    arguments.add_argument("--width", type=float, default=1.0)
    arguments.add_argument("--images", type=int, default=512, help="that a search looks at")
    arguments.add_argument("--sparsity", type=float, default=0.5, help="of the multiplications")
    arguments.add_argument("--epoch", type=int, default=50000, help="images of an epoch of fine-tuning")
    arguments.add_argument("--clock", choices=CLOCKS, default="wall", help="processor where other programs run too")
    options = arguments.parse_args()
    torch.set_num_threads(options.threads)
    names = ("threads", "width", "images", "sparsity", "epoch", "runs", "clock")
    conditions = machine("torch") | {name: getattr(options, name) for name in names}
    announce(conditions)
    clock = CLOCKS[options.clock]
    found = Table("Searches beside every combination of widths: VGG11-BN (0.125×), four groups, digits")
    compare(found, options, clock)
    spent = Table("A search for widths, beside an epoch of fine-tuning")
    for name in options.models:
        costs(spent, name, options, partial(side_by_side, runs=options.runs, clock=clock))
    write(options.out, conditions, found, spent)


if __name__ == "__main__":
    main()
