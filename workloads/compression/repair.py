"""Repairing the statistics of a network's activations after compression or fusion."""

import math
from collections.abc import Mapping, Sequence
from dataclasses import replace

import torch
from torch import Tensor, nn

from workloads.compression.calls import Call, CallMoments, by_channel, channel_dim, run_all
from workloads.structure.batch_norm import Statistics
from workloads.structure.groups import PRODUCER, THROUGH, Group, Maps, Structure
from workloads.structure.layers import along_outputs, get_layer, remap, resize

ROUNDS = 4  # in which the correction of layers that run several times is sought
SMALL_MISMATCH = 1e-9
Corrections = dict[str, tuple[Tensor, Tensor]]
"""Gain and offset of each output channel of a layer, by the layer's name; float64."""


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
        bias = getattr(layer, "bias", None)
        mean = mean if mean is not None else torch.zeros(()) if bias is None else bias.detach()
        mean = mean.expand(layer.weight.shape[member.axis])[member.index].to(weight)
        deviation = weight.norm(dim=2) if deviation is None else deviation[member.index].to(weight)
        directions = torch.nn.functional.normalize(weight, dim=2)
        matrix, shares = maps.for_producer(member).to(weight), maps.shares.to(weight)
        wanted = shares @ deviation
        reached = torch.einsum("mn,nrd->mrd", matrix, deviation[..., None] * directions).norm(dim=2)
        gain[member.layer] = torch.where(reached > 1e-6 * wanted, wanted / reached, 1.0).float().cpu()
        offset[member.layer] = (shares @ mean).float().cpu() - gain[member.layer] * (matrix @ mean).float().cpu()
    return replace(maps, gain=gain, offset=offset)


def repaired_layers(structure: Structure) -> tuple[str, ...]:
    """Layers whose output statistics can be repaired: those of all groups, and all that feed a batch-norm.

    Not those whose module returns an activation of what its weights made.
    """
    of_groups = [layer for group in structure.groups for layer in group.layers if layer not in structure.opaque]
    return tuple(dict.fromkeys([*of_groups, *(layer for layer, _ in structure.normalised)]))


def narrowed_statistics(statistics: Statistics, group: Group, maps: Maps) -> Statistics:
    """Statistics after the maps were applied: the shares' average of those of the mixed neurons, call by call."""
    shares = maps.shares.double()
    result = dict(statistics)
    for member in group.on(PRODUCER, THROUGH):
        if member.layer in statistics:
            mean, deviation = (remap(part.double(), -1, member.index, shares) for part in statistics[member.layer])
            result[member.layer] = mean, deviation
    return result


def average_statistics(statistics: Sequence[Statistics], weights: Sequence[float] | None = None) -> Statistics:
    """Mean of the means and mean of the deviations, layer by layer; `weights` sum to one, None is equal ones."""

    def mean(name: str, part: int) -> Tensor:
        stacked = torch.stack([each[name][part] for each in statistics])
        if weights is None:
            return stacked.mean(0)
        return torch.einsum("k,k...->...", torch.tensor(weights).to(stacked), stacked)

    return {name: (mean(name, 0), mean(name, 1)) for name in statistics[0]}


@torch.no_grad()
def match_statistics(model: nn.Module, wanted: Statistics, images: Sequence[Tensor]) -> None:
    """Give the outputs of layers a mean and deviation a channel, in place (REPAIR, Jordan et al. 2023, section 3).

    While the images run through the network, each layer's output is normalised by the statistics of its batch and
    brought to the wanted ones, so that later layers see repaired inputs; then weights and bias take the correction over
    all images. A channel that is constant gets the wanted mean alone.

    A layer that runs several times in a pass has statistics for each call, but one weight and bias. It gets the gain
    and offset that come nearest to all of its calls' statistics, by least squares, first with every call's output
    corrected by itself; since they change what the layer reads later on, some rounds follow. The best round counts, the
    network as it is among them: where no correction helps all calls together, such layers stay as they are.

    Args:
        model: a network, batch-norm merged; batch-norms play no part.
        wanted: mean and deviation of the layers to repair, each (calls, channels) as `output_moments` gives them.
        images: normalised training batches.
    """
    several = [name for name, (mean, _) in wanted.items() if len(mean) > 1]
    fixed: Corrections = {name: (torch.ones_like(wanted[name][0][0]), wanted[name][0][0] * 0) for name in several}
    least, best = math.inf, fixed
    for number in range(ROUNDS if several else 1):
        reached = corrected_moments(model, wanted, fixed, images)
        distance = mismatch(wanted, reached, fixed)
        if number == 0 or distance < least:
            least, best = distance, corrections(wanted, reached) | fixed
        if distance < SMALL_MISMATCH:
            break
        if several and number == 0:
            reached = corrected_moments(model, wanted, {}, images)
        fixed = {name: shared_correction(wanted[name], reached[name]) for name in several}
    for name, correction in best.items():
        layer = get_layer(model, name)
        gain, offset = (part.to(layer.weight) for part in correction)
        resize(layer, "weight", layer.weight * along_outputs(layer, gain))
        resize(layer, "bias", offset if layer.bias is None else layer.bias * gain + offset)


