"""Augmentation of single images, by torchvision and timm, and mixing of batches.

Imported where a training asks for it, as torchvision takes seconds to load.
"""

import random
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
import torch
from torch import Tensor
from torchvision.transforms import v2
from torchvision.transforms.v2 import functional

from workloads.messages import text_of
from workloads.recipes import AugmentationStep, ErasingConfig, RandAugmentConfig, TimmPolicyConfig, TrainingConfig

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


class TimmPolicy:
    """A policy of automatic augmentation of timm.

    It draws from Python's and NumPy's random numbers, which are seeded from PyTorch's for every image, and afterwards
    as they were.

    Args:
        policy: as timm's `--aa` takes it.
        shape: (C, H, W) of the images, of one or three channels.
        mean: colour in [0, 1] that is put where an image was moved away, a channel.

    Raises:
        ValueError: timm is not installed, it does not know the policy, or images have another number of channels.
    """

    def __init__(self, policy: str, shape: tuple[int, int, int], mean: Sequence[float]):
        channels, *size = shape
        if channels not in (1, 3):
            raise ValueError(f"augmentation 'timm' takes images of one or three channels, but these have {channels}")
        try:
            from timm.data import auto_augment
        except ImportError as error:
            raise ValueError("augmentation 'timm' needs the package timm: python -m pip install timm") from error
        colour = [round(255 * part) for part in mean]
        options: dict[str, Any] = {
            "translate_const": int(0.45 * min(size)),  # as timm's own pipeline has it
            "img_mean": tuple(colour) if channels == 3 else colour[0],
        }
        make = auto_augment.auto_augment_transform
        if policy.startswith("rand"):
            make = auto_augment.rand_augment_transform
        elif policy.startswith("augmix"):
            options["translate_pct"] = 0.3
            make = auto_augment.augment_and_mix_transform
        try:
            self.change = make(policy, options)
        except (AssertionError, ValueError, KeyError, IndexError) as error:
            raise ValueError(f"timm has no augmentation policy '{policy}' ({text_of(error)})") from error

    def __call__(self, image: Tensor) -> Tensor:
        """The changed image (C, H, W), uint8."""
        seed = int(torch.randint(2**32, ()))
        before = random.getstate(), np.random.get_state()
        random.seed(seed)
        np.random.seed(seed)
        try:
            changed: Tensor = functional.pil_to_tensor(self.change(functional.to_pil_image(image)))
        finally:
            random.setstate(before[0])
            np.random.set_state(before[1])
        return changed


def transform_of(steps: Sequence[AugmentationStep], shape: tuple[int, int, int], mean: Sequence[float]) -> v2.Transform:
    """The steps, in their order, on an image.

    Args:
        shape: (C, H, W) of the images.
        mean: colour in [0, 1] that erasing leaves, a channel.
    """
    return v2.Compose([_transform(step, shape, mean) for step in steps])


def _transform(step: AugmentationStep, shape: tuple[int, int, int], mean: Sequence[float]) -> v2.Transform | TimmPolicy:
    size = shape[1:]
    if step == "flip":
        return v2.RandomHorizontalFlip()
    if step == "crop":
        return v2.RandomCrop(size, padding=max(1, min(size) // 8))
    if isinstance(step, RandAugmentConfig):
        return v2.RandAugment(step.operations, step.magnitude)
    if isinstance(step, TimmPolicyConfig):
        return TimmPolicy(step.policy, shape, mean)
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
