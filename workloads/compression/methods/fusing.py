"""Methods that fuse pairings: by optimal transport onto targets, or cluster by cluster."""

from collections.abc import Sequence
from typing import Literal

import torch
from torch import Tensor, nn

from workloads.compression.clustering import clusters, membership
from workloads.compression.covariances import products_of
from workloads.compression.methods.selecting import most_important
from workloads.compression.pairings import Pairings
from workloads.compression.repair import with_corrected_variance
from workloads.compression.transport import exact_plan, full_precision, proportional, uniform
from workloads.structure.batch_norm import Statistics
from workloads.structure.groups import CONSUMER, Group, Maps

Target = Literal["most-important", "k-means", "gaussian-mixture"]
Marginal = Literal["uniform", "importance", "softmax"]


def intra_fusion(
    pairings: Pairings,
    importance: Tensor,
    m: int,
    *,
    target: Target = "most-important",
    source_marginal: Marginal = "uniform",
    target_marginal: Marginal = "uniform",
    p: float = 1.0,
) -> Maps:
    """Transport all pairings onto m targets (Theus et al. 2024, section 3).

    Args:
        pairings: the group's weights.
        importance: (n,) scores.
        m: pairings to keep.
        target: the m most important pairings, or the centroids of m clusters of all pairings.
        source_marginal: mass of the n pairings: equal, in proportion to importance, or its softmax.
        target_marginal: mass of the m targets, likewise; a cluster has the importance of its members together.
        p: order of the distance between unit vectors of weights that is the cost.

    Returns:
        P = Q = Tᵀ·diag(1/μ), whose columns sum to one. Both sides of a fused neuron are sums, so that identical
        neurons come out stronger than they were together.
    """
    plan = plan_onto_targets(pairings, importance, m, target, source_marginal, target_marginal, p)
    sums = share_of_rows(plan).T.to(pairings.incoming.dtype)
    return Maps(sums, sums)


def fusion_preserving(
    pairings: Pairings,
    importance: Tensor,
    m: int,
    *,
    target: Target = "most-important",
    source_marginal: Marginal = "uniform",
    target_marginal: Marginal = "uniform",
    p: float = 1.0,
    restore_norm: bool = True,
) -> Maps:
    """The plan of Intra-Fusion, averaged where activations are produced and summed where they are consumed.

    Identical neurons are fused without any change of the network's function.

    Args:
        pairings, importance, m, target, source_marginal, target_marginal, p: as for `intra_fusion`.
        restore_norm: scale each average so that its incoming vector, bias included, has the mean norm of what was
            averaged; unlike neurons otherwise cancel and their variance shrinks.

    Returns:
        P with rows that sum to one (before the norm is restored), Q with columns that sum to one.
    """
    plan = plan_onto_targets(pairings, importance, m, target, source_marginal, target_marginal, p)
    dtype = pairings.incoming.dtype
    average, total = share_of_rows(plan.T).to(dtype), share_of_rows(plan).T.to(dtype)
    if restore_norm:
        incoming = torch.cat([pairings.incoming, pairings.bias], 1).cpu()
        wanted, reached = average @ incoming.norm(dim=1), (average @ incoming).norm(dim=1)
        average = average * torch.where(reached > 0, wanted / reached, 1.0)[:, None]
    return Maps(average, total)


def folding(
    pairings: Pairings,
    importance: Tensor,
    m: int,
    *,
    model: nn.Module,
    group: Group,
    statistics: Statistics,
    by: Literal["direction", "pairing", "incoming"] = "direction",
    correct_variance: bool = True,
) -> Maps:
    """Average each of m k-means clusters where it is produced, sum it where it is consumed (Wang et al., ICLR 2025).

    Importance plays no part.

    Args:
        pairings, importance, m: as for every method.
        model: the network as it is, batch-norm merged.
        group: the group in it.
        statistics: of the producing layers' outputs, from their batch-norms.
        by: what is clustered: weights that produce the neurons beside those that consume them, at unit length; the
            same as they are, with biases; or what produces them alone.
        correct_variance: give the averages the mean and deviation of their members (Fold-AR).
    """
    incoming = torch.cat([pairings.incoming, pairings.bias], 1)
    vectors = {
        "pairing": torch.cat([incoming, pairings.outgoing], 1),
        "direction": pairings.directions,
        "incoming": incoming,
    }
    folded = averages(vectors[by], m)
    return with_corrected_variance(model, group, statistics, folded) if correct_variance else folded


def activation_folding(
    pairings: Pairings,
    importance: Tensor,
    m: int,
    *,
    model: nn.Module,
    group: Group,
    original: tuple[nn.Module, Group],
    images: Sequence[Tensor],
    statistics: Statistics,
    correct_variance: bool = False,
) -> Maps:
    """Folding of clusters of neurons that are alike in what they do on images, not in their weights.

    Neurons of several networks side by side can be compared by their activations alone, whatever the order in which
    groups are narrowed: the clusters of Neuron Interpolation (arXiv 2507.00037). Importance plays no part.

    Args:
        pairings, importance, m: as for every method.
        model: the network as it is, batch-norm merged.
        group: the group in it.
        original: the network before any of its groups was compressed, and the group in that; its activations count.
        images: normalised batches, without labels.
        statistics: of the producing layers' outputs, from their batch-norms.
        correct_variance: give the averages the mean and deviation of their members (Fold-AR).
    """
    folded = averages(activation_points(*original, images), m)
    return with_corrected_variance(model, group, statistics, folded) if correct_variance else folded


def averages(points: Tensor, m: int) -> Maps:
    """The averages of m clusters of points (n, features), a row a pairing, which every reader takes for the members."""
    members = membership(clusters(points, m), m)
    return Maps(members / members.sum(1, keepdim=True), members)


def activation_points(model: nn.Module, group: Group, images: Sequence[Tensor]) -> Tensor:
    """(n, n) float64 points, one a neuron, as far apart as what the consumers of a group read of them."""
    products = torch.zeros(group.size, group.size, dtype=torch.float64)
    for member in group.on(CONSUMER):
        products += products_of(model, member, images, seed=0)
    scale, axes = torch.linalg.eigh(products)
    points: Tensor = axes * scale.clamp(min=0).sqrt()
    return points


def plan_onto_targets(
    pairings: Pairings,
    importance: Tensor,
    m: int,
    target: Target,
    source_marginal: Marginal,
    target_marginal: Marginal,
    p: float,
) -> Tensor:
    """(n, m) exact plan from all pairings to m targets."""
    if target == "most-important":
        kept = most_important(importance, m)
        cost, mass = pairings.distances(p)[:, kept], importance[kept]
    else:
        members = membership(clusters(pairings.directions, m, target), m)
        directions = full_precision(pairings.directions)
        centroids = nn.functional.normalize(members.to(directions) @ directions, dim=1)
        cost, mass = torch.cdist(directions, centroids, p=p), members @ importance
    return exact_plan(marginal(source_marginal, importance), marginal(target_marginal, mass), cost)


def marginal(kind: Marginal, importance: Tensor) -> Tensor:
    """The masses of neurons, float64, sum 1."""
    if kind == "uniform":
        return uniform(len(importance))
    return proportional(importance) if kind == "importance" else importance.double().softmax(0)


def share_of_rows(plan: Tensor) -> Tensor:
    """Each row divided by its sum; rows without mass stay zero."""
    return plan / plan.sum(1, keepdim=True).clamp(min=torch.finfo(plan.dtype).tiny)