def corrected_moments(
    model: nn.Module, wanted: Statistics, fixed: Mapping[str, tuple[Tensor, Tensor]], images: Sequence[Tensor]
) -> Statistics:
    """What each layer makes of inputs that are corrected already: mean and deviation, each (calls, channels).

    Args:
        model: the network.
        wanted: what each batch's output of a layer is brought to, once its statistics are taken.
        fixed: gain and offset of the layers whose output gets these instead.
        images: normalised batches.
    """
    seen = CallMoments()

    def repair(call: Call, layer: nn.Module, output: Tensor) -> Tensor:
        values = by_channel(layer, output)
        seen.add(call, values)
        if call.layer in fixed:
            correction = fixed[call.layer]
        else:
            mean, deviation = values.double().mean(0).cpu(), values.double().var(0, correction=0).sqrt().cpu()
            correction = exact_correction([part[call.number] for part in wanted[call.layer]], [mean, deviation])
        gain, offset = (part.to(output) for part in correction)
        shape = [-1, *[1] * (-1 - channel_dim(layer))]
        return output * gain.view(shape) + offset.view(shape)

    run_all(model, images, dict.fromkeys(wanted, repair))
    return seen.statistics()


def exact_correction(wanted: Sequence[Tensor], reached: Sequence[Tensor]) -> tuple[Tensor, Tensor]:
    """Gain and offset that bring a mean and deviation to the wanted ones."""
    gain = torch.where(reached[1] > 1e-6 * wanted[1], wanted[1] / reached[1], 1.0)
    return gain, wanted[0] - gain * reached[0]


def shared_correction(wanted: Sequence[Tensor], reached: Sequence[Tensor]) -> tuple[Tensor, Tensor]:
    """Gain and offset that bring means and deviations, each (calls, channels), as near as possible to the wanted ones.

    They minimise Σ (gain·σ − σ')² + (gain·μ + offset − μ')² over the calls.
    """
    centred, target = (mean - mean.mean(0) for mean in (reached[0], wanted[0]))
    scale = (reached[1].square() + centred.square()).sum(0)
    product = (reached[1] * wanted[1] + centred * target).sum(0)
    size = (wanted[1].square() + target.square()).sum(0)
    gain = torch.where(scale > 1e-12 * size, product / scale, 1.0)
    return gain, wanted[0].mean(0) - gain * reached[0].mean(0)


def corrections(wanted: Statistics, reached: Statistics) -> Corrections:
    """The exact corrections of the layers that run once."""
    return {
        name: exact_correction([part[0] for part in wanted[name]], [part[0] for part in reached[name]])
        for name in reached
        if len(wanted[name][0]) == 1
    }


def mismatch(wanted: Statistics, reached: Statistics, fixed: Mapping[str, tuple[Tensor, Tensor]]) -> float:
    """How far corrected means and deviations of all calls are from the wanted ones, as a share of the variance."""
    shares = []
    for name, (gain, offset) in fixed.items():
        (mean, deviation), (wanted_mean, wanted_deviation) = reached[name], wanted[name]
        if mean.shape != wanted_mean.shape:
            raise ValueError(f"layer '{name}' runs {len(mean)} times here, but {len(wanted_mean)} times before")
        errors = (gain * mean + offset - wanted_mean).square() + (gain * deviation - wanted_deviation).square()
        variance = wanted_deviation.square().mean().clamp(min=torch.finfo(torch.float64).tiny)
        shares.append((errors.mean() / variance).item())
    return max(shares, default=0.0)


@torch.no_grad()
def anchor_batch_norms(model: nn.Module, structure: Structure, statistics: Statistics) -> None:
    """Let merged batch-norms know the statistics of what they read, in place, so that training starts from there.

    In evaluation mode they stay the identity; in training mode they normalise by the batch and give mean and deviation
    back, where an empty one would set them to 0 and 1. `statistics` are as `output_moments` gives them; what a
    batch-norm was merged into runs once in a pass.
    """
    for layer, name in structure.normalised:
        norm, (mean, deviation) = get_layer(model, name), (part[0] for part in statistics[layer])
        norm.running_mean.copy_(mean)
        norm.running_var.copy_(deviation.square())
        norm.weight.copy_((norm.running_var + norm.eps).sqrt())
        norm.bias.copy_(mean)
