"""Rules for operations with weights: convolutions, products of matrices, embeddings and norms."""

from collections.abc import Sequence

import torch
from torch import Tensor, nn

from workloads.structure import attending
from workloads.structure.combining import averaged, combined
from workloads.structure.groups import ADDED, CONSUMER, NORM, PRODUCER, SCALE, THROUGH, Axis
from workloads.structure.labels import NONE, along, dims_of, pairs
from workloads.structure.layers import BATCH_NORMS, called
from workloads.structure.recording import Recording
from workloads.structure.records import Labels, Operation, Source


def convolution(recording: Recording, operation: Operation) -> list[Labels]:
    """Reads channels along dimension 1 and makes others there."""
    x, weight, bias, *_ = operation.args
    transposed, _, groups = operation.args[6:9]
    (result,) = operation.results
    carried, channel = recording.carried(x), 1 - x.ndim
    source = recording.source(weight)
    problem = recording.unusable(source)
    if transposed and groups > 1 and not problem:
        problem = f"{recording.place} is a transposed convolution with groups"
    if problem or source is None:
        return unfollowed(recording, problem or "", carried, source)
    read = [labels for labels in carried if channel in dims_of(labels) or (x.shape[1] == 1 and not dims_of(labels))]
    for labels in carried:
        if not dims_of(labels) <= {channel, -x.ndim}:
            recording.fix(labels, f"{called(source.layer)} reads channels that differ from place to place")
    made, reads = recording.axis(source, int(transposed)), recording.axis(source, 1 - int(transposed))
    assert made is not None
    assert reads is not None
    if groups == 1:
        recording.use(made, PRODUCER)
        read_by(recording, reads, read, x.ndim, channel)
    else:
        recording.use(made, THROUGH)
        through(recording, made, read, x.shape[1], groups)
    add_bias(recording, made, bias)
    recording.layer_made(source.layer, result, result.numel() // result.shape[1])
    free = [labels for labels in carried if dims_of(labels) == {-x.ndim}]
    return [(along(made.labels, result.ndim, channel), *free)]


def unfollowed(recording: Recording, problem: str, carried: Labels, source: Source | None) -> list[Labels]:
    """A layer's weight cannot be followed: what it reads stays, and what it makes carries nothing."""
    running = recording.stack[-1] if recording.stack else ""
    name = source.layer if source and not source.layer.startswith(f"{running}.") else running
    recording.unfollowed.setdefault(name, problem)
    for labels in carried:
        recording.fix(labels, problem)
    return [()]


def read_by(recording: Recording, axis: Axis, read: Sequence[Tensor], ndim: int, dim: int) -> None:
    """The entries of an axis read the channels at their places along `dim`.

    They may read channels of several axes, from one call to the next or from one place to another, which then are of
    one kind; but not two of the same axis.
    """
    recording.use(axis, CONSUMER)
    if not read:
        recording.fix(axis.labels, f"{called(axis.layer)} also reads what cannot be pruned")
    for labels in read:
        found = pairs(labels, along(axis.labels, ndim, dim))
        starts = torch.tensor([each.start for each in recording.axes])
        owners = torch.bucketize(found[:, 0].contiguous(), starts, right=True)
        if len(torch.stack([found[:, 1], owners]).unique(dim=1).T) < len(found):
            recording.fix(labels, f"{called(axis.layer)} reads channels that differ from place to place")
        else:
            recording.tie(
                labels, along(axis.labels, ndim, dim), f"{called(axis.layer)} also reads what cannot be pruned"
            )


def through(recording: Recording, made: Axis, read: Sequence[Tensor], channels: int, groups: int) -> None:
    """A grouped convolution pairs all channels that each of its groups reads and makes."""
    numbers = torch.full((channels,), NONE)
    if len(read) == 1 and len(dims_of(read[0])) <= 1:
        numbers = read[0].flatten().expand(channels)
    else:
        for labels in read:
            recording.fix(labels, f"the groups of {called(made.layer)} read channels that are not followed")
    if bool((numbers == NONE).any()):
        for labels in (numbers, made.labels):
            recording.fix(labels, f"the groups of {called(made.layer)} read channels that are not followed")
    recording.grouped.append((made.layer, numbers.view(groups, -1)))
    recording.pair(torch.cat([numbers.view(groups, -1), made.labels.view(groups, -1)], 1))


def add_bias(recording: Recording, made: Axis, bias: Tensor | None) -> None:
    """A layer's own bias belongs to its outputs; any other tensor is combined with them."""
    source = None if bias is None else recording.source(bias)
    if bias is None or (source and (source.layer, source.parameter) == (made.layer, "bias")):
        return
    recording.use_as_vector(bias, ADDED)
    combined(recording, [(made.labels.shape, (made.labels,)), (bias.shape, recording.carried(bias))])


def product(recording: Recording, operation: Operation) -> list[Labels]:
    """(…, n, k) times (…, k, m)."""
    left, right = operation.tensors
    return multiplied(recording, operation, left, right, recording.source(right), None)


def product_and_sum(recording: Recording, operation: Operation) -> list[Labels]:
    """(m,) or (…, n, m), plus (…, n, k) times (…, k, m)."""
    bias, left, right = operation.tensors
    return multiplied(recording, operation, left, right, recording.source(right), bias)


def linear(recording: Recording, operation: Operation) -> list[Labels]:
    """(…, k) times the transpose of (m, k), plus (m,)."""
    left, right = operation.args[:2]
    source = recording.source(right)
    source = source and source._replace(dims=source.dims[::-1])
    return multiplied(recording, operation, left, right.T, source, operation.argument(2))


def multiplied(
    recording: Recording,
    operation: Operation,
    left: Tensor,
    right: Tensor,
    of_right: Source | None,
    bias: Tensor | None,
) -> list[Labels]:
    """A product of matrices, of which one may be a weight: its rows read channels and its columns make others."""
    (result,) = operation.results
    of_left = recording.source(left)
    if of_right and (not of_left or recording.unusable(of_right) is None):
        return applied(recording, result, left, -1, of_right, -1, bias)
    if of_left:
        return applied(recording, result, right, -2, of_left, -2, bias)
    if recording.runs((nn.Linear,)):
        problem = recording.unusable(None) or ""
        return unfollowed(recording, problem, recording.carried_by_all(operation), None)
    carried = attending.product(recording, recording.carried(left), recording.carried(right))
    if bias is not None:
        carried = combined(recording, [(result.shape, carried), (bias.shape, recording.carried(bias))])
    return [carried]


def applied(
    recording: Recording, result: Tensor, x: Tensor, inner: int, weight: Source, made_dim: int, bias: Tensor | None
) -> list[Labels]:
    """A weight is applied to `x` along its dimension `inner`; it makes channels along `made_dim` of the result."""
    carried = recording.carried(x)
    made, reads = recording.axis(weight, made_dim), recording.axis(weight, -3 - made_dim)
    problem = recording.unusable(weight)
    if made is None or reads is None:
        problem = problem or f"{called(weight.layer)} has a weight of another shape than that of a linear layer"
    if problem or made is None or reads is None:
        return unfollowed(recording, problem or "", carried, weight)
    single = x.shape[inner] == 1
    read = [labels for labels in carried if inner in dims_of(labels) or (single and not dims_of(labels))]
    recording.use(made, PRODUCER)
    read_by(recording, reads, read, x.ndim, inner)
    add_bias(recording, made, bias)
    recording.layer_made(weight.layer, result, result.numel() // result.shape[made_dim])
    recording.linear.add(made)
    free = [labels for labels in carried if not any(labels is other for other in read)]
    return [(along(made.labels, result.ndim, made_dim), *free)]


def embedding(recording: Recording, operation: Operation) -> list[Labels]:
    """Rows of a table, whose columns are channels."""
    (result,) = operation.results
    source = recording.source(operation.args[0])
    problem = recording.unusable(source)
    made = source and recording.axis(source, 1)
    if problem or made is None or source is None:
        return unfollowed(recording, problem or "", (), source)
    recording.use(made, PRODUCER)
    recording.layer_made(source.layer, result, 0)
    return [(along(made.labels, result.ndim, -1),)]


def batch_norm(recording: Recording, operation: Operation) -> list[Labels]:
    """Normalises each channel, dimension 1, by itself."""
    x, training = operation.args[0], operation.argument(5)
    tensors = [tensor for tensor in operation.args[1:5] if isinstance(tensor, Tensor)]
    carried = recording.carried(x)
    sources = [source for tensor in tensors if (source := recording.source(tensor))]
    names = {source.layer for source in sources}
    name = next(iter(names), "")
    if len(names) == 1 and len(sources) == len(tensors) and recording.is_running(name, BATCH_NORMS):
        axis = recording.axis(sources[0], 0)
        assert axis is not None
        recording.use(axis, NORM)
        recording.calls[name] = recording.calls.get(name, 0) + 1
        made = recording.outputs.get(x)
        if made is not None and not training and len(tensors) == 4:
            made.norm = name if all(dims_of(labels) <= {1 - x.ndim} for labels in carried) else None
    else:
        for tensor in tensors:
            recording.use_as_vector(tensor, SCALE)
    return [with_vectors(recording, x, carried, tensors), *[()] * (len(operation.results) - 1)]


def with_vectors(recording: Recording, x: Tensor, carried: Labels, vectors: Sequence[Tensor]) -> Labels:
    """Combine the channels of `x`, dimension 1, with vectors of one entry a channel."""
    shape = [-1, *[1] * (x.ndim - 2)]
    operands = [
        (vector.view(shape).shape, tuple(labels.view(shape) for labels in recording.carried(vector)))
        for vector in vectors
    ]
    return combined(recording, [(x.shape, carried), *operands])


def layer_norm(recording: Recording, operation: Operation) -> list[Labels]:
    """Normalises all values along the last dimensions together."""
    x, shape = operation.args[:2]
    vectors = [tensor for tensor in operation.args[2:4] if isinstance(tensor, Tensor)]
    carried = recording.carried(x)
    over = {-dim for dim in range(1, len(shape) + 1)}
    for labels in carried:
        if dims_of(labels) & over:
            averaged(recording, labels, over)
    for vector, side in zip(vectors, (SCALE, ADDED), strict=False):
        recording.use_as_vector(vector, side)
    operands = [(x.shape, carried), *((vector.shape, recording.carried(vector)) for vector in vectors)]
    return [combined(recording, operands), *[()] * (len(operation.results) - 1)]


def group_norm(recording: Recording, operation: Operation) -> list[Labels]:
    """Normalises the channels, dimension 1, of each of its groups together: they are removed together."""
    x, groups = operation.args[0], operation.args[6]
    vectors = [tensor for tensor in operation.args[1:3] if isinstance(tensor, Tensor)]
    carried = recording.carried(x)
    for labels in carried:
        if groups == 1:
            recording.average(labels)
        elif dims_of(labels) == {1 - x.ndim}:
            recording.pair(labels.view(groups, -1))
        else:
            recording.fix(labels, f"{recording.place} mixes its channels ({operation.name})")
    for vector, side in zip(vectors, (SCALE, ADDED), strict=False):
        recording.use_as_vector(vector, side)
    return [with_vectors(recording, x, carried, vectors), *[()] * (len(operation.results) - 1)]
