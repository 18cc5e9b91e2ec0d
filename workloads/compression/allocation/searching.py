"""One entry for all allocations that search: from a network and settings to the widths of its groups."""

from collections.abc import Mapping, Sequence

from torch import Tensor

from workloads.allocations import EliminationConfig, GreedyConfig, SensitivityConfig
from workloads.compression.allocation.curves import elimination_curves
from workloads.compression.allocation.greedy import Narrowed, narrowed_further, path_to
from workloads.compression.allocation.knapsack import best_widths
from workloads.compression.allocation.outcome import Allocation, GroupWidth
from workloads.compression.allocation.path import STEPS, check_floors, first_within, narrowing_path
from workloads.compression.allocation.sensitivity import curve_through, measured_losses
from workloads.compression.allocation.trials import Trials
from workloads.compression.budgets import Budget, floors
from workloads.compression.compensation.synthetic import surrogate
from workloads.compression.group_sizes import widths
from workloads.compression.sources import Sources
from workloads.config import CompressionConfig
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
) -> Allocation:
    """The widths of some groups at a budget.

    Args:
        base: the network; not changed.
        config: what to remove; its allocation is one that searches.
        sources: images and seeds.
        groups: those that are pruned.
        originals: pairings of these before any pruning.
        budget: what the sparsity is a share of.

    Raises:
        ValueError: the budget cannot be met, or the search lacks what it needs.
    """
    search = config.allocation
    if not isinstance(search, GreedyConfig):
        curves = curves_of(base, config, sources, groups, originals)
        return from_curves(config, curves, groups=groups, originals=originals, budget=budget)
    assert isinstance(config.sparsity, float)
    check_floors(floors(groups, originals, search.least, config.round_to), budget, config.sparsity)
    found = Narrowed({group.number: group.size for group in groups})
    for goal in path_to(search, config.sparsity, 1 - budget.left(found.sizes)):
        step = config.model_copy(update={"sparsity": goal})
        found = after_step(base, step, sources, found, groups=groups, originals=originals, budget=budget)
    return from_steps(config, found, groups=groups, originals=originals, budget=budget)


def curves_of(
    base: Network, config: CompressionConfig, sources: Sources, groups: Sequence[Group], originals: Sequence[int]
) -> Curves:
    """What each group loses as its neurons go, on the images that an allocation asks for."""
    search = config.allocation
    if isinstance(search, SensitivityConfig):
        losses = measured_losses(base, config, sources, groups, originals)
        return {group.number: curve_through(group.size, losses[group.number]) for group in groups}
    assert isinstance(search, EliminationConfig)
    numbers = [group.number for group in groups]
    if not search.synthetic:
        return elimination_curves(base, numbers, sources.for_search(search.looked_at), sources.seed)
    network, images, _ = surrogate(base, search, sources.example, sources.seed)
    return elimination_curves(network, numbers, images, sources.seed)


def from_curves(
    config: CompressionConfig, curves: Curves, *, groups: Sequence[Group], originals: Sequence[int], budget: Budget
) -> Allocation:
    """The widths at a budget, where it is known what each group loses as its neurons go."""
    search = config.allocation
    assert isinstance(search, EliminationConfig | SensitivityConfig)
    assert isinstance(config.sparsity, float)
    lowest = floors(groups, originals, search.least, config.round_to)
    if isinstance(search, SensitivityConfig):
        sizes = best_widths(groups, lowest, curves, budget, config.sparsity, config.round_to)
    else:
        path = narrowing_path(groups, lowest, curves, budget, config.round_to)
        sizes = first_within(path, budget, config.sparsity, config.round_to)
    uniform = widths(groups, originals, config.sparsity, budget=budget, round_to=config.round_to)
    found = [
        GroupWidth(
            group.number,
            sizes[group.number],
            same,
            float(curves[group.number][group.size - sizes[group.number]]),
            reason(group, sizes, lowest, curves[group.number], budget),
        )
        for group, same in zip(groups, uniform, strict=True)
    ]
    return Allocation(found, 1 - budget.left(sizes))


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


def after_step(
    base: Network,
    config: CompressionConfig,
    sources: Sources,
    before: Narrowed,
    *,
    groups: Sequence[Group],
    originals: Sequence[int],
    budget: Budget,
) -> Narrowed:
    """Where the search `greedy` stands after a step to the sparsity of `config`.

    Args:
        before: where it stood; other arguments as for `allocate`.

    Raises:
        ValueError: the sparsity cannot be reached, or there is no image.
    """
    assert isinstance(config.allocation, GreedyConfig)
    assert isinstance(config.sparsity, float)
    lowest = floors(groups, originals, config.allocation.least, config.round_to)
    check_floors(lowest, budget, config.sparsity)
    return narrowed_further(before, Trials(base, config, sources), groups, lowest, budget, config.sparsity)


def from_steps(
    config: CompressionConfig, found: Narrowed, *, groups: Sequence[Group], originals: Sequence[int], budget: Budget
) -> Allocation:
    """What the search `greedy` has found at a budget."""
    assert isinstance(config.sparsity, float)
    uniform = widths(groups, originals, config.sparsity, budget=budget, round_to=config.round_to)
    total = sum(found.steps.values())
    each = [
        GroupWidth(
            group.number,
            found.sizes[group.number],
            same,
            found.losses.get(group.number, 0.0),
            f"narrowed in {found.steps.get(group.number, 0)} of {total} steps, at a cost of "
            f"{found.losses.get(group.number, 0.0):.3g} of {found.loss:.3g} nats",
        )
        for group, same in zip(groups, uniform, strict=True)
    ]
    return Allocation(each, 1 - budget.left(found.sizes))
