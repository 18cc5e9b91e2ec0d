"""Compressing whole networks: how wide groups become, in which order, and what repair does."""

import itertools

import pytest
import torch
from torch import nn

from workloads.compression.budgets import parameters_after
from workloads.compression.calls import output_moments
from workloads.compression.clustering import clusters, coordinates, filled
from workloads.compression.compress import Sources, compress, score
from workloads.compression.group_sizes import widths
from workloads.compression.methods import METHODS, maps
from workloads.compression.pairings import Pairings
from workloads.compression.repair import repaired_layers, with_corrected_variance
from workloads.config import CompressionConfig
from workloads.measuring.evaluation import parameter_count
from workloads.structure.finding import trace
from workloads.structure.groups import Group, Maps, apply
from workloads.structure.network import Network


@pytest.fixture
def images() -> torch.Tensor:
    return torch.randn(64, 1, 32, 32, generator=torch.Generator().manual_seed(4))


@pytest.fixture
def sources(images: torch.Tensor) -> Sources:
    return Sources(images[:1], images=lambda: [images], batches=lambda: [(images, torch.arange(64) % 10)])


@pytest.fixture(params=["vgg", "resnet"])
def network(request: pytest.FixtureRequest) -> Network:
    return Network.prepared(request.getfixturevalue(request.param), torch.zeros(1, 1, 32, 32))


def sizes(network: Network) -> list[int]:
    return [group.size for group in network.structure.groups]


def test_structure_after_compression_is_what_tracing_finds(network: Network, sources: Sources) -> None:
    pruned = compress(network, CompressionConfig(sparsity=0.4), sources)
    found = trace(pruned.model, sources.example)
    assert sizes(pruned) == [group.size for group in found.groups] == [int(n * 0.6) for n in sizes(network)]
    for ours, theirs in zip(pruned.structure.groups, found.groups, strict=True):
        assert all(torch.equal(a.index, b.index) for a, b in zip(ours.members, theirs.members, strict=True))


def test_input_first_ends_with_the_same_widths_and_other_weights(network: Network, sources: Sources) -> None:
    orders = ("output-first", "input-first")
    back, forth = (
        compress(network, CompressionConfig(sparsity=0.5, order=o, method={"name": "intra-fusion"}), sources)
        for o in orders
    )
    assert sizes(back) == sizes(forth)
    assert not torch.allclose(back.model(sources.images()[0]), forth.model(sources.images()[0]))


