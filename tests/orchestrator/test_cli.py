"""The command line as a user meets it: output, exit status, and what stays unwritten."""

import importlib.metadata
import io
import os
import re
import shutil
import subprocess
import sys
from dataclasses import dataclass
from pathlib import Path

import pytest
import yaml
from rich.console import Console

from orchestrator import cli, printing
from tests.conftest import TINY


def metaprune(*arguments: str | Path, folder: Path) -> subprocess.CompletedProcess[str]:
    """The command in a process of its own."""
    command = [sys.executable, "-m", "orchestrator", *map(str, arguments)]
    return subprocess.run(command, capture_output=True, text=True, cwd=folder, timeout=300)


@dataclass
class Ended:
    returncode: int
    stdout: str
    stderr: str


@pytest.fixture
def quick(tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capfd: pytest.CaptureFixture):
    """The command in this process, in an empty folder; where it runs something, on the Ray that tests share."""
    monkeypatch.chdir(tmp_path)

    def call(*arguments: str) -> Ended:
        monkeypatch.setattr(sys, "argv", ["metaprune", *arguments])
        monkeypatch.setattr(printing, "console", Console(highlight=False, soft_wrap=True))
        with pytest.raises(SystemExit) as exit_:
            cli.main()
        printed = capfd.readouterr()
        return Ended(int(exit_.value.code or 0), printed.out, printed.err)

    return call


@pytest.fixture
def experiment(tmp_path: Path) -> Path:
    path = tmp_path / "tiny.yaml"
    path.write_text(yaml.safe_dump(TINY))
    return path


@pytest.mark.slow
def test_from_a_file_to_figures(experiment: Path, tmp_path: Path, quick) -> None:
    first = metaprune("run", "tiny.yaml", "--set", "pruning.groups=[0]", "training.epochs=2", folder=tmp_path)
    assert first.returncode == 0, first.stderr
    assert "5 stages (train 1, compress 4); 0 already done" in first.stdout
    assert "5/5 stages, 0 failed" in first.stdout
    assert "one group pruned without fine-tuning, mean over 2 cells" in first.stdout
    assert (tmp_path / "runs/tiny/report/data-free-vgg11_bn-w0.0625.png").is_file()
    resolved = yaml.safe_load((tmp_path / "runs/tiny/experiment.yaml").read_text())
    assert resolved["training"]["epochs"] == 2

    again = quick("run", "tiny.yaml", "--set", "pruning.groups=[0]", "--set", "training.epochs=2")
    assert again.returncode == 0
    assert "All 5 stages are already in" in again.stdout

    status = quick("status", "runs/tiny")
    assert status.returncode == 0
    assert status.stdout.splitlines()[2].split() == ["compress", "4", "0", "0", "0", "4"]

    only = quick("report", "runs/tiny", "--out", "r", "--format", "pdf", "svg", "--only", "data-free-figure")
    assert only.returncode == 0, only.stderr
    assert sorted(p.name for p in (tmp_path / "r").iterdir() if p.name[0] != ".") == [
        "README.md",
        "data-free-vgg11_bn-w0.0625.pdf",
        "data-free-vgg11_bn-w0.0625.svg",
        "index.html",
    ]
    page = (tmp_path / "r" / "index.html").read_text(encoding="utf-8")
    assert "<code>metaprune report runs/tiny --out r --format" in page

    shutil.copytree(tmp_path / "runs/tiny", tmp_path / "runs/copy")
    together = quick("report", "runs/tiny", "runs/copy", "--published")
    assert together.returncode == 0, together.stderr
    assert "Report of 2 runs" in (tmp_path / "report" / "index.html").read_text(encoding="utf-8")


