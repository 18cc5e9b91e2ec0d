"""What exhibits show of several seeds, of networks, and of runs that go on."""

from pathlib import Path

import numpy as np
import pandas as pd
import pytest

from orchestrator.storage.schema import SCHEMAS
from orchestrator.storage.store import Store
from reports import load
from reports.exhibits import ranking
from reports.exhibits.catalog import EXHIBITS
from reports.exhibits.tradeoffs import COSTS, FRONT, Panel, tradeoff_figure
from reports.page import headline
from reports.results.selection import tables_of
from reports.statistics import holm
from tests.reports.test_reports import evaluation, plan


def stored(place: Path, rows: list[dict], **tables: list[dict]) -> Path:
    """A run with these evaluations and further tables."""
    store = Store(place)
    store.write_rows("evaluations", "all", rows)
    for name, more in tables.items():
        store.write_rows(name, "all", more)
    plan(store, [*rows, *(row for more in tables.values() for row in more)])
    return place


def lines_of(figure) -> list[list[list[float]]]:
    return [c.lines[0].get_xydata().round(3).tolist() for axis in figure.axes for c in axis.containers]


@pytest.mark.parametrize("stage", ["pruned", "fine-tuned"])
def test_seeds_that_reach_other_sparsities_are_one_point_at_their_mean(tmp_path: Path, stage: str) -> None:
    rows = [
        evaluation(
            f"{method}{seed}{target}",
            method=method,
            seed=seed,
            stage=stage,
            allocation="global",
            target_sparsity=target,
            neuron_sparsity=target + 0.02 * seed,
            weight_sparsity=target + 0.1 + 0.02 * seed,
            accuracy=80.0 - 100 * target + seed,
        )
        for method in ("conventional", "intra-fusion")
        for seed in (0, 1, 2)
        for target in (0.2, 0.4)
    ]
    tables = tables_of(stored(tmp_path, rows))
    name, start = ("whole-network-figure", 0.22) if stage == "pruned" else ("pipelines-figure", 0.32)
    ((_, figure),) = EXHIBITS[name].make(tables)
    line = [[100 * start, 61.0], [100 * start + 20, 41.0]]
    assert lines_of(figure) == [line, line]
    assert "mean over 3 seeds" in " ".join(figure.get_supxlabel().split())


def test_masses_are_drawn_for_every_seed_and_name_their_network(tmp_path: Path) -> None:
    columns = set(SCHEMAS["importances"].names)
    importances = [
        {
            **{k: v for k, v in evaluation(f"i{pipeline}{seed}{group}").items() if k in columns},
            "pipeline": pipeline,
            "model": "vgg11_bn-w0.5",
            "seed": seed,
            "group": group,
            "stage": "compared",
            "final": False,
            "scores": scores,
        }
        for pipeline in ("whole-data", "fap")
        for seed in (0, 1)
        for group, scores in ((0, [1.0 + seed, 3.0]), (1, [0.0, 0.0, 0.0]))
    ]
    figures = dict(EXHIBITS["masses"].make(tables_of(stored(tmp_path, [], importances=importances))))
    assert list(figures) == ["masses-vgg11_bn-w0.5-l1-FaP", "masses-vgg11_bn-w0.5-l1-whole-data"]
    figure = figures["masses-vgg11_bn-w0.5-l1-whole-data"]
    assert "VGG11-BN (0.5×), whole-data, l1" in figure.get_supxlabel()
    assert [text.get_text() for text in figure.legends[0].get_texts()] == ["seed 0", "seed 1", "uniform"]
    steps = [list(line.get_ydata()) for line in figure.axes[0].lines if len(line.get_ydata()) == 2]
    assert [75.0, 25.0] in steps
    assert [60.0, 40.0] in steps
    assert np.isfinite([list(line.get_ydata()) for line in figure.axes[1].lines if len(line.get_ydata()) == 3]).all()


def test_summary_and_ranks_of_a_run_that_goes_on_are_of_the_same_cells(tmp_path: Path) -> None:
    """The last seed lacks a cell of one method; the others are complete."""
    rows = [
        evaluation(
            f"{method}{group}{seed}",
            method=method,
            group=group,
            seed=seed,
            neuron_sparsity=0.5,
            target_sparsity=0.5,
            accuracy=50.0 + 10 * group + 7 * seed + gain,
        )
        for method, gain in (("conventional", 0), ("intra-fusion", 5), ("folding", 3))
        for group in (0, 1, 2)
        for seed in (0, 1, 2)
        if (method, group, seed) != ("folding", 2, 2)
    ]
    tables = tables_of(stored(tmp_path, rows))
    ranks = dict(ranking.ranks_tables(tables))["ranks"]
    shown = {row[2]: row[4] for row in ranks.rows}
    assert shown == {"intra-fusion": "68.50", "folding": "66.50", "conventional": "63.50"}
    assert headline(tables)[0] == (
        "net, one group pruned without fine-tuning, mean over 3 cells: intra-fusion 68.5 %, folding 66.5 %, "
        "conventional 63.5 %."
    )
    ((_, means),) = EXHIBITS["data-free-mean"].make(tables)
    assert dict(zip(means.head[-3:], [cell.mean for cell in means.rows[0][-3:]], strict=True)) == {
        method: float(value) for method, value in shown.items()
    }


