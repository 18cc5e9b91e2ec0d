"""Durations of pipelines and the overlap of trainings, from stages whose times are made up."""

from dataclasses import replace

import pandas as pd
import pytest

from orchestrator.stages import kinds
from reports.exhibits import runtime
from reports.results.selection import Tables
from reports.statistics import kruskal_wallis

# (cell, kind, inputs, seconds, training_data)
STAGES = [
    ("whole", "train", [], 100.0, "whole"),
    ("end", "fine-tune", ["whole"], 30.0, None),
    ("a", "train", [], 50.0, "subset-1"),
    ("b", "train", [], 60.0, "subset-2"),
    ("fused", "fuse", ["a", "b"], 5.0, None),
    ("fused-end", "fine-tune", ["fused"], 20.0, None),
]
PLAN = pd.DataFrame([{"cell": cell, "inputs": inputs} for cell, _, inputs, _, _ in STAGES])
BEGIN = pd.Timestamp("2026-01-01", tz="UTC")


def timings(**started: float) -> pd.DataFrame:
    rows = [
        {
            "cell": cell,
            "kind": kind,
            "seconds": seconds,
            "training_data": data,
            "model": "net",
            "seed": 0,
            "split": "unions" if data != "whole" else None,
            "node": "n",
            "worker": number,
            "started": BEGIN + pd.Timedelta(seconds=started.get(cell, 0.0)),
            "finished": BEGIN + pd.Timedelta(seconds=started.get(cell, 0.0) + seconds),
        }
        for number, (cell, kind, _, seconds, data) in enumerate(STAGES)
    ]
    return pd.DataFrame(rows)


def tables(timings: pd.DataFrame) -> Tables:
    """Those of a run of whole-data and FaP with these timings."""
    shared = {"model": "net", "seed": 0, "criterion": "l1", "method": "intra-fusion", "target_sparsity": 0.5}
    shared |= {"final": True, "stage": "fine-tuned", "group": None, "note": ""}
    ends = pd.DataFrame([
        {**shared, "pipeline": "whole-data", "cell": "end"},
        {**shared, "pipeline": "FaP", "cell": "fused-end"},
    ])  # fmt: skip
    named = ("epochs", "splits", "importances", "distances", "landscapes", "allocations", "barriers")
    others = dict.fromkeys(named, pd.DataFrame())
    return Tables(evaluations=ends, plan=PLAN, timings=timings, settings={}, **others)


def test_a_pipeline_lasts_as_long_as_its_longest_chain() -> None:
    frame = runtime.pipeline_durations(tables(timings())).set_index("pipeline")
    assert frame.loc["whole-data", ["training", "overall"]].tolist() == [100.0, 130.0]
    assert frame.loc["FaP", ["training", "overall"]].tolist() == [60.0, 85.0]
    assert frame.loc["FaP", "training_gain"] == pytest.approx(100 / 60)
    assert frame.loc["FaP", "overall_gain"] == pytest.approx(130 / 85)


def test_given_weights_were_not_trained_here() -> None:
    given = timings().replace({"kind": {"train": "load"}})
    frame = runtime.pipeline_durations(tables(given))
    assert frame.empty
    assert list(runtime.runtime_table(tables(given))) == []
    ((_, figure),) = runtime.runtime_figure(tables(given))
    assert len(figure.axes[0].collections) == len(STAGES)


def test_the_figure_has_pipelines_of_one_split_and_fusion() -> None:
    rows = [
        {"pipeline": "FaP, overlapping", "cell": 1},
        {"pipeline": "FaP, unions", "cell": 2},
        {"pipeline": "PaF, unions", "cell": 3},
        {"pipeline": "whole-data", "cell": 4},
    ]
    chosen, branch = runtime.one_branch(pd.DataFrame(rows))
    assert branch == "unions"
    assert dict(zip(chosen["pipeline"], chosen["cell"], strict=True)) == {"FaP": 2, "PaF": 3, "whole-data": 4}


def test_a_pipeline_that_is_not_through_has_no_duration() -> None:
    frame = runtime.pipeline_durations(tables(timings().query("cell != 'fused'")))
    assert frame["pipeline"].tolist() == ["whole-data"]


def test_the_figure_has_a_lane_for_each_network() -> None:
    ((name, figure),) = runtime.runtime_figure(tables(timings()))
    labels = [label.get_text() for label in figure.axes[0].get_yticklabels()]
    assert (name, labels) == ("runtime-net", ["FaP, model 2", "FaP, model 1", "whole-data"])
    assert len(figure.axes[0].collections) == len(STAGES)


def test_the_figure_shows_searches_and_every_other_kind_that_a_result_needs() -> None:
    shown = {"load", "train", "fine-tune", "fuse", "compress", "allocate", "sensitivity"}
    assert set(runtime.KINDS) == shown == set(kinds()) - {"importances", "distances", "landscape", "barrier"}
    of_run = tables(timings())
    searched = [("measured", "sensitivity", ["whole"]), ("found", "allocate", ["whole", "measured"])]
    plan = pd.DataFrame([{"cell": cell, "inputs": inputs} for cell, _, inputs in searched])
    like = of_run.timings[of_run.timings["cell"] == "end"]
    more = pd.concat([like.assign(cell=cell, kind=kind) for cell, kind, _ in searched])
    later = of_run.plan[of_run.plan["cell"] != "end"]
    end = pd.DataFrame([{"cell": "end", "inputs": ["found"]}])
    found = replace(of_run, plan=pd.concat([later, plan, end]), timings=pd.concat([of_run.timings, more]))
    ((_, figure),) = runtime.runtime_figure(found)
    assert len(figure.axes[0].collections) == len(STAGES) + 2
    assert {"allocate", "sensitivity"} <= {text.get_text() for text in figure.legends[0].get_texts()}


@pytest.mark.parametrize(("second", "at_a_time"), [(0.0, "1.83"), (50.0, "1.00"), (80.0, "1.00"), (40.0, "1.10")])
def test_overlap_is_work_over_wall_clock(second: float, at_a_time: str) -> None:
    ((_, table),) = runtime.overlap_table(tables(timings(b=second)))
    assert table.rows[0][-1] == at_a_time
    assert table.rows[0][2:4] == ["2", "2"]


def test_kruskal_wallis_tells_alike_from_different() -> None:
    frame = pd.DataFrame({
        "group": [0] * 6 + [1] * 6 + [2] * 2,
        "between": ["a", "a", "a", "b", "b", "b"] * 2 + ["a", "b"],
        "seed": [0, 1, 2] * 4 + [0, 0],
        "accuracy": [1.0, 2.0, 3.0, 11.0, 12.0, 13.0, 1.0, 1.0, 1.0, 1.0, 1.0, 1.0, 1.0, 2.0],
    })  # fmt: skip
    p = kruskal_wallis(frame, ["group"], "between")
    assert p[0] == pytest.approx(0.0495, abs=1e-4)  # H = 3.857 with one degree of freedom
    assert p[1] == 1.0
    assert pd.isna(p[2])
