"""Sparsities of weights, multiplications and time: what is counted, what is reached, what cannot be."""

import pytest
import torch
from torch import nn

from workloads.compression.budgets import LatencyBudget, MacBudget, narrowed_copy, parameters_after
from workloads.compression.compress import Sources, check_reach, compress
from workloads.config import CompressionConfig, ModelConfig
from workloads.measuring.evaluation import mac_count, parameter_count
from workloads.networks.models import build
from workloads.structure.network import Network

SHAPE = (1, 32, 32)
EXAMPLE = torch.zeros(1, *SHAPE)


@pytest.fixture(params=["vgg", "resnet"])
def network(request: pytest.FixtureRequest) -> Network:
    return Network.prepared(request.getfixturevalue(request.param), EXAMPLE)


@pytest.fixture
def attention() -> Network:
    return Network.prepared(build(ModelConfig(name="vit_cifar"), channels=1, classes=10), EXAMPLE)


def sizes(network: Network) -> list[int]:
    return [group.size for group in network.structure.groups]


def test_multiplications_and_parameters_are_counted_before_they_go(network: Network, attention: Network) -> None:
    for each in (network, attention):
        for part in (0.3, 0.7):
            chosen = {group.number: max(2, int(group.size * part)) for group in each.structure.groups[::2]}
            narrow = narrowed_copy(each, chosen)
            assert MacBudget(each, EXAMPLE, each.model).left(chosen) * mac_count(each.model, SHAPE) == pytest.approx(
                mac_count(narrow, SHAPE)
            )
            assert parameters_after(each.model, each.structure, chosen) == parameter_count(narrow)


@pytest.mark.parametrize("allocation", ["uniform", "global"])
@pytest.mark.parametrize(("sparsity", "round_to"), [(0.3, 1), (0.5, 4), (0.8, 1)])
def test_a_share_of_the_multiplications_is_reached(
    network: Network, allocation: str, sparsity: float, round_to: int
) -> None:
    config = CompressionConfig(sparsity=sparsity, sparsity_of="macs", allocation=allocation, round_to=round_to)
    pruned = compress(network, config, Sources(EXAMPLE))
    gone = 1 - mac_count(pruned.model, SHAPE) / mac_count(network.model, SHAPE)
    steps = [2 * round_to / group.size for group in network.structure.groups]
    assert sparsity <= gone <= sparsity + max(0.01, min(steps))
    kept = zip(sizes(pruned), sizes(network), strict=True)
    assert all(after % round_to == 0 or after == before for after, before in kept)


def test_a_network_of_usual_width_hits_its_target_within_a_hundredth() -> None:
    model = build(ModelConfig(name="resnet18", width=0.5), channels=1, classes=10)
    network = Network.prepared(model, EXAMPLE)
    for of, count in (("macs", lambda m: mac_count(m, SHAPE)), ("weights", parameter_count)):
        config = CompressionConfig(sparsity=0.5, sparsity_of=of, round_to=8 if of == "macs" else 1)
        pruned = compress(network, config, Sources(EXAMPLE))
        assert 0.5 <= 1 - count(pruned.model) / count(model) <= 0.51


def time_of(model: nn.Module) -> float:
    """A clock without noise: time that grows with the multiplications, and some that nothing can take away."""
    return 1.0 + mac_count(model, SHAPE) / 1e6


def test_a_share_of_the_time_is_reached_by_what_was_measured(network: Network) -> None:
    clock = Sources(EXAMPLE, milliseconds=time_of)
    pruned = compress(network, CompressionConfig(sparsity=0.3, sparsity_of="latency"), clock)
    assert 1 - time_of(pruned.model) / time_of(network.model) == pytest.approx(0.3, abs=0.05)
    assert Sources(EXAMPLE).measured(network.model) > 0  # of the machine's own clock


def test_single_steps_are_compared_by_networks_with_one_narrow_group(network: Network) -> None:
    budget = LatencyBudget(network, time_of, network.model)
    whole = dict(enumerate(sizes(network)))
    assert budget.roughly(whole) == pytest.approx(1.0)
    shares = [budget.roughly({0: m}) for m in (1, 3, whole[0] // 2, whole[0])]
    assert shares == sorted(shares)


@pytest.mark.parametrize(("of", "word"), [("macs", "MAC"), ("weights", "weight"), ("latency", "latency")])
def test_what_cannot_be_reached_is_refused_with_what_can(network: Network, of: str, word: str) -> None:
    config = CompressionConfig(sparsity=0.99, sparsity_of=of, group=0)
    sources = Sources(EXAMPLE, milliseconds=time_of)
    message = rf"a {word} sparsity of 0\.99 cannot be reached by pruning group 0 alone: at most 0\.\d{{4}} can"
    with pytest.raises(ValueError, match=message) as refused:
        compress(network, config, sources)
    if of != "latency":
        with pytest.raises(ValueError, match=message):
            check_reach(network, config, sources)
    most = float(str(refused.value).split()[-2])
    compress(network, config.model_copy(update={"sparsity": most}), sources)
