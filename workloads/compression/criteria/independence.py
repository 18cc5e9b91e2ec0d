"""A criterion that looks at how independent the channels of a layer's output are of each other."""

import math
from collections.abc import Sequence

import torch
from torch import Tensor, nn

from workloads.compression.calls import Call, ImageBatch, by_image, image_batches, run_tapped
from workloads.compression.criteria.magnitude import relative
from workloads.structure.groups import PRODUCER, Group

STEP = 0.5
NODES = torch.arange(math.log(1e-12), math.log(1e3), STEP, dtype=torch.float64).exp()
CHUNK = 2**24  # float64 numbers of the images decomposed at once: 128 MiB, and a few times that in passing


def chip(model: nn.Module, group: Group, *, batches: Sequence[tuple[Tensor, Tensor]]) -> Tensor:
    """Channel independence (Sui et al. 2021): what a channel adds to its feature map's nuclear norm.

    For each image and each producing layer, the nuclear norm of the output as (channels, positions) minus that with
    the channel set to zero; mean over images and the layer's calls, then over layers.
    """
    members = list(group.on(PRODUCER))
    totals: dict[str, Tensor] = {}
    calls: dict[str, int] = {}
    with torch.no_grad():
        for batch in image_batches(model, [member.layer for member in members], batches):

            def add(call: Call, layer: nn.Module, output: Tensor, batch: ImageBatch = batch) -> None:
                maps = by_image(layer, output, len(batch.images), batch.rows_of(call)).mT
                totals[call.layer] = totals.get(call.layer, 0) + independence(maps).sum(0)
                calls[call.layer] = max(calls.get(call.layer, 0), call.number + 1)

            run_tapped(model, batch.images, outputs={member.layer: add for member in members})
    scores = [totals[member.layer][member.index].sum(1) / calls[member.layer] for member in members]
    return relative(torch.stack(scores).mean(0))


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
    scores: Tensor = ((-(-lost).log1p() * nodes).sum(2) + tail) * scale.squeeze(2) * STEP / math.pi
    return scores
