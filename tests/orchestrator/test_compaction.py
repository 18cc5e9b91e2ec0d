import multiprocessing
import os
import signal
import threading
from pathlib import Path

import pandas as pd
import pyarrow.parquet as pq
import pytest
from pyarrow import fs

from orchestrator import Experiment, run
from orchestrator.running import driver
from orchestrator.running.progress import NoProgress
from orchestrator.storage import compaction
from orchestrator.storage.compaction import MANY_FILES, compact, merge
from orchestrator.storage.schema import SCHEMAS
from orchestrator.storage.store import Store
from reports import load

ROWS = 200


@pytest.fixture
def store(tmp_path: Path) -> Store:
    """A hundred shards of two rows each."""
    store = Store(tmp_path)
    for number in range(0, ROWS, 2):
        store.write_rows("timings", f"{number:03}", [{"cell": str(n), "seconds": n / 2} for n in (number, number + 1)])
    return store


def files(store: Store) -> list[str]:
    return sorted(store.names("results", "timings"))


def cells(store: Store) -> list[int]:
    return sorted(int(cell) for cell in store.read_table("timings", ["cell"])["cell"].to_pylist())


def test_many_files_become_one_that_every_reader_reads(store: Store, tmp_path: Path) -> None:
    before = store.read_table("timings").to_pandas()
    compact(store, "timings")
    (name,) = files(store)
    after = store.read_table("timings")
    assert after.schema.equals(SCHEMAS["timings"])
    raw = pd.read_parquet(tmp_path / "results" / "timings")
    for frame in (after.to_pandas(), raw):
        pd.testing.assert_frame_equal(frame, before)
    field = pq.read_schema(tmp_path / "results" / "timings" / name).field("seconds")
    assert field.metadata[b"unit"] == b"s"
    store.write_rows("timings", "later", [{"cell": "200"}])
    assert len(pd.read_parquet(tmp_path / "results" / "timings")) == ROWS + 1
    compact(store, "timings")
    assert len(files(store)) == 2, "two files are not many"


def test_few_files_stay_unless_a_row_is_in_two(tmp_path: Path) -> None:
    store = Store(tmp_path)
    store.write_rows("timings", "a", [{"cell": "1"}, {"cell": "2"}])
    store.write_rows("timings", "b", [{"cell": "3"}])
    compact(store, "timings")
    assert files(store) == ["a.parquet", "b.parquet"]
    store.write_rows("timings", "c", [{"cell": "2"}, {"cell": "4"}])
    compact(store, "timings")
    assert len(files(store)) == 1
    assert cells(store) == [1, 2, 3, 4]


def test_merged_files_are_of_useful_size(store: Store, monkeypatch: pytest.MonkeyPatch) -> None:
    size = os.path.getsize(store.path("results", "timings", "000.parquet"))
    monkeypatch.setattr(compaction, "FILE_BYTES", 20 * size)
    compact(store, "timings")
    assert len(files(store)) in (5, 6)
    assert cells(store) == list(range(ROWS))


class Dying(fs.LocalFileSystem):
    """Kills its process before the deletion of this number."""

    left = 0

    def delete_file(self, path: str) -> None:
        if self.left == 0:
            os.kill(os.getpid(), signal.SIGKILL)
        self.left -= 1
        super().delete_file(path)


def _compact_and_die(folder: str, deletions: int) -> None:
    store = Store(folder)
    store.files = Dying()
    store.files.left = deletions
    compact(store, "timings")


@pytest.mark.parametrize("deletions", [0, 1, 99])
def test_a_kill_among_the_deletions_loses_and_doubles_nothing(store: Store, deletions: int) -> None:
    process = multiprocessing.get_context("spawn").Process(target=_compact_and_die, args=(store.uri, deletions))
    process.start()
    process.join(600)
    assert process.exitcode == -signal.SIGKILL
    assert len(files(store)) == 101 - deletions
    assert cells(store) == list(range(ROWS))
    store.write_rows("timings", "new", [{"cell": "200"}])
    compact(store, "timings")
    assert len(files(store)) == 2
    assert cells(store) == list(range(ROWS + 1))


def test_a_shard_that_comes_late_again_does_not_count_twice(store: Store) -> None:
    """A task whose report was lost runs again, after its rows were merged, and merged once more."""
    compact(store, "timings")
    merge(store, "timings", files(store))
    store.write_rows("timings", "000", [{"cell": "0"}, {"cell": "1"}])
    assert cells(store) == list(range(ROWS))
    compact(store, "timings")
    assert len(files(store)) == 1


def test_a_reader_meanwhile_sees_every_row_once(store: Store) -> None:
    stop, seen = threading.Event(), []

    def read() -> None:
        while not stop.is_set():
            seen.append(cells(store))

    reader = threading.Thread(target=read)
    reader.start()
    for _ in range(5):
        names = files(store)
        for part in (names[: len(names) // 2], names[len(names) // 2 :]):
            if part:
                merge(store, "timings", part)
    stop.set()
    reader.join()
    assert seen
    assert all(cells == list(range(ROWS)) for cells in seen)
    assert len(files(store)) < MANY_FILES


@pytest.mark.slow
@pytest.mark.usefixtures("local_ray")
def test_a_merge_that_was_cut_short_is_finished_by_a_run_with_nothing_to_do(
    tmp_path: Path, tiny: Experiment, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(driver, "tidy", lambda store, lease: None)
    assert run(tiny, out=tmp_path, progress=NoProgress()).complete
    store = Store(tmp_path)
    before = load(tmp_path)
    with monkeypatch.context() as patch:
        patch.setattr(Store, "delete", lambda *_: None)  # as if it died before
        merge(store, "evaluations", store.shards("evaluations")[0])
    monkeypatch.undo()
    assert len(pd.read_parquet(tmp_path / "results" / "evaluations")) == 2 * len(before)
    assert run(tiny, out=tmp_path, progress=NoProgress()).done == 0
    assert len(pd.read_parquet(tmp_path / "results" / "evaluations")) == len(before)
    assert not (tmp_path / "driver.json").exists()
