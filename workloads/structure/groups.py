"""Groups of neuron pairings: what must be removed together.

A group has n pairings. A compression is a pair of maps on it: P (m×n) makes the new producing weights, Q (m×n)
the new consuming ones. `apply` is the only place where a network's layers change their width.
"""

import functools
from collections.abc import Collection, Iterator, Mapping
from dataclasses import dataclass, field, replace
from enum import StrEnum
from typing import Any, NamedTuple

import torch
from scipy.optimize import linear_sum_assignment
from torch import Tensor, nn

from workloads.config import Kind
from workloads.structure.extending import extend
from workloads.structure.layers import along_outputs, get_layer, is_empty, moved_up, record, remap, resize, selected
from workloads.structure.reshaping import InfersLastSizes


class Side(StrEnum):
    """What a layer does with the channels of a group."""

    PRODUCER = "producer"
    CONSUMER = "consumer"
    THROUGH = "through"
    NORM = "norm"
    SCALE = "scale"
    ADDED = "added"


PRODUCER, CONSUMER, THROUGH, NORM, SCALE, ADDED = Side


class Axis(NamedTuple):
    """One dimension of a parameter or buffer, whose entries have the labels from `start` on.

    Attributes:
        layer, parameter: names of the module, and of the parameter or buffer in it.
        dim: which of its dimensions.
        start, size: the labels.
    """

    layer: str
    parameter: str
    dim: int
    start: int
    size: int

    @property
    def labels(self) -> Tensor:
        """(size,) int64."""
        return torch.arange(self.start, self.start + self.size)

    @property
    def span(self) -> slice:
        """Where its labels lie among all."""
        return slice(self.start, self.start + self.size)


@dataclass(frozen=True)
class Member:
    """One side of one layer in a group.

    Attributes:
        layer: dotted module name.
        side: `producer` (its output channels), `consumer` (its input channels), `norm` (the entries of a batch-norm),
            `through` (the output channels of a grouped convolution, which reads and makes a pairing at once), or a
            vector with an entry a channel: `scale` (it multiplies the channels: layer scale, the weight of a layer
            norm) or `added` (a position embedding, a class token, the bias of a layer norm).
        index: (n, r) int64, the layer's channels that belong to each pairing; r > 1 behind a flatten and where a
            grouped convolution ties channels.
        parameter: of the layer; a batch-norm's others and a producer's bias follow it.
        dim: its dimension of channels; None is 1 for a consumer and 0 for all others.
    """

    layer: str
    side: str
    index: Tensor
    parameter: str = "weight"
    dim: int | None = None

    @property
    def axis(self) -> int:
        """The dimension of `parameter` along which the channels lie."""
        return int(self.side == CONSUMER) if self.dim is None else self.dim

    @property
    def place(self) -> tuple[str, str, int]:
        """What it shares with the members of other groups that hold other channels of the same parameter."""
        return self.layer, "weight" if self.side == NORM else self.parameter, self.axis

    def tensors(self, model: nn.Module) -> Iterator[tuple[str, int]]:
        """Names of the parameters and buffers that hold its channels, and the dimension along which they do."""
        layer = get_layer(model, self.layer)
        if self.side == NORM:
            names = ("weight", "bias", "running_mean", "running_var")
            yield from ((name, 0) for name in names if getattr(layer, name) is not None)
            return
        yield self.parameter, self.axis
        if self.side in (PRODUCER, THROUGH) and getattr(layer, "bias", None) is not None:
            yield "bias", 0


