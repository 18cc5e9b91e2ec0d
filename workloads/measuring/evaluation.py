"""Measuring a network: accuracy over all samples, size, multiplications, and time."""

import math
import statistics
import time
from collections.abc import Iterable, Sequence
from dataclasses import dataclass

import torch
from torch import Tensor, nn
from torch.nn import functional as F
from torch.utils.flop_counter import FlopCounterMode

from workloads.data.samples import Dataset
from workloads.measuring.precision import float32_products, products
from workloads.measuring.shared_forward import forward_together

BATCH = {"cpu": 100, "cuda": 500}  # images of 32×32; on a CPU, the maps of 100 fit its caches
LATENCY_RUNS = (3, 20)
LATENCY_SECONDS = 0.05


@dataclass(frozen=True)
class Measurement:
    """What a network does on the test images.

    Attributes:
        accuracy: percent top-1 over all samples.
        accuracy_top5: percent top-5; equal to 100 where there are at most five classes.
        loss: mean cross entropy.
        seconds: wall clock of the measurement; of several networks measured together, an equal share.
    """

    accuracy: float
    accuracy_top5: float
    loss: float
    seconds: float


def evaluate(
    model: nn.Module, dataset: Dataset, batch_size: int | None = None, *, precision: str = "float32"
) -> Measurement:
    """Run the network in evaluation mode over the test images, on the device of its weights.

    The weights are laid out channels-last, in place, which most hardware is faster with.

    Args:
        batch_size: images at a time; None takes what is fast on the device.
        precision: of the products, float32 or bfloat16.

    Raises:
        FloatingPointError: the network's outputs are not numbers.
    """
    return evaluate_together([model], dataset, batch_size, precision=precision)[0]


def evaluate_together(
    models: Sequence[nn.Module], dataset: Dataset, batch_size: int | None = None, *, precision: str = "float32"
) -> list[Measurement]:
    """The same for copies of one network that differ in some layers; what they have in common runs once a batch.

    Every measurement is to the last bit what `evaluate` gives; each takes an equal share of the time.
    """
    device = next(models[0].parameters()).device
    for model in models:
        model.eval().to(memory_format=torch.channels_last)
    started = time.perf_counter()
    totals = [torch.zeros(3, dtype=torch.float64, device=device) for _ in models]
    example = torch.randn(2, *dataset.shape, generator=torch.Generator().manual_seed(0)).to(device)
    batch_size = batch_size or fast_batch(device, dataset.shape)
    with torch.inference_mode(), products(precision, device):
        forward = forward_together(models, example.contiguous(memory_format=torch.channels_last))
        for images, labels in dataset.batches("test", batch_size, device):
            for total, logits in zip(
                totals, forward(images.contiguous(memory_format=torch.channels_last)), strict=True
            ):
                total += hits_and_loss(logits, labels)
    means = (torch.stack(totals) / len(dataset.test_pool)).tolist()  # waits for a GPU
    seconds = (time.perf_counter() - started) / len(models)
    if any(math.isnan(loss) for *_, loss in means):
        raise FloatingPointError("the network's outputs for the test images are not numbers (NaN)")
    return [Measurement(100 * top1, 100 * top5, loss, seconds) for top1, top5, loss in means]


def fast_batch(device: torch.device, shape: tuple[int, int, int]) -> int:
    """Images of `shape` (C, H, W) to be measured at a time, fewer of larger ones."""
    _, height, width = shape
    return max(8, round(BATCH.get(device.type, BATCH["cuda"]) * min(1.0, 32 * 32 / (height * width))))


def hits_and_loss(logits: Tensor, labels: Tensor) -> Tensor:
    """(3,) float64: how many labels are the best logit, how many are among the best five, summed loss."""
    best = logits.topk(min(5, logits.shape[1]), dim=1).indices
    hits = best == labels[:, None]
    loss = F.cross_entropy(logits, labels, reduction="none").double().sum()
    return torch.stack([hits[:, 0].sum(), hits.any(1).sum(), loss])


@torch.inference_mode()
def logits(model: nn.Module, dataset: Dataset) -> Tensor:
    """(N, classes) float32 on the CPU: what the network says of every test image, in evaluation mode and float32."""
    device = next(model.parameters()).device
    batch_size = fast_batch(device, dataset.shape)
    with float32_products():
        return torch.cat([model.eval()(images).cpu() for images, _ in dataset.batches("test", batch_size, device)])


@torch.inference_mode()
def accuracy(model: nn.Module, batches: Iterable[tuple[Tensor, Tensor]]) -> float:
    """Percent top-1 over (images, labels) batches."""
    hits = torch.cat([model.eval()(images).argmax(1) == labels for images, labels in batches])
    return 100 * hits.double().mean().item()


def parameter_count(model: nn.Module) -> int:
    """Number of weights and biases, batch-norm's included."""
    return sum(parameter.numel() for parameter in model.parameters())


@torch.no_grad()
def mac_count(model: nn.Module, shape: tuple[int, int, int]) -> int:
    """Multiply-accumulate operations of one image of `shape` (C, H, W): convolutions, linear layers, attention."""
    device = next(model.parameters()).device
    with FlopCounterMode(display=False) as counter:
        model.eval()(torch.zeros(1, *shape, device=device))
    return int(counter.get_total_flops()) // 2


def latency(model: nn.Module, shape: tuple[int, int, int], batch: int) -> float:
    """Milliseconds that a forward pass of `batch` images of `shape` (C, H, W) takes, in evaluation mode and float32.

    The median over as many passes as `LATENCY_SECONDS` allow, within `LATENCY_RUNS`, after one that does not count, on
    the device of the weights with PyTorch's present number of threads. What else runs there slows it down. The weights
    are laid out channels-last, in place.
    """
    device = next(model.parameters()).device
    images = torch.randn(batch, *shape, generator=torch.Generator().manual_seed(0)).to(device)
    images = images.contiguous(memory_format=torch.channels_last)
    model.eval().to(memory_format=torch.channels_last)
    seconds: list[float] = []
    fewest, most = LATENCY_RUNS
    with torch.inference_mode(), float32_products():
        _forward_seconds(model, images)
        while len(seconds) < fewest or (len(seconds) < most and sum(seconds) < LATENCY_SECONDS):
            seconds.append(_forward_seconds(model, images))
    return 1000 * statistics.median(seconds)


def _forward_seconds(model: nn.Module, images: Tensor) -> float:
    started = time.perf_counter()
    model(images)
    if images.is_cuda:
        torch.cuda.synchronize(images.device)
    return time.perf_counter() - started
