"""A criterion that asks what a neuron's loss costs once the layers that read the others have been solved again."""

from collections.abc import Sequence

import torch
from torch import Tensor, nn

from workloads.compression.covariances import covariance_of
from workloads.structure.groups import CONSUMER, Group
from workloads.structure.layers import get_layer, rows

RIDGE = 1e-3  # added to covariances, as a share of the mean variance
STEPS = 1024  # in which neurons go; beyond as many neurons, several at a time


def elimination(model: nn.Module, group: Group, *, images: Sequence[Tensor], generator: torch.Generator) -> Tensor:
    """The order of backward elimination: the neuron goes next that the others best make up for (Hassibi & Stork 1993).

    Let C be the covariance of what the group's consumers read and M the sum of WᵀW over their weights, at all places of
    a kernel. If the consumers are solved again, losing neuron j adds M_jj / (C⁻¹)_jj to the squared error of what they
    make. The cheapest neuron goes, C⁻¹ and M follow by an update of rank one, and so on; who goes last matters most.
    So the choices for all sparsities are nested.

    Args:
        model, group, generator: as for every criterion.
        images: unlabelled training images.
    """
    consumers = list(group.on(CONSUMER))
    covariance = torch.zeros(group.size, group.size, dtype=torch.float64)
    weights = torch.zeros(group.size, group.size, dtype=torch.float64)
    seed = generator.initial_seed()
    for member in consumers:
        covariance += covariance_of(model, member, images, seed) / len(consumers)
        weight = get_layer(model, member.layer).weight.detach()
        outgoing = rows(weight, member.axis, member.index).double()
        weights += (outgoing @ outgoing.T).cpu() / weight.shape[1 - member.axis]
    return order_of_elimination(covariance, weights).double() / group.size


def order_of_elimination(covariance: Tensor, weights: Tensor) -> Tensor:
    """(n,) int64: 0 for the neuron that goes first, n − 1 for the one that stays last; see `backward_elimination`."""
    return backward_elimination(covariance, weights)[0]


def backward_elimination(covariance: Tensor, weights: Tensor) -> tuple[Tensor, Tensor]:
    """In which order neurons go, and what each of these steps costs.

    Args:
        covariance: (n, n) C of the neurons' activations, float64.
        weights: (n, n) M, what an error in them costs: eᵀMe.

    Returns:
        (n,) int64 order, 0 for the neuron that goes first and n − 1 for the one that stays last; (n,) float64 costs, in
        the order of the steps.
    """
    n = len(covariance)
    variance = covariance.diagonal().mean().clamp(min=torch.finfo(torch.float32).tiny)
    inverse = torch.linalg.inv(covariance + RIDGE * variance * torch.eye(n, dtype=covariance.dtype))
    cost = weights.clone()
    left = torch.arange(n)
    order = torch.empty(n, dtype=torch.int64)
    costs = torch.empty(n, dtype=torch.float64)
    gone = torch.zeros(n, dtype=torch.bool)
    place = 0
    while place < n:
        scores = (cost.diagonal() / inverse.diagonal()).masked_fill(gone, torch.inf)
        count = min(n - place, max(1, (n - place) // STEPS))
        chosen = scores.topk(count, largest=False, sorted=True).indices
        order[left[chosen]] = torch.arange(place, place + count)
        costs[place : place + count] = scores[chosen]
        place += count
        gone[chosen] = True
        # The neurons that stay take over what they know of those that go: A_j ≈ −Σ_i A_i (C⁻¹)_ji / (C⁻¹)_jj.
        known = torch.linalg.solve(inverse[chosen][:, chosen], inverse[chosen])
        # (I − K)ᵀM(I − K) in one product, K having rows for those that go alone: M − (KᵀV + VᵀK).
        moved = cost[chosen] - 0.5 * cost[chosen][:, chosen] @ known
        cost.addmm_(torch.cat([known, moved]).T, torch.cat([moved, known]), alpha=-1)
        inverse.addmm_(inverse[:, chosen], known, alpha=-1)
        inverse[chosen, chosen] = 1.0
        if 2 * int(gone.sum()) >= len(left):  # what is gone costs time too
            stay = (~gone).nonzero()[:, 0]
            left, gone = left[stay], gone[stay]
            cost, inverse = cost[stay][:, stay], inverse[stay][:, stay]
    return order, costs
