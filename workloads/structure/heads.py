"""Attention: groups of whole heads, and of dimensions inside them."""

from collections import defaultdict
from collections.abc import Collection, Iterator, Sequence
from dataclasses import dataclass, field, replace
from typing import NamedTuple

import numpy
import torch
from torch import Tensor, nn

from workloads.config import Kind
from workloads.structure.findings import Findings, Kept, Prunable, attributes_of, grouped
from workloads.structure.groups import ADDED, CONSUMER, PRODUCER, Group, Member
from workloads.structure.layers import get_layer
from workloads.structure.records import Cut, Product
from workloads.structure.trial import Candidate

OF_DIMENSIONS = ("dim", "size", "width", "channels")
"""What the names of attributes hold that record how wide a head is, where it is as wide as there are heads."""


@dataclass
class Attention:
    """One attention of a network.

    Attributes:
        name: of its last layer before the products.
        covered: the groups of single channels that it divides.
        candidates: groups of its heads and dimensions, to be tried out.
        kept: kinds of groups that it cannot have, with the reason.
        modules: in which its products are.
        scaled: what makes its queries and keys.
    """

    name: str
    covered: frozenset[int]
    candidates: list[Candidate] = field(default_factory=list)
    kept: list[tuple[Kind, str]] = field(default_factory=list)
    modules: tuple[str, ...] = ()
    scaled: tuple[Member, ...] = ()


class Sizes(NamedTuple):
    """How many heads the operands of an attention have, and how many dimensions each of these."""

    heads: int
    dimensions: int


def attentions(model: nn.Module, findings: Findings) -> list[Attention]:
    """All attentions of a network, from the output backwards; `findings` are of single channels."""
    recording = findings.recording
    if not recording.products:
        return []
    by_heads = Findings(recording, Cut.HEADS)
    products: dict[int, list[Product]] = defaultdict(list)
    for product in recording.products:
        products[int(by_heads.groups[product.heads[0]])].append(product)
    single = Findings(recording, Cut.DIMENSIONS)
    joined = Findings(
        recording, Cut.DIMENSIONS, joined=tuple(edges for each in products.values() for edges in halves(each))
    )
    found = []
    for number, (group, parts) in enumerate(reversed(products.items())):
        makers = [use.axis.layer for use in by_heads.uses[group] if use.side == PRODUCER]
        covered = numpy.unique(findings.groups[by_heads.groups == group])
        attention = Attention(makers[-1] if makers else parts[-1].module, frozenset(covered.tolist()))
        attention.modules = tuple(dict.fromkeys(product.module for product in parts if product.module))
        attention.scaled = tuple(queries_and_keys(single, parts))
        tracer = Choosing(model, attention, number, parts, single, findings)
        tracer.add("heads", by_heads, group)
        for product in parts:
            if product.parts:
                tracer.add(
                    "query-key" if product.summed else "value-output",
                    single,
                    int(single.groups[product.parts[0][0, 0]]),
                )
        if any(True for _ in halves(parts)):
            both = int(joined.groups[parts[0].parts[0][0, 0]])
            tracer.add("query-key", joined, both, instead=True)
        found.append(attention)
    return found


def halves(products: Sequence[Product]) -> Iterator[Tensor]:
    """Labels (k, 2) of dimensions at equal places of the queries and the values of an attention with one of each."""
    summed = [product for product in products if product.summed]
    others = [product for product in products if not product.summed]
    if len(summed) == len(others) == 1 and others[0].parts:
        one, other = summed[0].parts[0], others[0].parts[0]
        if one.shape == other.shape:
            yield torch.stack([one[0], other[0]], 1)


