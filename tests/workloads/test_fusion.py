import copy

import pytest
import torch
from torch import nn

from tests.conftest import with_statistics
from workloads.compression.calls import output_moments
from workloads.compression.repair import anchor_batch_norms, match_statistics, repaired_layers
from workloads.config import FusionConfig, ModelConfig, SplitsConfig, TrainingConfig
from workloads.data.samples import Dataset
from workloads.data.splits import samples_of, subsets
from workloads.fusion.alignment import align, forward_order, transport_maps
from workloads.fusion.fuse import average, fuse
from workloads.measuring.evaluation import evaluate
from workloads.networks.models import build
from workloads.structure.batch_norm import merge_batch_norm
from workloads.structure.finding import trace
from workloads.structure.groups import Maps, Structure, apply
from workloads.training.loop import train


def permuted(model: nn.Module, structure: Structure, seed: int) -> nn.Module:
    """The same function with the neurons of every group in another order."""
    generator = torch.Generator().manual_seed(seed)
    copied = copy.deepcopy(model)
    for group in structure.groups:
        permutation = torch.eye(group.size)[torch.randperm(group.size, generator=generator)]
        apply(copied, group, Maps(permutation, permutation))
    return copied


@pytest.fixture(params=["vgg", "resnet"])
def merged(request: pytest.FixtureRequest) -> tuple[nn.Module, Structure]:
    model = request.getfixturevalue(request.param)
    structure = trace(model, torch.zeros(1, 1, 32, 32))
    merge_batch_norm(model, structure)
    return model, structure


@pytest.fixture
def images() -> torch.Tensor:
    return torch.randn(64, 1, 32, 32, generator=torch.Generator().manual_seed(4))


ALIGNMENTS = [
    {"alignment": "activations"},
    {"alignment": "activations", "marginal": "importance"},
    {"alignment": "weights"},
    {"alignment": "weights", "sweeps": 10},
    {"alignment": "weight-matching"},
]


@pytest.mark.parametrize("settings", ALIGNMENTS)
@pytest.mark.parametrize("copies", [1, 2])
def test_fusing_permuted_copies_gives_the_original(merged, images: torch.Tensor, copies: int, settings: dict) -> None:
    model, structure = merged
    expected = model(images)
    others = [permuted(model, structure, seed) for seed in range(copies)]
    torch.testing.assert_close(others[0](images), expected, rtol=1e-4, atol=1e-5)
    assert not torch.allclose(average([model, *others])(images), expected, atol=1e-2)
    for onto in ("anchor", "running"):
        config = FusionConfig(repair=False, onto=onto, **settings)
        fused = fuse([model, *others], [structure] * (copies + 1), [images], config)
        torch.testing.assert_close(fused(images), expected, rtol=1e-4, atol=1e-5)


@pytest.mark.parametrize("settings", ALIGNMENTS)
def test_aligning_undoes_a_permutation_weight_by_weight(merged, images: torch.Tensor, settings: dict) -> None:
    model, structure = merged
    config = FusionConfig(**settings)
    aligned = align(model, permuted(model, structure, 0), (structure, structure), [images], config)
    for name, tensor in aligned.state_dict().items():
        torch.testing.assert_close(tensor, model.state_dict()[name], rtol=1e-4, atol=1e-5)


