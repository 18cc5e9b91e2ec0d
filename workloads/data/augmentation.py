"""Augmentation and normalisation of uint8 images, whole batches on whatever device they are."""

from collections.abc import Sequence
from dataclasses import dataclass

import torch
from torch import Tensor
from torch.nn import functional as F


def normalise(images: Tensor, mean: Sequence[float], std: Sequence[float]) -> Tensor:
    """(B, C, H, W) uint8 in 0…255 to float32 with the given mean and deviation a channel taken off."""
    shift, scale = (
        255 * torch.tensor(values).to(images.device, non_blocking=True).view(1, -1, 1, 1) for values in (mean, std)
    )
    return (images.float() - shift) / scale


@dataclass(frozen=True)
class Rows:
    """Which images of a batch a process learns.

    Attributes:
        start: of the batch in the order of all images.
        count: images of the whole batch.
        own: (n,) numbers of those that are learnt, from 0 on.
    """

    start: int
    count: int
    own: Tensor


def all_rows(images: Tensor) -> Rows:
    """Every image of a batch."""
    return Rows(0, len(images), torch.arange(len(images)))


def flip(images: Tensor, generator: torch.Generator, rows: Rows | None = None) -> Tensor:
    """Mirror each image of (B, C, H, W) with probability one half."""
    rows = rows or all_rows(images)
    drawn = torch.rand(rows.count, generator=generator)[rows.own]
    mirrored = (drawn < 0.5).to(images.device, non_blocking=True)
    return torch.where(mirrored.view(-1, 1, 1, 1), images.flip(3), images)


def crop(images: Tensor, generator: torch.Generator, rows: Rows | None = None) -> Tensor:
    """Cut a window of the same size out of each image of (B, C, H, W), padded in black by an eighth of its size."""
    rows = rows or all_rows(images)
    count, _, height, width = images.shape
    margin = max(1, min(height, width) // 8)
    padded = F.pad(images, (margin,) * 4)
    drawn = torch.randint(0, 2 * margin + 1, (2, rows.count, 1), generator=generator)[:, rows.own]
    offsets = drawn.to(images.device, non_blocking=True)
    down = offsets[0] + torch.arange(height, device=images.device)
    across = offsets[1] + torch.arange(width, device=images.device)
    image = torch.arange(count, device=images.device).view(-1, 1, 1)
    return padded.permute(0, 2, 3, 1)[image, down[:, :, None], across[:, None, :]].permute(0, 3, 1, 2)


AUGMENTATIONS = {"flip": flip, "crop": crop}


def augment(images: Tensor, names: Sequence[str], generator: torch.Generator, rows: Rows | None = None) -> Tensor:
    """Apply the named augmentations in order.

    Args:
        images: (B, C, H, W) uint8.
        generator: lives on the CPU, so that seeds mean the same everywhere.
        rows: which images of a batch these are; None is all. What is drawn for an image does not depend on it.
    """
    for name in names:
        images = AUGMENTATIONS[name](images, generator, rows)
    return images
