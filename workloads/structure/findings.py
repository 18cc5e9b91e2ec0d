"""What a recording says: which channels belong together, and which must stay as they are."""

from collections import Counter, defaultdict
from collections.abc import Collection, Sequence
from dataclasses import dataclass, replace
from functools import cached_property
from typing import Any, NamedTuple

import numpy
import torch
from torch import Tensor, nn

from workloads.config import Kind
from workloads.structure.groups import CONSUMER, PRODUCER, THROUGH, Group, Member
from workloads.structure.labels import NONE, chain, components, side_by_side
from workloads.structure.layers import called, get_layer
from workloads.structure.recording import Recording
from workloads.structure.records import OUTPUT, Cut, Reshaped, Use

MOST_SHARES = 16
"""Into how many groups one is divided whose layers do not share all channels; more are not worth to be tried out."""


class Prunable(NamedTuple):
    """A group that nothing speaks against, but for a trial."""

    members: tuple[Member, ...]
    kind: Kind
    loose: bool = False


class Kept(NamedTuple):
    """A group that stays as it is."""

    reason: str


class IsOutput(NamedTuple):
    """The network's outputs, which are no group."""


Verdict = Prunable | Kept | IsOutput


def grouped(found: Prunable) -> Group:
    """A group whose number is not known yet."""
    return Group(0, len(found.members[0].index), found.members, found.kind, loose=found.loose)


def attributes_of(model: nn.Module, modules: Collection[str], sizes: Collection[int]) -> tuple[tuple[str, str], ...]:
    """Names of modules and of their attributes that are whole numbers among these sizes, larger than 1.

    PyTorch's own layers are left out: what they record follows their weights.
    """
    return tuple(
        (module, name)
        for module in sorted(modules)
        if not type(get_layer(model, module)).__module__.startswith("torch.nn.")
        for name, value in vars(get_layer(model, module)).items()
        if type(value) is int and value > 1 and value in sizes
    )


