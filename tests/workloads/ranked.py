"""Networks so small that what a criterion says of them can be computed by hand."""

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from workloads.structure.groups import CONSUMER, PRODUCER, Group, Member


def numbers(*shape: int, seed: int = 0) -> Tensor:
    return torch.randn(*shape, generator=torch.Generator().manual_seed(seed), dtype=torch.float64)


def group_between(*layers: tuple[str, str], size: int, r: int = 1) -> Group:
    index = torch.arange(size * r).view(size, r)
    return Group(0, size, tuple(Member(name, side, index) for name, side in layers))


def two_layers(width: int = 5) -> tuple[nn.Sequential, Group]:
    torch.manual_seed(1)
    model = nn.Sequential(nn.Linear(4, width), nn.ReLU(inplace=True), nn.Linear(width, 3)).eval()
    return model, group_between(("0", PRODUCER), ("2", CONSUMER), size=width)


class Coupled(nn.Module):
    """Two convolutions added, behind an in-place ReLU, and a classifier."""

    def __init__(self) -> None:
        super().__init__()
        self.left = nn.Conv2d(2, 4, 3, padding=1)
        self.right = nn.Conv2d(2, 4, 1)
        self.head = nn.Linear(4, 3)

    def forward(self, images: Tensor, gate: Tensor | float = 1.0) -> Tensor:
        merged = (self.left(images) + self.right(images)) * gate
        return self.head(F.relu(merged, inplace=True).mean((2, 3)))


COUPLED = group_between(("left", PRODUCER), ("right", PRODUCER), ("head", CONSUMER), size=4)


def singles(images: Tensor, labels: Tensor) -> list[tuple[Tensor, Tensor]]:
    return [(images[i : i + 1], labels[i : i + 1]) for i in range(len(images))]


def six_images() -> tuple[Tensor, Tensor]:
    """(6, 2, 5, 5) images for `Coupled`, and labels of three classes."""
    return numbers(6, 2, 5, 5).float(), torch.arange(6) % 3
