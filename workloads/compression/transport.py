"""Optimal transport between neurons: costs, marginals and exact plans."""

import warnings

import torch
from scipy.optimize import linear_sum_assignment
from torch import Tensor

MAX_ITERATIONS = 10_000_000
DISTANCE_ROWS = 64


def pairwise_distances(vectors: Tensor, p: float = 2.0) -> Tensor:
    """(n, n) l_p distances between the rows of (n, d), without the rounding of a matrix product.

    Every distance is computed once, and is what `torch.cdist` gives for all pairs, which takes twice as long. Those of
    half-precision vectors are float32.
    """
    n, vectors = len(vectors), full_precision(vectors)
    result = vectors.new_empty(n, n)
    for start in range(0, n, DISTANCE_ROWS):
        stop = start + DISTANCE_ROWS
        block = torch.cdist(vectors[start:stop], vectors[start:], p=p, compute_mode="donot_use_mm_for_euclid_dist")
        result[start:stop, start:] = block
        result[start:, start:stop] = block.T
    return result


def full_precision(vectors: Tensor) -> Tensor:
    """Half-precision numbers as float32, all others as they are."""
    return vectors.float() if vectors.dtype in (torch.float16, torch.bfloat16) else vectors


def uniform(size: int) -> Tensor:
    """(size,) float64, all equal, sum 1."""
    return torch.full((size,), 1 / size, dtype=torch.float64)


def proportional(importance: Tensor) -> Tensor:
    """(n,) float64 with mass in proportion to non-negative importance; uniform where all of it is zero."""
    mass = importance.double().clamp(min=0)
    return mass / mass.sum() if mass.sum() > 0 else uniform(len(mass))


def exact_plan(source: Tensor, target: Tensor, cost: Tensor) -> Tensor:
    """The plan of least cost that moves `source` to `target`.

    Square problems with uniform masses are assignments; the rest goes through POT's network simplex.

    Args:
        source: (n,) masses, sum 1.
        target: (m,) masses, sum 1.
        cost: (n, m), finite.

    Returns:
        (n, m) float64 with row sums `source` and column sums `target`.

    Raises:
        RuntimeError: the network simplex did not converge.
    """
    n, m = cost.shape
    costs = cost.detach().double().cpu().numpy()
    if n == m and torch.equal(source, uniform(n)) and torch.equal(target, uniform(n)):
        plan = torch.zeros(n, n, dtype=torch.float64)
        sources, targets = linear_sum_assignment(costs)
        plan[sources, targets] = 1 / n
        return plan
    import ot  # here, as it takes more than a second to load

    with warnings.catch_warnings():
        warnings.simplefilter("ignore", UserWarning)  # the log says the same, and becomes an error
        solution, log = ot.emd(source.numpy(), target.numpy(), costs, numItermax=MAX_ITERATIONS, log=True)
    if log["warning"] is not None:
        raise RuntimeError(f"optimal transport of {n} to {m} neurons did not converge: {log['warning']}")
    return torch.from_numpy(solution)


def soft_plan(source: Tensor, target: Tensor, cost: Tensor, regularisation: float) -> Tensor:
    """The plan of least cost minus entropy (Cuturi 2013), in which mass goes to several targets.

    Args:
        source, target, cost: as for `exact_plan`.
        regularisation: weight of the entropy as a share of the mean cost above the least.

    Returns:
        (n, m) float64, whose column sums are `target`, and row sums `source` as nearly as the iteration gets.
    """
    import ot  # as in `exact_plan`

    costs = cost.detach().double().cpu()
    costs = costs - costs.min()
    scale = float(costs.mean())
    if scale == 0:
        return torch.outer(source, target)
    plan = ot.sinkhorn(
        source, target, costs / scale, regularisation, method="sinkhorn_log", numItermax=1000, warn=False
    )
    return torch.as_tensor(plan)