@dataclass
class Findings:
    """What a recording says once it is complete.

    Labels that were tied are one *channel*; channels that can only be removed together are one *pairing*; pairings of
    which some are made by the same layer are one *group*. Where heads of attention, or dimensions inside them, are to
    be removed (see `Cut`), the pairings of one product of activations are a group.

    Attributes:
        recording: what was learned.
        cut: the way to remove channels.
        divided: whether channels at equal places of parts, such as those of a channel shuffle, are one pairing.
        joined: (k, 2) further labels of one pairing each.
    """

    recording: Recording
    cut: Cut = Cut.CHANNELS
    divided: bool = False
    joined: tuple[Tensor, ...] = ()

    @cached_property
    def making(self) -> dict[Any, None]:
        """The axes that make channels, in the order in which they did so first."""
        return {use.axis: None for use in self.recording.uses if use.side in (PRODUCER, THROUGH)}

    @cached_property
    def rank(self) -> numpy.ndarray:
        """(labels,) the order in which channels were made; what is no output of a layer comes after all of them."""
        rank = numpy.full(self.recording.size, self.recording.size)
        start = 0
        for axis in self.making:
            rank[axis.start : axis.start + axis.size] = range(start, start + axis.size)
            start += axis.size
        return rank

    def first(self, sets: numpy.ndarray) -> numpy.ndarray:
        """(labels,) the least rank in the set of each label."""
        least = numpy.full(self.recording.size, self.recording.size)
        numpy.minimum.at(least, sets, self.rank)
        found: numpy.ndarray = least[sets]
        return found

    @cached_property
    def channels(self) -> numpy.ndarray:
        """(labels,) the channel of each label: the rank of the first that was made."""
        return self.first(components(self.recording.size, self.ties))

    @cached_property
    def ties(self) -> list[Tensor]:
        """(k, 2) labels of one and the same channel."""
        return [tie.edges for tie in self.recording.ties if self.cut in tie.cuts]

    @cached_property
    def together(self) -> list[Tensor]:
        """(k, 2) labels of one pairing."""
        edges = [*self.ties, *self.recording.pairings, *self.joined]
        if self.cut == Cut.HEADS:
            return edges + [side_by_side(rows) for rows in self.recording.heads]
        if self.cut == Cut.DIMENSIONS:
            edges += [side_by_side(part.T) for product in self.recording.products for part in product.parts]
        if self.divided:
            edges += [side_by_side(part.T) for part in self.recording.divisions if self.is_one(part)]
        return edges

    @cached_property
    def pairings(self) -> numpy.ndarray:
        """(labels,) the pairing of each label, likewise."""
        return self.first(components(self.recording.size, self.together))

    @cached_property
    def groups(self) -> numpy.ndarray:
        """(labels,) the group of each label."""
        wholes = [axis.labels for axis in self.making]
        if self.cut == Cut.HEADS:
            wholes = [product.heads for product in self.recording.products]
        elif self.cut == Cut.DIMENSIONS:
            wholes = [part.flatten() for product in self.recording.products for part in product.parts]
        edges = replace(self, divided=False).together if self.divided else self.together
        return components(self.recording.size, [*edges, *(chain(labels) for labels in wholes)])

    @cached_property
    def reasons(self) -> dict[int, str]:
        """By group why it stays: that it is the output, whatever else is done with it, or the first reason."""
        found: dict[int, str] = {}
        fixed = [(labels, reason) for labels, reason, cuts in self.recording.fixed if self.cut in cuts]
        for labels, reason in (*fixed, *self.out_of_order):
            for group in numpy.unique(self.groups[labels.numpy()]):
                if reason == OUTPUT or int(group) not in found:
                    found[int(group)] = reason
        return found

    @property
    def out_of_order(self) -> list[tuple[Tensor, str]]:
        """What a grouped convolution reads in another order than it was made in."""
        return [
            (labels[labels != NONE], f"the groups of {called(layer)} read channels out of order")
            for layer, labels in self.recording.grouped
            if not bool((labels == NONE).any()) and (numpy.diff(self.channels[labels.numpy()], axis=1) <= 0).any()
        ]

    @cached_property
    def makers(self) -> dict[str, list[int]]:
        """By layer, the groups of the channels that it makes."""
        found: dict[str, list[int]] = defaultdict(list)
        for axis in self.making:
            found[axis.layer].append(int(self.groups[axis.start]))
        return found

    def made_by(self, layer: str) -> Sequence[int]:
        """The groups of the channels that a layer makes."""
        return self.makers.get(layer, ())

    def verdict(self, group: int) -> Verdict:
        """Whether a group may be pruned."""
        reason = self.reasons.get(group)
        if reason == OUTPUT:
            return IsOutput()
        if reason is not None:
            return Kept(reason)
        members = self.members(group)
        if isinstance(members, Kept):
            return members
        if not any(member.side == CONSUMER for member in members):
            return Kept("no layer reads its channels one by one")
        return Prunable(members, self.kind(group), self.is_loose(group))

    @cached_property
    def reshaped(self) -> dict[int, list[Reshaped]]:
        """By group, where its channels got another shape."""
        found: dict[int, list[Reshaped]] = defaultdict(list)
        for each in self.recording.reshaped:
            for group in numpy.unique(self.groups[each.labels.numpy()]):
                found[int(group)].append(each)
        return found

    def coarser(self, group: int) -> Group | None:
        """The group with channels at equal places of parts, such as those of a channel shuffle, in one pairing."""
        if not any(self.is_one(part) and self.groups[int(part[0, 0])] == group for part in self.recording.divisions):
            return None
        members = self.with_parts.members(group)
        return None if isinstance(members, Kept) else grouped(Prunable(members, self.kind(group), self.is_loose(group)))

    @cached_property
    def with_parts(self) -> "Findings":
        """The same where channels at equal places of parts make one pairing."""
        return replace(self, divided=True)

    def shares(self, group: int) -> list[Group]:
        """The pairings of a group that the same layers hold, a group each, where layers do not share all of them.

        Such are the channels to which a shortcut is added, and those that follow them.
        """
        alike = [] if group in self.reasons or self.is_averaged(group) else self.alike(group)
        found = []
        for pairings, members in alike if 1 < len(alike) <= MOST_SHARES else ():
            sides, parts = {member.side for member in members}, self.parts_of(pairings)
            if len(pairings) > 1 and CONSUMER in sides and sides & {PRODUCER, THROUGH} and parts is not None:
                kind, loose = self.kind(group), self.is_loose(group)
                found.append(Group(0, len(pairings), members, kind, parts=parts, loose=loose))
        return found

    def alike(self, group: int) -> list[tuple[set[int], tuple[Member, ...]]]:
        """Pairings of a group that the same layers hold, each equally often, with the members of such a part of it."""
        held: dict[int, list[tuple[Use, list[int]]]] = defaultdict(list)
        for use in self.uses[group]:
            inside: dict[int, list[int]] = defaultdict(list)
            for entry in numpy.flatnonzero(self.groups[use.axis.span] == group).tolist():
                inside[int(self.pairings[use.axis.start + entry])].append(entry)
            for pairing, entries in inside.items():
                held[pairing].append((use, entries))
        alike: dict[Any, list[int]] = defaultdict(list)
        for pairing in sorted(held):
            alike[tuple((use, len(entries)) for use, entries in held[pairing])].append(pairing)
        return [
            (
                set(pairings),
                tuple(
                    Member(
                        use.axis.layer,
                        use.side,
                        torch.tensor([held[pairing][number][1] for pairing in pairings]),
                        use.axis.parameter,
                        use.axis.dim,
                    )
                    for number, (use, _) in enumerate(key)
                ),
            )
            for key, pairings in alike.items()
        ]

    def parts_of(self, pairings: Collection[int]) -> tuple[tuple[str, str, int], ...] | None:
        """Modules and their whole numbers that are sizes of parts with equally many channels of each of the pairings,
        and how many.

        None where a part holds some of them, but no number says how large it is.
        """
        found: dict[tuple[str, str], int] = {}
        for module, labels in self.recording.parts:
            some = self.pairings[labels[labels != NONE].numpy()]
            count = Counter(pairing for pairing in some.tolist() if pairing in pairings)
            if not count:
                continue
            names = () if module is None else attributes_of(self.recording.model, [module], [len(labels)])
            if len(count) < len(pairings) or len({*count.values()}) > 1 or not names:
                return None
            found |= dict.fromkeys(names, next(iter(count.values())))
        return tuple((*key, count) for key, count in found.items())

    def is_one(self, labels: Tensor) -> bool:
        """Whether all labels are of channels of one group."""
        return bool((labels != NONE).all()) and len(numpy.unique(self.groups[labels.numpy()])) == 1

    def is_averaged(self, group: int) -> bool:
        """Whether a norm or a mean is taken over channels of a group."""
        averaged = [labels[labels != NONE].numpy() for labels, cuts in self.recording.averaged if self.cut in cuts]
        return any((self.groups[labels] == group).any() for labels in averaged)

    def kind(self, group: int) -> Kind:
        """What the channels of a group are."""
        if self.is_averaged(group):
            return "residual"
        making = [use.axis for use in self.uses[group] if use.axis in self.making]
        return "hidden" if all(axis in self.recording.linear for axis in making) else "channels"

    def is_loose(self, group: int) -> bool:
        """Whether some layer makes several channels of one pairing, which could be in another order."""
        for use in self.uses[group]:
            entries = numpy.flatnonzero(self.groups[use.axis.span] == group)
            pairings, channels = self.pairings[use.axis.span][entries], self.channels[use.axis.span][entries]
            different = numpy.unique(numpy.stack([pairings, channels]), axis=1).shape[1]
            if use.side in (PRODUCER, THROUGH) and different > len(numpy.unique(pairings)):
                return True
        return False

    @cached_property
    def uses(self) -> dict[int, list[Use]]:
        """By group, what is done with its channels, in the order in which it happened."""
        found: dict[int, list[Use]] = defaultdict(list)
        for use in self.recording.uses:
            for group in numpy.unique(self.groups[use.axis.span]):
                found[int(group)].append(use)
        return found

    def members(self, group: int) -> tuple[Member, ...] | Kept:
        """The sides of layers that hold the channels of a group, a row of the index for each pairing."""
        order: list[int] = []
        held: list[tuple[Use, dict[int, list[int]]]] = []
        for use in self.uses[group]:
            entries = numpy.flatnonzero(self.groups[use.axis.span] == group)
            pairings, channels = self.pairings[use.axis.span][entries], self.channels[use.axis.span][entries]
            inside: dict[int, list[int]] = {}
            for place in numpy.lexsort((entries, channels, pairings)):
                inside.setdefault(int(pairings[place]), []).append(int(entries[place]))
            order = list(dict.fromkeys([*order, *inside]))
            if len(inside) < len(order) or len({len(slots) for slots in inside.values()}) > 1:
                return Kept(f"{called(use.axis.layer)} does not use every channel of the group equally often")
            held.append((use, inside))
        if any(len(inside) < len(order) for _, inside in held):
            return Kept("its layers do not share all of their channels")
        return tuple(
            Member(
                use.axis.layer,
                use.side,
                torch.tensor([inside[pairing] for pairing in order]),
                use.axis.parameter,
                use.axis.dim,
            )
            for use, inside in held
        )
