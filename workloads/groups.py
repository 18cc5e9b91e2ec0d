"""Groups of neuron pairings: what must be removed together, found in any traceable network.

A group has n pairings. A compression is a pair of maps on it: P (m×n) makes the new producing weights, Q (m×n)
the new consuming ones. `apply` is the only place where a network's layers change their width.
"""

import functools
from collections.abc import Iterator, Mapping
from dataclasses import dataclass, field
from typing import Any

import torch
import torch_pruning
from torch import Tensor, nn

PRODUCER, CONSUMER, NORM = "producer", "consumer", "norm"
WEIGHTED = (nn.Conv1d, nn.Conv2d, nn.Conv3d, nn.Linear)
BATCH_NORMS = (nn.BatchNorm1d, nn.BatchNorm2d, nn.BatchNorm3d)


@dataclass(frozen=True)
class Member:
    """One side of one layer in a group.

    Attributes:
        layer: dotted module name.
        side: `producer` (its output channels), `consumer` (its input channels) or `norm` (its entries).
        index: (n, r) int64, the layer's channels that belong to each pairing; r > 1 behind a flatten.
    """

    layer: str
    side: str
    index: Tensor


@dataclass(frozen=True)
class Group:
    """Layers that are pruned in unison; number 0 is the last one before the network's output."""

    number: int
    size: int
    members: tuple[Member, ...]

    def on(self, *sides: str) -> Iterator[Member]:
        """The members with one of these sides."""
        return (member for member in self.members if member.side in sides)

    @property
    def layers(self) -> tuple[str, ...]:
        """Names of the layers whose output channels the group holds."""
        return tuple(member.layer for member in self.on(PRODUCER))


@dataclass(frozen=True)
class Structure:
    """What `trace` finds in a network.

    Attributes:
        groups: in the paper's order, from the output backwards.
        normalised: (layer, batch-norm) names where an affine batch-norm with statistics alone reads the layer's output.
    """

    groups: tuple[Group, ...]
    normalised: tuple[tuple[str, str], ...]


@dataclass(frozen=True)
class Maps:
    """A compression of one group.

    Attributes:
        P: (m, n), multiplies the producing side (output channels and biases).
        Q: (m, n), multiplies the consuming side (input channels); or one for each consuming layer, by name.
        shift: (n,) by consuming layer, a constant to add to the n inputs that Q makes of m; goes into its bias.
    """

    P: Tensor
    Q: Tensor | Mapping[str, Tensor]
    shift: Mapping[str, Tensor] = field(default_factory=dict)

    def for_consumer(self, layer: str) -> Tensor:
        """Q of one consuming layer."""
        return self.Q if isinstance(self.Q, Tensor) else self.Q[layer]


def get_layer(model: nn.Module, name: str) -> Any:
    """A layer by its dotted name."""
    return model.get_submodule(name)


def trace(model: nn.Module, example: Tensor) -> Structure:
    """Find the groups of a network by running it once on `example` (1, C, H, W).

    Raises:
        ValueError: the network cannot be traced, or a group has a layer of a kind that cannot be pruned yet.
    """
    names = {module: name for name, module in model.named_modules()}
    with torch.enable_grad():
        frozen = [p for p in model.parameters() if not p.requires_grad]
        for parameter in frozen:
            parameter.requires_grad_(True)
        graph = torch_pruning.DependencyGraph().build_dependency(model.eval(), example_inputs=example)
        for parameter in frozen:
            parameter.requires_grad_(False)
    groups: list[Group] = []
    covered: set[str] = set()
    for name, module in reversed(list(model.named_modules())):
        if not isinstance(module, WEIGHTED) or name in covered or module not in graph.module2node:
            continue
        width = module.out_features if isinstance(module, nn.Linear) else module.out_channels
        pruner = (
            torch_pruning.prune_linear_out_channels
            if isinstance(module, nn.Linear)
            else torch_pruning.prune_conv_out_channels
        )
        items = graph.get_pruning_group(module, pruner, idxs=list(range(width))).items
        members = tuple(_members(items, names, width))
        covered.update(member.layer for member in members if member.side == PRODUCER)
        if any(member.side == CONSUMER for member in members):
            groups.append(Group(len(groups), width, members))
    return Structure(tuple(groups), tuple(_normalised(graph, names)))


