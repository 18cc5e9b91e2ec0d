"""What a fusion would leave unaligned is refused and named."""

import copy

import pytest
import torch
from torch import Tensor, nn

from workloads.config import FusionConfig
from workloads.fusion import fuse
from workloads.networks.models import resnet10, vgg11_bn
from workloads.structure.groups import Maps, apply
from workloads.structure.network import Network

IMAGES = torch.randn(32, 3, 16, 16, generator=torch.Generator().manual_seed(0))
NOTHING = FusionConfig(alignment="none", repair=False)
WAYS = [{"alignment": "activations"}, {"alignment": "weights"}, {"alignment": "weight-matching"}]


class Normed(nn.Module):
    """A residual stream with a norm over its channels before a hidden layer, as in ConvNeXt."""

    def __init__(self, width: int = 12):
        super().__init__()
        self.stem, self.norm = nn.Conv2d(3, width, 4, 4), nn.LayerNorm(width)
        self.up, self.down = nn.Linear(width, 3 * width), nn.Linear(3 * width, width)
        self.scale, self.head = nn.Parameter(torch.rand(width)), nn.Linear(width, 5)
        self.place = nn.Parameter(torch.randn(1, 16, width) / 10)

    def forward(self, x: Tensor) -> Tensor:
        x = self.stem(x).flatten(2).transpose(1, 2) + self.place
        x = x + self.scale * self.down(self.up(self.norm(x)).relu())
        return self.head(self.norm(x).mean(1))


class Grouped(nn.Module):
    """A convolution with groups of several channels, or a group-norm, whose channels have an order of their own."""

    def __init__(self, middle: nn.Module):
        super().__init__()
        self.stem, self.middle, self.head = nn.Conv2d(3, 16, 3), middle, nn.Linear(16, 5)

    def forward(self, x: Tensor) -> Tensor:
        return self.head(self.middle(self.stem(x)).relu().mean((2, 3)))


class Softened(nn.Module):
    """A layer whose channels a softmax mixes."""

    def __init__(self) -> None:
        super().__init__()
        self.stem, self.mixed = nn.Conv2d(3, 8, 3), nn.Conv2d(8, 8, 1)
        self.after, self.head = nn.Conv2d(8, 8, 1), nn.Linear(8, 5)

    def forward(self, x: Tensor) -> Tensor:
        x = self.mixed(self.stem(x).relu()).softmax(1)
        return self.head(self.after(x).relu().mean((2, 3)))


def shuffled(network: Network, kinds: tuple[str, ...], seed: int = 1) -> nn.Module:
    """The same function with the neurons of the groups of some kinds in another order."""
    generator = torch.Generator().manual_seed(seed)
    model = copy.deepcopy(network.model)
    for group in network.structure.groups:
        if group.kind in kinds:
            order = torch.eye(group.size)[torch.randperm(group.size, generator=generator)]
            apply(model, group, Maps(order, order))
    return model


@pytest.fixture
def normed() -> Network:
    torch.manual_seed(0)
    return Network.prepared(Normed(), IMAGES[:1])


@pytest.mark.parametrize("settings", WAYS)
@pytest.mark.parametrize("kinds", [("hidden",), ("residual",), ("hidden", "residual")])
def test_a_residual_stream_is_aligned_by_one_permutation(
    normed: Network, kinds: tuple[str, ...], settings: dict
) -> None:
    assert {group.kind for group in normed.structure.groups} == {"hidden", "residual"}
    others = [shuffled(normed, kinds, seed) for seed in (1, 2)]
    expected = normed.model(IMAGES)
    torch.testing.assert_close(others[0](IMAGES), expected, rtol=1e-4, atol=1e-5)
    networks = [normed, *(normed._replace(model=other) for other in others)]
    fused = fuse(networks, images=IMAGES, config=FusionConfig(repair=False, **settings))
    torch.testing.assert_close(fused(IMAGES), expected, rtol=1e-4, atol=1e-5)
    assert not torch.allclose(fuse(networks, images=IMAGES, config=NOTHING)(IMAGES), expected, atol=1e-2)


