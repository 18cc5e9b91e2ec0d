"""The outputs of single layers while a network runs, for criteria that look at them or change them."""

from collections.abc import Callable, Mapping
from contextlib import ExitStack

from torch import Tensor, nn

from workloads.structure.layers import get_layer

Tap = Callable[[nn.Module, Tensor], Tensor | None]


def run_tapped(model: nn.Module, images: Tensor, taps: Mapping[str, Tap]) -> Tensor:
    """The network's output, while `taps[name](layer, output)` is called for each named layer that has run.

    A tap sees the output before anything overwrites it; what it returns, if not None, takes the output's place.
    """

    def hook(tap: Tap) -> Callable[..., Tensor | None]:
        return lambda layer, inputs, output: tap(layer, output)

    with ExitStack() as stack:
        for name, tap in taps.items():
            stack.enter_context(get_layer(model, name).register_forward_hook(hook(tap)))
        return model(images)
