"""The GPU and the threads of a task."""

import contextlib
import json
import os
import subprocess
import sys

import pytest
import torch

from orchestrator.worker.hardware import cuda_number, device, training_device
from orchestrator.worker.kind import Lesson
from orchestrator.worker.learning import moved
from workloads.config import FineTuningConfig
from workloads.training.objectives import Distillation


@pytest.mark.parametrize(
    ("assigned", "visible", "number"),
    [
        ([], None, None),
        ([], "0,1", None),
        ([2], None, 2),
        ([0, 1], None, 0),
        (["3"], "2,3", 1),
        (["3"], "3", 0),
        (["GPU-b"], "GPU-a,GPU-b", 1),
    ],
)
def test_the_assigned_gpu_has_cudas_number(assigned: list, visible: str | None, number: int | None) -> None:
    assert cuda_number(assigned, visible) == number


@pytest.mark.parametrize(("there", "expected"), [(True, torch.device("cuda", 0)), (False, torch.device("cpu"))])
def test_outside_of_ray_it_is_the_first_gpu_or_the_cpu(
    there: bool, expected: torch.device, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(torch.cuda, "is_available", lambda: there)
    monkeypatch.setattr("orchestrator.worker.hardware.ray.is_initialized", lambda: False)
    assert device() == expected


def test_a_mac_trains_on_its_gpu_and_does_all_else_on_the_cpu(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(torch.cuda, "is_available", lambda: False)
    for there, expected in ((True, "mps"), (False, "cpu")):
        monkeypatch.setattr(torch.backends.mps, "is_available", lambda there=there: there)
        assert (training_device().type, device().type) == (expected, "cpu")


def test_a_lesson_is_learnt_on_another_device_and_comes_back(monkeypatch: pytest.MonkeyPatch) -> None:
    model, teacher, back = torch.nn.Linear(2, 2), torch.nn.Linear(2, 2), []
    distilled = Distillation([teacher], FineTuningConfig(objective="distillation"))
    lesson = Lesson(model, FineTuningConfig(), torch.arange(4), 0, distilled)
    with contextlib.suppress(KeyboardInterrupt), moved(lesson, torch.device("meta")):
        assert {each.weight.device.type for each in (model, teacher)} == {"meta"}
        monkeypatch.setattr(torch.nn.Module, "to", lambda module, where: back.append((module, where)))
        raise KeyboardInterrupt
    assert back == [(model, device()), (teacher, device())]


THREADS = """
import json, numpy, scipy.linalg, torch
from threadpoolctl import threadpool_info
from orchestrator.worker.hardware import settle
settle(2)
import sklearn.cluster
print(json.dumps([torch.get_num_threads(), *(pool["num_threads"] for pool in threadpool_info())]))
"""


@pytest.mark.skipif((os.cpu_count() or 1) < 2, reason="needs two cores")
def test_all_libraries_take_the_tasks_threads_although_ray_submit_sets_one() -> None:
    environment = {**os.environ, "OMP_NUM_THREADS": "1"}
    command = [sys.executable, "-c", THREADS]
    printed = subprocess.run(command, env=environment, capture_output=True, text=True, check=True).stdout
    threads = json.loads(printed)
    assert len(threads) > 2
    assert set(threads) == {2}
