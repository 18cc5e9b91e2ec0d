"""Augmentation and normalisation of uint8 images: whole batches on whatever device they are, or image by image."""

from collections.abc import Sequence
from dataclasses import dataclass

import torch
from torch import Tensor
from torch.nn import functional as F
from torchvision.transforms import v2

from workloads.recipes import AugmentationStep, ErasingConfig, RandAugmentConfig


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


@dataclass(frozen=True)
class ImageByImage:
    """Augmentation of single images by torchvision, which draws for each from a seed of its own.

    So it does not matter which process augments an image, or what was drawn before.

    Attributes:
        transform: of a uint8 image (C, H, W).
        seeds: by the place of an image in the order in which they are learnt.
    """

    transform: v2.Transform
    seeds: Tensor

    def __call__(self, place: int, image: Tensor) -> Tensor:
        """The augmented image (C, H, W), uint8."""
        with torch.random.fork_rng(devices=[]):
            # Not torch.manual_seed, which would also restart what layers draw from on a GPU.
            torch.default_generator.manual_seed(int(self.seeds[place]))
            augmented: Tensor = self.transform(image)
        return augmented


def transform_of(steps: Sequence[AugmentationStep], shape: tuple[int, int, int], mean: Sequence[float]) -> v2.Transform:
    """The steps, in their order, on an image.

    Args:
        shape: (C, H, W) of the images.
        mean: colour in [0, 1] that erasing leaves, a channel.
    """
    return v2.Compose([_transform(step, shape, mean) for step in steps])


def _transform(step: AugmentationStep, shape: tuple[int, int, int], mean: Sequence[float]) -> v2.Transform:
    size = shape[1:]
    if step == "flip":
        return v2.RandomHorizontalFlip()
    if step == "crop":
        return v2.RandomCrop(size, padding=max(1, min(size) // 8))
    if isinstance(step, RandAugmentConfig):
        return v2.RandAugment(step.operations, step.magnitude)
    if isinstance(step, ErasingConfig):
        return v2.RandomErasing(step.probability, value=[round(255 * part) for part in mean])
    assert not isinstance(step, str)
    return v2.RandomResizedCrop(size, scale=step.scale, antialias=True)
