"""Aligning a residual stream by a rotation, once the affine parts of its norms are folded away.

A norm without scale and bias leaves a rotation of the channels that it norms as it is: x/‖x‖ becomes R·x/‖x‖. A layer
norm subtracts the mean too, which a rotation leaves as it is if it keeps the vector of ones. So every network whose
stream is read through such norms alone can be brought to any of these bases: R from the left on what writes to the
stream, Rᵀ from the right on what reads it. Scale and bias of a norm go into the layers that read it (Ashkboos et al.
2024, SliceGPT).
"""

import copy
from collections.abc import Sequence

import torch
from torch import Tensor, nn

from workloads.fusion.heads import SETTLED, nearest_rotation
from workloads.structure.groups import (
    ADDED,
    CONSUMER,
    PRODUCER,
    SCALE,
    Group,
    Maps,
    Member,
    Structure,
    apply,
    narrow,
    shift_inputs,
)
from workloads.structure.layers import get_layer, rows
from workloads.structure.network import Network

TRIAL_IMAGES = 4
TOLERANCE = 1e-3
"""By how much of their size logits may differ where nothing but rounding should change them."""


def streams(structure: Structure) -> list[Group]:
    """The groups of channels over which a norm is taken."""
    return [group for group in structure.groups if group.kind == "residual"]


def norms_of(group: Group) -> dict[str, list[Member]]:
    """The members that read each norm of a stream, by the norm's name.

    Raises:
        ValueError: a layer reads the stream without a norm, or something else multiplies its channels.
    """
    found: dict[str, list[Member]] = {}
    last = ""
    for member in group.members:
        if member.side == SCALE:
            last = member.layer
            found[last] = []
        elif member.side == CONSUMER:
            if not last:
                raise ValueError(f"'{member.layer}' reads it without a norm that has a scale")
            found[last].append(member)
        elif member.side not in (PRODUCER, ADDED):
            raise ValueError(f"'{member.layer}' reads and makes its channels one by one")
    for layer, readers in found.items():
        if not readers:
            raise ValueError(f"'{layer}' multiplies its channels one by one, and no layer reads them right after it")
    if not found:
        raise ValueError("no norm of it has a scale")
    return found


@torch.no_grad()
def with_plain_norms(network: Network, example: Tensor) -> Network:
    """The same function with norms of the stream that have no scale and bias; their readers take these over.

    Args:
        network: prepared; not changed.
        example: (1, C, H, W), for the shape and device of images to try it on.

    Raises:
        ValueError: it has no residual stream, or one that a rotation does not leave as it is.
    """
    if not streams(network.structure):
        raise ValueError("no norm is taken over a residual stream: leave fusion.residual as it is")
    model = copy.deepcopy(network.model)
    for group in streams(network.structure):
        try:
            norms = norms_of(group)
        except ValueError as error:
            raise ValueError(f"the stream of group {group.number} cannot be rotated: {error}") from None
        for name, readers in norms.items():
            norm = get_layer(model, name)
            own = {member.parameter: member for member in group.on(SCALE, ADDED) if member.layer == name}
            values = {parameter: getattr(norm, parameter)[each.index.flatten()] for parameter, each in own.items()}
            for reader in readers:
                if "bias" in values:
                    shift_inputs(get_layer(model, reader.layer), reader, values["bias"])
                narrow(get_layer(model, reader.layer), reader, values["weight"].diag())
            for parameter, member in own.items():
                getattr(norm, parameter)[member.index.flatten()] = float(parameter == "weight")
    check_equal(model, network.model, example, "the affine parts of its norms cannot be folded into what reads them")
    generator = torch.Generator().manual_seed(0)
    rotated = copy.deepcopy(model)
    for group in streams(network.structure):
        product = torch.randn(group.size, group.size, generator=generator, dtype=torch.float64)
        rotate(rotated, group, rotation(product, keeps_mean(model, group)))
    check_equal(rotated, model, example, "another basis of it changes what the network computes")
    return network._replace(model=model)


@torch.no_grad()
def check_equal(model: nn.Module, before: nn.Module, example: Tensor, problem: str) -> None:
    """Compare logits on images of noise.

    Raises:
        ValueError: they differ; says the problem.
    """
    generator = torch.Generator().manual_seed(0)
    images = torch.randn(TRIAL_IMAGES, *example.shape[1:], generator=generator).to(example)
    expected, found = before.eval()(images), model.eval()(images)
    if not bool((found - expected).abs().max() <= TOLERANCE * expected.abs().max()):
        raise ValueError(f"the residual stream cannot be rotated, since {problem}: leave fusion.residual as it is")


def rotate(model: nn.Module, group: Group, R: Tensor) -> bool:
    """Multiply the channels of a stream with plain norms by an orthogonal matrix, in place; whether any moved."""
    single = R.float()
    apply(model, group, Maps(single, single))
    return not torch.allclose(R, torch.eye(len(R), dtype=R.dtype), atol=SETTLED)


def keeps_mean(model: nn.Module, group: Group) -> bool:
    """Whether the norms of a stream subtract its mean, so that a rotation has to keep the vector of ones."""
    return any(isinstance(get_layer(model, name), nn.LayerNorm) for name in norms_of(group))


def rotation(product: Tensor, centred: bool) -> Tensor:
    """The orthogonal R with the largest inner product with a matrix; with R·1 = 1 if `centred`.

    Args:
        product: (n, n) float64, inner products of the anchor's channels (rows) with another network's.
    """
    if not centred:
        return nearest_rotation(product)
    n = len(product)
    ones = torch.ones(n, 1, dtype=product.dtype)
    basis = torch.linalg.qr(torch.cat([ones, torch.eye(n, n - 1, dtype=product.dtype)], 1)).Q[:, 1:]
    rotated: Tensor = basis @ nearest_rotation(basis.T @ product @ basis) @ basis.T + 1 / n
    return rotated


def best_rotation(
    models: Sequence[nn.Module], pair: Sequence[Group], usable: Sequence[bool], products: Tensor | None
) -> Tensor:
    """(n, n) float64 the rotation of the second network's stream that brings it nearest to the first one's.

    Args:
        models: the anchor and the other, their norms plain.
        pair: their groups.
        usable: for each member whether its weights count.
        products: (n, n) inner products of what the anchor's channels (rows) and the other's do on images; None takes
            the weights that write to the stream and read it.

    Raises:
        ValueError: the streams have different widths.
    """
    sizes = [group.size for group in pair]
    if sizes[0] != sizes[1]:
        raise ValueError(
            f"streams of {sizes[0]} and {sizes[1]} channels cannot be rotated onto each other: leave fusion.residual "
            f"as it is"
        )
    if products is None:
        one, other = (written_and_read(*each, usable) for each in zip(models, pair, strict=True))
        products = one @ other.T
    return rotation(products, keeps_mean(models[0], pair[0]))


def written_and_read(model: nn.Module, group: Group, usable: Sequence[bool]) -> Tensor:
    """(n, d) float64 the weights and biases around a stream, a row a channel; those of plain norms say nothing."""
    parts = []
    for member, counts in zip(group.members, usable, strict=True):
        if not counts or member.side == SCALE:
            continue
        layer = get_layer(model, member.layer)
        parts.append(rows(getattr(layer, member.parameter).detach(), member.axis, member.index))
        if member.side == PRODUCER and getattr(layer, "bias", None) is not None:
            parts.append(rows(layer.bias.detach(), 0, member.index))
    return torch.cat(parts, 1).double().cpu()
