"""Where tensors lie when networks are on a GPU, on a pretended one that refuses to mix devices as CUDA does."""

from collections.abc import Iterator

import pytest
import torch

from tests.conftest import with_statistics
from tests.pretend_gpu import GPU, OnGpu, pretended_gpu
from workloads.compression.compress import Sources, compress
from workloads.compression.criteria import CRITERIA, importance
from workloads.compression.methods import METHODS
from workloads.config import CompressionConfig, FusionConfig, ModelConfig, TrainingConfig
from workloads.data.samples import Dataset
from workloads.fusion.fuse import fuse
from workloads.measuring.evaluation import accuracy, evaluate_together, logits
from workloads.measuring.landscape import Plane, embedded
from workloads.networks.models import build
from workloads.structure.network import Network
from workloads.training.loop import train
from workloads.training.snapshots import Snapshot


@pytest.fixture
def gpu() -> Iterator[torch.device]:
    with pretended_gpu() as device:
        yield device


def test_the_pretended_gpu_refuses_what_cuda_does(gpu: torch.device) -> None:
    there, here = torch.ones(3, device=gpu), torch.ones(3)
    assert isinstance(there, OnGpu)
    assert (there + 1).device == gpu
    assert there.cpu().tolist() == [1, 1, 1]
    for forbidden in (
        lambda: there + here,
        lambda: torch.eye(3) @ there,
        lambda: here[torch.zeros(2, dtype=torch.long, device=gpu)],
        lambda: there.numpy(),
        lambda: torch.rand(2, device=gpu, generator=torch.Generator()),
        lambda: torch.nn.Linear(3, 2)(there),
    ):
        with pytest.raises((RuntimeError, TypeError)):
            forbidden()


def narrow(name: str, seed: int = 0) -> torch.nn.Module:
    model = build(ModelConfig(name=name, width=0.125), channels=1, classes=10, seed=seed)
    return with_statistics(model).to(GPU)


def sources(digits: Dataset, gpu: torch.device) -> Sources:
    batches = [(images, labels) for images, labels in digits.batches("train", 16, gpu, digits.train_pool[:32])]
    return Sources(
        torch.zeros(1, *digits.shape, device=gpu), lambda: batches, lambda: [images for images, _ in batches]
    )


@pytest.mark.parametrize(
    "repair", ["data", *(pytest.param(repair, marks=pytest.mark.slow) for repair in ("none", "data-free"))]
)
@pytest.mark.parametrize("method", METHODS)
def test_every_method_with_every_repair(digits: Dataset, gpu: torch.device, method: str, repair: str) -> None:
    of = sources(digits, gpu)
    network = Network.prepared(narrow("resnet10"), of.example)
    settings = {"sparsity": 0.5, "method": {"name": method}, "repair": repair}
    smaller = compress(network, CompressionConfig(**settings), of).model
    assert {parameter.device for parameter in smaller.parameters()} == {gpu}
    assert smaller(of.images()[0]).isfinite().all()


@pytest.mark.parametrize("criterion", CRITERIA)
def test_every_criterion(digits: Dataset, gpu: torch.device, criterion: str) -> None:
    of = sources(digits, gpu)
    network = Network.prepared(narrow("vgg11_bn"), of.example)
    for group in network.structure.groups[::4]:
        scores = importance(
            criterion,
            network.model,
            group,
            batches=of.batches(),
            images=of.images(),
            example=of.example,
            statistics=network.statistics,
        )
        assert scores.device.type == "cpu"


def test_training_goes_on_from_a_snapshot(digits: Dataset, gpu: torch.device) -> None:
    config = TrainingConfig(epochs=2, batch_size=64, learning_rate=0.01, precision="float32")
    kept: list[Snapshot] = []
    models = [narrow("vgg11_bn") for _ in range(2)]
    history = train(models[0], digits, config, seed=1, snapshot_every=1, on_snapshot=kept.append)
    again = train(models[1], digits, config, seed=1, start=Snapshot.loads(kept[0].dumps()))
    assert [epoch.train_loss for epoch in again] == [epoch.train_loss for epoch in history]
    assert all(map(torch.equal, models[0].parameters(), models[1].parameters()))


def test_networks_are_measured_where_they_are(digits: Dataset, gpu: torch.device) -> None:
    of = sources(digits, gpu)
    network = Network.prepared(narrow("vgg11_bn"), of.example)
    pruned = [compress(network, CompressionConfig(group=2, sparsity=sparsity), of).model for sparsity in (0.3, 0.6)]
    for model, measured in zip(pruned, evaluate_together(pruned, digits), strict=True):
        outputs = logits(model, digits)
        labels = digits.test.labels[digits.test_pool]
        assert measured.accuracy == pytest.approx(100 * (outputs.argmax(1) == labels).double().mean().item())


@pytest.mark.parametrize(
    "alignment",
    ["activations", *(pytest.param(each, marks=pytest.mark.slow) for each in ("weights", "weight-matching", "none"))],
)
def test_networks_are_fused(digits: Dataset, gpu: torch.device, alignment: str) -> None:
    of = sources(digits, gpu)
    networks = [Network.prepared(narrow("resnet10", seed), of.example) for seed in (0, 1)]
    models, structures = [network.model for network in networks], [network.structure for network in networks]
    accuracies = [accuracy(model, of.batches()) for model in models]
    config = FusionConfig(alignment=alignment, weights="accuracy")
    assert fuse(models, structures, of.images(), config, accuracies)(of.images()[0]).device == gpu


def test_a_landscape(digits: Dataset, gpu: torch.device) -> None:
    of = sources(digits, gpu)
    original = Network.prepared(narrow("vgg11_bn"), of.example)
    models = [original.model]
    for method in ("conventional", "intra-fusion"):
        pruned = compress(original, CompressionConfig(sparsity=0.5, method={"name": method}), of)
        models.append(embedded(pruned, original, {number: kept.tolist() for number, kept in pruned.places.items()}))
    plane = Plane(models)
    x, y = plane.grid(2, 0.25)
    assert plane.network(float(x[0]), float(y[0]))(of.images()[0]).device == gpu
