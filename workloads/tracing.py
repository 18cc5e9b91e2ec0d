"""Finding the groups of a network: which channels belong together, followed through one forward pass.

Every activation carries labels of its own shape that say which channel a value belongs to. What moves values moves
their labels; what combines two activations value by value ties their labels; a layer with weights reads some and makes
new ones. Whatever else touches an activation fixes its channels, so that a network is pruned only where it is
understood. Groups whose channels went through an operation with sizes of its own (a view, a split) are tried out.
"""

import copy
from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass, field
from typing import Any

import torch
from torch import Tensor, nn
from torch.utils._python_dispatch import TorchDispatchMode
from torch.utils._pytree import tree_leaves, tree_map
from torch.utils.weak import WeakTensorKeyDictionary

from workloads.groups import (
    BATCH_NORMS,
    CONSUMER,
    NORM,
    PRODUCER,
    THROUGH,
    WEIGHTED,
    Group,
    Maps,
    Member,
    Structure,
    apply,
    get_layer,
)

SAME = {"clone", "detach", "alias", "contiguous", "_to_copy", "lift_fresh", "lift_fresh_copy", "native_dropout"}
REORDERING = {"cat", "stack", "permute", "transpose", "t", "squeeze", "unsqueeze", "roll", "flip"}
RESHAPING = {"view", "_unsafe_view", "_reshape_alias", "reshape", "expand"}
CUTTING = {"slice", "select", "split", "split_with_sizes", "unbind", "chunk", "narrow", "pixel_shuffle", "repeat"}
VALUEWISE = {
    "_prelu_kernel",
    "add",
    "copy",
    "div",
    "gelu",
    "hardswish",
    "masked_fill",
    "mish",
    "mul",
    "sub",
    "threshold",
}
REDUCING = {"mean", "sum", "amax", "amin", "var", "std", "logsumexp", "prod"}
POOLING = ("pool", "upsample", "pad")


class Partition:
    """Disjoint sets of the numbers 0, 1, …."""

    def __init__(self) -> None:
        self.parents: list[int] = []

    def extend(self, size: int) -> None:
        """Make the numbers below `size` known, each in a set of its own."""
        self.parents.extend(range(len(self.parents), size))

    def find(self, number: int) -> int:
        """The least number of a set."""
        while self.parents[number] != number:
            self.parents[number] = self.parents[self.parents[number]]
            number = self.parents[number]
        return number

    def join(self, a: int, b: int) -> None:
        """Unite two sets."""
        a, b = self.find(a), self.find(b)
        self.parents[max(a, b)] = min(a, b)


@dataclass
class Output:
    """What a layer made in its only call: who read it, to see whether a batch-norm alone did."""

    layer: str
    readers: int = 0
    norm: str | None = None


@dataclass
class Call:
    """What a layer read or made: the label of each channel, -1 for channels that are not followed."""

    layer: str
    side: str
    channels: Tensor


