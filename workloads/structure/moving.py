"""Rules for operations that move values without changing them: labels move alike."""

from collections.abc import Iterator

import torch
from torch import Tensor
from torch.utils._pytree import tree_leaves, tree_map

from workloads.structure.groups import ADDED
from workloads.structure.labels import NONE, compact, dims_of
from workloads.structure.recording import Recording, mixes
from workloads.structure.records import Labels, Operation, Part

SHUFFLING = {"channel_shuffle", "native_channel_shuffle"}
DIVIDING = {"slice", "split", "split_with_sizes"}
RESHAPING = {"view", "_unsafe_view", "_reshape_alias", "reshape"}


def same(recording: Recording, operation: Operation) -> list[Labels]:
    """Results are the first tensor, or copies of it."""
    source = operation.tensors[0]
    for result in operation.results:
        if (known := recording.source(source)) is not None and result.shape == source.shape:
            recording.sources[result] = known
        if source in recording.origins:
            recording.origins[result] = recording.origins[source]
    return [recording.carried(source)] * len(operation.results)


def same_vector(recording: Recording, operation: Operation) -> list[Labels]:
    """New strides for a tensor with one dimension to speak of, which move nothing."""
    source, result = operation.tensors[0], operation.results[0]
    if result.shape == source.shape and sum(size > 1 for size in result.shape) <= 1:
        return same(recording, operation)
    return mixes(recording, operation)


def viewed(recording: Recording, operation: Operation) -> list[Labels]:
    """The first tensor in another shape or order. A view of a parameter is known as one."""
    source, (result,) = operation.tensors[0], operation.results
    if source in recording.origins:
        recording.origins[result] = recording.origins[source]
    known = recording.source(source)
    dims = known and view_dims(operation, known.dims)
    if known is None or dims is None:
        return moved(recording, operation)
    recording.sources[result] = known._replace(dims=dims)
    return [()]


def view_dims(operation: Operation, dims: tuple[int | None, ...]) -> tuple[int | None, ...] | None:
    """Which dimension of a parameter each one of a view of it is; None where they are not in one to one relation."""
    source, shape, name = operation.tensors[0], operation.results[0].shape, operation.name
    if name == "permute":
        return tuple(dims[number] for number in operation.args[1])
    if name in ("t", "transpose"):
        one, other = (0, source.ndim - 1) if name == "t" else operation.args[1:3]
        order = list(dims)
        order[one], order[other] = order[other], order[one]
        return tuple(order)
    if name == "expand":
        added = len(shape) - source.ndim
        sizes, numbers = (1,) * added + tuple(source.shape), (None,) * added + dims
        return tuple(dim if size == new else None for size, new, dim in zip(sizes, shape, numbers, strict=True))
    large = [(size, dim) for size, dim in zip(source.shape, dims, strict=True) if size > 1]
    if [size for size in shape if size > 1] != [size for size, _ in large]:
        return None
    rest = iter(large)
    return tuple(next(rest)[1] if size > 1 else None for size in shape)


def moved(recording: Recording, operation: Operation) -> list[Labels]:
    """The operation is run on the labels of its first tensor in place of that."""
    source = operation.tensors[0]
    if len(operation.tensors) > 1 and any(recording.carried(tensor) for tensor in operation.tensors[1:]):
        return mixes(recording, operation)
    found = []
    for labels in recording.carried(source):
        made = run_on(operation, labels.expand(source.shape))
        found.append(made)
        recording.parts += parts_of(recording, operation, labels)
        if operation.name in RESHAPING:
            recording.reshape(labels, compact(made[0]))
        if operation.name in SHUFFLING and len(dims_of(labels)) == 1:
            recording.divisions.append(labels.view(operation.args[1], -1))
        elif operation.name in RESHAPING and len(dims_of(labels)) == 1 and len(dims_of(part := compact(made[0]))) == 2:
            recording.divisions.append(part.reshape([size for size in part.shape if size > 1]))
    return [tuple(compact(labels[number]) for labels in found) for number in range(len(operation.results))]


def parts_of(recording: Recording, operation: Operation, labels: Tensor) -> Iterator[Part]:
    """The parts into which an operation divides channels: those up to a place, of given sizes, or equal ones."""
    if operation.name not in DIVIDING or len(dims_of(labels)) != 1:
        return
    dim = operation.argument(1 if operation.name == "slice" else 2, operation.kwargs.get("dim", 0))
    if {dim if dim < 0 else dim - labels.ndim} != dims_of(labels):
        return
    module, flat = recording.stack[-1] if recording.stack else "", labels.flatten()
    if operation.name == "slice":
        places = [place for place in operation.args[2:4] if isinstance(place, int) and 0 < place < len(flat)]
        yield from (Part(module, flat[:place]) for place in places)
    else:
        found = flat.split(operation.args[1])
        yield from (Part(None if operation.name == "split" else module, part) for part in found)


def run_on(operation: Operation, labels: Tensor) -> list[Tensor]:
    """What the operation makes of labels in place of its first tensor."""
    source = operation.tensors[0]
    if operation.name in RESHAPING:
        return [labels.reshape(operation.results[0].shape)]

    def on_cpu(leaf: object) -> object:
        return labels if leaf is source else leaf.cpu() if isinstance(leaf, Tensor) else leaf

    made = operation.function(*tree_map(on_cpu, tuple(operation.args)), **operation.kwargs)
    return [leaf for leaf in tree_leaves(made) if isinstance(leaf, Tensor)]


def joined(recording: Recording, operation: Operation) -> list[Labels]:
    """Tensors side by side. Along their channels they stay apart; along another dimension their channels are tied."""
    tensors, (result,) = list(operation.args[0]), operation.results
    dim = operation.argument(1, operation.kwargs.get("dim", 0))
    dim = dim - result.ndim if dim >= 0 else dim
    sizes = [1 if operation.name == "stack" else tensor.shape[dim] for tensor in tensors]
    carried = []
    for tensor in tensors:
        recording.use_as_vector(tensor, ADDED)  # such as a class token
        found = recording.carried(tensor)
        if operation.name == "stack":
            found = tuple(labels.unsqueeze(dim + labels.ndim + 1) for labels in found)
        carried.append({frozenset(dims_of(labels) - {dim}): labels for labels in found})
    results = []
    for key in dict.fromkeys(key for found in carried for key in found):
        parts = [found.get(key, torch.full([1] * result.ndim, NONE)) for found in carried]
        if key and not any(dim in dims_of(part) for part in parts):
            first = next(part for part in parts if int(part.max()) != NONE)
            for part in parts:
                if part is not first:
                    recording.tie(first, part, f"{recording.place} puts it beside what cannot be pruned")
            results.append(first)
            continue
        shape = [max(part.shape[d] for part in parts) for d in range(result.ndim)]
        wide = []
        for part, size in zip(parts, sizes, strict=True):
            shape[dim] = size
            wide.append(part.expand(shape))
        results.append(compact(torch.cat(wide, dim)))
    return [tuple(results)]


def padded(recording: Recording, operation: Operation) -> list[Labels]:
    """Constants around the values, which belong to no channel."""
    source, amounts = operation.tensors[0], operation.args[1]
    results = []
    for labels in recording.carried(source):
        if any(any(amounts[-2 * dim - 2 : -2 * dim]) for dim in dims_of(labels)):
            labels = compact(torch.constant_pad_nd(labels.expand(source.shape), amounts, NONE))
        results.append(labels)
    return [tuple(results)]


def filled(recording: Recording, operation: Operation) -> list[Labels]:
    """Tensors of the shape or format of another, with other values."""
    return [()] * len(operation.results)
