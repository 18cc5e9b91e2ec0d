"""Repairing the statistics of a network's activations after compression or fusion."""

from collections.abc import Callable, Sequence

import torch
from torch import Tensor, nn

from workloads.groups import Structure, get_layer


def output_moments(
    model: nn.Module, layers: Sequence[str], images: Sequence[Tensor]
) -> dict[str, tuple[Tensor, Tensor]]:
    """Mean and variance a channel of the outputs of some layers, over all images and positions, float64."""
    sums: dict[str, list[Tensor]] = {}

    def accumulate(name: str) -> Callable[..., None]:
        def hook(module: nn.Module, inputs: tuple[Tensor, ...], output: Tensor) -> None:
            values = by_channel(module, output).double()
            moments = [torch.tensor(float(len(values))), values.sum(0).cpu(), values.square().sum(0).cpu()]
            sums[name] = [a + b for a, b in zip(sums[name], moments, strict=True)] if name in sums else moments

        return hook

    handles = [get_layer(model, name).register_forward_hook(accumulate(name)) for name in layers]
    try:
        with torch.inference_mode():
            for batch in images:
                model.eval()(batch)
    finally:
        for handle in handles:
            handle.remove()
    return {name: (s / n, (q / n - (s / n).square()).clamp(min=0)) for name, (n, s, q) in sums.items()}


def by_channel(module: nn.Module, output: Tensor) -> Tensor:
    """A layer's output as (samples and positions, channels)."""
    channels_last = output if isinstance(module, nn.Linear) else output.movedim(1, -1)
    return channels_last.reshape(-1, channels_last.shape[-1])


@torch.no_grad()
def match_statistics(
    model: nn.Module, structure: Structure, references: Sequence[nn.Module], images: Sequence[Tensor]
) -> None:
    """Make every batch-norm's output have the mean and deviation of its references', in place (REPAIR).

    Jordan et al. 2023, section 3: each batch-norm normalises by its own batch statistics, then gets the references'
    mean as bias and deviation as weight.

    Args:
        model: a network whose batch-norms are merged.
        structure: names of the layers that feed batch-norms.
        references: networks of the same widths, batch-norm merged; their statistics are averaged.
        images: normalised training batches.
    """
    layers = [layer for layer, _ in structure.normalised]
    moments = [output_moments(reference, layers, images) for reference in references]
    norms = [get_layer(model, norm) for _, norm in structure.normalised]
    momenta = [norm.momentum for norm in norms]
    for layer, norm in zip(layers, norms, strict=True):
        norm.bias.copy_(torch.stack([m[layer][0] for m in moments]).mean(0))
        deviation = torch.stack([m[layer][1].sqrt() for m in moments]).mean(0)
        norm.weight.copy_((deviation.square() + norm.eps).sqrt())
        norm.reset_running_stats()
        norm.momentum = None
        norm.train()
    for batch in images:
        model(batch)
    for norm, momentum in zip(norms, momenta, strict=True):
        norm.momentum = momentum
    model.eval()