@dataclass(eq=False)
class Flow(TorchDispatchMode):
    """Follows the labels of channels through a forward pass."""

    model: nn.Module
    labels: Any = field(default_factory=WeakTensorKeyDictionary)
    outputs: Any = field(default_factory=WeakTensorKeyDictionary)
    made: list[Output] = field(default_factory=list)
    calls: list[Call] = field(default_factory=list)
    made_by: dict[str, Tensor] = field(default_factory=dict)
    owners: list[int] = field(default_factory=list)
    channels: Partition = field(default_factory=Partition)
    pairings: Partition = field(default_factory=Partition)
    layers: Partition = field(default_factory=Partition)
    fixed: dict[int, str] = field(default_factory=dict)
    suspect: set[int] = field(default_factory=set)

    def __post_init__(self) -> None:
        super().__init__()
        self.paused = False
        self.stack: list[str] = []
        self.called: dict[str, int] = {}
        owners: dict[nn.Parameter, list[str]] = {}
        for name, module in self.model.named_modules():
            if is_known(module):
                for parameter in module.parameters():
                    owners.setdefault(parameter, []).append(name)
        self.parameters = owners
        self.misused = {name: "shares its weight" for names in owners.values() if len(names) > 1 for name in names}

    def run(self, example: Tensor) -> Any:
        """The network's output for the example, whose flow is then known."""
        handles = []
        for name, module in self.model.named_modules():
            handles.append(module.register_forward_pre_hook(self._entering(name), with_kwargs=True))
            handles.append(module.register_forward_hook(self._leaving(name), with_kwargs=True))
        try:
            with torch.no_grad(), self:
                output = self.model(example)
        finally:
            for handle in handles:
                handle.remove()
        if not isinstance(output, Tensor):
            raise ValueError(f"the network returns {type(output).__name__}, not a tensor of logits")
        if output in self.outputs:
            self.outputs[output].readers += 1
        if output in self.labels:
            self.fix([self.labels[output]], "")
        return output

    def _entering(self, name: str) -> Any:
        def hook(module: nn.Module, args: tuple, kwargs: dict) -> None:
            self.stack.append(name)
            if is_known(module):
                self.paused = True

        return hook

    def _leaving(self, name: str) -> Any:
        def hook(module: nn.Module, args: tuple, kwargs: dict, output: Any) -> None:
            if is_known(module):
                source = args[0] if args else kwargs["input"]
                self.called[name] = self.called.get(name, 0) + 1
                self.layer(name, module, source, output)
                self.paused = False
            self.stack.pop()

        return hook

    def __torch_dispatch__(self, func: Any, types: Any, args: tuple = (), kwargs: dict | None = None) -> Any:
        kwargs = kwargs or {}
        result = func(*args, **kwargs)
        if not self.paused:
            self.follow(func, args, kwargs, result)
        return result

    # What layers do

    def layer(self, name: str, module: Any, source: Tensor, output: Tensor) -> None:
        """A layer with weights, or a batch-norm, read `source` and made `output`."""
        if source in self.outputs:
            self.outputs[source].readers += 1
        dim = -1 if isinstance(module, nn.Linear) else 1
        channels = torch.full((source.shape[dim],), -1)
        if source in self.labels:
            found = along(self.labels[source], dim)
            if found is None:
                self.fix([self.labels[source]], f"layer '{name}' reads channels that differ from place to place")
            else:
                channels = found
        if isinstance(module, BATCH_NORMS):
            self.calls.append(Call(name, NORM, channels))
            self.labels[output] = spread(channels, output, dim)
            if source in self.outputs and module.affine and module.track_running_stats:
                self.outputs[source].norm = name
            return
        if name not in self.made_by:
            start = len(self.owners)
            self.owners += [len(self.layers.parents)] * output.shape[dim]
            self.layers.extend(len(self.layers.parents) + 1)
            self.channels.extend(len(self.owners))
            self.pairings.extend(len(self.owners))
            self.made_by[name] = torch.arange(start, len(self.owners))
            self.calls.append(
                Call(name, PRODUCER if getattr(module, "groups", 1) == 1 else THROUGH, self.made_by[name])
            )
        self.labels[output] = spread(self.made_by[name], output, dim)
        self.made.append(Output(name))
        self.outputs[output] = self.made[-1]
        if getattr(module, "groups", 1) > 1:
            self.through(name, channels.view(module.groups, -1), self.made_by[name].view(module.groups, -1))
        else:
            self.calls.append(Call(name, CONSUMER, channels))

    def through(self, name: str, read: Tensor, made: Tensor) -> None:
        """A grouped convolution ties all channels that each of its groups reads and makes."""
        roots = torch.tensor([[self.channels.find(c) if c >= 0 else -1 for c in row] for row in read.tolist()])
        if bool((roots < 0).any()) or bool((roots.diff(dim=1) <= 0).any()):
            self.fix([read, made], f"the groups of layer '{name}' read channels that are not followed, or out of order")
        for row in torch.cat([read, made], 1).tolist():
            followed = [channel for channel in row if channel >= 0]
            for channel in followed[1:]:
                self.pairings.join(followed[0], channel)
                self.layers.join(self.owners[followed[0]], self.owners[channel])

    # What operations do

    def follow(self, func: Any, args: tuple, kwargs: dict, result: Any) -> None:
        """An operation outside the known layers made `result`."""
        tensors = [leaf for leaf in tree_leaves((args, kwargs)) if isinstance(leaf, Tensor)]
        for tensor in tensors:
            if tensor in self.outputs:
                self.outputs[tensor].readers += 1
            for layer in self.parameters.get(tensor, []) if isinstance(tensor, nn.Parameter) else []:
                self.misused[layer] = "has a weight that is used elsewhere"
        labelled = [self.labels[tensor] for tensor in tensors if tensor in self.labels]
        if not labelled:
            return
        name = func.overloadpacket.__name__
        made = [leaf for leaf in tree_leaves(result) if isinstance(leaf, Tensor)]
        if name in SAME or (name == "as_strided_" and is_vector(made[0], labelled[0])):
            labels: Sequence[Tensor | None] = [labelled[0]] * len(made)
        elif name in REORDERING | RESHAPING | CUTTING:
            labels = self.moved(func, name, args, kwargs, made)
        elif torch.Tag.pointwise in func.tags or name.rstrip("_") in VALUEWISE:
            labels = [self.combined(tensors, made[0].shape)] * len(made)
        elif name in REDUCING and len(made) == 1:
            labels = [self.reduced(labelled[0], args, made[0])]
        elif any(part in name for part in POOLING):
            labels = [self.pooled(labelled[0], tensor) for tensor in made]
        else:
            labels = [None] * len(made)
        if any(label is None for label in labels):
            self.fix(labelled, f"{self.place()} mixes its channels ({name})")
        for tensor, label in zip(made, labels, strict=True):
            self.labels[tensor] = torch.full((), -1).expand(tensor.shape) if label is None else label

    def place(self) -> str:
        """The module that is running, for messages."""
        if not self.stack or not self.stack[-1]:
            return "the network's forward"
        return f"layer '{self.stack[-1]}' ({type(get_layer(self.model, self.stack[-1])).__name__})"

    def moved(self, func: Any, name: str, args: tuple, kwargs: dict, made: list[Tensor]) -> list[Tensor]:
        """Labels after an operation that moves values without changing them."""

        def shadow(leaf: Any) -> Any:
            if not isinstance(leaf, Tensor):
                return leaf
            return self.labels.get(leaf, torch.full((), -1).expand(leaf.shape))

        if name in RESHAPING - {"expand"}:
            moved = [shadow(args[0]).reshape(made[0].shape)]
        else:
            moved = [leaf for leaf in tree_leaves(func(*tree_map(shadow, args), **kwargs)) if isinstance(leaf, Tensor)]
        if name in RESHAPING | CUTTING:
            self.suspect.update(self.owners[label] for label in distinct(shadow(args[0])) if label >= 0)
        return [folded(labels) for labels in moved]

    def combined(self, tensors: list[Tensor], shape: torch.Size) -> Tensor:
        """Labels after an operation value by value: those of its operands are tied."""
        labelled = [self.labels[tensor] for tensor in tensors if tensor in self.labels]
        changing = {dim for labels in labelled for dim in range(-labels.ndim, 0) if varies(labels, dim)}
        tied: list[Tensor] = []
        for labels in labelled:
            if any(dim < -labels.ndim or labels.shape[dim] == 1 < shape[dim] for dim in changing):
                self.fix([labels], f"{self.place()} spreads it over other channels")
            else:
                tied.append(labels.expand(shape))
        for tensor in tensors:
            if tensor not in self.labels and any(-dim <= tensor.ndim and tensor.shape[dim] > 1 for dim in changing):
                self.fix(labelled, f"{self.place()} combines it with a tensor of fixed size")
        for other in tied[1:]:
            self.tie(tied[0], other)
        return tied[0]

    def tie(self, one: Tensor, other: Tensor) -> None:
        """Make the channels at equal places of two activations depend on each other."""
        pairs = torch.stack([part.flatten() for part in common(one, other)]).unique(dim=1).T.tolist()
        for a, b in pairs:
            if a >= 0 and b >= 0:
                self.channels.join(a, b)
                self.pairings.join(a, b)
                self.layers.join(self.owners[a], self.owners[b])
            elif a != b:
                self.fix([torch.tensor([max(a, b)])], f"{self.place()} combines it with what cannot be pruned")

    def reduced(self, labels: Tensor, args: tuple, made: Tensor) -> Tensor | None:
        """Labels after a reduction over dimensions along which channels stay the same."""
        dims = args[1] if len(args) > 1 and isinstance(args[1], (list, tuple)) else None
        if not dims:
            return None
        if any(varies(labels, dim) for dim in dims):
            return None
        for dim in dims:
            labels = labels.narrow(dim, 0, 1)
        return labels.reshape(made.shape)

    def pooled(self, labels: Tensor, made: Tensor) -> Tensor | None:
        """Labels after an operation on the positions of each channel."""
        channels = along(labels, 1) if labels.ndim > 2 else None
        return None if channels is None or made.shape[:2] != labels.shape[:2] else spread(channels, made, 1)

    def fix(self, labels: Iterable[Tensor], reason: str) -> None:
        """Keep these channels as they are; the first reason is told."""
        for tensor in labels:
            for label in distinct(tensor):
                if label >= 0:
                    owner = self.owners[label]
                    self.fixed[owner] = self.fixed.get(owner) or reason


