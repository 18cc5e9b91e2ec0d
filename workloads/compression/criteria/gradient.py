"""Criteria that look at the gradient of the loss, or of the output."""

import copy
from collections.abc import Iterable, Sequence
from functools import partial

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from workloads.compression.criteria.magnitude import relative
from workloads.compression.criteria.taps import run_tapped
from workloads.structure.groups import CONSUMER, PRODUCER, THROUGH, Group
from workloads.structure.layers import BATCH_NORMS, get_layer, rows


def taylor(model: nn.Module, group: Group, *, batches: Sequence[tuple[Tensor, Tensor]]) -> Tensor:
    """First-order Taylor expansion Σ|w·∂L/∂w| (Molchanov et al. 2019), mean over the group's layers.

    The gradient of the cross entropy is summed over the batches, in evaluation mode.
    """
    return first_order(model, group, (F.cross_entropy(model(images), labels) for images, labels in batches))


def synflow(model: nn.Module, group: Group, *, example: Tensor) -> Tensor:
    """Synaptic flow Σ|w·∂R/∂w| without data (Tanaka et al. 2020), mean over the group's layers.

    R is the sum of the outputs for an input of ones, all parameters made positive: the weight of all paths through the
    network. Batch-norms that are not merged keep their running variance and lose their running mean, which could make
    paths negative. In float64, since R grows exponentially with depth.
    """
    positive = copy.deepcopy(model).double().requires_grad_(True)
    with torch.no_grad():
        for parameter in positive.parameters():
            parameter.abs_()
        for module in positive.modules():
            if isinstance(module, BATCH_NORMS) and module.running_mean is not None:
                module.running_mean.zero_()
    with torch.enable_grad():
        flow = positive(torch.ones_like(example, dtype=torch.float64)).sum()
    return first_order(positive, group, [flow])


def first_order(model: nn.Module, group: Group, values: Iterable[Tensor]) -> Tensor:
    """Σ|w·∂v/∂w| over a pairing's weights, v being the sum of some scalars, mean over the group's layers: (n,).

    `values` may be a generator, which then computes one scalar after the other, gradients being on.
    """
    layers = [(get_layer(model, member.layer), member) for member in group.on(PRODUCER, THROUGH, CONSUMER)]
    weights = list(dict.fromkeys(layer.weight for layer, _ in layers))
    gradients = {weight: torch.zeros_like(weight) for weight in weights}
    with torch.enable_grad():
        for value in values:
            for weight, gradient in zip(weights, torch.autograd.grad(value, weights), strict=True):
                gradients[weight] += gradient
    scores = [
        rows((layer.weight * gradients[layer.weight]).detach().abs(), member.axis, member.index).sum(1)
        for layer, member in layers
    ]
    return relative(torch.stack(scores).mean(0))


def hessian(model: nn.Module, group: Group, *, batches: Sequence[tuple[Tensor, Tensor]]) -> Tensor:
    """Second-order estimate ½·E[(Σ a·∂L/∂a)²] of what removal costs (Theis et al. 2018; Liu et al. 2021).

    The sum is over a pairing's outputs a in all producing layers and positions, before squaring; it is the derivative
    of a sample's cross entropy L by a gate on the pairing. Its mean square over the samples is the Fisher information,
    which stands for the second derivative. Constants vanish when the scores are divided by their mean.
    """
    producers = [(get_layer(model, member.layer), member) for member in group.on(PRODUCER)]
    total = torch.zeros(group.size, dtype=torch.float64, device=producers[0][0].weight.device)
    for images, labels in batches:
        gates = [
            layer.weight.new_ones(len(images), layer.weight.shape[member.axis], requires_grad=True)
            for layer, member in producers
        ]
        taps = {member.layer: partial(gated, gate) for gate, (_, member) in zip(gates, producers, strict=True)}
        with torch.enable_grad():
            loss = F.cross_entropy(run_tapped(model, images, taps), labels, reduction="sum")
        gradients = torch.autograd.grad(loss, gates)
        slopes = [g.double()[:, member.index].sum(2) for g, (_, member) in zip(gradients, producers, strict=True)]
        total += torch.stack(slopes).sum(0).square().sum(0)
    return relative(total)


def gated(gate: Tensor, layer: nn.Module, output: Tensor) -> Tensor:
    """A layer's output times a gate (samples, channels); several rows may belong to a sample, next to each other."""
    gate = gate.repeat_interleave(len(output) // len(gate), 0)
    between = [1] * (output.ndim - 2)
    shape = (len(gate), *between, -1) if isinstance(layer, nn.Linear) else (len(gate), -1, *between)
    return output * gate.view(shape)
