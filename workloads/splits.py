"""Cutting the training set into the parts that the split models see (section 6, appendix D)."""

import math
from itertools import combinations

import torch
from torch import Tensor


def subset_count(folds: int) -> int:
    """Number of split models: all unions of folds/2 of the folds, C(k, k/2)."""
    return math.comb(folds, folds // 2)


def fold_subsets(labels: Tensor, folds: int, seed: int) -> list[Tensor]:
    """Sample numbers of every union of half of the folds.

    Each class is dealt to the folds in turn after a shuffle, so that all folds have the same mix.

    Args:
        labels: (N,) of the training samples.
        folds: k, even.
        seed: of the shuffle; another seed draws other cuts.

    Returns:
        C(k, k/2) sorted vectors of positions in `labels`; the i-th and the i-th last are complements.
    """
    if folds < 2 or folds % 2:
        raise ValueError(f"splits.folds is {folds}: it must be even and at least 2")
    order = torch.randperm(len(labels), generator=torch.Generator().manual_seed(seed))
    by_class = order[labels[order].sort(stable=True).indices]
    parts = [by_class[fold::folds] for fold in range(folds)]
    chosen = combinations(range(folds), folds // 2)
    return [torch.cat([parts[fold] for fold in union]).sort().values for union in chosen]
