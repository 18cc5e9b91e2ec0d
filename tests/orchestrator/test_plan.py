from dataclasses import replace
from pathlib import Path

import pytest

from orchestrator import Experiment
from orchestrator.planning.building import make_plan
from orchestrator.planning.facts import Facts, ModelFacts
from orchestrator.planning.plan import Plan, Stage
from orchestrator.running.driver import missing, write_plan
from orchestrator.storage.store import Store

FACTS = Facts(
    train=100,
    test=50,
    fingerprint="f",
    models={"vgg11_bn": ModelFacts((64, 64, 32), 1000, None, 0.001)},
    code={},
)


def experiment(**changes: object) -> Experiment:
    base = {
        "name": "e",
        "dataset": {"name": "digits"},
        "model": {"name": "vgg11_bn"},
        "pruning": {"groups": "each", "sparsities": [0.3, 0.5]},
    }
    return Experiment.model_validate(base | changes)


def planned(**changes: object) -> Plan:
    return make_plan(experiment(**changes), FACTS)


def test_one_trained_model_feeds_all_cells() -> None:
    plan = planned()
    assert plan.count() == {"train": 1, "compress": 3 * 2 * 2}
    assert plan.cells == 12


def test_scope_and_repair_make_cells_of_their_own_and_defaults_none() -> None:
    grid = {"groups": "all", "sparsities": [0.5], "methods": ["conventional"]}
    usual = set(planned(pruning=grid).stages)
    assert usual == set(planned(pruning={**grid, "repair": "none", "order": "output-first", "round_to": 1}).stages)
    for setting in ({"repair": "data"}, {"order": "input-first"}, {"round_to": 8}, {"allocation": "global"}):
        other = planned(pruning={**grid, **setting})
        assert len(usual & set(other.stages)) == 1
        (cell,) = (stage for stage in other.stages.values() if stage.kind == "compress")
        assert cell.labels | setting == cell.labels
    assert planned(pruning={**grid, "repair": ["none", "data-free", "data"]}).cells == 3


def test_kinds_choose_groups_and_a_single_group_does_not_depend_on_them() -> None:
    network = ModelFacts((8, 4, 6), 99, None, 0.1, kinds=("channels", "hidden", "residual"))

    def cells(**grid: object) -> dict[str, Stage]:
        pruning = {"sparsities": [0.5], "methods": ["conventional"], **grid}
        stages = make_plan(experiment(pruning=pruning), replace(FACTS, models={"vgg11_bn": network})).stages
        return {key: stage for key, stage in stages.items() if stage.kind == "compress"}

    by_default, all_kinds = cells(), cells(kinds="all")
    assert [stage.labels["group"] for stage in by_default.values()] == [0, 1]
    assert [stage.labels["kinds"] for stage in all_kinds.values()] == ["channels", "hidden", "residual"]
    assert by_default.keys() < all_kinds.keys()
    ((together, stage),) = cells(groups="all").items()
    ((of_all, of_all_stage),) = cells(groups="all", kinds="all").items()
    assert stage.labels["kinds"] == "channels, hidden"
    assert of_all_stage.labels["kinds"] == "channels, hidden, residual"
    assert together != of_all
    assert cells(groups="all", kinds=["channels", "hidden"]).keys() == {together}


def test_neuron_sparsity_is_planned_only_where_it_is_asked_for() -> None:
    grid = {"groups": "all", "sparsities": [0.5], "methods": ["conventional"], "sparsity_of": "weights"}
    assert {s.labels["neuron_sparsity"] for s in planned(pruning=grid).stages.values()} == {0.0, None}


def test_inputs_come_before_what_reads_them() -> None:
    plan = planned(pipelines=["whole-data", "fap", "paf"], pruning={"mode": "fine-tuned", "groups": "all"})
    seen: set[str] = set()
    for stage in plan.stages.values():
        assert seen.issuperset(stage.inputs)
        seen.add(stage.key)


