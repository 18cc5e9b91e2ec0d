"""Searched widths: what groups are estimated to lose, the path that leads to a budget, classes of equal structure."""

import itertools
import math

import pytest
import torch
from torch import nn

from workloads.compression.allocation import allocate
from workloads.compression.allocation.curves import elimination_curves
from workloads.compression.allocation.fisher import output_information
from workloads.compression.allocation.path import first_within, narrowing_path
from workloads.compression.budgets import MacBudget, NeuronBudget, WeightBudget, floors
from workloads.compression.compress import Sources, check_reach, compress
from workloads.compression.criteria.eliminating import backward_elimination, order_of_elimination
from workloads.compression.group_sizes import structure_class
from workloads.config import CompressionConfig
from workloads.measuring.evaluation import mac_count, parameter_count
from workloads.structure.network import Network

SHAPE = (1, 32, 32)
EXAMPLE = torch.zeros(1, *SHAPE)
IMAGES = torch.randn(24, *SHAPE, generator=torch.Generator().manual_seed(3))


@pytest.fixture(params=["vgg", "resnet"])
def network(request: pytest.FixtureRequest) -> Network:
    return Network.prepared(request.getfixturevalue(request.param), EXAMPLE)


@pytest.fixture
def sources() -> Sources:
    return Sources(EXAMPLE, images=[IMAGES])


def sizes(network: Network) -> list[int]:
    return [group.size for group in network.structure.groups]


def test_elimination_costs_what_the_layer_solved_again_gets_wrong() -> None:
    activations = torch.randn(500, 6, dtype=torch.float64, generator=torch.Generator().manual_seed(0))
    activations[:, 3] = activations[:, 0] + 0.1 * activations[:, 1]  # nothing is lost with it
    weight = torch.randn(4, 6, dtype=torch.float64, generator=torch.Generator().manual_seed(1))
    centred = activations - activations.mean(0)
    order, costs = backward_elimination(centred.T @ centred / 500, weight.T @ weight)
    assert torch.equal(order, order_of_elimination(centred.T @ centred / 500, weight.T @ weight))
    left = [j for j in range(6) if order[j] >= 3]
    solved = torch.linalg.lstsq(centred[:, left], centred @ weight.T).solution
    error = (centred[:, left] @ solved - centred @ weight.T).square().sum() / 500
    assert costs[:3].sum().item() == pytest.approx(error.item(), rel=0.02)


def test_information_of_the_last_layer_is_that_of_the_softmax() -> None:
    model = nn.Sequential(nn.Flatten(), nn.Linear(1024, 3)).eval()
    images = torch.randn(4000, *SHAPE, generator=torch.Generator().manual_seed(1))
    found = output_information(model, ["1"], [images], seed=0)["1"]
    answers = model(images).softmax(1).double()
    torch.testing.assert_close(found, (answers * (1 - answers)).mean(0), rtol=0.06, atol=0)


def test_curves_begin_at_nothing_and_rise(network: Network) -> None:
    numbers = [group.number for group in network.structure.groups]
    for number, losses in elimination_curves(network, numbers, [IMAGES], seed=0).items():
        assert losses.shape == (network.structure.groups[number].size + 1,)
        assert losses[0] == 0 < losses[-1]
        assert (losses.diff() >= 0).all()


@pytest.mark.parametrize("budget", ["weights", "macs", "neurons"])
def test_a_path_narrows_a_group_a_step_down_to_the_floors_and_meets_budgets_closely(
    network: Network, budget: str
) -> None:
    groups = network.structure.groups
    counted = {
        "weights": WeightBudget(network, parameter_count(network.model)),
        "macs": MacBudget(network, EXAMPLE, network.model),
        "neurons": NeuronBudget(network, sizes(network)),
    }[budget]
    losses = {g.number: torch.arange(g.size + 1.0).square() * (1 + g.number) for g in groups}
    lowest = floors(groups, sizes(network), 0.25, 1)
    path = narrowing_path(groups, lowest, losses, counted, 1)
    assert path[-1] == lowest
    assert all(sum(a[n] > b[n] for n in a) == 1 for a, b in itertools.pairwise(path))
    for sparsity in (0.2, 0.5):
        found = first_within(path, counted, sparsity, 1)
        assert sparsity <= 1 - counted.left(found) < sparsity + 0.02
        wider = [{**found, n: found[n] + 1} for n in found if found[n] < groups[n].size]
        assert any(1 - counted.left(each) < sparsity for each in wider)
    with pytest.raises(ValueError, match=r"cannot be reached by its groups: at most 0\.\d+ can, with the least share"):
        first_within(path, counted, 0.99, 1)


