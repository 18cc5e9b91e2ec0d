"""Searches for widths as stages: shared by cells, in the results, and without a look at what is measured on."""

from pathlib import Path
from typing import Any

import pytest
import torch

from orchestrator import Experiment
from orchestrator.planning.building import make_plan
from orchestrator.planning.context import shared_context
from orchestrator.planning.facts import Facts, ModelFacts, gather
from orchestrator.running.tasks import execute
from orchestrator.storage.store import Store
from orchestrator.worker.compressing import sizes_as_bytes, stored_sizes
from orchestrator.worker.networks import LostNetwork
from orchestrator.worker.work import Work
from tests.conftest import TINY
from workloads.data.samples import Dataset
from workloads.networks import checkpoints
from workloads.structure.finding import trace

GRID: dict[str, Any] = {
    "groups": "all",
    "sparsities": [0.3, 0.5],
    "sparsity_of": "macs",
    "allocation": {"name": "elimination", "images": 40},
    "methods": ["conventional", "folding"],
    "criteria": ["l1", "l2"],
}


def experiment(**grid: object) -> Experiment:
    return Experiment.model_validate({**TINY, "pruning": {**GRID, **grid}})


def stages(**grid: object) -> list:
    network = ModelFacts((8, 8, 8), 100, None, 0.001, layers=(("c",), ("b",), ("a",)))
    facts = Facts(train=100, test=50, fingerprint="f", models={"vgg11_bn-w0.0625": network}, code={})
    return list(make_plan(experiment(**grid), facts).stages.values())


def test_a_search_is_shared_by_all_cells_of_its_budget_and_by_no_others() -> None:
    planned = stages()
    searches = [stage for stage in planned if stage.kind == "allocate"]
    cells = [stage for stage in planned if stage.kind == "compress"]
    assert (len(searches), len(cells)) == (2, 8)
    assert {stage.inputs[1] for stage in cells} == {stage.key for stage in searches}
    assert len({stage.batch for stage in searches}) == 1
    assert {stage.labels["allocation"] for stage in planned[1:]} == {"elimination(images=40)"}
    assert searches[0].labels["method"] is searches[0].labels["criterion"] is None
    keys = {stage.key for stage in searches}
    assert keys == {stage.key for stage in stages(order="input-first", repair="data") if stage.kind == "allocate"}
    for other in ({"allocation": "elimination"}, {"sparsity_of": "weights"}, {"round_to": 4}, {"ignore": ["a"]}):
        assert keys.isdisjoint(stage.key for stage in stages(**other))


def test_every_step_of_pruning_searches_in_the_network_that_it_starts_from() -> None:
    planned = stages(mode="fine-tuned", sparsities=[0.5], steps=2, methods=["folding"], criteria=["l1"])
    searches = [stage for stage in planned if stage.kind == "allocate"]
    assert [stage.parameters["sparsity"] for stage in searches] == [0.25, 0.5]
    assert len({stage.inputs for stage in searches}) == 2


def searching(planned: list, kind: str = "allocate") -> list:
    return [stage for stage in planned if stage.kind == kind]


def test_sensitivities_are_measured_once_for_all_budgets_of_a_method_and_in_stages_of_their_own() -> None:
    grid = {"allocation": {"name": "sensitivity", "points": 3}, "criteria": ["l1"]}
    planned = stages(**grid, repair=["none", "data"])
    measured, searches = searching(planned, "sensitivity"), searching(planned)
    assert (len(measured), len(searches)) == (3 * 4, 2 * 4)  # by method and repair
    by_method = {(stage.labels["method"], stage.labels["repair"]): stage.inputs[1:] for stage in searches}
    assert len(set(by_method.values())) == 4
    groups = {stage.key: stage.labels["group"] for stage in measured}
    assert all([groups[key] for key in inputs] == [0, 1, 2] for inputs in by_method.values())
    again = stages(**grid, repair=["none", "data"], sparsities=[0.4], sparsity_of="weights", order="input-first")
    assert {stage.key for stage in searching(again, "sensitivity")} == set(groups)
    rounded = searching(stages(**grid, round_to=4), "sensitivity")
    assert set(groups).isdisjoint(stage.key for stage in rounded)
    assert len(searching(stages(**grid, ignore=["a"]), "sensitivity")) == 2 * 2


