"""Watching a run: what its page shows, that nothing is written for it, and that a browser shows it."""

import contextlib
import json
import os
import re
import shutil
import signal
import socket
import subprocess
import sys
import threading
import urllib.error
import urllib.request
from collections.abc import Iterator
from datetime import UTC, datetime, timedelta
from pathlib import Path
from typing import Any

import pytest

from orchestrator.running.lease import Lease
from orchestrator.storage.compaction import merge
from orchestrator.storage.schema import SCHEMAS
from orchestrator.storage.store import EXPERIMENT, Store
from orchestrator.watching import server as serving
from orchestrator.watching.server import Cached, PageServer, opened
from orchestrator.watching.state import Watched
from orchestrator.worker.training_progress import FOLDER as PROGRESS

BROWSER = shutil.which("chromium") or shutil.which("chromium-browser") or shutil.which("google-chrome")
HOSTILE = "<img src=x onerror=console.error(1)>"
NETWORK = {"experiment": "e", "model": "net", "dataset": "digits", "pipeline": "whole-data", "seed": 0}
TRAINED = {**NETWORK, "cell": "trained", "training_data": "whole", "stage": "baseline", "final": False}


def pruned(number: int, method: str = "conventional", group: int = 0) -> dict[str, Any]:
    names = {"criterion": HOSTILE, "method": method, "group": group, "target_sparsity": number / 10}
    cell = f"{method}{number}{group}"
    return {**NETWORK, **names, "cell": cell, "stage": "pruned", "final": True, "accuracy": 90.0 - number - group}


PRUNED = [pruned(n, method, group) for n in (1, 2) for method in ("conventional", "intra-fusion") for group in (0, 1)]


def end(store: Store, shard: str, *rows: dict[str, Any]) -> None:
    """Let stages be done."""
    store.write_rows("evaluations", shard, rows)
    timings = [
        {**row, "kind": "compress", "seconds": 2.0, "finished": datetime.now(UTC), "tables": ["evaluations"]}
        for row in rows
    ]
    names = SCHEMAS["timings"].names
    store.write_rows("timings", shard, [{k: v for k, v in row.items() if k in names} for row in timings])


@pytest.fixture
def store(tmp_path: Path) -> Store:
    """A run at work, see `begin`."""
    store = Store(tmp_path / "run")
    begin(store)
    return store


def begin(store: Store) -> None:
    """Let a run be at work: it trains another network, has pruned half of the cells, and one has failed."""
    more = {**TRAINED, "cell": "learning", "seed": 1}
    planned = [*({**row, "kind": "train"} for row in (TRAINED, more)), *({**row, "kind": "compress"} for row in PRUNED)]
    names = SCHEMAS["plan"].names
    store.write_rows("plan", "plan", [{k: v for k, v in row.items() if k in names} for row in planned])
    store.write(b"name: e", EXPERIMENT)
    end(store, "a", *PRUNED[:4])
    store.write_rows("epochs", "a", [{**TRAINED, "epoch": 1, "train_loss": float("nan"), "test_accuracy": 50.0}])
    store.write_rows("evaluations", "trained", [{**TRAINED, "accuracy": 95.0}])
    failed = {**PRUNED[4], "kind": "compress", "error": "ValueError", "message": f"{HOSTILE}\nsecond line"}
    store.write_rows("failures", failed["cell"], [{k: v for k, v in failed.items() if k != "accuracy"}])
    store.write(json.dumps([2, 5, [[0.1, 1.5, 10.0, None, 20.0, 1.0]] * 2]).encode(), PROGRESS, "learning.json")


def test_the_page_shows_counts_curves_means_and_failures(store: Store) -> None:
    state = Watched(store.uri).state()
    assert state["said"] == ["4 of 10 stages done.", "No driver is at work on it; the command that began it goes on."]
    assert state["kinds"] == [
        {"kind": "train", "done": 0, "running": 0, "failed": 0, "missing": 2, "all": 2},
        {"kind": "compress", "done": 4, "running": 0, "failed": 1, "missing": 3, "all": 8},
    ]
    assert state["trainings"] == [{"cell": "learning", "epoch": 2, "epochs": 5}]
    assert [curve["points"] for curve in state["curves"]] == [[[1, 20.0, 1.5], [2, 20.0, 1.5]], [[1, 50.0, None]]]
    (figure,) = state["figures"]
    assert (figure["title"], figure["unpruned"]) == (f"net, one group, {HOSTILE}", 95.0)
    assert figure["lines"] == [
        {"title": "conventional", "points": [[10.0, 88.5, 2]]},
        {"title": "intra-fusion", "points": [[10.0, 88.5, 2]]},
    ]
    assert state["failures"] == [
        {"kind": "compress", "why": f"ValueError: {HOSTILE}", "count": 1, "cell": PRUNED[4]["cell"]}
    ]


def test_what_is_new_is_added_and_merged_files_count_once(store: Store) -> None:
    watched = Watched(store.uri)
    watched.state()
    end(store, "b", *PRUNED[4:6])
    for table in ("evaluations", "timings"):
        merge(store, table, store.shards(table)[0])
    state = watched.state()
    assert state["said"][0] == "6 of 10 stages done."
    points = {line["title"]: line["points"] for line in state["figures"][0]["lines"]}
    assert points == {
        "conventional": [[10.0, 88.5, 2], [20.0, 87.5, 2]],
        "intra-fusion": [[10.0, 88.5, 2]],
    }
    assert state["failures"] == [], "it was tried again"
    store.write_rows("plan", "plan", [{**NETWORK, "cell": PRUNED[0]["cell"], "kind": "compress", "final": True}])
    assert watched.state()["said"][0] == "1 of 1 stage done.", "the plan of another session counts"