@pytest.mark.parametrize("settings", [{"alignment": "activations"}, {"alignment": "weights"}])
def test_a_network_whose_neurons_are_split_is_fused_onto_the_narrow_one(
    merged, images: torch.Tensor, settings: dict
) -> None:
    """Every second neuron of the wide network repeats the one before; the narrow one has each of them once."""
    wide, structure = merged
    narrow, narrowed = copy.deepcopy(wide), structure
    for group in structure.groups:
        twins = torch.eye(group.size)[torch.arange(group.size) // 2 * 2]
        apply(wide, group, Maps(twins, twins))
    narrow = copy.deepcopy(wide)
    for number in range(len(structure.groups)):
        group = narrowed.groups[number]
        pairs = torch.nn.functional.one_hot(torch.arange(group.size) // 2).T.float()
        apply(narrow, group, Maps(pairs / 2, pairs))
        narrowed = narrowed.narrowed(number, group.size // 2)
    expected = wide(images)
    torch.testing.assert_close(narrow(images), expected, rtol=1e-3, atol=1e-4)
    shuffled = permuted(wide, structure, 3)
    fused = fuse([shuffled, narrow], [structure, narrowed], [images], FusionConfig(repair=False, **settings))
    torch.testing.assert_close(fused(images), expected, rtol=1e-3, atol=1e-3)
    assert fused.state_dict().keys() == narrow.state_dict().keys()


def test_no_alignment_is_the_plain_average_and_needs_equal_widths(merged, images: torch.Tensor) -> None:
    model, structure = merged
    other = permuted(model, structure, 0)
    config = FusionConfig(alignment="none", repair=False)
    fused = fuse([model, other], [structure, structure], [images], config)
    torch.testing.assert_close(fused(images), average([model, other])(images))
    kept = torch.eye(structure.groups[0].size)[:3]
    apply(other, structure.groups[0], Maps(kept, kept))
    with pytest.raises(ValueError, match="different widths cannot be averaged without an alignment"):
        fuse([model, other], [structure, structure.narrowed(0, 3)], [images], config)


def test_averages_are_weighted_by_accuracy(merged, images: torch.Tensor) -> None:
    model, structure = merged
    other = with_statistics(copy.deepcopy(model), seed=5)
    config = FusionConfig(alignment="none", repair=False, weights="accuracy")
    fused = fuse([model, other], [structure, structure], [images], config, [20.0, 60.0])
    for name, tensor in fused.state_dict().items():
        if tensor.is_floating_point():
            ours, theirs = model.state_dict()[name], other.state_dict()[name]
            torch.testing.assert_close(tensor, 0.25 * ours + 0.75 * theirs)


def test_groups_are_aligned_from_the_input_on(merged) -> None:
    _, structure = merged
    order = forward_order(structure)
    assert sorted(order) == list(range(len(structure.groups)))
    assert order[0] == len(structure.groups) - (1 if len(structure.groups) == 8 else 3)


def test_fusing_trained_halves_beats_plain_averaging(digits: Dataset) -> None:
    halves, structures = [], []
    config = TrainingConfig(epochs=8, batch_size=32, learning_rate=0.05, schedule="one-cycle", nesterov=True)
    for seed, parts in enumerate(subsets(digits.train.labels[digits.train_pool], SplitsConfig(), 0)):
        model = build(ModelConfig(name="vgg11_bn", width=0.125), channels=1, classes=10, seed=seed)
        indices = digits.train_pool[samples_of(parts)]
        train(model, digits, config, seed=seed, indices=indices, augmentation=())
        structures.append(trace(model, torch.zeros(1, *digits.shape)))
        merge_batch_norm(model, structures[-1])
        halves.append(model)
    images = [batch for batch, _ in digits.batches("train", 200)]
    plain = evaluate(average(halves), digits).accuracy
    fused = evaluate(fuse(halves, structures, images), digits).accuracy
    assert fused > plain + 20


def test_maps_of_unequal_sizes_average_and_sum() -> None:
    pair = transport_maps(torch.rand(6, 4, generator=torch.Generator().manual_seed(0)))
    torch.testing.assert_close(pair.P.sum(1), torch.ones(4))
    torch.testing.assert_close(pair.Q.sum(0), torch.ones(6))


@pytest.mark.parametrize("alignment", ["activations", "weights"])
def test_a_soft_transport_comes_to_the_exact_one_as_its_entropy_weighs_less(
    merged, images: torch.Tensor, alignment: str
) -> None:
    model, structure = merged
    others = [permuted(model, structure, 0)]

    def error(regularisation: float | None) -> float:
        config = FusionConfig(alignment=alignment, regularisation=regularisation, repair=False)
        with torch.no_grad():
            return float((fuse([model, *others], [structure] * 2, [images], config)(images) - model(images)).norm())

    assert error(0.003) < error(0.3) / 10
    soft = transport_maps(torch.rand(6, 4, generator=torch.Generator().manual_seed(0)), regularisation=0.3)
    assert bool((soft.P > 0).all())
    torch.testing.assert_close(soft.P.sum(1), torch.ones(4))
    torch.testing.assert_close(soft.Q.sum(0), torch.ones(6))
    with pytest.raises(ValueError, match="regularisation makes a soft transport"):
        FusionConfig(alignment="weight-matching", regularisation=0.1)


def test_a_wider_anchor_is_refused(images: torch.Tensor) -> None:
    models = [build(ModelConfig(name="vgg11_bn", width=w), channels=1, classes=10).eval() for w in (0.125, 0.0625)]
    structures = trace(models[0], images[:1]), trace(models[1], images[:1])
    with pytest.raises(ValueError, match="fuse onto the narrowest model"):
        align(models[0], models[1], structures, [images], FusionConfig())
    assert trace(fuse(models, structures, [images]), images[:1]).groups[0].size == structures[1].groups[0].size


def test_matching_its_own_statistics_changes_nothing(merged, images: torch.Tensor) -> None:
    model, structure = merged
    expected = model(images)
    match_statistics(model, output_moments(model, repaired_layers(structure), [images]), [images])
    torch.testing.assert_close(model(images), expected, rtol=1e-3, atol=1e-3)


def test_repair_restores_mean_and_deviation(merged, images: torch.Tensor) -> None:
    model, structure = merged
    other = with_statistics(copy.deepcopy(model), seed=9)
    merge_batch_norm(other, structure)
    collapsed = average([model, other])
    wanted = output_moments(model, repaired_layers(structure), [images])
    match_statistics(collapsed, wanted, [images])
    reached = output_moments(collapsed, wanted, [images])
    for layer, parts in wanted.items():
        for ours, theirs in zip(reached[layer], parts, strict=True):
            torch.testing.assert_close(ours, theirs, rtol=1e-2, atol=1e-2)


def test_anchored_batch_norms_are_the_identity_and_start_training_from_it(merged, images: torch.Tensor) -> None:
    model, structure = merged
    expected = model(images)
    anchor_batch_norms(model, structure, output_moments(model, repaired_layers(structure), [images]))
    torch.testing.assert_close(model(images), expected, rtol=1e-4, atol=1e-4)
    torch.testing.assert_close(model.train()(images), expected, rtol=1e-2, atol=1e-2)
