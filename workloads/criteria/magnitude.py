"""Criteria that look at the weights alone."""

from collections.abc import Callable

import torch
from torch import Tensor, nn

from workloads.groups import CONSUMER, NORM, PRODUCER, Group, get_layer, rows


def by_layer(model: nn.Module, group: Group, score: Callable[[Tensor], Tensor]) -> list[Tensor]:
    """`score` of each layer's weights, given as (n, d): a row of a producer, a column of a consumer."""
    return [
        score(rows(get_layer(model, member.layer).weight.detach(), int(member.side == CONSUMER), member.index))
        for member in group.on(PRODUCER, CONSUMER)
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
