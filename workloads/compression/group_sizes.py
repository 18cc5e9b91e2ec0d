"""How wide each group is to become: from a sparsity of neurons or weights to pairings that stay."""

from collections.abc import Collection, Sequence
from itertools import chain
from typing import Literal

import torch
from torch import Tensor, nn

from workloads.measuring.evaluation import parameter_count
from workloads.structure.groups import THROUGH, Group, Structure
from workloads.structure.layers import get_layer, made_dim

BISECTIONS = 40
OVERLAPPING = ("heads", "query-key", "value-output")
"""Kinds of groups that hold the same channels in two ways."""


def size_after(size: int, sparsity: float) -> int:
    """m = int(n·(1 − s)) pairings that stay, as published, but at least one."""
    return max(1, int(size * (1 - sparsity)))


def smallest(group: Group) -> int:
    """The least size: of a single group of channels or a single head nobody could tell that it is one of several.

    A grouped convolution with `groups=1` looks like an ordinary one; so does attention with one head, or one dimension.
    """
    return min(group.size, 2) if any(group.on(THROUGH)) or group.kind in OVERLAPPING else 1


def fitted(group: Group, m: int, round_to: int) -> int:
    """m rounded up to a multiple, but no more pairings than there are."""
    return min(group.size, max(smallest(group), -(-m // round_to) * round_to))


def uniform_widths(groups: Sequence[Group], originals: Sequence[int], sparsity: float, round_to: int) -> list[int]:
    """Each group loses the same share of its pairings before any pruning."""
    return [
        fitted(group, size_after(original, sparsity), round_to)
        for group, original in zip(groups, originals, strict=True)
    ]


def global_widths(
    groups: Sequence[Group], originals: Sequence[int], sparsity: float, round_to: int, scores: Sequence[Tensor]
) -> list[int]:
    """The least important pairings of all groups go, by one threshold on their scores."""
    kept = size_after(sum(originals), sparsity)
    owners = torch.tensor(list(chain.from_iterable([number] * len(s) for number, s in enumerate(scores))))
    best = torch.cat(list(scores)).argsort(descending=True, stable=True)[:kept]
    counts = owners[best].bincount(minlength=len(groups)).tolist()
    return [fitted(group, count, round_to) for group, count in zip(groups, counts, strict=True)]


def widths(
    model: nn.Module,
    structure: Structure,
    numbers: Sequence[int],
    originals: Sequence[int],
    sparsity: float,
    *,
    of: Literal["neurons", "weights"] = "neurons",
    parameters: int = 0,
    gaining: Collection[str] = (),
    round_to: int = 1,
    scores: Sequence[Tensor] | None = None,
) -> list[int]:
    """Pairings that stay in each of the groups that are pruned.

    Args:
        model: the network, batch-norm merged.
        structure: its groups.
        numbers: of the groups that are pruned.
        originals: pairings of these before any pruning.
        sparsity: share to remove of their pairings, or of the whole network's parameters before any pruning.
        of: what the sparsity is a share of; for weights, the least neuron sparsity that reaches it is found.
        parameters: of the network before any pruning.
        gaining: layers without a bias that get one when the groups are narrowed.
        round_to: widths become multiples of this, rounded up.
        scores: importance of each group's pairings; given, one threshold holds for all groups together.

    Raises:
        ValueError: the weight sparsity cannot be reached by pruning these groups.
    """
    groups = [structure.groups[number] for number in numbers]

    def at(neuron_sparsity: float) -> list[int]:
        if scores is None:
            return uniform_widths(groups, originals, neuron_sparsity, round_to)
        return global_widths(groups, originals, neuron_sparsity, round_to, scores)

    if of == "neurons" or sparsity == 0:
        return at(sparsity)

    def removed(neuron_sparsity: float) -> float:
        sizes = dict(zip(numbers, at(neuron_sparsity), strict=True))
        return 1 - parameters_after(model, structure, sizes, gaining) / parameters

    low, high = 0.0, 1.0
    if removed(high) < sparsity:
        which = f"group {numbers[0]} alone" if len(numbers) == 1 else "its groups"
        raise ValueError(
            f"a weight sparsity of {sparsity:g} cannot be reached by pruning {which}: at most {removed(high):.4f} can"
        )
    if removed(low) >= sparsity:
        return at(low)
    for _ in range(BISECTIONS):
        middle = (low + high) / 2
        low, high = (low, middle) if removed(middle) >= sparsity else (middle, high)
    return at(high)


def parameters_after(
    model: nn.Module, structure: Structure, sizes: dict[int, int], gaining: Collection[str] = ()
) -> int:
    """Parameters that the network will have once some groups have these sizes and some layers gained a bias."""
    shapes: dict[tuple[str, str], list[int]] = {}
    overlapping = {group.number for group in structure.groups if group.kind in OVERLAPPING} & sizes.keys()
    for number, m in sizes.items():
        group = structure.groups[number]  # which loses channels once groups of other kinds are narrowed
        for member in group.members:
            layer = get_layer(model, member.layer)
            for name, dim in member.tensors(model):
                if name in layer._parameters:
                    shape = shapes.setdefault((member.layer, name), list(getattr(layer, name).shape))
                    shape[dim] -= (group.size - m) * member.index.shape[1]
        if number in overlapping:
            structure = structure.narrowed(number, m)
    total = parameter_count(model)
    for layer_name, name in shapes:
        total -= getattr(get_layer(model, layer_name), name).numel() - torch.Size(shapes[layer_name, name]).numel()
    for name in gaining:
        layer = get_layer(model, name)
        total += shapes.get((name, "weight"), list(layer.weight.shape))[made_dim(layer)]
    return total