@pytest.mark.slow
@pytest.mark.usefixtures("local_ray")
def test_a_report_that_cannot_be_written_is_one_sentence(experiment: Path, tmp_path: Path, quick) -> None:
    assert quick("run", "tiny.yaml", "--set", "pruning.groups=[0]", "pruning.sparsities=[0.3]").returncode == 0
    shutil.rmtree(tmp_path / "runs/tiny/report")
    (tmp_path / "runs/tiny/report").write_text("in the way")
    (tmp_path / "tiny-report").write_text("in the way of the place beside the user too")
    ended = quick("run", "tiny.yaml", "--set", "pruning.groups=[0]")
    assert ended.returncode == 1
    (line,) = ended.stderr.splitlines()
    assert line.startswith("metaprune: the report cannot be written: ")
    assert "2 stages done, 3 were there before" in ended.stdout


@pytest.mark.slow
def test_tasks_that_fit_no_machine_are_refused(experiment: Path, tmp_path: Path) -> None:
    """With a Ray of its own, on this machine alone: a cluster that runs already may grow."""
    result = metaprune("run", "tiny.yaml", "--set", "resources.train.cpus=100000", folder=tmp_path)
    assert result.returncode == 2
    assert "'resources.train.cpus' is 100000, but this machine has" in result.stderr
    assert not (tmp_path / "runs").exists()


@pytest.mark.slow
def test_an_address_where_no_cluster_answers_is_named(tmp_path: Path) -> None:
    result = metaprune("run", "quickstart", "--address", "127.0.0.1:1", folder=tmp_path)
    assert result.returncode == 2, result.stderr
    (line,) = result.stderr.splitlines()
    assert line.startswith("metaprune: no Ray cluster answers at 127.0.0.1:1, which --address names")
    assert list(tmp_path.iterdir()) == [], "nothing is written"


@pytest.mark.slow
@pytest.mark.usefixtures("local_ray")
def test_failures_are_listed_with_the_way_to_retry(experiment: Path, tmp_path: Path, quick) -> None:
    diverging = ("--set", "training.learning_rate=1.0e+30", "--set", "training.precision=float32")
    result = quick("run", "tiny.yaml", *diverging)
    assert result.returncode == 1
    assert "1 of 9 stages failed and 8 wait for them; --retry-failed tries them again" in result.stderr
    assert "training diverged in epoch 1" in result.stderr
    assert "  1 × FloatingPointError: training diverged in epoch 1" in result.stderr
    failure = r"FAILED train \w+: FloatingPointError: .*\(vgg11_bn-w0.0625, seed 0, whole-data, whole\)"
    assert re.search(failure, result.stdout)
    again = quick("run", "tiny.yaml", *diverging)
    assert again.returncode == 1
    assert again.stderr.rstrip().endswith("shows why")
    assert "1 of 9 stages failed (1 of them in an earlier run) and 8 wait for them; --retry-failed" in again.stderr
    status = quick("status", "runs/tiny")
    assert status.returncode == 1
    assert status.stdout.splitlines()[1].split() == ["train", "0", "0", "1", "0", "1"]
    assert "No driver is at work on it." in status.stdout
    assert "FloatingPointError: training diverged" in status.stdout


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (["run", "quikstart"], "no built-in experiment 'quikstart'; did you mean 'quickstart'?"),
        (["run", "none.yaml"], "experiment file 'none.yaml' does not exist"),
        (["run", "quickstart", "--set", "pruning.sparsities=[1.5]"], "it should be less than 1"),
        (["run", "quickstart", "--set", "models.0.name=vgg12"], "unknown model 'vgg12'; did you mean 'vgg11_bn'?"),
        (["run", "quickstart", "--set", "dataset.name=digts"], "unknown dataset 'digts'; did you mean 'digits'?"),
        (["run", "quickstart", "--set", "dataset.size=8"], "fails on an image of 1 × 8 × 8 (channels, height, width)"),
        (["run", "quickstart", "--set", "pruning.methods=[intrafusion]"], "did you mean 'intra-fusion'?"),
        (["run", "quickstart", "--set", "pruning.methods=[{name: intra-fusion, q: 1}]"], "has no option 'q'"),
        (["run", "quickstart", "--set", "pruning.groups=[99]"], "names group 99, but model"),
        (["run", "quickstart", "--set", "pruning.pipelines=[whole-data]", "model.checkpoint=a"], "'a' does not exist"),
        (["run", "quickstart", "--out", "floppy://a"], "storage 'floppy://a' cannot be used"),
        (["plan", "quickstart", "--set", "sed=1"], "unknown key 'sed'"),
        (["report", "nowhere"], "'nowhere' is not a run"),
        (["status", "nowhere"], "'nowhere' is not a run"),
        (["report", ".", "--format", "bmp"], "unknown figure format 'bmp'"),
        (["report", ".", "--only", "figure-99"], "unknown result 'figure-99'"),
        (["run", "quickstart", "--address", ""], "what follows '--address' is empty"),
        (["run", "quickstart", "--out="], "'--out=' is empty"),
    ],
)
def test_bad_input_is_one_sentence_and_status_two(arguments: list[str], message: str, tmp_path: Path, quick) -> None:
    result = quick(*arguments)
    assert result.returncode == 2, result.stderr
    assert message in result.stderr
    assert len(result.stderr.strip().splitlines()) == 1
    assert result.stderr.startswith("metaprune: ")
    assert list(tmp_path.iterdir()) == [], "nothing is written"


