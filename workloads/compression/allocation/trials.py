"""What narrowed copies of a network lose, measured."""

from collections.abc import Sequence

import torch
from torch import Tensor, nn

from workloads.allocations import GreedyConfig, SensitivityConfig
from workloads.compression.budgets import Sizes
from workloads.compression.compress import compress, in_order, score
from workloads.compression.pairings import Pairings
from workloads.compression.sources import Sources
from workloads.config import CompressionConfig
from workloads.measuring.precision import float32_products
from workloads.structure.network import Network


class Trials:
    """Copies of a network, compressed by a cell's criterion, method and repair, and how far their answers move."""

    def __init__(self, base: Network, config: CompressionConfig, sources: Sources):
        """Take the network and the settings of a cell; its allocation says how many images are looked at.

        Raises:
            ValueError: there is no image.
        """
        search = config.allocation
        assert isinstance(search, SensitivityConfig | GreedyConfig)
        self.base, self.config, self.sources = base, config, sources
        self.images = sources.for_search(search.images)
        if not self.images:
            raise ValueError(f"allocation '{search.name}' needs unlabelled images: give them as `images`")
        self.wanted = answers(base.model, self.images)
        self.scores: dict[int, tuple[Pairings, Tensor]] = {}

    def loss(self, sizes: Sizes) -> float:
        """Mean Kullback-Leibler divergence in nats of the network's answers from those of a copy of these widths."""
        order = in_order(sizes, self.config.order)
        copy = compress(self.base, self.config, self.sources, scored=self.scored, sizes=order)
        found = answers(copy.model, self.images)
        return float((self.wanted.exp() * (self.wanted - found)).sum(1).mean())

    def scored(self, number: int) -> tuple[Pairings, Tensor]:
        """The scores of a group in the network as it is, worked out once."""
        if number not in self.scores:
            self.scores[number] = score(self.base, number, self.config.criterion, self.sources)
        return self.scores[number]


@torch.inference_mode()
def answers(model: nn.Module, images: Sequence[Tensor]) -> Tensor:
    """(N, classes) float64 on the CPU: the logarithm of what a network answers to each image.

    Raises:
        FloatingPointError: they are not numbers.
    """
    with float32_products():
        found = torch.cat([model.eval()(batch).double().log_softmax(1).cpu() for batch in images])
    if not bool(found.isfinite().all()):
        raise FloatingPointError("the network's outputs for the images of a search are not numbers (NaN)")
    return found
