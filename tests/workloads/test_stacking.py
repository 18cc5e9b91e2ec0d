"""Networks side by side, and their compression to the width of one."""

import copy
from collections.abc import Callable
from functools import partial

import pytest
import torch
from torch import Tensor, nn
from torch.nn import functional as F
from torch.utils.flop_counter import FlopCounterMode

from tests.conftest import with_statistics
from tests.workloads.test_agreement import Normed, shuffled
from workloads.compression.compress import Sources, compress
from workloads.config import CompressionConfig, FusionConfig
from workloads.fusion import fuse
from workloads.fusion.stacking import side_by_side
from workloads.networks.models import resnet10, vgg11_bn
from workloads.structure.finding import trace
from workloads.structure.groups import Maps, apply
from workloads.structure.network import Network

IMAGES = torch.randn(32, 3, 32, 32, generator=torch.Generator().manual_seed(0))
KINDS = ("channels", "hidden")


class Mixed(nn.Module):
    """Depthwise and gated convolutions, a concatenation with the image, a flatten, two layers that make logits."""

    def __init__(self, width: int):
        super().__init__()
        self.gated, self.depthwise = nn.Conv2d(3, 2 * width, 3, padding=1), nn.Conv2d(width, width, 3, groups=width)
        self.joined, self.norm = nn.Conv2d(width + 3, 6, 1), nn.BatchNorm2d(6)
        self.head, self.shortcut = nn.Linear(6 * 4, 5), nn.Linear(width, 5)

    def forward(self, x: Tensor) -> Tensor:
        y = self.depthwise(F.glu(self.gated(x), 1))
        z = self.norm(self.joined(torch.cat([x[:, :, 1:-1, 1:-1], y], 1))).relu()
        return self.head(F.adaptive_avg_pool2d(z, 2).flatten(1)) + self.shortcut(y.mean((2, 3)))


def normed(groups: int) -> nn.Module:
    """A convolution with a group-norm."""
    return nn.Sequential(nn.Conv2d(3, 16, 3), nn.GroupNorm(groups, 16), nn.Flatten(), nn.Linear(16 * 900, 5))


FAMILIES: dict[str, tuple[Callable[..., nn.Module], tuple]] = {
    "vgg": (lambda width: vgg11_bn(width=width), (0.125, 0.0625, 0.125)),
    "resnet": (lambda width: resnet10(width=width), (0.125, 0.1875)),
    "mixed": (Mixed, (8, 12)),
    "group norm": (normed, (4, 4)),
}


def family(name: str) -> list[Network]:
    make, widths = FAMILIES[name]
    torch.manual_seed(1)
    return [Network.prepared(with_statistics(make(width), seed), IMAGES[:1]) for seed, width in enumerate(widths)]


@pytest.mark.parametrize("name", FAMILIES)
def test_the_logits_side_by_side_are_the_average_of_the_networks(name: str) -> None:
    networks = family(name)
    shares = [0.5, 0.2, 0.3] if len(networks) == 3 else [0.3, 0.7]
    before = copy.deepcopy([network.model.state_dict() for network in networks])
    wide = side_by_side(networks, shares, IMAGES[:1])
    expected = sum(share * network.model(IMAGES) for share, network in zip(shares, networks, strict=True))
    torch.testing.assert_close(wide.model(IMAGES), expected, rtol=1e-4, atol=1e-5)
    for network, state in zip(networks, before, strict=True):
        torch.testing.assert_close(network.model.state_dict(), state, rtol=0, atol=0)


@pytest.mark.parametrize("name", FAMILIES)
def test_the_groups_side_by_side_are_those_that_are_found_in_it(name: str) -> None:
    networks = family(name)
    wide = side_by_side(networks, [1 / len(networks)] * len(networks), IMAGES[:1])
    found = trace(wide.model, IMAGES[:1])
    assert [group.size for group in wide.structure.groups] == [group.size for group in found.groups]
    assert wide.structure.sizes == found.sizes
    for ours, theirs in zip(wide.structure.groups, found.groups, strict=True):
        channels = [
            {(member.layer, member.side): {tuple(row) for row in member.index.tolist()} for member in group.members}
            for group in (ours, theirs)
        ]
        assert channels[0] == channels[1]


