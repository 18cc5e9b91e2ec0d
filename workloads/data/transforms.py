"""Augmentation of single images, and mixing of batches, by torchvision.

Imported where a training asks for it, as torchvision takes seconds to load.
"""

from collections.abc import Callable, Sequence
from dataclasses import dataclass

import torch
from torch import Tensor
from torchvision.transforms import v2

from workloads.recipes import AugmentationStep, ErasingConfig, RandAugmentConfig, TrainingConfig

Mix = Callable[[Tensor, Tensor], tuple[Tensor, Tensor]]


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


def mixing(config: TrainingConfig, classes: int) -> Mix:
    """Mixup or CutMix, one of the two for each batch where the settings want both."""
    ways: list[Mix] = []
    if config.mixup:
        ways.append(v2.MixUp(alpha=config.mixup, num_classes=classes))
    if config.cutmix:
        ways.append(v2.CutMix(alpha=config.cutmix, num_classes=classes))
    return v2.RandomChoice(ways) if len(ways) > 1 else ways[0]
