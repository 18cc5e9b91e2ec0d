from pathlib import Path

import pandas as pd
import pytest
from matplotlib.figure import Figure

from orchestrator.storage.schema import SCHEMAS
from orchestrator.storage.store import Store
from reports import figures, load
from reports.exhibits import ranking
from reports.exhibits.catalog import EXHIBITS
from reports.exhibits.cells import cells_table
from reports.exhibits.provenance import environments_table
from reports.page import headline, write_report
from reports.page.place import NAMES
from reports.results.selection import tables_of
from reports.statistics import over_seeds
from reports.tables import Table


def evaluation(cell: str, **columns: object) -> dict:
    base = {
        "experiment": "e",
        "cell": cell,
        "model": "net",
        "dataset": "digits",
        "pipeline": "whole-data",
        "seed": 0,
        "stage": "pruned",
        "final": True,
        "criterion": "l1",
        "epoch": 0,
        "weight_sparsity": 0.4,
        "parameters": 1000,
        "macs": 2_000_000,
    }
    return {**base, **columns}


ROWS = [
    evaluation("base", stage="baseline", training_data="whole", final=False, neuron_sparsity=0.0, accuracy=90.0),
    *(
        evaluation(
            f"{method}{seed}",
            seed=seed,
            method=method,
            group=0,
            neuron_sparsity=0.5,
            target_sparsity=0.5,
            accuracy=accuracy + seed,
        )
        for method, accuracy in (("conventional", 60.0), ("intra-fusion", 80.0))
        for seed in (0, 2)
    ),
]


def plan(store: Store, rows: list[dict]) -> None:
    """Make the rows those that the present experiment asks for."""
    names = SCHEMAS["plan"].names
    store.write_rows("plan", "plan", [{k: v for k, v in row.items() if k in names} for row in rows])


@pytest.fixture
def run(tmp_path: Path) -> Path:
    store = Store(tmp_path / "run")
    store.write_rows("evaluations", "all", ROWS)
    store.write_rows("evaluations", "stale", [evaluation("stale", method="conventional", group=0, accuracy=1.0)])
    plan(store, ROWS)
    return tmp_path / "run"


def test_many_variants_leave_the_panels_their_height() -> None:
    names = [f"a method with a long name, repair · criterion {number}" for number in range(24)]
    figure, axes = figures.panels([f"group {number}" for number in range(8)])
    figures.legend(figure, figures.style(names))
    figure.draw_without_rendering()
    assert min(axis.get_position().height * figure.get_figheight() for axis in axes) > 0.8


def test_only_rows_of_the_present_plan_are_loaded(run: Path) -> None:
    assert "stale" not in set(load(run)["cell"])
    assert "stale" in set(load(run, everything=True)["cell"])


def test_a_row_written_in_two_shards_counts_once(run: Path) -> None:
    Store(run).write_rows("evaluations", "again", ROWS[1:3])
    assert len(load(run)) == len(ROWS)


def test_rows_are_labelled_as_the_present_experiment_sees_them(run: Path) -> None:
    """A stage on the way to a cell ends one after the grid was extended, and the other way round."""
    plan(Store(run), [{**row, "final": not row["final"], "experiment": "extended"} for row in ROWS])
    frame = load(run).set_index("cell")
    assert frame["final"].to_dict() == {row["cell"]: not row["final"] for row in ROWS}
    assert set(frame["experiment"]) == {"extended"}
    assert frame["accuracy"].to_dict() == {row["cell"]: row["accuracy"] for row in ROWS}


def test_several_runs_are_told_apart(run: Path) -> None:
    frame = load([run, run])
    assert len(frame) == 2 * len(ROWS)
    assert set(frame["run"]) == {str(run)}


def test_the_data_free_table_has_means_deviations_and_the_gain(run: Path) -> None:
    ((_, table),) = EXHIBITS["data-free-table"].make(tables_of(run))
    assert isinstance(table, Table)
    assert table.head[-3:] == ["conventional", "intra-fusion", "Intra-Fusion gain"]
    assert table.rows == [["net", "whole-data", "l1", "0", "50", "61.00 ± 1.41", "81.00 ± 1.41", "+20.00"]]


