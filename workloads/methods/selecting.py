"""Methods that keep some pairings as they are."""

import torch
from torch import Tensor

from workloads.groups import Maps, Pairings


def most_important(importance: Tensor, m: int) -> Tensor:
    """(m,) the pairings of highest importance in ascending order; of equal ones the earlier."""
    return importance.argsort(descending=True, stable=True)[:m].sort().values


def conventional(pairings: Pairings, importance: Tensor, m: int) -> Maps:
    """Keep the m most important pairings and drop the rest; the paper's `default`."""
    kept = most_important(importance, m)
    selection = torch.eye(pairings.size)[kept]
    return Maps(selection, selection)
