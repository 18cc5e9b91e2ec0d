"""The widths that a network passes through when neurons of all groups go, each time the cheapest."""

import heapq
import math
from collections.abc import Mapping, Sequence

from torch import Tensor

from workloads.compression.budgets import Budget, Sizes
from workloads.structure.groups import Group

STEPS = 64  # in which a group loses its neurons, at most


def narrowing_path(
    groups: Sequence[Group],
    lowest: Sizes,
    losses: Mapping[int, Tensor],
    budget: Budget,
    round_to: int,
) -> list[dict[int, int]]:
    """All widths from the present ones to the lowest, one group a step narrower than before.

    The next step is the one that costs least loss for what it saves. Savings fall as neighbours become narrower, so
    that a ratio from earlier is too low: the cheapest is worked out again until it stays the cheapest.

    Args:
        groups: those that are pruned.
        lowest: width that each keeps.
        losses: by group, (n + 1,) once so many neurons are gone.
        budget: what counts as saved.
        round_to: widths are multiples of this, but for a group's full size.
    """
    by_number = {group.number: group for group in groups}
    sizes = {group.number: group.size for group in groups}
    path = [dict(sizes)]
    now = budget.roughly(sizes)

    def narrower(number: int) -> int:
        group, size = by_number[number], sizes[number]
        step = max(1, group.size // STEPS)
        return max(lowest[number], (size - step) // round_to * round_to if round_to > 1 else size - step)

    def price(number: int) -> float:
        m, group = narrower(number), by_number[number]
        saved = now - budget.roughly({**sizes, number: m})
        lost = float(losses[number][group.size - m] - losses[number][group.size - sizes[number]])
        return lost / saved if saved > 0 else math.inf

    queue = [(price(number), number) for number in sizes if sizes[number] > lowest[number]]
    heapq.heapify(queue)
    while queue:
        _, number = heapq.heappop(queue)
        again = price(number)
        if queue and again > queue[0][0]:
            heapq.heappush(queue, (again, number))
            continue
        sizes[number] = narrower(number)
        now = budget.roughly(sizes)
        path.append(dict(sizes))
        if sizes[number] > lowest[number]:
            heapq.heappush(queue, (price(number), number))
    return path


def first_within(path: Sequence[Sizes], budget: Budget, sparsity: float, round_to: int) -> dict[int, int]:
    """The first widths on a path, and between its steps, with which a budget is met.

    Raises:
        ValueError: none are; names the largest sparsity that the path reaches.
    """
    check_floors(path[-1], budget, sparsity)
    low, high = 0, len(path) - 1
    while low < high:
        middle = (low + high) // 2
        reached = 1 - budget.left(path[middle])
        if budget.close_enough and abs(reached - sparsity) <= budget.close_enough:
            return dict(path[middle])
        low, high = (low, middle) if reached >= sparsity else (middle + 1, high)
    if high == 0 or budget.close_enough:
        return dict(path[high])
    number = next(number for number, m in path[high].items() if m < path[high - 1][number])
    narrow, wide = path[high][number], path[high - 1][number]
    between = [narrow, *range((narrow // round_to + 1) * round_to, wide, round_to)]
    reaching = [m for m in between if 1 - budget.left({**path[high], number: m}) >= sparsity]
    return {**path[high], number: max(reaching)}


def check_floors(lowest: Sizes, budget: Budget, sparsity: float) -> None:
    """Make sure that a budget is met once all groups are as narrow as they may become.

    Raises:
        ValueError: it is not; names the largest sparsity that can be reached.
    """
    most = 1 - budget.left(lowest)
    if most < sparsity - budget.close_enough:
        found = f"at most {math.floor(1e4 * most) / 1e4:.4f} can, with the least share of neurons that each group keeps"
        raise ValueError(f"a {budget.word} sparsity of {sparsity:g} cannot be reached by its groups: {found}")
