"""Runs in places that cannot be written to any more, and runs that are moved while they go on."""

import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path

import pytest

from orchestrator import Experiment, cli, run
from orchestrator.running.progress import NoProgress
from orchestrator.storage.store import GoneError
from tests.conftest import TINY

EXPERIMENT = Experiment.model_validate({**TINY, "pruning": {"groups": [0], "sparsities": [0.5]}})


@pytest.fixture
def closed(tmp_path: Path, local_ray: None) -> Iterator[Path]:
    """A finished run on a file system that is then made read-only."""
    folder = tmp_path / "medium"
    folder.mkdir()
    mounted = subprocess.run(["mount", "-t", "tmpfs", "tmpfs", folder], capture_output=True, text=True)
    if mounted.returncode:
        pytest.skip(f"nothing can be mounted here: {mounted.stderr.strip()}")
    try:
        assert run(EXPERIMENT, out=folder / "run", progress=NoProgress()).complete
        subprocess.run(["mount", "-o", "remount,ro", folder], check=True)
        yield folder / "run"
    finally:
        subprocess.run(["umount", "--lazy", folder], check=True)


@pytest.mark.slow
def test_a_finished_run_that_cannot_be_written_to_is_reported_elsewhere(
    closed: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capfd: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.chdir(tmp_path)
    (tmp_path / "tiny.yaml").write_text(EXPERIMENT.to_yaml())

    def command(*arguments: str) -> tuple[int, str, str]:
        monkeypatch.setattr(sys, "argv", ["metaprune", *arguments])
        with pytest.raises(SystemExit) as exit_:
            cli.main()
        return int(exit_.value.code or 0), *capfd.readouterr()

    status, said, _ = command("run", "tiny.yaml", "--out", str(closed))
    assert status == 0
    assert "nothing is missing, and the run stays as it is: '" in said
    assert "All 3 stages are already in" in said
    assert (tmp_path / "run-report" / "index.html").is_file()
    status, _, said = command("report", str(closed))
    assert status == 2
    assert "Read-only file system" in said
    assert said.rstrip().endswith("give --out as another folder")
    assert command("report", str(closed), "--out", "here")[0] == 0
    status, _, said = command("run", "tiny.yaml", "--out", str(closed), "--set", "pruning.sparsities=[0.5, 0.6]")
    assert status == 1
    assert "copy the run and give the copy as --out" in said


def test_a_run_that_is_moved_while_it_goes_on_is_said_to_be_gone(local_ray: None, tmp_path: Path) -> None:
    class Moving(NoProgress):
        def finished(self, kind: str, key: str, cost: float, error: str | None) -> None:
            super().finished(kind, key, cost, error)
            if kind == "train":
                (tmp_path / "run").rename(tmp_path / "moved")

    with pytest.raises(GoneError, match=r"run '.*/run' was there and is gone: it was moved or deleted"):
        run(EXPERIMENT, out=tmp_path / "run", progress=Moving())
    assert not (tmp_path / "run").exists()
    (tmp_path / "moved").rename(tmp_path / "run")
    assert run(EXPERIMENT, out=tmp_path / "run", progress=NoProgress()).complete
