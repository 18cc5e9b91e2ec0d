"""Trying groups out: removing neurons must be the same as ignoring them."""

import copy
from collections.abc import Sequence
from dataclasses import replace

import torch
from torch import Tensor, nn

from workloads.messages import message
from workloads.structure.groups import CONSUMER, Group, Maps, Structure, apply
from workloads.structure.layers import get_layer


def fitting(
    model: nn.Module, found: Sequence[tuple[str, Group]], example: Tensor
) -> tuple[list[Group], list[tuple[str, str]]]:
    """The groups that the network can do without, alone and together; and the others with the reason."""
    groups = [group for _, group in found]
    if not groups or misfit(model, groups, example) is None:
        return groups, []
    good: list[Group] = []
    refused = []
    for name, group in found:
        candidate = replace(group, number=len(good))
        reason = misfit(model, [*good, candidate], example)
        if reason is None:
            good.append(candidate)
        else:
            refused.append((name, reason))
    return good, refused


@torch.no_grad()
def misfit(model: nn.Module, groups: Sequence[Group], example: Tensor) -> str | None:
    """Why removing pairings of all groups is not the same as ignoring them; None where it is.

    Tried without the first pairing of each group, and without a random half, so that an odd number stays.
    """
    for trial in range(2):
        generator = torch.Generator().manual_seed(trial)
        ignoring = copy.deepcopy(model).double()
        for parameter in ignoring.parameters():
            if not parameter.any():  # as in a fresh classifier, behind which nothing would show
                parameter.copy_(torch.randn(parameter.shape, generator=generator) / 10)
        removing = copy.deepcopy(ignoring)
        structure = Structure(tuple(groups), ())
        for group in groups:
            if group.size == 1:
                continue
            stay = torch.arange(1, group.size) if trial == 0 else odd_half(group.size, generator)
            selection = torch.eye(group.size)[stay]
            for member in group.on(CONSUMER):
                gone = member.index[selection.sum(0) == 0].flatten()
                get_layer(ignoring, member.layer).weight[:, gone] = 0
            apply(removing, structure.groups[group.number], Maps(selection, selection))
            structure = structure.narrowed(group.number, len(stay))
        images = torch.randn(example.shape, generator=generator).to(example.device).double()
        try:
            expected = ignoring(images.clone())
        except Exception as error:
            return f"the network does not run in double precision ({message(error)})"
        try:
            logits = removing(images)
        except Exception as error:
            return f"the network does not run without some of its channels ({message(error)})"
        if logits.shape != expected.shape or not bool((logits - expected).abs().max() <= 1e-9 * expected.abs().max()):
            return "the network gives other outputs without its channels than when they are not read"
    return None


def odd_half(size: int, generator: torch.Generator) -> Tensor:
    """About half of the numbers below `size`, in order, an odd number of them."""
    count = max(1, size // 2 - 1 + size // 2 % 2)
    return torch.randperm(size, generator=generator)[:count].sort().values
