"""Networks as bytes: a weight with several names is stored once and comes back tied, a frozen one frozen."""

import copy
import json
import math
from pathlib import Path

import pytest
import safetensors.torch
import torch
from torch import nn

from workloads.compression.compress import Sources, compress
from workloads.config import CompressionConfig, TrainingConfig
from workloads.data.samples import Dataset
from workloads.measuring.evaluation import parameter_count
from workloads.networks.checkpoints import FORMAT, Description, digest, dumps, loads, ties
from workloads.networks.exporting import export
from workloads.structure.network import Network
from workloads.training.loop import train
from workloads.training.snapshots import Snapshot


class Tied(nn.Module):
    """A linear layer that has the weight of another, a layer that stands twice in a list, and a head with two names."""

    def __init__(self, num_classes: int):
        super().__init__()
        self.stem, self.a, self.b = nn.Conv2d(1, 8, 3), nn.Linear(8, 8), nn.Linear(8, 8)
        self.b.weight = self.a.weight
        twice = nn.Linear(8, 8)
        self.layers = nn.ModuleList([twice, nn.Linear(8, 8), twice])
        self.fc = nn.Linear(8, num_classes)
        self.head = self.fc

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        x = self.b(self.a(self.stem(x).relu().mean((2, 3))).relu()).relu()
        for layer in self.layers:
            x = layer(x).relu()
        return self.head(x)


def tied(*, num_classes: int, in_channels: int = 1) -> nn.Module:
    return Tied(num_classes)


def frozen(*, num_classes: int, in_channels: int = 1) -> nn.Module:
    model = nn.Sequential(
        *(nn.Conv2d(1, 8, 3, bias=False), nn.BatchNorm2d(8), nn.ReLU(), nn.Conv2d(8, 12, 3), nn.ReLU()),
        *(nn.AdaptiveAvgPool2d(1), nn.Flatten(), nn.Linear(12, num_classes)),
    )
    model[0].requires_grad_(False)
    model[3].requires_grad_(False)
    return model


def described(model: nn.Module, name: str) -> Description:
    return Description({"name": f"{__name__}:{name}"}, 1, 10, parameter_count(model))


TIES = {"b.weight": "a.weight", "layers.2.weight": "layers.0.weight", "layers.2.bias": "layers.0.bias"} | {
    f"head.{name}": f"fc.{name}" for name in ("weight", "bias")
}
FLOAT = 1
"""The number of 32-bit floating point in ONNX."""
IMAGES = torch.randn(6, 1, 12, 12, generator=torch.Generator().manual_seed(0))


def test_what_is_tied_is_stored_once_and_comes_back_tied() -> None:
    model = tied(num_classes=10).eval()
    assert ties(model) == TIES
    content = dumps(model, described(model, "tied"))
    assert safetensors.torch.load(content).keys() == model.state_dict().keys() - TIES.keys()
    loaded, _ = loads(content, "memory")
    assert torch.equal(loaded(IMAGES), model(IMAGES))
    assert ties(loaded) == TIES
    assert parameter_count(loaded) == parameter_count(model)
    assert loaded.b.weight is loaded.a.weight
    assert loaded.layers[2].weight is loaded.layers[0].weight


def test_ties_that_the_builder_does_not_make_come_back_too() -> None:
    model = frozen(num_classes=10).eval()
    twin = nn.Conv2d(8, 12, 3)
    model[3] = nn.Sequential(twin, nn.Conv2d(12, 12, 1), nn.Conv2d(12, 12, 1))
    model[3][2].weight = model[3][1].weight
    model.register_buffer("scale", torch.ones(2))
    model[3].register_buffer("same", model.scale)
    fresh = copy.deepcopy(model)
    fresh[3].same = torch.zeros(2)
    fresh[3][2].weight = nn.Parameter(torch.zeros(12, 12, 1, 1))
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr("tests.workloads.test_checkpoints.frozen", lambda *, num_classes, in_channels: fresh)
        loaded, _ = loads(dumps(model, described(model, "frozen")), "memory")
    assert loaded[3][2].weight is loaded[3][1].weight
    assert loaded[3].same is loaded.scale
    assert torch.equal(loaded(IMAGES), model(IMAGES))


def test_a_pruned_network_keeps_its_ties() -> None:
    model = tied(num_classes=10).eval()
    base = Network.prepared(model, IMAGES[:1])
    pruned = compress(base, CompressionConfig(sparsity=0.5), Sources(IMAGES[:1])).model
    assert parameter_count(pruned) < parameter_count(model)
    loaded, _ = loads(dumps(pruned, described(model, "tied")), "memory")
    assert ties(loaded) == ties(pruned) == TIES
    assert torch.equal(loaded(IMAGES), pruned(IMAGES))
    assert parameter_count(loaded) == parameter_count(pruned)