def test_the_figure_has_a_line_a_method_through_the_means(run: Path) -> None:
    ((name, figure),) = EXHIBITS["data-free-figure"].make(tables_of(run))
    assert name == "data-free-net"
    assert isinstance(figure, Figure)
    (axis,) = figure.axes
    lines = [container[0] for container in axis.containers]
    assert [line.get_xydata().tolist() for line in lines] == [[[0, 90], [50, 61]], [[0, 90], [50, 81]]]
    assert axis.get_title() == "group 0"


def test_settings_of_grids_have_figures_and_panels_of_their_own(run: Path) -> None:
    repaired = [{**row, "cell": row["cell"] + "r", "repair": "data", "accuracy": 85.0} for row in ROWS[1:]]
    whole = [{**row, "cell": row["cell"] + "w", "group": None} for row in ROWS[1:] + repaired]
    store = Store(run)
    store.write_rows("evaluations", "more", repaired + whole)
    plan(store, ROWS + repaired + whole)
    tables = tables_of(run)
    each = dict(EXHIBITS["data-free-figure"].make(tables))
    assert list(each) == ["data-free-net", "data-free-net-repair"]
    ((_, panels),) = EXHIBITS["whole-network-figure"].make(tables)
    ((_, costs),) = EXHIBITS["accuracy-against-macs"].make(tables)
    assert [axis.get_title() for axis in panels.figure.axes] == ["net", "net, repair"]
    assert [axis.get_title() for axis in costs.figure.axes] == ["not fine-tuned", "not fine-tuned, repair"]
    for figure in (*each.values(), panels):
        names = [text.get_text() for text in figure.legends[0].get_texts()]
        assert names == ["conventional", "intra-fusion"]
    (axis,) = each["data-free-net-repair"].axes
    assert [line.lines[0].get_xydata()[-1].tolist() for line in axis.containers] == [[50, 85]] * 2


@pytest.mark.parametrize("columns", [1, 4])
@pytest.mark.parametrize(
    "names", [["a"] * 2, ["fusion-preserving(restore_norm=False)", "b", "c", "d", "e"], list("abcdefg")]
)
def test_the_legend_fits_into_its_figure(names: list[str], columns: int) -> None:
    figure, _ = figures.panels(["one"] * columns)
    figures.legend(figure, figures.style([f"{name}{i}" for i, name in enumerate(names)]))
    figure.draw_without_rendering()
    box = figure.legends[0].get_window_extent()
    assert box.x0 >= 0
    assert box.x1 <= figure.bbox.width


def test_pipelines_and_criteria_are_not_mixed(run: Path) -> None:
    rows = [{**row, "cell": row["cell"] + "f", "pipeline": "fap", "accuracy": 10.0} for row in ROWS[1:]]
    store = Store(run)
    store.write_rows("evaluations", "fap", rows)
    plan(store, ROWS + rows)
    tables = tables_of(run)
    ((_, table),) = EXHIBITS["data-free-table"].make(tables)
    assert isinstance(table, Table)
    assert [row[1:2] + row[-1:] for row in table.rows] == [["FaP", "+0.00"], ["whole-data", "+20.00"]]
    ((_, figure),) = EXHIBITS["data-free-figure"].make(tables)
    assert isinstance(figure, Figure)
    names = [text.get_text() for text in figure.legends[0].get_texts()]
    assert names == [f"{m} · {p}" for m in ("conventional", "intra-fusion") for p in ("FaP", "whole-data")]


def test_the_mean_over_groups_keeps_the_deviation_over_seeds(run: Path) -> None:
    rows = [{**row, "cell": row["cell"] + "g", "group": 1, "accuracy": row["accuracy"] + 8} for row in ROWS[1:]]
    store = Store(run)
    store.write_rows("evaluations", "more", rows)
    plan(store, ROWS + rows)
    ((_, table),) = EXHIBITS["data-free-mean"].make(tables_of(run))
    assert isinstance(table, Table)
    assert table.rows == [["net", "whole-data", "l1", "50", "65.00 ± 1.41", "85.00 ± 1.41"]]


