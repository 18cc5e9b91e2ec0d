"""Repairing the statistics of a network's activations after compression or fusion."""

from collections.abc import Callable, Iterable, Sequence
from dataclasses import replace
from typing import Any

import torch
from torch import Tensor, nn

from workloads.structure.batch_norm import Statistics
from workloads.structure.groups import PRODUCER, THROUGH, Group, Maps, Structure
from workloads.structure.layers import along_outputs, get_layer, remap, resize


def with_corrected_variance(model: nn.Module, group: Group, statistics: Statistics, maps: Maps) -> Maps:
    """The maps with a gain and offset that keep mean and deviation of the mixed neurons, from the weights alone.

    Two neurons are taken to be correlated as the cosine of their incoming weights says. Each new neuron, on each
    producing layer, gets the mean and deviation that its members have on average: for the mean of a cluster of N
    equally strong neurons the gain is the N/√(N + (N² − N)·E[c]) of Fold-AR (Wang et al., ICLR 2025).

    Args:
        model: the network before the maps are applied, batch-norm merged.
        group: the group of the maps.
        statistics: mean and deviation by layer as `merge_batch_norm` returns them; where a layer has none, its bias
            and the norm of its incoming weights stand for them.
        maps: of any method.
    """
    gain, offset = {}, {}
    for member in group.on(PRODUCER, THROUGH):
        layer = get_layer(model, member.layer)
        weight = layer.weight.detach().movedim(member.axis, 0).flatten(1)[member.index]
        mean, deviation = statistics.get(member.layer, (None, None))
        mean = torch.zeros(()) if mean is None and layer.bias is None else layer.bias.detach() if mean is None else mean
        mean = mean.expand(layer.weight.shape[member.axis])[member.index].to(weight)
        deviation = weight.norm(dim=2) if deviation is None else deviation[member.index].to(weight)
        directions = torch.nn.functional.normalize(weight, dim=2)
        matrix, shares = maps.for_producer(member).to(weight), maps.shares.to(weight)
        wanted = shares @ deviation
        reached = torch.einsum("mn,nrd->mrd", matrix, deviation[..., None] * directions).norm(dim=2)
        gain[member.layer] = torch.where(reached > 1e-6 * wanted, wanted / reached, 1.0).cpu()
        offset[member.layer] = (shares @ mean).cpu() - gain[member.layer] * (matrix @ mean).cpu()
    return replace(maps, gain=gain, offset=offset)


def output_moments(model: nn.Module, layers: Iterable[str], images: Sequence[Tensor]) -> Statistics:
    """Mean and deviation a channel of the outputs of some layers, over all images and positions, float64."""
    sums: dict[str, list[Tensor]] = {}

    def accumulate(name: str) -> Callable[..., None]:
        def hook(module: nn.Module, inputs: tuple[Tensor, ...], output: Tensor) -> None:
            add_moments(sums, name, by_channel(module, output))

        return hook

    with_hooks(model, {name: accumulate(name) for name in layers}, images)
    return {name: moments(*parts) for name, parts in sums.items()}


def add_moments(sums: dict[str, list[Tensor]], name: str, values: Tensor) -> None:
    """Add (samples, channels) to a layer's count, sums and sums of squares, float64."""
    values = values.double()
    parts = [torch.tensor(float(len(values))), values.sum(0).cpu(), values.square().sum(0).cpu()]
    sums[name] = [a + b for a, b in zip(sums[name], parts, strict=True)] if name in sums else parts


def moments(count: Tensor, sums: Tensor, squares: Tensor) -> tuple[Tensor, Tensor]:
    """Mean and deviation."""
    mean = sums / count
    return mean, (squares / count - mean.square()).clamp(min=0).sqrt()


@torch.inference_mode()
def with_hooks(model: nn.Module, hooks: dict[str, Callable[..., Any]], images: Sequence[Tensor]) -> None:
    """Run the images through the network with a forward hook on each named layer."""
    handles = [get_layer(model, name).register_forward_hook(hook) for name, hook in hooks.items()]
    try:
        for batch in images:
            model.eval()(batch)
    finally:
        for handle in handles:
            handle.remove()


