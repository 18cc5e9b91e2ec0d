"""Convolutions of networks side by side, at the price of the networks: block-diagonal, computed block by block."""

import copyreg
from typing import Any

import torch
from torch import Tensor, nn

FURTHER = ("blocks", "parts", "whole", "version")


class DividedConv2d(nn.Conv2d):
    """A convolution whose weight is block-diagonal, k blocks of one size, and which runs as k groups.

    That takes a k-th of the multiplications. Its weight and all that is recorded of it are those of an ordinary
    convolution; once the weight changes it runs as one, and copies, whose weights are about to change, are ordinary.
    """

    blocks: Tensor
    parts: int
    whole: Tensor
    version: int

    def forward(self, input: Tensor) -> Tensor:
        """As a convolution."""
        same = self.weight is self.whole and self.weight._version == self.version
        if not same or self.blocks.device != self.weight.device or self.blocks.dtype != self.weight.dtype:
            return super().forward(input)
        return torch.conv2d(input, self.blocks, self.bias, self.stride, self.padding, self.dilation, self.parts)

    def __reduce_ex__(self, protocol: Any) -> Any:
        """What makes a copy: an ordinary convolution."""
        state = {name: value for name, value in vars(self).items() if name not in FURTHER}
        return copyreg.__newobj__, (nn.Conv2d,), state  # type: ignore[attr-defined]


def divide(layer: nn.Module, parts: int) -> None:
    """Let a convolution whose weight is block-diagonal, with blocks of one size, run block by block, in place.

    Any other layer stays as it is.
    """
    if type(layer) is not nn.Conv2d or layer.groups > 1 or layer.padding_mode != "zeros":
        return
    weight = layer.weight.detach()
    outputs, inputs = weight.shape[0] // parts, weight.shape[1] // parts
    if outputs * parts != weight.shape[0] or inputs * parts != weight.shape[1]:
        return
    blocks = [
        weight[part * outputs : (part + 1) * outputs, part * inputs : (part + 1) * inputs] for part in range(parts)
    ]
    if sum(int(block.count_nonzero()) for block in blocks) < int(weight.count_nonzero()):
        return  # what reads the image, or neurons that lie in another order
    layer.__class__ = DividedConv2d
    layer.blocks, layer.parts = torch.cat(blocks), parts  # type: ignore[assignment]
    object.__setattr__(layer, "whole", layer.weight)  # the same parameter, not one more
    layer.version = layer.weight._version  # type: ignore[assignment]
