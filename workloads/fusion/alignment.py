"""Carrying the neurons of one network onto those of another that are alike, group by group."""

import copy
from collections.abc import Collection, Iterable, Sequence

import torch
from torch import Tensor, nn

from workloads.compression.calls import Call, by_channel, run_all
from workloads.compression.criteria.magnitude import l1
from workloads.compression.transport import exact_plan, proportional, soft_plan, uniform
from workloads.config import FusionConfig
from workloads.fusion.heads import align_inside, head_cost, roles, settled
from workloads.fusion.rotation import best_rotation, rotate
from workloads.structure.groups import ADDED, CONSUMER, NORM, PRODUCER, THROUGH, Group, Maps, Member, Structure, apply
from workloads.structure.layers import get_layer, rows

MOST_SWEEPS = 100
ATTENTION = ("heads", "query-key", "value-output")


def align(
    anchor: nn.Module,
    other: nn.Module,
    structures: tuple[Structure, Structure],
    images: Sequence[Tensor],
    config: FusionConfig,
) -> nn.Module:
    """A copy of `other` with its pairings carried onto those of `anchor`.

    Args:
        anchor, other: networks of the same architecture, batch-norm merged, every group of any kind is aligned; the
            anchor is in no group the wider one.
        structures: their groups.
        images: normalised batches, for costs from activations.
        config: where costs and masses come from, and how often they are taken anew.

    Raises:
        ValueError: a group of the anchor is wider.
    """
    for a, b in zip(structures[0].groups, structures[1].groups, strict=True):
        if a.size > b.size:
            raise ValueError(
                f"group {a.number} has {b.size} neurons in a model and {a.size} in the anchor: fuse onto the narrowest "
                f"model"
            )
    if config.alignment == "none":
        return unaligned(other, structures)
    aligned, structure = copy.deepcopy(other), structures[1]
    inside = settled(structure)
    turned = {group.number for group in structure.groups if config.residual == "rotation" and group.kind == "residual"}
    recorded = activation_costs(anchor, other, structures, images, turned) if config.alignment == "activations" else {}
    sweeps = config.sweeps or (MOST_SWEEPS if config.alignment == "weight-matching" else 1)
    for sweep in range(1 if config.alignment == "activations" else sweeps):
        moved = False
        done: set[int] = set()
        for number in forward_order(structure):
            pair = structures[0].groups[number], structure.groups[number]
            done.add(number)
            if number in inside:
                continue
            known = done - {number} if sweep == 0 else None
            if number in turned:
                products = -recorded[number].T if number in recorded else None
                counts = usable_members(pair[1], structure, known, ADDED)
                moved = rotate(aligned, pair[1], best_rotation((anchor, aligned), pair, counts, products)) or moved
                continue
            maps = maps_of(anchor, aligned, pair, structure, known, recorded.get(number), config)
            moved = moved or not torch.equal(maps.P, torch.eye(*maps.P.shape))
            apply(aligned, pair[1], maps)
            if pair[1].kind == "heads" and roles(pair[1]) is not None:
                moved = align_inside(anchor, aligned, pair) or moved
            structure = structure.narrowed(number, pair[0].size)
        if not moved:
            break
    return aligned


def maps_of(
    anchor: nn.Module,
    aligned: nn.Module,
    pair: tuple[Group, Group],
    structure: Structure,
    known: set[int] | None,
    recorded: Tensor | None,
    config: FusionConfig,
) -> Maps:
    """The maps that carry a group of a network onto that of the anchor.

    Heads, and the dimensions of queries and keys, keep their function only one for one, so that no masses are theirs.

    Args:
        anchor, aligned, pair, structure, known: as for `weight_cost`.
        recorded: costs from activations; None takes them from the weights as they are by now.
        config: the kinds of costs and masses.
    """
    kind = pair[1].kind
    if kind == "heads" and roles(pair[1]) is not None:
        return transport_maps(head_cost(anchor, aligned, pair))
    cost = recorded
    if cost is None:
        normalise = config.alignment != "weight-matching"
        cost = weight_cost(anchor, aligned, pair, structure, known, normalise)
    if kind in ("heads", "query-key"):
        return transport_maps(cost)
    each = masses(aligned, pair[1], config), masses(anchor, pair[0], config)
    return transport_maps(cost, *each, regularisation=config.regularisation)


