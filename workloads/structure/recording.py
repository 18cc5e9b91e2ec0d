"""Following channels through one forward pass of a network.

Every activation carries labels of its own shape that say which channel a value belongs to. What moves values moves
their labels; what combines two activations value by value ties their labels; a layer with weights reads some and makes
new ones. Whatever else touches an activation fixes its channels, so that a network is pruned only where it is
understood.
"""

from collections.abc import Iterable, Sequence
from dataclasses import dataclass, field
from typing import Any

import torch
from torch import Tensor, nn
from torch.utils._python_dispatch import TorchDispatchMode
from torch.utils._pytree import tree_leaves, tree_map
from torch.utils.weak import WeakTensorKeyDictionary

from workloads.structure.groups import CONSUMER, NORM, PRODUCER, THROUGH
from workloads.structure.labels import Partition, along, common, distinct, folded, is_vector, spread, varies
from workloads.structure.layers import BATCH_NORMS, WEIGHTED, get_layer

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


@dataclass
class Output:
    """The output of a layer's only call and how often it was read; a batch-norm that alone reads it can be merged."""

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
    grouped: list[tuple[str, Tensor, Tensor]] = field(default_factory=list)

    @classmethod
    def _should_skip_dynamo(cls) -> bool:
        # PyTorch would load its compiler, seconds of work, only to keep it from compiling __torch_dispatch__.
        return False

    def __post_init__(self) -> None:
        super().__init__()
        self.paused = False
        self.stack: list[str] = []
        self.called: dict[str, int] = {}
        owners: dict[Tensor, list[str]] = {}
        for name, module in self.model.named_modules():
            if is_known(module):
                for tensor in (*module.parameters(), *module.buffers()):
                    owners.setdefault(tensor, []).append(name)
        self.weights = owners
        self.misused = {name: "shares its weight" for names in owners.values() if len(names) > 1 for name in names}

    def run(self, example: Tensor) -> Any:
        """The network's output for the example, whose flow is then known."""
        handles = []
        try:
            for name, module in self.model.named_modules():
                if not isinstance(module, torch.jit.ScriptModule):
                    handles.append(module.register_forward_pre_hook(self._entering(name), with_kwargs=True))
                    handles.append(module.register_forward_hook(self._leaving(name), with_kwargs=True, prepend=True))
            with torch.no_grad(), self:
                output = self.model(example.clone())
        finally:
            for handle in handles:
                handle.remove()
        for name, read, _ in self.grouped:
            self.check_order(name, read)
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
            self.read(name, NORM, channels)
            self.labels[output] = spread(channels, output, dim)
            made = self.outputs.get(source)
            if (
                made
                and module.affine
                and module.track_running_stats
                and torch.equal(channels, self.made_by[made.layer])
            ):
                made.norm = name
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
            self.read(name, CONSUMER, channels)

    def read(self, name: str, side: str, channels: Tensor) -> None:
        """A layer reads these channels; where it is called again, those of both calls go together."""
        for call in self.calls:
            if (call.layer, call.side) == (name, side):
                self.tie(call.channels, channels)
                break
        self.calls.append(Call(name, side, channels))

    def through(self, name: str, read: Tensor, made: Tensor) -> None:
        """A grouped convolution ties all channels that each of its groups reads and makes."""
        self.grouped.append((name, read, made))
        if bool((read < 0).any()):
            self.fix([read, made], f"the groups of layer '{name}' read channels that are not followed")
        for row in torch.cat([read, made], 1).tolist():
            followed = [channel for channel in row if channel >= 0]
            for channel in followed[1:]:
                self.pairings.join(followed[0], channel)
                self.layers.join(self.owners[followed[0]], self.owners[channel])

    def check_order(self, name: str, read: Tensor) -> None:
        """Fix what a grouped convolution reads in another order than it was made in."""
        roots = torch.tensor(
            [[self.channels.find(label) if label >= 0 else -1 for label in row] for row in read.tolist()]
        )
        if bool((roots.diff(dim=1) <= 0).any()):
            self.fix([read], f"the groups of layer '{name}' read channels out of order")

    # What operations do

    def follow(self, func: Any, args: tuple, kwargs: dict, result: Any) -> None:
        """An operation outside the known layers made `result`."""
        tensors = [leaf for leaf in tree_leaves((args, kwargs)) if isinstance(leaf, Tensor)]
        for tensor in tensors:
            if tensor in self.outputs:
                self.outputs[tensor].readers += 1
            for layer in self.weights.get(tensor, []):
                self.misused[layer] = "has a weight that is used elsewhere"
        labelled = [self.labels[tensor] for tensor in tensors if tensor in self.labels]
        if not labelled:
            return
        name = func.overloadpacket.__name__
        made = [leaf for leaf in tree_leaves(result) if isinstance(leaf, Tensor)]
        if not made or "out" in kwargs:
            self.fix(labelled, f"{self.place()} takes values out of it ({name})")
            return
        if name in SAME or (name == "as_strided_" and is_vector(made[0], labelled[0])):
            labels: Sequence[Tensor | None] = [labelled[0]] * len(made)
        elif name in REORDERING | RESHAPING | CUTTING:
            labels = self.moved(func, name, args, kwargs, made)
        elif torch.Tag.pointwise in func.tags or name.rstrip("_") in VALUEWISE:
            labels = [self.combined(tensors, made[0].shape)] * len(made)
        elif name in REDUCING and len(made) == 1:
            labels = [self.reduced(labelled[0], args, made[0])]
        elif any(part in name for part in POOLING) and is_spatial(name, args, labelled[0]):
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
        return [folded(labels) for labels in moved]

    def combined(self, tensors: list[Tensor], shape: torch.Size) -> Tensor | None:
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
        return tied[0] if tied else None

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
    methods = ("forward", "_conv_forward")
    plain = any(
        isinstance(module, kind)
        and all(getattr(type(module), method, None) is getattr(kind, method, None) for method in methods)
        for kind in (*WEIGHTED, *BATCH_NORMS)
    )
    return plain and not set(methods) & vars(module).keys() and {"weight", "bias"} <= module._parameters.keys()


def is_spatial(name: str, args: tuple, labels: Tensor) -> bool:
    """Whether an operation on positions leaves the channels, dimension 1, alone."""
    positions = labels.ndim - 2
    if name == "constant_pad_nd":
        return len(args[1]) // 2 <= positions
    return f"{positions}d" in name and "unpool" not in name
