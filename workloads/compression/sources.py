"""What criteria, methods, repairs and searches may look at: images, seeds, and a clock."""

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import TypeVar

from torch import Tensor, nn
from torch.utils._pytree import tree_leaves, tree_map

from workloads.compression.compensation import Originals
from workloads.compression.criteria import Batch
from workloads.config import CalibrationConfig
from workloads.measuring.latency import latency

T = TypeVar("T")


@dataclass(frozen=True)
class Sources:
    """What criteria and methods may look at.

    Attributes:
        example: (1, C, H, W), for its shape and device.
        batches: labelled training batches for criteria, or a function that returns them.
        images: unlabelled training batches for methods and repair, likewise.
        seed: of criteria that draw.
        method_seed: of methods that draw.
        calibration: a function that returns batches of so many unlabelled training images, where an option asks for a
            number; None takes the first of `images`.
        held_back: a function that returns batches of so many unlabelled training images for searches, in runs those
            that nothing else is shown; None takes those of `calibration`.
        originals: keeps what the network makes of images for further compressions of it; None keeps nothing.
        milliseconds: a function that measures a forward pass of one image, for sparsities of time; None measures it
            where the network is.
    """

    example: Tensor
    batches: Callable[[], Sequence[Batch]] | Sequence[Batch] = ()
    images: Callable[[], Sequence[Tensor]] | Sequence[Tensor] = ()
    seed: int = 0
    method_seed: int = 0
    calibration: Callable[[int], Sequence[Tensor]] | None = None
    originals: Originals | None = None
    milliseconds: Callable[[nn.Module], float] | None = None
    held_back: Callable[[int], Sequence[Tensor]] | None = None

    def measured(self, model: nn.Module) -> float:
        """Milliseconds of a forward pass of one image."""
        if self.milliseconds is not None:
            return self.milliseconds(model)
        _, channels, height, width = self.example.shape
        return latency(model, (channels, height, width), 1).milliseconds

    def for_search(self, count: int) -> Sequence[Tensor]:
        """Batches of so many unlabelled images, at most, that a search for widths looks at."""
        return self.shown(CalibrationConfig(images=count)) if self.held_back is None else self.held_back(count)

    def shown(self, config: CalibrationConfig | None) -> Sequence[Tensor]:
        """Batches of unlabelled images: as many as the settings say, or as there are; without such, all of `images`."""
        if config is None:
            return made(self.images)
        assert isinstance(config.images, int)
        count = config.images
        if self.calibration is not None:
            return self.calibration(count) if count else []
        batches, found = made(self.images), []
        for batch in batches:
            if count > 0:
                found.append(batch[:count])
            count -= len(batch)
        return found


def made(values: Callable[[], Sequence[T]] | Sequence[T]) -> Sequence[T]:
    """The values, or those that the function returns; subclasses of tensors, such as torchvision's, as tensors."""
    found = values() if callable(values) else values
    if all(type(leaf) is Tensor or not isinstance(leaf, Tensor) for leaf in tree_leaves(list(found))):
        return found
    plain: list[T] = tree_map(
        lambda leaf: leaf.detach().as_subclass(Tensor) if isinstance(leaf, Tensor) else leaf, list(found)
    )
    return plain