def test_pipelines_share_the_split_models() -> None:
    grid = {"mode": "fine-tuned", "groups": "all", "sparsities": [0.5], "methods": ["conventional"], "steps": 4}
    plan = planned(pipelines=["whole-data", "fap", "paf"], pruning=grid)
    # whole: 4 steps + last; fap: fused + 4 steps + last; paf: 2 models x (4 steps + last), + last
    assert plan.count() == {"train": 3, "compress": 16, "fine-tune": 5 + 6 + 11, "fuse": 2}
    assert plan.cells == 3


def test_equal_retraining_budgets() -> None:
    grid = {"mode": "fine-tuned", "groups": "all", "sparsities": [0.8], "methods": ["conventional"]}
    plan = planned(pipelines=["whole-data", "fap", "paf"], pruning=grid)

    def epochs(key: str) -> int:
        stage = plan.stages[key]
        own = stage.parameters["training"]["epochs"] if stage.kind == "fine-tune" else 0
        return own + (epochs(stage.inputs[0]) if stage.inputs else 0)

    final = {s.labels["pipeline"]: epochs(s.key) for s in plan.stages.values() if s.labels["final"]}
    assert final == {"whole-data": 200, "fap": 200, "paf": 200}


def test_distillation_reads_the_networks_that_another_was_made_from() -> None:
    grid = {"mode": "fine-tuned", "groups": "all", "sparsities": [0.8], "methods": ["conventional"], "steps": 2}
    tuning = {"objective": "distillation", "images": 50, "labels": 0.1}
    plan = planned(pipelines=["whole-data", "fap", "paf"], pruning=grid, fine_tuning=tuning)
    tuned = [stage for stage in plan.stages.values() if stage.kind == "fine-tune"]
    kinds = {tuple(plan.stages[key].kind for key in stage.inputs) for stage in tuned}
    # Pruned networks, and pruned ones tuned before, learn from what was pruned, be it trained or fused and tuned; fused
    # ones from what was fused.
    assert kinds == {
        ("compress", "train"),
        ("fine-tune", "train"),
        ("compress", "fine-tune"),
        ("fine-tune", "fine-tune"),
        ("fuse", "train", "train"),
    }
    assert all(stage.parameters["training"]["images"] == 50 for stage in tuned)
    plain = planned(pruning=grid, fine_tuning={"objective": "labels", "temperature": 2.0, "images": None})
    assert plain.stages.keys() == planned(pruning=grid).stages.keys()
    assert all(len(stage.inputs) == 1 for stage in plain.stages.values() if stage.kind == "fine-tune")


def test_four_folds_make_six_models() -> None:
    plan = planned(pipelines=["fap"], splits={"folds": 4})
    assert plan.count()["train"] == 6
    assert len(next(s for s in plan.stages.values() if s.kind == "fuse").inputs) == 6


def test_every_way_of_cutting_is_run_with_every_fusion() -> None:
    cuts = [{"folds": 2}, {"mode": "overlapping", "folds": 3, "share": 0.6}]
    fusions = [{"alignment": "weights"}, {"alignment": "none"}]
    grid = {"groups": [0], "sparsities": [0.5], "methods": ["conventional"]}
    plan = planned(pipelines=["whole-data", "fap", "paf"], splits=cuts, fusion=fusions, pruning=grid)
    assert plan.count() == {"train": 1 + 2 + 3, "compress": 1 + 4 + 2 + 3, "fuse": 4 + 4}
    final = [stage.labels for stage in plan.stages.values() if stage.labels["final"]]
    told = {(labels["pipeline"], labels.get("split"), labels.get("fusion")) for labels in final}
    assert len(told) == len(final) == 1 + 4 + 4
    assert ("fap", "overlapping(share=0.6)", "none") in told


def test_a_grid_may_have_its_own_fusion() -> None:
    grids = [
        {"groups": [0], "sparsities": [0.5], "fusion": {"alignment": alignment}} for alignment in ("weights", "none")
    ]
    plan = planned(pipelines=["fap"], pruning=grids)
    assert {stage.labels["fusion"] for stage in plan.stages.values() if stage.labels["final"]} == {"weights", "none"}


