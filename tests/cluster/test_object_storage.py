"""A run on S3, from a server on this machine, chosen by its URI alone."""

import subprocess
import sys
import time
import urllib.request
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import pandas as pd
import pytest
from pyarrow import fs

from orchestrator import Experiment, run
from orchestrator.cli import write_report_of
from orchestrator.running.progress import LogProgress
from orchestrator.storage import store as module
from orchestrator.storage.store import Store
from orchestrator.watching.state import Watched
from reports import load
from tests.conftest import TINY
from tests.orchestrator.test_watching import PRUNED, begin, end

SECRET = "not-to-be-shown"


@pytest.fixture(scope="module")
def endpoint(tmp_path_factory: pytest.TempPathFactory) -> Iterator[str]:
    """The address of an S3 server that ends with the module."""
    log = tmp_path_factory.mktemp("s3") / "log"
    with log.open("w") as file:
        server = subprocess.Popen([sys.executable, "-m", "moto.server", "-p", "0"], stdout=file, stderr=file)
    try:
        yield f"http://127.0.0.1:{listening_port(server, log)}"
    finally:
        server.terminate()
        server.wait()


def listening_port(server: subprocess.Popen, log: Path) -> int:
    """The port that the server chose, from its log, once it answers."""
    deadline = time.monotonic() + 60
    while "Running on http://127.0.0.1:" not in log.read_text():
        assert server.poll() is None, log.read_text()
        assert time.monotonic() < deadline, log.read_text()
        time.sleep(0.1)
    port = int(log.read_text().partition("http://127.0.0.1:")[2].split()[0])
    urllib.request.urlopen(f"http://127.0.0.1:{port}/moto-api/").close()
    return port


@pytest.fixture
def bucket(endpoint: str, monkeypatch: pytest.MonkeyPatch) -> str:
    """The name of a bucket on the server; its keys are in the environment, as on a cluster's node."""
    monkeypatch.setenv("AWS_ACCESS_KEY_ID", "somebody")
    monkeypatch.setenv("AWS_SECRET_ACCESS_KEY", SECRET)
    monkeypatch.setenv("AWS_EC2_METADATA_DISABLED", "true")
    monkeypatch.setenv("AWS_REGION", "us-east-1")
    fs.S3FileSystem(endpoint_override=endpoint, allow_bucket_creation=True).create_dir("bucket")
    return "bucket"


@pytest.mark.parametrize("named_by", ["uri", "environment"])
def test_files_come_and_go(named_by: str, bucket: str, endpoint: str, monkeypatch: pytest.MonkeyPatch) -> None:
    if named_by == "environment":
        monkeypatch.setenv("AWS_ENDPOINT_URL", endpoint)
    store = Store(f"s3://{bucket}/{named_by}" + f"?endpoint_override={endpoint}" * (named_by == "uri"))
    assert not store.exists("results")
    assert store.names("artifacts") == set()
    assert store.done() == set()
    store.delete("artifacts", "nothing")
    store.write_network("a", b"weights")
    for _ in range(2):
        store.write_rows("timings", "shard", [{"cell": "a"}, {"cell": "b"}])
    assert store.exists("results")
    assert store.network_keys() == {"a"}
    assert store.read_network("a")[0] == b"weights"
    assert store.read_table("timings")["cell"].to_pylist() == ["a", "b"]
    store.delete("artifacts", "a.safetensors")
    assert store.network_keys() == set()
    with pytest.raises(FileNotFoundError):
        store.read_network("a")


def test_of_writers_at_a_time_all_find_what_one_of_them_wrote(bucket: str, endpoint: str) -> None:
    def tried(number: int) -> bytes:
        store = Store(f"s3://{bucket}/once?endpoint_override={endpoint}")
        store.write_once(str(number).encode(), "latencies", "shape.json")
        return store.read("latencies", "shape.json")

    with ThreadPoolExecutor(4) as pool:
        found = set(pool.map(tried, range(8)))
    assert len(found) == 1
    folder = Store(f"s3://{bucket}/once?endpoint_override={endpoint}").path("latencies")
    endpoint_files = fs.S3FileSystem(endpoint_override=endpoint)
    assert [i.base_name for i in endpoint_files.get_file_info(fs.FileSelector(folder))] == ["shape.json"]


def test_a_writer_that_died_keeps_nobody_from_writing(
    bucket: str, endpoint: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(module, "ELECTION_SECONDS", 0.05)
    store = Store(f"s3://{bucket}/dead?endpoint_override={endpoint}")
    store.write(b"", "latencies", ".shape.json.0.writer")
    store.write_once(b"1", "latencies", "shape.json")
    assert store.read("latencies", "shape.json") == b"1"


def test_a_run_in_a_bucket_is_watched_as_one_in_a_folder(bucket: str, endpoint: str, tmp_path: Path) -> None:
    parts = ("said", "kinds", "trainings", "curves", "figures", "failures")
    looks = []
    for place in (f"s3://{bucket}/watched?endpoint_override={endpoint}", tmp_path / "watched"):
        store = Store(place)
        begin(store)
        watched = Watched(store.uri)
        before = watched.state()
        end(store, "b", *PRUNED[5:7])
        looks.append([{part: state[part] for part in parts} for state in (before, watched.state())])
    assert looks[0] == looks[1]
    assert [look["kinds"][1]["done"] for look in looks[0]] == [4, 6]


@pytest.mark.slow
def test_a_run_on_s3_equals_one_in_a_folder(
    bucket: str, endpoint: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capfd: pytest.CaptureFixture
) -> None:
    monkeypatch.chdir(tmp_path)
    uri = f"s3://{bucket}/runs/tiny?endpoint_override={endpoint}"
    grid = {"groups": [0], "sparsities": [0.5], "methods": ["conventional"]}
    experiment = Experiment.model_validate({**TINY, "pruning": grid})
    for out in (uri, "here"):
        result = run(experiment, out=out, address="local", progress=LogProgress())
        assert result.complete, result.failed
    assert run(experiment, out=uri).before == 2
    columns = ["cell", "accuracy", "loss", "parameters", "macs"]
    remote, local = (load(place)[columns].sort_values("cell", ignore_index=True) for place in (uri, "here"))
    pd.testing.assert_frame_equal(remote, local)
    write_report_of([uri])
    assert (tmp_path / "runs/tiny/report/README.md").read_text().startswith("# tiny\n")
    printed = capfd.readouterr()
    assert SECRET not in printed.out + printed.err
    assert not any(SECRET.encode() in content for content in every_file(Store(uri)))


def every_file(store: Store) -> list[bytes]:
    """The content of all files of a run."""
    found = store.files.get_file_info(fs.FileSelector(store.root, recursive=True))
    assert len(found) > 5
    return [store.files.open_input_stream(entry.path).read() for entry in found if entry.is_file]


def test_a_bucket_that_is_not_there_is_named(bucket: str, endpoint: str) -> None:
    with pytest.raises(ValueError, match=r"storage 's3://none/run.*' cannot be used: there is no bucket 'none'"):
        Store(f"s3://none/run?endpoint_override={endpoint}")
