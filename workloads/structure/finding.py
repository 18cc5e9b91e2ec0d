"""Finding the groups of a network: the channels that belong together, and those that must stay as they are."""

from collections import defaultdict
from collections.abc import Sequence
from dataclasses import dataclass, replace
from functools import cached_property
from typing import Any, NamedTuple

import numpy
import torch
from torch import Tensor, nn

from workloads.config import DEFAULT_KINDS, Kind
from workloads.structure.groups import (
    CONSUMER,
    PRODUCER,
    THROUGH,
    Group,
    LayerSize,
    Member,
    Structure,
)
from workloads.structure.labels import NONE, chain, components
from workloads.structure.layers import get_layer
from workloads.structure.logits import logits_of
from workloads.structure.recording import OUTPUT, Recording, Use
from workloads.structure.rules import follow
from workloads.structure.trial import Candidate, Trial, fitting, running_eagerly


class Prunable(NamedTuple):
    """A group that nothing speaks against, but for a trial."""

    members: tuple[Member, ...]
    kind: Kind
    loose: bool


class Kept(NamedTuple):
    """A group that stays as it is."""

    reason: str


class IsOutput(NamedTuple):
    """The network's outputs, which are no group."""


Verdict = Prunable | Kept | IsOutput


def trace(model: nn.Module, example: Tensor) -> Structure:
    """Find the groups of a network by running it once on `example` (1, C, H, W), and try them out.

    Groups come in the paper's order: from the last layer backwards, the classifier left out; those of kinds that are
    not pruned by default come after all others. Groups that cannot be pruned are kept as they are and named in
    `Structure.kept`.

    Raises:
        ValueError: the network does not return logits, or none of its groups can be pruned.
    """
    if isinstance(model, torch.jit.ScriptModule):
        raise ValueError("the network is compiled by TorchScript: give the module that it was made from")
    example = example.detach().as_subclass(Tensor)
    recording = Recording(model.eval(), follow)
    with running_eagerly():
        output = logits_of(recording.run(example))
        if output in recording.outputs:
            recording.outputs[output].readers += 1
        for labels in recording.carried(output):
            recording.fix(labels, OUTPUT)
        candidates, kept = judged(model, Findings(recording))
        trial = Trial(model, example)
        groups, refused = fitting(trial, candidates)
        normalised = trial.mergeable(tuple(recording.batch_norms()))
    kept += refused
    if not groups:
        reasons = "; ".join(f"'{name}': {reason}" for name, reason in kept[:3])
        raise ValueError(f"none of its layers can be pruned{f' ({reasons})' if reasons else ''}")
    sizes = {
        layer: LayerSize(tuple(get_layer(model, layer).weight.shape), positions)
        for layer, positions in recording.work.items()
    }
    return Structure(tuple(groups), normalised, tuple(kept), frozenset(recording.opaque), sizes)


def judged(model: nn.Module, findings: "Findings") -> tuple[list[Candidate], list[tuple[str, str]]]:
    """Groups that may be prunable and those that are kept, with the names of their last layers."""
    candidates: list[Candidate] = []
    kept: list[tuple[str, str]] = []
    covered: set[int] = set()
    for name, _ in reversed(list(model.named_modules())):
        if name in findings.recording.unfollowed:
            kept.append((name, findings.recording.unfollowed[name]))
        for group in findings.made_by(name):
            if group in covered:
                continue
            covered.add(group)
            verdict = findings.verdict(group)
            if isinstance(verdict, Prunable):
                candidates.append(Candidate(name, grouped(verdict), findings.coarser(group)))
            elif isinstance(verdict, Kept):
                kept.append((name, verdict.reason))
    candidates.sort(key=lambda candidate: candidate.group.kind not in DEFAULT_KINDS)
    return candidates, kept


def grouped(found: Prunable) -> Group:
    """A group whose number is not known yet."""
    return Group(0, len(found.members[0].index), found.members, found.kind, found.loose)


@dataclass
class Findings:
    """What a recording says once it is complete.

    Labels that were tied are one *channel*; channels that can only be removed together are one *pairing*; pairings of
    which some are made by the same layer are one *group*.
    """

    recording: Recording
    divided: bool = False

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
        return self.first(components(self.recording.size, self.recording.ties))

    @cached_property
    def pairings(self) -> numpy.ndarray:
        """(labels,) the pairing of each label, likewise."""
        edges = [*self.recording.ties, *self.recording.pairings]
        if self.divided:
            edges += [chain(labels) for part in self.recording.divisions if self.is_one(part) for labels in part.T]
        return self.first(components(self.recording.size, edges))

    @cached_property
    def groups(self) -> numpy.ndarray:
        """(labels,) the group of each label."""
        edges = [*self.recording.ties, *self.recording.pairings, *(chain(axis.labels) for axis in self.making)]
        return components(self.recording.size, edges)

    @cached_property
    def reasons(self) -> dict[int, str]:
        """By group why it stays: that it is the output, whatever else is done with it, or the first reason."""
        found: dict[int, str] = {}
        for labels, reason in (*self.recording.fixed, *self.out_of_order):
            for group in numpy.unique(self.groups[labels.numpy()]):
                if reason == OUTPUT or int(group) not in found:
                    found[int(group)] = reason
        return found

    @property
    def out_of_order(self) -> list[tuple[Tensor, str]]:
        """What a grouped convolution reads in another order than it was made in."""
        return [
            (labels[labels != NONE], f"the groups of layer '{layer}' read channels out of order")
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

    def is_one(self, labels: Tensor) -> bool:
        """Whether all labels are of channels of one group."""
        return bool((labels != NONE).all()) and len(numpy.unique(self.groups[labels.numpy()])) == 1

    def kind(self, group: int) -> Kind:
        """What the channels of a group are."""
        averaged = self.recording.averaged
        if any((self.groups[labels[labels != NONE].numpy()] == group).any() for labels in averaged):
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
                return Kept(f"layer '{use.axis.layer}' does not use every channel of the group equally often")
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
