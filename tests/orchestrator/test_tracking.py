"""Trackers: what they are sent, once each, whatever they do; and that real ones show it."""

import json
import os
import time
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any

import pytest

from orchestrator import Experiment
from orchestrator.storage.following import NewRows
from orchestrator.storage.schema import SCHEMAS
from orchestrator.storage.store import EXPERIMENT, Store
from orchestrator.tracking import processes, sending, trackers
from orchestrator.tracking.feed import Note
from orchestrator.tracking.interface import Run
from orchestrator.tracking.processes import Trackers
from orchestrator.tracking.sending import Sender
from orchestrator.tracking.trackers import trackers_of
from orchestrator.worker.training_progress import FOLDER as PROGRESS
from tests.conftest import TINY
from workloads.config import ChoiceConfig

NETWORK = {"experiment": "e", "model": "net", "dataset": "digits", "pipeline": "whole-data", "seed": 0}
TRAINED = {**NETWORK, "cell": "trained", "training_data": "whole", "stage": "baseline", "final": False}
EPOCHS = [{**TRAINED, "epoch": n, "train_loss": 1 / n, "test_accuracy": 10.0 * n, "seconds": 1.0} for n in (1, 2, 3)]


def pruned(number: int) -> dict[str, Any]:
    names = {"criterion": "l1", "method": "conventional", "group": 0, "target_sparsity": number / 10}
    return {**NETWORK, **names, "cell": f"pruned{number}", "stage": "pruned", "final": True, "accuracy": 90.0 - number}


@pytest.fixture
def store(tmp_path: Path) -> Store:
    """A run with a training of three epochs and one of two networks; another one is no longer asked for."""
    store = Store(tmp_path / "run")
    planned = [{**TRAINED, "kind": "train"}, *({**pruned(n), "kind": "compress"} for n in (1, 2))]
    names = SCHEMAS["plan"].names
    store.write_rows("plan", "plan", [{k: v for k, v in row.items() if k in names} for row in planned])
    store.write(json.dumps({"name": "e", "training": {"epochs": 3}, "seeds": [0, 1]}).encode(), EXPERIMENT)
    store.write_rows("epochs", "a", EPOCHS)
    store.write_rows("evaluations", "a", [{**TRAINED, "accuracy": 30.0}, pruned(1), {**pruned(3), "cell": "stale"}])
    return store


class Memory:
    """A tracker that remembers what it gets, and fails or names itself as it is told."""

    def __init__(self) -> None:
        self.got: list[str] = []
        self.settings: Mapping[str, Any] = {}
        self.failing: Callable[[str], None] = lambda what: None
        self.id = "first"
        self.earlier: list[str | None] = []

    def take(self, what: str) -> None:
        self.failing(what)
        self.got.append(what)

    def open(self, run: Run, earlier: str | None) -> str:
        self.failing("open")
        self.earlier.append(earlier)
        return self.id

    def parameters(self, settings: Mapping[str, Any]) -> None:
        self.settings = settings

    def epoch(self, title: str, row: Mapping[str, Any]) -> None:
        assert None not in row.values()
        self.take(f"{row['cell']} {row['epoch']}")

    def cell(self, title: str, row: Mapping[str, Any]) -> None:
        assert None not in row.values()
        self.take(f"{title}: {row['accuracy']}")

    def artifact(self, folder: Path) -> None:
        self.take(f"report {folder.name}")

    def close(self, end: str) -> None:
        self.take(end)


ALL = ["trained 1", "trained 2", "trained 3", "net, whole, whole-data, seed 0: 30.0"]
FIRST = "net, whole-data, l1, conventional, group 0, 10 %, seed 0: 89.0"
SECOND = FIRST.replace("10 %", "20 %").replace("89", "88")


def sender(store: Store, tracker: Memory, said: list[Mapping[str, Any]]) -> Sender:
    return Sender(store, "memory", lambda: tracker, said.append)