@dataclass
class Choosing:
    """Adds the groups of one attention to it, in the forms in which they may be prunable."""

    model: nn.Module
    attention: Attention
    number: int
    products: Sequence[Product]
    single: Findings
    channels: Findings

    def add(self, kind: Kind, findings: Findings, group: int, instead: bool = False) -> None:
        """Add a group; `instead` of those of queries and keys, and of values, where neither can be pruned alone."""
        found = verdict(findings, group, kind)
        if isinstance(found, Kept):
            if not instead:
                self.attention.kept.append((kind, found.reason))
            return
        modules = {name for product in self.products for name in inside(self.model, product.module)}
        modules |= {each.module for each in findings.reshaped[group]}
        whole = grouped(found)
        if kind == "heads":
            whole = replace(whole, inside=self.dimensions)
        elif kind == "query-key":
            whole = replace(whole, factors=self.factors(whole.members))
        forms = list(self.forms(whole, modules))
        classes = tuple(type(get_layer(self.model, product.module)).__qualname__ for product in self.products)
        self.attention.candidates.append(
            Candidate(self.attention.name, forms[0], tuple(forms[1:]), (classes, kind, instead), self.number)
        )

    def forms(self, group: Group, modules: Collection[str]) -> Iterator[Group]:
        """The group with the attributes of modules that seem to record its size, and without; for queries and keys also
        with weights that make up for a scale that follows from their number."""
        sizes = self.sizes
        heads = {count for size in sizes for count in (size.heads, size.heads * size.dimensions)}
        inside = {count for size in sizes for count in (size.dimensions, size.heads * size.dimensions)}
        wanted, other = (heads, inside) if group.kind == "heads" else (inside, heads)
        found = [
            (module, name)
            for module, name in attributes_of(self.model, modules, wanted)
            if (value := getattr(get_layer(self.model, module), name)) % group.size == 0
            and (value not in other or value in (wanted & other) - ambiguous(sizes) or is_of(name, group.kind))
        ]
        inferring = tuple(dict.fromkeys(product.module for product in self.products if product.module))
        whole = replace(group, power=-0.25 if group.kind == "heads" else 0.25)
        scaled = () if group.kind == "value-output" else tuple(queries_and_keys(self.single, self.products))
        for attributes, inferred in ((found, ()), (found, inferring), ([], ())):
            form = replace(whole, attributes=tuple(attributes), inferring=inferred)
            yield from (
                [replace(form, rescaled=scaled), form][:: -1 if group.kind == "heads" else 1] if scaled else [form]
            )

    @property
    def dimensions(self) -> tuple[tuple[Member, ...], ...]:
        """The members that hold the dimensions of heads: of queries and keys, and of values and outputs.

        Empty where anything else depends on these, such as a norm or a rotary embedding: they have no basis to choose.
        """
        found: dict[bool, tuple[Member, ...]] = {}
        for product in self.products:
            group = int(self.single.groups[product.parts[0][0, 0]]) if product.parts else None
            members = Kept("") if group is None else self.single.members(group)
            if isinstance(members, Kept) or product.summed in found or group is None:
                return ()
            sides = {member.side for member in members}
            wanted = {PRODUCER} if product.summed else {PRODUCER, CONSUMER}
            if sides != wanted or group in self.single.reasons or self.single.is_averaged(group):
                return ()
            found[product.summed] = members
        return (found[True], found[False]) if len(found) == 2 else ()

    def factors(self, members: Sequence[Member]) -> tuple[Tensor, ...]:
        """For each member the factors that its columns are of, as in `Group.factors`; empty where that is not clear.

        It is not where a factor is a sum of what several layers make, or anything but a sum changes its dimensions.
        """
        factor_of = self.factor_of
        found: list[Tensor] = []
        made: set[int] = set()
        for member in members:
            axis = self.channels.recording.numbers[member.layer, member.parameter, member.axis]
            channels = self.channels.channels[axis.start + member.index.numpy()]
            columns = [{factor_of.get(channel, -1) for channel in column} for column in channels.T.tolist()]
            known = all(len(column) == 1 and -1 not in column for column in columns)
            if not known or member.side not in (PRODUCER, CONSUMER, ADDED):
                return ()
            if member.side == PRODUCER:
                if not made.isdisjoint(channels.flat):
                    return ()
                made.update(channels.flat)
            reading = int(member.side == CONSUMER)
            found.append(torch.tensor([column.pop() + reading for column in columns]))
        every = {int(factor) for factors in found for factor in factors}
        return tuple(found) if all(factor ^ 1 in every for factor in every) else ()

    @property
    def factor_of(self) -> dict[int, int]:
        """By channel of queries, keys or values the factor; empty unless one product sums over dimensions."""
        found: dict[int, int] = {}
        pairs = 0
        if sum(product.summed for product in self.products) != 1:
            return {}
        for product in self.products:
            parts = [self.channels.channels[part.numpy()] for part in product.parts]
            if len(parts) != 1 + product.summed:
                return {}
            heads = numpy.unique(parts[-1][:, 0], return_inverse=True)[1] + pairs
            pairs = int(heads.max()) + 1
            for side, part in enumerate(parts):
                for row, head in zip(part.tolist(), heads.tolist(), strict=True):
                    if any(found.setdefault(channel, 2 * head + side) != 2 * head + side for channel in row):
                        return {}
        return found

    @property
    def sizes(self) -> set[Sizes]:
        """Of all operands."""
        parts = [part for product in self.products for part in product.parts]
        alone = {Sizes(len(product.heads.unique()), 1) for product in self.products}
        return {Sizes(len(part[:, 0].unique()), part.shape[1]) for part in parts} or alone