def is_known(module: nn.Module) -> bool:
    """Whether a module computes what its class promises on weights of its own: a convolution, linear or batch-norm."""
    kinds = (*WEIGHTED, *BATCH_NORMS)
    plain = any(isinstance(module, kind) and type(module).forward is kind.forward for kind in kinds)
    return plain and "weight" in module._parameters and not getattr(module, "transposed", False)


def is_vector(made: Tensor, labels: Tensor) -> bool:
    """Whether an activation kept its shape and has one dimension to speak of, so that new strides move nothing."""
    return made.shape == labels.shape and sum(size > 1 for size in made.shape) <= 1


def folded(labels: Tensor) -> Tensor:
    """The same labels, stored once where they stay the same along a dimension."""
    for dim, size in enumerate(labels.shape):
        if size > 1 and labels.stride(dim) != 0:
            first = labels.narrow(dim, 0, 1)
            if bool((labels == first).all()):
                labels = first.expand(labels.shape)
    return labels


def essential(labels: Tensor) -> Tensor:
    """The labels without the dimensions along which they are stored once, which keep size 1."""
    for dim in range(labels.ndim):
        if labels.stride(dim) == 0 and labels.shape[dim] > 1:
            labels = labels.narrow(dim, 0, 1)
    return labels


def distinct(labels: Tensor) -> list[int]:
    """The labels that occur."""
    return essential(labels).unique().tolist()


