"""Which layers are solved after a network was narrowed, and what of the original's outputs each of them is to make."""

from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from typing import Any, NamedTuple

import torch
from torch import Tensor, nn

from workloads.structure.groups import ADDED, CONSUMER, NORM, PRODUCER, SCALE, THROUGH, Group, Maps, kept_places
from workloads.structure.layers import CONVOLUTIONS, get_layer, is_empty, remap, selected
from workloads.structure.network import Network


@dataclass(frozen=True)
class LayerPlan:
    """What is known of a layer that is solved.

    Attributes:
        name: of the layer.
        original: the layer as it was.
        layer: what it is now, with the weights that the maps made.
        made: (m, n) what each of its outputs is of the original's; None where they are the same.
        shares: the same with rows that sum to one, where outputs are averages that get the mean and deviation that
            their members have; None where they are not.
        slots: (n, r) and (m, r), the inputs of each pairing before and now, where the layer reads several of each, such
            as behind a flatten; None where each input is a channel.
    """

    name: str
    original: Any
    layer: Any
    made: Tensor | None
    shares: Tensor | None
    slots: tuple[Tensor, Tensor] | None


class OutputMaps(NamedTuple):
    """What the outputs of narrowed layers are of the original's.

    Attributes:
        made: (m, n) by layer, as the groups' maps P make them.
        shares: the same with rows that sum to one.
        averaged: layers of which all narrowed outputs are averages that may get other moments.
    """

    made: dict[str, Tensor]
    shares: dict[str, Tensor]
    averaged: frozenset[str]


def output_maps(base: Network, maps: Mapping[int, Maps]) -> OutputMaps:
    """The maps of all outputs of layers that make narrowed groups; `maps` in the order of their application."""
    structure = base.structure
    made: dict[str, Tensor] = {}
    shares: dict[str, Tensor] = {}
    averaged: dict[str, bool] = {}
    for number, pair in maps.items():
        group = structure.groups[number]
        averages = selected(pair.P) is None and only_layers(base.model, group)
        for member in group.on(PRODUCER, THROUGH):
            averaged[member.layer] = averaged.get(member.layer, True) and averages
            outputs = get_layer(base.model, member.layer).weight.shape[member.axis]
            for found, matrix in ((made, pair.for_producer(member)), (shares, pair.shares)):
                known = found.get(member.layer, torch.eye(outputs))
                found[member.layer] = remap(known, 0, member.index, matrix.float().cpu())
        for layer, rows in rescaled_rows(group, len(pair.P)):
            averaged[layer] = False
            known = made.get(layer, torch.eye(len(get_layer(base.model, layer).weight)))
            factors = torch.ones(len(known)).index_fill(0, rows, (len(pair.P) / group.size) ** group.power)
            made[layer] = known * factors.unsqueeze(1)
        structure = structure.narrowed(number, len(pair.P))
    return OutputMaps(made, shares, frozenset(name for name, whole in averaged.items() if whole))


def planned(base: Network, narrowed: Network, maps: Mapping[int, Maps]) -> list[LayerPlan]:
    """The layers that make or read what the maps, in the order of their application, have narrowed."""
    made, shares, averaged = output_maps(base, maps)
    slots: dict[str, tuple[Tensor, Tensor]] = {}
    for number in maps:
        slots |= slots_of(base, narrowed, number)
    return [
        LayerPlan(
            name,
            get_layer(base.model, name),
            get_layer(narrowed.model, name),
            made.get(name),
            shares[name] if name in averaged else None,
            slots.get(name),
        )
        for name in solvable(base, maps)
    ]


def solvable(base: Network, numbers: Mapping[int, Maps]) -> Iterator[str]:
    """Layers with weights of some groups, each once, but for those whose module returns something else than these make.

    (A bias would not correct that.)
    """
    members = [member for number in numbers for member in base.structure.groups[number].on(PRODUCER, THROUGH, CONSUMER)]
    for name in dict.fromkeys(member.layer for member in members if member.parameter == "weight"):
        if name not in base.structure.opaque and isinstance(get_layer(base.model, name), (*CONVOLUTIONS, nn.Linear)):
            yield name


def only_layers(model: nn.Module, group: Group) -> bool:
    """Whether nothing but layers with weights touches the group's channels, so that these may get other moments."""
    if group.rescaled:
        return False
    norms = all(is_empty(get_layer(model, member.layer)) for member in group.on(NORM))
    return norms and not any(group.on(SCALE, ADDED))


def rescaled_rows(group: Group, m: int) -> Iterator[tuple[str, Tensor]]:
    """Layers of queries and keys that make up for a scale which follows from the group's size, and their outputs that
    do, as `follow_size` changes them."""
    dropped = {member.place: member.index[m:].flatten() for member in group.members}
    for member in group.rescaled if m < group.size else ():
        yield member.layer, kept_places(member, dropped)


def slots_of(base: Network, narrowed: Network, number: int) -> dict[str, tuple[Tensor, Tensor]]:
    """By layer that reads several inputs of each of the group's pairings, and nothing else, which they are before and
    now."""
    found = {}
    sides = (base.structure.groups[number].on(CONSUMER), narrowed.structure.groups[number].on(CONSUMER))
    for old, new in zip(*sides, strict=True):
        sizes = [
            get_layer(network.model, member.layer).weight.shape[member.axis]
            for network, member in ((base, old), (narrowed, new))
        ]
        whole = sizes == [old.index.numel(), new.index.numel()] and old.index.shape[1] == new.index.shape[1]
        if whole and old.index.shape[1] > 1:
            found[old.layer] = old.index, new.index
    return found
