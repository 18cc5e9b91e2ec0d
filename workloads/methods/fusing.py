"""Methods that fuse pairings by optimal transport."""

from typing import Literal

from torch import Tensor

from workloads.groups import Maps, Pairings
from workloads.methods.selecting import most_important
from workloads.transport import exact_plan, proportional, uniform


def intra_fusion(
    pairings: Pairings,
    importance: Tensor,
    m: int,
    *,
    source: Literal["uniform", "importance"] = "uniform",
    target: Literal["uniform", "importance"] = "uniform",
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
        P = Q = Tᵀ·diag(1/μ), whose columns sum to one.
    """
    kept = most_important(importance, m)
    mu = uniform(pairings.size) if source == "uniform" else proportional(importance)
    nu = uniform(m) if target == "uniform" else proportional(importance[kept])
    plan = exact_plan(mu, nu, pairings.distances(p)[:, kept])
    columns = (plan / plan.sum(1, keepdim=True)).T.to(pairings.incoming.dtype)
    return Maps(columns, columns)
