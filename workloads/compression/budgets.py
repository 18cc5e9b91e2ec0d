"""What a sparsity is a share of: a network's weights, its multiplications, or its time, at widths that it may get."""

import math
from abc import ABC, abstractmethod
from collections.abc import Callable, Collection, Mapping, Sequence
from typing import Literal

import numpy as np
import torch
from torch import Tensor, nn

from workloads.measuring.evaluation import mac_count, parameter_count
from workloads.structure.copying import copied
from workloads.structure.groups import THROUGH, Group, Maps, Structure, apply
from workloads.structure.layers import get_layer, made_dim
from workloads.structure.network import Network

OVERLAPPING = ("heads", "query-key", "value-output")
"""Kinds of groups that hold the same channels in two ways."""
MISS = 0.01
"""By what share of a network's weights or multiplications widths may miss a target."""
TIME_MISS = 0.025
"""By what share of a network's time a search ends as close enough; measurements differ by as much."""

SparsityOf = Literal["neurons", "weights", "macs", "latency"]
Sizes = Mapping[int, int]
"""Pairings that groups keep, by their number, in the order in which they are narrowed."""


def smallest(group: Group) -> int:
    """The least size: of a single group of channels or a single head nobody could tell that it is one of several.

    A grouped convolution with `groups=1` looks like an ordinary one; so does attention with one head, or one dimension.
    """
    return min(group.size, 2) if any(group.on(THROUGH)) or group.kind in OVERLAPPING else 1