def test_a_dry_run_and_a_plan_start_nothing(tmp_path: Path, quick) -> None:
    for command in (["run", "quickstart", "--dry-run"], ["plan", "quickstart"]):
        result = quick(*command)
        assert result.returncode == 0
        assert "434 stages for 196 cells; sharing saves 6" in result.stdout
    assert list(tmp_path.iterdir()) == []


SUMMED = """
import torch

class Summed(torch.nn.Module):
    def forward(self, x):
        return x.cumsum(1)

def summed(*, in_channels, num_classes):
    layers = [torch.nn.Conv2d(in_channels, 8, 3), Summed(), torch.nn.Conv2d(8, 6, 3), torch.nn.ReLU()]
    head = [torch.nn.AdaptiveAvgPool2d(1), torch.nn.Flatten(), torch.nn.Linear(6, num_classes)]
    return torch.nn.Sequential(*layers, *head)
"""


def test_a_plan_names_what_stays_as_it_is(experiment: Path, tmp_path: Path, quick) -> None:
    (tmp_path / "summed.py").write_text(SUMMED)
    result = quick("plan", "tiny.yaml", "--set", "model={name: summed:summed}", "--set", "pruning.groups=all")
    assert result.returncode == 0, result.stderr
    assert "summed: 1 groups can be pruned, 1 stay as they are:" in result.stdout
    assert "  0: layer '1' (Summed) mixes its channels (cumsum)" in result.stdout


def test_a_model_with_other_outputs_than_classes_is_refused(experiment: Path, tmp_path: Path, quick) -> None:
    (tmp_path / "seven.py").write_text(SUMMED.replace("num_classes)]", "7)]"))
    result = quick("plan", "tiny.yaml", "--set", "model={name: seven:summed}")
    assert result.returncode == 2
    assert "model 'seven:summed' gives outputs of shape (1, 7) for an image, but has to give (1, 10)" in result.stderr


def test_plan_resolved_prints_the_complete_experiment(experiment: Path, quick) -> None:
    result = quick("plan", "tiny.yaml", "--resolved")
    settings = yaml.safe_load(result.stdout)
    assert settings["fine_tuning"]["momentum"] == 0.9
    assert list(settings)[:3] == ["name", "dataset", "models"]


