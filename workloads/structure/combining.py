"""Rules for operations that combine values: one by one, or along some dimensions."""

from collections.abc import Collection, Sequence

import torch

from workloads.structure.groups import ADDED, SCALE
from workloads.structure.labels import compact, dims_of, in_rows
from workloads.structure.recording import Recording, cuts_along, mixes
from workloads.structure.records import ALL_CUTS, NOT_CHANNELS, NOT_HEADS, Labels, Operation

AVERAGES = {"mean", "var", "std", "var_mean", "amax", "amin"}
"""Reductions that stay the same where every value is there twice."""
ADDING = {"add", "sub", "rsub"}
Operand = tuple[Sequence[int], Labels]
"""The shape of a tensor and what it carries, to be combined with others that broadcast with it."""


def pointwise(recording: Recording, operation: Operation) -> list[Labels]:
    """Values are combined place by place."""
    side = ADDED if operation.name.rstrip("_") in ADDING else SCALE
    for tensor in operation.tensors:
        recording.use_as_vector(tensor, side)
    operands = [(tensor.shape, recording.carried(tensor)) for tensor in operation.tensors]
    return [combined(recording, operands)] * len(operation.results)


def combined(recording: Recording, operands: Sequence[Operand]) -> Labels:
    """Tie what meets at equal places; what changes along other dimensions is carried side by side.

    Channels stay where they meet a tensor of their size that carries nothing there.
    """
    everywhere = {dim for _, carried in operands for labels in carried for dim in dims_of(labels)}
    results: list[torch.Tensor] = []
    for number, (_, carried) in enumerate(operands):
        for labels in carried:
            dims = dims_of(labels)
            if everywhere and not dims:
                recording.fix(labels, f"{recording.place} spreads it over other channels")
                continue
            others = [*operands[:number], *operands[number + 1 :]]
            fixed = [met for other in others if (met := fixed_along(dims, other))]
            for met in fixed:
                cuts = cuts_along(dims, met) if met < dims else ALL_CUTS
                recording.fix(labels, f"{recording.place} combines it with a tensor of fixed size", cuts)
            if fixed and not recording.are_made(labels):
                continue  # such as the windows of a mask: nothing that is made can depend on them
            place = next((k for k, known in enumerate(results) if dims & dims_of(known) or not dims), None)
            if place is None:
                results.append(labels)
                continue
            recording.tie(results[place], labels, f"{recording.place} combines it with what cannot be pruned")
            if len(dims) > len(dims_of(results[place])):
                results[place] = labels
    ndim = max(len(shape) for shape, _ in operands)
    return tuple(labels.reshape([1] * (ndim - labels.ndim) + list(labels.shape)) for labels in results)


def fixed_along(dims: set[int], operand: Operand) -> set[int]:
    """Those of these dimensions along which a tensor extends, if it carries nothing along any of them."""
    shape, carried = operand
    if any(dims & dims_of(labels) for labels in carried):
        return set()
    return {dim for dim in dims if -dim <= len(shape) and shape[dim] > 1}


def gated(recording: Recording, operation: Operation) -> list[Labels]:
    """One half of the channels times a function of the other half."""
    source, dim = operation.tensors[0], operation.argument(1, -1)
    halves = []
    for labels in recording.carried(source):
        one, other = labels.expand(source.shape).chunk(2, dim)
        halves.append(one)
        recording.tie(one, other, f"{recording.place} combines it with what cannot be pruned")
    return [tuple(compact(one) for one in halves)]


def reduced(recording: Recording, operation: Operation) -> list[Labels]:
    """Many values become one. What stays the same along the dimensions that go is carried on."""
    source, name = operation.tensors[0], operation.name
    given = operation.argument(2 if name in ("linalg_vector_norm", "norm") else 1, operation.kwargs.get("dim"))
    given = [given] if isinstance(given, int) else given or range(source.ndim)
    dims = {dim - source.ndim if dim >= 0 else dim for dim in given}
    kept = []
    for labels in recording.carried(source):
        found: torch.Tensor | None = labels
        if name == "sum" and (branches := of_branches(labels, dims)) is not None:
            found = added_up(recording, labels, branches)
        elif dims_of(labels) & dims:
            found = averaged(recording, labels, dims) if name in AVERAGES else mixed(recording, operation, labels, dims)
        if found is not None:
            rest = [size for dim, size in enumerate(found.shape) if dim - found.ndim not in dims]
            kept.append(found if operation.results[0].ndim == source.ndim else found.reshape(rest))
    return [tuple(kept)] * len(operation.results)


def of_branches(labels: torch.Tensor, dims: Collection[int]) -> int | None:
    """The dimension of branches, where it is the one of these and channels lie along a later one alone.

    Selective kernels and split attention weigh branches of equal channels against each other and add them up.
    """
    along = dims_of(labels)
    branch = min(along, default=0)
    return branch if along & set(dims) == {branch} and len(along) == 2 else None


def added_up(recording: Recording, labels: torch.Tensor, branch: int) -> torch.Tensor:
    """Branches are added: channels at equal places are one, as where two activations are added."""
    first = labels.narrow(branch, 0, 1)
    recording.tie(first, labels, f"{recording.place} combines it with what cannot be pruned")
    return first


def averaged(recording: Recording, labels: torch.Tensor, dims: set[int]) -> torch.Tensor | None:
    """A norm or a mean is taken along some dimensions; what heads remain, where labels change along others too."""
    outer = dims_of(labels) - dims
    recording.average(labels, NOT_HEADS if outer else ALL_CUTS)
    return recording.heads_along(labels, outer) if outer else None


def mixed(recording: Recording, operation: Operation, labels: torch.Tensor, dims: set[int]) -> torch.Tensor | None:
    """Values along some dimensions depend on each other; what heads remain."""
    return recording.mix(labels, dims, f"{recording.place} mixes its channels ({operation.name})")


def along_dimension(recording: Recording, operation: Operation) -> list[Labels]:
    """Values along one dimension depend on each other, such as in a softmax; that of a row of logits is still known."""
    source, dim = operation.tensors[0], operation.argument(1, operation.kwargs.get("dim", -1))
    dims = {dim - source.ndim if dim >= 0 else dim}
    carried = recording.carried(source)
    if operation.name == "_softmax" and carried and all(of_branches(labels, dims) is not None for labels in carried):
        for labels in carried:  # which branch counts how much: all branches of a channel are there or none
            recording.pair(in_rows(labels, dims_of(labels) - dims))
            recording.fix(labels, f"{recording.place} mixes its channels ({operation.name})", NOT_CHANNELS)
        return [carried] * len(operation.results)
    free = unmixed(recording, operation, carried, dims)
    of_logits = source.ndim == 2 and operation.name in ("_softmax", "_log_softmax")
    return [carried if of_logits else free] * len(operation.results)


def pooled(recording: Recording, operation: Operation) -> list[Labels]:
    """Values along the last one, two or three dimensions depend on each other; their number may change."""
    count = next(int(letter) for letter in operation.name if letter.isdigit())
    if operation.results[0].ndim != operation.tensors[0].ndim:
        return mixes(recording, operation)
    positions = {-dim for dim in range(1, count + 1)}
    carried = recording.carried(operation.tensors[0])
    return [unmixed(recording, operation, carried, positions)] * len(operation.results)


def unmixed(recording: Recording, operation: Operation, carried: Labels, dims: set[int]) -> Labels:
    """What stays the same along dimensions whose values depend on each other; the rest has to stay as it is."""
    kept = [mixed(recording, operation, each, dims) if dims_of(each) & dims else each for each in carried]
    return tuple(labels for labels in kept if labels is not None)
