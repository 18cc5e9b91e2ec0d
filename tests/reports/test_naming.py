"""Rows of one seed that share all coordinates are told apart by a setting, or refused; never averaged."""

import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pandas as pd
import pytest
from rich.console import Console

from orchestrator import cli
from orchestrator.storage.schema import SCHEMAS
from orchestrator.storage.store import Store
from reports.exhibits import ranking
from reports.exhibits.catalog import EXHIBITS
from reports.page import headline, write_report
from reports.results.naming import fewest_settings
from reports.results.selection import tables_of
from reports.statistics import AmbiguousRows, by_method, kruskal_wallis, over_seeds
from reports.tables import Table

TRAINING = {"training.epochs": 2, "training.learning_rate": 0.1, "version.train": 3}


def stage(cell: str, kind: str, inputs: list[str], settings: dict[str, Any] | None, **columns: Any) -> dict[str, Any]:
    """A row of the plan, with the coordinates of its rows."""
    base = {"experiment": "e", "model": "net", "dataset": "digits", "pipeline": "whole-data", "seed": 0}
    text = None if settings is None else json.dumps(settings)
    return {**base, "cell": cell, "kind": kind, "inputs": inputs, "settings": text, "final": False, **columns}


def chain(name: str, steps: int, settings: dict[str, Any] | None, seed: int = 0, base: str = "base") -> list[dict]:
    """A network that was pruned by two methods in so many steps and fine-tuned after each."""
    rows = []
    for method in ("conventional", "intra-fusion"):
        before = f"{base}{seed}"
        point = {"criterion": "l1", "method": method, "target_sparsity": 0.5, "seed": seed}
        for step in range(1, steps + 1):
            pruned, tuned = (f"{name}-{method}-{seed}-{step}-{kind}" for kind in ("pruned", "tuned"))
            pruned = pruned if step > 1 else f"{base}-{method}-{seed}-first-of-{steps}"  # depends on no training
            rows.append(stage(pruned, "compress", [before], settings, **point, stage="pruned", step=step))
            rows.append(stage(tuned, "fine-tune", [pruned], settings, **point, stage="fine-tuned", step=step))
            before = tuned
        last = stage(f"{name}-{method}-{seed}", "fine-tune", [before], settings, **point, stage="fine-tuned")
        rows.append({**last, "final": True})
    return rows


def base(seed: int = 0, settings: dict[str, Any] | None = None, name: str = "base") -> dict[str, Any]:
    columns = {"stage": "baseline", "training_data": "whole", "seed": seed, "neuron_sparsity": 0.0}
    return stage(f"{name}{seed}", "train", [], settings, **columns)


def written(place: Path, stages: list[dict[str, Any]], accuracy: Callable[[str], float], experiment: str = "") -> Path:
    """A run with these stages, each network of the accuracy that its cell has."""
    store = Store(place)
    store.write_rows("plan", "plan", stages)
    names = set(SCHEMAS["evaluations"].names)
    measured = {"parameters": 1000, "macs": 2000, "weight_sparsity": 0.4, "epoch": 0}
    rows = [
        {**{name: value for name, value in row.items() if name in names}, **measured, "accuracy": accuracy(row["cell"])}
        for row in stages
    ]
    store.write_rows("evaluations", "all", rows)
    timed = [
        {name: row.get(name) for name in SCHEMAS["timings"].names if name in row} | {"seconds": 1.0} for row in stages
    ]
    store.write_rows("timings", "all", timed)
    if experiment:
        store.write(experiment.encode(), "experiment.yaml")
    return place


def by_steps(cell: str) -> float:
    return 90.0 if cell.startswith("base") else (60.0 if "four" in cell else 41.0) + 5 * ("intra" in cell)


def of(tables: Any, name: str) -> Table:
    ((_, table),) = EXHIBITS[name].make(tables)
    assert isinstance(table, Table)
    return table


