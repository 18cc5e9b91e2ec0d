"""A criterion that looks at how independent the channels of a layer's output are of each other."""

import math
from collections.abc import Sequence
from functools import partial

import torch
from torch import Tensor, nn

from workloads.compression.criteria.magnitude import relative
from workloads.compression.criteria.taps import run_tapped
from workloads.compression.repair import by_channel
from workloads.structure.groups import PRODUCER, Group
from workloads.structure.layers import get_layer

STEP = 0.5
NODES = torch.arange(math.log(1e-12), math.log(1e3), STEP, dtype=torch.float64).exp()
CHUNK = 2**24  # float64 numbers of the images decomposed at once: 128 MiB, and a few times that in passing


def chip(model: nn.Module, group: Group, *, batches: Sequence[tuple[Tensor, Tensor]]) -> Tensor:
    """Channel independence (Sui et al. 2021): what a channel adds to its feature map's nuclear norm.

    For each image and each producing layer, the nuclear norm of the output as (channels, positions) minus that with
    the channel set to zero; mean over images, then over layers.
    """
    producers = [(get_layer(model, member.layer), member) for member in group.on(PRODUCER)]
    totals = [
            layer.weight.new_zeros(layer.weight.shape[member.axis], dtype=torch.float64) for layer, member in producers
        ]
    with torch.no_grad():
        for images, _ in batches:
            taps = {
                member.layer: partial(add_independence, total, len(images))
                for total, (_, member) in zip(totals, producers, strict=True)
            }
            run_tapped(model, images, taps)
    scores = [total[member.index].sum(1) for total, (_, member) in zip(totals, producers, strict=True)]
    return relative(torch.stack(scores).mean(0))


def add_independence(total: Tensor, samples: int, layer: nn.Module, output: Tensor) -> None:
    """Add to `total` (c,) the independence of a layer's output channels, summed over the samples."""
    total += independence(by_channel(layer, output).unflatten(0, (samples, -1)).mT).sum(0)


def independence(maps: Tensor) -> Tensor:
    """‖A‖∗ − ‖A without row i‖∗ for every row of every matrix: (k, c, p) to (k, c), float64.

    Removing the row a from A takes aaᵀ from AᵀA, which multiplies det(AᵀA + s²) by p(s) = 1 − aᵀ(AᵀA + s²)⁻¹a (matrix
    determinant lemma). Since ∫₀^∞ log((s² + σ²)/(s² + τ²)) ds = π(σ − τ), the singular values lose together
    −1/π ∫₀^∞ log p(s) ds. With A = UΣVᵀ, p(s) = 1 − Σₖ uₖ²σₖ²/(σₖ² + s²), so one decomposition serves all rows. In
    x = log s the integrand is analytic for |Im x| < π/2 and falls exponentially on both sides: the trapezoid rule with
    step h errs by about exp(−π²/h), 3e-9 here; rounding adds as much.
    """
    _, channels, positions = maps.shape
    size = channels * (positions + min(channels, positions) + len(NODES))
    return torch.cat([_independence(part.double()) for part in maps.split(max(1, CHUNK // size))])


def _independence(maps: Tensor) -> Tensor:
    scale = torch.linalg.matrix_norm(maps, keepdim=True)
    maps = (maps / scale.clamp(min=torch.finfo(maps.dtype).tiny)).nan_to_num()  # NaN comes back with `scale`
    eps = torch.finfo(maps.dtype).eps
    nodes = NODES.to(maps.device)
    if maps.shape[1] <= maps.shape[2]:
        values, vectors = torch.linalg.eigh(maps @ maps.mT)
        values, shares = values.clamp(min=0), vectors.square()
    else:
        values, vectors = torch.linalg.eigh(maps.mT @ maps)
        values = values.clamp(min=eps)
        shares = (maps @ vectors).square() / values.unsqueeze(1)
    values = values.unsqueeze(2)
    lost = shares @ (values / (values + nodes.square()))  # 1 − p(s)
    # AᵀA ≥ aaᵀ bounds it, which keeps rounding out of the scores of tiny rows.
    lengths = maps.square().sum(2, keepdim=True)
    lost = torch.minimum(lost, lengths / (lengths + nodes.square())).clamp(max=1 - eps)
    # Beyond the last node −log p(s) is |a|²/s², so that the rule's further terms are a geometric series.
    tail = lost[..., -1] * nodes[-1] / math.expm1(STEP)
    return ((-(-lost).log1p() * nodes).sum(2) + tail) * scale.squeeze(2) * STEP / math.pi
