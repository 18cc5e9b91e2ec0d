import copy

import pytest
import torch
from torch import nn

from workloads.compression.group_sizes import size_after
from workloads.compression.methods import METHODS, maps
from workloads.compression.pairings import Pairings
from workloads.structure.batch_norm import merge_batch_norm
from workloads.structure.finding import trace
from workloads.structure.groups import Group, Maps, Structure, apply
from workloads.structure.layers import is_empty, remap

NETWORKS = ("vgg", "resnet")


@pytest.fixture(params=NETWORKS)
def network(request: pytest.FixtureRequest) -> nn.Module:
    return request.getfixturevalue(request.param)


@pytest.fixture
def images() -> torch.Tensor:
    return torch.randn(8, 1, 32, 32, generator=torch.Generator().manual_seed(1))


def test_merging_keeps_the_logits_and_empties_every_batch_norm(network: nn.Module, images: torch.Tensor) -> None:
    before = network(images)
    structure = trace(network, images[:1])
    merge_batch_norm(network, structure)
    torch.testing.assert_close(network(images), before, rtol=1e-4, atol=1e-5)
    norms = [m for m in network.modules() if isinstance(m, nn.BatchNorm2d)]
    assert len(structure.normalised) == len(norms)
    assert all(is_empty(norm) for norm in norms)


def test_groups_of_the_papers_networks(vgg: nn.Module, resnet: nn.Module) -> None:
    example = torch.zeros(1, 1, 32, 32)
    assert [g.size for g in trace(vgg, example).groups] == [64, 64, 64, 64, 32, 32, 16, 8]
    groups = trace(resnet, example).groups
    assert [g.size for g in groups] == [64, 64, 64, 32, 32, 32, 16, 16, 16, 8, 8, 8]
    assert set(groups[0].layers) == {"layer4.1.conv2", "layer4.0.conv2", "layer4.0.shortcut.0"}


def calibration(model: nn.Module, group: Group, images: torch.Tensor) -> dict:
    original = copy.deepcopy(model), group
    return {"model": model, "group": group, "statistics": {}, "original": original, "images": [images]}


@pytest.mark.parametrize("method", METHODS)
def test_sparsity_zero_changes_nothing(network: nn.Module, images: torch.Tensor, method: str) -> None:
    structure = trace(network, images[:1])
    merge_batch_norm(network, structure)
    before = network(images)
    for group in structure.groups:
        scores = torch.rand(group.size)
        apply(network, group, maps(method, Pairings(network, group), scores, size_after(group.size, 0.0)))
    assert torch.equal(network(images), before)


