"""Trying groups out on numbers: removing neurons must be the same as ignoring them, and their order must not matter."""

import contextlib
from collections.abc import Iterator, Sequence
from dataclasses import replace
from typing import Any, NamedTuple

import torch
from torch import Tensor, nn
from torch.utils._python_dispatch import TorchDispatchMode
from torch.utils._pytree import tree_leaves

from workloads.config import Kind
from workloads.messages import message
from workloads.structure.batch_norm import merge_batch_norm
from workloads.structure.copying import changing, copied
from workloads.structure.groups import CONSUMER, Group, Maps, Member, Structure, apply
from workloads.structure.layers import get_layer, resize
from workloads.structure.logits import logits_of

MOST_NOISE = 1000
"""By how many times what rounding changes the logits may differ."""
LEAST_TOLERANCE = 1000
"""The same for networks in which rounding changes nothing, in units of the number format's precision."""
LARGE = 192
"""Pixels from which on groups are tried out on images of about half the height and width, in multiples of"""
STRIDE = 32


@contextlib.contextmanager
def running_eagerly() -> Iterator[None]:
    """Run networks operation by operation, with a random state of their own."""
    fast = torch.backends.mha.get_fastpath_enabled()
    torch.backends.mha.set_fastpath_enabled(False)
    try:
        with torch.random.fork_rng(devices=[]), torch.compiler.set_stance("force_eager"):
            yield
    finally:
        torch.backends.mha.set_fastpath_enabled(fast)


class Candidate(NamedTuple):
    """A group to be tried out.

    Attributes:
        name: of its last layer.
        group: whose number is not known yet.
        others: other forms of it, to be tried one after the other if the group does not fit.
        like: what groups have in common of which all have the same form: of one kind and in modules of one class, and
            whether they are tried instead of two others; None for a group of its own.
        attention: the number of the attention that it is of.
        kept: why the network would keep it, if it does not fit; None where the trial tells.
    """

    name: str
    group: Group
    others: tuple[Group, ...] = ()
    like: tuple[tuple[str, ...], Kind, bool] | None = None
    attention: int | None = None
    kept: str | None = None

    @property
    def is_instead(self) -> bool:
        """Whether it is to be tried only where those of its attention's dimensions alone do not fit."""
        return self.like is not None and self.like[2]


