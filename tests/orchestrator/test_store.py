import multiprocessing
import os
import pickle
import signal
import time
from pathlib import Path

import pandas as pd
import pyarrow as pa
import pyarrow.parquet as pq
import pytest
import yaml
from pyarrow import fs

from orchestrator import Experiment
from orchestrator.storage import parquet
from orchestrator.storage.compaction import merge
from orchestrator.storage.schema import SCHEMA_VERSION, SCHEMAS
from orchestrator.storage.sealing import MAGIC, SEAL, footer_start
from orchestrator.storage.store import GoneError, Store, folder_name, with_time_limit
from tests.conftest import TINY


def row(cell: str, accuracy: float = 50.0) -> dict:
    return {"cell": cell, "experiment": "e", "accuracy": accuracy, "epoch": 0}


def test_rows_come_back_with_their_schema(tmp_path: Path) -> None:
    store = Store(tmp_path)
    store.write_rows("evaluations", "one", [row("a"), row("b", 60.0)])
    table = store.read_table("evaluations")
    assert table.schema.equals(SCHEMAS["evaluations"])
    assert table["accuracy"].to_pylist() == [50.0, 60.0]
    assert set(table["schema_version"].to_pylist()) == {1}
    written = pq.read_schema(tmp_path / "results" / "evaluations" / "one.parquet")
    assert written.field("accuracy").metadata[b"unit"] == b"percent"


def test_shards_without_later_columns_still_load(tmp_path: Path) -> None:
    store = Store(tmp_path)
    store.write_rows("evaluations", "new", [{**row("b"), "latency_1": 0.5, "latency_64": 8.0, "device": "a GPU"}])
    store.write_rows("evaluations", "old", [row("a")])
    path = tmp_path / "results" / "evaluations" / "old.parquet"
    pq.write_table(pq.read_table(path).drop_columns(["latency_1", "latency_64", "device"]), path)
    for folder in (store, Store(tmp_path)):
        found = {
            r["cell"]: (r["latency_1"], r["latency_64"], r["device"])
            for r in folder.read_table("evaluations").to_pylist()
        }
        assert found == {"a": (None, None, None), "b": (0.5, 8.0, "a GPU")}
    assert store.read_table("evaluations").schema.field("latency_64").metadata[b"unit"] == b"ms"


def test_the_same_shard_twice_is_one(tmp_path: Path) -> None:
    store = Store(tmp_path)
    for _ in range(2):
        store.write_rows("timings", "shard", [{"cell": "a"}, {"cell": "b"}])
    assert store.read_table("timings").num_rows == 2
    assert store.done() == {"a", "b"}


def test_a_stage_is_done_when_every_table_that_its_timing_names_has_it(tmp_path: Path) -> None:
    store = Store(tmp_path)
    store.write_rows("timings", "both", [{"cell": "a", "tables": ["evaluations", "splits"]}, {"cell": "b"}])
    store.write_rows("evaluations", "a", [{"cell": "a"}])
    assert store.done() == {"b"}
    store.write_rows("splits", "a", [{"cell": "a"}])
    assert store.done() == {"a", "b"}


def test_a_changed_value_is_refused_in_every_column(tmp_path: Path) -> None:
    store = Store(tmp_path)
    values = {"cell": "a", "seed": 3, "accuracy": 87.5, "final": True, "schema_version": 1}
    store.write_rows("evaluations", "shard", [{k: v for k, v in values.items() if k != "schema_version"}])
    path = tmp_path / "results" / "evaluations" / "shard.parquet"
    whole, chunks = path.read_bytes(), pq.read_metadata(path).row_group(0)
    columns = [chunks.column(number) for number in range(chunks.num_columns)]
    for column in columns:
        if column.path_in_schema in values:
            start = column.dictionary_page_offset or column.data_page_offset
            last = start + column.total_compressed_size - 1
            path.write_bytes(whole[:last] + bytes([whole[last] ^ 1]) + whole[last + 1 :])
            with pytest.raises(ValueError, match="cannot be read"):
                store.read_table("evaluations")
    path.write_bytes(whole)
    assert store.read_table("evaluations")["accuracy"].to_pylist() == [87.5]


def test_a_file_in_which_any_bit_has_flipped_is_refused(tmp_path: Path) -> None:
    """The footer has no checksum in Parquet: a flipped bit there could make a column null."""
    store = Store(tmp_path)
    store.write_rows("timings", "shard", [{"cell": "a", "seconds": 1.5}])
    path = tmp_path / "results" / "timings" / "shard.parquet"
    whole = path.read_bytes()
    footer = footer_start(whole)
    seal = range(footer - SEAL.size, footer)
    assert whole[seal.start :].startswith(MAGIC)
    expected = store.read_table("timings").to_pylist()
    for place in range(0, len(whole), 7):
        path.write_bytes(whole[:place] + bytes([whole[place] ^ 16]) + whole[place + 1 :])
        if place in seal[: len(MAGIC)]:
            assert store.read_table("timings").to_pylist() == expected
            continue
        with pytest.raises(ValueError, match=r"cannot be read: '.*shard\.parquet'.*delete the file and run again"):
            store.read_table("timings")