def test_landscapes_are_rows_between_the_first_and_each_further_method() -> None:
    grid = {"groups": [0], "sparsities": [0.0, 0.5], "methods": ["conventional", "intra-fusion", "folding"]}
    plain = planned(pruning=grid)
    plan = planned(pruning={**grid, "landscape": {"size": 5}, "output_distances": True})
    assert set(plain.stages) < set(plan.stages)
    rows = [stage for stage in plan.stages.values() if stage.kind == "landscape"]
    assert len(rows) == 2 * 5
    assert {(row.labels["against"], row.labels["method"]) for row in rows} == {
        ("conventional", "intra-fusion"),
        ("conventional", "folding"),
    }
    assert plan.count()["distances"] == 6
    assert plan.cells == plain.cells


def test_keys_ignore_names_places_and_defaults_written_out() -> None:
    keys = set(planned().stages)
    assert set(planned(name="other").stages) == keys
    assert set(planned(dataset={"name": "digits", "root": "/elsewhere"}).stages) == keys
    assert set(planned(training={"epochs": 300}).stages) == keys
    assert set(planned(resources={"train": {"cpus": 4}}).stages) == keys


@pytest.mark.parametrize(
    "changes",
    [
        {"training": {"epochs": 299}},
        {"seeds": [1]},
        {"dataset": {"name": "digits", "size": 32}},
        {"model": {"name": "vgg11_bn", "options": {"a": 1}}},
    ],
)
def test_what_changes_a_model_changes_every_key(changes: dict) -> None:
    assert not set(planned(**changes).stages) & set(planned().stages)


def test_user_code_enters_the_keys() -> None:
    changed = make_plan(experiment(), Facts(**{**vars(FACTS), "code": {"intra-fusion": "abc"}}))
    before = planned()
    assert {s.labels["method"] for k, s in changed.stages.items() if k not in before.stages} == {"intra-fusion"}


def test_one_more_sparsity_adds_only_its_cells(tmp_path: Path) -> None:
    store = Store(tmp_path)
    write_plan(store, experiment(), planned())
    store.write_rows("timings", "all", [{"cell": key} for key in planned().stages])
    assert missing(planned(), store) == set()
    more = planned(pruning={"groups": "each", "sparsities": [0.3, 0.5, 0.7]})
    new = missing(more, store)
    assert {more.stages[key].kind for key in new} == {"compress", "train"}, "the model's weights are gone"
    store.write_network(next(iter(planned().stages)), b"")
    new = missing(more, store)
    assert len(new) == 6
    assert {more.stages[key].labels["target_sparsity"] for key in new} == {0.7}


def test_the_seed_is_in_the_key_of_what_draws_alone() -> None:
    """A checkpoint pruned by l1 is the same for every seed; one pruned by taylor is shown other images."""
    model = {"name": "vgg11_bn", "checkpoint": "weights.safetensors"}
    loaded = {"vgg11_bn": ModelFacts((64,), 1000, "digest", 0.001)}
    facts = replace(FACTS, models=loaded, drawing=frozenset({"taylor"}))
    grid = {"sparsities": [0.5], "criteria": ["l1", "taylor"], "methods": ["conventional"]}
    plan = make_plan(experiment(model=model, pruning=grid, seeds=[0, 1, 2]), facts)
    criteria = [s.labels["criterion"] for s in plan.stages.values() if s.kind == "compress"]
    assert sorted(criteria) == ["l1", "taylor", "taylor", "taylor"]
    assert plan.cells == 4


def test_a_task_shares_model_group_and_criterion() -> None:
    plan = planned(pruning={"sparsities": [0.3, 0.5], "criteria": ["l1", "taylor"]})
    batches = {s.batch for s in plan.stages.values() if s.kind == "compress"}
    assert len(batches) == 3 * 2


def test_the_longest_path_comes_first() -> None:
    grid = {"mode": "fine-tuned", "groups": "all", "sparsities": [0.5], "methods": ["conventional"]}
    plan = planned(pipelines=["whole-data", "paf"], pruning=grid)
    rank = plan.priorities()
    for stage in plan.stages.values():
        assert all(rank[key] >= rank[stage.key] + plan.stages[key].cost for key in stage.inputs)
