"""Widths step by step: each step narrows the one group that loses least, as measured (NetAdapt, Yang et al. 2018)."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field, replace

from workloads.allocations import GreedyConfig
from workloads.compression.allocation.trials import Trials
from workloads.compression.budgets import MISS, Budget, Sizes
from workloads.structure.groups import Group

ENOUGH = 1e-9
"""By how much less than asked counts as removed, as sums of shares are rounded."""


@dataclass(frozen=True)
class Narrowed:
    """Where a search stands.

    Attributes:
        sizes: the widths, by number of the group.
        losses: what the steps that narrowed each group have cost, in nats; their sum is the network's loss.
        steps: how many these were.
    """

    sizes: Mapping[int, int]
    losses: Mapping[int, float] = field(default_factory=dict)
    steps: Mapping[int, int] = field(default_factory=dict)

    @property
    def loss(self) -> float:
        """Of the network at these widths, in nats."""
        return sum(self.losses.values())

    def with_step(self, number: int, width: int, loss: float) -> "Narrowed":
        """One group narrower, with what the network then loses."""
        cost = self.losses.get(number, 0.0) + loss - self.loss
        return replace(
            self,
            sizes={**self.sizes, number: width},
            losses={**self.losses, number: cost},
            steps={**self.steps, number: self.steps.get(number, 0) + 1},
        )


def narrowed_further(
    start: Narrowed, trials: Trials, groups: Sequence[Group], lowest: Sizes, budget: Budget, goal: float
) -> Narrowed:
    """One group narrower, so far that a share of the budget is gone; more than one where none can alone.

    Every candidate is the original network, compressed to its widths as a cell would be. Those that overshoot by more
    than others are compared by what they lose for each share of the budget that they save.

    Args:
        start: the widths to begin with.
        trials: what copies of the network lose.
        groups: those that may become narrower.
        lowest: width that each keeps.
        budget: what the goal is a share of.
        goal: share of it that shall be gone.
    """
    now = start
    while True:
        left = budget.left(now.sizes)
        missing = goal - (1 - left)
        if missing <= max(budget.close_enough, ENOUGH):
            return now
        found = candidates(now.sizes, groups, lowest, budget, trials.config.round_to, missing)
        if not found:
            return now
        tried = [(trials.loss({**now.sizes, number: m}), number, m) for number, m in found.items()]
        roughly = budget.roughly(now.sizes)

        def price(
            trial: tuple[float, int, int], sizes: Sizes = now.sizes, before: float = now.loss, roughly: float = roughly
        ) -> float:
            lost, number, m = trial
            saved = roughly - budget.roughly({**sizes, number: m})
            return (lost - before) / max(saved, 1e-12)

        loss, number, m = min(tried, key=price)
        now = now.with_step(number, m, loss)


def candidates(
    sizes: Sizes, groups: Sequence[Group], lowest: Sizes, budget: Budget, round_to: int, missing: float
) -> dict[int, int]:
    """The groups that can remove what is missing alone, each with its largest width that does; where none can, those
    that can remove half of it, and so on.

    Where some remove no more than a hundredth too much, those that have to remove more are left out.
    """
    roughly = budget.roughly(sizes)
    scale = budget.left(sizes) / roughly

    def saved(number: int, m: int) -> float:
        return scale * (roughly - budget.roughly({**sizes, number: m}))

    open_ones = [group for group in groups if sizes[group.number] > lowest[group.number]]
    while open_ones:
        found = {}
        for group in open_ones:
            number, low, high = group.number, lowest[group.number], sizes[group.number]
            if saved(number, low) < missing - ENOUGH:
                continue
            while high - low > 1:  # low saves enough, high does not
                middle = (low + high) // 2
                low, high = (middle, high) if saved(number, middle) >= missing - ENOUGH else (low, middle)
            found[number] = max(low // round_to * round_to, lowest[number])
        close = {number: m for number, m in found.items() if saved(number, m) <= missing + MISS}
        if found:
            return close or found
        if missing < ENOUGH:
            return {
                group.number: max((sizes[group.number] - 1) // round_to * round_to, lowest[group.number])
                for group in open_ones
            }
        missing /= 2
    return {}


def path_to(config: GreedyConfig, sparsity: float, done: float = 0.0) -> list[float]:
    """The shares that are gone after each step, the target last."""
    goals, goal = [sparsity], config.before(sparsity, done)
    while goal is not None:
        goals.append(goal)
        goal = config.before(goal, done)
    return goals[::-1]
