"""Recording what happens to channels in one forward pass of a network.

Every dimension of every weight, bias and buffer is an `Axis`, whose entries have labels. PyTorch reports each operation
that the network runs; the table in `rules` says what the operation does to labels. A rule tells the recording

- that two labels are of one channel (`tie`), or must be removed together (`pair`),
- that an axis makes channels, reads them, scales them … (`use`),
- that channels have to stay as they are, and why (`fix`, or `mix` where whole rows of them could still go),
- that a product of two activations divides channels into heads (`attend`).

What is said holds for a `Cut`, a way to remove channels: one by one, as whole heads of attention, or the same
dimensions inside every head. A rotary embedding, say, keeps a head's dimensions as they are, but not the head.

Nothing else is known about a network: neither its classes nor its names.
"""

import contextlib
from collections.abc import Callable, Collection, Iterator, Sequence
from dataclasses import dataclass, field
from typing import Any

import torch
from torch import Tensor, nn
from torch.utils._python_dispatch import TorchDispatchMode
from torch.utils._pytree import tree_leaves
from torch.utils.weak import WeakTensorKeyDictionary

from workloads.structure.groups import Axis, Side
from workloads.structure.labels import NONE, along, dims_of, in_rows, pairs, side_by_side
from workloads.structure.layers import called, get_layer
from workloads.structure.records import (
    ALL_CUTS,
    NOT_DIMENSIONS,
    NOT_HEADS,
    Cut,
    Fixed,
    Labels,
    Made,
    Operation,
    Part,
    Product,
    Reshaped,
    Source,
    Tie,
    Use,
)


def mixes(recording: "Recording", operation: Operation) -> list[Labels]:
    """The rule for what is not understood: channels stay as they are, and the results carry nothing."""
    for labels in recording.carried_by_all(operation):
        recording.fix(labels, f"{recording.place} mixes its channels ({operation.name})")
    return [()] * len(operation.results)


