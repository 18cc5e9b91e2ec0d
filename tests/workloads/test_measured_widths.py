"""Widths by measured losses: the best ones where groups were measured alone, and step by step."""

import itertools
import random

import numpy as np
import pytest
import torch
from torch import Tensor

from workloads.allocations import GreedyConfig, SensitivityConfig
from workloads.compression import compress
from workloads.compression.allocation import allocate
from workloads.compression.allocation.greedy import Narrowed, candidates, path_to
from workloads.compression.allocation.knapsack import Option, best_widths, cheapest_choice
from workloads.compression.allocation.path import first_within, narrowing_path
from workloads.compression.allocation.sensitivity import curve_through, measured_widths
from workloads.compression.allocation.trials import Trials
from workloads.compression.budgets import Budget, LatencyBudget, MacBudget, WeightBudget, floors
from workloads.compression.compress import budget_of
from workloads.compression.sources import Sources
from workloads.config import CompressionConfig, ModelConfig
from workloads.measuring.evaluation import mac_count, parameter_count
from workloads.networks.models import build
from workloads.structure.network import Network

SHAPE = (1, 32, 32)
EXAMPLE = torch.zeros(1, *SHAPE)
IMAGES = torch.randn(16, *SHAPE, generator=torch.Generator().manual_seed(3))


@pytest.fixture
def network(vgg: torch.nn.Module) -> Network:
    return Network.prepared(vgg, EXAMPLE)


@pytest.fixture
def sources() -> Sources:
    return Sources(EXAMPLE, images=[IMAGES])


def sizes(network: Network) -> list[int]:
    return [group.size for group in network.structure.groups]


def rough_curves(network: Network, seed: int) -> dict[int, Tensor]:
    """Losses that rise by steps of any size, of which no group is like another."""
    generator = torch.Generator().manual_seed(seed)
    return {
        number: torch.cat([torch.zeros(1), torch.rand(size, generator=generator) ** 4]).cumsum(0).double() * 2**number
        for number, size in enumerate(sizes(network))
    }


def test_a_knapsack_is_packed_as_well_as_can_be() -> None:
    draws = random.Random(0)
    for _ in range(20):
        options = [
            Option(np.array([draws.random() for _ in range(5)]), np.array([draws.random() for _ in range(5)]))
            for _ in range(4)
        ]
        chosen = cheapest_choice(options, 1.2, resolution=1e-9)
        every = itertools.product(range(5), repeat=4)
        allowed = [e for e in every if sum(o.costs[p] for o, p in zip(options, e, strict=True)) <= 1.2]
        if chosen is None:
            assert not allowed
        else:
            assert tuple(chosen) == min(
                allowed, key=lambda e: sum(o.losses[p] for o, p in zip(options, e, strict=True))
            )


def test_coarse_sums_never_cost_more_than_the_limit() -> None:
    option = Option(np.array([0.0, 0.1, 0.26]), np.array([1.0, 0.4, 0.0]))
    chosen = cheapest_choice([option] * 5, 0.5, resolution=0.1)
    assert chosen is not None
    assert sum(option.costs[place] for place in chosen) <= 0.5
    assert cheapest_choice([option] * 5, -0.1) is None


def test_the_widths_found_are_the_best_that_all_widths_hold() -> None:
    model = build(ModelConfig(name="vgg11_bn", width=0.0625), channels=1, classes=10)
    network = Network.prepared(model, EXAMPLE)
    groups = network.structure.groups[-4:]  # neighbours: what one costs depends on the other
    budget = budget_of("macs", network, Sources(EXAMPLE))
    assert budget is not None
    lowest = floors(groups, [group.size for group in groups], 0.5, 1)
    every = [
        dict(zip(lowest, each, strict=True))
        for each in itertools.product(*(range(lowest[group.number], group.size + 1) for group in groups))
    ]
    sparsity = 0.3
    allowed = [each for each in every if budget.roughly(each) <= 1 - sparsity]
    assert 100 < len(allowed) < len(every)
    for seed in range(2):
        losses = rough_curves(network, seed)

        def loss(each: dict[int, int], losses: dict[int, Tensor] = losses) -> float:
            return sum(float(losses[g.number][g.size - each[g.number]]) for g in groups)

        found = best_widths(groups, lowest, losses, budget, sparsity, 1)
        path = first_within(narrowing_path(groups, lowest, losses, budget, 1), budget, sparsity, 1)
        assert budget.left(found) <= 1 - sparsity
        assert loss(found) <= loss(path)
        assert loss(found) <= 1.02 * min(map(loss, allowed))


@pytest.mark.slow
@pytest.mark.parametrize("round_to", [1, 4])
def test_best_widths_hit_budgets_of_networks_with_shortcuts_and_of_time(resnet: torch.nn.Module, round_to: int) -> None:
    network = Network.prepared(resnet, EXAMPLE)
    groups = network.structure.groups
    lowest = floors(groups, sizes(network), 0.1, round_to)
    counted: list[Budget] = [
        MacBudget(network, EXAMPLE, network.model),
        WeightBudget(network, parameter_count(network.model)),
        LatencyBudget(network, lambda model: 1.0 + mac_count(model, SHAPE) / 1e6, network.model),
    ]
    for budget, near in zip(counted, (0.02, 0.01, 0.05), strict=True):
        found = best_widths(groups, lowest, rough_curves(network, 1), budget, 0.4, round_to)
        assert 0.4 - budget.close_enough <= 1 - budget.left(found) <= 0.4 + near
        assert all(m % round_to == 0 or m == groups[number].size for number, m in found.items())
        assert all(m >= lowest[number] for number, m in found.items())