REFUSED = {
    "grouped convolution": (lambda: Grouped(nn.Conv2d(16, 16, 3, groups=4)), "4 of its channels are one pairing"),
    "two outputs a channel": (
        lambda: Grouped(nn.Sequential(nn.Conv2d(16, 32, 3, groups=16), nn.Conv2d(32, 16, 1))),
        "2 of its channels are one pairing",
    ),
    "group norm": (lambda: Grouped(nn.GroupNorm(4, 16)), "4 of its channels are one pairing"),
    "softmax": (Softened, r"'mixed': layer 'mixed'|'mixed': the network's forward mixes its channels"),
}


@pytest.mark.parametrize(("network", "reason"), REFUSED.values(), ids=REFUSED)
@pytest.mark.parametrize("settings", WAYS)
def test_neurons_that_no_alignment_reaches_are_named(network, reason: str, settings: dict) -> None:
    models = [network(), network()]
    with pytest.raises(ValueError, match=f"some of their neurons cannot be aligned: .*{reason}.*alignment 'none'"):
        fuse(models, images=IMAGES, config=FusionConfig(**settings))
    assert fuse(models, images=IMAGES, config=NOTHING)(IMAGES).shape == (32, 5)


def test_a_depthwise_convolution_a_gate_and_a_flatten_are_aligned() -> None:
    torch.manual_seed(0)
    models = [
        nn.Sequential(
            *(nn.Conv2d(3, 16, 3), nn.GLU(1), nn.Conv2d(8, 8, 3, groups=8), nn.ReLU()),
            *(nn.AdaptiveAvgPool2d(2), nn.Flatten(), nn.Linear(32, 5)),
        )
        for _ in range(2)
    ]
    one = Network.prepared(models[0], IMAGES[:1])
    other = one._replace(model=shuffled(one, ("channels",)))
    fused = fuse([one, other], images=[IMAGES], config=FusionConfig(repair=False))
    torch.testing.assert_close(fused(IMAGES), one.model(IMAGES), rtol=1e-4, atol=1e-5)


@pytest.mark.parametrize(
    ("other", "problem"),
    [
        (lambda: resnet10(width=0.125), "only one of them has"),
        (lambda: vgg11_bn(width=0.125, num_classes=7), r"is \(10,\) in one of them and \(7,\)"),
    ],
)
def test_networks_of_two_architectures_are_refused(other, problem: str) -> None:
    images = torch.randn(4, 3, 32, 32)
    with pytest.raises(ValueError, match=f"network 2 cannot be fused with network 1: .*{problem}"):
        fuse([vgg11_bn(width=0.125), other()], images=images)


def test_one_network_and_missing_images_are_refused() -> None:
    model = vgg11_bn(width=0.125)
    images = torch.randn(4, 3, 32, 32)
    with pytest.raises(ValueError, match="two networks or more, not of 1"):
        fuse([model], images=images)
    with pytest.raises(ValueError, match="give `images`, or `Network"):
        fuse([model, model])
    network = Network.prepared(model, images[:1])
    with pytest.raises(ValueError, match="looks at activations: give `images`"):
        fuse([network, network])
    plain = fuse([network, network], config=FusionConfig(alignment="weights", repair=False))
    torch.testing.assert_close(plain(images), network.model(images))


def test_a_bias_that_one_network_alone_has_counts_as_zero_in_the_other() -> None:
    images = torch.randn(8, 3, 32, 32)
    one, other = (
        nn.Sequential(nn.Conv2d(3, 4, 3, bias=bias), nn.ReLU(), nn.Flatten(), nn.LazyLinear(5))
        for bias in (True, False)
    )
    with torch.no_grad():
        for model in (one, other):
            model(images)
        other.load_state_dict({name: tensor for name, tensor in one.state_dict().items() if name != "0.bias"})
    fused = fuse([one, other], images=images, config=NOTHING)
    torch.testing.assert_close(fused[0].bias, one[0].bias / 2)
    assert other[0].bias is None
