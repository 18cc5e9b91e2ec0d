"""Modules that bring tensors to a shape which they take from elsewhere: their last size follows from the tensor.

Many attentions write `x.reshape(B, N, C)` for what their heads make together, where C is the width of what they read.
That is right only as long as the two are equal. A module that infers last sizes runs the same code as before, with -1
in the place of the last size.
"""

from collections.abc import Callable, Sequence
from typing import Any

import torch
from torch import Tensor
from torch.overrides import TorchFunctionMode

from workloads.structure.extending import Extension

RESHAPING = {Tensor.view, Tensor.reshape, torch.reshape}


class _LastSizes(TorchFunctionMode):
    """Lets PyTorch infer the last size of every new shape."""

    def __torch_function__(
        self, func: Callable[..., Any], types: Any, args: Sequence[Any] = (), kwargs: dict[str, Any] | None = None
    ) -> Any:
        if func in RESHAPING and not kwargs:
            tensor, *shape = args
            sizes = list(shape[0] if len(shape) == 1 and isinstance(shape[0], Sequence) else shape)
            if sizes and all(isinstance(size, (int, torch.SymInt)) for size in sizes) and not has_inferred(sizes):
                return func(tensor, [*sizes[:-1], -1])
        return func(*args, **(kwargs or {}))


def has_inferred(sizes: Sequence[Any]) -> bool:
    """Whether one of the sizes is inferred already."""
    return any(isinstance(size, int) and size == -1 for size in sizes)


class InfersLastSizes(Extension):
    """A module whose tensors get their last size from how many values there are."""

    def forward(self, *args: Any, **kwargs: Any) -> Any:
        """What the module does, with last sizes inferred."""
        with _LastSizes():
            return super().forward(*args, **kwargs)
