"""Stages of one task: measured together as each by itself, and none fails for another."""

import contextlib
import dataclasses
import time
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

import pandas as pd
import pytest
import torch
from torch import nn

from orchestrator import Experiment
from orchestrator.planning.building import make_plan
from orchestrator.planning.context import shared_context
from orchestrator.planning.facts import gather
from orchestrator.running import tasks
from orchestrator.running.tasks import MEASURED_TOGETHER, OutOfTime, execute, time_limit
from orchestrator.stages import compress, kinds
from orchestrator.storage.store import StorageError, Store
from orchestrator.worker import measuring
from orchestrator.worker.code import OtherCodeError, code_in_use
from orchestrator.worker.task import Task
from orchestrator.worker.work import Context, Outcome, Work
from tests.conftest import MEASURED_TIMES, TINY
from workloads.training.snapshots import Snapshot

SPARSITIES = [round(0.05 * number, 2) for number in range(1, 10)]


class Fragile(nn.Sequential):
    """Breaks down on batches when its first layer has 5 channels, and hangs when it is told to."""

    hangs = False

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        if self.hangs and (not isinstance(x, torch.Tensor) or len(x) > 2):
            time.sleep(600)
        if len(x) > 2 and self[0].out_channels == 5:
            raise RuntimeError("five channels are bad luck")
        return super().forward(x)


def fragile(*, in_channels: int, num_classes: int) -> nn.Module:
    last = [nn.AdaptiveAvgPool2d(1), nn.Flatten(), nn.Linear(8, num_classes)]
    return Fragile(nn.Conv2d(in_channels, 8, 3), nn.ReLU(), nn.Conv2d(8, 8, 3), *last)


def grid(folder: Path, **settings: Any) -> tuple[list[Work], Context]:
    """The prunings of a tiny experiment, whose network is trained first."""
    experiment = Experiment.model_validate({**TINY, **settings})
    facts, store = gather(experiment), Store(folder)
    stages = make_plan(experiment, facts).stages.values()
    works = [Work(s.kind, s.key, s.parameters, s.inputs, s.labels, s.kind == "train", True) for s in stages]
    context = shared_context(experiment, facts, store)
    assert [outcome.error for outcome in execute(works[:1], context)] == [None]
    return works[1:], context


def evaluations(folder: Path, works: Sequence[Work]) -> pd.DataFrame:
    """Their rows, in this order."""
    frame = Store(folder).read_table("evaluations").to_pandas()
    return frame.set_index("cell").loc[[work.key for work in works]]


def rows_of(folder: Path, works: Sequence[Work]) -> pd.DataFrame:
    """The same, without what depends on the clock."""
    return evaluations(folder, works).drop(columns=MEASURED_TIMES)


@pytest.mark.slow
@pytest.mark.parametrize("group", [0, 5])
def test_stages_of_one_task_and_each_in_a_task_of_its_own(tmp_path: Path, group: int) -> None:
    pruning = {"groups": [group], "sparsities": SPARSITIES}
    rows = []
    for name in ("together", "alone"):
        works, context = grid(tmp_path / name, pruning=pruning)
        assert len(works) > MEASURED_TOGETHER
        outcomes = execute(works, context) if name == "together" else [execute([w], context)[0] for w in works]
        assert [outcome.error for outcome in outcomes] == [None] * len(works)
        rows.append(rows_of(tmp_path / name, works))
    pd.testing.assert_frame_equal(*rows, check_exact=True)


def test_a_network_that_breaks_down_does_not_spoil_the_others(tmp_path: Path) -> None:
    pruning = {"groups": [0, 1], "sparsities": [0.2, 0.375, 0.5], "methods": ["conventional"]}
    works, context = grid(tmp_path, model={"name": "tests.orchestrator.test_tasks:fragile"}, pruning=pruning)
    works = [work for work in works if work.parameters["group"] == 1]
    outcomes: list[Outcome] = execute(works, context)
    assert [outcome.error for outcome in outcomes] == [None, "RuntimeError: five channels are bad luck", None]
    assert Store(tmp_path).read_table("failures")["cell"].to_pylist() == [works[1].key]
    assert rows_of(tmp_path, [works[0], works[2]])["accuracy"].between(0, 100).all()


