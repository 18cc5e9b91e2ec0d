"""Criteria that look at the gradient of the loss, or of the output."""

from collections.abc import Iterable, Sequence

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from workloads.compression.calls import Call, ImageBatch, image_batches, per_image, tapped
from workloads.compression.criteria.magnitude import relative
from workloads.structure.copying import copied
from workloads.structure.groups import CONSUMER, PRODUCER, THROUGH, Group, Member
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
    positive = copied(model).double().requires_grad_(True)
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

    `values` may be a generator, which then computes one scalar after the other, gradients being on. What takes no part
    in a scalar, such as an expert that no image goes to, has a gradient of 0.

    Raises:
        ValueError: none of the weights takes part in any of the scalars.
    """
    layers = [(get_layer(model, member.layer), member) for member in group.on(PRODUCER, THROUGH, CONSUMER)]
    weights = list(dict.fromkeys(layer.weight for layer, _ in layers))
    gradients: dict[Tensor, Tensor] = {}
    with torch.enable_grad():
        for value in values:
            for weight, gradient in gradients_of(value, weights).items():
                gradients[weight] = gradients[weight] + gradient if weight in gradients else gradient
    check_reached(bool(gradients), [member for _, member in layers])
    for weight in weights:
        gradients.setdefault(weight, torch.zeros_like(weight))
    scores = [
        rows((layer.weight * gradients[layer.weight]).detach().abs(), member.axis, member.index).sum(1)
        for layer, member in layers
    ]
    return relative(torch.stack(scores).mean(0))


def gradients_of(value: Tensor, tensors: Sequence[Tensor]) -> dict[Tensor, Tensor]:
    """The gradients of a scalar by those of some tensors that take part in it."""
    taking_part = [tensor for tensor in tensors if tensor.requires_grad] if value.requires_grad else []
    if not taking_part:
        return {}
    found = zip(taking_part, torch.autograd.grad(value, taking_part, allow_unused=True), strict=True)
    return {tensor: gradient for tensor, gradient in found if gradient is not None}


def check_reached(reached: bool, members: Sequence[Member]) -> None:
    """Refuse to rank by gradients that do not exist.

    Raises:
        ValueError: nothing was reached.
    """
    if not reached:
        names = ", ".join(f"'{name}'" for name in dict.fromkeys(member.layer for member in members))
        raise ValueError(
            f"no gradient reaches the layers {names}: the network cuts it off, as torch.no_grad() and detach() do, or "
            f"no image goes through them"
        )


def hessian(model: nn.Module, group: Group, *, batches: Sequence[tuple[Tensor, Tensor]]) -> Tensor:
    """Second-order estimate ½·E[(Σ a·∂L/∂a)²] of what removal costs (Theis et al. 2018; Liu et al. 2021).

    The sum is over a pairing's outputs a in all producing layers, their calls and positions, before squaring; it is the
    derivative of an image's cross entropy L by a gate on the pairing. Its mean square over the images is the Fisher
    information, which stands for the second derivative. Constants vanish when the scores are divided by their mean.

    Raises:
        ValueError: no gradient reaches any of the layers.
    """
    members = list(group.on(PRODUCER))
    total = torch.zeros(group.size, dtype=torch.float64, device=get_layer(model, members[0].layer).weight.device)
    reached = False
    for batch in image_batches(model, [member.layer for member in members], batches):
        slopes = gate_slopes(model, members, batch)
        if slopes is not None:
            total += slopes.square().sum(0)
            reached = True
    check_reached(reached, members)
    return relative(total)


def gate_slopes(model: nn.Module, members: Sequence[Member], batch: ImageBatch) -> Tensor | None:
    """(images, n) float64 derivatives of each image's cross entropy by a gate on each pairing, if there are any."""
    gates: dict[str, Tensor] = {}
    for member in members:
        weight = get_layer(model, member.layer).weight
        gates[member.layer] = weight.new_ones(len(batch.images), weight.shape[member.axis]).requires_grad_(True)

    def gate(call: Call, layer: nn.Module, output: Tensor) -> Tensor:
        return output * per_image(gates[call.layer], layer, output, batch.rows_of(call))

    with torch.enable_grad(), tapped(model, outputs=dict.fromkeys(gates, gate)) as run:
        loss = F.cross_entropy(run(batch.images), batch.labels, reduction="sum")
        gradients = gradients_of(loss, list(gates.values()))
    known = [(gradients.get(gates[member.layer]), member) for member in members]
    slopes = [gradient.double()[:, member.index].sum(2) for gradient, member in known if gradient is not None]
    return torch.stack(slopes).sum(0) if slopes else None
