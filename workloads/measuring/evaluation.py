"""Measuring a network: accuracy over all samples, size, and multiplications."""

import contextlib
import math
import time
from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass

import torch
from torch import Tensor, nn
from torch.nn import functional as F
from torch.nn.attention import SDPBackend, sdpa_kernel
from torch.utils.flop_counter import FlopCounterMode

from workloads.data.samples import Dataset
from workloads.measuring.precision import float32_products, products
from workloads.measuring.shared_forward import forward_together

BATCH = {"cpu": 100, "cuda": 500}  # images of 32×32; on a CPU, the maps of 100 fit its caches


@dataclass(frozen=True)
class Measurement:
    """What a network does on the test images.

    Attributes:
        accuracy: percent top-1 over all samples.
        accuracy_top5: percent top-5; equal to 100 where there are at most five classes.
        loss: mean cross entropy.
        seconds: wall clock of the measurement; of several networks measured together, an equal share.
        balanced_accuracy: percent top-1 of each class, averaged over the classes that have test images; None in
            measurements of version 0.1.
    """

    accuracy: float
    accuracy_top5: float
    loss: float
    seconds: float
    balanced_accuracy: float | None = None


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
    summed_on = torch.device("cpu") if device.type == "mps" else device  # Apple's GPUs have no float64
    totals = [torch.zeros(3 + len(dataset.classes), dtype=torch.float64, device=summed_on) for _ in models]
    example = torch.randn(2, *dataset.shape, generator=torch.Generator().manual_seed(0)).to(device)
    batch_size = batch_size or fast_batch(device, dataset.shape)
    with torch.inference_mode(), products(precision, device):
        forward = forward_together(models, example.contiguous(memory_format=torch.channels_last))
        for images, labels in dataset.batches("test", batch_size, device):
            for total, logits in zip(
                totals, forward(images.contiguous(memory_format=torch.channels_last)), strict=True
            ):
                total += hits_and_loss(logits.to(summed_on), labels.to(summed_on))
    sums = torch.stack(totals).cpu()  # waits for a GPU
    means = (sums[:, :3] / len(dataset.test_pool)).tolist()
    balanced = class_means(sums[:, 3:], dataset.test.labels[dataset.test_pool]).tolist()
    seconds = (time.perf_counter() - started) / len(models)
    if any(math.isnan(loss) for *_, loss in means):
        raise FloatingPointError("the network's outputs for the test images are not numbers (NaN)")
    return [
        Measurement(100 * top1, 100 * top5, loss, seconds, 100 * of_classes)
        for (top1, top5, loss), of_classes in zip(means, balanced, strict=True)
    ]


def fast_batch(device: torch.device, shape: tuple[int, int, int]) -> int:
    """Images of `shape` (C, H, W) to be measured at a time, fewer of larger ones."""
    _, height, width = shape
    return max(8, round(BATCH.get(device.type, BATCH["cuda"]) * min(1.0, 32 * 32 / (height * width))))


def hits_and_loss(logits: Tensor, labels: Tensor) -> Tensor:
    """(3 + classes,) float64 sums: how many labels are the best logit, how many are among the best five, the loss, and
    how many labels of each class are the best logit."""
    best = logits.topk(min(5, logits.shape[1]), dim=1).indices
    hits = best == labels[:, None]
    loss = F.cross_entropy(logits, labels, reduction="none").double().sum()
    of_classes = torch.zeros(logits.shape[1], dtype=torch.float64, device=logits.device)
    of_classes.index_add_(0, labels, hits[:, 0].double())
    return torch.cat([torch.stack([hits[:, 0].sum(), hits.any(1).sum(), loss]), of_classes])


def class_means(hits: Tensor, labels: Tensor) -> Tensor:
    """(M,) the mean over the classes of the share of each class's images that M networks got right.

    Args:
        hits: (M, classes) how many of each class.
        labels: (N,) of all images; a class without any does not count.
    """
    images = labels.bincount(minlength=hits.shape[1])
    return (hits[:, images > 0] / images[images > 0]).mean(1)


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
    """Multiply-accumulate operations of one image of `shape` (C, H, W): convolutions, linear layers, attention.

    Both products of attention count, whichever kernel computes them.
    """
    parameter = next(model.parameters())
    image = torch.zeros(1, *shape, device=parameter.device, dtype=parameter.dtype)
    with separate_products(), FlopCounterMode(display=False) as counter:
        model.eval()(image)
    return int(counter.get_total_flops()) // 2


@contextlib.contextmanager
def separate_products() -> Iterator[None]:
    """Compute attention product by product, as PyTorch's counter knows neither the fused layers nor a CPU's kernel."""
    fused = torch.backends.mha.get_fastpath_enabled()
    torch.backends.mha.set_fastpath_enabled(False)
    try:
        with sdpa_kernel(SDPBackend.MATH):
            yield
    finally:
        torch.backends.mha.set_fastpath_enabled(fused)
