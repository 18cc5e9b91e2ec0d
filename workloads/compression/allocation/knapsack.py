"""The best widths at a budget, where what each group loses at each width is known.

One width for each group, the least loss in all, no more than the budget: a multiple-choice knapsack, which dynamic
programming solves where costs add up. Neurons do. Weights and multiplications of a layer are products of the widths on
both of its sides, so that what a group costs depends on its neighbours. Therefore widths are improved in rounds. Each
takes what a group costs beside the present widths of the others, and may move every group by no more than a part of its
size, so that the sum is nearly right; what comes out is brought to the budget, counted as it is, and taken where it
loses less; else the next round may move less.
"""

import math
from collections.abc import Iterator, Mapping, Sequence
from typing import NamedTuple

import numpy as np
from numpy.typing import NDArray
from torch import Tensor

from workloads.compression.allocation.path import STEPS, first_within, narrowing_path
from workloads.compression.budgets import Budget, Sizes
from workloads.structure.groups import Group

Numbers = NDArray[np.float64]

RESOLUTION = 1 / 4000
"""Costs that differ by less, as a share of the whole network's, count as equal."""
NEAR = 0.01
"""How near to what is allowed, as a share of the whole network's, a round's widths have to come."""
CORRECTIONS = 3
ROUNDS = 24
LEAST_PART = 1 / STEPS
"""Part of its size that a group may at least move by."""


class Option(NamedTuple):
    """What may be chosen for one group: by place, the cost and the loss."""

    costs: Numbers
    losses: Numbers