def test_other_readers_find_nothing_unusual_in_a_file_and_what_they_write_is_read(tmp_path: Path) -> None:
    store = Store(tmp_path)
    store.write_rows("timings", "shard", [{"cell": "a", "seconds": 1.5}])
    path = tmp_path / "results" / "timings" / "shard.parquet"
    assert pd.read_parquet(path)["seconds"].tolist() == [1.5]
    rows = pq.read_table(path)
    pq.write_table(rows.set_column(rows.schema.get_field_index("seconds"), "seconds", pa.array([2.5])), path)
    assert store.read_table("timings")["seconds"].to_pylist() == [2.5]


def test_an_empty_run_has_empty_tables(tmp_path: Path) -> None:
    assert Store(tmp_path / "nothing").read_table("evaluations").num_rows == 0
    assert Store(tmp_path / "nothing").done() == set()


def test_unknown_columns_are_refused(tmp_path: Path) -> None:
    with pytest.raises(ValueError, match=r"'evaluations' has no column \['acuracy'\]"):
        Store(tmp_path).write_rows("evaluations", "x", [{"acuracy": 1.0}])


def _die_before_the_rename(folder: str) -> None:
    store = Store(folder)
    store.files = _Killing()
    store.write_rows("timings", "shard", [{"cell": "a"}])


class _Killing(fs.LocalFileSystem):
    """A file system that kills its process when it is asked to rename."""

    def move(self, source: str, target: str) -> None:
        assert os.path.getsize(source) > 0
        os.kill(os.getpid(), signal.SIGKILL)


def test_a_kill_between_write_and_rename_leaves_no_shard(tmp_path: Path) -> None:
    process = multiprocessing.get_context("spawn").Process(target=_die_before_the_rename, args=(str(tmp_path),))
    process.start()
    process.join(600)
    assert process.exitcode == -signal.SIGKILL
    store = Store(tmp_path)
    assert len(list((tmp_path / "results" / "timings").iterdir())) == 1, "the temporary file is there"
    assert store.done() == set()
    assert store.read_table("timings").num_rows == 0
    store.write_rows("timings", "shard", [{"cell": "a"}])
    assert store.done() == {"a"}


