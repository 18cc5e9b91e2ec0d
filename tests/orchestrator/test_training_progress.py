"""How far trainings are, while they last."""

import re
import subprocess
import sys
from pathlib import Path

import pytest
import yaml

from orchestrator.storage.store import Store
from orchestrator.worker import training_progress as epochs
from orchestrator.worker.training_progress import FOLDER, MOST_READ, TrainingProgress, epochs_reached
from tests.conftest import TINY
from workloads.training.snapshots import Epoch

HISTORY = [Epoch(number, 0.1, 1.0, 50.0, None, 1.0) for number in (1, 2, 3)]


@pytest.fixture
def clock(monkeypatch: pytest.MonkeyPatch) -> list[float]:
    now = [0.0]
    monkeypatch.setattr("orchestrator.worker.training_progress.time.monotonic", lambda: now[0])
    return now


def test_epochs_are_told_now_and_then_and_forgotten(tmp_path: Path, clock: list[float]) -> None:
    store = Store(tmp_path)
    progress = TrainingProgress(store, "a", 300)
    progress(HISTORY[:1])
    assert epochs_reached(store, ["a"]) == {}, "a short training writes nothing"
    clock[0] += epochs.UPDATE_SECONDS
    progress(HISTORY[:2])
    progress(HISTORY)
    assert epochs_reached(store, ["a", "b"]) == {"a": (2, 300)}
    assert epochs_reached(store, ["b"]) == {}
    progress.forget()
    progress.forget()
    assert epochs_reached(store, ["a"]) == {}


@pytest.mark.parametrize("content", [b"", b"{}", b"[1]", b'["x", 2]', b"\xff"])
def test_damaged_notes_are_passed_over(tmp_path: Path, content: bytes) -> None:
    store = Store(tmp_path)
    store.write(content, FOLDER, "a.json")
    store.write(b"[3, 4]", FOLDER, "b.json")
    assert epochs_reached(store, ["a", "b"]) == {"b": (3, 4)}


def test_few_are_read_of_many(tmp_path: Path) -> None:
    store, keys = Store(tmp_path), [f"{number:02}" for number in range(20)]
    for key in keys:
        store.write(b"[1, 2]", FOLDER, f"{key}.json")
    assert list(epochs_reached(store, keys)) == keys[:MOST_READ]


def test_a_full_disk_does_not_end_a_training(tmp_path: Path, clock: list[float]) -> None:
    (tmp_path / FOLDER).write_text("in the way")
    progress = TrainingProgress(Store(tmp_path), "a", 300)
    clock[0] += epochs.UPDATE_SECONDS
    progress(HISTORY)


SLOW = """
import time, torch

class Net(torch.nn.Sequential):
    def forward(self, x):
        time.sleep(0.15 * self.training)
        return super().forward(x)

def net(*, in_channels, num_classes):
    nn = torch.nn
    layers = [nn.Conv2d(in_channels, 8, 3), nn.BatchNorm2d(8), nn.ReLU(), nn.AdaptiveAvgPool2d(1), nn.Flatten()]
    return Net(*layers, nn.Linear(8, num_classes))
"""


@pytest.mark.slow
def test_the_log_of_a_run_names_epochs(tmp_path: Path) -> None:
    """Twelve epochs of four steps, each of which takes 0.15 seconds: longer than it takes to tell."""
    (tmp_path / "slow_net.py").write_text(SLOW)
    settings = {
        **TINY,
        "model": {"name": "slow_net:net"},
        "training": {**TINY["training"], "epochs": 12, "evaluate_every": 12},
        "pruning": {"groups": [0], "sparsities": [0.5]},
    }
    (tmp_path / "slow.yaml").write_text(yaml.safe_dump(settings))
    often = "from orchestrator import cli; from orchestrator.running import dispatch, progress; "
    often += "dispatch.LOOK_SECONDS = 0.0; "
    often += "dispatch.POLL_SECONDS = 0.1; progress.LOG_SECONDS = 0.0, 0.0; "
    command = [sys.executable, "-c", often + "cli.main()", "run", "slow.yaml", "--out", "run"]
    ended = subprocess.run(command, cwd=tmp_path, capture_output=True, text=True, check=False)
    assert ended.returncode == 0, ended.stdout + ended.stderr
    assert re.search(r"0/3 stages, 0 failed, 1 running, epochs \d+/12, ", ended.stdout), ended.stdout
    assert not list((tmp_path / "run" / FOLDER).iterdir())
