"""What the command line says of a data set's files."""

from pathlib import Path
from types import SimpleNamespace

import pytest
from typer.testing import CliRunner

from orchestrator import Experiment
from orchestrator.cli import app
from orchestrator.planning.building import make_plan
from orchestrator.planning.facts import gather
from orchestrator.running import driver
from orchestrator.running.progress import NoProgress
from tests.workloads.pictures import table, write, write_folder
from workloads.data.datasets import load


@pytest.fixture(autouse=True)
def _cache(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("METAPRUNE_CACHE", str(tmp_path / "cache"))
    load.cache_clear()


def experiment(folder: Path, name: str, settings: str = "") -> str:
    text = f"name: mine\ndataset: {{name: {name}, root: {folder}, size: 32{settings}}}\n"
    write(folder.parent / "mine.yaml", (text + "model: {name: resnet10, width: 0.125}\n").encode())
    return str(folder.parent / "mine.yaml")


def test_a_plan_says_what_is_left_out(tmp_path: Path) -> None:
    root = write_folder(tmp_path / "set")
    write(root / "train" / "ant" / "notes.txt", b"a")
    result = CliRunner().invoke(app, ["plan", experiment(root, "image-folder", ", label: ants")])
    assert result.exit_code == 0, result.output
    assert "ants: 4 images to train on, 4 to measure on (test)." in result.output
    assert (
        "ants: train: files that are no images by their ending are left out: 1, such as 'ant/notes.txt'."
        in result.output
    )


@pytest.mark.parametrize("command", ["plan", "run"])
def test_data_that_cannot_be_read_ends_with_one_sentence_and_status_2(tmp_path: Path, command: str) -> None:
    root = tmp_path / "set"
    write(root / "train.parquet", table(labels=[0, 1, 0, None, 0, 1]))
    write(root / "test.parquet", table())
    result = CliRunner().invoke(app, [command, experiment(root, "parquet")])
    assert result.exit_code == 2
    assert result.stderr.startswith("metaprune: row 3 of column 'label' in '")
    assert result.stderr.count("\n") == 1


def test_the_name_of_a_data_set_is_in_its_rows_and_not_in_the_keys(tmp_path: Path) -> None:
    root = write_folder(tmp_path / "set")
    plans = []
    for label in (None, "ants"):
        settings = {
            "name": "mine",
            "dataset": {"name": "image-folder", "root": str(root), "size": 32, "label": label},
            "model": {"name": "resnet10", "width": 0.125},
            "pruning": {"groups": [0], "sparsities": [0.5]},
        }
        experiment = Experiment.model_validate(settings)
        plans.append(make_plan(experiment, gather(experiment)))
    assert set(plans[0].stages) == set(plans[1].stages)
    named = [{stage.labels["dataset"] for stage in plan.stages.values()} for plan in plans]
    assert named == [{"set"}, {"ants"}]


def test_a_run_in_python_says_what_is_left_out(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    root = write_folder(tmp_path / "set")
    write(root / "train" / "ant" / "notes.txt", b"a")
    told: list[str] = []

    class Told(NoProgress):
        def note(self, text: str) -> None:
            told.append(text)

    monkeypatch.setattr(driver, "run_plan", lambda *given, **named: SimpleNamespace(complete=True))
    driver.run(experiment(root, "image-folder", ", label: ants"), progress=Told())
    assert told == ["ants: train: files that are no images by their ending are left out: 1, such as 'ant/notes.txt'."]