def test_a_training_of_tied_weights_goes_on_from_a_snapshot(digits: Dataset) -> None:
    config = TrainingConfig(epochs=2, batch_size=100, schedule="constant", learning_rate=0.05)
    snapshots: list[Snapshot] = []
    model = tied(num_classes=10)
    other = copy.deepcopy(model)
    train(model, digits, config, seed=0, snapshot_every=1, on_snapshot=snapshots.append)
    train(other, digits, config, seed=0, start=Snapshot.loads(snapshots[0].dumps()))
    assert ties(model) == ties(other) == TIES
    assert all(map(torch.equal, model.parameters(), other.parameters()))


@pytest.mark.parametrize("name", ["safetensors", "torch-export"])
def test_tied_networks_are_exported(name: str, tmp_path: Path) -> None:
    model = tied(num_classes=10).eval()
    assert export(model, described(model, "tied"), (1, 12, 12), name, tmp_path / "tied") < 1e-5


@pytest.mark.slow
def test_tied_networks_leave_as_onnx_with_each_weight_once(tmp_path: Path) -> None:
    onnx = pytest.importorskip("onnx")
    reference = pytest.importorskip("onnx.reference")
    for package in ("onnxscript", "onnxruntime"):
        pytest.importorskip(package)
    whole = tied(num_classes=10).eval()
    base = Network.prepared(whole, IMAGES[:1])
    narrow = compress(base, CompressionConfig(sparsity=0.5), Sources(IMAGES[:1])).model
    for model in (whole, narrow):
        assert export(model, described(model, "tied"), (1, 12, 12), "onnx", tmp_path / "tied.onnx") < 1e-5
        written = onnx.load(tmp_path / "tied.onnx")
        (logits,) = reference.ReferenceEvaluator(written).run(None, {"images": IMAGES.numpy()})
        torch.testing.assert_close(torch.from_numpy(logits), model(IMAGES).detach(), rtol=1e-4, atol=1e-6)
        stored = sum(math.prod(tensor.dims) for tensor in written.graph.initializer if tensor.data_type == FLOAT)
        assert stored == parameter_count(model)


def test_tensors_that_overlap_without_being_the_same_are_refused() -> None:
    model = nn.Sequential(nn.Linear(8, 8), nn.ReLU(), nn.Linear(8, 8))
    model[2].weight = nn.Parameter(model[0].weight.detach().T)
    with pytest.raises(ValueError, match=r"'0\.weight' and '2\.weight' lie in the same memory but are not the same"):
        dumps(model, Description({}, 1, 8, 1))
    both = torch.zeros(2, 64)
    model[0].weight, model[2].weight = (nn.Parameter(part.view(8, 8)) for part in both)
    assert ties(model) == {}
    dumps(model, Description({}, 1, 8, 1))


def test_what_is_frozen_is_frozen_after_pruning_repair_and_storing() -> None:
    model = frozen(num_classes=10).eval()
    base = Network.prepared(model, IMAGES[:1])
    sources = Sources(IMAGES[:1], images=[IMAGES], batches=[(IMAGES, torch.arange(6))])
    for settings in ({"repair": "data"}, {"method": "folding"}, {"method": "reconstruction"}, {"criterion": "taylor"}):
        pruned = compress(base, CompressionConfig(sparsity=0.5, **settings), sources).model
        trainable = {name for name, parameter in pruned.named_parameters() if parameter.requires_grad}
        assert trainable == {"1.weight", "1.bias", "7.weight", "7.bias"}
        loaded, _ = loads(dumps(pruned, described(model, "frozen")), "memory")
        assert {name for name, parameter in loaded.named_parameters() if parameter.requires_grad} == trainable
    assert {name for name, parameter in base.model.named_parameters() if parameter.requires_grad} == trainable
    model.requires_grad_(True)
    loaded, _ = loads(dumps(model, described(model, "frozen")), "memory")
    assert all(parameter.requires_grad for parameter in loaded.parameters())


def test_a_file_of_an_earlier_version_is_read_as_its_builder_makes_it() -> None:
    model = frozen(num_classes=10).eval()
    state = model.state_dict()
    text = json.dumps({"model": {"name": f"{__name__}:frozen"}, "channels": 1, "classes": 10, "parameters": 1})
    header = {"format": FORMAT, "description": text, "sha256": digest(state, text)}
    loaded, description = loads(safetensors.torch.save(state, header), "memory")
    assert torch.equal(loaded(IMAGES), model(IMAGES))
    assert description.parameters == 1
    assert [p.requires_grad for p in loaded.parameters()] == [p.requires_grad for p in model.parameters()]
