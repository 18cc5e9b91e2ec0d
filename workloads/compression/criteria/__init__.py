"""Importance criteria: how much each pairing of a group matters, as an (n,) vector of non-negative scores.

A criterion is a function of `(model, group)`. It asks for more by naming it: `batches`, a list of (images, labels)
training batches, the same for all; `generator`, a seeded `torch.Generator`; `example`, an image (1, C, H, W) of which
the shape and device matter only; `statistics`, by layer the mean and deviation (one entry an output channel) that its
batch-norm gave its output over the training data before it was merged. The generator is on the CPU, all else on the
device of the network; scores may be on any. All parameters take gradients while a criterion runs, frozen ones too;
gradients that it leaves in the network are cleared. A user's own criterion gets copies (`plugins.Plugin`).
"""

from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from typing import Any

import torch
from torch import Tensor, nn

from workloads.compression.criteria.eliminating import elimination
from workloads.compression.criteria.gradient import hessian, synflow, taylor
from workloads.compression.criteria.independence import chip
from workloads.compression.criteria.magnitude import bn_scale, fpgm, l1, l2, lamp, linf, random
from workloads.plugins import CRITERION
from workloads.structure.groups import Group

CRITERIA: dict[str, Callable[..., Tensor]] = {
    "l1": l1,
    "l2": l2,
    "linf": linf,
    "lamp": lamp,
    "taylor": taylor,
    "hessian": hessian,
    "synflow": synflow,
    "chip": chip,
    "elimination": elimination,
    "fpgm": fpgm,
    "bn-scale": bn_scale,
    "random": random,
}

Batch = tuple[Tensor, Tensor]


def importance(
    name: str,
    model: nn.Module,
    group: Group,
    *,
    batches: Sequence[Batch] = (),
    seed: int = 0,
    example: Tensor | None = None,
    statistics: Mapping[str, tuple[Tensor, Tensor]] | None = None,
    images: Sequence[Tensor] = (),
    options: Mapping[str, Any] | None = None,
) -> Tensor:
    """(n,) float32 importance of a group's pairings, batch-norm being merged, as the criterion gives it.

    Only the order within a group counts, unless `allocation: global` compares the scores of all groups: then criteria
    have to be on one scale, as l1, l2, linf, taylor and others are, which divide by the group's mean.

    Args:
        name: registered criterion or `package.module:function`.
        model: the network in evaluation mode.
        group: one of its groups.
        batches: labelled, for criteria that look at data or gradients.
        seed: of the generator for criteria that draw.
        example: for criteria that run the network without data.
        statistics: for criteria that look at batch-norm as it was before it was merged.
        images: unlabelled, for criteria that look at activations.
        options: further keyword arguments of the criterion.

    Raises:
        ValueError: unknown criterion, or scores that are not n finite numbers.
    """
    criterion = CRITERION.plugin(name, options)
    criterion.check_given(batches=batches, images=images)
    offered = {
        "batches": batches,
        "images": images,
        "generator": torch.Generator().manual_seed(seed),
        "example": example,
        "statistics": statistics,
    }
    with taking_gradients(model):
        found = criterion(model, group, **{name: value for name, value in offered.items() if value is not None})
    if not isinstance(found, Tensor):
        raise ValueError(f"criterion '{name}' gave {type(found).__name__}: it has to return a tensor of scores")
    scores = found.detach().float().cpu()
    if scores.shape != (group.size,):
        shape = tuple(scores.shape)
        raise ValueError(
            f"criterion '{name}' gave scores of shape {shape} for the {group.size} pairings of group {group.number}"
        )
    if not bool(scores.isfinite().all()):
        raise ValueError(f"criterion '{name}' gave scores for group {group.number} that are not finite")
    return scores


@contextmanager
def taking_gradients(model: nn.Module) -> Iterator[None]:
    """All parameters take gradients in the block, and are frozen and without gradients as before once it ends."""
    frozen = [p for p in model.parameters() if p.is_floating_point() and not p.requires_grad]
    model.zero_grad(set_to_none=True)
    try:
        for parameter in frozen:
            parameter.requires_grad_(True)
        yield
    finally:
        model.eval().zero_grad(set_to_none=True)
        for parameter in frozen:
            parameter.requires_grad_(False)
