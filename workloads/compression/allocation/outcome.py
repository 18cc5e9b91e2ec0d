"""What a search for widths finds."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass


@dataclass(frozen=True)
class GroupWidth:
    """The width of one group.

    Attributes:
        number: of the group.
        width: pairings that stay.
        uniform: pairings that would stay if every group lost the same share at the same budget.
        loss: estimated or measured loss of the group at its width alone, in nats; of `greedy`, what the steps that
            narrowed it have cost.
        why: what decided it, in words.
    """

    number: int
    width: int
    uniform: int
    loss: float
    why: str


@dataclass(frozen=True)
class Allocation:
    """The widths of several groups.

    Attributes:
        groups: in their order.
        reached: share of what the budget counts that is gone at these widths.
    """

    groups: Sequence[GroupWidth]
    reached: float

    @property
    def sizes(self) -> Mapping[int, int]:
        """Pairings that stay, by number of the group."""
        return {group.number: group.width for group in self.groups}
