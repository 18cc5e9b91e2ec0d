"""Covariances of what layers read, over images and positions: all from one pass, and kept for the next call.

A criterion or method is called for one group after the other, each time with the same network and the same images.
"""

import hashlib
from collections.abc import Callable, Mapping, Sequence
from contextlib import ExitStack
from typing import NamedTuple

import torch
from torch import Tensor, nn

from workloads.compression.calls import by_channel
from workloads.compression.remembered import Remembered
from workloads.structure.groups import Member
from workloads.structure.layers import WEIGHTED, get_layer

ROWS = 40_000  # of what a layer reads that are looked at, where there are more
MOST_CHANNELS = 4096  # of layers that share the pass


class Moments(NamedTuple):
    """Of the inputs of a layer, float64: number of rows, their sum (n,), and that of their products (n, n)."""

    rows: Tensor
    total: Tensor
    products: Tensor

    def covariance(self) -> Tensor:
        """(n, n), about the mean."""
        return self.about_zero() - torch.outer(self.total / self.rows, self.total / self.rows)

    def about_zero(self) -> Tensor:
        """(n, n) mean products."""
        return self.products / self.rows


_last: Remembered[dict[str, Moments]] = Remembered()


def covariance_of(model: nn.Module, member: Member, images: Sequence[Tensor], seed: int) -> Tensor:
    """(n, n) float64 covariance of what a consumer reads of its group's pairings, mean over several inputs of each.

    Args:
        model: the network.
        member: the consumer in the group.
        images: batches (B, C, H, W).
        seed: of the rows that are looked at.
    """
    return slot_by_slot(model, member, images, seed, Moments.covariance)


def products_of(model: nn.Module, member: Member, images: Sequence[Tensor], seed: int) -> Tensor:
    """(n, n) float64 mean products of what a consumer reads, likewise: how alike neurons are, their means included."""
    return slot_by_slot(model, member, images, seed, Moments.about_zero)


def slot_by_slot(
    model: nn.Module, member: Member, images: Sequence[Tensor], seed: int, moment: Callable[[Moments], Tensor]
) -> Tensor:
    """A moment of what a consumer reads, mean over the several inputs of each pairing."""
    layer = get_layer(model, member.layer)
    if layer.weight.shape[member.axis] > MOST_CHANNELS:
        return moment(input_moments(model, {member.layer: member.index}, images, seed)[member.layer])
    shared = _last.get(model, (digest(images), seed), lambda: input_moments(model, shared_layers(model), images, seed))
    if member.layer not in shared:
        raise ValueError(f"layer '{member.layer}' did not run on these images, though it ran when it was examined")
    full = moment(shared[member.layer])
    slots = [full[index][:, index] for index in member.index.T]
    return torch.stack(slots).mean(0)


def digest(images: Sequence[Tensor]) -> str:
    """What tells images apart from others."""
    found = hashlib.blake2b()
    for batch in images:
        found.update(batch.detach().float().cpu().contiguous().numpy().tobytes())
    return found.hexdigest()


def shared_layers(model: nn.Module) -> dict[str, Tensor | None]:
    """Layers with weights that read few enough channels."""
    return {
        name: None
        for name, layer in model.named_modules()
        if isinstance(layer, WEIGHTED) and layer.weight.ndim > 1 and max(layer.weight.shape[:2]) <= MOST_CHANNELS
    }


@torch.no_grad()
def input_moments(
    model: nn.Module, layers: Mapping[str, Tensor | None], images: Sequence[Tensor], seed: int
) -> dict[str, Moments]:
    """By layer that runs, the moments of its inputs; or of pairings, where an index (n, r) says which they have."""
    generator = torch.Generator().manual_seed(seed)
    wanted = max(1, ROWS // max(1, len(images)))
    sums: dict[str, list[Tensor]] = {}

    def look(name: str, given: Tensor) -> None:
        found, index = by_channel(get_layer(model, name), given), layers[name]
        if len(found) > wanted:
            found = found[torch.randint(len(found), (wanted,), generator=generator).to(found.device)]
        if index is not None:
            found = found[:, index].movedim(2, 1).flatten(0, 1)
        found = found if found.dtype == torch.float64 else found.float()
        parts = [torch.tensor(float(len(found))), found.sum(0).double().cpu(), (found.T @ found).double().cpu()]
        sums[name] = [a + b for a, b in zip(sums[name], parts, strict=True)] if name in sums else parts

    def hook(name: str) -> Callable[..., None]:
        return lambda layer, args, kwargs: look(name, args[0] if args else kwargs["input"])

    with ExitStack() as hooks:
        for name in layers:
            layer = get_layer(model, name)
            hooks.callback(layer.register_forward_pre_hook(hook(name), with_kwargs=True).remove)
        for batch in images:
            model.eval()(batch)
    return {name: Moments(*parts) for name, parts in sums.items()}
