"""Networks with odd parts: weights that are computed, kept activations, compiled parts, whole numbers, subclasses."""

from collections.abc import Callable
from pathlib import Path

import pytest
import safetensors.torch
import torch
from torch import Tensor, nn
from torch.nn.utils import parametrizations, prune, weight_norm

from workloads.compression.compress import Sources, compress
from workloads.config import CompressionConfig, FusionConfig, ModelConfig
from workloads.fusion.fuse import fuse
from workloads.networks.checkpoints import Description, dumps, load_state
from workloads.networks.exporting import export
from workloads.networks.models import build
from workloads.networks.weights import read_state
from workloads.structure.network import Network

IMAGES = torch.randn(6, 3, 12, 12, generator=torch.Generator().manual_seed(0))
LABELS = torch.arange(6) % 5
EVERY_WAY = (
    {"criterion": "taylor"},
    {"criterion": "hessian"},
    {"criterion": "chip"},
    {"method": "folding"},
    {"method": "reconstruction"},
    {"repair": "data"},
    {"repair": "least-squares"},
)


def net(*middle: nn.Module) -> nn.Sequential:
    """Two convolutions with something between them, and a classifier."""
    torch.manual_seed(0)
    tail = nn.Conv2d(8, 12, 3), nn.ReLU(), nn.AdaptiveAvgPool2d(1), nn.Flatten(), nn.Linear(12, 5)
    return nn.Sequential(nn.Conv2d(3, 8, 3), *middle, nn.ReLU(), *tail).eval()


def compressed_in_every_way(network: Network, images: Tensor = IMAGES) -> None:
    """Every criterion, method and repair that looks into a network runs; sparsity 0 changes nothing."""
    sources = Sources(images[:1], batches=[(images, LABELS)], images=[images])
    for way in EVERY_WAY:
        narrow = compress(network, CompressionConfig(sparsity=0.5, kinds="all", **way), sources).model
        assert bool(narrow(images).isfinite().all()), way
    same = compress(network, CompressionConfig(sparsity=0, kinds="all", repair="data"), sources).model
    torch.testing.assert_close(same(images), network.model(images), rtol=1e-4, atol=1e-5)


class Keeping(nn.Module):
    """Keeps an activation, such as for distillation."""

    def __init__(self) -> None:
        super().__init__()
        self.body = net()

    def forward(self, x: Tensor) -> Tensor:
        self.features = self.body[:3](x)
        return self.body[3:](self.features)


@pytest.mark.filterwarnings("ignore:.*weight_norm.*")
@pytest.mark.parametrize("change", [weight_norm, lambda layer: prune.l1_unstructured(layer, "weight", 0.3)])
def test_weights_that_hooks_compute_stay_and_are_named_also_after_a_step(change: Callable[[nn.Module], object]) -> None:
    model = net()
    change(model[0])
    model(IMAGES).sum().backward()
    network = Network.prepared(model, IMAGES[:1])
    assert [group.layers for group in network.structure.groups] == [("2",)]
    assert network.structure.kept == (("0", "layer '0' (Conv2d) computes its weight from other tensors"),)
    network.model(IMAGES).sum().backward()
    compressed_in_every_way(network)


def test_an_activation_that_a_module_keeps_is_no_obstacle() -> None:
    model = Keeping()
    model(IMAGES).sum().backward()
    network = Network.prepared(model, IMAGES[:1])
    assert len(network.structure.groups) == 2
    assert model.features.requires_grad
    compressed_in_every_way(network)


def test_a_lazy_layer_is_refused_with_the_remedy() -> None:
    model = nn.Sequential(nn.LazyConv2d(8, 3), *net()[1:])
    with pytest.raises(ValueError, match=r"layer '0' \(LazyConv2d\) has no weights yet: run the network once"):
        Network.prepared(model, IMAGES[:1])


def test_a_linear_layer_with_a_computed_weight_is_no_attention() -> None:
    model = net()
    parametrizations.orthogonal(model[6])
    kept = dict(Network.prepared(model, IMAGES[:1]).structure.kept)
    assert kept["6"] == kept["2"] == "layer '6' (ParametrizedLinear) computes its weight from other tensors"