@pytest.mark.parametrize("recorded", [True, False], ids=["recorded", "of an older version"])
def test_grids_with_other_steps_are_variants_not_seeds(tmp_path: Path, recorded: bool) -> None:
    settings = [{**TRAINING, "pruning.steps": steps} if recorded else None for steps in (1, 4)]
    stages = [base(0, TRAINING if recorded else None), *chain("one", 1, settings[0]), *chain("four", 4, settings[1])]
    tables = tables_of(written(tmp_path, stages, by_steps))
    assert [[row[2], row[3], row[-1]] for row in of(tables, "pipelines-table").rows] == [
        ["conventional", "steps=1", "41.00"],
        ["conventional", "steps=4", "60.00"],
        ["intra-fusion", "steps=1", "46.00"],
        ["intra-fusion", "steps=4", "65.00"],
    ]
    cells = of(tables, "cells")
    assert {(row[7], row[-2]) for row in cells.rows if row[4] == "fine-tuned"} == {
        ("steps=1", "41.00"),
        ("steps=4", "60.00"),
        ("steps=1", "46.00"),
        ("steps=4", "65.00"),
    }
    assert [sentence for sentence in headline(tables) if "mean over" in sentence] == [
        "net, all groups pruned and fine-tuned, steps=1, mean over 1 cell: intra-fusion 46.0 %, conventional 41.0 %.",
        "net, all groups pruned and fine-tuned, steps=4, mean over 1 cell: intra-fusion 65.0 %, conventional 60.0 %.",
    ]
    ((_, figure),) = EXHIBITS["pipelines-figure"].make(tables)
    titles = [axis.get_title() for axis in figure.axes]
    assert titles == [f"{method}, steps={n}" for method in ("conventional", "intra-fusion") for n in (1, 4)]
    ((_, costs),) = EXHIBITS["accuracy-against-macs"].make(tables)
    assert [axis.get_title() for axis in costs.axes] == ["fine-tuned, steps=1", "fine-tuned, steps=4"]
    assert {row[1] for row in of(tables, "runtime").rows} == {"whole-data, steps=1", "whole-data, steps=4"}
    ranked = dict(ranking.ranks_tables(tables))["ranks"]
    assert {row[1] for row in ranked.rows} == {"all groups, fine-tuned, steps=1", "all groups, fine-tuned, steps=4"}


@pytest.mark.parametrize(
    ("setting", "values", "notes"),
    [
        ("fine_tuning.epochs", (1, 3), ["fine_tuning.epochs=1", "fine_tuning.epochs=3"]),
        (
            "measuring.precision",
            ("bfloat16", "float32"),
            ["measuring.precision=bfloat16", "measuring.precision=float32"],
        ),
        ("method.code", ("0123456789abcdef", "fedcba9876543210"), ["method.code=01234567", "method.code=fedcba98"]),
        ("version.compress", (2, 3), ["version.compress=2", "version.compress=3"]),
    ],
)
def test_runs_that_differ_in_a_setting_are_variants(
    tmp_path: Path, setting: str, values: tuple[Any, Any], notes: list[str]
) -> None:
    places = []
    for name, value in zip(("one", "four"), values, strict=True):
        settings = {**TRAINING, "pruning.steps": 1, "fine_tuning.momentum": 0.9, setting: value}
        stages = [row for seed in (0, 1) for row in (base(seed, TRAINING), *chain(name, 1, settings, seed))]
        places.append(written(tmp_path / name, stages, by_steps))
    tables = tables_of(places)
    table = of(tables, "pipelines-table")
    assert sorted({row[3] for row in table.rows}) == notes
    assert {row[-1] for row in table.rows} == {f"{value:.2f} ± 0.00" for value in (41, 46, 60, 65)}
    assert table.counts == {2}
    assert {row[0] for row in of(tables, "models").rows} == {"net"}, "the unpruned network is one"


def test_an_older_runs_experiment_tells_what_it_did_not_record(tmp_path: Path) -> None:
    places = [
        written(
            tmp_path / name,
            [base(), *chain(name, 1, None)],
            by_steps,
            f"dataset: {{name: digits}}\nfine_tuning: {{epochs: {epochs}, momentum: 0.9}}\n",
        )
        for name, epochs in (("one", 1), ("four", 3))
    ]
    found = {row[3] for row in of(tables_of(places), "pipelines-table").rows}
    assert found == {"fine_tuning.epochs=1", "fine_tuning.epochs=3"}


