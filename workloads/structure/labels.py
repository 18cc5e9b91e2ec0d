"""Labels: for every value of a tensor, the number of the channel that it belongs to, or -1 for none.

Label tensors are stored compactly: they have the dimensions of the tensor that they describe, but size 1 along every
dimension along which the labels stay the same. The activation of a convolution, (B, 64, H, W), has labels of shape
(1, 64, 1, 1).
"""

from collections.abc import Collection, Iterable, Sequence
from math import prod

import numpy
import torch
from scipy.sparse import coo_array
from scipy.sparse.csgraph import connected_components
from torch import Tensor

NONE = -1


def compact(labels: Tensor) -> Tensor:
    """The same labels with size 1 along each dimension along which they do not change."""
    for dim, size in enumerate(labels.shape):
        if size > 1:
            first = labels.narrow(dim, 0, 1)
            if labels.stride(dim) == 0 or bool((labels == first).all()):
                labels = first
    return labels


def dims_of(labels: Tensor) -> set[int]:
    """The dimensions along which labels change, counted from the last one, -1."""
    return {dim - labels.ndim for dim, size in enumerate(labels.shape) if size > 1}


def along(numbers: Tensor, ndim: int, dim: int) -> Tensor:
    """Labels for a tensor of `ndim` dimensions that are `numbers` along one and the same along all others."""
    shape = [1] * ndim
    shape[dim] = len(numbers)
    return numbers.view(shape)


def in_rows(labels: Tensor, dims: Collection[int]) -> Tensor:
    """(places, rest) the labels with what is at one place of some dimensions, counted from the last one, in a row."""
    first = sorted(dim + labels.ndim for dim in dims)
    rest = [dim for dim in range(labels.ndim) if dim not in first]
    places = [labels.shape[dim] for dim in first]
    return labels.permute(*first, *rest).reshape(prod(places), -1)


def resized(labels: Tensor, shape: Sequence[int]) -> bool:
    """Whether the labels also describe a tensor of this shape: it has the same size wherever they change."""
    return labels.ndim == len(shape) and all(
        size == 1 or size == new for size, new in zip(labels.shape, shape, strict=True)
    )


def pairs(one: Tensor, other: Tensor) -> Tensor:
    """(k, 2) the different pairs of labels that stand at the same places of two tensors that broadcast together."""
    one, other = torch.broadcast_tensors(one, other)
    found: Tensor = torch.stack([one.flatten(), other.flatten()], 1).unique(dim=0)
    return found


def components(size: int, edges: Iterable[Tensor]) -> numpy.ndarray:
    """(size,) for each of the numbers 0, 1, …, which set it is in once the numbers of every edge (k, 2) are united."""
    joined = torch.cat([torch.empty(0, 2, dtype=torch.int64), *edges]).numpy()
    graph = coo_array((numpy.ones(len(joined), dtype=bool), (joined[:, 0], joined[:, 1])), shape=(size, size))
    found: numpy.ndarray = connected_components(graph, directed=False)[1]
    return found


def chain(numbers: Tensor) -> Tensor:
    """Edges (k − 1, 2) that unite all of the numbers."""
    return torch.stack([numbers[:-1], numbers[1:]], 1)


def side_by_side(rows: Tensor) -> Tensor:
    """Edges that unite the numbers of each row (rows, k), as far as there are any."""
    edges = torch.stack([rows[:, :-1].flatten(), rows[:, 1:].flatten()], 1)
    return edges[edges.min(1).values != NONE]