def unaligned(other: nn.Module, structures: tuple[Structure, Structure]) -> nn.Module:
    """A copy of a network of the anchor's widths, as it is.

    Raises:
        ValueError: the widths differ.
    """
    if [group.size for group in structures[0].groups] != [group.size for group in structures[1].groups]:
        raise ValueError("networks of different widths cannot be averaged without an alignment: set fusion.alignment")
    return copy.deepcopy(other)


def read_groups(structure: Structure) -> dict[str, set[int]]:
    """Numbers of the groups that each layer reads."""
    reads: dict[str, set[int]] = {}
    for group in structure.groups:
        for member in group.on(CONSUMER):
            reads.setdefault(member.layer, set()).add(group.number)
    return reads


def forward_order(structure: Structure) -> list[int]:
    """Group numbers so that as many as possible of a group's producers read groups that come before it.

    Heads come before the dimensions inside them.
    """
    reads, order = read_groups(structure), list[int]()
    heads = {group.number for group in structure.groups if group.kind == "heads"}
    remaining = {group.number: [m.layer for m in group.on(PRODUCER)] for group in structure.groups}
    while remaining:

        def readiness(number: int) -> tuple[float, bool, int]:
            layers = remaining[number]
            ready = sum(reads.get(layer, set()) <= set(order) for layer in layers) / len(layers)
            return ready, number in heads, number

        order.append(max(remaining, key=readiness))
        del remaining[order[-1]]
    return order


def weight_cost(
    anchor: nn.Module,
    other: nn.Module,
    pair: tuple[Group, Group],
    structure: Structure,
    aligned: set[int] | None,
    normalise: bool,
) -> Tensor:
    """(n_other, n_anchor) float64 costs from what produces and what consumes the pairings.

    Args:
        anchor, other: the networks; other is partly aligned.
        pair: the group in both.
        structure: of `other`.
        aligned: groups whose neurons are already those of the anchor; only producers that read these count, and no
            consumer. None: all of them.
        normalise: squared l2 distances of unit vectors (Singh & Jaggi 2020) instead of negative inner products
            (Git Re-Basin, Ainsworth et al. 2023).
    """
    usable = usable_members(pair[0], structure, aligned)
    a, b = (vectors(model, group, usable) for model, group in zip((anchor, other), pair, strict=True))
    if normalise:
        a, b = nn.functional.normalize(a, dim=1), nn.functional.normalize(b, dim=1)
        return torch.cdist(b, a).square()
    return -(b @ a.T)


def usable_members(group: Group, structure: Structure, aligned: set[int] | None, *further: str) -> list[bool]:
    """For each member of a group whether its weights count for costs, see `weight_cost`.

    Args:
        further: sides of vectors that nothing comes before, which count from the beginning.
    """
    reads = read_groups(structure)
    usable = [
        aligned is None
        or member.side in further
        or (member.side == PRODUCER and reads.get(member.layer, set()) <= aligned)
        for member in group.members
    ]
    return usable if any(usable) else [member.side == PRODUCER for member in group.members]


def vectors(model: nn.Module, group: Group, usable: Iterable[bool]) -> Tensor:
    """(n, d) float64 weights and biases of the layers of a group that count, a row a pairing."""
    parts = []
    for member, counts in zip(group.members, usable, strict=True):
        layer = get_layer(model, member.layer)
        if not counts or member.side == NORM:
            continue
        tensor = getattr(layer, member.parameter).detach()
        parts.append(rows(tensor, member.axis, member.index))
        if member.side in (PRODUCER, THROUGH) and getattr(layer, "bias", None) is not None:
            parts.append(rows(layer.bias.detach(), 0, member.index))
    return torch.cat(parts, 1).double().cpu()