def cheapest_choice(options: Sequence[Option], limit: float, resolution: float = RESOLUTION) -> list[int] | None:
    """The place in each option that together lose least and cost no more than a limit; None where all cost more.

    Of partial sums whose costs are equal to the resolution, the one that loses least is kept, with its own cost. So
    what is found never costs more than the limit, and loses no more than the best that costs `len(options)·resolution`
    less.

    Args:
        options: for each group.
        limit: of the costs' sum.
        resolution: of sums of costs.
    """
    cost, loss = np.zeros(1), np.zeros(1)
    steps: list[tuple[NDArray[np.intp], NDArray[np.intp]]] = []
    for number, option in enumerate(options):
        least_after = sum(float(each.costs.min()) for each in options[number + 1 :])
        costs, losses = np.add.outer(cost, option.costs).ravel(), np.add.outer(loss, option.losses).ravel()
        within = np.flatnonzero(costs <= limit - least_after + 1e-12)
        if not len(within):
            return None
        bins = np.floor(costs[within] / resolution)
        order = np.lexsort((costs[within], losses[within], bins))
        firsts = within[order[np.unique(bins[order], return_index=True)[1]]]  # by bin
        better = losses[firsts] < np.minimum.accumulate(np.concatenate([[math.inf], losses[firsts][:-1]]))
        kept = firsts[better]
        cost, loss = costs[kept], losses[kept]
        steps.append((kept // len(option.costs), kept % len(option.costs)))
    place, chosen = int(loss.argmin()), list[int]()
    for before, choice in reversed(steps):
        chosen.append(int(choice[place]))
        place = int(before[place])
    return chosen[::-1]


class _Search:
    """Widths on the way to the best ones."""

    def __init__(
        self,
        groups: Sequence[Group],
        lowest: Sizes,
        losses: Mapping[int, Tensor],
        budget: Budget,
        round_to: int,
    ):
        self.groups, self.lowest, self.budget, self.round_to = groups, lowest, budget, round_to
        self.losses = {number: curve.numpy().astype(float) for number, curve in losses.items()}

    def loss(self, sizes: Sizes) -> float:
        """What all groups lose together."""
        return sum(float(self.losses[group.number][group.size - sizes[group.number]]) for group in self.groups)

    def widths(self, group: Group, step: int) -> NDArray[np.intp]:
        """The widths that a group may have, a multiple of so many neurons apart, its own and the lowest included."""
        low, step = self.lowest[group.number], math.lcm(step, self.round_to)
        return np.unique([low, group.size, *range(-(-low // step) * step, group.size, step)])

    def round(self, sizes: Sizes, part: float, allowed: float) -> dict[int, int] | None:
        """The best widths by what each group costs beside these; None where together they cost another sum.

        Args:
            sizes: to begin with.
            part: of its size that a group may move by.
            allowed: what is left of the budget at most, as roughly counted.
        """
        now = least = self.budget.roughly(sizes)
        options, choices = [], []
        for group in self.groups:
            m = sizes[group.number]
            reach = max(part * group.size, self.round_to, 1)
            possible = self.widths(group, max(1, int(min(group.size / STEPS, reach / 4))))
            widths = np.unique([m, *possible[np.abs(possible - m) <= reach]])
            costs = np.array(self.budget.beside(sizes, group.number, widths.tolist())) - now
            options.append(Option(costs - costs.min(), self.losses[group.number][group.size - widths]))
            choices.append(widths)
            least += costs.min()
        aim, gap = allowed, math.inf
        for _ in range(CORRECTIONS):
            places = cheapest_choice(options, aim - least)
            if places is None:
                return None
            chosen = zip(self.groups, choices, places, strict=True)
            found = {group.number: int(widths[place]) for group, widths, place in chosen}
            gap = self.budget.roughly(found) - allowed
            if -NEAR <= gap <= 0:
                break
            aim -= gap
        return found if abs(gap) <= NEAR else None

    def neighbours(self, sizes: Sizes, way: int) -> Iterator[tuple[float, dict[int, int]]]:
        """Every group a neuron, or a multiple, narrower (−1) or wider (1), and what that loses."""
        for group in self.groups:
            m, widths = sizes[group.number], self.widths(group, 1)
            place = int(np.searchsorted(widths, m)) + way
            if 0 <= place < len(widths):
                curve = self.losses[group.number]
                lost = float(curve[group.size - widths[place]] - curve[group.size - m])
                yield lost, {**sizes, group.number: int(widths[place])}

    def settled(self, sizes: Sizes, allowed: float) -> dict[int, int]:
        """The widths brought to what is allowed, as roughly counted, where they cost more; then as wide as that lets
        them be."""
        found = dict(sizes)
        while (now := self.budget.roughly(found)) > allowed:
            steps = [
                (lost / max(now - self.budget.roughly(each), 1e-15), each) for lost, each in self.neighbours(found, -1)
            ]
            if not steps:
                return found
            found = min(steps, key=lambda step: step[0])[1]
        while True:
            now = self.budget.roughly(found)
            steps = [
                (lost / max(self.budget.roughly(each) - now, 1e-15), each)
                for lost, each in self.neighbours(found, 1)
                if self.budget.roughly(each) <= allowed
            ]
            if not steps:
                return found
            found = min(steps, key=lambda step: step[0])[1]


def best_widths(
    groups: Sequence[Group],
    lowest: Sizes,
    losses: Mapping[int, Tensor],
    budget: Budget,
    sparsity: float,
    round_to: int,
) -> dict[int, int]:
    """The widths that meet a budget and lose least in all, by number of the group.

    The search begins at the widths that removing the cheapest neurons first leads to, and loses no more than these.

    Args:
        groups: those that are pruned.
        lowest: width that each keeps.
        losses: by group, (n + 1,) once so many neurons are gone; they never fall.
        budget: what the sparsity is a share of.
        sparsity: share to remove.
        round_to: widths are multiples of this, but for a group's full size.

    Raises:
        ValueError: the lowest widths do not meet it.
    """
    search = _Search(groups, lowest, losses, budget, round_to)
    best = first_within(narrowing_path(groups, lowest, losses, budget, round_to), budget, sparsity, round_to)
    part = 1.0
    for _ in range(ROUNDS):
        # What is counted roughly is off by about as much for widths nearby.
        allowed = (1 - sparsity) * budget.roughly(best) / budget.left(best)
        found = search.round(best, part, allowed)
        found = found and search.settled(found, allowed)
        met = found is not None and 1 - budget.left(found) >= sparsity - budget.close_enough
        if found is not None and met and search.loss(found) < search.loss(best) - 1e-12:
            best = found
        elif part <= LEAST_PART:
            break
        else:
            part /= 2
    return best