def test_whole_networks_have_their_own_table_and_figure(run: Path) -> None:
    rows = [{**row, "cell": row["cell"] + "w", "group": None, "accuracy": 30.0} for row in ROWS[1:]]
    store = Store(run)
    store.write_rows("evaluations", "whole", rows)
    plan(store, ROWS + rows)
    tables = tables_of(run)
    ((_, table),) = EXHIBITS["whole-network-table"].make(tables)
    assert isinstance(table, Table)
    assert table.rows == [["net", "whole-data", "l1", "50", "30.00 ± 0.00", "30.00 ± 0.00"]]
    ((_, figure),) = EXHIBITS["whole-network-figure"].make(tables)
    assert isinstance(figure, Figure)
    assert [axis.get_title() for axis in figure.axes] == ["net"]
    assert [sentence.partition(",")[2][:11] for sentence in headline(tables)[:2]] == [" one group ", " all groups"]


def test_what_lacks_data_is_named_and_not_drawn(run: Path, tmp_path: Path) -> None:
    report = write_report(run, tmp_path / "out")
    drawn = {"models", "models-by-seed", "data-free-figure", "data-free-table", "data-free-mean", "ranks", "cells"}
    assert {name for names in report.lacking.values() for name in names} == set(EXHIBITS) - drawn
    assert not list((tmp_path / "out").glob("pipelines*"))
    assert "net, one group pruned without fine-tuning, mean over 1 cell: intra-fusion 81.0 %, conventional 61.0 %." in (
        tmp_path / "out" / "README.md"
    ).read_text(encoding="utf-8")


def test_figures_that_one_entry_holds_are_known_by_their_numbers(run: Path, tmp_path: Path) -> None:
    report = write_report(run, tmp_path / "out", only=["figure-9", "figure-12", "models"])
    assert report.lacking == {"output-distances": ["figures-8-14"]}


def test_a_run_that_has_just_begun_can_be_reported(tmp_path: Path) -> None:
    store = Store(tmp_path / "run")
    store.write_rows("plan", "plan", [{"cell": "a"}])
    report = write_report(tmp_path / "run", tmp_path / "out")
    assert {name for names in report.lacking.values() for name in names} == set(EXHIBITS)
    assert headline(tables_of(tmp_path / "run")) == []


def test_over_seeds() -> None:
    frame = pd.DataFrame({"m": ["a", "a", "b"], "seed": [0, 1, 0], "accuracy": [1.0, 3.0, 5.0]})
    means = over_seeds(frame, ["m"]).set_index("m")
    assert means.loc["a"].tolist() == [2.0, pytest.approx(2**0.5), 2]
    assert means.loc["b", "std"] != means.loc["b", "std"]


def test_the_cuts_of_the_training_set_are_drawn(tmp_path: Path) -> None:
    store = Store(tmp_path)
    rows = [
        evaluation(f"{number}{seed}", seed=seed, training_data=f"subset-{number + 1}", split="unions", folds=4)
        for number in range(6)
        for seed in (0, 1)
    ]
    plan(store, rows)
    columns = set(SCHEMAS["splits"].names)
    spans = [(0.0, 0.25), (0.5, 0.75)]
    cuts = [
        {**{k: v for k, v in row.items() if k in columns}, "part": part, "start": start, "end": end, "samples": [1, 2]}
        for row in rows
        for part, (start, end) in enumerate(spans)
    ]
    store.write_rows("splits", "all", cuts)
    ((name, figure),) = EXHIBITS["splits"].make(tables_of(tmp_path))
    assert name == "splits-unions-4"
    (axis,) = figure.axes
    assert [label.get_text() for label in axis.get_yticklabels()][-1] == "subset-1"
    assert len(axis.collections) == 12


def test_runs_on_several_data_sets_are_kept_apart(run: Path, tmp_path: Path) -> None:
    other = Store(tmp_path / "other")
    rows = [{**row, "cell": f"{row['cell']}-o", "dataset": "fashion-mnist", "accuracy": 10.0} for row in ROWS]
    other.write_rows("evaluations", "all", rows)
    plan(other, rows)
    frame = tables_of([run, tmp_path / "other"]).evaluations
    assert set(frame["model"]) == {"net on digits", "net on fashion-mnist"}
    assert set(frame["network"]) == {"net"}


