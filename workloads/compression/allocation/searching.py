"""One entry for all allocations that search: from a network and settings to the widths of its groups."""

from collections.abc import Mapping, Sequence

from torch import Tensor

from workloads.compression.allocation.curves import elimination_curves
from workloads.compression.allocation.outcome import Allocation, GroupWidth
from workloads.compression.allocation.path import STEPS, first_within, narrowing_path
from workloads.compression.budgets import Budget, floors
from workloads.compression.compensation.synthetic import surrogate
from workloads.compression.group_sizes import widths
from workloads.compression.sources import Sources
from workloads.config import CompressionConfig
from workloads.scope import EliminationConfig
from workloads.structure.groups import Group
from workloads.structure.network import Network

Curves = Mapping[int, Tensor]


def allocate(
    base: Network,
    config: CompressionConfig,
    sources: Sources,
    *,
    groups: Sequence[Group],
    originals: Sequence[int],
    budget: Budget,
    curves: Curves | None = None,
) -> Allocation:
    """The widths of some groups at a budget.

    Args:
        base: the network; not changed.
        config: what to remove; its allocation is one that searches.
        sources: images and seeds.
        groups: those that are pruned.
        originals: pairings of these before any pruning.
        budget: what the sparsity is a share of.
        curves: what each group loses as its neurons go, where it is known.

    Raises:
        ValueError: the budget cannot be met, or the search lacks what it needs.
    """
    assert isinstance(config.allocation, EliminationConfig)
    assert isinstance(config.sparsity, float)
    losses = curves or curves_of(base, config.allocation, sources, [group.number for group in groups])
    lowest = floors(groups, originals, config.allocation.least, config.round_to)
    path = narrowing_path(groups, lowest, losses, budget, config.round_to)
    sizes = first_within(path, budget, config.sparsity, config.round_to)
    uniform = widths(groups, originals, config.sparsity, budget=budget, round_to=config.round_to)
    found = [
        GroupWidth(
            group.number,
            sizes[group.number],
            same,
            float(losses[group.number][group.size - sizes[group.number]]),
            reason(group, sizes, lowest, losses[group.number], budget),
        )
        for group, same in zip(groups, uniform, strict=True)
    ]
    return Allocation(found, 1 - budget.left(sizes))


def curves_of(base: Network, allocation: EliminationConfig, sources: Sources, numbers: Sequence[int]) -> Curves:
    """What each group loses as its neurons go, on the images that an allocation asks for."""
    if not allocation.synthetic:
        return elimination_curves(base, numbers, sources.for_search(allocation), sources.seed)
    network, images, _ = surrogate(base, allocation, sources.example, sources.seed)
    return elimination_curves(network, numbers, images, sources.seed)


def reason(group: Group, sizes: Mapping[int, int], lowest: Mapping[int, int], losses: Tensor, budget: Budget) -> str:
    """Why a group has its width, in words."""
    m = sizes[group.number]
    gone = group.size - m
    lost = f"losing {gone} of {group.size} costs {float(losses[gone]):.3g} nats"
    if m == lowest[group.number]:
        return f"{lost}; it keeps no more than the least share"
    step = max(1, group.size // STEPS)
    further = max(lowest[group.number], m - step)
    saved = budget.roughly(sizes) - budget.roughly({**sizes, group.number: further})
    price = float(losses[group.size - further] - losses[gone]) / max(100 * saved, 1e-12)
    return f"{lost}, {m - further} more {price:.3g} for each % of the {budget.word} saved"