def test_one_threshold_over_the_network(network: Network, sources: Sources) -> None:
    pruned = compress(network, CompressionConfig(sparsity=0.5, allocation="global"), sources)
    total = sum(sizes(network))
    scores = [score(network, n, {"name": "l1"}, sources)[1] for n in range(len(network.structure.groups))]
    threshold = torch.cat(scores).sort(descending=True).values[total // 2 - 1]
    expected = [max(1, int((s >= threshold).sum())) for s in scores]
    assert sizes(pruned) == expected
    assert sum(expected) == pytest.approx(total / 2, abs=len(expected))


@pytest.mark.parametrize("allocation", ["uniform", "global"])
@pytest.mark.parametrize("sparsity", [0.25, 0.64, 0.9])
def test_a_weight_sparsity_is_just_reached(
    network: Network, sources: Sources, allocation: str, sparsity: float
) -> None:
    config = CompressionConfig(sparsity=sparsity, sparsity_of="weights", allocation=allocation)
    pruned = compress(network, config, sources)
    removed = 1 - parameter_count(pruned.model) / parameter_count(network.model)
    assert sparsity <= removed < sparsity + 0.05


class Biasless(nn.Module):
    """Convolutions without biases, behind one of which batch-norm is merged."""

    def __init__(self) -> None:
        super().__init__()
        self.first, self.norm = nn.Conv2d(1, 16, 3, bias=False), nn.BatchNorm2d(16)
        self.second, self.last = nn.Conv2d(16, 16, 1, bias=False), nn.Linear(16, 10, bias=False)

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        return self.last(self.second(self.norm(self.first(x)).relu()).relu().mean((2, 3)))


@pytest.mark.parametrize("allocation", ["uniform", "global"])
@pytest.mark.parametrize("sparsity", [0.2, 0.5, 0.8])
@pytest.mark.parametrize(
    "settings",
    [
        {"repair": "data"},
        {"repair": "data-free"},
        {"method": "folding"},
        {"method": "reconstruction"},
        {"method": f"{__name__}:with_offset"},
        {"group": 1, "sparsity": 0.2, "repair": "data"},
    ],
)
def test_biases_that_the_result_gains_count_for_a_weight_sparsity(
    sources: Sources, settings: dict, sparsity: float, allocation: str
) -> None:
    model = Biasless().eval()
    config = {"sparsity": sparsity, "sparsity_of": "weights", "allocation": allocation, **settings}
    pruned = compress(Network.prepared(model, sources.example), CompressionConfig(**config), sources)
    reached = 1 - parameter_count(pruned.model) / parameter_count(model)
    one_neuron_of_each = 3 * (9 + 3 + 16 + 1 + 16 + 1 + 10) / parameter_count(model)
    assert config["sparsity"] <= reached < config["sparsity"] + one_neuron_of_each


def with_offset(pairings: Pairings, importance: torch.Tensor, m: int, *, group: Group) -> Maps:
    selection = torch.eye(pairings.size)[:m]
    return Maps(selection, selection, offset={layer: torch.ones(m, 1) for layer in group.layers})


def test_a_weight_sparsity_of_nothing_removes_nothing(sources: Sources) -> None:
    base = Network.prepared(Biasless(), sources.example)
    pruned = compress(base, CompressionConfig(sparsity=0, sparsity_of="weights"), sources)
    assert parameter_count(pruned.model) == parameter_count(base.model) > base.parameters


def test_a_weight_sparsity_of_one_group_and_one_that_cannot_be_reached(network: Network, sources: Sources) -> None:
    pruned = compress(network, CompressionConfig(sparsity=0.02, sparsity_of="weights", group=0), sources)
    assert 0.02 <= 1 - parameter_count(pruned.model) / parameter_count(network.model) < 0.04
    with pytest.raises(ValueError, match=r"0\.9 cannot be reached by pruning group 0 alone: at most 0\."):
        compress(network, CompressionConfig(sparsity=0.9, sparsity_of="weights", group=0), sources)


def test_widths_are_rounded_up_to_multiples(network: Network) -> None:
    found = widths(network.structure.groups, sizes(network), 0.45, round_to=8)
    assert found == [min(n, -(-max(1, int(n * 0.55)) // 8) * 8) for n in sizes(network)]


def test_parameters_are_counted_before_they_go(network: Network, sources: Sources) -> None:
    pruned = compress(network, CompressionConfig(sparsity=0.3), sources)
    expected = parameters_after(network.model, network.structure, dict(enumerate(sizes(pruned))))
    assert parameter_count(pruned.model) == expected


@pytest.mark.parametrize("method", ["conventional", "fusion-preserving"])
@pytest.mark.parametrize("allocation", ["uniform", "global"])
def test_down_to_a_single_neuron_a_group(network: Network, sources: Sources, method: str, allocation: str) -> None:
    config = CompressionConfig(sparsity=0.999, method={"name": method}, allocation=allocation, repair="data")
    pruned = compress(network, config, sources)
    assert set(sizes(pruned)) == {1}
    assert pruned.model(sources.images()[0]).isfinite().all()


@pytest.mark.parametrize("method", ["conventional", "intra-fusion", "fusion-preserving", "folding", "neuron-merging"])
def test_repair_on_data_restores_the_statistics_of_later_layers(
    network: Network, sources: Sources, method: str
) -> None:
    number = len(network.structure.groups) - 1
    layers = [x for x in repaired_layers(network.structure) if x not in network.structure.groups[number].layers]
    wanted = output_moments(network.model, layers, sources.images())
    errors = {}
    for repair in ("none", "data"):
        config = CompressionConfig(sparsity=0.5, group=number, method={"name": method}, repair=repair)
        reached = output_moments(compress(network, config, sources).model, layers, sources.images())
        errors[repair] = max((reached[x][1] / wanted[x][1] - 1).abs().max().item() for x in layers)
    assert errors["data"] < 1e-3 < 0.1 < errors["none"]


def test_repair_without_images_of_kept_neurons_changes_nothing(network: Network, sources: Sources) -> None:
    plain, repaired = (
        compress(network, CompressionConfig(sparsity=0.5, repair=repair), sources) for repair in ("none", "data-free")
    )
    images = sources.images()[0]
    torch.testing.assert_close(repaired.model(images), plain.model(images), rtol=1e-4, atol=1e-5)


def test_repair_works_without_batch_norm(images: torch.Tensor) -> None:
    layers = [nn.Conv2d(1, 12, 3, bias=False), nn.ReLU(), nn.AdaptiveAvgPool2d(2), nn.Flatten()]
    model = nn.Sequential(*layers, nn.Linear(48, 10), nn.ReLU(), nn.Linear(10, 3)).eval()
    network = Network.prepared(model, images[:1])
    wanted = output_moments(network.model, ["0", "4"], [images])
    config = CompressionConfig(sparsity=0.5, group=1, repair="data")
    pruned = compress(network, config, Sources(images[:1], images=lambda: [images]))
    kept = score(network, 1, {"name": "l1"}, Sources(images[:1]))[1].argsort(descending=True)[:6].sort().values
    reached = output_moments(pruned.model, ["0"], [images])
    for ours, theirs in zip(reached["0"], wanted["0"], strict=True):
        torch.testing.assert_close(ours, theirs[:, kept], rtol=1e-3, atol=1e-3)


def test_the_variance_of_a_cluster_is_corrected_as_fold_ar_says(vgg: nn.Module) -> None:
    network = Network.prepared(vgg, torch.zeros(1, 1, 32, 32))
    group = network.structure.groups[3]
    layer = group.layers[0]
    shift, _ = network.statistics[layer]
    equal = {layer: (shift, torch.full((group.size,), 0.7))}
    members = torch.zeros(2, group.size)
    members[0, :5], members[1, 5:] = 1, 1
    average = Maps(members / members.sum(1, keepdim=True), members)
    corrected = with_corrected_variance(network.model, group, equal, average)
    rows = nn.functional.normalize(Pairings(network.model, group).incoming, dim=1)
    for cluster, numbers in enumerate((range(5), range(5, group.size))):
        count = len(numbers)
        cosines = [float(rows[a] @ rows[b]) for a, b in itertools.permutations(numbers, 2)]
        expected = count / (count + (count**2 - count) * sum(cosines) / len(cosines)) ** 0.5
        assert corrected.gain[layer][cluster].item() == pytest.approx(expected, rel=1e-4)
        mean = shift[list(numbers)].mean().item()
        assert corrected.offset[layer][cluster].item() == pytest.approx((1 - expected) * mean, rel=1e-3, abs=1e-5)


def test_folding_gives_its_gain_to_weights_and_moves_the_bias_back(vgg: nn.Module) -> None:
    network = Network.prepared(vgg, torch.zeros(1, 1, 32, 32))
    group = network.structure.groups[0]
    context = {"model": network.model, "group": group, "statistics": network.statistics}
    pairings, scores = Pairings(network.model, group), torch.rand(group.size)
    plain, corrected = (
        maps("folding", pairings, scores, 20, options={"correct_variance": correct}, context=context)
        for correct in (False, True)
    )
    assert torch.equal(plain.P, corrected.P)
    layer = network.model.get_submodule(group.layers[0])
    weight, bias = layer.weight.detach().clone(), layer.bias.detach().clone()
    apply(network.model, group, corrected)
    gain, offset = corrected.gain[group.layers[0]], corrected.offset[group.layers[0]]
    torch.testing.assert_close(layer.weight.flatten(1), gain * (plain.P @ weight.flatten(1)))
    torch.testing.assert_close(layer.bias, gain[:, 0] * (plain.P @ bias) + offset[:, 0])


def test_clusters_are_the_same_each_time_and_never_empty() -> None:
    vectors = torch.randn(12, 40, generator=torch.Generator().manual_seed(0))
    vectors[6:] = vectors[:6]
    for kind in ("k-means", "gaussian-mixture"):
        labels = clusters(vectors, 9, kind)
        assert labels.unique().tolist() == list(range(9))
        assert torch.equal(labels, clusters(vectors, 9, kind))
    assert torch.equal(clusters(vectors, 6)[:6], clusters(vectors, 6)[6:])
    assert filled(torch.tensor([0, 0, 0, 2]), 3).bincount().tolist() == [2, 1, 1]


def test_coordinates_keep_distances() -> None:
    vectors = torch.randn(8, 50, generator=torch.Generator().manual_seed(1)).double()
    points = coordinates(vectors)
    assert points.shape == (8, 8)
    torch.testing.assert_close(torch.cdist(points, points), torch.cdist(vectors, vectors))


@pytest.mark.parametrize("target", ["most-important", "k-means", "gaussian-mixture"])
@pytest.mark.parametrize("marginal", ["uniform", "importance", "softmax"])
def test_targets_and_marginals(network: Network, sources: Sources, target: str, marginal: str) -> None:
    group = network.structure.groups[-1]
    pairings, scores = score(network, group.number, {"name": "l2"}, sources)
    options = {"target": target, "source_marginal": marginal, "target_marginal": marginal}
    pair = maps("intra-fusion", pairings, scores, 5, options=options)
    assert pair.P.shape == (5, group.size)
    torch.testing.assert_close(pair.P.sum(0), torch.ones(group.size))


def test_zero_gradients_and_ties_keep_the_first_neurons(network: Network, images: torch.Tensor) -> None:
    with torch.no_grad():
        for name, parameter in network.model.named_parameters():
            if name.startswith(("classifier", "linear")):
                parameter.zero_()
    sources = Sources(images[:1], batches=lambda: [(images, torch.zeros(64, dtype=torch.long))])
    pairings, scores = score(network, 1, {"name": "taylor"}, sources)
    assert torch.equal(scores, torch.zeros(pairings.size))
    for method in ("conventional", "intra-fusion", "fusion-preserving", "neuron-merging"):
        pair = maps(method, pairings, scores, 4)
        assert pair.P.isfinite().all()
    assert torch.equal(maps("conventional", pairings, scores, 4).P, torch.eye(pairings.size)[:4])


def test_gradients_that_are_not_numbers_are_an_error_that_names_the_criterion(network: Network) -> None:
    broken = torch.full((4, 1, 32, 32), float("nan"))
    sources = Sources(broken[:1], batches=lambda: [(broken, torch.zeros(4, dtype=torch.long))])
    with pytest.raises(ValueError, match="criterion 'taylor' gave"):
        compress(network, CompressionConfig(sparsity=0.5, criterion={"name": "taylor"}), sources)


class Within(nn.Module):
    """A layer that reads the group that it adds to."""

    def __init__(self) -> None:
        super().__init__()
        self.first, self.middle = nn.Conv2d(1, 8, 3), nn.Conv2d(8, 8, 3, padding=1)
        self.norm, self.last = nn.BatchNorm2d(8), nn.Linear(8, 4)

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        x = self.first(x)
        x = x + self.middle(self.norm(x).relu())
        return self.last(x.mean((2, 3)))


def test_reconstruction_where_a_layer_reads_and_makes_a_group(sources: Sources, images: torch.Tensor) -> None:
    torch.manual_seed(0)
    network = Network.prepared(Within(), images[:1])
    errors = {}
    for method in ("conventional", "reconstruction"):
        smaller = compress(network, CompressionConfig(sparsity=0.5, method={"name": method}), sources).model
        assert smaller.middle.weight.shape[:2] == (4, 4)
        with torch.inference_mode():
            errors[method] = float((smaller(images) - network.model(images)).norm())
    assert errors["reconstruction"] < errors["conventional"]


@pytest.mark.parametrize("producing", ["intra-fusion", "fusion-preserving"])
def test_repair_without_data_leaves_what_was_solved_alone(network: Network, sources: Sources, producing: str) -> None:
    method = {"name": "reconstruction", "options": {"producing": producing}}
    plain, repaired = (
        compress(network, CompressionConfig(sparsity=0.5, group=1, method=method, repair=repair), sources).model
        for repair in ("none", "data-free")
    )
    assert all(map(torch.equal, plain.parameters(), repaired.parameters()))


def test_options_may_stand_beside_the_name_and_misspelt_ones_are_refused(vgg: nn.Module, images: torch.Tensor) -> None:
    network, sources = Network.prepared(vgg, images[:1]), Sources(images[:1])

    def logits(method: dict | str) -> torch.Tensor:
        config = CompressionConfig(sparsity=0.5, group=2, method=method)
        with torch.inference_mode():
            return compress(network, config, sources).model(images)

    beside = logits({"name": "intra-fusion", "source_marginal": "importance"})
    assert torch.equal(beside, logits({"name": "intra-fusion", "options": {"source_marginal": "importance"}}))
    assert not torch.equal(beside, logits("intra-fusion"))
    with pytest.raises(ValueError, match="'intra-fusion' has no option 'sorce_marginal'; did you mean 'source_m"):
        logits({"name": "intra-fusion", "sorce_marginal": "importance"})


@pytest.mark.parametrize(
    ("settings", "message"),
    [
        ({"criterion": "taylor"}, "criterion 'taylor' needs training batches: give them as `batches`"),
        ({"method": "reconstruction"}, "method 'reconstruction' needs unlabelled images: give them as `images`"),
        ({"repair": "data"}, "repair 'data' needs unlabelled images"),
    ],
)
def test_what_looks_at_images_is_refused_without_them(
    settings: dict, message: str, vgg: nn.Module, images: torch.Tensor
) -> None:
    network, config = Network.prepared(vgg, images[:1]), CompressionConfig(sparsity=0.5, group=0, **settings)
    with pytest.raises(ValueError, match=message):
        compress(network, config, Sources(images[:1]))
    batches, labels = images[:8], torch.arange(8)
    assert compress(network, config, Sources(images[:1], batches=[(batches, labels)], images=[batches]))


@pytest.mark.parametrize("dtype", [torch.float64, torch.bfloat16, torch.float16])
@pytest.mark.parametrize("repair", ["none", "data-free", "data"])
@pytest.mark.parametrize("method", sorted(METHODS))
def test_weights_of_other_precisions_are_compressed(
    method: str, repair: str, dtype: torch.dtype, images: torch.Tensor
) -> None:
    torch.manual_seed(0)
    images = images[:8].to(dtype)
    model = Biasless().eval().to(dtype)
    config = CompressionConfig(sparsity=0.5, method=method, repair=repair)
    pruned = compress(Network.prepared(model, images[:1]), config, Sources(images[:1], images=[images])).model
    assert {tensor.dtype for tensor in pruned.parameters()} == {dtype}
    assert pruned(images).isfinite().all()
    assert pruned.second.weight.shape[:2] == (8, 8)