def fitting(trial: "Trial", found: Sequence[Candidate]) -> tuple[list[Group], list[tuple[Candidate, str]]]:
    """The groups that the network can do without, alone and together; and the others with the reason.

    All are tried at once. Where that fails, each half of them is, and so on, together with those that have passed.
    """
    good: list[Group] = []
    chosen, refused = in_their_forms(trial, found)

    def sort(part: Sequence[Candidate]) -> None:
        numbered = [replace(each.group, number=len(good) + number) for number, each in enumerate(part)]
        reason = trial.misfit([*good, *numbered]) if part else None
        if reason is None:
            good.extend(numbered)
        elif len(part) == 1 and part[0].others:
            sort([part[0]._replace(group=part[0].others[0], others=part[0].others[1:])])
        elif len(part) == 1:
            refused.append((part[0], part[0].kept or reason))
        else:
            sort(part[: len(part) // 2])
            sort(part[len(part) // 2 :])

    sort(chosen)
    return good, refused


def in_their_forms(trial: "Trial", found: Sequence[Candidate]) -> tuple[list[Candidate], list[tuple[Candidate, str]]]:
    """Candidates in the form in which the first of those like them fits; and those for which there is none.

    A network has many attentions of one class, of which each kind of group may need the same attributes to follow.
    """
    forms: dict[Any, int | str] = {}
    for candidate in sorted(found, key=lambda candidate: candidate.is_instead):
        if candidate.like is not None and candidate.like not in forms:
            classes, _, instead = candidate.like
            if instead and not all(
                isinstance(forms.get((classes, kind, False), ""), str) for kind in ("query-key", "value-output")
            ):
                forms[candidate.like] = ""
                continue
            forms[candidate.like] = trial.fitting_form((candidate.group, *candidate.others))
    chosen: list[Candidate] = []
    refused: list[tuple[Candidate, str]] = []
    for candidate in found:
        form = forms.get(candidate.like, 0) if candidate.like is not None else 0
        if isinstance(form, str):
            refused.append((candidate, form))
        else:
            group, *others = (candidate.group, *candidate.others)[form:]
            chosen.append(candidate._replace(group=group, others=tuple(others)))
    return chosen, refused


class Trial:
    """A network to try groups out on, in double precision if it runs in that."""

    def __init__(self, model: nn.Module, example: Tensor):
        self.generator = torch.Generator().manual_seed(0)
        own = next((p.dtype for p in model.parameters()), torch.float32)
        part = smaller(example)
        for images in (example,) if part is example else (part, example):
            with contextlib.suppress(Exception):
                self.take(model, images, torch.float64)
                return
        self.take(model, example, own)

    @torch.no_grad()
    def take(self, model: nn.Module, example: Tensor, dtype: torch.dtype) -> None:
        """Copy the network, and measure what it gives for images of noise and how much rounding changes of that."""
        self.model = copied(model).to(dtype).train().eval()
        for parameter in self.model.parameters():
            if not parameter.any():  # as in a fresh classifier, behind which nothing would show
                parameter.copy_(torch.randn(parameter.shape, generator=self.generator) / 10)
        self.images = self.noise_like(example, dtype)
        with Formats() as formats:
            self.expected = self.run(self.model)
        precision = max(torch.finfo(dtype).eps for dtype in formats.seen)
        with changing(self.model) as rounded:
            for module in rounded.modules():
                for name, parameter in module.named_parameters(recurse=False):
                    noise = torch.randn(parameter.shape, generator=self.generator).to(parameter)
                    setattr(module, name, nn.Parameter(parameter * (1 + precision * noise)))
            noise = (self.run(rounded) - self.expected).abs().max()
        self.tolerance = MOST_NOISE * noise + LEAST_TOLERANCE * precision * self.expected.abs().max()

    def noise_like(self, example: Tensor, dtype: torch.dtype) -> Tensor:
        """Images of noise; for whole numbers, some that occur."""
        if not example.is_floating_point():
            most = int(example.max()) + 1
            return torch.randint(0, most, example.shape, generator=self.generator).to(example)
        return torch.randn(example.shape, generator=self.generator).to(example.device, dtype)

    def run(self, model: nn.Module) -> Tensor:
        """The logits; of layers that draw, always for the same draws."""
        torch.default_generator.manual_seed(0)
        return logits_of(model(self.images.clone()))

    @torch.no_grad()
    def mergeable(self, pairs: Sequence[tuple[str, str]]) -> tuple[tuple[str, str], ...]:
        """Those layers and batch-norms that can be merged.

        A class of one's own may read its parameters in another way, such as without a bias; with such classes the
        network is tried out.
        """
        standard = [
            pair
            for pair in pairs
            if all(type(get_layer(self.model, name)).__module__.startswith("torch.nn.") for name in pair)
        ]
        if len(standard) == len(pairs):
            return tuple(pairs)
        with changing(self.model) as merged:
            for _, name in pairs:  # a batch-norm is emptied in place
                norm = get_layer(merged, name)
                for vector in ("weight", "bias", "running_mean", "running_var"):
                    if getattr(norm, vector) is not None:
                        resize(norm, vector, getattr(norm, vector).detach().clone())
            merge_batch_norm(merged, Structure((), tuple(pairs)))
            reason = self.difference(merged, self.expected, "its batch-norms merged")
        return tuple(standard if reason else pairs)

    @torch.no_grad()
    def fitting_form(self, forms: Sequence[Group]) -> int | str:
        """Which form of a group the network can do without half of, for which the first ones are tried first.

        Where there is none, the reason why the network cannot do without the first.
        """
        members: tuple[Member, ...] | None = None
        for number, group in enumerate(forms):
            if group.members is not members:  # forms that differ in nothing but what follows share what is expected
                members, stay = group.members, some_of(group, True, self.generator)
                with changing(self.model) as ignoring:
                    ignore(ignoring, group, stay)
                    expected = self.run(ignoring)
            with changing(self.model) as removing:
                selection = torch.eye(group.size)[stay]
                apply(removing, group, Maps(selection, selection))
                reason = self.difference(removing, expected, "half of its channels removed")
            if reason is None:
                return number
        return self.misfit([replace(forms[0], number=0)]) or 0

    @torch.no_grad()
    def misfit(self, groups: Sequence[Group]) -> str | None:
        """Why the network cannot do without pairings of these groups; None where it can.

        Tried without one pairing of each, and without a random half of them, what stays in another order: it must be
        the same as not reading them. Where it is not, another order alone may tell why.
        """
        for few in (False, True):
            reason = self.misfit_without(groups, few)
            if reason is not None:
                with changing(self.model) as permuted:
                    for group in groups:
                        order = torch.eye(group.size)[torch.randperm(group.size, generator=self.generator)]
                        apply(permuted, group, Maps(order, order))
                    return self.difference(permuted, self.expected, "its channels in another order") or reason
        return None

    def misfit_without(self, groups: Sequence[Group], few: bool) -> str | None:
        """Why the network cannot do without one pairing of each of these groups, or without all but a few of them.

        Where none of a group can go, all of them stay in another order.
        """
        chosen = [some_of(group, few, self.generator) for group in groups]
        with changing(self.model) as ignoring:
            for group, stay in zip(groups, chosen, strict=True):
                if len(stay) < group.size:
                    ignore(ignoring, group, stay)
            expected = self.run(ignoring)
        structure = Structure(tuple(groups), ())
        with changing(self.model) as removing:
            for group, stay in zip(groups, chosen, strict=True):
                selection = torch.eye(group.size)[stay]
                apply(removing, structure.groups[group.number], Maps(selection, selection))
                if len(stay) < group.size:
                    structure = structure.narrowed(group.number, len(stay))
            return self.difference(removing, expected, "some of its channels removed")

    def difference(self, model: nn.Module, expected: Tensor, how: str) -> str | None:
        """Why a network's logits are not the expected ones; None where they are, but for rounding."""
        try:
            logits = self.run(model)
        except Exception as error:
            return f"the network does not run with {how} ({message(error)})"
        if logits.shape != expected.shape or not bool((logits - expected).abs().max() <= self.tolerance):
            return f"the network gives other outputs with {how}"
        return None


def smaller(example: Tensor) -> Tensor:
    """Of a large image a part: channels are the same everywhere, and networks that take one size alone say so."""
    if example.ndim != 4 or min(example.shape[2:]) < LARGE:
        return example
    height, width = (size // (2 * STRIDE) * STRIDE for size in example.shape[2:])
    return example[:, :, :height, :width]


class Formats(TorchDispatchMode):
    """Collects the number formats of what a network computes."""

    def __init__(self) -> None:
        super().__init__()  # type: ignore[no-untyped-call]
        self.seen: set[torch.dtype] = set()

    @classmethod
    def _should_skip_dynamo(cls) -> bool:
        return False

    def __torch_dispatch__(self, func: Any, types: Any, args: Any = (), kwargs: dict[str, Any] | None = None) -> Any:
        result = func(*args, **(kwargs or {}))
        leaves = tree_leaves(result)
        self.seen.update(leaf.dtype for leaf in leaves if isinstance(leaf, Tensor) and leaf.is_floating_point())
        return result


def ignore(model: nn.Module, group: Group, stay: Tensor) -> None:
    """Let no layer read the pairings of a group that do not stay.

    A norm over all channels would still see them. There they become copies of those that stay, each of which gets
    equally many: the mean and the variance over all are then those over what stays. Queries and keys are read by each
    other: what is 0 adds nothing to their product.
    """
    gone = torch.ones(group.size, dtype=torch.bool)
    gone[stay] = False
    if group.kind == "query-key":
        for member in group.members:
            for name, dim in member.tensors(model):
                tensor = getattr(get_layer(model, member.layer), name)
                unread = member.index[gone].flatten().to(tensor.device)
                resize(get_layer(model, member.layer), name, tensor.index_fill(dim, unread, 0))
        return
    if group.kind == "residual":
        copied = torch.empty(group.size, dtype=torch.int64)
        copied[stay] = stay
        copied[gone] = stay.repeat(group.size // len(stay) - 1)
        read = torch.eye(group.size)
        read[gone] = 0
        apply(model, group, Maps(torch.eye(group.size)[copied], read))
        return
    for member in group.on(CONSUMER):
        layer = get_layer(model, member.layer)
        weight = getattr(layer, member.parameter)
        unread = member.index[gone].flatten().to(weight.device)
        resize(layer, member.parameter, weight.index_fill(member.axis, unread, 0))


def some_of(group: Group, few: bool, generator: torch.Generator) -> Tensor:
    """Some pairings of a group, in random order: all but one, or about half of them, but an odd number.

    Where a norm is taken over them, the largest part that the whole is a multiple of.
    """
    size = group.size
    count = max(1, size // 2 - 1 + size // 2 % 2) if few else max(1, size - 1)
    if group.kind == "residual":
        count = size // next((number for number in range(2, size) if size % number == 0), 1)
    return torch.randperm(size, generator=generator)[:count]
