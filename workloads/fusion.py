"""Fusing whole networks by optimal transport, group by group (Singh & Jaggi 2020)."""

import copy
from collections.abc import Sequence

import torch
from torch import Tensor, nn

from workloads.groups import PRODUCER, Group, Maps, Structure, apply, get_layer
from workloads.repair import (
    anchor_batch_norms,
    average_statistics,
    by_channel,
    match_statistics,
    output_moments,
    repaired_layers,
)
from workloads.transport import exact_plan, uniform


def activation_costs(
    anchor: nn.Module, other: nn.Module, structures: tuple[Structure, Structure], images: Sequence[Tensor]
) -> list[Tensor]:
    """For each group, squared l2 distances between the neurons' activations on the same images.

    Args:
        anchor, other: networks of the same architecture, batch-norm merged; widths may differ.
        structures: their groups.
        images: normalised batches.

    Returns:
        (n_other, n_anchor) float64 for each group, summed over its producing layers, images and positions.
    """
    recorded: dict[tuple[int, str], Tensor] = {}
    handles = []
    for side, (model, structure) in enumerate(zip((anchor, other), structures, strict=True)):
        for layer in {layer for group in structure.groups for layer in group.layers}:

            def hook(
                module: nn.Module, inputs: tuple[Tensor, ...], output: Tensor, key: tuple[int, str] = (side, layer)
            ) -> None:
                recorded[key] = by_channel(module, output)

            handles.append(get_layer(model, layer).register_forward_hook(hook))
    sizes = [(b.size, a.size) for a, b in zip(structures[0].groups, structures[1].groups, strict=True)]
    costs = [torch.zeros(size, dtype=torch.float64) for size in sizes]
    try:
        with torch.inference_mode():
            for batch in images:
                anchor.eval()(batch)
                other.eval()(batch)
                for cost, a, b in zip(costs, structures[0].groups, structures[1].groups, strict=True):
                    cost += squared_distances(a, b, recorded)
    finally:
        for handle in handles:
            handle.remove()
    return costs


def squared_distances(a: Group, b: Group, recorded: dict[tuple[int, str], Tensor]) -> Tensor:
    """(n_b, n_a) from the activations recorded under (0, layer) for `a` and (1, layer) for `b`."""
    total = torch.zeros(b.size, a.size, dtype=torch.float64)
    for member_a, member_b in zip(a.on(PRODUCER), b.on(PRODUCER), strict=True):
        of_a = recorded[0, member_a.layer][:, member_a.index[:, 0]]
        of_b = recorded[1, member_b.layer][:, member_b.index[:, 0]]
        squares = of_b.square().sum(0)[:, None] + of_a.square().sum(0)[None, :] - 2 * of_b.T @ of_a
        total += squares.clamp(min=0).double().cpu()
    return total


def transport_maps(cost: Tensor) -> Maps:
    """Maps that carry the pairings of one network onto another's along the exact plan between uniform masses.

    Args:
        cost: (n, m).

    Returns:
        P (m, n) with rows that sum to one, Q (m, n) with columns that sum to one: for n = m one permutation.
    """
    plan = exact_plan(uniform(cost.shape[0]), uniform(cost.shape[1]), cost)
    P = (plan / plan.sum(0, keepdim=True)).T
    Q = (plan / plan.sum(1, keepdim=True)).T
    return Maps(P.float(), Q.float())


def align(
    anchor: nn.Module, other: nn.Module, structures: tuple[Structure, Structure], images: Sequence[Tensor]
) -> nn.Module:
    """A copy of `other` with its pairings carried onto those of `anchor` that react alike to the images."""
    aligned = copy.deepcopy(other)
    costs = activation_costs(anchor, other, structures, images)
    for group, cost in zip(structures[1].groups, costs, strict=True):
        if cost.shape[1] > cost.shape[0]:
            raise ValueError(
                f"group {group.number} has {cost.shape[0]} neurons in a model and {cost.shape[1]} in the anchor: "
                f"fuse onto the narrowest model"
            )
        apply(aligned, group, transport_maps(cost))
    return aligned


def average(models: Sequence[nn.Module]) -> nn.Module:
    """A network whose weights are the mean of those of networks of the same shape."""
    fused = copy.deepcopy(models[0])
    states = [model.state_dict() for model in models]
    means = {
        name: torch.stack([state[name] for state in states]).mean(0) if value.is_floating_point() else value
        for name, value in states[0].items()
    }
    fused.load_state_dict(means)
    return fused


def fuse(
    models: Sequence[nn.Module], structures: Sequence[Structure], images: Sequence[Tensor], *, repair: bool = True
) -> nn.Module:
    """One network from several trained alike: all are aligned to the first, then averaged.

    Args:
        models: networks of one architecture, batch-norm merged; none narrower than the first in any group.
        structures: theirs.
        images: normalised training batches for the activations, and for the repair.
        repair: match mean and deviation of the layers' outputs to the mean of the aligned networks'.
    """
    anchor = models[0]
    aligned = [anchor] + [
        align(anchor, other, (structures[0], structure), images)
        for other, structure in zip(models[1:], structures[1:], strict=True)
    ]
    fused = average(aligned)
    if repair:
        layers = repaired_layers(structures[0])
        wanted = average_statistics([output_moments(parent, layers, images) for parent in aligned])
        match_statistics(fused, wanted, images)
        anchor_batch_norms(fused, structures[0], wanted)
    return fused