def test_networks_that_differ_in_their_training_differ_in_name(tmp_path: Path) -> None:
    places = []
    for name, epochs in (("one", 2), ("four", 300)):
        settings = {**TRAINING, "training.epochs": epochs}
        tuned = {**settings, "pruning.steps": 1}
        stages = [base(0, settings, f"base-{name}"), *chain(name, 1, tuned, base=f"base-{name}")]
        places.append(written(tmp_path / name, stages, by_steps))
    tables = tables_of(places)
    names = ["net, training.epochs=2", "net, training.epochs=300"]
    assert [row[0] for row in of(tables, "models").rows] == names
    table = of(tables, "pipelines-table")
    assert sorted({row[0] for row in table.rows}) == names
    assert "settings" not in table.head
    assert set(tables.evaluations["network"]) == {"net"}


def test_models_of_subsets_stand_apart_in_the_table_of_cells(tmp_path: Path) -> None:
    columns = {"stage": "baseline", "folds": 2, "split": "unions", "pipeline": None}
    rows = [stage(f"b{n}", "train", [], TRAINING, training_data=f"subset-{n}", **columns) for n in (1, 2, 10)]
    table = of(tables_of(written(tmp_path, rows, lambda cell: float(cell[1:]))), "cells")
    trained_on = table.head.index("trained on")
    assert [(row[trained_on], row[-2]) for row in table.rows] == [
        (f"subset-{n} of 2 unions", f"{n:.2f}") for n in (1, 2, 10)
    ]


def test_rows_that_nothing_tells_apart_are_refused_and_page_and_command_say_so(
    tmp_path: Path, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(cli, "console", Console(highlight=False, soft_wrap=True))
    stages = [base(0, TRAINING), *chain("one", 1, TRAINING), *chain("four", 1, TRAINING)]
    report = write_report(written(tmp_path / "run", stages, by_steps), tmp_path / "out")
    assert "pipelines-table" in report.refused
    assert "cells one-conventional-0, four-conventional-0" in report.refused["pipelines-table"]
    assert not (tmp_path / "out" / "pipelines.md").exists()
    assert "pipelines-table is not shown: 2 results" in (tmp_path / "out" / "README.md").read_text()
    assert "models.md" in report.files, "what can be shown is shown"
    assert "pipelines-table" not in {name for names in report.lacking.values() for name in names}
    cli.write_report_of([str(tmp_path / "run")], str(tmp_path / "again"), quiet=True)
    assert "pipelines-table is not shown: 2 results" in capsys.readouterr().out


def test_statistics_refuse_two_rows_of_a_seed() -> None:
    row = {"model": "net", "dataset": "d", "pipeline": "p", "criterion": "c", "note": "", "group": None}
    row |= {"target_sparsity": 0.5, "method": "m", "seed": 0, "accuracy": 1.0, "cell": "a"}
    frame = pd.DataFrame([row, {**row, "cell": "b", "accuracy": 2.0}])
    for summarised in (
        lambda: over_seeds(frame, ["model", "method"]),
        lambda: by_method(frame),
        lambda: kruskal_wallis(frame, ["model"], "method"),
    ):
        with pytest.raises(AmbiguousRows, match=r"2 results \(cells a, b\) share model net"):
            summarised()


def test_a_name_has_the_fewest_settings_that_tell_all_apart() -> None:
    same = {"a": 1, "run": "x"}
    both = [{**same, "b": 1, "c": 1}, {**same, "b": 2, "c": 2}]
    assert fewest_settings([both]) == ["b"]
    assert fewest_settings([[*both, {**same, "b": 2, "c": 3}]]) == ["c"]
    assert fewest_settings([both, [{**same, "d": 1}, {**same, "d": 2}]]) == ["b", "d"]
    square = [{**same, "b": b, "c": c} for b in (1, 2) for c in (1, 2)]
    assert fewest_settings([square]) == ["b", "c"]
    assert fewest_settings([[{"code": "x", "z": 1}, {"code": "y", "z": 2}]]) == ["z"], "digests only where need be"
    assert fewest_settings([[same, {**same, "run": "y"}]]) == ["run"]
    assert fewest_settings([[{**same, "b": 1}, {**same, "c": 1, "b": 2}]]) == ["b"], "one that both have"
    older = {**same, "run": "y"}
    assert fewest_settings([[{**same, "b": 1}, older]]) == ["run"], "what the older run did not record may be equal"
    assert fewest_settings([[same, dict(same)]]) == []
    assert fewest_settings([]) == []
