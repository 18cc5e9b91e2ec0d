"""More of few images: mirrored and shifted copies, of which the original is asked what it makes, as of the images."""

from collections.abc import Sequence

import torch
from torch import Tensor
from torch.nn import functional as F


def with_views(images: Sequence[Tensor], views: Sequence[str], seed: int) -> list[Tensor]:
    """The images and further views of them, each doubling their number.

    The views of an image follow each other, so that cross-validation does not meet one where it has learnt from others.

    Args:
        images: batches (B, C, H, W).
        views: `mirrored` or `shifted`, in the order in which they are made.
        seed: of the shifts.
    """
    generator = torch.Generator().manual_seed(seed)
    found = []
    for batch in images:
        seen = batch.unsqueeze(1)
        for view in views:
            flat = seen.flatten(0, 1)
            other = flat.flip(3) if view == "mirrored" else shifted(flat, generator)
            seen = torch.cat([seen, other.view_as(seen)], 1)
        found.append(seen.flatten(0, 1))
    return found


def shifted(images: Tensor, generator: torch.Generator) -> Tensor:
    """Each of (B, C, H, W) images moved by up to an eighth of its size; what moves in mirrors what is beside it."""
    count, _, height, width = images.shape
    margin = min(height, width) // 8
    padded = F.pad(images, (margin,) * 4, mode="reflect")
    down, across = torch.randint(0, 2 * margin + 1, (2, count, 1), generator=generator).to(images.device)
    rows = down + torch.arange(height, device=images.device)
    columns = across + torch.arange(width, device=images.device)
    image = torch.arange(count, device=images.device).view(-1, 1, 1)
    return padded.permute(0, 2, 3, 1)[image, rows[:, :, None], columns[:, None, :]].permute(0, 3, 1, 2)
