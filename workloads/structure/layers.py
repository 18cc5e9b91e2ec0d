"""Layers with weights: finding them by name, their channels as rows, and giving them other widths."""

from typing import Any

import torch
from torch import Tensor, nn

CONVOLUTIONS = (nn.Conv1d, nn.Conv2d, nn.Conv3d)


WEIGHTED = (*CONVOLUTIONS, nn.Linear)


BATCH_NORMS = (nn.BatchNorm1d, nn.BatchNorm2d, nn.BatchNorm3d)


def get_layer(model: nn.Module, name: str) -> Any:
    """A layer by its dotted name."""
    return model.get_submodule(name)


def rows(tensor: Tensor, dim: int, index: Tensor) -> Tensor:
    """Gather the channels of each pairing: (n, r · product of the other dimensions)."""
    return tensor.movedim(dim, 0)[index.flatten()].reshape(len(index), -1)


def remap(tensor: Tensor, dim: int, index: Tensor, matrix: Tensor) -> Tensor:
    """Replace n pairings by m along one dimension of a layer's weight.

    The new pairings take the places of the first m old ones; channels outside `index` stay.

    Args:
        tensor: weight or bias.
        dim: its dimension of channels.
        index: (n, r) channels of each pairing.
        matrix: (m, n).
    """
    source = tensor.movedim(dim, 0)
    kept, dropped = index[: len(matrix)].flatten(), index[len(matrix) :].flatten()
    result = source.clone()
    result[kept] = (matrix.to(tensor) @ rows(tensor, dim, index)).reshape(len(kept), *source.shape[1:])
    stays = torch.ones(len(source), dtype=torch.bool)
    stays[dropped] = False
    return result[stays].movedim(0, dim).contiguous()


def resize(layer: Any, name: str, tensor: Tensor) -> None:
    """Set a parameter or buffer and the layer's recorded sizes from the tensor's shape.

    A frozen parameter stays frozen; a bias that the layer gains is frozen if its weight is.
    """
    if name in layer._parameters:
        known = layer._parameters[name] if layer._parameters[name] is not None else layer._parameters.get("weight")
        layer.register_parameter(name, nn.Parameter(tensor, requires_grad=known is None or known.requires_grad))
    else:
        layer.register_buffer(name, tensor)
    if name == "weight" and isinstance(layer, nn.Linear):
        layer.out_features, layer.in_features = tensor.shape
    elif name == "weight" and isinstance(layer, CONVOLUTIONS):
        if layer.groups > 1:
            layer.groups = layer.groups * len(tensor) // layer.out_channels
        layer.out_channels, layer.in_channels = len(tensor), tensor.shape[1] * layer.groups
    elif isinstance(layer, BATCH_NORMS):
        layer.num_features = len(tensor)


@torch.no_grad()
def empty_batch_norm(norm: Any) -> None:
    """Make a batch-norm the identity in evaluation mode, its ε included."""
    norm.running_mean.zero_()
    norm.running_var.fill_(1 - norm.eps)
    if norm.affine:
        norm.weight.fill_(1)
        norm.bias.zero_()


def is_empty(norm: Any) -> bool:
    """Whether a batch-norm is the identity in evaluation mode, up to its ε."""
    if norm.running_mean is None:
        return False
    identity = bool((norm.running_mean == 0).all()) and bool(((norm.running_var - 1).abs() <= 2 * norm.eps).all())
    return identity and (not norm.affine or (bool((norm.weight == 1).all()) and bool((norm.bias == 0).all())))


def moved_up(channels: Tensor, dropped: Tensor) -> Tensor:
    """Numbers of channels once others before them are gone."""
    return channels - torch.searchsorted(dropped.sort().values, channels)
