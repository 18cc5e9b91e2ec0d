"""Which groups an experiment prunes together, leaves alone, or gives shares of their own."""

from dataclasses import replace

import pytest

from orchestrator import Experiment
from orchestrator.planning.building import make_plan
from orchestrator.planning.facts import Facts, ModelFacts, check_groups, unmatched
from orchestrator.planning.plan import Stage

NETWORK = ModelFacts(
    (40, 20, 10),
    1000,
    None,
    0.001,
    kinds=("hidden", "channels", "channels"),
    layers=(("fc",), ("layer2.conv1",), ("layer1.conv1", "layer1.conv2")),
    others=("head",),
)
FACTS = Facts(train=100, test=50, fingerprint="f", models={"net": NETWORK}, code={})


def experiment(**grid: object) -> Experiment:
    pruning = {"sparsities": [0.5], "methods": ["conventional"], **grid}
    return Experiment.model_validate(
        {"name": "e", "dataset": {"name": "digits"}, "model": {"name": "net"}, "pruning": pruning}
    )


def cells(facts: Facts = FACTS, **grid: object) -> dict[str, Stage]:
    stages = make_plan(experiment(**grid), facts).stages
    return {key: stage for key, stage in stages.items() if stage.kind == "compress"}


def coordinates(stages: dict[str, Stage]) -> list[tuple]:
    return [tuple(s.labels[name] for name in ("group", "groups", "target_sparsity", "kinds")) for s in stages.values()]


def test_lists_in_groups_are_pruned_together_and_one_alone_is_the_group() -> None:
    found = cells(groups=[[1, 0], 1, [2]])
    assert coordinates(found) == [
        (None, "0-1", 0.5, "hidden, channels"),
        (1, None, 0.5, "channels"),
        (2, None, 0.5, "channels"),
    ]
    assert next(iter(found.values())).parameters["groups"] == [0, 1]
    assert list(found)[1:] == list(cells(groups=[1, 2]))


def test_what_is_ignored_leaves_the_cells_of_the_others_as_they_are() -> None:
    assert cells(ignore=["layer1"]).keys() == cells(groups=[0, 1]).keys()
    assert cells(groups="all", ignore=["fc"]).keys() == cells(groups=[[1, 2]]).keys()
    assert cells(groups="all", ignore=["hidden", "layer2.*"]).keys() == cells(groups=[2]).keys()
    assert cells(groups="all", ignore=["head"]).keys() == cells(groups="all").keys()


def test_shares_of_groups_stand_in_the_label_and_their_mean_is_the_target() -> None:
    found = cells(groups="all", sparsities=[{0: 0.25, "layer1": 0.5}])
    assert coordinates(found) == [(None, "0: 0.25, 2: 0.5", 0.3, "hidden, channels")]
    ((_, stage),) = found.items()
    assert stage.parameters["sparsity"] == {"0": 0.25, "2": 0.5}
    assert stage.labels["neuron_sparsity"] is None
    assert found.keys() == cells(groups="all", sparsities=[{"fc": 0.25, 2: 0.5}]).keys()
    assert cells(groups="all", sparsities=[{1: 0.5}]).keys() == cells(groups=[1]).keys()


def test_shares_are_reached_in_steps() -> None:
    grid = {"mode": "fine-tuned", "groups": "all", "sparsities": [{0: 0.2, 2: 0.6}], "steps": 2}
    assert [s.parameters["sparsity"] for s in cells(**grid).values()] == [{"0": 0.1, "2": 0.3}, {"0": 0.2, "2": 0.6}]


def test_an_experiment_with_shares_is_the_same_when_it_is_read_again() -> None:
    before = experiment(groups="all", sparsities=[0.5, {0: 0.25, "layer1": 0.5}], ignore="fc")
    assert Experiment.from_yaml(before.to_yaml(), "again.yaml") == before


@pytest.mark.parametrize(
    ("grid", "message"),
    [
        ({"groups": [[]]}, "should be 'each', 'all' or a list of group numbers"),
        ({"sparsities": [{0: 0.5}]}, "sparsities has a mapping, which names groups itself: set groups to all"),
        ({"groups": "all", "sparsities": [{0: 0.5}], "sparsity_of": "weights"}, "leave sparsity_of and allocation"),
        ({"groups": "all", "sparsities": [{"fc": 2}]}, "less than 1"),
        ({"groups": [[0, 1], 2], "allocation": "global"}, "set groups to all, or to lists such as"),
    ],
)
def test_contradictions_are_refused(grid: dict, message: str) -> None:
    with pytest.raises(ValueError, match=message):
        experiment(**grid)


@pytest.mark.parametrize(
    ("grid", "message"),
    [
        ({"groups": [[0, 3]]}, "pruning.groups names group 3, but model 'net' has groups 0 to 2"),
        ({"groups": [[0, 1]], "ignore": "fc"}, "names group 0 of model 'net', which pruning.ignore leaves alone"),
        ({"groups": "all", "ignore": ["*"]}, "leaves nothing of model 'net' to prune: it means groups 0-2"),
        ({"groups": "all", "sparsities": [{3: 0.5}]}, "pruning.sparsities names group 3, but there are groups 0 to 2"),
        ({"groups": "all", "sparsities": [{0: 0.5}], "ignore": ["fc"]}, "gives shares to groups 0 of model 'net'"),
    ],
)
def test_what_a_network_does_not_have_is_refused(grid: dict, message: str) -> None:
    with pytest.raises(ValueError, match=message):
        check_groups(experiment(**grid).pruning[0], "net", NETWORK)


def test_a_pattern_that_matches_nothing_is_said_and_refused_where_no_network_has_it() -> None:
    other = replace(NETWORK, layers=(("a",), ("b",), ("c",)), others=("z",))
    two = {"net": NETWORK, "other": other}
    assert not list(unmatched(experiment(ignore=["hidden", "*"]), two))
    (said,) = unmatched(experiment(ignore=["head"]), two)
    assert said == "pruning.ignore has 'head', which is neither a layer nor a kind of group of 'other'"
    with pytest.raises(ValueError, match="'hed', which is neither a layer nor a kind of group of 'net' and 'other'"):
        list(unmatched(experiment(ignore=["hed"]), two))