@pytest.mark.parametrize(
    ("what", "expected"),
    [
        ("experiments", "quickstart"),
        ("models", "resnet18"),
        ("datasets", "parquet"),
        ("criteria", "taylor"),
        ("methods", "intra-fusion"),
        ("results", "data-free-table"),
    ],
)
def test_list(what: str, expected: str, quick) -> None:
    result = quick("list", what)
    lines = [line for line in result.stdout.splitlines() if line.startswith(expected)]
    assert len(lines) == 1
    name, about = lines[0].split(maxsplit=1)
    assert name == expected.strip()
    assert about[0].isalpha()


def test_a_folder_of_the_users_is_not_overwritten(quick, experiment: Path, tmp_path: Path) -> None:
    mine = tmp_path / "mine"
    mine.mkdir()
    (mine / "experiment.yaml").write_text("# my hypothesis\n" + experiment.read_text())
    before = (mine / "experiment.yaml").read_bytes()
    ended = quick("run", str(mine / "experiment.yaml"), "--out", str(mine))
    assert ended.returncode == 2
    assert "is no run and holds 'experiment.yaml': give --out as a new or an empty folder" in ended.stderr
    assert [path.name for path in mine.iterdir()] == ["experiment.yaml"]
    assert (mine / "experiment.yaml").read_bytes() == before


def test_the_version_is_shown(quick) -> None:
    ended = quick("--version")
    assert (ended.returncode, ended.stdout) == (0, f"metaprune {importlib.metadata.version('metaprune')}\n")


def test_groups_shows_what_each_network_can_lose(quick, experiment: Path) -> None:
    shown = quick("groups", str(experiment))
    assert shown.returncode == 0, shown.stderr
    _, header, first, *_ = shown.stdout.splitlines()
    assert header.split() == ["group", "kind", "size", "weights", "MACs", "made", "by", "read", "by"]
    assert first.split()[:2] == ["0", "channels"]
    assert quick("groups", str(experiment), "--set", "model.name=nothing").returncode == 2


def test_counts_are_whole_however_narrow_the_terminal_is(capsys, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("COLUMNS", "20")
    monkeypatch.setattr(printing, "console", Console(highlight=False, soft_wrap=True))
    printing.print_columns(("stage", "done", "missing"), [("train", 3, 1234567), ("fine-tune", 12, 0)])
    assert capsys.readouterr().out.splitlines() == [
        "stage      done  missing",
        "train         3  1234567",
        "fine-tune    12        0",
    ]


def test_an_interrupt_while_a_command_plans_ends_it_with_a_sentence(
    quick, experiment: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def interrupted(*given: object, **options: object) -> None:
        raise KeyboardInterrupt

    monkeypatch.setattr(cli, "prepare", interrupted)
    for command in ("plan", "run"):
        ended = quick(command, "tiny.yaml")
        assert (ended.returncode, ended.stderr) == (130, "metaprune: stopped\n")


def test_a_pipe_that_nobody_reads_any_more_ends_no_command() -> None:
    reading, writing = os.pipe()
    os.close(reading)
    stream = io.TextIOWrapper(io.BufferedWriter(printing.Unread(writing, "w")), line_buffering=True)
    for _ in range(2):
        stream.write("a line\n")
    stream.close()


@pytest.mark.parametrize("redirection", [">&-", ">&- 2>&-", "| true"])
def test_the_exit_status_is_that_of_the_command_whoever_reads_it(redirection: str) -> None:
    command = f"set -o pipefail; '{sys.executable}' -m orchestrator list experiments {redirection}"
    ended = subprocess.run(["bash", "-c", command], capture_output=True, timeout=300)
    assert (ended.returncode, ended.stderr) == (0, b"")


def test_a_current_folder_that_is_gone_is_one_sentence(tmp_path: Path) -> None:
    command = f"rmdir '{tmp_path}' && '{sys.executable}' -c 'from metaprune.__main__ import main; main()' list models"
    ended = subprocess.run(["sh", "-c", command], cwd=tmp_path, capture_output=True, text=True, timeout=300)
    assert ended.returncode == 2
    assert ended.stderr == "metaprune: the current folder is gone: change to one that exists\n"