def _members(items: list, names: dict[nn.Module, str], size: int) -> Iterator[Member]:
    for item in items:
        module = item.dep.target.module
        if module not in names:
            continue
        if isinstance(module, WEIGHTED):
            if getattr(module, "groups", 1) != 1:
                raise ValueError(f"layer '{names[module]}' is a grouped convolution, which cannot be pruned yet")
            side = PRODUCER if "out_channels" in item.dep.handler.__name__ else CONSUMER
        elif isinstance(module, BATCH_NORMS):
            side = NORM
        else:
            raise ValueError(f"layer '{names[module]}' ({type(module).__name__}) cannot be pruned yet")
        channels: list[list[int]] = [[] for _ in range(size)]
        for channel, pairing in zip(item.idxs, item.root_idxs, strict=True):
            channels[int(pairing)].append(int(channel))
        if len({len(row) for row in channels}) != 1:
            raise ValueError(f"layer '{names[module]}' does not use every channel of its group equally often")
        yield Member(names[module], side, torch.tensor(channels))


def _normalised(graph: torch_pruning.DependencyGraph, names: dict[nn.Module, str]) -> Iterator[tuple[str, str]]:
    for module, node in graph.module2node.items():
        if isinstance(module, BATCH_NORMS) and module.affine and module.track_running_stats and len(node.inputs) == 1:
            source = node.inputs[0]
            if isinstance(source.module, WEIGHTED) and len(source.outputs) == 1:
                yield names[source.module], names[module]


@torch.no_grad()
def merge_batch_norm(model: nn.Module, structure: Structure) -> None:
    """Move every batch-norm into the layer before it, exactly; the emptied batch-norm is the identity.

    Layers without a bias gain one. The network's function in evaluation mode is unchanged.
    """
    for layer_name, norm_name in structure.normalised:
        layer, norm = get_layer(model, layer_name), get_layer(model, norm_name)
        scale = (norm.running_var + norm.eps).rsqrt() * norm.weight
        bias = torch.zeros_like(norm.running_mean) if layer.bias is None else layer.bias
        bias = (bias - norm.running_mean) * scale + norm.bias
        layer.weight.mul_(scale.view(-1, *[1] * (layer.weight.ndim - 1)))
        layer.bias = nn.Parameter(bias)
        empty_batch_norm(norm)


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


class Pairings:
    """The weights of a group's n pairings, one row each, as criteria and methods see them.

    Attributes:
        incoming: (n, d_in) weights that produce the activation, all producing layers side by side.
        bias: (n, k) biases of the k producing layers that have one.
        outgoing: (n, d_out) weights that consume the activation, all consuming layers side by side.
    """

    def __init__(self, model: nn.Module, group: Group):
        producers = [(get_layer(model, member.layer), member) for member in group.on(PRODUCER)]
        incoming = [rows(layer.weight, 0, member.index) for layer, member in producers]
        bias = [rows(layer.bias, 0, member.index) for layer, member in producers if layer.bias is not None]
        outgoing = [rows(get_layer(model, member.layer).weight, 1, member.index) for member in group.on(CONSUMER)]
        self.size = group.size
        self.incoming = torch.cat(incoming, 1).detach()
        self.bias = torch.cat(bias, 1).detach() if bias else self.incoming.new_zeros(group.size, 0)
        self.outgoing = torch.cat(outgoing, 1).detach()
        self._distances: dict[float, Tensor] = {}

    @functools.cached_property
    def directions(self) -> Tensor:
        """(n, d_in + d_out): incoming and outgoing weights, without biases, scaled to unit l2 norm."""
        vectors = torch.cat([self.incoming, self.outgoing], 1)
        return vectors / vectors.norm(dim=1, keepdim=True).clamp(min=torch.finfo(vectors.dtype).tiny)

    def distances(self, p: float) -> Tensor:
        """(n, n) l_p distances between the directions of all pairings, computed once."""
        if p not in self._distances:
            exact = "donot_use_mm_for_euclid_dist"
            self._distances[p] = torch.cdist(self.directions, self.directions, p=p, compute_mode=exact)
        return self._distances[p]


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
    result[kept] = (matrix.to(tensor.dtype) @ rows(tensor, dim, index)).reshape(len(kept), *source.shape[1:])
    stays = torch.ones(len(source), dtype=torch.bool)
    stays[dropped] = False
    return result[stays].movedim(0, dim).contiguous()


