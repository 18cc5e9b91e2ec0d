"""Augmentation and normalisation of uint8 images, whole batches on whatever device they are."""

from collections.abc import Sequence

import torch
from torch import Tensor
from torch.nn import functional as F


def normalise(images: Tensor, mean: Sequence[float], std: Sequence[float]) -> Tensor:
    """(B, C, H, W) uint8 in 0…255 to float32 with the given mean and deviation a channel taken off."""
    shift, scale = (
        255 * torch.tensor(values).to(images.device, non_blocking=True).view(1, -1, 1, 1) for values in (mean, std)
    )
    return (images.float() - shift) / scale


def flip(images: Tensor, generator: torch.Generator) -> Tensor:
    """Mirror each image of (B, C, H, W) with probability one half."""
    mirrored = (torch.rand(len(images), generator=generator) < 0.5).to(images.device, non_blocking=True)
    return torch.where(mirrored.view(-1, 1, 1, 1), images.flip(3), images)


def crop(images: Tensor, generator: torch.Generator) -> Tensor:
    """Cut a window of the same size out of each image of (B, C, H, W), padded in black by an eighth of its size."""
    count, _, height, width = images.shape
    margin = max(1, min(height, width) // 8)
    padded = F.pad(images, (margin,) * 4)
    offsets = torch.randint(0, 2 * margin + 1, (2, count, 1), generator=generator).to(images.device, non_blocking=True)
    rows = offsets[0] + torch.arange(height, device=images.device)
    columns = offsets[1] + torch.arange(width, device=images.device)
    image = torch.arange(count, device=images.device).view(-1, 1, 1)
    return padded.permute(0, 2, 3, 1)[image, rows[:, :, None], columns[:, None, :]].permute(0, 3, 1, 2)


AUGMENTATIONS = {"flip": flip, "crop": crop}


def augment(images: Tensor, names: Sequence[str], generator: torch.Generator) -> Tensor:
    """Apply the named augmentations in order; `generator` lives on the CPU, so that seeds mean the same everywhere."""
    for name in names:
        images = AUGMENTATIONS[name](images, generator)
    return images
