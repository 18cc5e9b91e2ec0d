"""Which groups are pruned: by number, together, with shares of their own, and those that patterns leave alone."""

import pytest
import torch
from pydantic import ValidationError

from workloads.compression.compress import Sources, compress
from workloads.config import CompressionConfig
from workloads.scope import GroupNames, groups_label, labelled_groups, matches, meant, ratios_of
from workloads.structure.network import Network

GROUPS = [
    GroupNames("hidden", ("classifier.0",)),
    GroupNames("channels", ("layer2.0.conv1",)),
    GroupNames("channels", ("conv1", "layer1.0.conv2")),
    GroupNames("heads", ("heads.query", "heads.key")),
]


@pytest.fixture
def network(vgg: torch.nn.Module) -> Network:
    return Network.prepared(vgg, torch.zeros(1, 1, 32, 32))


@pytest.fixture
def sources() -> Sources:
    return Sources(torch.zeros(1, 1, 32, 32))


def sizes(network: Network) -> list[int]:
    return [group.size for group in network.structure.groups]


def test_a_pattern_means_layers_modules_around_them_or_a_kind() -> None:
    assert meant("layer2.*", GROUPS) == meant("layer2", GROUPS) == meant("*.0.conv1", GROUPS) == [1]
    assert meant("*conv?", GROUPS) == [1, 2]
    assert meant("hidden", GROUPS) == [0]
    assert meant("heads", GROUPS) == [3]
    assert meant("layer", GROUPS) == meant("residual", GROUPS) == []
    assert not matches("layer1", "layer10.0.conv1")


def test_shares_by_number_and_by_name_are_resolved_and_each_group_has_one() -> None:
    assert ratios_of({2: 0.7, "classifier": 0.2}, GROUPS) == {0: 0.2, 2: 0.7}
    for given, message in (
        ({4: 0.1}, "names group 4, but there are groups 0 to 3"),
        ({"layer9": 0.1}, "names 'layer9', which is no layer that makes a group"),
        ({1: 0.1, "layer2": 0.3}, r"gives group 1 two sparsities, 0\.1 and 0\.3"),
    ):
        with pytest.raises(ValueError, match=message):
            ratios_of(given, GROUPS)


@pytest.mark.parametrize(
    ("numbers", "ratios", "label"),
    [
        ([5, 0, 1, 2], {}, "0-2, 5"),
        ([3], {}, "3"),
        ([0, 3, 11], {0: 0.25, 3: 0.5, 11: 0.1}, "0: 0.25, 3: 0.5, 11: 0.1"),
    ],
)
def test_a_label_names_the_groups_and_can_be_read_again(numbers: list[int], ratios: dict, label: str) -> None:
    assert groups_label(numbers, ratios) == label
    assert labelled_groups(label) == sorted(numbers)


def test_groups_are_pruned_together_and_the_others_stay(network: Network, sources: Sources) -> None:
    before = sizes(network)
    together = sizes(compress(network, CompressionConfig(sparsity=0.5, groups=(1, 3)), sources))
    assert together == [n // 2 if number in (1, 3) else n for number, n in enumerate(before)]
    ignoring = sizes(compress(network, CompressionConfig(sparsity=0.5, ignore=["features.25", "*.0"]), sources))
    kept = {g.number for g in network.structure.groups if {"features.25", "features.0"} & {*g.layers}}
    assert len(kept) == 2
    assert ignoring == [n if number in kept else n // 2 for number, n in enumerate(before)]


def test_every_group_may_have_a_share_of_its_own(network: Network, sources: Sources) -> None:
    last = network.structure.groups[-1]
    config = CompressionConfig(sparsity={"1": 0.5, last.layers[0]: 0.25}, round_to=4)
    found = sizes(compress(network, config, sources))
    expected = sizes(network)
    expected[1] //= 2
    expected[-1] = -(-int(last.size * 0.75) // 4) * 4
    assert found == expected


@pytest.mark.parametrize(
    ("settings", "message"),
    [
        ({"sparsity": {}}, "should name groups by number or by the names of their layers"),
        ({"sparsity": {0: 1.5}}, "less than 1"),
        ({"sparsity": {-1: 0.5}}, "should have group numbers from 0 on, not -1"),
        ({"sparsity": {0: 0.5}, "group": 1}, "names groups itself: leave out group and groups"),
        ({"sparsity": {0: 0.5}, "sparsity_of": "weights"}, "leave sparsity_of and allocation as they are"),
        ({"sparsity": 0.5, "group": 1, "groups": [0, 1]}, r"group is 1 and groups \[0, 1\]: give one of the two"),
    ],
)
def test_contradictions_are_refused(settings: dict, message: str) -> None:
    with pytest.raises(ValidationError, match=message):
        CompressionConfig(**settings)


@pytest.mark.parametrize(
    ("settings", "message"),
    [
        ({"ignore": ["stem"]}, "ignore has 'stem', which is neither a layer of the network nor a kind of group"),
        ({"ignore": ["*"]}, r"nothing is left to prune: ignore means all of groups 0-"),
        ({"groups": (0, 99)}, "the network has groups 0 to"),
        ({"sparsity": {99: 0.5}}, "sparsity names group 99"),
    ],
)
def test_what_names_nothing_is_refused(network: Network, sources: Sources, settings: dict, message: str) -> None:
    with pytest.raises(ValueError, match=message):
        compress(network, CompressionConfig(**{"sparsity": 0.5, **settings}), sources)
