"""Who adds what to what: the operations of a pass, numbered, and the values that meet a layer's output in a sum.

A layer whose output is added to a value that was there before it ran can make up for what that value has lost. To know
such layers in any network, one pass is recorded operation by operation. In later passes, which run the same operations
on other images, a value is known by the number of the operation that made it.
"""

import itertools
import weakref
from collections import Counter
from collections.abc import Collection, Iterator, Mapping
from contextlib import ExitStack
from dataclasses import dataclass, field
from typing import Any, NamedTuple

import torch
from torch import Tensor, nn
from torch.utils._python_dispatch import TorchDispatchMode
from torch.utils._pytree import tree_leaves, tree_map
from torch.utils.weak import WeakTensorKeyDictionary

from workloads.compression.calls import Call
from workloads.structure.layers import get_layer

UNCHANGED = {
    "alias",
    "clone",
    "contiguous",
    "detach",
    "native_dropout",
    "native_batch_norm",
    "cudnn_batch_norm",
    "miopen_batch_norm",
    "_to_copy",
    "view",
    "_unsafe_view",
}
"""Operations that may hand on a layer's output as it is, such as an emptied batch-norm; its values tell whether so."""


class Value(NamedTuple):
    """A tensor of a pass: which operation made it, or wrote into it last, and the how manieth of its results it is."""

    operation: int
    result: int = 0


IMAGES = Value(-1)


class Numbered(TorchDispatchMode):
    """Numbers the operations of a pass.

    Attributes:
        muted: whether operations that run now are none of the network's.
    """

    def __init__(self) -> None:
        super().__init__()  # type: ignore[no-untyped-call]
        self.count = 0
        self.muted = False

    @classmethod
    def _should_skip_dynamo(cls) -> bool:
        return False  # as for `Recording`: PyTorch would load its compiler otherwise

    def __torch_dispatch__(self, func: Any, types: Any, args: Any = (), kwargs: dict[str, Any] | None = None) -> Any:
        result = func(*args, **(kwargs or {}))
        if not self.muted:
            results = [leaf for leaf in tree_leaves(result) if isinstance(leaf, Tensor)]
            self.follow(func, args, kwargs or {}, results)
            self.count += 1
        return result

    def follow(self, function: Any, args: Any, kwargs: dict[str, Any], results: list[Tensor]) -> None:
        """Take note of an operation that has run, in place or not."""
        raise NotImplementedError


class Operation(NamedTuple):
    """An operation of a pass, with values in place of the tensors that others made."""

    function: Any
    args: tuple[Any, ...]
    kwargs: dict[str, Any]
    reads: frozenset[Value]
    results: int


class Sums(Numbered):
    """Finds the sums of a pass in which the output of a layer's call meets what was there before that call.

    Attributes:
        found: by call, the other summand.
        started: by call, in running order, how many operations ran before it.
        ended: by call, how many operations have run once it ends.
        read, made: by call, its input and output.
        operations: all of them.
        most_bytes: of tensors that were alive at once.
    """

    def __init__(self, images: Tensor) -> None:
        super().__init__()
        self.found: dict[Call, Value] = {}
        self.started: dict[Call, int] = {}
        self.ended: dict[Call, int] = {}
        self.read: dict[Call, Value] = {}
        self.made: dict[Call, Value] = {}
        self.operations: list[Operation] = []
        self.most_bytes = 0
        self.calls: Counter[str] = Counter()
        self.alive: list[weakref.ref[Tensor]] = [weakref.ref(images)]
        self.makers: Any = WeakTensorKeyDictionary()
        self.origins: Any = WeakTensorKeyDictionary()
        self.makers[images] = IMAGES

    def follow(self, function: Any, args: Any, kwargs: dict[str, Any], results: list[Tensor]) -> None:
        name = function.overloadpacket.__name__.rstrip("_")
        tensors = [leaf for leaf in tree_leaves((args, kwargs)) if isinstance(leaf, Tensor)]
        origin = None
        if name == "add" and len(tensors) == 2 and kwargs.get("alpha", 1) == 1:
            self.add(*tensors)
        elif name in UNCHANGED and tensors and is_equal(tensors[0], results[0]):
            origin = self.origins.get(tensors[0])
        values, options = tree_map(self.as_value, (tuple(args), kwargs))
        reads = frozenset(leaf for leaf in (self.makers.get(tensor) for tensor in tensors) if leaf is not None)
        self.operations.append(Operation(function, values, options, reads, len(results)))
        for number, result in enumerate(results):
            self.makers[result] = Value(self.count, number)
            self.origins.pop(result, None)
        if origin is not None:
            self.origins[results[0]] = origin
        self.alive += [weakref.ref(result) for result in results]
        self.alive = [each for each in self.alive if each() is not None]
        storages = {
            x.untyped_storage().data_ptr(): x.untyped_storage().nbytes()
            for each in self.alive
            if (x := each()) is not None
        }
        self.most_bytes = max(self.most_bytes, sum(storages.values()))

    def add(self, one: Tensor, other: Tensor) -> None:
        """Take note of a sum."""
        for mine, others in ((one, other), (other, one)):
            call, value = self.origins.get(mine), self.makers.get(others)
            if call and value and mine.shape == others.shape and value.operation < self.started[call]:
                self.found[call] = value

    def as_value(self, leaf: Any) -> Any:
        """A tensor that an operation made as its value; anything else as it is."""
        return Made(self.makers[leaf]) if isinstance(leaf, Tensor) and leaf in self.makers else leaf

    def begin(self, layer: str, given: Tensor) -> None:
        """A layer's call begins."""
        call = Call(layer, self.calls[layer])
        self.started[call] = self.count
        self.calls[layer] += 1
        if given in self.makers:
            self.read[call] = self.makers[given]

    def end(self, layer: str, output: Any) -> None:
        """A layer's call has ended."""
        if isinstance(output, Tensor):
            call = Call(layer, self.calls[layer] - 1)
            self.origins[output] = call
            self.ended[call] = self.count
            self.made[call] = self.makers[output]


