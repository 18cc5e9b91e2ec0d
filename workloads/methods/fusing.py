"""Methods that fuse pairings by optimal transport."""

from typing import Literal

import torch
from torch import Tensor

from workloads.groups import Maps, Pairings
from workloads.methods.selecting import most_important
from workloads.transport import exact_plan, proportional, uniform

Mass = Literal["uniform", "importance"]


def intra_fusion(
    pairings: Pairings,
    importance: Tensor,
    m: int,
    *,
    source: Mass = "uniform",
    target: Mass = "uniform",
    p: float = 1.0,
) -> Maps:
    """Transport all pairings onto the m most important ones (Theus et al. 2024, section 3).

    Args:
        pairings: the group's weights.
        importance: (n,) scores.
        m: pairings to keep.
        source: mass of the n pairings, equal or in proportion to importance.
        target: mass of the m targets, likewise.
        p: order of the distance between unit vectors of weights that is the cost.

    Returns:
        P = Q = Tᵀ·diag(1/μ), whose columns sum to one. Both sides of a fused neuron are sums, so that identical
        neurons come out stronger than they were together.
    """
    plan = plan_onto_most_important(pairings, importance, m, source, target, p)
    sums = share_of_rows(plan).T.to(pairings.incoming.dtype)
    return Maps(sums, sums)


def fusion_preserving(
    pairings: Pairings,
    importance: Tensor,
    m: int,
    *,
    source: Mass = "uniform",
    target: Mass = "uniform",
    p: float = 1.0,
    restore_norm: bool = True,
) -> Maps:
    """The plan of Intra-Fusion, averaged where activations are produced and summed where they are consumed.

    Identical neurons are fused without any change of the network's function.

    Args:
        pairings, importance, m, source, target, p: as for `intra_fusion`.
        restore_norm: scale each average so that its incoming vector, bias included, has the mean norm of what was
            averaged; unlike neurons otherwise cancel and their variance shrinks.

    Returns:
        P with rows that sum to one (before the norm is restored), Q with columns that sum to one.
    """
    plan = plan_onto_most_important(pairings, importance, m, source, target, p)
    dtype = pairings.incoming.dtype
    average, total = share_of_rows(plan.T).to(dtype), share_of_rows(plan).T.to(dtype)
    if restore_norm:
        incoming = torch.cat([pairings.incoming, pairings.bias], 1).cpu()
        wanted, reached = average @ incoming.norm(dim=1), (average @ incoming).norm(dim=1)
        average = average * torch.where(reached > 0, wanted / reached, 1.0)[:, None]
    return Maps(average, total)


def plan_onto_most_important(
    pairings: Pairings, importance: Tensor, m: int, source: Mass, target: Mass, p: float
) -> Tensor:
    """(n, m) exact plan from all pairings to the m most important ones."""
    kept = most_important(importance, m)
    mu = uniform(pairings.size) if source == "uniform" else proportional(importance)
    nu = uniform(m) if target == "uniform" else proportional(importance[kept])
    return exact_plan(mu, nu, pairings.distances(p)[:, kept])


def share_of_rows(plan: Tensor) -> Tensor:
    """Each row divided by its sum; rows without mass stay zero."""
    return plan / plan.sum(1, keepdim=True).clamp(min=torch.finfo(plan.dtype).tiny)
