"""Networks side by side: one network of all their neurons, whose logits are the average of theirs.

Every weight becomes block-diagonal, since no neuron reads one of another network; what reads the image is stacked, and
what makes the logits has the networks' weights next to each other, each times its network's share:

    first layer    inner layer    last layer
       [A]           [A 0]        [a·A  b·B]
       [B]           [0 B]

What comes out is a network of the same class, only wider, so that whatever compresses a network can bring it back to
the width of one: a fusion.
"""

import copy
import itertools
from collections.abc import Sequence
from dataclasses import replace
from typing import NamedTuple

import torch
from torch import Tensor, nn

from workloads.fusion.divided import divide
from workloads.messages import message
from workloads.structure.batch_norm import Statistics
from workloads.structure.groups import Group, Member, Structure
from workloads.structure.layers import get_layer, made_dim, resize
from workloads.structure.network import Network

TOLERANCE = 1e-3
"""By how much of their size the logits may differ from the average; what rounds differently in other widths is less."""
ROUNDINGS = 20
"""The same in units of the number format's precision, for networks in half precision."""
TRIAL_IMAGES = 4


@torch.no_grad()
def side_by_side(networks: Sequence[Network], shares: Sequence[float], example: Tensor) -> Network:
    """One network of all neurons of networks of one architecture, whose logits are the average of theirs.

    Args:
        networks: prepared; of the same architecture, widths may differ.
        shares: weights of the average, which sum to one.
        example: (1, C, H, W), for its shape and device.

    Raises:
        ValueError: a norm is taken over neurons of all networks together, they have different weights where no neuron
            is, or the logits are not the average of theirs.
    """
    structures = [network.structure for network in networks]
    for group in structures[0].groups:
        if group.kind == "residual":
            raise ValueError(
                f"the networks cannot be put side by side, since a norm is taken over all channels of group "
                f"{group.number} ('{group.layers[0]}') together: align them instead of giving fusion.method"
            )
    layouts = [Layout(network) for network in networks]
    model = copy.deepcopy(networks[0].model)
    for name, tensor in layouts[0].tensors.items():
        wide = stacked_tensor(name, layouts, shares)
        if wide is not tensor:
            path, _, parameter = name.rpartition(".")
            resize(get_layer(model, path), parameter, wide)
    for layer in model.modules():
        divide(layer, len(networks))
    check_average(model, [network.model for network in networks], shares, example)
    return Network(model, stacked_structure(model, layouts), stacked_statistics(layouts))


def full_name(layer: str, parameter: str) -> str:
    """Of a parameter or buffer in the state dict."""
    return f"{layer}.{parameter}".removeprefix(".")


class Run(NamedTuple):
    """Neighbouring entries along a dimension that stay together: of one group, or what all networks share (None)."""

    group: int | None
    entries: Tensor


class Layout:
    """Where the neurons of a network are in its tensors.

    Attributes:
        tensors: parameters and buffers by name.
        held: by name and dimension, the members that hold entries of it with the numbers of their groups.
        made: names of the tensors with an entry for each output of a layer with weights, and the dimension of that.
    """

    def __init__(self, network: Network):
        """Read the groups of a network."""
        self.network = network
        named = itertools.chain(network.model.named_parameters(), network.model.named_buffers())
        self.tensors = {name: tensor.detach() for name, tensor in named}
        self.held: dict[tuple[str, int], list[tuple[int, Member]]] = {}
        for group in network.structure.groups:
            for member in group.members:
                for parameter, dim in member.tensors(network.model):
                    self.held.setdefault((full_name(member.layer, parameter), dim), []).append((group.number, member))
        self.made: dict[str, int] = {}
        for layer in network.structure.sizes:
            self.made[full_name(layer, "weight")] = made_dim(get_layer(network.model, layer))
            self.made[full_name(layer, "bias")] = 0

    def dims(self, name: str) -> list[int]:
        """The dimensions of a tensor along which neurons lie."""
        return sorted(dim for known, dim in self.held if known == name)

    def factors(self, name: str, share: float) -> Tensor:
        """What a layer's weight or bias is multiplied by: the share where it makes logits, 1 where it makes neurons."""
        tensor, making = self.tensors[name], self.made[name]
        factors = torch.full((tensor.shape[making],), share)
        for _, member in self.held.get((name, making), ()):
            factors[member.index.flatten()] = 1
        return factors.to(tensor).view([-1 if dim == making else 1 for dim in range(tensor.ndim)])

    def runs(self, name: str, dim: int) -> list[Run]:
        """The entries along a dimension, divided where the group changes or its first neuron comes again.

        Behind a flatten the entries of a neuron are neighbours; a gate has all neurons a second time.
        """
        size = self.tensors[name].shape[dim]
        groups, pairings = torch.full((size,), -1), torch.full((size,), -1)
        for number, member in self.held[name, dim]:
            groups[member.index] = number
            pairings[member.index] = torch.arange(len(member.index))[:, None].expand_as(member.index)
        breaks = ((groups[1:] != groups[:-1]) | (pairings[1:] < pairings[:-1])).nonzero().flatten() + 1
        parts = torch.arange(size).tensor_split(breaks)
        return [Run(None if groups[part[0]] < 0 else int(groups[part[0]]), part) for part in parts if len(part)]