def test_a_step_of_a_greedy_search_is_a_stage_that_larger_budgets_go_on_from() -> None:
    grid = {"allocation": {"name": "greedy", "step": 0.1}, "criteria": ["l1"], "methods": ["folding"]}
    planned = stages(**grid, sparsities=[0.3, 0.45])
    steps = {stage.parameters["sparsity"]: stage for stage in searching(planned)}
    assert sorted(steps) == [0.1, 0.2, 0.3, 0.4, 0.45]
    for before, after in ((0.1, 0.2), (0.2, 0.3), (0.3, 0.4), (0.4, 0.45)):
        assert steps[after].inputs[1:] == (steps[before].key,)
        assert steps[after].labels["target_sparsity"] == after
    assert {stage.inputs[1] for stage in searching(planned, "compress")} == {steps[0.3].key, steps[0.45].key}
    ordered = searching(stages(**grid, order="input-first"))
    assert {stage.key for stage in steps.values()}.isdisjoint(stage.key for stage in ordered)
    tuned = searching(stages(**grid, mode="fine-tuned", steps=2, sparsities=[0.5]))
    assert sorted(stage.parameters["sparsity"] for stage in tuned) == [0.1, 0.2, 0.25, 0.3, 0.4, 0.5]


@pytest.mark.parametrize(
    ("grid", "message"),
    [
        ({"groups": "each"}, r"allocation is elimination\(images=40\), which spreads a sparsity over several groups"),
        (
            {"allocation": "even"},
            "'isomorphic', 'elimination', 'sensitivity' or 'greedy'",
        ),
        ({"allocation": {"name": "greedy", "images": "synthetic"}}, "valid integer"),
        ({"allocation": {"name": "sensitivity", "step": 0.1}}, "step"),
        ({"allocation": {"name": "isomorphic", "images": 3}}, "'isomorphic' has no options: leave out images"),
        ({"allocation": {"name": "elimination", "least": 0}}, "greater than 0"),
    ],
)
def test_what_no_allocation_is_is_refused(grid: dict, message: str) -> None:
    with pytest.raises(ValueError, match=message):
        experiment(**grid)


def test_an_experiment_with_a_search_is_the_same_when_it_is_read_again() -> None:
    before = experiment()
    assert Experiment.from_yaml(before.to_yaml(), "again.yaml") == before


def test_widths_are_read_as_they_were_left_and_missed_where_they_are_gone(tmp_path: Path) -> None:
    store = Store(tmp_path)
    store.write_network("k", sizes_as_bytes({3: 8, 0: 2}))
    assert stored_sizes(str(tmp_path), "k") == {3: 8, 0: 2}
    store.write_network("k", b"damaged")
    for key in ("k", "none"):
        with pytest.raises(LostNetwork, match=f"the network of stage {key} is lost"):
            stored_sizes(str(tmp_path), key)


