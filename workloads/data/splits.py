"""Cutting the training set into the parts that the split models see (section 6, appendix D)."""

import math
from dataclasses import dataclass
from itertools import combinations

import torch
from torch import Tensor

from workloads.config import SplitsConfig


@dataclass(frozen=True)
class Part:
    """A stretch of the shuffled training set.

    Attributes:
        start, end: where it begins and ends, as shares of the set.
        samples: positions of its images.
    """

    start: float
    end: float
    samples: Tensor


def subset_spans(config: SplitsConfig) -> list[list[tuple[float, float]]]:
    """For each split model, the stretches of the shuffled training set that it sees, as shares of it."""
    folds = config.folds
    if config.share is not None:
        starts = [number * (1 - config.share) / (folds - 1) for number in range(folds)]
        return [[(start, start + config.share)] for start in starts]
    parts = [(number / folds, (number + 1) / folds) for number in range(folds)]
    return [list(union) for union in combinations(parts, 1 if config.mode == "separate" else folds // 2)]


def subset_count(config: SplitsConfig) -> int:
    """Number of split models."""
    return math.comb(config.folds, config.folds // 2) if config.mode == "unions" else config.folds


def subset_share(config: SplitsConfig) -> float:
    """Share of the training set that each split model sees."""
    return sum(end - start for start, end in subset_spans(config)[0])


def subsets(labels: Tensor, config: SplitsConfig, seed: int) -> list[list[Part]]:
    """The parts that each split model sees.

    Args:
        labels: (N,) of the training samples.
        config: how they are cut.
        seed: of the shuffle; another seed draws other cuts.
    """
    order = torch.randperm(len(labels), generator=torch.Generator().manual_seed(seed))
    if config.stratified:
        order = order[evenly_mixed(labels[order])]

    def part(start: float, end: float) -> Part:
        return Part(start, end, order[round(start * len(order)) : round(end * len(order))].sort().values)

    return [[part(*span) for span in spans] for spans in subset_spans(config)]


def evenly_mixed(labels: Tensor) -> Tensor:
    """(N,) an order in which every stretch has the classes in the same proportion, as nearly as whole images allow."""
    places = torch.zeros(len(labels), dtype=torch.float64)
    for label in labels.unique():
        (members,) = (labels == label).nonzero(as_tuple=True)
        places[members] = (torch.arange(len(members), dtype=torch.float64) + 0.5) / len(members)
    return places.argsort(stable=True)


def samples_of(parts: list[Part]) -> Tensor:
    """Sorted positions of all images of a split model."""
    return torch.cat([part.samples for part in parts]).sort().values