def places(name: str, dim: int, layouts: Sequence[Layout]) -> tuple[list[Tensor], int]:
    """Where the entries of each network go along a dimension of the wide tensor, and its size."""
    runs = [layout.runs(name, dim) for layout in layouts]
    if len({tuple(run.group for run in each) for each in runs}) > 1:
        raise ValueError(f"the networks cannot be put side by side: '{name}' has its neurons in another order")
    found = [torch.empty(layout.tensors[name].shape[dim], dtype=torch.int64) for layout in layouts]
    size = 0
    for alike in zip(*runs, strict=True):
        for place, run in zip(found, alike, strict=True):
            place[run.entries] = size + torch.arange(len(run.entries))
            if run.group is not None:
                size += len(run.entries)
        if alike[0].group is None:
            size += len(alike[0].entries)
    return found, size


def stacked_tensor(name: str, layouts: Sequence[Layout], shares: Sequence[float]) -> Tensor:
    """A parameter or buffer of the wide network.

    Raises:
        ValueError: no neuron is in it, and the networks have different values.
    """
    tensors, dims = [layout.tensors[name] for layout in layouts], layouts[0].dims(name)
    making = layouts[0].made.get(name)
    if not dims and making is None:
        if all(torch.equal(tensor, tensors[0]) for tensor in tensors) or name.endswith("num_batches_tracked"):
            return tensors[0]
        raise ValueError(f"the networks cannot be put side by side: they have one '{name}' each, of different values")
    found = [places(name, dim, layouts) for dim in dims]
    shape = list(tensors[0].shape)
    for dim, (_, size) in zip(dims, found, strict=True):
        shape[dim] = size
    wide = tensors[0].new_zeros(shape)
    first = list(range(len(dims)))
    for number, (layout, share) in enumerate(zip(layouts, shares, strict=True)):
        block = tensors[number] * layout.factors(name, share) if making is not None else tensors[number]
        if not dims:
            wide += block
            continue
        where = torch.meshgrid(*(each[number].to(wide.device) for each, _ in found), indexing="ij")
        view = wide.movedim(dims, first)
        view[where] += block.movedim(dims, first)
    return wide


def stacked_structure(model: nn.Module, layouts: Sequence[Layout]) -> Structure:
    """The groups of the wide network: the pairings of the first network, then those of the second, and so on."""
    structures = [layout.network.structure for layout in layouts]

    def side(*members: Member) -> Member:
        parameter, dim = next(members[0].tensors(layouts[0].network.model))
        found, _ = places(full_name(members[0].layer, parameter), dim, layouts)
        index = torch.cat([where[member.index] for where, member in zip(found, members, strict=True)])
        return replace(members[0], index=index)

    def group(*groups: Group) -> Group:
        members = tuple(side(*each) for each in zip(*(group.members for group in groups), strict=True))
        return replace(groups[0], size=sum(each.size for each in groups), members=members)

    sizes = {
        layer: size._replace(shape=tuple(get_layer(model, layer).weight.shape))
        for layer, size in structures[0].sizes.items()
    }
    groups = tuple(group(*each) for each in zip(*(structure.groups for structure in structures), strict=True))
    return replace(structures[0], groups=groups, sizes=sizes)


def stacked_statistics(layouts: Sequence[Layout]) -> Statistics:
    """What is known of the outputs of layers of all networks, in the order of the wide network's."""
    known = [layout.network.statistics for layout in layouts]
    result: Statistics = {}
    for layer in known[0]:
        name = full_name(layer, "weight")
        dim = layouts[0].made[name]
        if (name, dim) in layouts[0].held and all(layer in statistics for statistics in known):
            found, size = places(name, dim, layouts)
            parts = [known[0][layer][0].new_zeros(size), known[0][layer][1].new_zeros(size)]
            for where, statistics in zip(found, known, strict=True):
                for part, values in zip(parts, statistics[layer], strict=True):
                    part[where.to(part.device)] = values.to(part)
            result[layer] = parts[0], parts[1]
    return result


def check_average(wide: nn.Module, models: Sequence[nn.Module], shares: Sequence[float], example: Tensor) -> None:
    """Compare the logits on images of noise.

    Raises:
        ValueError: the wide network does not run, or its logits are not the average of the networks'.
    """
    generator = torch.Generator().manual_seed(0)
    images = torch.randn(TRIAL_IMAGES, *example.shape[1:], generator=generator).to(example)
    each = [share * model.eval()(images) for model, share in zip(models, shares, strict=True)]
    expected = torch.stack(each).sum(0)
    problem = "its logits are not the average of theirs"
    try:
        found = wide.eval()(images)
    except Exception as error:
        found, problem = None, message(error)
    size = max(float(part.abs().max()) for part in each)
    tolerance = max(TOLERANCE, ROUNDINGS * torch.finfo(expected.dtype).eps)
    if found is None or not bool((found - expected).abs().max() <= tolerance * size):
        raise ValueError(
            f"the networks cannot be put side by side as one ({problem}): align them instead of giving fusion.method"
        )
