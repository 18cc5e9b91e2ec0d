"""Importance criteria: how much each pairing of a group matters, as an (n,) vector of non-negative scores.

A criterion is a function of `(model, group)`. It asks for more by naming it: `batches`, a list of (images, labels)
training batches, the same for all; `generator`, a seeded `torch.Generator`.
"""

import inspect
from collections.abc import Callable, Mapping, Sequence
from typing import Any

import torch
from torch import Tensor, nn

from workloads.criteria.gradient import taylor
from workloads.criteria.magnitude import l1, l2, lamp, linf, random
from workloads.groups import Group
from workloads.registry import lookup

CRITERIA: dict[str, Callable[..., Tensor]] = {
    "l1": l1,
    "l2": l2,
    "linf": linf,
    "lamp": lamp,
    "taylor": taylor,
    "random": random,
}

Batch = tuple[Tensor, Tensor]


def needs_batches(name: str) -> bool:
    """Whether a criterion looks at data."""
    return "batches" in inspect.signature(lookup(CRITERIA, name, "criterion")).parameters


def importance(
    name: str,
    model: nn.Module,
    group: Group,
    *,
    batches: Sequence[Batch] = (),
    seed: int = 0,
    options: Mapping[str, Any] | None = None,
) -> Tensor:
    """(n,) float32 importance of a group's pairings, batch-norm being merged, divided by its mean.

    Args:
        name: registered criterion or `package.module:function`.
        model: the network in evaluation mode.
        group: one of its groups.
        batches: for criteria that look at data or gradients.
        seed: of the generator for criteria that draw.
        options: further keyword arguments of the criterion.

    Raises:
        ValueError: unknown criterion, or scores that are not n finite numbers.
    """
    criterion = lookup(CRITERIA, name, "criterion")
    available = {"batches": batches, "generator": torch.Generator().manual_seed(seed)}
    wanted = inspect.signature(criterion).parameters
    asked = {key: value for key, value in available.items() if key in wanted}
    scores = criterion(model, group, **asked, **(options or {})).detach().float().cpu()
    if scores.shape != (group.size,) or not bool(scores.isfinite().all()):
        raise ValueError(
            f"criterion '{name}' gave {tuple(scores.shape)} scores for the {group.size} pairings of group "
            f"{group.number}, or some that are not finite"
        )
    return scores