def test_without_neighbours_the_path_spends_a_budget_as_well_as_can_be(network: Network) -> None:
    groups = network.structure.groups[:3]
    losses = {g.number: torch.arange(g.size + 1.0).square() * 3.0**g.number for g in groups}  # convex
    counted = NeuronBudget(network, [g.size for g in groups])
    lowest = dict.fromkeys(range(3), 1)
    found = first_within(narrowing_path(groups, lowest, losses, counted, 1), counted, 0.5, 1)
    total = sum(g.size for g in groups)
    least = min(
        sum(float(losses[g.number][gone]) for g, gone in zip(groups, each, strict=True))
        for each in ((a, b, math.ceil(total / 2) - a - b) for a in range(groups[0].size) for b in range(groups[1].size))
        if 0 <= each[2] < groups[2].size
    )
    assert sum(float(losses[n][groups[n].size - m]) for n, m in found.items()) == least


@pytest.mark.parametrize("images", [24, "synthetic"])
def test_a_searched_network_meets_its_budget_with_real_images_or_none(network: Network, images: object) -> None:
    sources = Sources(EXAMPLE, images=[IMAGES] if images == 24 else [])
    allocation = {"name": "elimination", "images": images, "least": 0.2, **({"count": 16} if images != 24 else {})}
    config = CompressionConfig(sparsity=0.5, sparsity_of="macs", allocation=allocation, round_to=2)
    pruned = compress(network, config, sources)
    assert 0.5 <= 1 - mac_count(pruned.model, SHAPE) / mac_count(network.model, SHAPE) < 0.53
    shares = [after / before for after, before in zip(sizes(pruned), sizes(network), strict=True)]
    assert min(shares) >= 0.2
    assert max(shares) > min(shares)
    assert all(size % 2 == 0 for size in sizes(pruned))


def test_a_search_says_for_every_group_what_it_loses_and_why(network: Network, sources: Sources) -> None:
    groups = network.structure.groups
    config = CompressionConfig(sparsity=0.5, allocation="elimination")
    found = allocate(
        network,
        config,
        sources,
        groups=groups,
        originals=sizes(network),
        budget=NeuronBudget(network, sizes(network)),
    )
    assert found.reached == pytest.approx(0.5, abs=0.01)
    assert [each.uniform for each in found.groups] == [n // 2 for n in sizes(network)]
    assert all(
        each.loss >= 0 and f"of {group.size} costs" in each.why
        for each, group in zip(found.groups, groups, strict=True)
    )


def test_what_a_search_cannot_reach_or_tell_is_refused(network: Network, sources: Sources) -> None:
    config = CompressionConfig(sparsity=0.9, sparsity_of="macs", allocation={"name": "elimination", "least": 0.6})
    for refused in (check_reach, compress):
        with pytest.raises(ValueError, match=r"a MAC sparsity of 0\.9 cannot be reached .* at most 0\.\d+ can"):
            refused(network, config, sources)
    with pytest.raises(ValueError, match="allocation 'elimination' needs unlabelled images"):
        compress(network, CompressionConfig(sparsity=0.5, allocation="elimination"), Sources(EXAMPLE))


def test_isomorphic_sets_a_threshold_for_each_class_of_groups_of_equal_structure(resnet: nn.Module) -> None:
    network = Network.prepared(resnet, EXAMPLE)
    groups = network.structure.groups
    classes = [structure_class(network.model, group) for group in groups]
    assert 1 < len(set(classes)) < len(classes)
    pruned = compress(network, CompressionConfig(sparsity=0.5, allocation="isomorphic"), Sources(EXAMPLE))
    for each in set(classes):
        members = [n for n, kind in enumerate(classes) if kind == each]
        before = sum(groups[n].size for n in members)
        assert sum(sizes(pruned)[n] for n in members) == pytest.approx(before / 2, abs=len(members))
    assert sizes(pruned) != [n // 2 for n in sizes(network)]