def test_a_curve_goes_straight_through_what_was_measured_and_never_falls(network: Network) -> None:
    group = network.structure.groups[0]
    widths = measured_widths(group, 2, 4, 1)
    assert len(widths) == 4
    assert widths == sorted(widths, reverse=True)
    assert widths[0] < group.size
    assert widths[-1] == 2
    assert all(m % 4 == 0 for m in measured_widths(group, 4, 50, 4))
    curve = curve_through(8, {6: 0.2, 4: 0.1, 2: 0.5})
    torch.testing.assert_close(curve, torch.tensor([0, 0.1, 0.2, 0.2, 0.2, 0.35, 0.5, 0.5, 0.5], dtype=torch.float64))


def test_a_trial_is_the_network_that_a_cell_makes_and_how_far_its_answers_are(
    network: Network, sources: Sources
) -> None:
    config = CompressionConfig(
        sparsity=0.5, method="folding", repair="data-free", order="input-first", allocation="greedy"
    )
    trials = Trials(network, config, sources)
    widths = {0: 5, 2: 3}
    narrow = compress(network, config, sources, sizes={2: 3, 0: 5}).model
    with torch.no_grad():
        before, after = (model.eval()(IMAGES).double().log_softmax(1) for model in (network.model, narrow))
    expected = torch.nn.functional.kl_div(after, before, log_target=True, reduction="batchmean")
    assert trials.loss(widths) == pytest.approx(expected.item(), rel=1e-6)
    assert trials.loss(widths) > 0 == pytest.approx(trials.loss(dict(enumerate(sizes(network)))), abs=1e-9)


@pytest.mark.parametrize(("allocation", "method"), [("sensitivity", "folding"), ("greedy", "conventional")])
def test_a_search_that_measures_hits_its_budget_and_says_why(
    network: Network, sources: Sources, allocation: str, method: str
) -> None:
    options = {"points": 1} if allocation == "sensitivity" else {"step": 0.2}
    config = CompressionConfig(
        sparsity=0.4, sparsity_of="macs", method=method, allocation={"name": allocation, "least": 0.2, **options}
    )
    budget = MacBudget(network, EXAMPLE, network.model)
    found = allocate(network, config, sources, groups=network.structure.groups, originals=sizes(network), budget=budget)
    assert 0.4 <= found.reached <= 0.42
    assert all(each.width >= 0.2 * size for each, size in zip(found.groups, sizes(network), strict=True))
    words = "nats" if allocation == "sensitivity" else "of 2 steps, at a cost of"
    assert all(words in each.why for each in found.groups)
    pruned = compress(network, config, sources)
    assert sizes(pruned) == [each.width for each in found.groups]
    if allocation == "greedy":
        lost = Trials(network, config, sources).loss(found.sizes)
        assert sum(each.loss for each in found.groups) == pytest.approx(lost)


def test_a_step_takes_the_widest_that_save_enough_or_part_of_it_where_none_can(network: Network) -> None:
    budget = MacBudget(network, EXAMPLE, network.model)
    groups, full = network.structure.groups, dict(enumerate(sizes(network)))
    found = candidates(full, groups, dict.fromkeys(full, 1), budget, 1, 0.05)
    assert found
    for number, m in found.items():
        assert 1 - budget.left({**full, number: m}) >= 0.05 - 1e-9
        assert 1 - budget.left({**full, number: m + 1}) < 0.05
    part = candidates(full, groups, dict.fromkeys(full, 1), budget, 1, 0.9)
    assert part
    assert all(1 <= m < full[number] for number, m in part.items())
    assert candidates(full, groups, full, budget, 1, 0.05) == {}


def test_steps_of_a_target_are_steps_on_the_way_to_a_larger_one() -> None:
    search = GreedyConfig(step=0.1)
    assert path_to(search, 0.35) == [0.1, 0.2, 0.3, 0.35]
    assert path_to(search, 0.3) == [0.1, 0.2, 0.3]
    assert path_to(search, 0.3, done=0.15) == [0.2, 0.3]
    assert path_to(search, 0.05) == [0.05]
    assert path_to(GreedyConfig(), 0.7) == pytest.approx([0.05 * step for step in range(1, 15)])
    spent = Narrowed({0: 8, 1: 8}).with_step(0, 6, 0.25).with_step(1, 7, 0.75).with_step(0, 5, 1.0)
    assert (spent.sizes, spent.losses, spent.steps) == ({0: 5, 1: 7}, {0: 0.5, 1: 0.5}, {0: 2, 1: 1})


@pytest.mark.parametrize("name", ["sensitivity", "greedy"])
def test_a_search_that_measures_refuses_what_it_cannot_do(network: Network, sources: Sources, name: str) -> None:
    allocation = {"name": name, "least": 0.6}
    with pytest.raises(ValueError, match=r"a weight sparsity of 0\.9 cannot be reached .* at most 0\.\d+ can"):
        compress(network, CompressionConfig(sparsity=0.9, sparsity_of="weights", allocation=allocation), sources)
    with pytest.raises(ValueError, match=f"allocation '{name}' needs unlabelled images"):
        compress(network, CompressionConfig(sparsity=0.5, allocation=name), Sources(EXAMPLE))
    for config in (SensitivityConfig, GreedyConfig):
        with pytest.raises(ValueError, match="images"):
            config(images=0)
