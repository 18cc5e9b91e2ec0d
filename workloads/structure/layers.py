"""Layers with weights: finding them by name, their channels as rows, and giving them other widths."""

from typing import Any

import torch
from torch import Tensor, nn
from torch.utils.weak import WeakTensorKeyDictionary

TRANSPOSED = (nn.ConvTranspose1d, nn.ConvTranspose2d, nn.ConvTranspose3d)
CONVOLUTIONS = (nn.Conv1d, nn.Conv2d, nn.Conv3d, *TRANSPOSED)
WEIGHTED = (*CONVOLUTIONS, nn.Linear)
BATCH_NORMS = (nn.modules.batchnorm._BatchNorm,)
NORMS = (nn.modules.batchnorm._NormBase,)  # those over an image's positions too
RECORDED = "_recorded_sizes"
"""The attribute of a module that holds those of its attributes that were brought to other sizes, by name."""
SILENT = "_silent"
"""The attribute of a layer whose weight another module uses, so that its own forward does not run."""
_SELECTED: Any = WeakTensorKeyDictionary()  # every layer of a group asks about the same matrix


def get_layer(model: nn.Module, name: str) -> Any:
    """A layer by its dotted name."""
    return model.get_submodule(name)


def called(name: str) -> str:
    """How messages call a module: one's own parameters may be the network's, whose name is empty."""
    return f"layer '{name}'" if name else "the network itself"


def made_dim(layer: nn.Module) -> int:
    """The dimension of a layer's weight along which its output channels lie."""
    return int(isinstance(layer, (*TRANSPOSED, nn.Embedding)))


def along_outputs(layer: Any, vector: Tensor) -> Tensor:
    """A vector with an entry an output channel, in a shape that broadcasts with the layer's weight."""
    return vector.view([-1 if dim == made_dim(layer) else 1 for dim in range(layer.weight.ndim)])


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
    kept, dropped = index[: len(matrix)].flatten(), index[len(matrix) :].flatten()
    stays = torch.ones(tensor.shape[dim], dtype=torch.bool)
    stays[dropped] = False
    chosen = selected(matrix)
    if chosen is not None:
        places = torch.arange(tensor.shape[dim])
        places[kept] = index[chosen].flatten()
        return tensor.index_select(dim, places[stays].to(tensor.device)).contiguous()
    source = tensor.movedim(dim, 0)
    result = source.clone()
    result[kept] = (matrix.to(tensor) @ rows(tensor, dim, index)).reshape(len(kept), *source.shape[1:])
    return result[stays].movedim(0, dim).contiguous()


def selected(matrix: Tensor) -> Tensor | None:
    """(m,) the one entry of each row that is 1 where all others are 0: no product is needed then. None otherwise."""
    if matrix.is_inference():  # whose changes PyTorch does not count
        return _selected(matrix)
    known: tuple[int, Tensor | None] | None = _SELECTED.get(matrix)
    if known is None or known[0] != matrix._version:
        known = matrix._version, _selected(matrix)
        _SELECTED[matrix] = known
    return known[1]


def _selected(matrix: Tensor) -> Tensor | None:
    if int(matrix.count_nonzero()) != len(matrix):
        return None
    rows, columns = matrix.nonzero(as_tuple=True)
    if not torch.equal(rows, torch.arange(len(matrix), device=rows.device)) or bool((matrix[rows, columns] != 1).any()):
        return None
    return columns.cpu()


def resize(layer: Any, name: str, tensor: Tensor) -> None:
    """Set a parameter or buffer and the layer's recorded sizes from the tensor's shape.

    A frozen parameter stays frozen; a bias that the layer gains is frozen if its weight is.
    """
    old = getattr(layer, name)
    if name in layer._parameters:
        known = old if old is not None else layer._parameters.get("weight")
        layer.register_parameter(name, nn.Parameter(tensor, requires_grad=known is None or known.requires_grad))
    else:
        layer.register_buffer(name, tensor, persistent=name not in layer._non_persistent_buffers_set)
    if name == "weight":
        follow_weight(layer, old, tensor)
    elif isinstance(layer, NORMS):
        layer.num_features = len(tensor)
    if not type(layer).__module__.startswith("torch.nn.") and old is not None and old.ndim == tensor.ndim == 1:
        follow_vector(layer, len(old), len(tensor))


def record(module: nn.Module, name: str, value: int) -> None:
    """Set what a module records of a size, so that a stored network knows it."""
    setattr(module, name, value)
    vars(module).setdefault(RECORDED, {})[name] = value


def follow_vector(layer: nn.Module, old: int, new: int) -> None:
    """Bring what a class of one's own records of a vector's size to the new one: 64, or a shape such as (64, 1, 1)."""
    for name, value in list(vars(layer).items()):
        if type(value) is int and value == old > 1:
            setattr(layer, name, new)
        elif isinstance(value, tuple) and value.count(old) == 1 and value.count(1) == len(value) - 1 and old > 1:
            setattr(layer, name, type(value)(new if size == old else size for size in value))


def follow_weight(layer: Any, old: Tensor, new: Tensor) -> None:
    """Bring what a layer records of its size, which its `forward` may read, to that of its new weight."""
    if isinstance(layer, nn.Linear):
        layer.out_features, layer.in_features = new.shape
    elif isinstance(layer, CONVOLUTIONS):
        transposed = isinstance(layer, TRANSPOSED)
        if layer.groups > 1:
            layer.groups = layer.groups * len(new) // len(old)
        sizes = len(new), new.shape[1] * layer.groups
        layer.out_channels, layer.in_channels = sizes[::-1] if transposed else sizes
    elif isinstance(layer, NORMS):
        layer.num_features = len(new)
    elif isinstance(layer, (nn.LayerNorm, nn.RMSNorm)):
        layer.normalized_shape = type(layer.normalized_shape)(new.shape)
    elif isinstance(layer, nn.GroupNorm):
        if layer.num_groups > 1:
            layer.num_groups = layer.num_groups * len(new) // len(old)
        layer.num_channels = len(new)
    elif isinstance(layer, nn.Embedding):
        layer.num_embeddings, layer.embedding_dim = new.shape
    elif isinstance(layer, nn.PReLU):
        layer.num_parameters = len(new)


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
