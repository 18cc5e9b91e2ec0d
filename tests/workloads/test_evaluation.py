"""Accuracy, loss, size, multiplications and time of a network."""

from dataclasses import replace

import pytest
import torch
import torchvision
from torch import nn
from torch.utils.flop_counter import FlopCounterMode

from workloads.config import ModelConfig, TrainingConfig
from workloads.data.samples import Dataset
from workloads.measuring.evaluation import (
    evaluate,
    evaluate_together,
    fast_batch,
    mac_count,
    parameter_count,
)
from workloads.networks.models import build
from workloads.training.loop import train


def test_accuracy_is_over_all_samples(digits: Dataset) -> None:
    class Constant(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.bias = nn.Parameter(torch.zeros(10))

        def forward(self, x: torch.Tensor) -> torch.Tensor:
            return self.bias.repeat(len(x), 1)

    model = Constant()
    model.bias.data[4] = 1.0
    labels = digits.test.labels[digits.test_pool]
    expected = 100 * float((labels == 4).float().mean())
    for size in (100, 7, 33):
        measured = evaluate(model, digits, batch_size=size)
        assert measured.accuracy == pytest.approx(expected)
        logits = model.bias.repeat(len(labels), 1)
        assert measured.loss == pytest.approx(nn.functional.cross_entropy(logits, labels).item(), rel=1e-5)


def test_balanced_accuracy_weighs_every_class_the_same(digits: Dataset) -> None:
    labels = digits.test.labels[digits.test_pool]
    rare = (labels == 1).nonzero()[:1, 0]
    chosen = torch.cat([(labels == 0).nonzero()[:, 0], rare])
    uneven = replace(digits, test_pool=digits.test_pool[chosen])

    class Zero(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.bias = nn.Parameter(torch.eye(10)[0])

        def forward(self, x: torch.Tensor) -> torch.Tensor:
            return self.bias.repeat(len(x), 1)

    measured = evaluate(Zero(), uneven, batch_size=7)
    assert measured.accuracy == pytest.approx(100 - 100 / len(chosen))
    assert measured.balanced_accuracy == 50, "all of one class, none of the other; eight classes have no images"


def test_counts_of_the_published_networks() -> None:
    """Against the paper's Table 9: its ResNet18 counts weights alone; its VGG11-BN has two more Linear(512, 512) and no
    biases in its convolutions."""
    resnet = build(ModelConfig(name="resnet18"), channels=3, classes=10)
    weights = [m.weight.numel() for m in resnet.modules() if isinstance(m, (nn.Conv2d, nn.Linear))]
    assert sum(weights) == 11_164_352
    vgg = build(ModelConfig(name="vgg11_bn"), channels=3, classes=10)
    biases = sum(len(m.bias) for m in vgg.modules() if isinstance(m, nn.Conv2d) and m.bias is not None)
    assert parameter_count(vgg) + 2 * (512 * 512 + 512) - biases == 9_753_674


def test_macs() -> None:
    small = nn.Sequential(nn.Conv2d(1, 2, 3), nn.Flatten(), nn.Linear(2 * 4, 3))
    assert mac_count(small, (1, 4, 4)) == 2 * 9 * 4 + 8 * 3


SLOW = pytest.mark.slow
FAMILIES = {  # image size, by the smallest network of each of torchvision's families
    **dict.fromkeys(("alexnet", "densenet121", "efficientnet_b0", "googlenet", "mnasnet0_5", "mobilenet_v2"), 224),
    **dict.fromkeys(("mobilenet_v3_small", "resnet18", "shufflenet_v2_x0_5", "squeezenet1_1", "vgg11_bn"), 224),
    **dict.fromkeys(("convnext_tiny", "maxvit_t", "regnet_y_400mf", "swin_t", "vit_b_16"), 224),
    **{"swin_v2_t": 256, "inception_v3": 299},
}
LONG = {
    "maxvit_t",
    "swin_t",
    "swin_v2_t",
    "inception_v3",
    "densenet121",
    "efficientnet_b0",
    "mobilenet_v2",
    "regnet_y_400mf",
}
OPTIONS = {"googlenet": {"init_weights": False, "aux_logits": False}, "inception_v3": {"init_weights": False}}


@pytest.mark.parametrize("name", [pytest.param(name, marks=SLOW if name in LONG else ()) for name in FAMILIES])
def test_multiplications_and_parameters_are_the_published_ones(name: str) -> None:
    """Also what PyTorch's counter finds in gradient mode where there are no fused kernels, as on the device `meta`."""
    with torch.device("cpu" if name.startswith("regnet") else "meta"):
        model = torchvision.models.get_model(name, **OPTIONS.get(name, {})).eval()
    published = torchvision.models.get_model_weights(name).DEFAULT.meta
    shape = (3, FAMILIES[name], FAMILIES[name])
    if name in ("vit_b_16", "mobilenet_v2", "densenet121"):  # IMAGENET1K_V1: later weights are of other image sizes
        published = torchvision.models.get_model_weights(name).IMAGENET1K_V1.meta
    macs = mac_count(model, shape)
    assert round(macs / 1e9, 3) == pytest.approx(published["_ops"], abs=0.0011)
    assert parameter_count(model) == published["num_params"]
    with FlopCounterMode(display=False) as counter:
        model(torch.zeros(1, *shape, device=next(model.parameters()).device))
    assert macs == counter.get_total_flops() // 2


def attention_products(tokens: int, dim: int, hidden: int) -> int:
    """Of a transformer's layer: four projections, queries by keys, weights by values, and the perceptron."""
    return 4 * tokens * dim * dim + 2 * tokens * tokens * dim + 2 * tokens * dim * hidden


@pytest.mark.parametrize("frozen", [False, True])
def test_multiplications_of_attention_count_where_its_kernels_are_fused(frozen: bool) -> None:
    vit = torchvision.models.VisionTransformer(
        image_size=16, patch_size=4, num_layers=2, num_heads=2, hidden_dim=8, mlp_dim=12, num_classes=5
    )
    expected = 16 * 8 * 3 * 16 + 2 * attention_products(17, 8, 12) + 8 * 5
    assert mac_count(vit.requires_grad_(not frozen), (3, 16, 16)) == expected
    layer = nn.TransformerEncoderLayer(16, 2, 24, batch_first=True)  # rows of the image are its tokens
    encoder = nn.Sequential(nn.Flatten(1, 2), nn.TransformerEncoder(layer, 3)).requires_grad_(not frozen)
    assert mac_count(encoder, (3, 10, 16)) == 3 * attention_products(30, 16, 24)
    assert torch.backends.mha.get_fastpath_enabled()
    assert torch.is_grad_enabled()


def test_bfloat16_moves_accuracy_little_and_leaves_the_network(digits: Dataset) -> None:
    model = build(ModelConfig(name="vgg11_bn", width=0.125), channels=1, classes=10)
    train(model, digits, TrainingConfig(epochs=20, batch_size=25, schedule="one-cycle"), seed=0)
    exact, rounded = (evaluate(model, digits, precision=precision) for precision in ("float32", "bfloat16"))
    assert exact.accuracy > 60
    assert rounded.accuracy == pytest.approx(exact.accuracy, abs=2), "two images in 100"
    assert rounded.loss != exact.loss
    assert rounded.loss == pytest.approx(exact.loss, rel=0.02)
    assert {parameter.dtype for parameter in model.parameters()} == {torch.float32}
    both = evaluate_together([model, model], digits, precision="bfloat16")
    assert [replace(measured, seconds=0) for measured in both] == 2 * [replace(rounded, seconds=0)]


def test_the_size_of_batches_changes_nothing_but_rounding(digits: Dataset) -> None:
    model = build(ModelConfig(name="resnet18", width=0.125), channels=1, classes=10)
    small, large = (evaluate(model, digits, batch_size=size) for size in (37, 500))
    assert small.accuracy == large.accuracy
    assert small.loss == pytest.approx(large.loss, rel=1e-6)


def test_outputs_that_are_no_numbers_are_an_error(digits: Dataset, vgg: nn.Module) -> None:
    vgg.classifier.bias.data[3] = float("nan")
    with pytest.raises(FloatingPointError, match="are not numbers"):
        evaluate(vgg, digits)


def test_large_images_are_measured_in_small_batches() -> None:
    cpu, gpu = torch.device("cpu"), torch.device("cuda")
    assert [fast_batch(cpu, (3, size, size)) for size in (8, 32, 224)] == [100, 100, 8]
    assert [fast_batch(gpu, (3, size, size)) for size in (32, 64, 224)] == [500, 125, 10]