def is_equal(one: Tensor, other: Tensor) -> bool:
    """Whether two tensors have the same shape and values, but for rounding."""
    if one.shape != other.shape or not one.is_floating_point():
        return False
    return one is other or torch.allclose(one, other.to(one), rtol=1e-3, atol=1e-3 * float(one.abs().mean()))


@dataclass(frozen=True)
class Course:
    """How a forward pass goes.

    Attributes:
        calls: of some layers, in running order.
        summands: by call, the value that its output is added to, where that is there before the call.
        bytes_per_image: of tensors that are alive at once, at most.
        chains: by layer, what leads to its input from the output of one other layer, if that is all that does.
    """

    calls: tuple[Call, ...]
    summands: Mapping[Call, Value]
    bytes_per_image: float
    chains: Mapping[str, "Chain"] = field(default_factory=dict)


@torch.no_grad()
def course_of(model: nn.Module, layers: Collection[str], images: Tensor) -> Course:
    """Run the network on images (B, C, H, W) for the course that its passes take."""
    images = images.clone()  # a few of many would count with the memory of all
    recording = Sums(images)

    def before(name: str) -> Any:
        return lambda layer, args, kwargs: recording.begin(name, args[0] if args else kwargs["input"])

    def after(name: str) -> Any:
        return lambda layer, args, output: recording.end(name, output)

    with ExitStack() as stack:
        for name in layers:
            layer = get_layer(model, name)
            stack.callback(layer.register_forward_pre_hook(before(name), with_kwargs=True).remove)
            stack.callback(layer.register_forward_hook(after(name), prepend=True).remove)
        stack.enter_context(recording)
        model.eval()(images)
    chains = dict(chains_of(recording))
    return Course(tuple(recording.started), recording.found, recording.most_bytes / len(images), chains)


class Made(NamedTuple):
    """In place of a tensor among the arguments of an operation: the value that it was."""

    value: Value


@dataclass(frozen=True)
class Chain:
    """The operations that lead from the output of one layer to the input of another, and nowhere else.

    Attributes:
        producer: name of the first layer.
        start, end: its output, and the other layer's input.
        operations: in their order, with their numbers; they hold for batches of the size that was recorded.
    """

    producer: str
    start: Value
    end: Value
    operations: tuple[tuple[int, Operation], ...]

    def run(self, output: Tensor) -> Tensor:
        """The second layer's input for an output of the first."""
        values = {self.start: output}

        def known(leaf: Any) -> Any:
            return values[leaf.value] if isinstance(leaf, Made) else leaf

        for number, operation in self.operations:
            args, kwargs = tree_map(known, (operation.args, operation.kwargs), is_leaf=lambda x: isinstance(x, Made))
            results = [x for x in tree_leaves(operation.function(*args, **kwargs)) if isinstance(x, Tensor)]
            values |= {Value(number, position): result for position, result in enumerate(results)}
        return values[self.end]


def chains_of(recording: Sums) -> Iterator[tuple[str, Chain]]:
    """By layer that runs once, the chain that leads to it from another one that does."""
    once = [call for call in recording.started if recording.calls[call.layer] == 1]
    for producer, consumer in itertools.pairwise(recording.started):
        if producer not in once or consumer not in once or consumer not in recording.read:
            continue
        if producer not in recording.made:
            continue
        start, end = recording.made[producer], recording.read[consumer]
        needed, inside = {end}, []
        for number in range(recording.started[consumer] - 1, recording.ended[producer] - 1, -1):
            operation = recording.operations[number]
            made = {Value(number, position) for position in range(operation.results)}
            if made & needed:
                inside.append((number, operation))
                needed = (needed - made) | operation.reads
        values = {start, *(Value(number, p) for number, operation in inside for p in range(operation.results))}
        within = {number for number, _ in inside}
        within |= set(range(recording.started[consumer], recording.ended.get(consumer, 0)))
        elsewhere = any(
            operation.reads & values for number, operation in enumerate(recording.operations) if number not in within
        )
        if needed == {start} and not elsewhere:
            yield consumer.layer, Chain(producer.layer, start, end, tuple(reversed(inside)))


class Keeping(Numbered):
    """Keeps values of a pass that takes a known course, until they are asked for."""

    def __init__(self, images: Tensor, summands: Mapping[Call, Value]):
        super().__init__()
        self.summands = summands
        self.readers = Counter(summands.values())
        self.kept: dict[Value, Tensor] = {IMAGES: images}
        self.made: dict[int, set[Value]] = {}
        for value in self.readers:
            self.made.setdefault(value.operation, set()).add(value)

    def follow(self, function: Any, args: Any, kwargs: dict[str, Any], results: list[Tensor]) -> None:
        for value in self.made.get(self.count, ()):
            self.kept[value] = results[value.result]

    def summand(self, call: Call) -> Tensor | None:
        """What the output of a call will be added to; None where that is not known. To be asked once a call."""
        value = self.summands.get(call)
        if value is None or value not in self.kept:
            return None
        self.readers[value] -= 1
        return self.kept[value] if self.readers[value] else self.kept.pop(value)
