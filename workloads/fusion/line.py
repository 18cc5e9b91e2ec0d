"""The straight line between two networks in the space of their weights, and the barrier on it."""

import copy
from collections.abc import Sequence

import torch
from torch import Tensor, nn

from workloads.config import FusionConfig
from workloads.fusion.fuse import Aligned, by_width, ready
from workloads.structure.network import Network


class Line:
    """The networks between two: their averages once the wider one is aligned to the other.

    Two networks are linearly connected as far as the loss rises nowhere between them (Frankle et al. 2020), and equal
    but for the order of their neurons as far as that is so after alignment (Entezari et al. 2022).

        line = Line([one, other], images=images, config=FusionConfig(alignment="weight-matching", repair=False))
        losses = [cross_entropy(line.network(share)(images), labels).item() for share in (0, 0.5, 1)]
        barrier = max(above_line((0, 0.5, 1), losses))
    """

    def __init__(
        self,
        models: Sequence[nn.Module | Network],
        images: Sequence[Tensor] | Tensor = (),
        config: FusionConfig | None = None,
    ):
        """Align the wider network to the other; of equally wide ones, the second to the first.

        Args:
            models: two of one architecture, as `workloads.fusion.fuse` takes them; they are not changed.
            images: normalised batches (B, C, H, W), or one of them, for the activations and for the repair.
            config: how they are aligned, and whether each network between them is repaired.

        Raises:
            ValueError: they are not two, there is no line in a fusion by `method`, or `fuse` would refuse them.
        """
        config = config or FusionConfig()
        if len(models) != 2:
            raise ValueError(f"a line goes through two networks, not through {len(models)}")
        if config.method is not None:
            raise ValueError(
                f"a fusion by {config.method.label} aligns nothing, so that there is no line: give an alignment"
            )
        images = [images] if isinstance(images, Tensor) else list(images)
        networks = ready(models, None, images, config)
        order = by_width([network.structure for network in networks])
        self.reversed = order == [1, 0]
        self.aligned = Aligned([networks[k] for k in order], [1.0, 1.0], images, config)

    @torch.no_grad()
    def network(self, share: float) -> nn.Module:
        """A network of the line.

        Args:
            share: of the second network; 0 is the first and 1 the second, each as it is aligned.
        """
        of_aligned = 1 - share if self.reversed else share
        if of_aligned in (0, 1):
            return copy.deepcopy(self.aligned.models[int(of_aligned)])
        shares = 1 - of_aligned, of_aligned
        return self.aligned.average(shares, of_statistics=shares)


def above_line(shares: Sequence[float], values: Sequence[float]) -> list[float]:
    """How far values along a line are above the straight line between those at its ends; the most is the barrier.

    Args:
        shares: where, from 0 to 1; the first and the last are the ends.
        values: losses there, or accuracies, of which the least, below zero, is the barrier.
    """
    first, last = values[0], values[-1]
    return [value - ((1 - share) * first + share * last) for share, value in zip(shares, values, strict=True)]
