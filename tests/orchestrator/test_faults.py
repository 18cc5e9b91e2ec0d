"""Faults that really happen, and what is left of them: the same rows and values as in an undisturbed run."""

import contextlib
import json
import os
import shutil
import signal
import subprocess
import sys
import time
from collections import Counter
from collections.abc import Callable, Iterator, Sequence
from pathlib import Path
from typing import Any

import psutil
import pytest
import torch

from orchestrator.planning.building import make_plan
from orchestrator.planning.facts import gather
from orchestrator.running.driver import StoppedError, run_plan
from orchestrator.running.lease import Lease
from orchestrator.running.progress import LogProgress, NoProgress
from orchestrator.running.tasks import execute
from orchestrator.storage.store import StorageError, Store
from orchestrator.worker.work import Context, Outcome, Work
from reports import load
from reports.results.runs import progress
from tests.conftest import end_ray, memory, start_ray
from tests.orchestrator.disturbed import (
    EXPERIMENT,
    SETTINGS,
    assert_equal,
    changed,
    copied,
    descendants,
    driver,
    is_process,
    start,
    wait_for,
)
from workloads.networks import checkpoints


@pytest.fixture(scope="module")
def order(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Callable[..., None]]:
    """Orders a fault; see tests/faulty.py."""
    path = tmp_path_factory.mktemp("order") / "order.json"
    os.environ["FAULT_ORDER"] = str(path)

    def write(action: str, place: str, *, after: int = 1, again: bool = False, **more: Any) -> None:
        path.write_text(json.dumps({"action": action, "place": place, "after": after, "again": again, **more}))

    yield write
    del os.environ["FAULT_ORDER"]


@pytest.fixture(autouse=True)
def _no_order_left(order: Callable[..., None]) -> Iterator[None]:
    yield
    Path(os.environ["FAULT_ORDER"]).unlink(missing_ok=True)


@pytest.fixture(scope="module", autouse=True)
def local_ray(order: Callable[..., None]) -> Iterator[None]:
    start_ray()  # one of its own, whose workers know where faults are ordered
    yield
    end_ray()


