"""Finding groups of torchvision's families, and pruning them."""

import copy

import pytest
import torch
from torch import Tensor, nn
from torch.nn import functional as F
from torchvision.models import VisionTransformer, get_model

from workloads.compression.budgets import parameters_after, smallest
from workloads.compression.compress import Sources, compress
from workloads.config import CompressionConfig
from workloads.measuring.evaluation import parameter_count
from workloads.structure.finding import trace
from workloads.structure.groups import Group, Maps, apply
from workloads.structure.network import Network

# Family: (smallest member, pixels, groups, groups that stay as they are).
FAMILIES = {
    "alexnet": ("alexnet", 64, 6, 0),
    "convnext": ("convnext_tiny", 64, 22, 0),
    "densenet": ("densenet121", 64, 120, 0),
    "efficientnet": ("efficientnet_b0", 64, 40, 0),
    "efficientnet_v2": ("efficientnet_v2_s", 64, 75, 0),
    "googlenet": ("googlenet", 64, 57, 0),
    "inception": ("inception_v3", 96, 94, 0),
    "maxvit": ("maxvit_t", 224, 95, 0),
    "mnasnet": ("mnasnet0_5", 64, 25, 0),
    "mobilenet_v2": ("mobilenet_v2", 64, 25, 0),
    "mobilenet_v3": ("mobilenet_v3_small", 64, 27, 0),
    "regnet": ("regnet_y_400mf", 64, 37, 0),
    "resnet": ("resnet50", 64, 37, 0),
    "resnext": ("resnext50_32x4d", 64, 21, 0),
    "shufflenet": ("shufflenet_v2_x0_5", 64, 18, 8),
    "squeezenet": ("squeezenet1_0", 64, 25, 0),
    "swin": ("swin_t", 64, 52, 0),
    "swin_v2": ("swin_v2_t", 64, 52, 12),
    "vgg": ("vgg11_bn", 64, 9, 0),
    "vit": ("vit_b_16", 224, 49, 0),
}


def of_family(family: str) -> tuple[nn.Module, Tensor]:
    name, pixels, *_ = FAMILIES[family]
    torch.manual_seed(0)
    options = {"init_weights": False} if family in ("googlenet", "inception") else {}
    model = get_model(name, weights=None, num_classes=10, **options)
    if family in ("alexnet", "vgg"):  # its classifier has most of the weights and none of what is difficult
        first = next(layer for layer in model.classifier if isinstance(layer, nn.Linear))
        model.classifier = nn.Sequential(nn.Linear(first.in_features, 32), nn.ReLU(), nn.Linear(32, 10))
    for module in model.modules():
        if isinstance(module, nn.Linear) and not module.weight.any():
            nn.init.normal_(module.weight)
        if isinstance(module, nn.BatchNorm2d):
            module.running_var.uniform_(0.5, 1.5)
            module.running_mean.normal_(0, 0.1)
    return model.eval(), torch.randn(2, 3, pixels, pixels)


def halving(group: Group) -> Maps:
    """Average every two neighbours, and sum them where they are read."""
    pairs = F.one_hot(torch.arange(group.size) // 2).T.float()
    return Maps(pairs / pairs.sum(1, keepdim=True), pairs)


QUICK = {"mobilenet_v2", "mobilenet_v3", "mnasnet", "squeezenet", "alexnet"}


@pytest.mark.parametrize(
    "family", [pytest.param(family, marks=() if family in QUICK else pytest.mark.slow) for family in FAMILIES]
)
@torch.no_grad()
def test_torchvisions_families(family: str) -> None:
    model, images = of_family(family)
    logits = model(images)
    scale = logits.abs().max()
    network = Network.prepared(model, images[:1])
    assert (len(network.structure.groups), len(network.structure.kept)) == FAMILIES[family][2:]
    sources = Sources(images[:1])
    same = compress(network, CompressionConfig(sparsity=0), sources)
    torch.testing.assert_close(same.model(images) / scale, logits / scale, rtol=0, atol=1e-4)

    half = compress(network, CompressionConfig(sparsity=0.5, criterion={"name": "random"}, kinds="all"), sources)
    assert half.model(images).isfinite().all()
    sizes = {number: group.size for number, group in enumerate(half.structure.groups)}
    assert all(sizes[g.number] == max(g.size // 2, smallest(g)) for g in network.structure.groups)
    assert parameter_count(half.model) == parameters_after(network.model, network.structure, sizes)

    twins, structure = copy.deepcopy(network.model), network.structure
    merging = [
        group
        for group in structure.groups
        if group.kind != "query-key" and group.size // 2 >= smallest(group)  # of queries each half would add its share
    ]
    for group in merging:
        doubled = torch.eye(group.size)[torch.arange(group.size) // 2 * 2]
        apply(twins, group, Maps(doubled, doubled))
    expected = twins(images)
    for number in (group.number for group in merging):
        pair = halving(structure.groups[number])
        apply(twins, structure.groups[number], pair)
        structure = structure.narrowed(number, len(pair.P))
    scale = expected.abs().max()
    torch.testing.assert_close(twins(images) / scale, expected / scale, rtol=0, atol=1e-4)
    again = trace(twins, images[:1])
    for ours, found in zip(structure.groups, again.groups, strict=True):
        assert ours.size == found.size
        for one, other in zip(ours.members, found.members, strict=True):
            assert (one.layer, one.side) == (other.layer, other.side)
            assert torch.equal(one.index, other.index)


def small_transformer() -> tuple[nn.Module, Tensor]:
    torch.manual_seed(0)
    return VisionTransformer(32, 16, 2, 2, 16, 24, num_classes=4).eval(), torch.randn(2, 3, 32, 32)


@pytest.mark.parametrize(
    "family",
    ["mobilenet_v3", "vit", *(pytest.param(family, marks=pytest.mark.slow) for family in ("shufflenet", "regnet"))],
)
@pytest.mark.parametrize("method", ["intra-fusion", "fusion-preserving", "folding", "neuron-merging", "reconstruction"])
@torch.no_grad()
def test_every_method_runs_on_grouped_convolutions_gates_shuffles_and_transformers(family: str, method: str) -> None:
    model, images = small_transformer() if family == "vit" else of_family(family)
    network = Network.prepared(model, images[:1])
    few = network._replace(
        structure=type(network.structure)(network.structure.groups[:3], network.structure.normalised)
    )
    config = CompressionConfig(sparsity=0.5, method={"name": method}, repair="data", kinds=["channels", "hidden"])
    pruned = compress(few, config, Sources(images[:1], images=lambda: [images]))
    assert pruned.model(images).isfinite().all()
    assert parameter_count(pruned.model) < parameter_count(network.model)