def test_each_networks_statistics_stand_where_its_channels_do() -> None:
    networks = family("mixed")
    wide = side_by_side(networks, [0.5, 0.5], IMAGES[:1])
    for part in (0, 1):
        each = [network.statistics["joined"][part] for network in networks]
        torch.testing.assert_close(wide.statistics["joined"][part], torch.cat(each))


@pytest.mark.parametrize("method", [{"name": "folding", "by": "incoming"}, "activation-folding"])
def test_compressing_permuted_copies_side_by_side_gives_the_original(method: dict | str) -> None:
    original = family("vgg")[0]
    others = [original._replace(model=shuffled(original, KINDS, seed)) for seed in (1, 2)]
    fused = fuse([original, *others], images=IMAGES, config=FusionConfig(method=method, repair=False))
    torch.testing.assert_close(fused(IMAGES), original.model(IMAGES), rtol=1e-3, atol=1e-4)


def test_clusters_of_activations_undo_a_permutation_across_shortcuts() -> None:
    original = family("resnet")[0]
    other = original._replace(model=shuffled(original, KINDS))
    for repair in (False, True):
        config = FusionConfig(method="activation-folding", repair=repair)
        fused = fuse([original, other], images=IMAGES, config=config)
        torch.testing.assert_close(fused(IMAGES), original.model(IMAGES), rtol=1e-3, atol=1e-3)


