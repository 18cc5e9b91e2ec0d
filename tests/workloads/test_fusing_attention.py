"""Vision transformers are aligned in everything that a permutation, or another basis inside a head, leaves as it is."""

import copy
from collections.abc import Callable

import pytest
import torch
from torch import nn
from torchvision.models import VisionTransformer

from workloads.config import FusionConfig
from workloads.fusion import fuse
from workloads.fusion.heads import align_inside, change_basis, roles
from workloads.fusion.rotation import keeps_mean, rotate, rotation, streams, with_plain_norms
from workloads.structure.groups import Maps, apply
from workloads.structure.layers import get_layer
from workloads.structure.network import Network

IMAGES = torch.randn(8, 3, 16, 16, generator=torch.Generator().manual_seed(0))
EVERYTHING = ("hidden", "heads", "inside", "residual")


def torchvision_vit(heads: int = 4) -> nn.Module:
    return VisionTransformer(
        image_size=16, patch_size=8, num_layers=2, num_heads=heads, hidden_dim=32, mlp_dim=48, num_classes=5
    )


def timm_vit() -> nn.Module:
    timm = pytest.importorskip("timm", reason="timm is not installed")
    return timm.models.vision_transformer.VisionTransformer(
        img_size=16, patch_size=8, depth=2, num_heads=4, embed_dim=32, mlp_ratio=1.5, num_classes=5
    )


def hugging_face_vit() -> nn.Module:
    transformers = pytest.importorskip("transformers", reason="transformers is not installed")
    sizes = {"hidden_size": 32, "intermediate_size": 48, "num_hidden_layers": 2, "num_attention_heads": 4}
    return transformers.ViTForImageClassification(
        transformers.ViTConfig(image_size=16, patch_size=8, num_labels=5, **sizes)
    )


def trained(model: nn.Module, seed: int = 0) -> nn.Module:
    """Weights, biases and scales all of their own, as after a training."""
    generator = torch.Generator().manual_seed(seed)
    with torch.no_grad():
        for parameter in model.parameters():
            parameter.add_(torch.randn(parameter.shape, generator=generator), alpha=0.1 if parameter.ndim > 1 else 0.2)
    return model.eval()


@pytest.fixture(scope="module", params=[torchvision_vit, timm_vit, hugging_face_vit])
def network(request: pytest.FixtureRequest) -> Network:
    torch.manual_seed(0)
    return Network.prepared(trained(request.param()), IMAGES[:1])


def disguised(network: Network, what: tuple[str, ...], seed: int = 1) -> Network:
    """The same function with neurons in another order; `inside` permutes the dimensions of each head for itself, `maps`
    multiplies them by any invertible matrix."""
    generator = torch.Generator().manual_seed(seed)
    model = copy.deepcopy(network.model)
    for group in network.structure.groups:
        if group.kind in what:
            order = torch.eye(group.size)[torch.randperm(group.size, generator=generator)]
            apply(model, group, Maps(order, order))
        if group.kind == "heads" and {"inside", "maps"} & set(what):
            found = roles(group)
            assert found is not None
            for one, other in ((found.q, found.k), (found.v, found.o)):
                for head in range(group.size):
                    size = one.channels.shape[1]
                    matrix = torch.eye(size, dtype=torch.float64)[torch.randperm(size, generator=generator)]
                    if "maps" in what:
                        matrix = 2 * matrix + torch.randn(size, size, generator=generator) / 2
                    change_basis(get_layer(model, one.layer), one, head, matrix)
                    change_basis(get_layer(model, other.layer), other, head, torch.linalg.inv(matrix).T)
    return network._replace(model=model)


def rotated(network: Network) -> Network:
    """The same function in another basis of its residual stream."""
    network = with_plain_norms(network, IMAGES[:1])
    for group in streams(network.structure):
        product = torch.randn(group.size, group.size, generator=torch.Generator().manual_seed(2), dtype=torch.float64)
        assert rotate(network.model, group, rotation(product, keeps_mean(network.model, group)))
    return network


class RootMeanSquare(nn.Module):
    """A residual stream behind norms that subtract no mean."""

    def __init__(self) -> None:
        super().__init__()
        self.stem, self.norm, self.last = nn.Conv2d(3, 12, 4, 4), nn.RMSNorm(12), nn.RMSNorm(12)
        self.up, self.down, self.head = nn.Linear(12, 20), nn.Linear(20, 12), nn.Linear(12, 5, bias=False)

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        x = self.stem(x).flatten(2).transpose(1, 2)
        x = x + self.down(self.up(self.norm(x)).relu())
        return self.head(self.last(x).mean(1))


class ScaledLayers(RootMeanSquare):
    """With a factor for each channel of what a layer writes to the stream."""

    def __init__(self) -> None:
        super().__init__()
        self.scale = nn.Parameter(torch.rand(12))

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        x = self.stem(x).flatten(2).transpose(1, 2)
        x = x + self.scale * self.down(self.up(self.norm(x)).relu())
        return self.head(self.last(x).mean(1))


def error(model: nn.Module, expected: torch.Tensor) -> float:
    """Relative error of the logits."""
    with torch.no_grad():
        return float((model(IMAGES) - expected).norm() / expected.norm())


