"""What a recording is made of: operations, labels and what is said of them, and ways to remove channels."""

from collections.abc import Sequence
from dataclasses import dataclass
from enum import StrEnum
from functools import cached_property
from typing import Any, NamedTuple

from torch import Tensor
from torch.utils._pytree import tree_leaves

from workloads.structure.groups import Axis, Side

Labels = tuple[Tensor, ...]
"""What a tensor carries: for each independent division of its values into channels, a label tensor (see `labels`)."""
OUTPUT = "is the network's output"


class Cut(StrEnum):
    """A way to remove channels: one by one, by whole heads, or by dimensions, the same ones in every head."""

    CHANNELS = "channels"
    HEADS = "heads"
    DIMENSIONS = "dimensions"


ALL_CUTS = frozenset(Cut)
NOT_HEADS = frozenset({Cut.CHANNELS, Cut.DIMENSIONS})
NOT_CHANNELS = frozenset({Cut.HEADS, Cut.DIMENSIONS})
NOT_DIMENSIONS = frozenset({Cut.CHANNELS, Cut.HEADS})


class Tie(NamedTuple):
    """Labels (k, 2) of one and the same channel each, for these ways to remove channels."""

    edges: Tensor
    cuts: frozenset[Cut]


class Fixed(NamedTuple):
    """Labels that stay, for these ways to remove channels, with the reason, or `OUTPUT`."""

    labels: Tensor
    reason: str
    cuts: frozenset[Cut]


class Product(NamedTuple):
    """A product of two activations that happens head by head.

    Attributes:
        module: the module that was running.
        heads: (rows,) labels of the heads.
        parts: (rows, k) labels of the dimensions of each head: of queries and keys, which are multiplied with each
            other and vanish, or of values.
        summed: whether the product sums over the dimensions of its parts, as that of queries and keys does.
    """

    module: str
    heads: Tensor
    parts: tuple[Tensor, ...]
    summed: bool


class Reshaped(NamedTuple):
    """A tensor that a module brought to another shape: labels that it carries, and the sizes along them."""

    module: str
    labels: Tensor
    sizes: frozenset[int]


class Part(NamedTuple):
    """Labels (k,) of a part of a tensor's channels, and the module that took it by a number that it may have recorded.

    The module is None where channels were divided into equal parts, none of which can change by itself.
    """

    module: str | None
    labels: Tensor


class Source(NamedTuple):
    """A parameter or buffer, or a view of one.

    Attributes:
        layer, parameter: names of the module and of its parameter or buffer.
        dims: for each dimension of the view, which one of the parameter it is; None where it is none.
    """

    layer: str
    parameter: str
    dims: tuple[int | None, ...]


class Use(NamedTuple):
    """What an axis does with the channels that its labels belong to."""

    axis: Axis
    side: Side


@dataclass
class Made:
    """The output of one call of a layer: which one, how often it was read, and the batch-norm that read it first."""

    layer: str
    readers: int = 0
    norm: str | None = None


@dataclass
class Operation:
    """One operation that the network ran, as rules see it.

    Attributes:
        name: PyTorch's name, such as `convolution`; in-place operations end in `_`.
        args, kwargs: what it was called with.
        results: the tensors that it returned.
    """

    function: Any
    name: str
    args: Sequence[Any]
    kwargs: dict[str, Any]
    results: list[Tensor]

    def argument(self, position: int, default: Any = None) -> Any:
        """A positional argument; `default` where it was left out."""
        return self.args[position] if len(self.args) > position else default

    @cached_property
    def tensors(self) -> list[Tensor]:
        """All tensors that it was called with."""
        return [leaf for leaf in tree_leaves((self.args, self.kwargs)) if isinstance(leaf, Tensor)]
