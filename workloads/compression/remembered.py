"""What was found out about a network, kept until it changes or another one is asked about."""

import weakref
from collections.abc import Callable, Hashable
from typing import Generic, TypeVar

from torch import nn

T = TypeVar("T")


class Remembered(Generic[T]):
    """The last value that was made for a network and a key.

    A change of the network's weights, in place or not, makes it forgotten. Of tensors made in inference mode PyTorch
    does not count the changes; for such a network nothing is kept.
    """

    def __init__(self) -> None:
        self.model: weakref.ref[nn.Module] | None = None
        self.key: Hashable = None
        self.value: T | None = None

    def get(self, model: nn.Module, key: Hashable, make: Callable[[], T]) -> T:
        """The value for the network and key, made if it is not that of the last call."""
        tensors = [*model.parameters(), *model.buffers()]
        if any(tensor.is_inference() for tensor in tensors):
            return make()
        key = key, tuple((id(tensor), tensor._version) for tensor in tensors)
        if self.value is None or self.model is None or self.model() is not model or self.key != key:
            self.value = make()
            self.model, self.key = weakref.ref(model), key
        return self.value