def test_pipelines_are_summarised_over_the_cells_that_all_of_them_have(tmp_path: Path) -> None:
    rows = [
        evaluation(
            f"{pipeline}{target}{seed}",
            pipeline=pipeline,
            stage="fine-tuned",
            method="conventional",
            target_sparsity=target,
            seed=seed,
            accuracy=80.0 - 10 * seed + gain,
        )
        for pipeline, gain in (("whole-data", 0), ("paf", 2))
        for target in (0.5, 0.7)
        for seed in (0, 1)
        if (pipeline, target, seed) != ("paf", 0.7, 1)
    ]
    (sentence,) = [s for s in headline(tables_of(stored(tmp_path, rows))) if "PaF" in s]
    assert sentence == "net, all groups pruned and fine-tuned, mean over 2 cells: PaF 82.0 %, whole-data 80.0 %."


def test_a_front_is_of_its_panel_and_one_of_one_point_is_seen() -> None:
    def panel(accuracies: list[float]) -> Panel:
        points = pd.DataFrame({"macs": [1e6, 2e6], "mean": accuracies, "std": np.nan, "n": 1, "variant": "a"})
        return Panel(points, points[:0], points[points["mean"] > 50])

    figure = tradeoff_figure(COSTS["macs"], {"one": panel([60.0, 70.0]), "two": panel([40.0, 60.0])})
    fronts = [next(line for line in axis.lines if line.get_color() == FRONT["color"]) for axis in figure.axes]
    assert [front.get_xydata().tolist() for front in fronts] == [[[1, 60], [2, 70]], [[2, 60]]]
    assert all(front.get_marker() == "o" and front.get_markersize() > 8 for front in fronts)
    assert "Pareto front of the panel" in [text.get_text() for text in figure.legends[0].get_texts()]


def test_latencies_have_their_interval_and_a_word_on_other_work(tmp_path: Path) -> None:
    times = {"latency_1": 2.0, "latency_1_low": 1.5, "latency_1_high": 3.0, "latency_others": 1.25}
    rows = [evaluation("a", method="conventional", target_sparsity=0.5, accuracy=80.0, device="cpu", **times)]
    ((_, figure),) = EXHIBITS["accuracy-against-latency"].make(tables_of(stored(tmp_path / "busy", rows)))
    (bars,) = [c[2][0].get_segments() for c in figure.axes[0].containers if c[2]]
    assert [bar[:, 0].tolist() for bar in bars] == [[1.5, 3.0]]
    note = " ".join(figure.get_supxlabel().split())
    assert "95 % interval of the median" in note
    assert "other work kept 1.2 CPU cores busy" in note
    older = [{**rows[0], "latency_1_low": None, "latency_1_high": None, "latency_others": None}]
    ((_, figure),) = EXHIBITS["accuracy-against-latency"].make(tables_of(stored(tmp_path / "older", older)))
    assert "interval" not in figure.get_supxlabel()
    assert "busy" not in figure.get_supxlabel()


def test_times_have_no_zone_so_that_spreadsheets_take_them(tmp_path: Path) -> None:
    row = {name: value for name, value in evaluation("a").items() if name in SCHEMAS["timings"].names}
    moment = pd.Timestamp("2026-01-01 12:00", tz="UTC")
    run = stored(tmp_path / "run", [], timings=[{**row, "started": moment, "finished": moment, "tables": ["epochs"]}])
    frame = load(run, "timings")
    assert frame["started"].tolist() == [pd.Timestamp("2026-01-01 12:00")]
    pytest.importorskip("openpyxl", reason="pandas writes spreadsheets with openpyxl")
    frame.to_excel(tmp_path / "timings.xlsx")
    assert pd.read_excel(tmp_path / "timings.xlsx")["finished"].tolist() == frame["finished"].tolist()


def test_p_values_are_corrected_by_holms_procedure() -> None:
    p = pd.Series([0.01, 0.04, 0.03, np.nan, 0.005], index=list("abcde"))
    assert holm(p).round(6).fillna(-1).to_dict() == {"a": 0.03, "b": 0.06, "c": 0.06, "d": -1, "e": 0.02}
    assert holm(pd.Series([0.9, 0.8])).tolist() == [1.0, 1.0]