def fitted(group: Group, m: int, round_to: int) -> int:
    """m rounded up to a multiple, but no more pairings than there are."""
    return min(group.size, max(smallest(group), -(-m // round_to) * round_to))


def floors(groups: Sequence[Group], originals: Sequence[int], least: float, round_to: int) -> dict[int, int]:
    """The least widths, by number of the group."""
    return {
        group.number: fitted(group, math.ceil(least * original), round_to)
        for group, original in zip(groups, originals, strict=True)
    }


def narrowed_copy(network: Network, sizes: Sizes) -> nn.Module:
    """A copy of these widths with the first pairings of each group: it costs what any such network does."""
    model, structure = copied(network.model), network.structure
    for number, m in sizes.items():
        group = structure.groups[number]
        if m < group.size:
            selection = torch.eye(group.size)[:m]
            apply(model, group, Maps(selection, selection))
            structure = structure.narrowed(number, m)
    return model


def shapes_after(model: nn.Module, structure: Structure, sizes: Sizes) -> dict[tuple[str, str], list[int]]:
    """The shapes of the parameters that change once some groups have these sizes, by layer and name."""
    shapes: dict[tuple[str, str], list[int]] = {}
    overlapping = {group.number for group in structure.groups if group.kind in OVERLAPPING} & sizes.keys()
    for number, m in sizes.items():
        group = structure.groups[number]  # which loses channels once groups of other kinds are narrowed
        for member in group.members:
            layer = get_layer(model, member.layer)
            for name, dim in member.tensors(model):
                if name in layer._parameters:
                    shape = shapes.setdefault((member.layer, name), list(getattr(layer, name).shape))
                    shape[dim] -= (group.size - m) * member.index.shape[1]
        if number in overlapping:
            structure = structure.narrowed(number, m)
    return shapes


def parameters_after(model: nn.Module, structure: Structure, sizes: Sizes, gaining: Collection[str] = ()) -> int:
    """Parameters that the network will have once some groups have these sizes and some layers gained a bias."""
    shapes = shapes_after(model, structure, sizes)
    total = parameter_count(model)
    for layer_name, name in shapes:
        total -= getattr(get_layer(model, layer_name), name).numel() - torch.Size(shapes[layer_name, name]).numel()
    for name in gaining:
        layer = get_layer(model, name)
        total += shapes.get((name, "weight"), list(layer.weight.shape))[made_dim(layer)]
    return total


def layer_macs_gone(model: nn.Module, structure: Structure, sizes: Sizes) -> int:
    """Multiplications of one image that go from the layers with weights once some groups have these sizes."""
    gone = 0
    for (layer, name), shape in shapes_after(model, structure, sizes).items():
        if name == "weight" and layer in structure.sizes:
            lost = get_layer(model, layer).weight.numel() - torch.Size(shape).numel()
            gone += lost * structure.sizes[layer].positions
    return gone


class Budget(ABC):
    """What a sparsity is a share of, for one network.

    Attributes:
        word: what it counts, for sentences.
        close_enough: how near to a target a search may end, as a share; 0 ends where the target is just reached.
        counted: whether it adds up products of two widths, not times.
    """

    word = ""
    close_enough = 0.0
    counted = True

    def __init__(self, network: Network):
        self.network = network
        self.known: dict[tuple[tuple[int, int], ...], float] = {}

    def left(self, sizes: Sizes) -> float:
        """What is left of it, as a share of what it was before any pruning, once groups have these sizes."""
        key = tuple(sizes.items())
        if key not in self.known:
            self.known[key] = self.measured(sizes)
        return self.known[key]

    @abstractmethod
    def measured(self, sizes: Sizes) -> float:
        """The same, counted anew."""

    def roughly(self, sizes: Sizes) -> float:
        """The same, quickly: what compares single steps."""
        return self.left(sizes)

    def beside(self, sizes: Sizes, number: int, widths: Sequence[int]) -> list[float]:
        """The same at several widths of one group: where products are counted, by the parabola through three of them,
        as a layer may read and make the same group."""
        if not self.counted or len(widths) <= 3:
            return [self.roughly({**sizes, number: m}) for m in widths]
        places = [widths[0], widths[len(widths) // 2], widths[-1]]
        values = [self.roughly({**sizes, number: m}) for m in places]
        x = (np.array(widths, dtype=float) - places[0]) / (places[2] - places[0])
        middle = (places[1] - places[0]) / (places[2] - places[0])
        bend = ((values[1] - values[0]) / middle - (values[2] - values[0])) / (middle - 1)
        found: list[float] = (values[0] + x * (values[2] - values[0]) + bend * x * (x - 1)).tolist()
        return found

    def filled(self, sizes: dict[int, int], groups: Sequence[Group], sparsity: float, round_to: int) -> list[int]:
        """Sizes that reach a target, widened again while they miss it by too much, as with large multiples."""
        return list(sizes.values())


class NeuronBudget(Budget):
    """Neurons of the groups that are pruned."""

    word = "neuron"

    def __init__(self, network: Network, originals: Sequence[int]):
        """Take how many these groups had before any pruning."""
        super().__init__(network)
        self.neurons = sum(originals)

    def measured(self, sizes: Sizes) -> float:
        """By adding up."""
        return sum(sizes.values()) / self.neurons


class WeightBudget(Budget):
    """Weights and biases."""

    word = "weight"

    def __init__(self, network: Network, parameters: int):
        """Take the parameters before any pruning."""
        super().__init__(network)
        self.parameters = parameters
        self.gaining: set[str] = set()

    def measured(self, sizes: Sizes) -> float:
        """By the shapes that layers will have, biases that they gain included."""
        return parameters_after(self.network.model, self.network.structure, sizes, self.gaining) / self.parameters

    def gain(self, layers: Collection[str]) -> None:
        """Count a bias more of these layers."""
        self.gaining |= {*layers}
        self.known.clear()


class MacBudget(Budget):
    """Multiply-accumulate operations of an image."""

    word = "MAC"

    def __init__(self, network: Network, example: Tensor, original: nn.Module):
        """Take an image (1, C, H, W) for its shape, and the network before any pruning."""
        super().__init__(network)
        _, channels, height, width = example.shape
        self.shape = channels, height, width
        self.before, self.now = mac_count(original, self.shape), mac_count(network.model, self.shape)

    def measured(self, sizes: Sizes) -> float:
        """By the shapes that layers will have; with attention, whose products have no weights, by a narrowed copy."""
        model, structure = self.network.model, self.network.structure
        groups = [structure.groups[number] for number, m in sizes.items() if m < structure.groups[number].size]
        if any(group.kind in OVERLAPPING for group in groups):
            return mac_count(narrowed_copy(self.network, sizes), self.shape) / self.before
        return (self.now - layer_macs_gone(model, structure, sizes)) / self.before

    def roughly(self, sizes: Sizes) -> float:
        """By the shapes of layers alone."""
        return (self.now - layer_macs_gone(self.network.model, self.network.structure, sizes)) / self.before

    def filled(self, sizes: dict[int, int], groups: Sequence[Group], sparsity: float, round_to: int) -> list[int]:
        """Widen the group by a step that comes nearest to the target, while it is missed by too much."""
        while 1 - self.left(sizes) > sparsity + MISS:
            wider = [
                {**sizes, group.number: fitted(group, sizes[group.number] + 1, round_to)}
                for group in groups
                if sizes[group.number] < group.size
            ]
            reaching = [each for each in wider if 1 - self.left(each) >= sparsity]
            if not reaching:
                break
            sizes = max(reaching, key=self.left)
        return list(sizes.values())


class LatencyBudget(Budget):
    """The time of a forward pass of one image, measured on the device of the network."""

    word = "latency"
    close_enough = TIME_MISS
    counted = False

    def __init__(self, network: Network, milliseconds: Callable[[nn.Module], float], original: nn.Module):
        """Take what measures a network, and the one before any pruning."""
        super().__init__(network)
        self.milliseconds = milliseconds
        self.before = milliseconds(original)
        self.lone: dict[int, tuple[list[int], list[float]]] = {}

    def measured(self, sizes: Sizes) -> float:
        """By running a network of these widths."""
        return self.milliseconds(narrowed_copy(self.network, sizes)) / self.before

    def roughly(self, sizes: Sizes) -> float:
        """From networks in which one group alone is narrowed: their shares of the time, multiplied."""
        share = 1.0
        for number, m in sizes.items():
            share *= self.alone(number, m)
        return share

    def alone(self, number: int, m: int) -> float:
        """The share of the time with one group alone narrowed, between those measured at a few widths."""
        size = self.network.structure.groups[number].size
        if number not in self.lone:
            ladder = sorted({max(1, round(size * part)) for part in (0.1, 0.4, 0.7)} | {size})
            full = self.left({})
            times = [self.left({number: m}) / full if m < size else 1.0 for m in ladder]
            rising = [min(1.0, max(times[: place + 1])) for place in range(len(times))]
            self.lone[number] = ladder, rising
        return float(np.interp(m, *self.lone[number]))