@dataclass(frozen=True)
class Group:
    """Layers that are pruned in unison; number 0 is the last one before the network's output.

    Attributes:
        number: its place among the groups that are pruned.
        size: pairings.
        members: the sides of layers that hold them, in the order in which they run.
        kind: `channels`; `hidden`, units between linear layers; `residual`, channels over which a norm is taken;
            `heads` of attention; or dimensions of every head, of queries and keys (`query-key`) or of values
            (`value-output`).
        attributes: modules, and whole numbers that they record, such as `num_heads`, which are multiples of the size.
        parts: modules, whole numbers that they record of a part of the channels that they read, and how many of these
            are of each pairing.
        inferring: modules whose tensors have to get their last size from how many values there are.
        rescaled: what makes queries and keys, where a factor of their product follows from the size, such as 1/√n, for
            which their weights have to make up.
        power: of the size, to which each of the two is to be proportional: 1/4 where the factor is 1/√n.
        inside: of heads whose dimensions nothing else depends on: the members, of queries and keys and of values and
            outputs, that hold these dimensions.
        factors: of queries and keys with nothing between what makes them and their product: for each member (r,), which
            factor each of its columns is of. 2·h are queries, 2·h + 1 the keys that they meet; or, where values go with
            them, 2·h are values and 2·h + 1 what reads them. Empty otherwise.
        loose: whether a pairing has several channels that could be in another order among themselves, as those of a
            group-norm's or a grouped convolution's groups: maps of pairings do not reach them.
    """

    number: int
    size: int
    members: tuple[Member, ...]
    kind: Kind = "channels"
    attributes: tuple[tuple[str, str], ...] = ()
    parts: tuple[tuple[str, str, int], ...] = ()
    inferring: tuple[str, ...] = ()
    rescaled: tuple[Member, ...] = ()
    power: float = 0.25
    loose: bool = False
    inside: tuple[tuple["Member", ...], ...] = ()
    factors: tuple[Tensor, ...] = ()

    def on(self, *sides: str) -> Iterator[Member]:
        """The members with one of these sides."""
        return (member for member in self.members if member.side in sides)

    @property
    def layers(self) -> tuple[str, ...]:
        """Names of the layers whose output channels the group holds."""
        return tuple(member.layer for member in self.on(PRODUCER, THROUGH))


class LayerSize(NamedTuple):
    """How large a layer is.

    Attributes:
        shape: of its weight.
        positions: places of its output, at each of which every weight is multiplied once.
    """

    shape: tuple[int, ...]
    positions: int


@dataclass(frozen=True)
class Structure:
    """What `trace` finds in a network.

    Attributes:
        groups: in the paper's order, from the output backwards; those of kinds that are not pruned by default follow.
        normalised: (layer, batch-norm) names where an affine batch-norm with statistics alone reads the layer's output.
        kept: (layer, reason) for each group that cannot be pruned and stays as it is.
        opaque: layers whose statistics nothing repairs: their module returns something else than what its weights
            made, such as an activation of it, or they are embeddings, which have no bias.
        sizes: of the layers with weights, by name.
        silent: layers whose weights another module uses, so that they do not run by themselves; opaque too.
    """

    groups: tuple[Group, ...]
    normalised: tuple[tuple[str, str], ...]
    kept: tuple[tuple[str, str], ...] = ()
    opaque: frozenset[str] = frozenset()
    sizes: Mapping[str, LayerSize] = field(default_factory=dict)
    silent: frozenset[str] = frozenset()

    def of_kinds(self, kinds: Collection[str]) -> "Structure":
        """With the groups of some kinds alone."""
        return replace(self, groups=tuple(group for group in self.groups if group.kind in kinds))

    def __str__(self) -> str:
        from workloads.structure.showing import shown

        return shown(self)

    def narrowed(self, number: int, m: int) -> "Structure":
        """The structure after `apply` brought a group to m pairings: channels behind the dropped ones move up."""
        narrow = self.groups[number]
        dropped = {member.place: member.index[m:].flatten() for member in narrow.members}

        def moved(member: Member, group: Group) -> Member:
            gone = dropped.get(member.place)
            index = member.index[:m] if group is narrow else member.index
            return member if gone is None else replace(member, index=moved_up(without(index, gone), gone))

        def inner(member: Member) -> Member:
            gone = dropped.get(member.place)
            if gone is None:
                return member
            stays = ~torch.isin(member.index, gone)
            index = member.index[stays.any(1)][:, stays.any(0)]  # whole heads, or the same dimensions of each, are gone
            return replace(member, index=moved_up(index, gone))

        groups = tuple(
            replace(
                group,
                size=m if group is narrow else group.size,
                members=tuple(moved(member, group) for member in group.members),
                rescaled=tuple(
                    replace(member, index=kept_places(member, dropped).unsqueeze(1)) for member in group.rescaled
                ),
                inside=tuple(tuple(inner(member) for member in members) for members in group.inside),
                factors=tuple(
                    factor[~torch.isin(member.index[0], dropped.get(member.place, member.index[:0]))]
                    for member, factor in zip(group.members, group.factors, strict=False)
                ),
            )
            if any(member.place in dropped for member in (*group.members, *group.rescaled))
            else group
            for group in self.groups
        )
        sizes = {
            layer: size._replace(
                shape=tuple(n - len(dropped.get((layer, "weight", dim), ())) for dim, n in enumerate(size.shape))
            )
            for layer, size in self.sizes.items()
        }
        return replace(self, groups=groups, sizes=sizes)