def test_it_says_who_drives_and_how_long_the_rest_takes(store: Store, monkeypatch: pytest.MonkeyPatch) -> None:
    lease = Lease(store)
    lease.mine = lease.mine.model_copy(update={"started": datetime.now(UTC) - timedelta(seconds=8)})
    lease.renew({"compress": 2}, now=True)
    said = Watched(store.uri).state()["said"][2]
    assert re.fullmatch(r"\S+/min, \S+ s elapsed, more than \S+ s left\.", said), said
    assert Watched(store.uri).state()["kinds"][1]["running"] == 2
    lease.mine = lease.mine.model_copy(update={"processes": "of another machine"})
    lease.renew({}, now=True)
    watched = Watched(store.uri)
    assert watched.state()["said"][1].startswith("Driven by process")
    monkeypatch.setattr("orchestrator.watching.state.STALE_SECONDS", 0.0)
    assert watched.state()["said"][1].startswith("No driver")


def test_watching_writes_nothing(store: Store, tmp_path: Path) -> None:
    before = {path: path.stat().st_mtime_ns for path in tmp_path.rglob("*")}
    Watched(store.uri).state()
    assert {path: path.stat().st_mtime_ns for path in tmp_path.rglob("*")} == before


def test_a_damaged_file_is_a_sentence_and_a_look_is_not_repeated_at_once(store: Store) -> None:
    cached = Cached(Watched(store.uri))
    store.write(b"PAR1 damaged PAR1", "results", "timings", "b.parquet")
    text = cached.state()
    assert "timings/b.parquet" in json.loads(text)["error"]
    store.delete("results", "timings", "b.parquet")
    assert cached.state() is text
    cached.until = 0.0
    assert json.loads(cached.state())["name"] == "run"


@contextlib.contextmanager
def served(run: str) -> Iterator[PageServer]:
    """The page of a run, on any port."""
    server = opened(run, 0)
    thread = threading.Thread(target=server.serve_forever, args=(0.05,), daemon=True)
    thread.start()
    try:
        yield server
    finally:
        server.shutdown()
        server.server_close()
        thread.join()


def answer(address: str, **headers: str) -> tuple[int, bytes]:
    try:
        with urllib.request.urlopen(urllib.request.Request(address, headers=headers), timeout=10) as response:
            return response.status, response.read()
    except urllib.error.HTTPError as error:
        with error:
            return error.code, error.read()


def test_this_machine_gets_the_page_the_state_and_the_report_and_nothing_else(store: Store) -> None:
    with served(store.uri) as server:
        assert server.server_address[0] == "127.0.0.1"
        assert json.loads(answer(f"{server.address}state")[1])["name"] == "run"
        assert b"metaprune watch" in answer(server.address)[1]
        assert answer(f"{server.address}report") == (404, b"There is no report yet.")
        store.write(b"<p>report", "report", "index.html")
        assert answer(f"{server.address}report") == (200, b"<p>report")
        assert answer(f"{server.address}experiment.yaml")[0] == 404
        assert answer(f"{server.address}../run/experiment.yaml")[0] == 404
        assert answer(f"{server.address}state", Host="evil.example")[0] == 403


def test_a_port_that_is_taken_is_named_and_the_usual_one_gives_way(
    store: Store, monkeypatch: pytest.MonkeyPatch
) -> None:
    with socket.create_server(("127.0.0.1", 0)) as taken:
        port = taken.getsockname()[1]
        with pytest.raises(OSError, match=f"port {port} cannot be used .*give another as --port"):
            opened(store.uri, port)
        monkeypatch.setattr(serving, "PORT", port)
        with contextlib.closing(opened(store.uri, None).socket) as other:
            assert other.getsockname()[1] != port
    with pytest.raises(FileNotFoundError, match="is not a run"):
        opened(f"{store.uri}/results", None)


@pytest.mark.slow
@pytest.mark.skipif(not BROWSER, reason="no Chromium or Chrome found")
def test_a_browser_shows_it_and_text_that_is_markup_stays_text(store: Store, tmp_path: Path) -> None:
    options = ["--headless", "--disable-gpu", "--enable-logging=stderr", f"--user-data-dir={tmp_path / 'profile'}"]
    options += ["--no-sandbox"] * (os.geteuid() == 0)
    with served(store.uri) as server:
        command = [BROWSER, *options, "--virtual-time-budget=5000", "--dump-dom", server.address]
        shown = subprocess.run(command, capture_output=True, text=True, timeout=120, check=True)
    assert re.findall(r"CONSOLE.*", shown.stderr) == []
    document = shown.stdout
    assert "<title>run – metaprune watch</title>" in document
    assert "<p>4 of 10 stages done.</p>" in document
    assert "2 of 5</td>" in document
    assert "ValueError: &lt;img src=x" in document
    assert HOSTILE not in document
    assert document.count("<figure>") == 3, "two of curves, one of means"
    assert "intra-fusion: 10, 88.5 (mean of 2)" in document


@pytest.mark.slow
def test_the_command_prints_its_address_and_ends_with_ctrl_c(store: Store) -> None:
    command = [sys.executable, "-m", "metaprune", "watch", store.uri, "--port", "0"]
    with subprocess.Popen(command, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True) as process:
        assert process.stdout
        assert process.stderr
        line = process.stdout.readline()
        found = re.match(r"(http://127\.0\.0\.1:\d+/) shows .*; Ctrl-C ends it\.", line)
        assert found, line
        assert json.loads(answer(f"{found[1]}state")[1])["name"] == "run"
        process.send_signal(signal.SIGINT)
        assert process.wait(30) == 0
        assert process.stderr.read() == ""