def test_a_wide_network_and_one_without_its_twins_fuse_exactly() -> None:
    wide = family("vgg")[0]
    for group in wide.structure.groups:
        twins = torch.eye(group.size)[torch.arange(group.size) // 2 * 2]
        apply(wide.model, group, Maps(twins, twins))
    pairs = CompressionConfig(sparsity=0.5, method={"name": "folding", "correct_variance": False})
    narrow = compress(wide, pairs, Sources(IMAGES[:1]))
    torch.testing.assert_close(narrow.model(IMAGES), wide.model(IMAGES), rtol=1e-3, atol=1e-4)
    config = FusionConfig(method="activation-folding", repair=False)
    fused = fuse([wide, narrow], images=IMAGES, config=config)
    torch.testing.assert_close(fused(IMAGES), wide.model(IMAGES), rtol=1e-3, atol=1e-3)
    assert {n: t.shape for n, t in fused.state_dict().items()} == {
        n: t.shape for n, t in narrow.model.state_dict().items()
    }


@pytest.mark.parametrize(
    "method", ["conventional", "intra-fusion", "fusion-preserving", "neuron-merging", "reconstruction"]
)
@pytest.mark.parametrize("repair", ["none", "data-free", "data"])
def test_every_method_and_repair_brings_networks_back_to_the_width_of_the_narrowest(method: str, repair: str) -> None:
    networks = family("mixed")
    config = FusionConfig(method=method, repair=repair, criterion="l2", weights="accuracy")
    fused = fuse(networks, images=IMAGES, config=config, accuracies=[30.0, 60.0])
    assert [group.size for group in trace(fused, IMAGES[:1]).groups] == [g.size for g in networks[0].structure.groups]
    assert bool(fused(IMAGES).isfinite().all())


def test_training_starts_from_the_statistics_of_the_fused_network() -> None:
    fused = fuse(family("resnet"), images=IMAGES, config=FusionConfig(method="activation-folding"))
    expected = fused(IMAGES)
    torch.testing.assert_close(fused.train()(IMAGES), expected, rtol=1e-2, atol=1e-2)


def test_a_norm_over_all_channels_is_refused_side_by_side() -> None:
    models = [Normed(), Normed()]
    with pytest.raises(ValueError, match=r"a norm is taken over all channels of group .*align them instead"):
        fuse(models, images=IMAGES[:, :, :16, :16], config=FusionConfig(method="folding"))


def test_what_no_neuron_is_in_has_to_be_equal() -> None:
    models = [nn.Sequential(nn.Conv2d(3, 8, 3), nn.PReLU(), nn.Flatten(), nn.Linear(7200, 5)) for _ in range(2)]
    with torch.no_grad():
        models[1][1].weight.fill_(0.5)
    config = FusionConfig(method="folding")
    with pytest.raises(ValueError, match=r"they have one '1\.weight' each, of different values"):
        fuse(models, images=IMAGES, config=config)
    with torch.no_grad():
        models[1][1].weight.copy_(models[0][1].weight)
    assert fuse(models, images=IMAGES, config=config)(IMAGES).shape == (32, 5)


class Squashed(nn.Module):
    """What makes logits is followed by more than a sum."""

    def __init__(self, squash: Callable[[Tensor], Tensor]):
        super().__init__()
        self.stem, self.head, self.squash = nn.Conv2d(3, 8, 3), nn.Linear(8, 5), squash

    def forward(self, x: Tensor) -> Tensor:
        return self.squash(self.head(self.stem(x).relu().mean((2, 3))))


@pytest.mark.parametrize("squash", [torch.tanh, partial(torch.log_softmax, dim=1)])
def test_logits_that_cannot_be_averaged_by_weights_are_aligned_alone(squash: Callable[[Tensor], Tensor]) -> None:
    torch.manual_seed(0)
    models = [Squashed(squash), Squashed(squash)]
    with torch.no_grad():
        models[1].head.weight.mul_(20)
    with pytest.raises(ValueError, match="its logits are not the average of theirs"):
        fuse(models, images=IMAGES, config=FusionConfig(method="folding"))
    one = Network.prepared(models[0], IMAGES[:1])
    fused = fuse([one, one._replace(model=shuffled(one, KINDS))], images=IMAGES, config=FusionConfig(repair=False))
    torch.testing.assert_close(fused(IMAGES), one.model(IMAGES), rtol=1e-4, atol=1e-5)


@pytest.mark.parametrize("method", ["conventional", "activation-folding"])
def test_least_squares_bring_networks_side_by_side_nearer_to_their_average(method: str) -> None:
    networks = family("vgg")[::2]
    expected = sum(network.model(IMAGES) for network in networks) / 2

    def error(repair: object) -> float:
        fused = fuse(networks, images=IMAGES, config=FusionConfig(method=method, repair=repair))
        return float((fused(IMAGES) - expected).detach().norm() / expected.detach().norm())

    assert error({"name": "least-squares", "images": 32}) < 0.5 * error("none")


def test_clusters_and_least_squares_undo_a_permutation() -> None:
    original = family("resnet")[0]
    other = original._replace(model=shuffled(original, KINDS))
    config = FusionConfig(method="activation-folding", repair="least-squares")
    fused = fuse([original, other], images=IMAGES, config=config)
    torch.testing.assert_close(fused(IMAGES), original.model(IMAGES), rtol=1e-2, atol=1e-2)


def test_networks_side_by_side_run_at_the_price_of_each() -> None:
    networks = family("resnet")[:1] * 3
    wide = side_by_side(networks, [1 / 3] * 3, IMAGES[:1])
    counted = []
    for model in (wide.model, copy.deepcopy(wide.model), networks[0].model):
        with FlopCounterMode(display=False) as counter, torch.no_grad():
            model(IMAGES)
        counted.append(counter.get_total_flops())
    assert counted[0] < 1.01 * 3 * counted[2]
    assert counted[1] > 8 * counted[2]


def test_copies_of_networks_side_by_side_are_ordinary_and_changed_weights_count() -> None:
    wide = side_by_side(family("vgg")[::2], [0.5, 0.5], IMAGES[:1])
    copied = copy.deepcopy(wide.model)
    assert {type(layer) for layer in copied.modules() if isinstance(layer, nn.Conv2d)} == {nn.Conv2d}
    assert any(type(layer) is not nn.Conv2d for layer in wide.model.modules() if isinstance(layer, nn.Conv2d))
    assert wide.model.state_dict().keys() == copied.state_dict().keys()
    torch.testing.assert_close(wide.model(IMAGES), copied(IMAGES), rtol=1e-4, atol=1e-5)
    with torch.no_grad():
        for model in (wide.model, copied):
            model.features[4].weight.add_(0.01)
    torch.testing.assert_close(wide.model(IMAGES), copied(IMAGES), rtol=1e-4, atol=1e-5)
    torch.testing.assert_close(wide.model.double()(IMAGES.double()), copied.double()(IMAGES.double()))
