"""Small networks whose layers are solved again, and images for them."""

from collections.abc import Callable

import torch
from torch import nn

from workloads.networks.models import BasicBlock
from workloads.structure.network import Network

COUNT = 64


def images_of_noise() -> torch.Tensor:
    """As many images as there are in a test."""
    return torch.randn(COUNT, 3, 12, 12, generator=torch.Generator().manual_seed(0))


def seeded(make: Callable[[], nn.Module]) -> nn.Module:
    torch.manual_seed(3)
    model = make()
    for module in model.modules():
        if isinstance(module, nn.BatchNorm2d):
            module.running_mean.data.normal_(0, 0.2)
            module.running_var.data.uniform_(0.5, 1.5)
    return model.eval()


def convolutions(first: nn.Module, second: nn.Module, width: int = 8) -> nn.Module:
    end = [nn.ReLU(), nn.AdaptiveAvgPool2d(1), nn.Flatten(), nn.Linear(width, 5)]
    return nn.Sequential(first, nn.ReLU(), second, *end)


def residual() -> nn.Module:
    return nn.Sequential(
        nn.Conv2d(3, 8, 3, padding=1),
        nn.BatchNorm2d(8),
        nn.ReLU(),
        BasicBlock(8, 8, 1),
        BasicBlock(8, 16, 2),
        nn.AdaptiveAvgPool2d(1),
        nn.Flatten(),
        nn.Linear(16, 5),
    )


class Tokens(nn.Module):
    """A residual stream of tokens with a norm and an MLP."""

    def __init__(self) -> None:
        super().__init__()
        self.embed, self.norm = nn.Conv2d(3, 16, 4, stride=4), nn.LayerNorm(16)
        self.up, self.down, self.last = nn.Linear(16, 24), nn.Linear(24, 16), nn.Linear(16, 5)

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        x = self.embed(x).flatten(2).transpose(1, 2)
        x = x + self.down(nn.functional.gelu(self.up(self.norm(x))))
        return self.last(x.mean(1))


class Twice(nn.Module):
    """A layer that runs twice in a pass."""

    def __init__(self) -> None:
        super().__init__()
        self.first, self.again = nn.Conv2d(3, 8, 3, padding=1), nn.Conv2d(8, 8, 3, padding=1)
        self.last = nn.Linear(8, 5)

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        x = self.first(x).relu()
        return self.last(self.again(self.again(x).relu()).relu().mean((2, 3)))


def depthwise() -> nn.Module:
    return nn.Sequential(
        nn.Conv2d(3, 8, 1),
        nn.ReLU(),
        nn.Conv2d(8, 8, 3, padding=1, groups=8),
        nn.ReLU(),
        nn.Conv2d(8, 8, 1),
        nn.ReLU(),
        nn.AdaptiveAvgPool2d(1),
        nn.Flatten(),
        nn.Linear(8, 5),
    )


NETWORKS: dict[str, Callable[[], nn.Module]] = {
    "convolutions": lambda: convolutions(nn.Conv2d(3, 8, 3), nn.Conv2d(8, 8, 3, stride=2, dilation=2, padding=2)),
    "reflected": lambda: convolutions(
        nn.Conv2d(3, 8, 3, bias=False), nn.Conv2d(8, 8, (3, 1), padding="same", padding_mode="reflect")
    ),
    "transposed": lambda: convolutions(nn.Conv2d(3, 8, 3), nn.ConvTranspose2d(8, 8, 2, stride=2)),
    "flattened": lambda: nn.Sequential(nn.Conv2d(3, 8, 3, stride=3), nn.ReLU(), nn.Flatten(), nn.Linear(128, 5)),
    "residual": residual,
    "tokens": Tokens,
    "twice": Twice,
    "depthwise": depthwise,
}


class AddsItsInput(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.layer = nn.Conv2d(3, 3, 1)

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        return self.layer(x) + x


@torch.inference_mode()
def error(network: Network, smaller: Network, images: torch.Tensor) -> float:
    wanted = network.model(images)
    return float((smaller.model(images) - wanted).square().mean() / wanted.var(0).mean())