@dataclass(eq=False)
class Recording(TorchDispatchMode):
    """Follows labels through a forward pass, and keeps what it learns about them.

    Attributes:
        model: the network.
        follow: gives the results of an operation their labels (see `rules`).
        axes: all axes that took part, in the order of their labels.
        uses: what they do, in the order in which it happened.
        ties: labels of one and the same channel.
        pairings: (k, 2) labels of channels that can only be removed together.
        fixed: labels that stay, with the reason.
        averaged: labels of channels over which a norm or a mean is taken.
        heads: (rows, k) labels of heads, followed by those of what each of them is made of.
        products: of two activations, head by head.
        reshaped: tensors that got another shape, which a module may have recorded.
        parts: of channels, of a size that a module may have recorded.
        silent: layers whose weight another module uses, so that they do not run by themselves.
        made: the outputs of layers, in the order in which they were made.
        calls: how often each layer and batch-norm ran.
        work: multiplications that each weight of a layer takes part in.
        unfollowed: layers whose weights are not followed, with the reason.
        opaque: layers whose module returns something else than what its weights made, such as an activation of it.
        linear: axes that make channels of a product of matrices.
        divisions: (parts, k) labels of channels that the network divides into parts, such as to shuffle them.
    """

    model: nn.Module
    follow: Callable[["Recording", Operation], None]
    axes: list[Axis] = field(default_factory=list)
    uses: dict[Use, None] = field(default_factory=dict)
    ties: list[Tie] = field(default_factory=list)
    pairings: list[Tensor] = field(default_factory=list)
    fixed: list[Fixed] = field(default_factory=list)
    averaged: list[tuple[Tensor, frozenset[Cut]]] = field(default_factory=list)
    heads: list[Tensor] = field(default_factory=list)
    products: list[Product] = field(default_factory=list)
    reshaped: list[Reshaped] = field(default_factory=list)
    parts: list[Part] = field(default_factory=list)
    silent: set[str] = field(default_factory=set)
    grouped: list[tuple[str, Tensor]] = field(default_factory=list)
    made: list[Made] = field(default_factory=list)
    calls: dict[str, int] = field(default_factory=dict)
    work: dict[str, int] = field(default_factory=dict)
    unfollowed: dict[str, str] = field(default_factory=dict)
    opaque: set[str] = field(default_factory=set)
    linear: set[Axis] = field(default_factory=set)
    divisions: list[Tensor] = field(default_factory=list)

    @classmethod
    def _should_skip_dynamo(cls) -> bool:
        # PyTorch would load its compiler, seconds of work, only to keep it from compiling __torch_dispatch__.
        return False

    def __post_init__(self) -> None:
        super().__init__()  # type: ignore[no-untyped-call]
        self.size = 0
        self.stack: list[str] = []
        self.used: set[Axis] = set()
        self.makers: set[Axis] = set()
        self.of_heads: list[Axis] = []
        self.numbers: dict[tuple[str, str, int], Axis] = {}
        self.labels: Any = WeakTensorKeyDictionary()
        self.sources: Any = WeakTensorKeyDictionary()
        self.outputs: Any = WeakTensorKeyDictionary()
        self.origins: Any = WeakTensorKeyDictionary()
        self.owners: dict[Tensor, list[tuple[str, str]]] = {}
        self.scripted: set[str] = set()
        for name, module in self.model.named_modules():
            for parameter, tensor in (*module._parameters.items(), *module._buffers.items()):
                if tensor is not None:
                    self.owners.setdefault(tensor, []).append((name, parameter))
            if isinstance(module, torch.jit.ScriptModule):
                self.scripted.add(name)
        self.shared = {layer for names in self.owners.values() if len(names) > 1 for layer, _ in names}

    # Running

    def run(self, example: Tensor) -> Any:
        """Run the network on the example while recording; return its output."""
        with contextlib.ExitStack() as stack:
            for name, module in self.model.named_modules():
                if name not in self.scripted:
                    entering, leaving = self._hooks(name)
                    stack.callback(module.register_forward_pre_hook(entering).remove)
                    stack.callback(module.register_forward_hook(leaving, prepend=True).remove)
            stack.enter_context(torch.no_grad())
            stack.enter_context(self)
            return self.model(example.clone())

    def _hooks(self, name: str) -> tuple[Any, Any]:
        def entering(module: nn.Module, inputs: Any) -> None:
            self.stack.append(name)

        def leaving(module: nn.Module, inputs: Any, output: Any) -> None:
            self.stack.pop()
            if name in self.calls and not (isinstance(output, Tensor) and self.origins.get(output) == name):
                self.opaque.add(name)

        return entering, leaving

    def __torch_dispatch__(self, func: Any, types: Any, args: Any = (), kwargs: dict[str, Any] | None = None) -> Any:
        result = func(*args, **(kwargs or {}))
        made = [leaf for leaf in tree_leaves(result) if isinstance(leaf, Tensor)]
        operation = Operation(func, func.overloadpacket.__name__, args, kwargs or {}, made)
        for tensor in operation.tensors:
            if tensor in self.outputs:
                self.outputs[tensor].readers += 1
        self.follow(self, operation)
        return result

    @property
    def place(self) -> str:
        """The module that is running, for messages."""
        if not self.stack or not self.stack[-1]:
            return "the network's forward"
        return f"layer '{self.stack[-1]}' ({type(get_layer(self.model, self.stack[-1])).__name__})"

    # What is known of tensors

    def source(self, tensor: Tensor) -> Source | None:
        """The parameter or buffer that a tensor is, or is a view of.

        Of one that two modules share, that of the module which is running.
        """
        if tensor in self.sources:
            found: Source = self.sources[tensor]
            return found
        names = self.owners.get(tensor)
        if names is None:
            return None
        running = self.stack[-1] if self.stack else ""
        layer, parameter = next((name for name in names if name[0] == running), names[0])
        return Source(layer, parameter, tuple(range(tensor.ndim)))

    def axis(self, source: Source, dim: int) -> Axis | None:
        """The axis that a dimension of a view of a parameter is."""
        number = source.dims[dim]
        if number is None:
            return None
        key = source.layer, source.parameter, number
        if key not in self.numbers:
            parameter = getattr(get_layer(self.model, source.layer), source.parameter)
            self.numbers[key] = Axis(*key, self.size, parameter.shape[number])
            self.axes.append(self.numbers[key])
            self.size += parameter.shape[number]
        return self.numbers[key]

    def carried(self, tensor: Tensor) -> Labels:
        """The labels of a tensor: of an activation those that it was given, of a parameter those of its axes."""
        if tensor in self.labels:
            found: Labels = self.labels[tensor]
            return found
        source = self.source(tensor)
        if source is None or not tensor.is_floating_point():
            return ()  # numbers of positions have no channels
        axes = [(dim, self.axis(source, dim)) for dim, size in enumerate(tensor.shape) if size > 1 or tensor.ndim == 1]
        return tuple(along(axis.labels, tensor.ndim, dim) for dim, axis in axes if axis is not None)

    def carried_by_all(self, operation: Operation) -> Labels:
        """What all tensors of an operation carry."""
        return tuple(labels for tensor in operation.tensors for labels in self.carried(tensor))

    def is_running(self, name: str, kinds: tuple[type, ...]) -> bool:
        """Whether the module that runs is this one, and of these kinds."""
        return bool(self.stack) and self.stack[-1] == name and self.runs(kinds)

    def runs(self, kinds: tuple[type, ...]) -> bool:
        """Whether the module that runs is of these kinds."""
        return bool(self.stack) and isinstance(get_layer(self.model, self.stack[-1]), kinds)

    # What rules tell

    def are_made(self, labels: Tensor) -> bool:
        """Whether some of the labels are of what a layer makes."""
        return any(axis in self.makers for axis in self.axes_of(labels))

    def tie(self, one: Tensor, other: Tensor, reason: str, cuts: Collection[Cut] = ALL_CUTS) -> None:
        """Labels at equal places of two tensors are of one channel; what meets no channel stays, for the reason.

        Where one of them changes along fewer dimensions, as a factor for each head does, it has an entry for a head or
        for a dimension, but not for both.
        """
        found = pairs(one, other)
        unmatched = found[(found.min(1).values == NONE) & (found.max(1).values != NONE)]
        if len(unmatched):
            self.fix(unmatched.max(1).values, reason, cuts)
        found = found[found.min(1).values != NONE]
        of_heads = self.are_of_heads(found)
        if bool(of_heads.any()):
            mixed = found[of_heads.any(1)]
            self.ties.append(Tie(mixed, frozenset({Cut.HEADS})))
            self.fix(mixed[~self.are_of_heads(mixed)], reason, NOT_HEADS)
            found = found[~of_heads.any(1)]
        self.ties.append(Tie(found, cuts_along(dims_of(one), dims_of(other)) & frozenset(cuts)))

    def are_of_heads(self, labels: Tensor) -> Tensor:
        """Which labels are of heads, and not of an axis: bool of the same shape."""
        found = torch.zeros(labels.shape, dtype=torch.bool)
        if labels.numel() and self.of_heads:
            low, high = int(labels.min()), int(labels.max())
            for axis in self.of_heads:
                if axis.start <= high and low < axis.start + axis.size:
                    found |= (labels >= axis.start) & (labels < axis.start + axis.size)
        return found

    def pair(self, labels: Tensor) -> None:
        """The channels of each row of labels (rows, k) are removed together."""
        self.pairings.append(side_by_side(labels))

    def use(self, axis: Axis, side: Side) -> None:
        """An axis does something with channels."""
        self.uses.setdefault(Use(axis, side))
        self.used.add(axis)
        if side in (Side.PRODUCER, Side.THROUGH):
            self.makers.add(axis)

    def use_as_vector(self, tensor: Tensor, side: Side) -> None:
        """A parameter, if the tensor comes from one, meets activations value by value; what it does first counts.

        The bias of a layer with weights belongs to its outputs, also where PyTorch adds it by itself.
        """
        for labels in self.carried(tensor):
            for axis in self.axes_of(labels):
                own_bias = axis.parameter == "bias" and axis.layer in self.calls
                if axis not in self.used and not own_bias:
                    self.use(axis, side)

    def axes_of(self, labels: Tensor) -> list[Axis]:
        """The axes whose labels occur."""
        starts = torch.tensor([axis.start for axis in self.axes])
        numbers = torch.bucketize(labels[labels != NONE], starts, right=True).unique() - 1
        return [self.axes[number] for number in numbers.tolist()]

    def fix(self, labels: Tensor, reason: str, cuts: Collection[Cut] = ALL_CUTS) -> None:
        """Channels stay as they are."""
        labels = labels.flatten().unique()
        self.fixed.append(Fixed(labels[labels != NONE], reason, frozenset(cuts)))

    def average(self, labels: Tensor, cuts: Collection[Cut] = ALL_CUTS) -> None:
        """A norm or a mean is taken over these channels."""
        self.averaged.append((labels.flatten().unique(), frozenset(cuts)))

    def mix(self, labels: Tensor, dims: Collection[int], reason: str) -> Tensor | None:
        """Values along some dimensions depend on each other.

        Where the labels change along others too, all channels at one place of these can still be removed together:
        labels of such heads are returned, None where there are none.
        """
        outer = dims_of(labels) - set(dims)
        self.fix(labels, reason, NOT_HEADS if outer else ALL_CUTS)
        return self.heads_along(labels, outer) if outer else None

    def heads_along(self, labels: Tensor, dims: Collection[int]) -> Tensor | None:
        """Labels for what is at one place of some dimensions, of size 1 along all others; None if not all is followed.

        Rows that start with the same channel are one head, such as those of different windows.
        """
        rows = in_rows(labels, dims)
        if bool((rows == NONE).any()):
            self.fix(labels, f"{self.place} divides it into heads that are not all followed")
            return None
        shape = [size if dim - labels.ndim in dims else 1 for dim, size in enumerate(labels.shape)]
        if rows.shape[1] == 1 and bool(self.are_of_heads(rows).all()):
            return labels.reshape(shape)
        first, numbers = rows[:, 0].unique(return_inverse=True)
        axis = Axis("", "", 0, self.size, len(first))
        self.axes.append(axis)
        self.of_heads.append(axis)
        self.used.add(axis)
        self.size += axis.size
        heads = axis.labels[numbers]
        self.heads.append(torch.cat([heads[:, None], rows], 1))
        return heads.view(shape)

    def reshape(self, before: Tensor, after: Tensor) -> None:
        """The running module brought labels to another shape, the size of which it may have recorded."""
        sizes = {size for labels in (before, after) for size in labels.shape if size > 1}
        known = before.flatten().unique()
        self.reshaped.append(Reshaped(self.stack[-1] if self.stack else "", known[known != NONE], frozenset(sizes)))

    def attend(self, parts: Sequence[Tensor], heads: Tensor, summed: bool) -> None:
        """Two activations are multiplied head by head.

        Args:
            parts: labels of each, along the dimensions of the heads and others.
            heads: labels of the heads, along the same dimensions.
            summed: whether the product sums over the dimensions inside the heads.
        """
        dims = dims_of(heads)
        rows = tuple(in_rows(labels, dims) for labels in parts)
        self.products.append(Product(self.stack[-1] if self.stack else "", heads.flatten(), rows, summed))

    def layer_made(self, layer: str, output: Tensor, positions: int) -> None:
        """A layer with weights made an output."""
        self.calls[layer] = self.calls.get(layer, 0) + 1
        self.work[layer] = self.work.get(layer, 0) + positions
        self.made.append(Made(layer))
        self.outputs[output] = self.made[-1]
        self.origins[output] = layer

    def unusable(self, source: Source | None) -> str | None:
        """Why a weight cannot get another size; None where it can."""
        running = self.stack[-1] if self.stack else ""
        if self.runs((nn.MultiheadAttention,)):
            return f"{self.place} has heads whose width follows from that of what they read"
        if source is None:
            return f"{self.place} computes its weight from other tensors"
        name = called(source.layer)
        if source.layer in self.scripted:
            return f"{name} is compiled by TorchScript"
        if source.layer in self.shared:
            return f"{name} shares its weight"
        if source.parameter != "weight":
            return f"{name} keeps its weight under another name ({source.parameter})"
        if source.layer != running and not any(running == scripted for scripted in self.scripted):
            if not isinstance(get_layer(self.model, source.layer), nn.Linear):
                return f"{name} does not run by itself: {self.place} uses its weight"
            self.silent.add(source.layer)
        return None

    def batch_norms(self) -> Iterator[tuple[str, str]]:
        """Layers with the batch-norms that alone read their outputs, so that they can be merged into them."""
        for output in self.made:
            if output.norm is None or output.readers != 1 or output.layer in self.silent:
                continue
            if self.calls[output.layer] == self.calls[output.norm] == 1:
                yield output.layer, output.norm


def cuts_along(dims: set[int], others: set[int]) -> frozenset[Cut]:
    """For which ways to remove channels labels along these and along those dimensions are of one channel.

    Heads come before their dimensions.
    """
    common, beyond = dims & others, dims ^ others
    if not common or not beyond or (dims - others and others - dims):
        return ALL_CUTS
    if max(common) < min(beyond):
        return NOT_DIMENSIONS
    return NOT_HEADS if min(common) > max(beyond) else ALL_CUTS