def common(a: Tensor, b: Tensor) -> tuple[Tensor, Tensor]:
    """Two label tensors of one shape, reduced to where either varies."""
    for dim in range(a.ndim):
        if a.stride(dim) == 0 and b.stride(dim) == 0 and a.shape[dim] > 1:
            a, b = a.narrow(dim, 0, 1), b.narrow(dim, 0, 1)
    return a, b


def varies(labels: Tensor, dim: int) -> bool:
    """Whether labels change along a dimension."""
    parts = essential(labels)
    return parts.shape[dim] > 1 and not bool((parts == parts.narrow(dim, 0, 1)).all())


def along(labels: Tensor, dim: int) -> Tensor | None:
    """(channels,) labels along one dimension; None where they change along another."""
    parts = essential(labels.movedim(dim, 0)).flatten(1)
    if not bool((parts == parts[:, :1]).all()):
        return None
    return parts[:, 0].expand(labels.shape[dim]).clone()


def spread(channels: Tensor, tensor: Tensor, dim: int) -> Tensor:
    """Labels of the tensor's shape that differ along `dim` alone."""
    shape = [1] * tensor.ndim
    shape[dim] = len(channels)
    return channels.view(shape).expand(tensor.shape)


def trace(model: nn.Module, example: Tensor) -> Structure:
    """Find the groups of a network by running it once on `example` (1, C, H, W).

    Groups come in the paper's order: from the last layer backwards, the classifier left out. Groups that cannot be
    pruned are kept as they are and named in `Structure.kept`.

    Raises:
        ValueError: the network does not return a tensor, or none of its groups can be pruned.
    """
    flow = Flow(model.eval())
    flow.run(example)
    groups: list[Group] = []
    kept: list[tuple[str, str]] = []
    covered: set[int] = set()
    for name, _ in reversed(list(model.named_modules())):
        if name not in flow.made_by or (root := flow.layers.find(flow.owners[int(flow.made_by[name][0])])) in covered:
            continue
        covered.add(root)
        found = members(flow, root)
        reason = obstacle(flow, root, found)
        if not reason and isinstance(found, tuple) and any(member.side == CONSUMER for member in found):
            group = Group(len(groups), len(found[0].index), found)
            reason = misfit(model, group, example) if suspicious(flow, root) else None
            if reason is None:
                groups.append(group)
        if reason:
            kept.append((name, reason))
    if not groups:
        reasons = "; ".join(f"'{name}': {reason}" for name, reason in kept[:3])
        raise ValueError(f"none of its layers can be pruned{f' ({reasons})' if reasons else ''}")
    normalised = tuple(
        (output.layer, output.norm)
        for output in flow.made
        if output.norm and output.readers == 1 and flow.called[output.layer] == flow.called[output.norm] == 1
    )
    return Structure(tuple(groups), normalised, tuple(kept))