def test_everything_is_sent_once_and_a_resumed_run_goes_on_in_the_same(store: Store) -> None:
    tracker, said = Memory(), list[Mapping[str, Any]]()
    first = sender(store, tracker, said)
    first.step()
    assert tracker.got == [*ALL, FIRST]
    assert tracker.settings == {"name": "e", "training.epochs": 3, "seeds": "[0, 1]"}
    first.end("stopped", None)
    tracker.got.clear()
    store.write_rows("evaluations", "b", [pruned(2)])
    later = sender(store, tracker, said)
    later.end("finished", "somewhere/report")
    assert tracker.got == [SECOND, "report report", "finished"]
    assert tracker.earlier == [None, "first"]
    assert said == 2 * [{"epochs": 0, "cells": 0, "report": ""}]


def test_a_tracker_that_lost_what_it_had_gets_everything_again(store: Store) -> None:
    tracker = Memory()
    sender(store, tracker, []).end("finished", None)
    tracker.got.clear()
    tracker.id = "second"
    sender(store, tracker, []).end("finished", None)
    assert tracker.got == [*ALL, FIRST, "finished"]


def test_one_that_fails_is_told_once_tried_again_later_and_gets_the_rest(
    store: Store, monkeypatch: pytest.MonkeyPatch
) -> None:
    tracker, said = Memory(), list[Mapping[str, Any]]()

    def no_server(what: str) -> None:
        if what in ("trained 2", "finished"):
            raise ConnectionError("no server\nat all")

    tracker.failing = no_server
    at_work = sender(store, tracker, said)
    at_work.step()
    at_work.step()
    assert tracker.got == ["trained 1"]
    assert said == [{"warning": "ConnectionError: no server"}], "one line, and no second attempt at once"
    monkeypatch.setattr("orchestrator.tracking.sending.time.monotonic", lambda: float("inf"))
    at_work.step()
    assert len(tracker.earlier) == 2, "after a while it is opened again"
    at_work.end("finished", "report")
    assert tracker.got == ["trained 1"]
    assert said[1:] == [{"epochs": 2, "cells": 2, "report": "the report"}]
    tracker.failing = lambda what: None
    at_work.end("finished", "report")
    assert tracker.got == [*ALL, FIRST, "report report", "finished"]