def test_a_cell_that_two_runs_have_counts_once_and_environments_are_told_apart(run: Path, tmp_path: Path) -> None:
    for place, key, processor in ((run, "first", "CPU one"), (tmp_path / "copy", "second", "CPU two")):
        store = Store(place)
        store.write_rows("evaluations", "all", [{**row, "environment": key} for row in ROWS])
        store.write_rows("environments", key, [{"environment": key, "processor": processor}])
        plan(store, ROWS)
    assert len(tables_of([run, tmp_path / "copy"]).evaluations) == len(ROWS)
    table = environments_table([run, tmp_path / "copy"])
    assert [(row[0], row[1], row[2], row[-1]) for row in table.rows] == [
        ("run", "first", "CPU one", str(len(ROWS))),
        ("copy", "second", "CPU two", str(len(ROWS))),
    ]


def test_variants_of_a_method_have_its_colour_and_differ_in_dashes() -> None:
    looks = figures.style(["conventional", "intra-fusion", "intra-fusion(p=1), repair · l1", "mine", "yours"])
    assert looks["intra-fusion"]["color"] == looks["intra-fusion(p=1), repair · l1"]["color"]
    assert looks["intra-fusion"] != looks["intra-fusion(p=1), repair · l1"]
    assert len({look["color"] for look in looks.values()}) == 4


def test_no_two_lines_look_alike_and_methods_look_the_same_everywhere() -> None:
    bases = ["conventional", "intra-fusion", "folding", "mine"]
    names = [f"{base} · {number}" for base in bases for number in range(9)]
    looks = [tuple(sorted(look.items())) for look in figures.style(names).values()]
    assert len(set(looks)) == len(names)
    assert figures.style(["folding"])["folding"] == figures.style(["conventional", "folding"])["folding"]
    assert figures.style(["folding" + figures.PUBLISHED])["folding" + figures.PUBLISHED]["alpha"] < 1


def test_different_networks_of_one_name_are_not_taken_for_seeds(run: Path, tmp_path: Path) -> None:
    other = Store(tmp_path / "longer")
    rows = [{**row, "cell": f"{row['cell']}-o", "accuracy": row["accuracy"] + 5} for row in ROWS]
    other.write_rows("evaluations", "all", rows)
    plan(other, rows)
    tables = tables_of([run, tmp_path / "longer"])
    ((_, models),) = EXHIBITS["models"].make(tables)
    assert isinstance(models, Table)
    assert [(row[0], row[-1]) for row in models.rows] == [("net, longer", "95.00"), ("net, run", "90.00")]


def test_runs_in_folders_of_one_name_are_told_apart(tmp_path: Path) -> None:
    for seed, place in enumerate(("seed0/run", "seed1/run")):
        store = Store(tmp_path / place)
        rows = [{**row, "cell": f"{row['cell']}-{seed}"} for row in ROWS]
        store.write_rows("evaluations", "all", rows)
        plan(store, rows)
    tables = tables_of([tmp_path / "seed0/run", tmp_path / "seed1/run", tmp_path / "seed1/run"])
    assert set(tables.evaluations["model"]) == {"net, seed0/run", "net, seed1/run"}
    assert list(tables.settings) == ["seed0/run", "seed1/run"]
    assert len(tables.evaluations) == 2 * len(ROWS), "a run that is given twice counts once"


def test_a_half_done_seed_does_not_move_the_means(run: Path) -> None:
    """The third seed has only the cell in which the methods are close."""
    rows = [
        evaluation(
            f"{method}{group}{seed}",
            method=method,
            group=group,
            seed=seed,
            neuron_sparsity=0.5,
            target_sparsity=0.5,
            accuracy=50.0 + seed + gain * (10 + 10 * group),
        )
        for gain, method in enumerate(["conventional", "intra-fusion"])
        for group in (0, 1)
        for seed in (0, 1, 2)
        if (group, seed) != (1, 2)
    ]
    each = ranking.compared(pd.DataFrame(rows).assign(note="")).set_index("method")
    assert each.loc["intra-fusion", ["mean", "n", "cells"]].tolist() == [15.0, 2, 2]