def test_a_failed_write_leaves_nothing(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    class Full(fs.LocalFileSystem):
        def move(self, source: str, target: str) -> None:
            raise OSError(28, "No space left on device")

    store = Store(tmp_path)
    store.files = Full()
    with pytest.raises(OSError, match="No space left"):
        store.write(b"content", "artifacts", "a.safetensors")
    assert list((tmp_path / "artifacts").iterdir()) == []


@pytest.mark.parametrize("content", [b"", b"not parquet at all", b"PAR1 and then noise PAR1"])
def test_a_damaged_shard_is_named(tmp_path: Path, content: bytes) -> None:
    store = Store(tmp_path)
    store.write(content, "results", "evaluations", "bad.parquet")
    with pytest.raises(ValueError, match=r"table 'evaluations' of run '.*' cannot be read: .*bad\.parquet"):
        store.read_table("evaluations")


@pytest.mark.parametrize(
    ("columns", "message"),
    [
        ({"accuracy": ["high"], "schema_version": [1]}, "cannot be read: .*high.* if a file of it is damaged, delete"),
        ({"accuracy": [90.0], "b": ["x"]}, "rows that metaprune did not write: leave only its own files"),
        ({"cell": ["a"], "schema_version": [SCHEMA_VERSION + 1]}, "written by a newer metaprune"),
    ],
)
def test_files_of_others_are_refused(tmp_path: Path, columns: dict, message: str) -> None:
    store = Store(tmp_path)
    store.write_rows("evaluations", "ours", [{"cell": "b", "accuracy": 80.0}])
    pq.write_table(pa.table(columns), tmp_path / "results" / "evaluations" / "other.parquet")
    with pytest.raises(ValueError, match=message):
        store.read_table("evaluations")


def test_columns_that_an_older_version_did_not_write_are_null(tmp_path: Path) -> None:
    folder = tmp_path / "results" / "evaluations"
    folder.mkdir(parents=True)
    pq.write_table(pa.table({"cell": ["a"], "accuracy": [90.0], "schema_version": [1]}), folder / "older.parquet")
    table = Store(tmp_path).read_table("evaluations")
    assert table["accuracy"].to_pylist() == [90.0]
    assert table["latency_1"].to_pylist() == [None]


def test_a_file_is_no_store(tmp_path: Path) -> None:
    (tmp_path / "file").touch()
    with pytest.raises(ValueError, match="is a file: give a folder"):
        Store(tmp_path / "file")


def test_an_unknown_scheme_is_refused() -> None:
    with pytest.raises(ValueError, match="storage 'floppy://a' cannot be used"):
        Store("floppy://a")


@pytest.mark.parametrize("uri", ["s3://me:secret@bucket/run", "s3://me:sec/secret@bucket/run?scheme=http"])
def test_keys_in_a_uri_are_refused_and_not_shown(uri: str) -> None:
    experiment = yaml.safe_dump({**TINY, "storage": uri})
    for refused in (lambda: Store(uri), lambda: Experiment.from_yaml(experiment, "tiny.yaml")):
        with pytest.raises(ValueError, match="the storage URI holds credentials") as raised:
            refused()
        assert "secret" not in str(raised.value)


@pytest.mark.parametrize(
    ("place", "name"),
    [("runs/a", "a"), ("/runs/a/", "a"), ("runs/what?", "what?"), ("s3://b/runs/a?endpoint_override=http://h:1", "a")],
)
def test_a_folder_or_uri_has_a_name(place: str, name: str) -> None:
    assert folder_name(place) == name


@pytest.mark.parametrize("place", ["s3:/bucket/run", "gs:/bucket", "~nobody-of-this-name/run"])
def test_places_that_would_silently_become_local_folders_are_refused(place: str) -> None:
    with pytest.raises(ValueError, match=r"write (s3|gs)://|has no such user"):
        Store(place)


def test_the_age_of_a_file_is_by_the_clock_of_the_storage(tmp_path: Path) -> None:
    store = Store(tmp_path)
    store.write(b"", "beat")
    os.utime(tmp_path / "beat", (time.time() - 100, time.time() - 100))
    assert 99 < store.seconds_since_written("beat") < 130
    assert store.seconds_since_written("gone") == float("inf")
    assert os.listdir(tmp_path) == ["beat"]


def test_only_a_folder_with_other_peoples_files_is_refused(tmp_path: Path) -> None:
    assert Store(tmp_path / "new").holds_others_files() is None
    assert Store(tmp_path).holds_others_files() is None
    (tmp_path / ".hidden").touch()
    assert Store(tmp_path).holds_others_files() is None
    (tmp_path / "notes.txt").touch()
    assert Store(tmp_path).holds_others_files() == "notes.txt"
    Store(tmp_path).write(b"", "results", "plan", "plan.parquet")
    assert Store(tmp_path).holds_others_files() is None


def test_a_run_that_is_gone_is_not_begun_anew_in_its_old_place(tmp_path: Path) -> None:
    store = Store(tmp_path / "run")
    store.write(b"", "experiment.yaml")
    store.check_there()
    (tmp_path / "run").rename(tmp_path / "moved")
    for use in (store.check_there, lambda: store.write(b"", "results", "a"), lambda: store.write_once(b"", "b")):
        with pytest.raises(GoneError, match=r"run '.*/run' was there and is gone: it was moved or deleted"):
            use()
    assert not (tmp_path / "run").exists()
    error = pickle.loads(pickle.dumps(GoneError.of("x")))
    assert isinstance(error, GoneError)
    assert str(error) == str(GoneError.of("x"))


def test_google_storage_that_does_not_answer_is_not_asked_for_long() -> None:
    assert with_time_limit("gs://bucket/run") == "gs://bucket/run?retry_limit_seconds=60"
    assert with_time_limit("gs://bucket/run?scheme=http") == "gs://bucket/run?scheme=http&retry_limit_seconds=60"
    assert with_time_limit("gs://b/r?retry_limit_seconds=9") == "gs://b/r?retry_limit_seconds=9"
    assert with_time_limit("s3://bucket/run") == "s3://bucket/run"
    with pytest.raises(ValueError, match=r"storage 'gs://.*' cannot be used \(.+\): check its name, the network, and"):
        Store("gs://anonymous@bucket/run?endpoint_override=127.0.0.1:1&scheme=http&retry_limit_seconds=1")


def test_a_text_that_many_rows_share_comes_as_codes_where_that_is_asked(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(parquet, "GROUP_ROWS", 2)
    store = Store(tmp_path)
    texts = {"a": "long", "b": "long", "c": None, "d": "other", "e": "long"}
    store.write_rows("timings", "one", [{"cell": cell, "settings": text} for cell, text in texts.items()])
    store.write_rows("timings", "two", [{"cell": "f", "settings": "third"}])
    assert pq.ParquetFile(tmp_path / "results" / "timings" / "one.parquet").num_row_groups == 3
    coded = store.read_table("timings", coded=["settings"])
    assert coded.schema.field("settings").type == parquet.CODES
    assert coded["settings"].to_pylist() == [*texts.values(), "third"]
    assert store.read_table("timings").equals(coded.cast(SCHEMAS["timings"]))
    merge(store, "timings", ["one.parquet", "two.parquet"])
    assert store.read_table("timings").equals(coded.cast(SCHEMAS["timings"]))


def test_a_stage_whose_timing_names_a_table_of_a_newer_version_is_not_done(tmp_path: Path) -> None:
    store = Store(tmp_path)
    store.write_rows("evaluations", "one", [row("a"), row("c")])
    tables = {"a": ["evaluations"], "b": ["evaluations"], "c": ["evaluations", "newer"], "d": [], "e": None}
    for cell, named in tables.items():
        store.write_rows("timings", cell, [{"cell": cell, "tables": named}])
    assert store.done() == {"a", "d", "e"}
