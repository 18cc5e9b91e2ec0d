"""Solving layers again: processor seconds of a cell of whole-network pruning, beside training and GRAIL's procedure.

    python benchmarks/compensation.py [--models vgg11_bn resnet18] [--width 1] [--images 512] [--sparsity 0.5]
        [--epoch 50000] [--runs 3] [--threads 1] [--clock wall|processor]

Each row is one network of which every group is pruned by l1 on random 32×32 colour images; neither time nor ratios hang
on what the images show. The columns, measured in turns:

- `choice`: elimination's order of all groups, from the same number of images;
- `first`: least squares of a cell, the original's pass included;
- `next`: of a further cell of the same grid, which finds the original's activations kept;
- `pointwise`: the same with one map of the channels a layer in place of whole kernels;
- `data`: the repair of statistics, for comparison;
- `ridge`: what GRAIL (CPAL 2026) does after a choice, written plainly: group by group in running order one ridge from
  what the consumers read now to what they read in the original, folded into their weights;
- `epoch`: one of fine-tuning the pruned network on `--epoch` images, from 512 of them.

Ratios above 1 say that an epoch, or GRAIL's procedure, takes longer than a further cell.
"""

import argparse
from collections.abc import Callable, Sequence
from functools import partial
from typing import Any

import torch
from measuring import CLOCKS, Table, announce, machine, parser, side_by_side, write
from torch import Tensor, nn
from training import noise

from workloads.compression import Sources, compress, score
from workloads.compression.compensation import Originals
from workloads.compression.group_sizes import size_after
from workloads.config import CompressionConfig, ModelConfig, TrainingConfig
from workloads.networks.models import build
from workloads.structure.copying import copied
from workloads.structure.network import Network
from workloads.training.loop import train

EPOCH_IMAGES = 512  # of which an epoch's time is taken


def reads(model: nn.Module, layers: Sequence[str], images: Sequence[Tensor]) -> dict[str, Tensor]:
    """What layers read of all images, (values, channels) each."""
    read: dict[str, list[Tensor]] = {name: [] for name in layers}

    def keep(name: str, _: nn.Module, inputs: tuple[Tensor, ...]) -> None:
        read[name].append(inputs[0].movedim(1, -1).flatten(0, -2))

    hooks = [model.get_submodule(name).register_forward_pre_hook(partial(keep, name)) for name in layers]
    for batch in images:
        model(batch)
    for hook in hooks:
        hook.remove()
    return {name: torch.cat(parts) for name, parts in read.items()}


@torch.no_grad()
def ridged(original: Network, narrowed: Network, kept: dict[int, Tensor], images: Sequence[Tensor]) -> None:
    """GRAIL on a network whose groups kept these channels: new weights of all consumers, in place."""
    groups = original.structure.groups
    rows = {
        member.layer: kept[group.number] for group in groups for member in group.members if member.side == "producer"
    }
    for group in reversed(groups):
        consumers = [member.layer for member in group.members if member.side == "consumer"]
        before, now = reads(original.model, consumers, images), reads(narrowed.model, consumers, images)
        for name in consumers:
            covariance = now[name].T @ now[name]
            ridge = 1e-3 * covariance.diagonal().mean() * torch.eye(len(covariance))
            back = torch.linalg.solve(covariance + ridge, now[name].T @ before[name])  # (kept, channels)
            weight: Any = original.model.get_submodule(name).weight
            wanted = weight[rows[name]] if name in rows else weight
            target: Any = narrowed.model.get_submodule(name).weight
            target.copy_(torch.einsum("oc...,kc->ok...", wanted, back))


def measure(table: Table, name: str, options: argparse.Namespace, timed: Callable[..., dict[str, float]]) -> None:
    """Add the row of a network."""
    model = build(ModelConfig(name=name, width=options.width), channels=3, classes=10).eval()
    network = Network.prepared(model, torch.zeros(1, 3, 32, 32))
    images = [batch for batch, _ in noise(options.images).batches("train", 128)]
    originals = Originals()

    def pruned(repair: Any = "none", keep: Originals | None = None) -> Network:
        config = CompressionConfig(sparsity=options.sparsity, repair=repair)
        return compress(network, config, Sources(images[0][:1], images=images, originals=keep))

    def choice() -> None:
        fresh = network._replace(model=copied(network.model))  # covariances of a network that was seen are remembered
        for group in network.structure.groups:
            score(fresh, group.number, "elimination", Sources(images[0][:1], images=images))

    sources = Sources(images[0][:1])
    kept = {
        group.number: score(network, group.number, "l1", sources)[1]
        .topk(size_after(group.size, options.sparsity))
        .indices.sort()
        .values
        for group in network.structure.groups
    }
    solving = {"name": "least-squares", "images": options.images}
    few = noise(EPOCH_IMAGES)
    training = TrainingConfig(epochs=1, evaluate_every=1)
    pruned(solving, originals)  # keeps the original's activations
    taken = timed(
        {
            "choice": choice,
            "first": lambda: pruned(solving),
            "next": lambda: pruned(solving, originals),
            "pointwise": lambda: pruned({**solving, "kernels": "pointwise"}, originals),
            "data": lambda: pruned("data"),
            "ridge": lambda: ridged(network, pruned(), kept, images),
            "epoch": lambda: train(pruned().model, few, training, seed=0),
        }
    )
    taken["epoch"] *= options.epoch / EPOCH_IMAGES
    columns = {f"{column} (s)": value for column, value in taken.items()}
    ratios = {f"{column}/next": taken[column] / taken["next"] for column in ("ridge", "epoch")}
    table.add(network=name, **columns, **ratios)


def main() -> None:
    arguments = parser(__doc__, "compensation.parquet")
    arguments.add_argument("--models", nargs="+", default=["vgg11_bn", "resnet18"])
    arguments.add_argument("--width", type=float, default=1.0)
    arguments.add_argument("--images", type=int, default=512, help="that are solved on")
    arguments.add_argument("--sparsity", type=float, default=0.5)
    arguments.add_argument("--epoch", type=int, default=50000, help="images of an epoch of fine-tuning")
    arguments.add_argument("--clock", choices=CLOCKS, default="wall", help="processor where other programs run too")
    options = arguments.parse_args()
    torch.set_num_threads(options.threads)
    settings = ("threads", "width", "images", "sparsity", "epoch", "runs", "clock")
    conditions = machine("torch") | {name: getattr(options, name) for name in settings}
    announce(conditions)
    table = Table("A cell of whole-network pruning")
    timed = partial(side_by_side, runs=options.runs, clock=CLOCKS[options.clock])
    for name in options.models:
        measure(table, name, options, timed)
    write(options.out, conditions, table)


if __name__ == "__main__":
    main()
