"""Whole runs on a local Ray: results, resuming, failures, extension by the user's own code, and reports."""

import subprocess
import sys
from pathlib import Path

import pandas as pd
import pytest
import torch
import yaml

from orchestrator import Experiment, run
from orchestrator.planning.building import make_plan
from orchestrator.planning.facts import gather
from orchestrator.running.driver import run_plan
from orchestrator.running.progress import LogProgress, NoProgress
from orchestrator.storage.store import Store
from reports import load
from reports.page import write_report
from tests.conftest import TINY
from workloads.compression.criteria import CRITERIA
from workloads.compression.methods import METHODS
from workloads.config import ModelConfig
from workloads.networks import checkpoints
from workloads.networks.models import build

pytestmark = pytest.mark.usefixtures("local_ray")


def start(experiment: Experiment, folder: Path):
    return run(experiment, out=folder, progress=NoProgress())


def changed(**settings: object) -> Experiment:
    return Experiment.model_validate({**TINY, **settings})


@pytest.fixture(scope="module")
def finished(local_ray: None, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A complete run of all pipelines, data-free and fine-tuned."""
    folder = tmp_path_factory.mktemp("finished")
    grids = [
        {"groups": [0, 7], "sparsities": [0.0, 0.5]},
        {"mode": "fine-tuned", "groups": "all", "sparsities": [0.5], "steps": 2, "methods": ["conventional"]},
    ]
    result = start(changed(pipelines=["whole-data", "fap", "paf"], pruning=grids), folder)
    assert result.complete, result.failed
    return folder


def test_every_planned_cell_has_its_row(finished: Path) -> None:
    plan, evaluations = load(finished, "plan"), load(finished)
    assert set(plan["cell"]) == set(evaluations["cell"]) == set(load(finished, "timings")["cell"])
    assert evaluations["cell"].is_unique
    data_free = evaluations[evaluations["final"] & evaluations["group"].notna()]
    # whole-data and fap: 2 groups x 2 sparsities x 2 methods, measured after pruning; paf after fusing
    assert data_free.groupby(["pipeline", "stage"]).size().to_dict() == {
        ("whole-data", "pruned"): 8,
        ("fap", "pruned"): 8,
        ("paf", "fused"): 8,
    }
    tuned = evaluations[evaluations["final"] & evaluations["group"].isna()]
    assert sorted(tuned["pipeline"]) == ["fap", "paf", "whole-data"]
    assert (tuned["stage"] == "fine-tuned").all()


def test_values_make_sense(finished: Path) -> None:
    frame = load(finished)
    whole = frame[(frame["training_data"] == "whole") & (frame["stage"] == "baseline")].iloc[0]
    assert (whole["neuron_sparsity"], whole["weight_sparsity"]) == (0.0, 0.0)
    rows = frame[frame["final"] & (frame["pipeline"] == "whole-data") & frame["group"].notna()]
    untouched = rows[rows["target_sparsity"] == 0.0]
    assert untouched["accuracy"].tolist() == [whole["accuracy"]] * 4
    assert untouched["parameters"].tolist() == [whole["parameters"]] * 4
    # group 0 of a VGG11 of width 1/16: 32 -> 16 channels of 9 * 32 weights, a bias and 2 batch-norm entries; 10 classes
    last = rows[(rows["target_sparsity"] == 0.5) & (rows["group"] == 0)]
    assert set(whole["parameters"] - last["parameters"]) == {16 * (9 * 32 + 1 + 2 + 10)}
    assert (last["weight_sparsity"] - (1 - last["parameters"] / whole["parameters"])).abs().max() < 1e-12
    assert frame["accuracy"].between(0, 100).all()
    assert (frame["accuracy_top5"] >= frame["accuracy"]).all()
    assert set(frame["environment"]) == set(load(finished, "environments")["environment"])


def test_latency_is_measured_once_for_networks_of_equal_widths(finished: Path) -> None:
    frame = load(finished)
    assert (frame[["latency_1", "latency_64"]] > 0).all(axis=None)
    hardware = load(finished, "environments").iloc[0]
    assert set(frame["device"]) == {hardware[["gpu", "processor"]].dropna().iloc[0]}
    pruned = frame[(frame["stage"] == "pruned") & (frame["pipeline"] == "whole-data") & frame["group"].notna()]
    by_widths = pruned.groupby(["group", "target_sparsity"])
    assert (by_widths["method"].nunique() == 2).all()
    assert (by_widths[["latency_1", "latency_64"]].nunique() == 1).all(axis=None)


def test_split_models_and_their_epochs_are_recorded(finished: Path) -> None:
    epochs = load(finished, "epochs")
    trained = epochs[epochs["stage"] == "baseline"]
    assert set(trained["training_data"]) == {"whole", "subset-1", "subset-2"}
    timings = load(finished, "timings")
    assert (timings["seconds"] > 0).all()
    assert (timings["finished"] > timings["started"]).all()
    assert timings["node"].notna().all()


def test_splits_are_written_down(finished: Path) -> None:
    splits = load(finished, "splits").sort_values("training_data")
    assert splits[["training_data", "part", "start", "end"]].values.tolist() == [
        ["subset-1", 0, 0.0, 0.5],
        ["subset-2", 0, 0.5, 1.0],
    ]
    assert [sum(samples) for samples in splits["samples"]] == [100, 100]
    assert set(splits["split"]) == {"unions"}


def test_a_data_free_cell_is_what_the_library_computes_by_hand(finished: Path) -> None:
    """From the stored model to the reported accuracy, without the orchestrator."""
    from workloads.compression.criteria import importance
    from workloads.compression.group_sizes import size_after
    from workloads.compression.methods import maps
    from workloads.compression.pairings import Pairings
    from workloads.config import DatasetConfig
    from workloads.data.datasets import load as load_dataset
    from workloads.measuring.evaluation import evaluate
    from workloads.structure.batch_norm import merge_batch_norm
    from workloads.structure.finding import trace
    from workloads.structure.groups import apply

    frame = load(finished)
    whole = frame[(frame["training_data"] == "whole") & (frame["stage"] == "baseline")].iloc[0]
    model, _ = checkpoints.loads(*Store(finished).read_network(whole["cell"]))
    dataset = load_dataset(DatasetConfig(**TINY["dataset"]))
    structure = trace(model, torch.zeros(1, *dataset.shape))
    merge_batch_norm(model, structure)
    group = structure.groups[7]
    scores = importance("l1", model, group)
    apply(model, group, maps("intra-fusion", Pairings(model, group), scores, size_after(group.size, 0.5)))
    rows = frame[(frame["pipeline"] == "whole-data") & (frame["group"] == 7) & (frame["method"] == "intra-fusion")]
    assert rows[rows["target_sparsity"] == 0.5]["accuracy"].tolist() == [evaluate(model, dataset).accuracy]


@pytest.mark.slow
def test_scopes_and_repairs_are_told_apart_in_results_and_report(tmp_path: Path) -> None:
    grids = [
        {
            "groups": "all",
            "sparsities": [0.5],
            "sparsity_of": "weights",
            "allocation": "global",
            "order": "input-first",
            "methods": ["conventional", "folding"],
            "repair": ["none", "data-free", "data"],
        },
        {"groups": "all", "sparsities": [0.5], "methods": ["conventional"], "round_to": 4},
        {"groups": [7], "sparsities": [0.5], "criteria": sorted(CRITERIA), "methods": ["conventional"]},
        {"groups": [7], "sparsities": [0.5], "methods": sorted(METHODS)},
        {
            "mode": "fine-tuned",
            "groups": "all",
            "sparsities": [0.6],
            "sparsity_of": "weights",
            "steps": 2,
            "criteria": ["bn-scale"],
            "methods": ["conventional"],
        },
    ]
    result = start(changed(pruning=grids, fine_tuning={**TINY["fine_tuning"], "step_epochs": 1}), tmp_path)
    assert result.complete, result.failed
    frame = load(tmp_path)
    final = frame[frame["final"]]
    by_weights = final[final["sparsity_of"] == "weights"]
    assert (by_weights["weight_sparsity"] >= by_weights["target_sparsity"]).all()
    assert by_weights["neuron_sparsity"].between(0.1, 0.6).all()
    pruned = by_weights[by_weights["stage"] == "pruned"]
    assert sorted(pruned["repair"]) == ["data", "data", "data-free", "data-free", "none", "none"]
    assert set(pruned["allocation"]) == {"global"}
    assert set(pruned["order"]) == {"input-first"}
    (rounded,) = final[final["round_to"] == 4].itertuples()
    assert 0.4 < rounded.neuron_sparsity <= 0.5
    assert frame[frame["stage"] == "baseline"]["repair"].isna().all()
    one_group = final[final["group"] == 7]
    assert set(one_group["criterion"]) == set(CRITERIA)
    assert set(one_group["method"]) == set(METHODS)
    table = (write_report(tmp_path, tmp_path / "report").folder / "whole-network.md").read_text()
    assert "folding, data-free repair, global, input first, of weights" in table
    assert "conventional, multiples of 4" in table


def test_running_again_does_nothing_and_one_more_sparsity_only_its_cells(tiny: Experiment, tmp_path: Path) -> None:
    first = start(tiny, tmp_path)
    assert (first.stages, first.done) == (9, 9)
    before = load(tmp_path)
    again = start(tiny, tmp_path)
    assert (again.before, again.done) == (9, 0)
    more = start(changed(pruning={"groups": [0, 1], "sparsities": [0.3, 0.5, 0.7]}), tmp_path)
    assert (more.before, more.done) == (9, 4)
    frame = load(tmp_path)
    assert len(frame) == 13
    pd.testing.assert_frame_equal(
        frame[frame["cell"].isin(before["cell"])].set_index("cell").sort_index(),
        before.set_index("cell").sort_index(),
    )


def test_two_runs_give_the_same_numbers(tiny: Experiment, tmp_path: Path) -> None:
    columns = ["cell", "accuracy", "loss", "parameters", "macs"]
    frames = []
    for name in ("a", "b"):
        start(tiny, tmp_path / name)
        frames.append(load(tmp_path / name)[columns].sort_values("cell").reset_index(drop=True))
    pd.testing.assert_frame_equal(frames[0], frames[1])


def test_pruned_networks_are_measured_as_asked_and_trainings_kept(tmp_path: Path) -> None:
    trained = []
    for precision in ("float32", "bfloat16"):
        experiment = changed(pipelines=["whole-data", "fap"], measuring={"precision": precision})
        result = start(experiment, tmp_path)
        assert result.complete, result.failed
        rows = load(tmp_path, "evaluations")
        measured = rows.groupby("stage")["precision"].unique().map(list)
        assert measured["pruned"] == measured["fused"] == [precision]
        assert measured["baseline"] == ["float32"]
        timings = load(tmp_path, "timings")
        trained.append(timings[timings["kind"] == "train"].set_index("cell")["finished"].to_dict())
    assert trained[0] == trained[1]


def test_what_fails_becomes_a_row_and_the_rest_goes_on(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture
) -> None:
    (tmp_path / "my_methods.py").write_text(
        "import os, sys\n"
        "from workloads.methods.selecting import conventional\n"
        "def fragile(pairings, importance, m):\n"
        "    '''Fails while a file says so.'''\n"
        "    in_worker = sys.argv[0].endswith('default_worker.py')\n"  # what fails at once, `plan` refuses
        f"    if in_worker and os.path.exists({str(tmp_path / 'broken')!r}) and m < 20:\n"
        "        raise RuntimeError('out of luck at ' + str(m))\n"
        "    return conventional(pairings, importance, m)\n"
    )
    monkeypatch.syspath_prepend(str(tmp_path))
    (tmp_path / "broken").touch()
    methods = ["conventional", "my_methods:fragile"]
    experiment = changed(pruning={"groups": [0], "sparsities": [0.3, 0.5], "methods": methods})
    result = run(experiment, out=tmp_path / "run", progress=LogProgress())
    assert len(result.failed) == 1
    assert not result.complete
    assert "FAILED compress" in capsys.readouterr().out
    failures = load(tmp_path / "run", "failures")
    assert failures["message"].tolist() == ["out of luck at 16"]
    assert "my_methods.py" in failures["traceback"].iloc[0]
    assert (failures["method"].iloc[0], failures["target_sparsity"].iloc[0]) == ("fragile", 0.5)
    assert load(tmp_path / "run")["final"].sum() == 3

    (tmp_path / "broken").unlink()
    result = start(experiment, tmp_path / "run")
    assert (result.done, result.failed_before) == (0, 1)
    result = run(experiment, out=tmp_path / "run", progress=NoProgress(), retry_failed=True)
    assert result.complete
    assert result.done == 1
    assert load(tmp_path / "run", "failures").empty


def test_what_waits_for_a_failed_stage_is_blocked(tmp_path: Path) -> None:
    training = {**TINY["training"], "learning_rate": 1e30, "precision": "float32"}
    result = start(changed(training=training), tmp_path)
    assert len(result.failed) == 1
    assert result.blocked == 8
    assert "FloatingPointError: training diverged in epoch 1" in next(iter(result.failed.values()))


def test_a_lost_network_is_made_again_when_needed(tiny: Experiment, tmp_path: Path) -> None:
    start(tiny, tmp_path)
    (network,) = (tmp_path / "artifacts").iterdir()
    network.unlink()
    assert start(tiny, tmp_path).done == 0, "nothing needs it"
    more = start(changed(pruning={"groups": [0, 1], "sparsities": [0.3, 0.5, 0.7]}), tmp_path)
    assert (more.done, more.complete) == (5, True)


def test_a_grid_extended_from_data_free_to_fine_tuned_has_no_row_twice(tmp_path: Path) -> None:
    """Its first pruning is there, but not the network, which is made again without its rows."""
    grid = {"groups": [0], "sparsities": [0.5], "methods": ["conventional"]}
    start(changed(pruning=grid), tmp_path)
    result = start(changed(pruning=[grid, {**grid, "mode": "fine-tuned", "steps": 1}]), tmp_path)
    assert result.complete
    raw = pd.read_parquet(tmp_path / "results" / "evaluations")
    assert raw["cell"].is_unique
    assert load(tmp_path)["final"].sum() == 2


def test_own_code_beside_the_experiment_is_found(tmp_path: Path) -> None:
    lines = ["from workloads.criteria import l1", "def mine(model, group):", "    return l1(model, group)"]
    (tmp_path / "beside.py").write_text("\n".join(lines))
    settings = {**TINY, "pruning": {"groups": [0], "sparsities": [0.5], "criteria": ["beside:mine"]}}
    (tmp_path / "mine.yaml").write_text(yaml.safe_dump(settings))
    result = run(tmp_path / "mine.yaml", out=tmp_path / "run", progress=NoProgress())
    sys.path.remove(str(tmp_path))
    assert result.complete, result.failed


@pytest.mark.slow
def test_a_killed_worker_is_replaced(tmp_path: Path, monkeypatch: pytest.MonkeyPatch, tiny: Experiment) -> None:
    (tmp_path / "my_criteria.py").write_text(
        "import os, signal, sys\n"
        "from workloads.criteria import l1\n"
        "def dies_once(model, group):\n"
        "    '''Kills its worker the first time.'''\n"
        "    in_worker = sys.argv[0].endswith('default_worker.py')\n"  # `plan` tries it in this process
        f"    if in_worker and not os.path.exists({str(tmp_path / 'died')!r}):\n"
        f"        open({str(tmp_path / 'died')!r}, 'w').close()\n"
        "        os.kill(os.getpid(), signal.SIGKILL)\n"
        "    return l1(model, group)\n"
    )
    monkeypatch.syspath_prepend(str(tmp_path))
    grid = {"groups": [0, 1], "sparsities": [0.3, 0.5]}
    result = start(changed(pruning={**grid, "criteria": ["my_criteria:dies_once"]}), tmp_path / "killed")
    assert result.complete
    assert (tmp_path / "died").exists()
    start(changed(pruning=grid), tmp_path / "calm")
    killed, calm = (
        load(tmp_path / name).sort_values(["group", "method", "target_sparsity"])["accuracy"].tolist()
        for name in ("killed", "calm")
    )
    assert killed == calm


def test_a_training_goes_on_where_its_worker_died(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Killed in the third epoch; a snapshot is left after each."""
    (tmp_path / "fragile.py").write_text(
        "import os, signal, sys, torch\n"
        "class Net(torch.nn.Sequential):\n"
        "    def forward(self, x):\n"
        f"        log = {str(tmp_path / 'steps')!r}\n"
        "        in_worker = sys.argv[0].endswith('default_worker.py')\n"
        "        if self.training and in_worker and os.environ.get('FRAGILE', '1') == '1':\n"
        "            with open(log, 'a') as file: file.write('.')\n"
        "            if os.path.getsize(log) == 10: os.kill(os.getpid(), signal.SIGKILL)\n"
        "        return super().forward(x)\n"
        "def net(*, in_channels, num_classes):\n"
        "    nn = torch.nn\n"
        "    layers = [nn.Conv2d(in_channels, 8, 3), nn.BatchNorm2d(8), nn.ReLU(), nn.AdaptiveAvgPool2d(4)]\n"
        "    return Net(*layers, nn.Flatten(), nn.Dropout(0.3), nn.Linear(128, num_classes))\n"
    )
    monkeypatch.syspath_prepend(str(tmp_path))
    settings = {
        "model": {"name": "fragile:net"},
        "training": {**TINY["training"], "epochs": 4},
        "pruning": {"groups": [0], "sparsities": [0.5], "methods": ["conventional"]},
        "resources": {"snapshot_every": 1},
    }
    assert start(changed(**settings), tmp_path / "killed").complete
    # 4 steps an epoch: 10 in the first life; epochs 3 and 4 again in the second.
    assert (tmp_path / "steps").read_text() == "." * 18
    assert not list((tmp_path / "killed" / "snapshots").iterdir())
    assert start(changed(**settings), tmp_path / "calm").complete
    columns = ["stage", "epoch", "train_loss", "test_loss", "test_accuracy"]
    killed, calm = (load(tmp_path / name, "epochs")[columns] for name in ("killed", "calm"))
    pd.testing.assert_frame_equal(killed, calm)
    killed, calm = (load(tmp_path / name)["accuracy"].tolist() for name in ("killed", "calm"))
    assert killed == calm


@pytest.mark.slow
def test_a_checkpoint_takes_the_place_of_training(finished: Path, tmp_path: Path) -> None:
    from safetensors.torch import load_file, save_file

    frame = load(finished)
    whole = frame[(frame["training_data"] == "whole") & (frame["stage"] == "baseline")].iloc[0]
    state = load_file(finished / "artifacts" / f"{whole['cell']}.safetensors")
    save_file(state, tmp_path / "weights.safetensors")
    model = {**TINY["model"], "checkpoint": str(tmp_path / "weights.safetensors")}
    result = start(changed(model=model, pruning={"groups": [0, 7], "sparsities": [0.5]}), tmp_path / "run")
    assert result.complete
    loaded = load(tmp_path / "run")
    assert loaded[loaded["stage"] == "baseline"]["accuracy"].tolist() == [whole["accuracy"]]
    report = write_report(tmp_path / "run", tmp_path / "report")
    assert "runtime" in {name for names in report.lacking.values() for name in names}
    trained = frame[frame["cell"].isin(load(finished, "plan")["cell"]) & (frame["pipeline"] == "whole-data")]
    trained = trained[(trained["target_sparsity"] == 0.5) & trained["group"].notna()]
    by = ["group", "method"]
    assert (
        loaded[loaded["stage"] == "pruned"].sort_values(by)["accuracy"].tolist()
        == trained.sort_values(by)["accuracy"].tolist()
    )


def test_a_checkpoint_that_changes_after_planning_is_refused(finished: Path, tmp_path: Path) -> None:
    from safetensors.torch import load_file, save_file

    path = tmp_path / "weights.safetensors"
    state = load_file(next((finished / "artifacts").iterdir()))
    save_file(build(ModelConfig(**TINY["model"]), channels=1, classes=10).state_dict(), path)
    experiment = changed(model={**TINY["model"], "checkpoint": str(path)}, pruning={"groups": [0], "sparsities": [0.5]})
    facts = gather(experiment)
    save_file(state, path)
    result = run_plan(experiment, facts, make_plan(experiment, facts), out=tmp_path / "run", progress=NoProgress())
    assert result.blocked == 2
    assert "is not the same here that it was when the run was planned" in next(iter(result.failed.values()))


def test_results_are_read_without_metaprune(finished: Path) -> None:
    """One line of pandas, in an interpreter that has none of our packages on its path."""
    line = f"import pandas; print(len(pandas.read_parquet({str(finished / 'results' / 'evaluations')!r})))"
    printed = subprocess.run([sys.executable, "-I", "-c", line], capture_output=True, text=True, check=True)
    assert int(printed.stdout) == len(load(finished))


@pytest.mark.slow
def test_a_report_from_a_real_run(finished: Path, tmp_path: Path) -> None:
    report = write_report(finished, tmp_path, ["png", "pdf", "svg"])
    lacking = {name for names in report.lacking.values() for name in names}
    assert {"whole-network-figure", "landscapes", "table-10", "figure-23"} <= lacking
    assert not lacking & {"pipelines-table", "retraining", "timeline", "runtime", "split-training", "models-by-seed"}
    assert pd.read_csv(tmp_path / "runtime.csv")["pipeline"].tolist() == ["FaP", "PaF", "whole-data"]
    for name in ("data-free-vgg11_bn-w0.0625.pdf", "pipelines-vgg11_bn-w0.0625.svg", "models.tex", "README.md"):
        assert (tmp_path / name).stat().st_size > 300
    table = pd.read_csv(tmp_path / "pipelines.csv")
    frame = load(finished)
    tuned = frame[frame["final"] & (frame["stage"] == "fine-tuned")].set_index("pipeline")["accuracy"]
    for pipeline, name in (("whole-data", "whole-data"), ("fap", "FaP"), ("paf", "PaF")):
        assert float(table[name].iloc[0]) == pytest.approx(tuned[pipeline], abs=0.005)