def by_channel(module: nn.Module, output: Tensor) -> Tensor:
    """A layer's output as (samples and positions, channels)."""
    channels_last = output if isinstance(module, (nn.Linear, nn.Embedding)) else output.movedim(1, -1)
    return channels_last.reshape(-1, channels_last.shape[-1])


def repaired_layers(structure: Structure) -> tuple[str, ...]:
    """Layers whose output statistics can be repaired: those of all groups, and all that feed a batch-norm.

    Not those whose module returns an activation of what its weights made.
    """
    of_groups = [layer for group in structure.groups for layer in group.layers if layer not in structure.opaque]
    return tuple(dict.fromkeys([*of_groups, *(layer for layer, _ in structure.normalised)]))


def narrowed_statistics(statistics: Statistics, group: Group, maps: Maps) -> Statistics:
    """Statistics after the maps were applied: the shares' average of those of the mixed neurons."""
    shares = maps.shares.double()
    result = dict(statistics)
    for member in group.on(PRODUCER, THROUGH):
        if member.layer in statistics:
            mean, deviation = (remap(part.double(), 0, member.index, shares) for part in statistics[member.layer])
            result[member.layer] = mean, deviation
    return result


def average_statistics(statistics: Sequence[Statistics]) -> Statistics:
    """Mean of the means and mean of the deviations, layer by layer."""

    def mean(name: str, part: int) -> Tensor:
        return torch.stack([each[name][part] for each in statistics]).mean(0)

    return {name: (mean(name, 0), mean(name, 1)) for name in statistics[0]}


@torch.no_grad()
def match_statistics(model: nn.Module, wanted: Statistics, images: Sequence[Tensor]) -> None:
    """Give the outputs of layers a mean and deviation a channel, in place (REPAIR, Jordan et al. 2023, section 3).

    While the images run through the network, each layer's output is normalised by the statistics of its batch and
    brought to the wanted ones, so that later layers see repaired inputs; then weights and bias take the correction over
    all images. A channel that is constant gets the wanted mean alone.

    Args:
        model: a network, batch-norm merged; batch-norms play no part.
        wanted: mean and deviation of the layers to repair.
        images: normalised training batches.
    """
    sums: dict[str, list[Tensor]] = {}

    def correction(name: str, mean: Tensor, deviation: Tensor) -> tuple[Tensor, Tensor]:
        gain = torch.where(deviation > 1e-6 * wanted[name][1], wanted[name][1] / deviation, 1.0)
        return gain, wanted[name][0] - gain * mean

    def repairing(name: str) -> Callable[..., Tensor]:
        def hook(module: nn.Module, inputs: tuple[Tensor, ...], output: Tensor) -> Tensor:
            values = by_channel(module, output)
            add_moments(sums, name, values)
            mean = values.double().mean(0).cpu()
            deviation = values.double().var(0, correction=0).sqrt().cpu()
            gain, offset = (part.to(output) for part in correction(name, mean, deviation))
            shape = [-1] if isinstance(module, nn.Linear) else [-1, *[1] * (output.ndim - 2)]
            return output * gain.view(shape) + offset.view(shape)

        return hook

    with_hooks(model, {name: repairing(name) for name in wanted}, images)
    for name, parts in sums.items():
        layer = get_layer(model, name)
        gain, offset = (part.to(layer.weight) for part in correction(name, *moments(*parts)))
        resize(layer, "weight", layer.weight * along_outputs(layer, gain))
        resize(layer, "bias", offset if layer.bias is None else layer.bias * gain + offset)


@torch.no_grad()
def anchor_batch_norms(model: nn.Module, structure: Structure, statistics: Statistics) -> None:
    """Let merged batch-norms know the statistics of what they read, in place, so that training starts from there.

    In evaluation mode they stay the identity; in training mode they normalise by the batch and give mean and deviation
    back, where an empty one would set them to 0 and 1.
    """
    for layer, name in structure.normalised:
        norm, (mean, deviation) = get_layer(model, name), statistics[layer]
        norm.running_mean.copy_(mean)
        norm.running_var.copy_(deviation.square())
        norm.weight.copy_((norm.running_var + norm.eps).sqrt())
        norm.bias.copy_(mean)
