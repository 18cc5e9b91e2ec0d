"""How wide each group is to become: from a sparsity of neurons, weights, multiplications or time to what stays."""

import math
from collections.abc import Hashable, Sequence
from itertools import chain

import torch
from torch import Tensor, nn

from workloads.compression.budgets import Budget, fitted
from workloads.structure.groups import CONSUMER, PRODUCER, THROUGH, Group
from workloads.structure.layers import get_layer

BISECTIONS = 40


def size_after(size: int, sparsity: float) -> int:
    """m = int(n·(1 − s)) pairings that stay, as published, but at least one."""
    return max(1, int(size * (1 - sparsity)))


def uniform_widths(groups: Sequence[Group], originals: Sequence[int], sparsity: float, round_to: int) -> list[int]:
    """Each group loses the same share of its pairings before any pruning."""
    return [
        fitted(group, size_after(original, sparsity), round_to)
        for group, original in zip(groups, originals, strict=True)
    ]


def global_widths(
    groups: Sequence[Group],
    originals: Sequence[int],
    sparsity: float,
    round_to: int,
    scores: Sequence[Tensor],
    classes: Sequence[Hashable] | None = None,
) -> list[int]:
    """The least important pairings of all groups go, by one threshold on their scores; or by one for each class.

    Args:
        classes: of the groups; a threshold of its own removes the same share of each class. None: all are of one.
    """
    classes = classes or [None] * len(groups)
    counts = [0] * len(groups)
    for kind in dict.fromkeys(classes):
        places = [place for place, each in enumerate(classes) if each == kind]
        kept = size_after(sum(originals[place] for place in places), sparsity)
        owners = torch.tensor(list(chain.from_iterable([place] * len(scores[place]) for place in places)))
        best = torch.cat([scores[place] for place in places]).argsort(descending=True, stable=True)[:kept]
        for place in places:
            counts[place] = int((owners[best] == place).sum())
    return [fitted(group, count, round_to) for group, count in zip(groups, counts, strict=True)]


def widths(
    groups: Sequence[Group],
    originals: Sequence[int],
    sparsity: float,
    *,
    budget: Budget | None = None,
    round_to: int = 1,
    scores: Sequence[Tensor] | None = None,
    classes: Sequence[Hashable] | None = None,
) -> list[int]:
    """Pairings that stay in each of the groups that are pruned.

    Args:
        groups: those that are pruned.
        originals: pairings of these before any pruning.
        sparsity: share to remove of their pairings, or of what the budget counts.
        budget: what the sparsity is a share of; then the least neuron sparsity that reaches it is found. None: the
            pairings.
        round_to: widths become multiples of this, rounded up.
        scores: importance of each group's pairings; given, one threshold holds for all groups together.
        classes: of the groups, for a threshold in each.

    Raises:
        ValueError: the sparsity cannot be reached by pruning these groups.
    """

    def at(neuron_sparsity: float) -> list[int]:
        if scores is None:
            return uniform_widths(groups, originals, neuron_sparsity, round_to)
        return global_widths(groups, originals, neuron_sparsity, round_to, scores, classes)

    if budget is None or sparsity == 0:
        return at(sparsity)
    numbers = [group.number for group in groups]

    def removed(neuron_sparsity: float) -> float:
        return 1 - budget.left(dict(zip(numbers, at(neuron_sparsity), strict=True)))

    low, high = 0.0, 1.0
    most = removed(high)
    if most < sparsity:
        raise ValueError(unreachable(budget, sparsity, numbers, most))
    if removed(low) >= sparsity:
        return at(low)
    for _ in range(BISECTIONS):
        middle = (low + high) / 2
        reached = removed(middle)
        if budget.close_enough and abs(reached - sparsity) <= budget.close_enough:
            high = middle
            break
        low, high = (low, middle) if reached >= sparsity else (middle, high)
    return budget.filled(dict(zip(numbers, at(high), strict=True)), groups, sparsity, round_to)


def unreachable(budget: Budget, sparsity: float, numbers: Sequence[int], most: float) -> str:
    """That a sparsity cannot be reached by pruning some groups, and the largest that can."""
    which = f"group {numbers[0]} alone" if len(numbers) == 1 else "its groups"
    found = f"at most {math.floor(1e4 * most) / 1e4:.4f} can"
    return f"a {budget.word} sparsity of {sparsity:g} cannot be reached by pruning {which}: {found}"


def structure_class(model: nn.Module, group: Group) -> Hashable:
    """Equal for groups of equal structure (Isomorphic Pruning, Fang et al. 2024): of one kind, made and read by as many
    layers of the same types and kernels."""
    sides = []
    for member in group.on(PRODUCER, THROUGH, CONSUMER):
        layer = get_layer(model, member.layer)
        sides.append((str(member.side), type(layer).__name__, tuple(getattr(layer, "kernel_size", ()))))
    return group.kind, tuple(sorted(sides))