@torch.no_grad()
def apply(model: nn.Module, group: Group, maps: Maps) -> None:
    """Multiply every layer of the group by its side's map, in place.

    Raises:
        ValueError: a map that mixes pairings meets a batch-norm that could not be merged.
    """
    device = next(model.parameters()).device
    P = maps.P.to(device)
    for member in group.members:
        layer = get_layer(model, member.layer)
        if member.side == PRODUCER:
            resize(layer, "weight", remap(layer.weight, 0, member.index, P))
            if layer.bias is not None:
                resize(layer, "bias", remap(layer.bias, 0, member.index, P))
        elif member.side == CONSUMER:
            if member.layer in maps.shift:
                shift_inputs(layer, member, maps.shift[member.layer].to(device))
            resize(layer, "weight", remap(layer.weight, 1, member.index, maps.for_consumer(member.layer).to(device)))
        else:
            narrow_batch_norm(layer, member, P)


def shift_inputs(layer: Any, member: Member, shift: Tensor) -> None:
    """Put into a consumer's bias what a constant added to its n inputs does (exactly, but for a padded border)."""
    gains = layer.weight.flatten(2).sum(2) if layer.weight.ndim > 2 else layer.weight
    constant = gains[:, member.index.flatten()] @ shift.repeat_interleave(member.index.shape[1]).to(gains.dtype)
    resize(layer, "bias", constant if layer.bias is None else layer.bias + constant)


def narrow_batch_norm(norm: Any, member: Member, P: Tensor) -> None:
    """Give a batch-norm the entries that P makes; an empty one stays empty.

    Raises:
        ValueError: it is not empty, and P mixes its entries.
    """
    empty = is_empty(norm)
    if not empty and not is_selection(P):
        raise ValueError(
            f"batch-norm '{member.layer}' cannot be merged into a layer before it, so only methods that keep "
            f"whole neurons can prune its group"
        )
    for name in ("weight", "bias", "running_mean", "running_var"):
        if getattr(norm, name) is not None:
            resize(norm, name, remap(getattr(norm, name), 0, member.index, P))
    if empty:
        empty_batch_norm(norm)


def is_selection(matrix: Tensor) -> bool:
    """Whether each row picks one pairing as it is."""
    return bool(((matrix != 0).sum(1) == 1).all()) and bool((matrix.sum(1) == 1).all())


def resize(layer: Any, name: str, tensor: Tensor) -> None:
    """Set a parameter or buffer and the layer's recorded sizes from the tensor's shape."""
    if name in layer._parameters:
        layer.register_parameter(name, nn.Parameter(tensor))
    else:
        layer.register_buffer(name, tensor)
    if name == "weight" and isinstance(layer, nn.Linear):
        layer.out_features, layer.in_features = tensor.shape
    elif name == "weight" and isinstance(layer, WEIGHTED):
        layer.out_channels, layer.in_channels = tensor.shape[0], tensor.shape[1] * getattr(layer, "groups", 1)
    elif isinstance(layer, BATCH_NORMS):
        layer.num_features = len(tensor)


def size_after(size: int, sparsity: float) -> int:
    """m = int(n·(1 − s)) pairings that stay, as published, but at least one."""
    return max(1, int(size * (1 - sparsity)))