@pytest.fixture(scope="module")
def calm(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The undisturbed run."""
    folder = tmp_path_factory.mktemp("calm")
    assert start(folder).complete
    return folder


@pytest.fixture
def half(calm: Path, tmp_path: Path) -> Path:
    """A copy of it without the results of its prunings."""
    return copied(calm, tmp_path / "run", kept=lambda row: row["stage"] == "baseline")


@pytest.mark.parametrize(
    ("action", "place", "after"),
    [
        pytest.param("kill_worker", "train", 6, marks=pytest.mark.slow),  # in the second epoch of three
        ("kill_worker", "sweep", 1),
        pytest.param("kill_before_rename", "train", 6, marks=pytest.mark.slow),  # the snapshot
        pytest.param("kill_before_rename", "train", 12, marks=pytest.mark.slow),  # the network
        pytest.param("kill_before_rename", "sweep", 1, marks=pytest.mark.slow),  # the rows
    ],
)
def test_a_killed_worker(order: Callable, calm: Path, tmp_path: Path, action: str, place: str, after: int) -> None:
    order(action, place, after=after)
    assert start(tmp_path).complete
    assert not Path(os.environ["FAULT_ORDER"]).exists(), "the fault has happened"
    assert_equal(tmp_path, calm)


@pytest.mark.slow
@pytest.mark.parametrize("place", ["train", "sweep"])
def test_a_killed_driver(order: Callable, calm: Path, tmp_path: Path, place: str) -> None:
    folder = tmp_path / "run"
    order("kill_driver", place, after=6 if place == "train" else 1, run=str(folder))
    process = driver(folder)
    process.communicate(timeout=600)
    assert process.returncode == -signal.SIGKILL
    assert (folder / "driver.json").exists(), "the dead driver could not clear up"
    assert start(folder).complete, "and that is no hindrance"
    assert_equal(folder, calm)


@pytest.mark.slow
@pytest.mark.parametrize(
    ("number", "times"),
    [(signal.SIGINT, 1), (signal.SIGINT, 2), (signal.SIGTERM, 1), (signal.SIGHUP, 1), (signal.SIGUSR1, 1)],
)
def test_a_stopped_run_says_how_to_go_on(
    order: Callable, calm: Path, tmp_path: Path, number: signal.Signals, times: int
) -> None:
    """By Ctrl-C, once or twice, by a batch system that takes the machine away, by a terminal that is closed."""
    folder = tmp_path / "run"
    order("hang", "train", after=6)
    process = driver(folder, "--set", "resources.snapshot_every=10")
    wait_for(lambda: (folder / "driver.json").exists() and not Path(os.environ["FAULT_ORDER"]).exists())
    status = subprocess.run(
        [sys.executable, "-m", "orchestrator", "status", str(folder)], capture_output=True, text=True, check=True
    )
    assert f"Driven by process {process.pid} on " in status.stdout
    started = descendants(process.pid)
    assert started
    for _ in range(times):
        if number == signal.SIGINT:
            os.killpg(process.pid, number)  # as a terminal does
        else:
            # Slurm and systemd send theirs to all processes of a job, and a terminal SIGHUP to all that it started.
            for pid in [process.pid, *started]:
                with contextlib.suppress(ProcessLookupError):  # it has just ended
                    os.kill(pid, number)
        time.sleep(0.5)
    _, stderr = process.communicate(timeout=600)
    assert process.returncode == (130 if number == signal.SIGINT else 75), stderr
    by = "" if number == signal.SIGINT else f" by {number.name}"
    assert stderr.strip().splitlines()[-1] == (
        f"metaprune: stopped{by}; what is done is kept in {folder}, the same command goes on from there"
    )
    assert not (folder / "driver.json").exists()
    assert os.listdir(folder / "snapshots"), "a training has left what it was after its last epoch"
    wait_for(lambda: not any(is_process(pid) for pid in started))
    assert start(folder).complete
    assert_equal(folder, calm)


@pytest.mark.slow
@pytest.mark.parametrize("name", ["raylet", "gcs_server"])
def test_what_happens_to_ray_is_no_failure_of_a_stage(order: Callable, calm: Path, tmp_path: Path, name: str) -> None:
    folder = tmp_path / "run"
    order("hang", "train", after=6)
    process = driver(folder)
    wait_for(lambda: (folder / "driver.json").exists() and not Path(os.environ["FAULT_ORDER"]).exists())
    started = [psutil.Process(pid) for pid in descendants(process.pid)]
    next(found for found in started if found.name() == name).kill()
    stdout, stderr = process.communicate(timeout=600)
    assert process.returncode == 1
    assert "Ray has ended while the run went on" in stderr
    assert f"its process {name} has died; Ray's own messages are in" in stderr
    assert "what is done is kept, the same command goes on" in stderr
    assert len(stderr.strip().splitlines()) == 1
    assert "raylet" not in stdout
    wait_for(lambda: not any(is_process(found.pid) for found in started))
    assert not (folder / "results" / "failures").exists()
    assert start(folder).complete
    assert_equal(folder, calm)


@pytest.mark.slow
def test_a_second_driver_says_who_is_at_work(order: Callable, calm: Path, tmp_path: Path) -> None:
    first, folder = Lease(Store(tmp_path / "run")), tmp_path / "run"
    first.renew({}, now=True)
    process = driver(folder)
    _, stderr = process.communicate(timeout=600)
    assert process.returncode == 2
    assert f"another driver is at work on {folder} (process {os.getpid()} on " in stderr
    assert len(stderr.strip().splitlines()) == 1
    assert not (folder / "results").exists()
    first.release()
    assert start(folder).complete
    assert_equal(folder, calm)


@pytest.mark.slow
def test_two_drivers_that_nothing_keeps_apart_corrupt_nothing(
    calm: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Each in its own process, both on the same stages at the same time."""
    folder = tmp_path / "run"
    code = (
        "from orchestrator import cli; from orchestrator.running.lease import Lease; "
        "Lease.check = lambda *_: None; cli.main()"
    )
    (tmp_path / "experiment.yaml").write_text(EXPERIMENT.to_yaml())
    command = [sys.executable, "-c", code, "run", str(tmp_path / "experiment.yaml"), "--out", str(folder)]
    environment = {**os.environ, "RAY_ADDRESS": "local"}
    processes = [
        subprocess.Popen(command, stderr=subprocess.PIPE, text=True, env=environment, cwd=Path(__file__).parents[2])
        for _ in range(2)
    ]
    for process in processes:
        _, stderr = process.communicate(timeout=600)
        assert process.returncode == 0, stderr
    assert_equal(folder, calm)


def truncated(content: bytes) -> bytes:
    return content[: len(content) // 2]


def with_another_weight(content: bytes) -> bytes:
    return content[:-9] + bytes([content[-9] ^ 1]) + content[-8:]


def with_another_description(content: bytes) -> bytes:
    assert b'\\"classes\\": 10' in content
    return content.replace(b'\\"classes\\": 10', b'\\"classes\\": 11')


@pytest.mark.parametrize("damage", [truncated, with_another_weight, with_another_description])
def test_a_damaged_network_is_made_again(
    half: Path, calm: Path, damage: Callable, capsys: pytest.CaptureFixture
) -> None:
    (network,) = (half / "artifacts").iterdir()
    original, _ = checkpoints.loads(network.read_bytes(), "")
    network.write_bytes(damage(network.read_bytes()))
    result = start(half, progress=LogProgress())
    assert result.complete, result.failed
    assert (result.before, result.done) == (1, 8)
    assert f"the network of {network.stem}, which compress" in capsys.readouterr().out
    for name, tensor in checkpoints.load(network).state_dict().items():
        assert torch.equal(tensor, original.state_dict()[name]), name
    assert_equal(half, calm)


def forgetful(batch: Sequence[Work], context: Context) -> list[Outcome]:
    """A task whose storage loses every network."""
    outcomes = execute(batch, context)
    for work in batch:
        Store(context.store).delete("artifacts", f"{work.key}.safetensors")
    return outcomes


def test_a_network_that_is_lost_again_fails_its_readers(half: Path, calm: Path) -> None:
    (network,) = (half / "artifacts").iterdir()
    network.write_bytes(b"")
    facts = gather(EXPERIMENT)
    plan = make_plan(EXPERIMENT, facts)
    result = run_plan(EXPERIMENT, facts, plan, out=half, progress=NoProgress(), body=forgetful)
    assert (result.before, result.done, len(result.failed), result.blocked) == (1, 0, 8, 0)
    assert all(f"the network of stage {network.stem} is lost" in error for error in result.failed.values())
    assert start(half, retry_failed=True).complete
    assert_equal(half, calm)


def test_a_task_that_raises(half: Path, calm: Path, order: Callable) -> None:
    order("raise_error", "sweep")
    result = start(half)
    assert not result.complete
    assert "RuntimeError: out of luck" in next(iter(result.failed.values()))
    failures = load(half, "failures")
    assert set(failures["cell"]) == set(result.failed)
    assert "in criterion" in failures["traceback"].iloc[0]
    assert result.before + result.done + len(result.failed) == result.stages

    again = start(half)
    assert (again.done, again.failed, again.failed_before) == (0, {}, len(result.failed))
    assert start(half, retry_failed=True).complete
    assert_equal(half, calm)


def test_a_stage_over_its_time_limit(half: Path, calm: Path, order: Callable) -> None:
    order("hang_to_the_limit", "sweep", limit=300)
    limited = changed(resources={"compress": {"time_limit": 300}})
    result = start(half, limited)
    assert len(result.failed) == 1
    assert "OutOfTime: the stage took longer than its time_limit of 300 s" in next(iter(result.failed.values()))
    assert result.done == 7
    assert start(half, limited, retry_failed=True).complete
    assert_equal(half, calm)


def test_a_stage_that_cannot_be_interrupted_ends_its_worker_and_has_failed(
    half: Path, calm: Path, order: Callable
) -> None:
    order("hang_for_ever", "sweep")
    result = start(half, changed(resources={"compress": {"time_limit": 300}}))
    assert result.done == 7
    assert [*result.failed.values()] == ["OutOfTime: the stage took longer than its time_limit of 300 s"]
    assert start(half, retry_failed=True).complete
    assert_equal(half, calm)


@pytest.mark.slow
@pytest.mark.parametrize("again", [False, True])
def test_a_task_that_runs_out_of_memory(
    order: Callable, tmp_path: Path, calm: Path, again: bool, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Ray would start it again without end."""
    folder = copied(calm, tmp_path / "run", kept=lambda row: row["group"] != 1 or row["target_sparsity"] != 0.5)
    used, total = memory()
    # Enough for the driver, its workers and what else starts on this machine meanwhile.
    most = used + min(6 / total, 0.7 * (1 - used))
    monkeypatch.setenv("RAY_memory_usage_threshold", f"{most:.3f}")
    monkeypatch.setenv("RAY_memory_monitor_refresh_ms", "100")
    order("hog_memory", "sweep", again=again, most=most)
    process = driver(folder)
    _, stderr = process.communicate(timeout=600)
    if not again:
        assert process.returncode == 0, stderr
        assert_equal(folder, calm)
        return
    assert process.returncode == 1, stderr
    assert "2 of 9 stages failed" in stderr
    assert "OutOfMemoryError" in stderr
    assert set(load(folder, "failures")["error"]) == {"OutOfMemoryError"}
    Path(os.environ["FAULT_ORDER"]).unlink()
    assert start(folder, retry_failed=True).complete
    assert_equal(folder, calm)


@pytest.fixture
def small_disk(tmp_path: Path) -> Iterator[Path]:
    """A file system of 4 MiB."""
    if os.geteuid() != 0:
        pytest.skip("only root can mount a small file system")
    folder = tmp_path / "disk"
    folder.mkdir()
    mounted = subprocess.run(["mount", "-t", "tmpfs", "-o", "size=4m", "tmpfs", folder], capture_output=True, text=True)
    if mounted.returncode:
        pytest.skip(f"no small file system can be mounted here: {mounted.stderr.strip()}")
    yield folder
    subprocess.run(["umount", "--lazy", folder], check=True)


@pytest.mark.slow
@pytest.mark.parametrize(("place", "after", "what"), [("train", 12, "artifacts"), ("sweep", 1, "results")])
def test_a_full_disk(order: Callable, calm: Path, small_disk: Path, place: str, after: int, what: str) -> None:
    folder, filler = small_disk / "run", small_disk / "filler"
    order("fill_disk", place, after=after, file=str(filler))
    process = driver(folder)
    _, stderr = process.communicate(timeout=600)
    assert process.returncode == 1
    last = stderr.strip().splitlines()[-1]
    assert last.startswith(f"metaprune: '{folder}/{what}/")
    assert "No space left on device" in last
    assert last.endswith("; what is done is kept, the same command goes on from there")
    assert "Traceback" not in stderr
    filler.unlink()
    assert start(folder).complete
    assert_equal(folder, calm)


@pytest.mark.slow
def test_a_stage_that_kills_its_worker_takes_no_other_with_it(half: Path, calm: Path, order: Callable) -> None:
    """All sparsities of a group are one task."""
    methods = ["conventional", "tests.faulty:method"]
    grid = {**SETTINGS["pruning"], "groups": [0], "methods": methods}
    experiment = changed(pruning=grid, resources={**SETTINGS["resources"], "retries": 0})
    order("kill_worker", "method-4", again=True)
    result = start(half, experiment)
    assert (result.done, len(result.failed)) == (3, 1)
    assert "WorkerCrashedError" in next(iter(result.failed.values()))
    Path(os.environ["FAULT_ORDER"]).unlink()
    assert start(half, experiment, retry_failed=True).complete


@pytest.mark.slow
def test_a_driver_that_another_one_replaced_stops(half: Path, calm: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    store = Store(half)

    class Replaced(NoProgress):
        def running(self, kinds: Counter[str]) -> None:
            store.write(Lease(store).mine.model_dump_json().encode(), "driver.json")

    with monkeypatch.context() as patch:
        patch.setattr("orchestrator.running.lease.RENEW_SECONDS", 0.0)
        with pytest.raises(StoppedError, match="another driver is at work on"):
            start(half, progress=Replaced())
    store.delete("driver.json")
    assert start(half).complete
    assert_equal(half, calm)


@pytest.mark.parametrize("table", [pytest.param("evaluations", marks=pytest.mark.slow), "epochs"])
def test_results_that_are_gone_are_made_anew(table: str, calm: Path, tmp_path: Path) -> None:
    shutil.copytree(calm, tmp_path / "run")
    lost = set(load(tmp_path / "run", table)["cell"])
    for path in (tmp_path / "run" / "results" / table).iterdir():
        path.unlink()
    assert progress(tmp_path / "run").endswith(f", {len(lost)} are still missing.")
    result = start(tmp_path / "run")
    assert result.complete
    assert result.done == len(lost)
    assert_equal(tmp_path / "run", calm)


def test_a_run_whose_results_vanish_is_not_taken_for_whole(
    half: Path, calm: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    done = Store.done
    forgotten = sorted(done(Store(calm)))[0]
    with monkeypatch.context() as patch:
        patch.setattr(Store, "done", lambda self: done(self) - {forgotten})
        with pytest.raises(StorageError, match="the results of 1 stages that were done are not in"):
            start(half)
    assert start(half).complete
    assert_equal(half, calm)


def short_of_memory(batch: Sequence[Work], context: Context) -> list[Outcome]:
    """A task that finds too little memory on its GPU when a stage comes for the first time."""
    store = Store(context.store)
    if all(store.exists("marks", work.key) for work in batch):
        return execute(batch, context)
    for work in batch:
        store.write(b"", "marks", work.key)
    return [Outcome(work.key, 0.0, "OutOfMemoryError: CUDA out of memory", short_of_memory=True) for work in batch]


def test_stages_that_a_gpu_had_no_memory_for_run_once_more_alone(half: Path, calm: Path) -> None:
    facts = gather(EXPERIMENT)
    plan = make_plan(EXPERIMENT, facts)
    result = run_plan(EXPERIMENT, facts, plan, out=half, progress=NoProgress(), body=short_of_memory)
    assert result.complete, result.failed
    assert_equal(half, calm)