@pytest.mark.parametrize("method", METHODS)
def test_half_of_every_group_goes(network: nn.Module, images: torch.Tensor, method: str) -> None:
    structure = trace(network, images[:1])
    merge_batch_norm(network, structure)
    for group in structure.groups:
        scores = torch.rand(group.size, generator=torch.Generator().manual_seed(2))
        given = calibration(network, group, images)
        m = size_after(group.size, 0.5)
        apply(network, group, maps(method, Pairings(network, group), scores, m, context=given))
    assert network(images).isfinite().all()
    assert [g.size for g in trace(network, images[:1]).groups] == [g.size // 2 for g in structure.groups]
    for module in network.modules():
        if isinstance(module, nn.Conv2d):
            assert module.weight.shape[:2] == (module.out_channels, module.in_channels)


def test_conventional_pruning_is_zeroing_out(network: nn.Module, images: torch.Tensor) -> None:
    """Dropping neurons equals setting their outgoing weights to zero."""
    structure = trace(network, images[:1])
    merge_batch_norm(network, structure)
    for group in structure.groups:
        scores = torch.rand(group.size, generator=torch.Generator().manual_seed(3))
        m = size_after(group.size, 0.5)
        pair = maps("conventional", Pairings(network, group), scores, m)
        pruned, zeroed = copy.deepcopy(network), copy.deepcopy(network)
        apply(pruned, group, pair)
        kept = pair.P.T @ pair.P
        apply(zeroed, group, Maps(torch.eye(group.size), kept))
        torch.testing.assert_close(pruned(images), zeroed(images), rtol=1e-4, atol=1e-5)


def test_remap_behind_a_flatten_moves_whole_blocks() -> None:
    weight = torch.arange(12.0).reshape(2, 6)  # 2 outputs, 3 channels of 2 positions
    index = torch.arange(6).reshape(3, 2)
    matrix = torch.tensor([[0.0, 1.0, 0.0], [0.0, 0.0, 1.0]])
    assert torch.equal(remap(weight, 1, index, matrix), weight[:, 2:])


def test_a_flatten_before_the_classifier_is_pruned() -> None:
    model = nn.Sequential(nn.Conv2d(1, 4, 3), nn.ReLU(), nn.Flatten(), nn.Linear(4 * 9, 3)).eval()
    images = torch.randn(5, 1, 5, 5)
    (group,) = trace(model, images[:1]).groups
    assert group.members[-1].index.shape == (4, 9)
    expected = model(images)
    with torch.no_grad():
        model[3].weight.view(3, 4, 9)[:, 1] = 0
    without = model(images)
    scores = torch.tensor([1.0, 0.0, 1.0, 1.0])
    apply(model, group, maps("conventional", Pairings(model, group), scores, 3))
    torch.testing.assert_close(model(images), without)
    assert not torch.allclose(without, expected)


def test_an_unmerged_batch_norm_keeps_what_is_kept_and_averages_what_is_mixed() -> None:
    model = nn.Sequential(nn.Conv2d(1, 4, 1), nn.ReLU(), nn.BatchNorm2d(4), nn.Flatten(), nn.Linear(16, 2)).eval()
    norm = model[2]
    norm.running_mean.copy_(torch.tensor([0.3, 0.1, 0.5, 0.7]))
    norm.running_var.copy_(torch.tensor([1.0, 4.0, 9.0, 16.0]))
    with torch.no_grad():
        norm.weight.copy_(torch.tensor([1.0, 2.0, 3.0, 4.0]))
    structure = trace(model, torch.zeros(1, 1, 2, 2))
    assert merge_batch_norm(model, structure) == {}
    (group,) = structure.groups
    kept, mixed = copy.deepcopy(model), copy.deepcopy(model)
    selection = torch.eye(4)[[1, 3]]
    apply(kept, group, Maps(selection, selection))
    assert torch.equal(kept[2].running_mean, norm.running_mean[[1, 3]])
    torch.testing.assert_close(kept[2].running_var, norm.running_var[[1, 3]])
    pairs = torch.tensor([[0.5, 0.5, 0.0, 0.0], [0.0, 0.0, 1.0, 1.0]])
    apply(mixed, group, Maps(pairs, pairs))
    torch.testing.assert_close(mixed[2].running_mean, torch.tensor([0.2, 1.2]))
    torch.testing.assert_close(mixed[2].weight, nn.Parameter(torch.tensor([1.5, 3.5])))
    torch.testing.assert_close(mixed[2].running_var, torch.tensor([1.5**2, 7.0**2]), rtol=1e-4, atol=1e-4)


def test_merging_hands_on_what_the_batch_norms_knew(network: nn.Module, images: torch.Tensor) -> None:
    structure = trace(network, images[:1])
    norm = dict(network.named_modules())[structure.normalised[0][1]]
    mean, deviation = norm.bias.detach().clone(), norm.weight.detach().abs().clone()
    statistics = merge_batch_norm(network, structure)
    assert set(statistics) == {layer for layer, _ in structure.normalised}
    assert torch.equal(statistics[structure.normalised[0][0]][0], mean)
    assert torch.equal(statistics[structure.normalised[0][0]][1], deviation)
    assert merge_batch_norm(network, structure) == {}


@pytest.mark.parametrize(("size", "sparsity", "expected"), [(512, 0.7, 153), (8, 0.5, 4), (3, 0.9, 1), (64, 0.0, 64)])
def test_size_after(size: int, sparsity: float, expected: int) -> None:
    assert size_after(size, sparsity) == expected


def with_twins(model: nn.Module, structure: Structure) -> None:
    """Make every second neuron of each group a copy of the one before."""
    for group in structure.groups:
        twins = torch.eye(group.size)[torch.arange(group.size) // 2 * 2]
        apply(model, group, Maps(twins, twins))


@pytest.mark.parametrize("method", ["fusion-preserving", "folding", "neuron-merging", "reconstruction"])
def test_twins_are_folded_back_without_a_change(network: nn.Module, images: torch.Tensor, method: str) -> None:
    structure = trace(network, images[:1])
    merge_batch_norm(network, structure)
    with_twins(network, structure)
    expected = network(images)
    for group in structure.groups:
        # One twin of each pair is important.
        scores = 1.0 - torch.arange(group.size) % 2 + 0.01 * torch.rand(group.size)
        options = {"ridge": 1e-9} if method == "reconstruction" else {}
        given = calibration(network, group, images)
        pair = maps(method, Pairings(network, group), scores, group.size // 2, options=options, context=given)
        apply(network, group, pair)
    torch.testing.assert_close(network(images), expected, rtol=1e-2, atol=1e-3)
    assert [g.size for g in trace(network, images[:1]).groups] == [g.size // 2 for g in structure.groups]


@pytest.mark.parametrize("restore_norm", [True, False])
def test_function_preserving_maps_average_and_sum(network: nn.Module, restore_norm: bool) -> None:
    structure = trace(network, torch.zeros(1, 1, 32, 32))
    merge_batch_norm(network, structure)
    for group in structure.groups:
        pairings = Pairings(network, group)
        options = {"restore_norm": restore_norm}
        pair = maps("fusion-preserving", pairings, torch.rand(group.size), group.size * 2 // 3, options=options)
        torch.testing.assert_close(pair.Q.sum(0), torch.ones(group.size))
        if not restore_norm:
            torch.testing.assert_close(pair.P.sum(1), torch.ones(len(pair.P)))
            continue
        incoming = torch.cat([pairings.incoming, pairings.bias], 1)
        weights = pair.P / pair.P.sum(1, keepdim=True)
        torch.testing.assert_close((pair.P @ incoming).norm(dim=1), weights @ incoming.norm(dim=1))


def test_merging_only_above_the_threshold(network: nn.Module) -> None:
    structure = trace(network, torch.zeros(1, 1, 32, 32))
    group = structure.groups[0]
    pairings, scores = Pairings(network, group), torch.rand(group.size)
    none = maps("neuron-merging", pairings, scores, 20, options={"threshold": 1.0})
    assert torch.equal(none.Q, none.P)
    every = maps("neuron-merging", pairings, scores, 20, options={"threshold": -1.0})
    assert torch.equal((every.Q != 0).sum(0), torch.ones(group.size))


def test_reconstruction_beats_dropping_and_keeps_the_model_as_it_was(network: nn.Module, images: torch.Tensor) -> None:
    structure = trace(network, images[:1])
    merge_batch_norm(network, structure)
    expected = network(images)
    errors = {"conventional": 0.0, "reconstruction": 0.0}
    for group in structure.groups:
        scores = torch.rand(group.size, generator=torch.Generator().manual_seed(5))
        for method in errors:
            pruned = copy.deepcopy(network)
            given = calibration(network, group, images)
            apply(pruned, group, maps(method, Pairings(pruned, group), scores, group.size // 2, context=given))
            errors[method] += (pruned(images) - expected).norm().item()
    assert errors["reconstruction"] < 0.7 * errors["conventional"]
    assert torch.equal(network(images), expected)


@pytest.mark.parametrize("producing", ["intra-fusion", "fusion-preserving", "folding"])
def test_reconstruction_after_fusing_beats_fusing(network: nn.Module, images: torch.Tensor, producing: str) -> None:
    structure = trace(network, images[:1])
    statistics = merge_batch_norm(network, structure)
    expected = network(images)
    errors = dict.fromkeys((producing, "reconstruction"), 0.0)
    for group in structure.groups:
        scores = torch.rand(group.size, generator=torch.Generator().manual_seed(5))
        for method in errors:
            options = {"producing": producing} if method == "reconstruction" else {}
            given = calibration(network, group, images) | {"statistics": statistics}
            pruned, m = copy.deepcopy(network), group.size // 2
            apply(pruned, group, maps(method, Pairings(pruned, group), scores, m, options=options, context=given))
            errors[method] += (pruned(images) - expected).norm().item()
    assert errors["reconstruction"] < 0.9 * errors[producing]


@pytest.mark.parametrize("flatten", [False, True])
def test_reconstruction_is_exact_where_neurons_are_constant_or_dependent(flatten: bool) -> None:
    """A constant neuron goes into the consumer's bias, a multiple of a kept one into its weights."""
    torch.manual_seed(0)
    middle = [nn.Conv2d(1, 4, 1), nn.ReLU()]
    last = [nn.Flatten(), nn.Linear(4 * 9, 3)] if flatten else [nn.Conv2d(4, 3, 1, bias=False), nn.ReLU()]
    model = nn.Sequential(
        *middle, *last, *([] if flatten else [nn.AdaptiveAvgPool2d(1), nn.Flatten(), nn.Linear(3, 2)])
    )
    with torch.no_grad():
        model[0].weight[1], model[0].bias[1] = 0, 0.7
        model[0].weight[3], model[0].bias[3] = 2.5 * model[0].weight[2], 2.5 * model[0].bias[2]
    images = torch.randn(64, 1, 3, 3)
    expected = model.eval()(images)
    group = trace(model, images[:1]).groups[-1]
    scores = torch.tensor([1.0, 0.0, 1.0, 0.0])
    given = calibration(model, group, images)
    pair = maps("reconstruction", Pairings(model, group), scores, 2, options={"ridge": 1e-10}, context=given)
    assert pair.shift
    apply(model, group, pair)
    torch.testing.assert_close(model(images), expected, rtol=1e-3, atol=1e-4)


@pytest.mark.parametrize("options", [{"affine": False}, {"track_running_stats": False}])
def test_batch_norms_without_parameters_or_statistics_are_not_merged(options: dict) -> None:
    model = nn.Sequential(nn.Conv2d(1, 4, 1), nn.BatchNorm2d(4, **options), nn.Flatten(), nn.Linear(16, 2)).eval()
    images = torch.randn(6, 1, 2, 2)
    expected = model(images)
    structure = trace(model, images[:1])
    assert structure.normalised == ()
    merge_batch_norm(model, structure)
    assert torch.equal(model(images), expected)
    (group,) = structure.groups
    apply(model, group, maps("conventional", Pairings(model, group), torch.rand(4), 2))
    assert model(images).shape == (6, 2)
