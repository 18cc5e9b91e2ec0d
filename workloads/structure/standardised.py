"""Convolutions that standardise their weights whenever they run (Qiao et al. 2019), such as timm's of NFNet and BiT.

What such a layer makes depends on the mean and deviation of all weights of a channel, so that no input could be removed
without changing them. As a batch-norm is merged into the layer before it, the standardised weights take the place of
the layer's own: the layer then uses them as they are.
"""

from collections.abc import Callable, Sequence
from typing import Any

import torch
from torch import Tensor, nn
from torch.nn import functional as F
from torch.overrides import TorchFunctionMode

from workloads.structure.extending import Extension, extend

PIXELS = 32


class _Standardising(TorchFunctionMode):
    """Sees what a weight is standardised to; or leaves it as it is."""

    def __init__(self, weight: Tensor, changing: bool):
        super().__init__()
        self.weight, self.changing = weight, changing
        self.found: Tensor | None = None

    def __torch_function__(
        self, func: Callable[..., Any], types: Any, args: Sequence[Any] = (), kwargs: dict[str, Any] | None = None
    ) -> Any:
        if func is F.batch_norm and args[0].numel() == self.weight.numel() and is_view_of(args[0], self.weight):
            if not self.changing:
                return self.weight
            self.found = func(*args, **(kwargs or {}))
            return self.found
        return func(*args, **(kwargs or {}))


def is_view_of(tensor: Tensor, weight: Tensor) -> bool:
    """Whether a tensor is a weight in another shape."""
    base = tensor._base if tensor._base is not None else tensor
    return base is weight or base is weight._base


class KeepsWeights(Extension):
    """A convolution that uses its weights as they are, and does else what its class does."""

    weight: Tensor

    def forward(self, *args: Any, **kwargs: Any) -> Any:
        """What the convolution does, its weights not being standardised once more."""
        with _Standardising(self.weight, changing=False):
            return super().forward(*args, **kwargs)


@torch.no_grad()
def standardised(module: nn.Module) -> Tensor | None:
    """What a convolution standardises its weights to; None if it is none that does so."""
    plain = type(module).__module__.startswith("torch.nn.") or isinstance(module, KeepsWeights)
    if not isinstance(module, nn.Conv2d) or plain:
        return None
    images = torch.zeros(1, module.in_channels, PIXELS, PIXELS).to(module.weight)
    seeing = _Standardising(module.weight, changing=True)
    try:
        with seeing:
            module(images)
    except Exception:
        return None  # it needs other inputs, and is what it is
    return None if seeing.found is None else seeing.found.reshape(module.weight.shape)


@torch.no_grad()
def keep_weights(model: nn.Module) -> nn.Module:
    """The network whose convolutions have standardised weights, in place, and use them as they are."""
    for module in model.modules():
        weights = standardised(module)
        if weights is not None:
            assert isinstance(module.weight, Tensor)
            module.weight.copy_(weights)
            extend(module, KeepsWeights)
    return model
