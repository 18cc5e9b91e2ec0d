"""Label tensors: for every value of an activation, which channel it belongs to, or -1."""

from torch import Tensor


class Partition:
    """Disjoint sets of the numbers 0, 1, …."""

    def __init__(self) -> None:
        self.parents: list[int] = []

    def extend(self, size: int) -> None:
        """Make the numbers below `size` known, each in a set of its own."""
        self.parents.extend(range(len(self.parents), size))

    def find(self, number: int) -> int:
        """The least number of a set."""
        while self.parents[number] != number:
            self.parents[number] = self.parents[self.parents[number]]
            number = self.parents[number]
        return number

    def join(self, a: int, b: int) -> None:
        """Unite two sets."""
        a, b = self.find(a), self.find(b)
        self.parents[max(a, b)] = min(a, b)


def is_vector(made: Tensor, labels: Tensor) -> bool:
    """Whether an activation kept its shape and has one dimension to speak of, so that new strides move nothing."""
    return made.shape == labels.shape and sum(size > 1 for size in made.shape) <= 1


def folded(labels: Tensor) -> Tensor:
    """The same labels, stored once where they stay the same along a dimension."""
    for dim, size in enumerate(labels.shape):
        if size > 1 and labels.stride(dim) != 0:
            first = labels.narrow(dim, 0, 1)
            if bool((labels == first).all()):
                labels = first.expand(labels.shape)
    return labels


def essential(labels: Tensor) -> Tensor:
    """The labels without the dimensions along which they are stored once, which keep size 1."""
    for dim in range(labels.ndim):
        if labels.stride(dim) == 0 and labels.shape[dim] > 1:
            labels = labels.narrow(dim, 0, 1)
    return labels


def distinct(labels: Tensor) -> list[int]:
    """The labels that occur."""
    return essential(labels).unique().tolist()


def common(a: Tensor, b: Tensor) -> tuple[Tensor, Tensor]:
    """Two label tensors of one shape, reduced to where either varies."""
    for dim in range(a.ndim):
        if a.stride(dim) == 0 and b.stride(dim) == 0 and a.shape[dim] > 1:
            a, b = a.narrow(dim, 0, 1), b.narrow(dim, 0, 1)
    return a, b


def varies(labels: Tensor, dim: int) -> bool:
    """Whether labels change along a dimension."""
    parts = essential(labels)
    return parts.shape[dim] > 1 and not bool((parts == parts.narrow(dim, 0, 1)).all())


def along(labels: Tensor, dim: int) -> Tensor | None:
    """(channels,) labels along one dimension; None where they change along another."""
    parts = essential(labels.movedim(dim, 0)).unsqueeze(-1).flatten(1)
    if not bool((parts == parts[:, :1]).all()):
        return None
    return parts[:, 0].expand(labels.shape[dim]).clone()


def spread(channels: Tensor, tensor: Tensor, dim: int) -> Tensor:
    """Labels of the tensor's shape that differ along `dim` alone."""
    shape = [1] * tensor.ndim
    shape[dim] = len(channels)
    return channels.view(shape).expand(tensor.shape)