def members(flow: Flow, root: int) -> tuple[Member, ...] | str:
    """The sides of layers that hold the channels of a group; or the layer that holds them unevenly."""
    found: dict[tuple[str, str], Member] = {}
    rows: dict[int, int] = {}
    for call in flow.calls:
        places: dict[int, list[tuple[int, int]]] = {}
        for channel, label in enumerate(call.channels.tolist()):
            if label >= 0 and flow.layers.find(flow.owners[label]) == root:
                pairing, slot = flow.pairings.find(label), flow.channels.find(label)
                places.setdefault(pairing, []).append((slot, channel))
        if not places:
            continue
        for pairing in sorted(places):
            rows.setdefault(pairing, len(rows))
        if len(places) < len(rows) or len({len(slots) for slots in places.values()}) > 1:
            return f"layer '{call.layer}' does not use every channel of the group equally often"
        index = torch.tensor([[channel for _, channel in sorted(places[pairing])] for pairing in rows])
        known = found.setdefault((call.layer, call.side), Member(call.layer, call.side, index))
        if not torch.equal(known.index, index):
            return f"layer '{call.layer}' is called with different channels"
    if any(len(member.index) < len(rows) for member in found.values()):
        return "its layers do not share all of their channels"
    return tuple(found.values())


def owners_of(flow: Flow, root: int) -> Iterator[int]:
    """The layers whose channels are tied to those of `root`."""
    return (owner for owner in range(len(flow.layers.parents)) if flow.layers.find(owner) == root)


def obstacle(flow: Flow, root: int, found: tuple[Member, ...] | str) -> str | None:
    """Why a group cannot be pruned; empty for the network's outputs, None where nothing speaks against it."""
    for owner in owners_of(flow, root):
        if owner in flow.fixed:
            return flow.fixed[owner]
    if isinstance(found, str):
        return found
    return next((f"layer '{m.layer}' {flow.misused[m.layer]}" for m in found if m.layer in flow.misused), None)


def suspicious(flow: Flow, root: int) -> bool:
    """Whether channels of a group went through an operation that may have sizes of its own."""
    return any(owner in flow.suspect for owner in owners_of(flow, root))


@torch.no_grad()
def misfit(model: nn.Module, group: Group, example: Tensor) -> str | None:
    """Why removing pairings is not the same as ignoring them, tried on an odd number of them; None where it is."""
    generator = torch.Generator().manual_seed(0)
    m = max(1, group.size // 2 - 1 + group.size // 2 % 2)
    selection = torch.eye(group.size)[torch.randperm(group.size, generator=generator)[:m].sort().values]
    ignoring, removing = (copy.deepcopy(model).double() for _ in range(2))
    for member in group.on(CONSUMER):
        gone = member.index[selection.sum(0) == 0].flatten()
        get_layer(ignoring, member.layer).weight[:, gone] = 0
    apply(removing, group, Maps(selection, selection))
    images = torch.randn(example.shape, generator=generator).to(example.device).double()
    expected = ignoring(images)
    try:
        logits = removing(images)
    except Exception as error:
        return f"the network does not run without some of its channels ({str(error).partition(chr(10))[0]})"
    if logits.shape != expected.shape or not torch.allclose(logits, expected, rtol=1e-6, atol=1e-8):
        return "the network gives other outputs without its channels than when they are not read"
    return None
