"""Criteria that look at the weights alone, batch-norm's scale among them."""

from collections.abc import Callable, Mapping

import torch
from torch import Tensor, nn

from workloads.compression.transport import pairwise_distances
from workloads.structure.groups import CONSUMER, NORM, PRODUCER, THROUGH, Group
from workloads.structure.layers import get_layer, rows


def by_layer(
    model: nn.Module,
    group: Group,
    score: Callable[[Tensor], Tensor],
    sides: tuple[str, ...] = (PRODUCER, THROUGH, CONSUMER),
) -> list[Tensor]:
    """`score` of each layer's weights, given as (n, d): a row of a producer or of a depthwise layer, a column of a
    consumer."""
    return [
        score(rows(get_layer(model, member.layer).weight.detach(), member.axis, member.index))
        for member in group.on(*sides)
    ]


def relative(scores: Tensor) -> Tensor:
    """Scores divided by their mean; all-zero scores stay zero."""
    return scores / scores.mean().clamp(min=torch.finfo(scores.dtype).tiny)


def l1(model: nn.Module, group: Group) -> Tensor:
    """Sum of absolute weights, mean over the group's layers (Li et al. 2017)."""
    return relative(torch.stack(by_layer(model, group, lambda w: w.abs().sum(1))).mean(0))


def l2(model: nn.Module, group: Group) -> Tensor:
    """Sum of squared weights, mean over the group's layers."""
    return relative(torch.stack(by_layer(model, group, lambda w: w.square().sum(1))).mean(0))


def linf(model: nn.Module, group: Group) -> Tensor:
    """Largest absolute weight, mean over the group's layers."""
    return relative(torch.stack(by_layer(model, group, lambda w: w.abs().amax(1))).mean(0))


def fpgm(model: nn.Module, group: Group) -> Tensor:
    """Sum of l2 distances to the other pairings' incoming weights, mean over the producing layers (He et al. 2019).

    What lies nearest to the geometric median can be replaced by the others. The weights contain the merged batch-norm.
    """
    return relative(torch.stack(by_layer(model, group, lambda w: pairwise_distances(w).sum(1), (PRODUCER,))).mean(0))


def bn_scale(model: nn.Module, group: Group, *, statistics: Mapping[str, tuple[Tensor, Tensor]]) -> Tensor:
    """Batch-norm's scale |γ|, mean over the producing layers that have one (network slimming, Liu et al. 2017).

    Raises:
        ValueError: no layer of the group has statistics.
    """
    scales = [
        rows(statistics[member.layer][1].abs(), 0, member.index).sum(1)
        for member in group.on(PRODUCER)
        if member.layer in statistics
    ]
    if not scales:
        raise ValueError(
            f"criterion 'bn-scale' finds no batch-norm scale for layer '{group.layers[0]}' of group {group.number}: "
            f"its batch-norm is missing, was emptied or cannot be merged; use another criterion for this group"
        )
    return relative(torch.stack(scales).mean(0))


def lamp(model: nn.Module, group: Group, *, restore_order: bool = False) -> Tensor:
    """Layer-adaptive magnitude (Lee et al. 2021) of whole neurons, as Intra-Fusion's authors compute it.

    The l2 norms are averaged over the layers, the batch-norms' weights counted as layers; sorted descending, each is
    divided by the sum of all that are at least as large. The published code then hands the quotients back in the
    wrong order: pairing i gets that of the pairing ranked `order[i]`. That is the default here, because the paper's
    numbers come from it.

    Args:
        model: the network, batch-norm merged.
        group: the group.
        restore_order: give every pairing its own score instead.
    """
    norms = [
        rows(get_layer(model, member.layer).weight.detach(), 0, member.index).norm(dim=1)
        for member in group.on(NORM)
        if get_layer(model, member.layer).weight is not None
    ]
    averaged = relative(torch.stack(by_layer(model, group, lambda w: w.norm(dim=1)) + norms).mean(0))
    order = averaged.argsort(descending=True)
    quotients = averaged[order] / averaged[order].cumsum(0)
    return torch.empty_like(quotients).scatter_(0, order, quotients) if restore_order else quotients[order]


def random(model: nn.Module, group: Group, *, generator: torch.Generator) -> Tensor:
    """Uniform scores in [0, 1): the control experiment of the paper's Table 5."""
    return torch.rand(group.size, generator=generator)
