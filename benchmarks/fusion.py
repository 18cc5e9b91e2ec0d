"""Fusing whole networks, and landscapes: seconds of a fusion of k ResNet18s, points of a plane a second.

    python benchmarks/fusion.py [--networks 2 4 6] [--width 1] [--images 200] [--points 4] [--samples 500] [--runs 3]
        [--clock wall|processor]

Fusion, by column: the average alone; aligned by distances of weights; by those of activations on `--images` images;
with the repair of statistics as well, which is metaprune's default. A point of a landscape is the network there,
measured on `--samples` test images: with a new network for each point and a DataLoader of transformed PIL images, as a
user would write it, and metaprune's way. Networks are not trained, which changes no time.
"""

import argparse
import copy
from dataclasses import replace
from functools import partial
from typing import Any

import torch
import torchvision.transforms as T
from measuring import CLOCKS, Table, Timed, announce, machine, parser, side_by_side, write
from torch import nn
from training import Pictures, noise

from workloads.config import FusionConfig, ModelConfig
from workloads.data.samples import Dataset
from workloads.fusion.fuse import fuse
from workloads.measuring.evaluation import evaluate
from workloads.measuring.landscape import Plane
from workloads.networks.models import build
from workloads.structure.network import Network

FUSIONS = {
    "average": FusionConfig(alignment="none", repair=False),
    "weights": FusionConfig(alignment="weights", repair=False),
    "activations": FusionConfig(repair=False),
    "with repair": FusionConfig(),
}


def resnet18(width: float, seed: int) -> Network:
    """A ResNet18 for 32×32 colour images, batch-norm merged."""
    model = build(ModelConfig(name="resnet18", width=width), channels=3, classes=10, seed=seed)
    return Network.prepared(model, torch.zeros(1, 3, 32, 32))


def measure_fusion(table: Table, count: int, options: argparse.Namespace, timed: Timed) -> None:
    """Add the row of a number of networks."""
    networks = [resnet18(options.width, seed) for seed in range(count)]
    images = [batch for batch, _ in noise(options.images).batches("train", options.images)]

    def fused(config: FusionConfig) -> nn.Module:
        return fuse([n.model for n in networks], [n.structure for n in networks], images, config)

    taken = timed({name: partial(fused, config) for name, config in FUSIONS.items()})
    columns = {f"{name} (s)": value for name, value in taken.items()}
    table.add(networks=count, **columns, **{"s/aligned": taken["with repair"] / (count - 1)})


@torch.no_grad()
def plain_points(models: list[nn.Module], loader: torch.utils.data.DataLoader[Any], points: int) -> list[float]:
    """Accuracies at points on the line between two networks, each as a network of its own."""
    accuracies = []
    one, other = (model.state_dict() for model in models)
    for number in range(points):
        share = number / points
        model = copy.deepcopy(models[0]).eval()
        model.load_state_dict({name: (1 - share) * one[name] + share * other[name] for name in one})
        hits = [model(images).argmax(1) == labels for images, labels in loader]
        accuracies.append(100 * torch.cat(hits).double().mean().item())
    return accuracies


def plane_points(plane: Plane, dataset: Dataset, points: int) -> list[float]:
    """Accuracies at the same points of the plane, as the stages of landscapes find them."""
    places = [float(plane.corners[1, 0]) * number / points for number in range(points)]
    return [evaluate(plane.network(place, 0.0), dataset).accuracy for place in places]


def measure_landscape(table: Table, options: argparse.Namespace, timed: Timed) -> None:
    """Add the rows of the plain and of metaprune's way; both find the same accuracies."""
    models = [resnet18(options.width, seed).model for seed in range(3)]
    dataset = noise(options.samples)
    dataset = replace(dataset, test_pool=dataset.train_pool)
    transform = T.Compose([T.ToTensor(), T.Normalize(dataset.mean, dataset.std)])
    loader = torch.utils.data.DataLoader(Pictures(dataset, transform), batch_size=128)
    plane = Plane(models)
    found = plain_points(models[:2], loader, options.points), plane_points(plane, dataset, options.points)
    assert max(abs(a - b) for a, b in zip(*found, strict=True)) <= 1, found  # rounding turns a label in a hundred
    taken = timed(
        {
            "plain": lambda: plain_points(models[:2], loader, options.points),
            "metaprune": lambda: plane_points(plane, dataset, options.points),
        }
    )
    for name, value in taken.items():
        table.add(way=name, **{"points/s": options.points / value, "ratio": taken["plain"] / value})


def main() -> None:
    arguments = parser(__doc__, "fusion.parquet")
    arguments.add_argument("--networks", type=int, nargs="+", default=[2, 4, 6])
    arguments.add_argument("--width", type=float, default=1.0)
    arguments.add_argument("--images", type=int, default=200)
    arguments.add_argument("--points", type=int, default=4)
    arguments.add_argument("--samples", type=int, default=500)
    arguments.add_argument("--clock", choices=CLOCKS, default="wall", help="processor where other programs run too")
    options = arguments.parse_args()
    torch.set_num_threads(options.threads)
    settings = ("threads", "width", "images", "points", "samples", "runs", "clock")
    conditions = machine("torch", "POT") | {name: getattr(options, name) for name in settings}
    announce(conditions)
    timed = partial(side_by_side, runs=options.runs, clock=CLOCKS[options.clock])
    fusions, landscape = Table("Fusion of ResNet18s"), Table("Points of a landscape")
    for count in options.networks:
        measure_fusion(fusions, count, options, timed)
    measure_landscape(landscape, options, timed)
    write(options.out, conditions, fusions, landscape)


if __name__ == "__main__":
    main()