def traced(part: nn.Module) -> nn.Module:
    scripted: nn.Module = torch.jit.trace(part, torch.ones(1, 8, 10, 10))
    return scripted


@pytest.mark.filterwarnings("ignore:.*torch.jit.*")
@pytest.mark.parametrize("script", [torch.jit.script, traced])
def test_the_rest_of_a_network_with_a_scripted_part_is_pruned_and_fused(
    script: Callable[[nn.Module], nn.Module],
) -> None:
    model = net(script(nn.Sequential(nn.Conv2d(8, 8, 1), nn.ReLU())))
    network = Network.prepared(model, IMAGES[:1])
    assert [group.layers for group in network.structure.groups] == [("3",)]
    assert ("1.0", "layer '1.0' is compiled by TorchScript") in network.structure.kept
    compressed_in_every_way(network)
    config = FusionConfig(alignment="none", repair="none")
    fused = fuse([network.model, network.model], [network.structure] * 2, [IMAGES], config=config).eval()
    torch.testing.assert_close(fused(IMAGES), network.model(IMAGES), rtol=1e-4, atol=1e-5)


def compiled_in_part(*, num_classes: int) -> nn.Module:
    model = net()
    model[2] = torch.compile(model[2])  # type: ignore[assignment]
    return model


def test_compiled_parts_are_the_modules_inside(tmp_path: Path) -> None:
    model = compiled_in_part(num_classes=5)
    network = Network.prepared(model, IMAGES[:1])
    assert [group.layers for group in network.structure.groups] == [("2",), ("0",)]
    compressed_in_every_way(network)
    assert type(model[2]).__name__ == "OptimizedModule"
    built = build(ModelConfig(name=f"{__name__}:compiled_in_part"), channels=3, classes=5)
    safetensors.torch.save_file(model.state_dict(), tmp_path / "compiled.safetensors")
    load_state(built, read_state(tmp_path / "compiled.safetensors"), "compiled")
    torch.testing.assert_close(built(IMAGES), net()(IMAGES))


@pytest.mark.parametrize("wrap", [nn.DataParallel, torch.compile])
def test_a_wrapped_network_leaves_as_the_one_inside(wrap: Callable[[nn.Module], nn.Module], tmp_path: Path) -> None:
    description = Description({"name": f"{__name__}:compiled_in_part"}, 3, 5, 1)
    assert safetensors.torch.load(dumps(wrap(net()), description)).keys() == net().state_dict().keys()
    assert export(wrap(net()), description, (3, 12, 12), "torch-export", tmp_path / "net.pt2") < 1e-5


class Tagged(Tensor):
    """A subclass of tensors, which PyTorch can neither copy deeply nor key by."""


def test_images_of_a_subclass_of_tensor_serve_as_tensors() -> None:
    compressed_in_every_way(Network.prepared(net(), IMAGES[:1]), IMAGES.as_subclass(Tagged))


class Words(nn.Module):
    """Reads whole numbers, by an embedding of each, beside one of each place."""

    def __init__(self) -> None:
        super().__init__()
        self.words, self.places = nn.Embedding(20, 8), nn.Embedding(12, 8)
        self.mix, self.head = nn.Linear(8, 6), nn.Linear(6, 5)

    def forward(self, x: Tensor) -> Tensor:
        x = self.words(x.flatten(1)) + self.places(torch.arange(12))
        return self.head(self.mix(x).relu().mean(1))


def test_networks_on_whole_numbers_are_compressed_in_every_way() -> None:
    words = torch.arange(72).view(6, 3, 4) % 20
    network = Network.prepared(Words(), words[:1])
    assert [group.layers for group in network.structure.groups] == [("mix",), ("words", "places")]
    compressed_in_every_way(network, words)


@torch.no_grad()
def test_folding_moves_the_mean_of_an_embedding_into_its_rows() -> None:
    """It has no bias that could take it."""
    words = torch.arange(72).view(6, 3, 4) % 20
    network = Network.prepared(Words(), words[:1])
    config = CompressionConfig(sparsity=0.5, group=1, method="folding")
    narrow = compress(network, config, Sources(words[:1])).model
    assert not hasattr(narrow.words, "bias")
    assert dict(narrow.named_parameters())["words.weight"].shape == (20, 4)