@pytest.mark.parametrize("alignment", ["weights", "activations", "weight-matching"])
@pytest.mark.parametrize("what", [("hidden",), ("heads",), ("inside",), ("maps",), ("residual",), EVERYTHING])
def test_three_disguises_of_one_transformer_fuse_to_it(network: Network, what: tuple[str, ...], alignment: str) -> None:
    expected = network.model(IMAGES).detach()
    networks = [network, *(disguised(network, what, seed) for seed in (1, 2))]
    assert max(error(each.model, expected) for each in networks) < 1e-4
    plain = fuse(networks, config=FusionConfig(alignment="none", repair=False))
    assert error(plain, expected) > 0.05
    fused = fuse(networks, images=IMAGES, config=FusionConfig(alignment=alignment, repair=False))
    assert error(fused, expected) < 1e-4


def check_a_rotation_is_undone(network: Network) -> None:
    expected = network.model(IMAGES).detach()
    other = rotated(disguised(network, EVERYTHING))
    assert error(other.model, expected) < 1e-4
    permuted = fuse([network, other], images=IMAGES, config=FusionConfig(alignment="weight-matching", repair=False))
    assert error(permuted, expected) > 0.05
    for alignment in ("weights", "activations", "weight-matching"):
        config = FusionConfig(alignment=alignment, residual="rotation", repair=False)
        assert error(fuse([network, other], images=IMAGES, config=config), expected) < 1e-3


def test_a_transformer_in_another_basis_of_its_stream_fuses_to_the_same(network: Network) -> None:
    check_a_rotation_is_undone(network)


def test_so_does_a_network_whose_norms_subtract_no_mean() -> None:
    torch.manual_seed(0)
    check_a_rotation_is_undone(Network.prepared(trained(RootMeanSquare()), IMAGES[:1]))


def test_streams_that_no_rotation_leaves_as_they_are_are_refused() -> None:
    config = FusionConfig(alignment="weights", residual="rotation", repair=False)
    with pytest.raises(ValueError, match=r"group \d cannot be rotated: .* multiplies its channels one by one"):
        fuse([ScaledLayers(), ScaledLayers()], images=IMAGES, config=config)
    plain = [nn.Sequential(nn.Conv2d(3, 8, 3), nn.ReLU(), nn.Flatten(), nn.Linear(8 * 14 * 14, 5)) for _ in range(2)]
    with pytest.raises(ValueError, match="no norm is taken over a residual stream"):
        fuse(plain, images=IMAGES, config=config)
    with pytest.raises(ValueError, match="rotation, but alignment none aligns nothing"):
        FusionConfig(alignment="none", residual="rotation")


def test_repair_leaves_an_exact_fusion_of_transformers_exact(network: Network) -> None:
    expected = network.model(IMAGES).detach()
    fused = fuse([network, disguised(network, EVERYTHING)], images=IMAGES)
    assert error(fused, expected) < 1e-3


def test_a_transformer_whose_hidden_layers_are_wider_fuses_exactly_onto_the_narrow_one() -> None:
    torch.manual_seed(0)
    narrow = Network.prepared(trained(torchvision_vit()), IMAGES[:1])
    wide = disguised(narrow, ("heads", "inside", "residual"))
    structure = wide.structure
    for group in narrow.structure.groups:
        if group.kind == "hidden":
            twins = torch.eye(group.size).repeat(2, 1)[torch.randperm(2 * group.size)]
            for member in group.members:
                layer = get_layer(wide.model, member.layer)
                if member.side == "producer":
                    layer.weight, layer.bias = (
                        nn.Parameter(twins @ each.detach()) for each in (layer.weight, layer.bias)
                    )
                    layer.out_features = len(twins)
                else:
                    layer.weight = nn.Parameter(layer.weight.detach() @ twins.T / 2)
                    layer.in_features = len(twins)
    wide = Network.prepared(wide.model, IMAGES[:1])
    assert [group.size for group in wide.structure.groups] != [group.size for group in structure.groups]
    expected = narrow.model(IMAGES).detach()
    assert error(wide.model, expected) < 1e-4
    for alignment in ("weights", "activations"):
        fused = fuse([wide, narrow], images=IMAGES, config=FusionConfig(alignment=alignment, repair=False))
        assert error(fused, expected) < 1e-4


def test_dimensions_inside_heads_come_as_near_to_the_anchors_as_they_can() -> None:
    torch.manual_seed(0)
    one, other = (Network.prepared(trained(torchvision_vit(), seed), IMAGES[:1]) for seed in (0, 1))
    expected = other.model(IMAGES).detach()

    def distance(model: nn.Module) -> float:
        ours, theirs = one.model.state_dict(), model.state_dict()
        return sum(float((ours[name] - theirs[name]).square().sum()) for name in ours if "_proj.weight" in name)

    before = distance(other.model)
    for pair in zip(one.structure.groups, other.structure.groups, strict=True):
        if pair[0].kind == "heads":
            assert align_inside(one.model, other.model, pair)
            assert not align_inside(one.model, other.model, pair)
    assert error(other.model, expected) < 1e-4
    assert distance(other.model) < before


def test_transformers_of_different_numbers_of_heads_are_refused() -> None:
    models = [torchvision_vit(heads) for heads in (2, 4)]
    with pytest.raises(ValueError, match=r"group 3 \(heads, .*has 2 and 4 of them, and they go one to one"):
        fuse(models, images=IMAGES)


@pytest.mark.parametrize("make", [torchvision_vit])
def test_transformers_side_by_side_are_refused_for_their_norms(make: Callable[..., nn.Module]) -> None:
    with pytest.raises(ValueError, match=r"a norm is taken over all channels of group .*align them"):
        fuse([make(), make()], images=IMAGES, config=FusionConfig(method="folding"))
