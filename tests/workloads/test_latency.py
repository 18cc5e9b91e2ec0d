"""Times of forward passes: medians, their intervals, and when measuring ends."""

import math
import multiprocessing
import os
import time
from pathlib import Path
from statistics import median
from types import SimpleNamespace

import pytest
import torch
from torch import nn

from workloads.measuring import latency as module
from workloads.measuring.latency import FEWEST_PASSES, MOST_SECONDS, OtherWork, latency, summary


def timed(monkeypatch: pytest.MonkeyPatch, seconds: list[float]) -> tuple[module.Latency, list[tuple]]:
    """The latency of a network whose passes take so long, the first of them to warm up; and what it saw."""
    clock = iter(moment for each in seconds for moment in (0.0, each))
    monkeypatch.setattr("workloads.measuring.latency.time.perf_counter", lambda: next(clock))
    model, seen = nn.Sequential(nn.Flatten(), nn.Linear(12, 2), nn.Dropout()), []
    model.register_forward_pre_hook(lambda module, inputs: seen.append((tuple(inputs[0].shape), module.training)))
    found = latency(model, (3, 2, 2), 5)
    monkeypatch.undo()
    return found, seen


def test_steady_passes_are_repeated_a_few_times_after_a_warm_up(monkeypatch: pytest.MonkeyPatch) -> None:
    found, seen = timed(monkeypatch, [9.0] + [0.001] * 1000)
    assert found == module.Latency(pytest.approx(1.0), pytest.approx(1.0), pytest.approx(1.0), FEWEST_PASSES)
    assert seen == [((5, 3, 2, 2), False)] * (1 + FEWEST_PASSES)


def test_unsteady_passes_are_repeated_until_the_interval_is_small_or_time_is_over(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    wide = [0.001, 0.002] * 5000
    found, seen = timed(monkeypatch, [9.0, *wide])
    assert len(seen) - 1 == found.passes
    assert sum(wide[: found.passes]) == pytest.approx(MOST_SECONDS, abs=0.002)
    generator = torch.Generator().manual_seed(0)
    spread = (0.001 + 0.0002 * torch.rand(5000, generator=generator)).tolist()
    found, _ = timed(monkeypatch, [9.0, *spread])
    assert FEWEST_PASSES < found.passes < MOST_SECONDS / 0.0012
    assert found.high - found.low <= 2 * module.PRECISION * found.milliseconds


def test_slow_passes_end_when_time_is_over(monkeypatch: pytest.MonkeyPatch) -> None:
    found, _ = timed(monkeypatch, [9.0, 2.0])
    assert found == module.Latency(pytest.approx(2000.0), pytest.approx(2000.0), pytest.approx(2000.0), 1)


def test_the_interval_holds_the_median_of_the_distribution_nineteen_times_in_twenty() -> None:
    generator = torch.Generator().manual_seed(0)
    samples = torch.empty(2000, 41).exponential_(generator=generator)
    found = [summary(row.tolist()) for row in samples]
    assert [each.milliseconds for each in found[:5]] == pytest.approx([1000 * median(r.tolist()) for r in samples[:5]])
    true = 1000 * math.log(2)
    covered = sum(each.low <= true <= each.high for each in found) / len(found)
    assert 0.94 < covered < 0.985


def busy(stop: float) -> None:
    while time.monotonic() < stop:
        pass


@pytest.mark.skipif(module.busy_seconds() is None, reason="the system does not tell how busy it is")
def test_work_of_other_processes_is_seen_and_own_work_is_not() -> None:
    until = time.monotonic() + 0.6
    other = multiprocessing.get_context("fork").Process(target=busy, args=(until,))
    watch = OtherWork()
    other.start()
    other.join()
    seen = watch.cores()
    assert seen is not None
    assert seen > 0.3


@pytest.mark.parametrize(
    ("listed", "expected"),
    [
        ("{own}, GPU-a\n12, GPU-a\n13, GPU-b\n", 1),
        ("{own}, GPU-a\n", 0),
        ("12, GPU-a\n", None),
        ("", None),
        ("exit 9", None),
    ],
)
def test_other_processes_of_a_gpu_are_counted_where_its_list_is_of_this_machine(
    listed: str, expected: int | None, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    command = tmp_path / "nvidia-smi"
    said = f"printf '{listed.format(own=os.getpid())}'" if "exit" not in listed else listed
    command.write_text(f"#!/bin/sh\n{said}\n")
    command.chmod(0o755)
    monkeypatch.setenv("PATH", f"{tmp_path}:{os.environ['PATH']}")
    monkeypatch.setattr(torch.cuda, "get_device_properties", lambda device: SimpleNamespace(uuid="a"))
    assert module.other_gpu_processes(torch.device("cuda", 0)) == expected


def test_without_the_command_other_processes_of_a_gpu_are_unknown(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("PATH", "")
    assert module.other_gpu_processes(torch.device("cuda", 0)) is None