def queries_and_keys(single: Findings, products: Sequence[Product]) -> Iterator[Member]:
    """What makes the queries and keys of an attention; `single` finds dimensions."""
    for product in products:
        if product.summed:
            members = single.members(int(single.groups[product.parts[0][0, 0]]))
            if not isinstance(members, Kept):
                yield from (member for member in members if member.side in (PRODUCER, ADDED))


def inside(model: nn.Module, module: str) -> Iterator[str]:
    """A module and those in it, such as one that makes a bias for each head when a method of it is called."""
    if module:
        yield from (f"{module}.{name}".rstrip(".") for name, _ in get_layer(model, module).named_modules())
    else:
        yield module


def ambiguous(sizes: set[Sizes]) -> set[int]:
    """Numbers that are both how many heads there are and how many dimensions."""
    return {size.heads for size in sizes} & {size.dimensions for size in sizes}


def is_of(name: str, kind: Kind) -> bool:
    """Whether an attribute, by its name, records the size of groups of a kind rather than of another."""
    return (kind != "heads") == any(part in name for part in OF_DIMENSIONS)


def verdict(findings: Findings, group: int, kind: Kind) -> Prunable | Kept:
    """Whether heads or dimensions may be pruned."""
    reason = findings.reasons.get(group)
    if reason is not None:
        return Kept(reason)
    if kind != "heads" and findings.is_averaged(group):  # of heads, attentions may return a mean that nobody reads
        return Kept("a norm or a mean is taken over them")
    members = findings.members(group)
    if isinstance(members, Kept):
        return members
    if not any(member.side == PRODUCER for member in members):
        return Kept("no layer makes them")
    if kind != "query-key" and not any(member.side == CONSUMER for member in members):
        return Kept("no layer reads them one by one")
    return Prunable(members, kind)


def left(found: Sequence[Attention], refused: Sequence[tuple[Candidate, str]]) -> list[tuple[str, str]]:
    """What stays as it is of attentions, and of all else that was refused: names of layers and reasons.

    Of an attention of which nothing can be pruned, the heads' reason stands for all.
    """
    alone = [(candidate.name, reason) for candidate, reason in refused if candidate.attention is None]
    kept = list(dict.fromkeys(alone))  # shares of one group have one name and reason
    for number, attention in enumerate(found):
        reasons: dict[Kind, str] = dict(attention.kept)
        own = [(candidate, reason) for candidate, reason in refused if candidate.attention == number]
        together = any(each.is_instead for each in attention.candidates) and not any(each.is_instead for each, _ in own)
        for candidate, reason in own:
            if not candidate.is_instead and not (together and candidate.group.kind != "heads"):
                reasons.setdefault(candidate.group.kind, reason)
        if len(own) == len(attention.candidates) and "heads" in reasons:
            kept.append((attention.name, reasons["heads"]))
        else:
            kept += [(attention.name, f"{kind}: {reason}") for kind, reason in reasons.items()]
    return kept