@pytest.mark.parametrize("name", ["elimination", "sensitivity", "greedy"])
def test_a_search_looks_at_held_back_training_images_alone_and_leaves_its_widths_and_reasons(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, name: str
) -> None:
    solved: Any = {"name": "least-squares", "images": 60} if name == "elimination" else "data-free"
    options: dict[str, dict[str, Any]] = {"sensitivity": {"points": 1}, "greedy": {"step": 0.3}}
    more = options.get(name, {})
    allocation = {"name": name, "images": 40, **more}
    tiny = experiment(sparsities=[0.5], methods=["conventional"], criteria=["l1"], repair=solved, allocation=allocation)
    facts = gather(tiny)
    context = shared_context(tiny, facts, Store(tmp_path))
    drawn: list[tuple[str, str, torch.Tensor]] = []
    batches, now = Dataset.batches, "none"

    def recorded(self: Dataset, part: str, size: int, *others: Any, **more: Any) -> object:
        drawn.append((now, part, more["indices"] if "indices" in more else others[1] if len(others) > 1 else None))
        return batches(self, part, size, *others, **more)  # type: ignore[arg-type]

    monkeypatch.setattr(Dataset, "batches", recorded)
    for stage in make_plan(tiny, facts).stages.values():
        now = stage.kind
        work = Work(stage.kind, stage.key, stage.parameters, stage.inputs, stage.labels, keep=True, record=True)
        (outcome,) = execute([work], context)
        assert outcome.error is None
    searching_kinds = ("allocate", "sensitivity")
    searched = [indices for kind, part, indices in drawn if kind in searching_kinds if part == "train"]
    assert not [part for kind, part, _ in drawn if kind in searching_kinds and part != "train"]
    assert len(torch.cat(searched).unique()) == 40
    shown = [indices for kind, part, indices in drawn if kind == "compress" and part == "train"]
    assert bool(shown) == (name == "elimination")
    assert not set(torch.cat([*shown, torch.zeros(0)]).tolist()) & set(torch.cat(searched).tolist())

    store = Store(tmp_path)
    widths = store.read_table("allocations").to_pandas().query("target_sparsity == 0.5")
    row = store.read_table("evaluations").to_pandas().query("stage == 'pruned'").squeeze()
    assert row["allocation"].startswith(f"{name}(images=40")
    assert 0.5 <= row["reached_sparsity"] == pytest.approx(0.5, abs=0.1)
    assert list(widths["of_group"]) == list(range(len(widths)))
    assert (widths["width"] <= widths["neurons"]).all()
    assert widths["why"].str.startswith("narrowed in " if name == "greedy" else "losing ").all()
    timed = store.read_table("timings", ["kind", "seconds"]).to_pandas()
    counts = {"elimination": (1, 0), "sensitivity": (1, len(widths)), "greedy": (2, 0)}
    assert tuple((timed["kind"] == kind).sum() for kind in searching_kinds) == counts[name]
    assert (timed["seconds"] > 0).all()
    if name == "sensitivity":
        measured = store.read_table("sensitivities").to_pandas()
        assert sorted(measured["of_group"]) == sorted(measured["group"]) == list(widths["of_group"])
        assert all(
            len(kept) == len(lost) == 1 for kept, lost in zip(measured["widths"], measured["losses"], strict=True)
        )


@pytest.mark.parametrize("sparsity_of", ["neurons", "macs"])
def test_the_widths_that_a_threshold_leaves_are_in_the_results_beside_equal_shares(
    tmp_path: Path, sparsity_of: str
) -> None:
    grid: dict[str, Any] = {"methods": ["conventional"], "criteria": ["l1"], "sparsity_of": sparsity_of}
    tiny = experiment(**grid, sparsities=[0.5], allocation="global")
    facts = gather(tiny)
    context = shared_context(tiny, facts, Store(tmp_path))
    works = [
        Work(stage.kind, stage.key, stage.parameters, stage.inputs, stage.labels, keep=True, record=True)
        for stage in make_plan(tiny, facts).stages.values()
    ]
    for work in works:
        (outcome,) = execute([work], context)
        assert outcome.error is None
    store = Store(tmp_path)
    rows = store.read_table("allocations").to_pandas()
    cell = store.read_table("evaluations").to_pandas().query("stage == 'pruned'").squeeze()
    assert set(rows["cell"]) == {cell["cell"]}
    assert list(rows["of_group"]) == list(range(len(rows)))
    kept = rows["width"].sum() / rows["neurons"].sum()
    assert kept == pytest.approx(1 - cell["neuron_sparsity"])
    assert rows["width"].tolist() != rows["uniform_width"].tolist()
    assert set(rows["why"]) == {"one threshold on the scores of all groups by l1"}
    assert rows["loss"].isna().all()
    content, _ = store.read_network(cell["cell"])
    pruned, _ = checkpoints.loads(content, "cell")
    assert rows["width"].tolist() == [group.size for group in trace(pruned, torch.zeros(1, 1, 32, 32)).groups]
