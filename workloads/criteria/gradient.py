"""Criteria that look at the loss and its gradient."""

from collections.abc import Sequence

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from workloads.criteria.magnitude import relative
from workloads.groups import CONSUMER, PRODUCER, Group, get_layer, rows


def taylor(model: nn.Module, group: Group, *, batches: Sequence[tuple[Tensor, Tensor]]) -> Tensor:
    """First-order Taylor expansion Σ|w·∂L/∂w| (Molchanov et al. 2019), mean over the group's layers.

    The gradient of the cross entropy is summed over the batches, in evaluation mode.
    """
    layers = [(get_layer(model, member.layer), member) for member in group.on(PRODUCER, CONSUMER)]
    weights = list(dict.fromkeys(layer.weight for layer, _ in layers))
    gradients = {weight: torch.zeros_like(weight) for weight in weights}
    with torch.enable_grad():
        for images, labels in batches:
            loss = F.cross_entropy(model(images), labels)
            for weight, gradient in zip(weights, torch.autograd.grad(loss, weights), strict=True):
                gradients[weight] += gradient
    scores = [
        rows((layer.weight * gradients[layer.weight]).detach().abs(), int(member.side == CONSUMER), member.index).sum(1)
        for layer, member in layers
    ]
    return relative(torch.stack(scores).mean(0))
