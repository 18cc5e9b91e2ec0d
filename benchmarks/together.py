"""Several split models on one node or GPU: trained one after the other, at the same time, or stacked into one.

    python benchmarks/together.py [--models resnet18 vgg11_bn] [--networks 2 4] [--images 512] [--device cpu]
        [--precision float32] [--runs 3]

Each of k networks is trained for an epoch on random 32×32 colour images: one after the other with all threads; in k
processes with an equal share of them; in float32 also stacked by `torch.func`, all k in each step (PyTorch's batched
batch-norm does not take what autocast makes of its input). Loading and one epoch before do not count.
"""

import argparse
import copy
import multiprocessing
import statistics
import time
from concurrent.futures import ProcessPoolExecutor
from functools import partial
from multiprocessing.synchronize import Barrier
from typing import Literal

import torch
from measuring import Table, announce, machine, parser, write
from torch import Tensor, nn
from torch.func import functional_call, grad, stack_module_state, vmap
from torch.nn import functional as F
from training import noise

from workloads.config import ModelConfig, TrainingConfig
from workloads.data.augmentation import augment
from workloads.data.samples import Dataset
from workloads.measuring.precision import resolved
from workloads.networks.models import build
from workloads.training.loop import train

AUGMENTATION: tuple[Literal["flip", "crop"], ...] = ("flip", "crop")
_meeting: Barrier


def network(name: str, device: str) -> nn.Module:
    return build(ModelConfig(name=name), channels=3, classes=10).to(device)


def epoch(model: nn.Module, dataset: Dataset, config: TrainingConfig) -> float:
    """Seconds of one epoch of metaprune's training."""
    return train(model, dataset, config, seed=0, augmentation=AUGMENTATION)[0].seconds


def meet_at(barrier: Barrier) -> None:
    """Let a process know where it waits for the others."""
    global _meeting
    _meeting = barrier


def epoch_beside_others(name: str, options: argparse.Namespace, threads: int) -> float:
    """The same in a process that starts with the others."""
    torch.set_num_threads(threads)
    model, dataset = network(name, options.device), noise(options.images)
    epoch(model, dataset, options.config)
    _meeting.wait()
    return epoch(model, dataset, options.config)


def at_the_same_time(name: str, count: int, options: argparse.Namespace) -> float:
    """Seconds until the last of `count` processes is through its epoch."""
    context = multiprocessing.get_context("spawn")
    threads = max(1, options.threads // count)
    with ProcessPoolExecutor(count, context, meet_at, (context.Barrier(count),)) as pool:
        epochs = [pool.submit(epoch_beside_others, name, options, threads) for _ in range(count)]
        return max(future.result() for future in epochs)


def one_after_the_other(name: str, count: int, options: argparse.Namespace) -> float:
    """Seconds of all epochs."""
    models, dataset = [network(name, options.device) for _ in range(count)], noise(options.images)
    epoch(models[0], dataset, options.config)
    return sum(epoch(model, dataset, options.config) for model in models)


def stacked(name: str, count: int, options: argparse.Namespace) -> float:
    """Seconds of an epoch in float32 in which every step is one of all networks, on batches of their own."""
    models, dataset = [network(name, options.device) for _ in range(count)], noise(options.images)
    parameters, buffers = stack_module_state(models)
    shell = copy.deepcopy(models[0]).to("meta").train()
    optimizer = torch.optim.SGD(parameters.values(), options.config.learning_rate, options.config.momentum)
    device = torch.device(options.device)
    generator = torch.Generator().manual_seed(0)

    def loss(parameters: dict[str, Tensor], buffers: dict[str, Tensor], images: Tensor, labels: Tensor) -> Tensor:
        return F.cross_entropy(functional_call(shell, (parameters, buffers), (images,)), labels)

    def all_steps() -> float:
        started = time.perf_counter()
        augmented = partial(augment, names=AUGMENTATION, generator=generator)
        loaders = [
            dataset.batches("train", options.config.batch_size, device, augmented=augmented) for _ in range(count)
        ]
        for batches in zip(*loaders, strict=True):
            images = torch.stack([images for images, _ in batches])
            labels = torch.stack([labels for _, labels in batches])
            gradients = vmap(grad(loss))(parameters, buffers, images, labels)
            for parameter_name, gradient in gradients.items():
                parameters[parameter_name].grad = gradient
            optimizer.step()
        if device.type == "cuda":
            torch.cuda.synchronize()
        return time.perf_counter() - started

    all_steps()
    return all_steps()


WAYS = {"one after the other": one_after_the_other, "at the same time": at_the_same_time}


def main() -> None:
    arguments = parser(__doc__, "together.parquet")
    arguments.add_argument("--models", nargs="+", default=["resnet18", "vgg11_bn"])
    arguments.add_argument("--networks", type=int, nargs="+", default=[2, 4])
    arguments.add_argument("--images", type=int, default=512, help="in an epoch of each network")
    arguments.add_argument("--device", default="cuda" if torch.cuda.is_available() else "cpu")
    arguments.add_argument("--precision", default="auto", choices=["auto", "float32", "bfloat16"])
    options = arguments.parse_args()
    precision = resolved(options.precision, torch.device(options.device))
    options.config = TrainingConfig(epochs=1, precision=options.precision)
    ways = WAYS | ({"stacked": stacked} if precision == "float32" else {})
    torch.set_num_threads(options.threads)
    settings = ("threads", "device", "images", "runs")
    conditions = machine("torch") | {name: getattr(options, name) for name in settings} | {"precision": precision}
    if options.device == "cuda":
        conditions["gpu"] = torch.cuda.get_device_name()
    announce(conditions)
    table = Table("Networks trained for an epoch each, batches of 128 images of 32×32")
    for name in options.models:
        for count in options.networks:
            runs = [[way(name, count, options) for way in ways.values()] for _ in range(options.runs)]
            taken = [statistics.median(column) for column in zip(*runs, strict=True)]
            for way, seconds in zip(ways, taken, strict=True):
                rate = count * options.images / seconds
                table.add(model=name, networks=count, way=way, **{"images/s": rate, "ratio": taken[0] / seconds})
    write(options.out, conditions, table)


if __name__ == "__main__":
    main()