def test_one_that_does_not_answer_is_interrupted(store: Store, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(sending, "CALL_SECONDS", 0.1)
    tracker, said = Memory(), list[Mapping[str, Any]]()
    tracker.failing = lambda what: time.sleep(60)
    sender(store, tracker, said).step()
    assert said == [{"warning": "SlowError: it has not answered for 0.1 s"}]


def test_curves_of_a_training_are_sent_while_it_goes_on(store: Store) -> None:
    store.delete("results", "epochs", "a.parquet")
    store.write(json.dumps([2, 3, [[0.1, 1.0, 10.0, None, None, 1.0]] * 2]).encode(), PROGRESS, "trained.json")
    tracker = Memory()
    at_work = sender(store, tracker, [])
    at_work.step()
    store.delete(PROGRESS, "trained.json")
    store.write_rows("epochs", "b", EPOCHS)
    at_work.step()
    assert [what for what in tracker.got if what.startswith("trained")] == ALL[:3]


def test_only_new_files_are_read_and_a_merged_one_of_known_files_is_not(store: Store) -> None:
    rows = NewRows(store, "evaluations", ["cell"])
    assert [len(part) for part in rows.parts()] == [3]
    assert list(rows.parts()) == []
    store.write_rows("evaluations", "b", [pruned(2)])
    assert [part["cell"].to_pylist() for part in rows.parts()] == [["pruned2"]]


@pytest.mark.parametrize("content", [b"", b"[]", b'{"id": 1}', b"\xff"])
def test_a_damaged_note_counts_as_none(store: Store, content: bytes) -> None:
    store.write(content, "tracking", "x.json")
    assert Note(store, "x").read().id is None


def test_what_cannot_track_is_refused_with_a_remedy(monkeypatch: pytest.MonkeyPatch) -> None:
    def refused(name: str, **options: object) -> str:
        with pytest.raises(ValueError, match="tracker") as error:
            trackers_of([ChoiceConfig(name=name, options=options)])
        return str(error.value)

    assert "did you mean 'mlflow'?" in refused("mlfow")
    assert "has no method open, parameters" in refused("collections:Counter").replace(
        "artifact, cell, close, epoch, ", ""
    )
    assert "has no option 'url'" in refused("mlflow", url="http://here")
    assert "option 'uri' of tracker 'mlflow' is 5" in refused("mlflow", uri=5)
    monkeypatch.setattr("orchestrator.tracking.trackers.importlib.util.find_spec", lambda name: None)
    for name in trackers.TRACKERS:
        assert f"install metaprune's extra `{name}`" in refused(name)
        assert f"\n{name} = [" in (Path(__file__).parents[2] / "pyproject.toml").read_text()


def test_trackers_stand_in_no_key_and_each_has_a_note_of_its_own() -> None:
    tracked = Experiment.model_validate({**TINY, "tracking": ["mlflow", {"name": "mlflow", "uri": "http://there"}]})
    assert tracked.model_copy(update={"tracking": ()}) == Experiment.model_validate(TINY)
    assert len({processes.noted_as(choice) for choice in tracked.tracking}) == 2
    with pytest.raises(ValueError, match="tracking has the same twice"):
        Experiment.model_validate({**TINY, "tracking": ["mlflow", "mlflow"]})


OWN = """
import os, sys, time

class Base:
    def __init__(self, *, at=""): self.at = at
    def open(self, run, earlier): print("noise"); return "id"
    def parameters(self, settings): pass
    def epoch(self, title, row): pass
    def cell(self, title, row): pass
    def artifact(self, folder): pass
    def close(self, end): pass

class Dies(Base):
    def open(self, run, earlier): sys.stderr.write("out of luck\\n"); sys.stderr.flush(); os._exit(3)

class Hangs(Base):
    def close(self, end):
        while True:
            try: time.sleep(60)
            except Exception: pass

class Writes(Base):
    def cell(self, title, row): open(self.at, "a").write(row["cell"] + "\\n")
"""


@pytest.mark.slow
def test_the_run_goes_on_whatever_processes_of_trackers_do(
    store: Store, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    (tmp_path / "own_trackers.py").write_text(OWN)
    monkeypatch.syspath_prepend(tmp_path)
    written = tmp_path / "written"
    options = {"Writes": {"at": str(written)}, "Dies": {}, "Hangs": {}}
    choices = [ChoiceConfig(name=f"own_trackers:{name}", options=given) for name, given in options.items()]
    said: list[str] = []
    with Trackers(choices) as at_work:
        at_work.start(store, said.append)
        started = at_work.processes.copy()
        while not written.exists():
            time.sleep(0.1)
        at_work.end("finished", seconds=4)
    assert sorted(written.read_text().split()) == ["pruned1", "trained"]
    assert sorted(said) == [
        "tracker Dies has ended (out of luck); the run goes on without it",
        "tracker Hangs: not everything could be sent within 4 s; the same command sends it once the tracker answers",
    ]
    assert all(process.process.poll() is not None for process in started)


def session(store: Store, report: Path, name: str, **options: object) -> list[str]:
    """One session of a tracker, from its start to its end; what the user was told."""
    said: list[str] = []
    with Trackers([ChoiceConfig(name=name, options=options)]) as at_work:
        at_work.start(store, said.append)
        at_work.end("finished", report)
    return said


@pytest.fixture
def report(tmp_path: Path) -> Path:
    """What a report has, in small."""
    from PIL import Image

    folder = tmp_path / "report"
    folder.mkdir()
    (folder / "index.html").write_text("<p>all of it")
    (folder / "cells.csv").write_text("model,accuracy\nnet,90\n")
    Image.new("RGB", (4, 3)).save(folder / "figure.png")
    return folder


@pytest.mark.slow
@pytest.mark.filterwarnings("ignore")
def test_mlflow_has_the_run_and_a_run_for_each_network_in_it(
    store: Store, report: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    mlflow = pytest.importorskip("mlflow", reason="the extra `mlflow` is not installed")
    monkeypatch.chdir(tmp_path)  # where MLflow puts the files of artifacts
    uri = f"sqlite:///{tmp_path}/mlflow.db"
    assert session(store, report, "mlflow", uri=uri) == []
    store.write_rows("evaluations", "b", [pruned(2)])
    assert session(store, report, "mlflow", uri=uri) == []
    client = mlflow.MlflowClient(uri)
    runs = client.search_runs([client.get_experiment_by_name("e").experiment_id])
    named = {run.info.run_name: run for run in runs}
    assert sorted(named) == sorted(["run", "net, whole, whole-data, seed 0", FIRST[:-6], SECOND[:-6]])
    assert len(runs) == 4, "the second session went on in the run of the first"
    assert {run.info.status for run in runs} == {"FINISHED"}
    whole = named["run"]
    assert whole.data.params == {"name": "e", "training.epochs": "3", "seeds": "[0, 1]"}
    assert [file.path for file in client.list_artifacts(whole.info.run_id, "report")][-1] == "report/index.html"
    trained = named["net, whole, whole-data, seed 0"]
    assert trained.data.tags["mlflow.parentRunId"] == whole.info.run_id
    curve = client.get_metric_history(trained.info.run_id, "test_accuracy")
    assert [(point.step, point.value) for point in curve] == [(1, 10.0), (2, 20.0), (3, 30.0)]
    assert named[SECOND[:-6]].data.metrics["accuracy"] == 88.0
    assert named[SECOND[:-6]].data.params["method"] == "conventional"


@pytest.mark.slow
@pytest.mark.filterwarnings("ignore")
def test_tensorboard_reads_curves_cells_settings_and_figures(store: Store, report: Path) -> None:
    reader = pytest.importorskip(
        "tensorboard.backend.event_processing.event_accumulator", reason="the extra `tensorboard` is not installed"
    )
    assert session(store, report, "tensorboard") == []
    folder = Path(store.uri) / "tracking" / "tensorboard"

    def events(place: Path) -> Any:
        found = reader.EventAccumulator(str(place))
        found.Reload()
        return found

    (trained,) = folder.glob("net-whole-whole-data-seed-0-trained")
    curve = events(trained).Scalars("test/accuracy")
    assert [(point.step, point.value) for point in curve] == [(1, 10.0), (2, 20.0), (3, 30.0)]
    (one,) = folder.glob("net-whole-data-l1-conventional-group-0-10%-seed-0-pruned1")
    assert events(one).Scalars("measured/accuracy")[0].value == 89.0
    whole = events(folder)
    assert whole.Tags()["images"] == ["report/figure"]
    assert whole.Tags()["tensors"] == ["experiment/text_summary"]


@pytest.mark.slow
def test_wandb_keeps_a_run_offline_and_goes_on_under_its_id(store: Store, report: Path, tmp_path: Path) -> None:
    pytest.importorskip("wandb", reason="the extra `wandb` is not installed")
    assert session(store, report, "wandb", mode="offline") == []
    (note,) = (Path(store.uri) / "tracking").glob("wandb-*.json")
    named = json.loads(note.read_text())["id"]
    (file,) = (Path(store.uri) / "tracking").glob(f"**/offline-run-*-{named}/run-{named}.wandb")
    content = file.read_bytes()
    for text in (b"cells/accuracy", b"epochs/net, whole, whole-data, seed 0 (traine)/test_accuracy", b"run-report"):
        assert text in content, text
    assert b"training.epochs" in content
    assert os.environ.get("WANDB_MODE") is None