@pytest.mark.slow
def test_networks_that_hang_end_at_the_time_limit(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    pruning = {"groups": [0], "sparsities": [0.2, 0.5], "methods": ["conventional"]}
    works, context = grid(tmp_path, model={"name": "tests.orchestrator.test_tasks:fragile"}, pruning=pruning)
    monkeypatch.setattr(Fragile, "hangs", True)
    outcomes = execute(works, dataclasses.replace(context, time_limit=1.0))
    expected = "OutOfTime: the stage took longer than its time_limit of 1 s"
    assert [outcome.error for outcome in outcomes] == [expected] * 2


def test_seconds_of_stages_measured_together_add_up(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    shares: list[float] = []

    def recorded(*arguments: Any) -> Any:
        measured = measuring.measured_together(*arguments)
        shares.extend(measurement.seconds for measurement in measured)
        return measured

    monkeypatch.setattr("orchestrator.running.tasks.measured_together", recorded)
    works, context = grid(tmp_path, pruning={"groups": [3]})
    outcomes = execute(works, context)
    assert evaluations(tmp_path, works)["seconds"].tolist() == shares
    assert len(set(shares)) == 1
    assert all(outcome.seconds > share for outcome, share in zip(outcomes, shares, strict=True))


def test_a_node_that_does_not_see_the_run_says_so(tmp_path: Path) -> None:
    works, context = grid(tmp_path, pruning={"groups": [0], "sparsities": [0.5]})
    elsewhere = dataclasses.replace(context, witness="experiment.yaml")
    with pytest.raises(StorageError, match=r"does not see the run in .*give --out as a folder that all nodes share"):
        execute(works, elsewhere)
    Store(tmp_path).write(b"", "experiment.yaml")
    assert [outcome.error for outcome in execute(works, elsewhere)] == [None] * len(works)


def test_time_that_is_over_in_a_write_is_not_taken_for_a_full_disk(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(Store, "_write", lambda self, content, target: time.sleep(60))
    with pytest.raises(OutOfTime), time_limit(0.1):
        Store(tmp_path).write(b"", "file")


def compressing_by(monkeypatch: pytest.MonkeyPatch, make: Callable[[Task, Work], Any]) -> None:
    """Let stages of kind compress do something else."""
    changed = {**kinds(), "compress": dataclasses.replace(compress.KIND, make=make)}
    monkeypatch.setattr("orchestrator.running.tasks.kinds", lambda: changed)


def test_a_gpu_without_memory_is_told_apart(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    def short(task: Task, work: Work) -> Any:
        raise torch.OutOfMemoryError("CUDA out of memory")

    works, context = grid(tmp_path, pruning={"groups": [0], "sparsities": [0.5]})
    compressing_by(monkeypatch, short)
    assert [outcome.short_of_memory for outcome in execute(works, context)] == [True] * len(works)


def test_a_worker_whose_gpu_is_lost_ends_and_leaves_no_failure(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Ray tries the task again elsewhere, so that nothing has failed yet."""

    def lose(task: Task, work: Work) -> Any:
        raise torch.AcceleratorError("an illegal memory access was encountered")

    def end(status: int) -> None:
        raise SystemExit(status)

    works, context = grid(tmp_path, pruning={"groups": [0], "sparsities": [0.5]})
    compressing_by(monkeypatch, lose)
    monkeypatch.setattr("orchestrator.running.tasks.os._exit", end)
    with pytest.raises(SystemExit):
        execute(works, context)
    assert not len(Store(tmp_path).read_table("failures"))


def test_what_catches_every_exception_is_interrupted_again_and_then_reported(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(tasks, "GRACE_SECONDS", 0.05)
    stuck: list[OutOfTime] = []
    with time_limit(0.1, stuck=stuck.append):
        while not stuck:
            with contextlib.suppress(BaseException):
                time.sleep(60)
    assert str(stuck[0]) == "the stage took longer than its time_limit of 0.1 s"


def test_a_stage_that_ended_an_earlier_worker_is_not_tried_again(tmp_path: Path) -> None:
    works, context = grid(tmp_path, pruning={"groups": [0], "sparsities": [0.2, 0.5], "methods": ["conventional"]})
    attempt = tasks.Attempt(works[1], Store(tmp_path), context)
    attempt.write_failure(OutOfTime("the stage took longer than its time_limit of 1 s\nand more"))
    outcomes = [(outcome.key, outcome.error) for outcome in execute(works, context)]
    said = "OutOfTime: the stage took longer than its time_limit of 1 s"
    assert outcomes == [(works[0].key, None), (works[1].key, said)], "in the order in which they were sent"


def test_texts_that_are_no_utf_8_are_kept_as_escapes(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    def fail(task: Task, work: Work) -> Any:
        raise ValueError("caf\udce9")

    works, context = grid(tmp_path, pruning={"groups": [0], "sparsities": [0.5], "methods": ["conventional"]})
    compressing_by(monkeypatch, fail)
    assert [outcome.error for outcome in execute(works, context)] == ["ValueError: caf\\udce9"]
    (row,) = Store(tmp_path).read_table("failures").to_pylist()
    assert row["message"] == "caf\\udce9"
    assert "ValueError" in row["traceback"]


def test_stages_leave_the_process_as_it_was(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    def change(task: Task, work: Work) -> Any:
        torch.set_default_dtype(torch.float64)
        torch.set_num_threads(2)
        torch.manual_seed(9)
        raise SystemExit(3)

    works, context = grid(tmp_path, pruning={"groups": [0], "sparsities": [0.5], "methods": ["conventional"]})
    compressing_by(monkeypatch, change)
    before = torch.get_rng_state()
    assert [outcome.error for outcome in execute(works, context)] == ["SystemExit: 3"]
    assert torch.equal(torch.get_rng_state(), before)
    assert (torch.get_default_dtype(), torch.get_num_threads()) == (torch.float32, 1)


def test_a_node_with_other_code_than_the_driver_says_so(tmp_path: Path) -> None:
    works, context = grid(tmp_path, pruning={"groups": [0], "sparsities": [0.5]})
    for name in code_in_use():
        differing = dataclasses.replace(context, code={**code_in_use(), name: "another"})
        with pytest.raises(OtherCodeError, match=r"node .* runs .*, and the driver another: install the same on all"):
            execute(works, differing)
    same = dataclasses.replace(context, code=dict(code_in_use()))
    assert [outcome.error for outcome in execute(works, same)] == [None] * len(works)


def test_an_interrupted_training_leaves_a_snapshot_of_its_last_epoch(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    experiment = Experiment.model_validate({**TINY, "training": {**TINY["training"], "epochs": 3}})
    facts, store = gather(experiment), Store(tmp_path)
    (stage, *_) = make_plan(experiment, facts).stages.values()
    work = Work(stage.kind, stage.key, stage.parameters, stage.inputs, stage.labels, keep=True, record=True)
    context = dataclasses.replace(shared_context(experiment, facts, store), snapshot_every=10)

    def interrupted(self: object, history: Sequence[Any]) -> None:
        if len(history) == 2:
            raise KeyboardInterrupt

    with monkeypatch.context() as patch:
        patch.setattr("orchestrator.worker.learning.TrainingProgress.__call__", interrupted)
        with pytest.raises(KeyboardInterrupt):
            execute([work], context)
    assert len(Snapshot.loads(store.read("snapshots", f"{work.key}.safetensors")).history) == 2
    assert not len(store.read_table("failures"))
    assert [outcome.error for outcome in execute([work], context)] == [None]
    assert store.names("snapshots") == set()