def test_many_cells_are_shown_as_means_over_groups() -> None:
    times = {"latency_1": 1.0, "latency_1_low": 0.9, "latency_1_high": 1.2, "latency_others": 0.0}
    rows = [evaluation("", method="conventional", group=g, target_sparsity=0.5, accuracy=g, **times) for g in (0, 2)]
    frame = pd.DataFrame(rows).assign(note="", training_data=None, split=None, folds=None, latency_others_gpu=None)
    assert [row[-2] for row in cells_table(frame).rows] == ["0.00", "2.00"]
    frame = pd.concat([frame, frame.assign(seed=1, accuracy=frame["accuracy"] + 2)])
    many = cells_table(frame, most=1)
    assert [row[-2] for row in many.rows] == ["2.00 ± 1.41"], "the deviation is over seeds"
    assert "group" not in many.head
    assert {row[many.head.index("ms, 95 % interval")] for row in many.rows} == {"0.90 to 1.20"}
    assert "ms, 95 % interval, low" in many.csv()
    assert "Times were" not in many.caption


def test_the_table_of_cells_says_what_ran_beside_its_times() -> None:
    times = {"latency_1": 1.0, "latency_1_low": None, "latency_1_high": None, "latency_others": 1.5}
    frame = pd.DataFrame([evaluation("", method="conventional", target_sparsity=0.5, accuracy=1.0, **times)])
    frame = frame.assign(note="", training_data=None, split=None, folds=None, group=None, latency_others_gpu=2)
    table = cells_table(frame)
    assert "Times were measured while other work kept 1.5 CPU cores busy and up to 2 other processes" in table.caption
    assert not any("interval" in name for name in table.head)


@pytest.mark.parametrize(
    ("content", "message"), [("a: [", "experiment.yaml' is not YAML"), ("- a", "experiment.yaml' is no experiment")]
)
def test_settings_that_are_none_are_named(run: Path, content: str, message: str) -> None:
    (run / "experiment.yaml").write_text(content)
    with pytest.raises(ValueError, match=message):
        tables_of(run)


def test_a_folder_without_a_plan_is_no_run(tmp_path: Path) -> None:
    (tmp_path / "results").mkdir()
    with pytest.raises(FileNotFoundError, match="is not a run: no stage is in its table 'plan'"):
        write_report(tmp_path, tmp_path / "out")


@pytest.mark.parametrize("theirs", ["README.md", "index.html", "models.csv"])
def test_a_report_overwrites_nothing_that_no_report_wrote(run: Path, tmp_path: Path, theirs: str) -> None:
    out = tmp_path / "project"
    out.mkdir()
    (out / theirs).write_text("mine")
    with pytest.raises(FileExistsError, match=rf"project/{theirs}' is there and no report has written it: give --out"):
        write_report(run, out, only=["models"])
    assert {file.name: file.read_text() for file in out.iterdir()} == {theirs: "mine"}


def test_a_report_takes_the_place_of_an_earlier_one_beside_what_is_somebody_elses(run: Path, tmp_path: Path) -> None:
    out = tmp_path / "project"
    out.mkdir()
    (out / "notes.txt").write_text("mine")
    for _ in range(2):
        report = write_report(run, out, only=["models"])
    assert {file.name for file in out.iterdir()} == {*report.files, "notes.txt", NAMES}
    (out / NAMES).unlink()  # as version 0.1 left it
    write_report(run, out, only=["models"])
    assert (out / "notes.txt").read_text() == "mine"


def test_a_report_has_a_folder_of_this_machine(run: Path) -> None:
    for out, message in (
        ("s3://bucket/report", "not to 's3://"),
        ("s3:/bucket", "write s3://"),
        ("~nobody-x/r", "no such"),
    ):
        with pytest.raises(ValueError, match=message):
            write_report(run, out)


def test_a_report_says_where_it_cannot_be_written(run: Path, tmp_path: Path) -> None:
    (tmp_path / "file").touch()
    with pytest.raises(OSError, match=r"cannot be written to '.*/file/report' \(.+\): give --out as another folder"):
        write_report(run, tmp_path / "file" / "report", only=["models"])
