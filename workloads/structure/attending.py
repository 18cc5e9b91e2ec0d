"""Rules for products of two activations, such as those of attention.

With queries, keys and values of (images, heads, tokens, dimensions), attention is two products that happen head by
head: queries with keys, which sums over the dimensions of a head, and the weights that come of it with the values. What
each head has in them goes together. A dimension of the queries vanishes with that of the keys at its place; one of the
values lives on in what the product makes.
"""

from collections.abc import Sequence

from torch import Tensor

from workloads.structure.combining import combined
from workloads.structure.groups import ADDED
from workloads.structure.labels import dims_of
from workloads.structure.recording import Recording
from workloads.structure.records import NOT_HEADS, Cut, Labels, Operation

CHANNELS = frozenset({Cut.CHANNELS})


def attention(recording: Recording, operation: Operation) -> list[Labels]:
    """Fused attention of queries, keys and values (…, heads, tokens, dimensions), with a mask or bias or none."""
    query, key, value = operation.args[:3]
    masks = [tensor for tensor in operation.tensors if all(tensor is not other for other in (query, key, value))]
    keys = tuple(labels.transpose(-1, -2) for labels in recording.carried(key))
    weights = product(recording, recording.carried(query), keys)
    shape = (*query.shape[:-1], key.shape[-2])
    for mask in masks:
        recording.use_as_vector(mask, ADDED)
        weights = combined(recording, [(shape, weights), (mask.shape, recording.carried(mask))])
    weights = tuple(labels for labels in weights if not dims_of(labels) & {-1, -2})
    made = product(recording, weights, recording.carried(value))
    return [made, *[()] * (len(operation.results) - 1)]


def product(recording: Recording, left: Labels, right: Labels) -> Labels:
    """(…, n, k) times (…, k, m) of two activations."""
    vanishing = [labels for labels in left if -1 in dims_of(labels)]
    of_right = [labels.transpose(-1, -2) for labels in right if -2 in dims_of(labels)]
    free = [labels for labels in left if -1 not in dims_of(labels)]
    free += [labels for labels in right if -2 not in dims_of(labels)]
    summed, heads = summed_over(recording, vanishing, of_right)
    inside = [labels for labels in free if heads_of(labels) and dims_of(labels) != heads_of(labels)]
    cuts = CHANNELS if len(inside) == 1 else NOT_HEADS
    for labels in inside:
        recording.fix(labels, f"{recording.place} divides it into heads of attention", cuts)
    heads += [
        found for labels in free if heads_of(labels) and (found := labels_of_heads(recording, labels)) is not None
    ]
    carried = [labels for labels in free if not heads_of(labels)]
    if heads:
        united(recording, heads)
        parts = summed or (inside if len(inside) == 1 and heads_of(inside[0]) == dims_of(heads[0]) else [])
        if parts or vanishing or of_right or inside:
            recording.attend(parts, heads[0], summed=bool(summed))
        carried += inside if len(inside) == 1 else [] if carried else heads[:1]
    return tuple(carried)


def summed_over(
    recording: Recording, left: Sequence[Tensor], right: Sequence[Tensor]
) -> tuple[list[Tensor], list[Tensor]]:
    """What becomes of labels along the last dimension, over which a product sums.

    Returns:
        Labels whose dimensions vanish two by two, and those of the heads of all.
    """
    reason = f"{recording.place} multiplies two activations along it, as attention does"
    single = [labels for labels in (*left, *right) if dims_of(labels) == heads_of(labels) | {-1}]
    if len(left) == len(right) == 1 and len(single) == 2:
        same = heads_of(left[0]) == heads_of(right[0])
        recording.tie(left[0], right[0], reason, {Cut.HEADS, Cut.DIMENSIONS} if same else {Cut.DIMENSIONS})
        for labels in single:
            recording.fix(labels, reason, CHANNELS)
        summed = [labels for labels in single if heads_of(labels)]
        found = [labels_of_heads(recording, labels) for labels in summed]
        return summed if same else [], [heads for heads in found if heads is not None]
    found = [recording.mix(labels, {-1, -2}, reason) for labels in (*left, *right)]
    return [], [heads for heads in found if heads is not None]


def heads_of(labels: Tensor) -> set[int]:
    """The dimensions along which a product happens place by place."""
    return {dim for dim in dims_of(labels) if dim < -2}


def labels_of_heads(recording: Recording, labels: Tensor) -> Tensor | None:
    """The labels themselves if they change from head to head alone, else those of the heads."""
    heads = heads_of(labels)
    return labels if heads == dims_of(labels) else recording.heads_along(labels, heads)


def united(recording: Recording, heads: Sequence[Tensor]) -> None:
    """Heads at equal places are one."""
    reason = f"{recording.place} divides it into heads of attention"
    for other in heads[1:]:
        if dims_of(other) == dims_of(heads[0]):
            recording.tie(heads[0], other, reason)
        else:
            recording.fix(heads[0], reason)
            recording.fix(other, reason)