def activation_costs(
    anchor: nn.Module,
    other: nn.Module,
    structures: tuple[Structure, Structure],
    images: Sequence[Tensor],
    turned: Collection[int] = (),
) -> dict[int, Tensor]:
    """For each group, squared l2 distances between the neurons' activations on the same images.

    Args:
        turned: numbers of the groups that get minus the inner products instead.

    Returns:
        (n_other, n_anchor) float64 by the group's number, summed over its producing layers, their calls, images and
        positions. Groups of attention have none, whose activations depend on how the others are aligned, nor groups
        of which no layer runs by itself.
    """
    pairs = {
        b.number: (a, b)
        for a, b in zip(structures[0].groups, structures[1].groups, strict=True)
        if b.kind not in ATTENTION and running_producers(structures[1], b)
    }
    costs = {number: torch.zeros(b.size, a.size, dtype=torch.float64) for number, (a, b) in pairs.items()}
    layers = {member.layer for a, b in pairs.values() for member in running_producers(structures[1], b)}
    for batch in images:
        of_anchor, of_other = (outputs(model, layers, batch) for model in (anchor, other))
        for number, (a, b) in pairs.items():
            members = (running_producers(structure, group) for structure, group in zip(structures, (a, b), strict=True))
            for member_a, member_b in zip(*members, strict=True):
                for ours, theirs in zip(of_anchor[member_a.layer], of_other[member_b.layer], strict=True):
                    for slot_a, slot_b in zip(member_a.index.T, member_b.index.T, strict=True):
                        cost = minus_products if number in turned else squared_distances
                        costs[number] += cost(theirs[:, slot_b], ours[:, slot_a])
    return costs


def running_producers(structure: Structure, group: Group) -> list[Member]:
    """The layers that make the neurons of a group and run by themselves."""
    return [member for member in group.on(PRODUCER) if member.layer not in structure.silent]


def outputs(model: nn.Module, layers: Collection[str], batch: Tensor) -> dict[str, list[Tensor]]:
    """The outputs of layers as (images and positions, channels), one for each time that a layer runs."""
    seen: dict[str, list[Tensor]] = {layer: [] for layer in layers}

    def record(call: Call, layer: nn.Module, output: Tensor) -> None:
        seen[call.layer].append(by_channel(layer, output).clone())  # what comes next may work in place

    run_all(model, [batch], dict.fromkeys(layers, record))
    return seen


def squared_distances(one: Tensor, other: Tensor) -> Tensor:
    """(n, m) float64 between the columns of (s, n) and (s, m)."""
    squares = one.square().sum(0)[:, None] + other.square().sum(0)[None, :] - 2 * one.T @ other
    return squares.clamp(min=0).double().cpu()


def minus_products(one: Tensor, other: Tensor) -> Tensor:
    """(n, m) float64 minus the inner products between the columns of (s, n) and (s, m)."""
    return -(one.T @ other).double().cpu()


def masses(model: nn.Module, group: Group, config: FusionConfig) -> Tensor:
    """Masses of a group's pairings, float64, sum 1."""
    return uniform(group.size) if config.marginal == "uniform" else proportional(l1(model, group).detach().cpu())


def transport_maps(
    cost: Tensor,
    source: Tensor | None = None,
    target: Tensor | None = None,
    regularisation: float | None = None,
) -> Maps:
    """Maps that carry the pairings of one network onto another's along the exact plan, or a soft one.

    Args:
        cost: (n, m).
        source, target: masses of the n and the m pairings; None is uniform.
        regularisation: of a soft plan; see `soft_plan`.

    Returns:
        P (m, n) with rows that sum to one, Q (m, n) with columns that sum to one: for n = m and uniform masses one
        permutation.
    """
    n, m = cost.shape
    source, target = uniform(n) if source is None else source, uniform(m) if target is None else target
    if regularisation is None:
        plan = exact_plan(source, target, cost)
    else:
        plan = soft_plan(source, target, cost, regularisation)
    tiny = torch.finfo(plan.dtype).tiny
    P = (plan / plan.sum(0, keepdim=True).clamp(min=tiny)).T
    Q = (plan / plan.sum(1, keepdim=True).clamp(min=tiny)).T
    return Maps(P.float(), Q.float())
