"""What each group alone loses as it becomes narrower, measured at a few widths."""

from collections.abc import Mapping, Sequence

import numpy as np
import torch
from torch import Tensor

from workloads.allocations import SensitivityConfig
from workloads.compression.allocation.trials import Trials
from workloads.compression.budgets import fitted, floors
from workloads.compression.sources import Sources
from workloads.config import CompressionConfig
from workloads.structure.groups import Group
from workloads.structure.network import Network


def measured_widths(group: Group, lowest: int, points: int, round_to: int) -> list[int]:
    """Widths at which a group is measured, evenly from below its own down to the lowest, without repetition."""
    gone = [(group.size - lowest) * place / points for place in range(1, points + 1)]
    widths = dict.fromkeys(max(lowest, fitted(group, group.size - round(each), round_to)) for each in gone)
    return [m for m in widths if m < group.size]


def measured_losses(
    base: Network, config: CompressionConfig, sources: Sources, groups: Sequence[Group], originals: Sequence[int]
) -> dict[int, dict[int, float]]:
    """By group and width, the loss in nats of the network in which the group alone has that width.

    Args:
        base: the network; not changed.
        config: how the group is narrowed; its allocation is `sensitivity`.
        sources: images and seeds.
        groups: those that are measured.
        originals: pairings of these before any pruning.

    Raises:
        ValueError: there is no image.
    """
    search = config.allocation
    assert isinstance(search, SensitivityConfig)
    trials = Trials(base, config, sources)
    lowest = floors(groups, originals, search.least, config.round_to)
    return {
        group.number: {
            m: trials.loss({group.number: m})
            for m in measured_widths(group, lowest[group.number], search.points, config.round_to)
        }
        for group in groups
    }


def curve_through(size: int, losses: Mapping[int, float]) -> Tensor:
    """(size + 1,) float64: the loss once 0, 1, … neurons are gone, straight between what was measured.

    What is lost does not fall as more neurons go: where a narrower network was measured to lose less, which is chance,
    it counts as losing as much.

    Args:
        size: of the group.
        losses: by width.
    """
    places = sorted((size - m, loss) for m, loss in losses.items())
    gone = np.array([0, *(place for place, _ in places)])
    lost = np.maximum.accumulate([0.0, *(loss for _, loss in places)])
    return torch.from_numpy(np.interp(np.arange(size + 1), gone, lost))