def without(index: Tensor, gone: Tensor) -> Tensor:
    """The channels (n, r) of pairings without those that are gone, equally many of each, such as those of a head."""
    stays = ~torch.isin(index, gone)
    return index if bool(stays.all()) else index[stays].view(len(index), -1)


@dataclass(frozen=True)
class Maps:
    """A compression of one group.

    Attributes:
        P: (m, n), multiplies the producing side (output channels and biases).
        Q: (m, n), multiplies the consuming side (input channels); or one for each consuming layer, by name.
        shift: (n,) by consuming layer, a constant to add to the n inputs that Q makes of m; goes into its bias.
        gain, offset: (m, r) by producing layer, what P makes is multiplied by and then increased by.
    """

    P: Tensor
    Q: Tensor | Mapping[str, Tensor]
    shift: Mapping[str, Tensor] = field(default_factory=dict)
    gain: Mapping[str, Tensor] = field(default_factory=dict)
    offset: Mapping[str, Tensor] = field(default_factory=dict)

    @functools.cached_property
    def shares(self) -> Tensor:
        """(m, n) what share each old pairing has in a new one: |P| with rows that sum to one.

        Where a layer reads a pairing and makes the same one (a grouped convolution, a batch-norm), its weights are
        averaged by these.
        """
        if selected(self.P) is not None:
            return self.P
        return self.P.abs() / self.P.abs().sum(1, keepdim=True).clamp(min=torch.finfo(self.P.dtype).tiny)

    @functools.cached_property
    def places(self) -> Tensor:
        """(m,) an old pairing for each new one, all different: as far as possible the one with the largest share."""
        largest = self.shares.argmax(1).cpu()
        if len(largest.unique()) == len(largest):
            return largest
        return torch.from_numpy(linear_sum_assignment(self.shares.cpu().numpy(), maximize=True)[1])

    def for_producer(self, member: Member) -> Tensor:
        """What multiplies the rows of a producing layer."""
        return self.shares if member.side == THROUGH else self.P

    def for_consumer(self, layer: str) -> Tensor:
        """Q of one consuming layer."""
        return self.Q if isinstance(self.Q, Tensor) else self.Q[layer]


@torch.no_grad()
def apply(model: nn.Module, group: Group, maps: Maps) -> None:
    """Multiply every layer of the group by its side's map, in place."""
    for member in group.members:
        layer = get_layer(model, member.layer)
        if member.side == CONSUMER:
            if member.layer in maps.shift:
                shift_inputs(layer, member, maps.shift[member.layer].to(layer.weight))
            narrow(layer, member, maps.for_consumer(member.layer))
        elif member.side == NORM:
            narrow_batch_norm(layer, member, maps)
        elif member.side == SCALE:
            narrow(layer, member, maps.shares)
        elif member.side == ADDED:
            narrow(layer, member, maps.P)
        else:
            narrow_outputs(layer, member, maps)
    follow_size(model, group, len(maps.P))


def follow_size(model: nn.Module, group: Group, m: int) -> None:
    """Bring what modules record of a group's size to m, and make up for a scale that follows from it."""
    if m == group.size:
        return
    for module, name in group.attributes:
        record(get_layer(model, module), name, getattr(get_layer(model, module), name) * m // group.size)
    for module, name, count in group.parts:
        record(get_layer(model, module), name, getattr(get_layer(model, module), name) - count * (group.size - m))
    for module in group.inferring:
        extend(get_layer(model, module), InfersLastSizes)
    dropped = {member.place: member.index[m:].flatten() for member in group.members}
    for member in group.rescaled:
        layer, places = get_layer(model, member.layer), kept_places(member, dropped)
        for name, dim in member.tensors(model):
            tensor = getattr(layer, name)
            factors = torch.ones(tensor.shape[dim], dtype=torch.float64).index_fill(
                0, places, (m / group.size) ** group.power
            )
            shape = [-1 if number == dim else 1 for number in range(tensor.ndim)]
            resize(layer, name, tensor * factors.view(shape).to(tensor))


def kept_places(member: Member, dropped: Mapping[tuple[str, str, int], Tensor]) -> Tensor:
    """Where the channels of a member are once others of its parameter are gone, as far as they stay."""
    gone = dropped.get(member.place, torch.empty(0, dtype=torch.int64))
    index = member.index.flatten()
    return moved_up(index[~torch.isin(index, gone)], gone)


def narrow(layer: Any, member: Member, matrix: Tensor) -> None:
    """Multiply the channels of one parameter or buffer by a map."""
    resize(layer, member.parameter, remap(getattr(layer, member.parameter), member.axis, member.index, matrix))


def narrow_outputs(layer: Any, member: Member, maps: Maps) -> None:
    """Give a producing layer the output channels that its map makes, with their gain and offset."""
    matrix = maps.for_producer(member)
    m = len(matrix)
    dropped = member.index[m:].flatten()
    slots = moved_up(member.index[:m], dropped).flatten()
    weight, bias = remap(layer.weight, member.axis, member.index, matrix), getattr(layer, "bias", None)
    if bias is not None:
        bias = remap(bias, 0, member.index, matrix)
    if member.layer in maps.gain:
        gain = torch.ones(weight.shape[member.axis])
        gain = gain.index_copy(0, slots, maps.gain[member.layer].flatten().cpu()).to(weight)
        weight = weight * along_outputs(layer, gain)
        bias = None if bias is None else bias * gain
    if member.layer in maps.offset:
        offset = torch.zeros(weight.shape[member.axis])
        offset = offset.index_copy(0, slots, maps.offset[member.layer].flatten().cpu()).to(weight)
        if isinstance(layer, nn.Embedding):  # which has no bias, but rows of which each call makes one
            weight = weight + along_outputs(layer, offset)
        else:
            bias = offset if bias is None else bias + offset
    resize(layer, "weight", weight)
    if bias is not None:
        resize(layer, "bias", bias)


def shift_inputs(layer: Any, member: Member, shift: Tensor) -> None:
    """Put into a consumer's bias what a constant added to its n inputs does (exactly, but for a padded border)."""
    gains = layer.weight.flatten(2).sum(2) if layer.weight.ndim > 2 else layer.weight
    gains = gains if member.axis == 1 else gains.T
    constant = gains[:, member.index.flatten()] @ shift.repeat_interleave(member.index.shape[1])
    resize(layer, "bias", constant if layer.bias is None else layer.bias + constant)


def narrow_batch_norm(norm: Any, member: Member, maps: Maps) -> None:
    """Give a batch-norm the entries for the pairings that P makes; an empty one stays empty.

    One that could not be merged gets the shares' average of scales and biases, the mean of what P makes, and its
    deviation as if mixed neurons rose and fell together. For kept neurons that is exact.
    """
    P, shares = maps.P, maps.shares
    if is_empty(norm):
        P = shares = torch.eye(len(maps.P), len(member.index))
    for name, matrix in {"weight": shares, "bias": shares, "running_mean": P}.items():
        if getattr(norm, name) is not None:
            resize(norm, name, remap(getattr(norm, name), 0, member.index, matrix))
    if norm.running_var is not None:
        deviation = remap((norm.running_var + norm.eps).sqrt(), 0, member.index, P if P is shares else P.abs())
        resize(norm, "running_var", (deviation.square() - norm.eps).clamp(min=0))
