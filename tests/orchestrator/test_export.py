"""Networks that leave a run: every format written, read by its own library, and run."""

import copy
import re
import shlex
import shutil
import sys
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path

import pytest
import torch
import yaml
from torch import Tensor, nn
from typer.testing import CliRunner, Result

from orchestrator import Experiment
from orchestrator.cli import app
from orchestrator.planning.building import make_plan
from orchestrator.planning.context import shared_context
from orchestrator.planning.facts import gather
from orchestrator.running.driver import write_plan
from orchestrator.running.tasks import execute
from orchestrator.storage.store import Store
from orchestrator.worker.kind import Made
from orchestrator.worker.measuring import measured
from orchestrator.worker.task import Task
from orchestrator.worker.work import Work
from reports import load
from tests.conftest import TINY
from workloads.config import DatasetConfig, ModelConfig
from workloads.data.datasets import load as load_dataset
from workloads.measuring.evaluation import parameter_count
from workloads.networks import checkpoints, exporting
from workloads.networks.checkpoints import Description
from workloads.networks.exporting import FORMATS, ExportError, compare, export
from workloads.networks.folders import CARD, CONFIG, IMAGES, WEIGHTS, from_pretrained

DOCUMENT = (Path(__file__).parents[2] / "docs" / "results.md").read_text(encoding="utf-8")


@pytest.fixture(scope="module")
def finished(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A run of a trained network, two pruned ones and a fine-tuned one, made in this process."""
    folder = tmp_path_factory.mktemp("run")
    grid = {"sparsities": [0.5], "methods": ["conventional"], "groups": [0]}
    grids = [grid, {**grid, "mode": "fine-tuned", "groups": "all", "steps": 1}]
    experiment = Experiment.model_validate({**TINY, "pruning": grids})
    facts, store = gather(experiment), Store(folder)
    planned = make_plan(experiment, facts)
    write_plan(store, experiment, planned)
    read = {key for stage in planned.stages.values() for key in stage.inputs}
    for s in planned.stages.values():
        work = Work(s.kind, s.key, s.parameters, s.inputs, s.labels, keep=s.key in read, record=True)
        (outcome,) = execute([work], shared_context(experiment, facts, store))
        assert outcome.error is None
    return folder


@pytest.fixture
def copied(finished: Path, tmp_path: Path) -> Path:
    """The same, to be spoilt."""
    return Path(shutil.copytree(finished, tmp_path / "copied"))


@pytest.fixture(autouse=True)
def _in_an_empty_folder(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    (tmp_path / "here").mkdir()
    monkeypatch.chdir(tmp_path / "here")


def metaprune(*arguments: str | Path) -> Result:
    return CliRunner().invoke(app, [str(argument) for argument in arguments])


def key_of(run: Path, stage: str, final: bool = True) -> str:
    frame = load(run)
    (key,) = frame[(frame["stage"] == stage) & (frame["final"] == final)]["cell"]
    return key


def accuracy_of(network: Callable[[Tensor], Tensor]) -> float:
    """Percent of the run's test images."""
    dataset = load_dataset(DatasetConfig(**TINY["dataset"]))
    ((images, labels),) = dataset.batches("test", 100)
    return 100 * float((network(images).argmax(1) == labels).double().mean())


def run_by_its_own_library(name: str, path: Path) -> Callable[[Tensor], Tensor]:
    if name == "safetensors":
        return checkpoints.load(path)
    if name == "torch-export":
        return torch.export.load(path).module()
    import onnxruntime

    session = onnxruntime.InferenceSession(path, providers=["CPUExecutionProvider"])
    return lambda images: torch.from_numpy(session.run(None, {"images": images.numpy()})[0])


@pytest.mark.parametrize("name", FORMATS)
def test_a_pruned_network_that_is_not_kept_leaves_in_every_format(name: str, finished: Path) -> None:
    cell = key_of(finished, "pruned")
    assert cell not in Store(finished).network_keys()
    result = metaprune("export", finished, cell[:12], "--format", name)
    assert result.exit_code == 0, result.stderr
    row = load(finished).set_index("cell").loc[cell]
    expected = f"vgg11_bn-w0.0625-{cell}{FORMATS[name].suffix}"
    assert result.stdout.splitlines()[0] == (
        "The network is not kept; making it again: compress, about 1 s on one core."
    )
    assert result.stdout.splitlines()[1] == (
        f"{expected}: vgg11_bn-w0.0625, {row['parameters']:,} parameters, accuracy {row['accuracy']:.2f} %"
    )
    assert "float32 images (B, 1, 32, 32)" in result.stdout
    assert [path.name for path in Path().iterdir()] == [expected]
    network = run_by_its_own_library(name, Path(expected))
    assert accuracy_of(network) == row["accuracy"]
    assert network(torch.zeros(1, 1, 32, 32)).shape == (1, 10)


def test_a_pruned_network_leaves_as_a_folder_with_a_card_of_its_cell(finished: Path) -> None:
    cell = key_of(finished, "pruned")
    result = metaprune("export", finished, cell, "--format", "hf")
    assert result.exit_code == 0, result.stderr
    assert result.stdout.splitlines()[-1] == "Only metaprune reads the folder."
    (folder,) = Path().iterdir()
    assert folder.name == f"vgg11_bn-w0.0625-{cell}"
    assert {file.name for file in folder.iterdir()} == {CONFIG, WEIGHTS, CARD, IMAGES}
    row = load(finished).set_index("cell").loc[cell]
    network = from_pretrained(folder)
    assert (accuracy_of(network), parameter_count(network)) == (row["accuracy"], row["parameters"])
    _, head, text = (folder / CARD).read_text().split("---\n", 2)
    assert yaml.safe_load(head)["library_name"] == "metaprune"
    assert f"| `cell` | {cell} |" in text
    assert f"| `accuracy` | {row['accuracy']:.6g} |" in text
    assert yaml.safe_load(text.rpartition("```yaml\n")[2].partition("```")[0])["name"] == "tiny"

    again = metaprune("export", finished, cell, "--format", "hf")
    assert again.exit_code == 2
    assert "is there and not an empty folder: give another --out" in again.stderr
    (folder / CONFIG).write_text("{}")
    with pytest.raises(ValueError, match=r"was not written by `metaprune export --format hf`, or is damaged"):
        from_pretrained(folder)


def test_a_kept_network_leaves_as_it_lies_in_the_store(finished: Path) -> None:
    cell = key_of(finished, "baseline", final=False)
    for _ in range(2):
        result = metaprune("export", finished, cell, "--format", "safetensors", "--out", "kept.safetensors")
        assert result.exit_code == 0, result.stderr
        assert "making it again" not in result.stdout
    kept, description = checkpoints.loads(*Store(finished).read_network(cell))
    written, same = checkpoints.loads(Path("kept.safetensors").read_bytes(), "written")
    assert same == description
    assert checkpoints.digest(written.state_dict(), "") == checkpoints.digest(kept.state_dict(), "")


def test_a_fine_tuned_network_is_made_again_as_it_was(finished: Path) -> None:
    cell = key_of(finished, "fine-tuned")
    assert cell not in Store(finished).network_keys()
    result = metaprune("export", finished, cell, "--format", "safetensors", "--out", "tuned.safetensors")
    assert result.exit_code == 0, result.stderr
    assert "making it again: fine-tune" in result.stdout
    assert "Made again here" not in result.stdout
    row = load(finished).set_index("cell").loc[cell]
    network = checkpoints.load("tuned.safetensors")
    assert (accuracy_of(network), parameter_count(network)) == (row["accuracy"], row["parameters"])


def test_the_documents_commands_write_a_network_that_loads(finished: Path) -> None:
    section = DOCUMENT.partition("## Use a compressed network")[2].partition("\n## ")[0]
    commands = [line for line in section.splitlines() if line.startswith("metaprune export ")]
    assert [line.split("--format ")[1].split()[0] for line in commands] == [
        "onnx",
        "torch-export",
        "safetensors",
        "hf",
    ]
    cell = key_of(finished, "pruned")
    for line in commands:
        _, *arguments = shlex.split(line, comments=True)
        given = [str(finished) if a.startswith("runs/") else cell if a == "CELL" else a for a in arguments]
        assert metaprune(*given).exit_code == 0
    model = checkpoints.load("pruned.safetensors")
    assert model(torch.zeros(2, 1, 32, 32)).shape == (2, 10)


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (["nowhere", "0"], "'nowhere' is not a run: it has no folder 'results'"),
        (["RUN", "xyz"], "no cell begins with 'xyz' in run"),
        (["RUN", ""], "4 cells begin with '' in run"),
        (["RUN", "PRUNED", "--format", "onx"], "unknown export format 'onx'; did you mean 'onnx'?"),
        (["RUN", "PRUNED", "--out", "no/a.safetensors"], "'no/a.safetensors' cannot be written: folder 'no' does not"),
        (["RUN", "PRUNED", "--out", "."], "'.' is a folder: give the name of a file"),
    ],
)
def test_bad_input_is_one_sentence_and_status_two(arguments: list[str], message: str, finished: Path) -> None:
    places = {"RUN": str(finished), "PRUNED": key_of(finished, "pruned")}
    result = metaprune("export", "--format", "safetensors", *(places.get(a, a) for a in arguments))
    assert (result.exit_code, len(result.stderr.splitlines())) == (2, 1)
    assert message in result.stderr
    assert list(Path().iterdir()) == []


def test_an_unknown_cell_is_told_where_keys_are(finished: Path) -> None:
    result = metaprune("export", finished, "xyz", "--format", "safetensors")
    (line,) = re.findall("`(pandas.*)`", result.stderr)
    import pandas

    assert len(eval(line, {"pandas": pandas})["cell"]) == 4


def test_what_cannot_be_made_again_says_what_is_missing(copied: Path) -> None:
    pruned, trained = key_of(copied, "pruned"), key_of(copied, "baseline", final=False)
    arguments = ("export", copied, pruned, "--format", "safetensors")
    (copied / "artifacts" / f"{trained}.safetensors").unlink()
    result = metaprune(*arguments)
    assert result.exit_code == 2
    assert f"that of stage '{trained}', which it is made from, is no longer in" in result.stderr

    settings = yaml.safe_load((copied / "experiment.yaml").read_text())
    (copied / "experiment.yaml").write_text(yaml.safe_dump({**settings, "seeds": [7]}))
    result = metaprune(*arguments)
    assert result.exit_code == 2
    assert "make no such cell any more" in result.stderr

    gone = {"name": "image-folder", "root": "/nowhere", "size": 32}
    (copied / "experiment.yaml").write_text(yaml.safe_dump({**settings, "dataset": gone}))
    result = metaprune(*arguments)
    assert result.exit_code == 2
    assert "is needed for the shape of its images: dataset.root '/nowhere' is not a folder" in result.stderr

    shutil.rmtree(copied / "results" / "evaluations")
    result = metaprune(*arguments)
    assert result.exit_code == 2
    assert "is not done yet: `metaprune run` makes it" in result.stderr
    assert list(Path().iterdir()) == []


def test_a_stage_that_fails_again_is_status_one(finished: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    def fail(task: Task, work: Work, made: Made) -> Made:
        raise RuntimeError("out of luck")

    monkeypatch.setattr("orchestrator.export.measured", fail)
    result = metaprune("export", finished, key_of(finished, "pruned"), "--format", "safetensors")
    assert result.exit_code == 1
    assert "cannot be made again (RuntimeError: out of luck); nothing was written" in result.stderr
    assert list(Path().iterdir()) == []


def test_another_accuracy_than_in_the_results_is_told(finished: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    def luckier(task: Task, work: Work, made: Made) -> Made:
        output = measured(task, work, made)
        output.rows["evaluations"][-1]["accuracy"] = 99.5
        return output

    monkeypatch.setattr("orchestrator.export.measured", luckier)
    result = metaprune("export", finished, key_of(finished, "pruned"), "--format", "safetensors")
    assert result.exit_code == 0
    assert "Made again here, its accuracy is 99.50 %, not the" in result.stdout


def test_missing_packages_are_named_with_the_command(finished: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(sys.modules, "onnxruntime", None)
    result = metaprune("export", finished, key_of(finished, "pruned"), "--format", "onnx")
    assert result.exit_code == 2
    assert result.stderr == (
        "metaprune: format 'onnx' needs onnxruntime: python -m pip install onnx onnxscript onnxruntime\n"
    )


@pytest.mark.parametrize("damage", ["raises", "garbage", "other weights", "other shape"])
def test_a_file_that_does_not_compute_the_same_is_removed(
    damage: str, finished: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    honest = FORMATS["torch-export"]

    def write(model: nn.Module, description: Description, images: Tensor) -> bytes:
        if damage == "raises":
            raise NotImplementedError("no such operator")
        if damage == "garbage":
            return b"garbage"
        changed = nn.Sequential(copy.deepcopy(model), nn.Unflatten(1, (2, 5)))
        if damage == "other weights":
            changed = changed[:1]
            next(changed.parameters()).data.mul_(1.1)
        return honest.write(changed, description, images)

    monkeypatch.setitem(exporting.FORMATS, "torch-export", replace(honest, write=write))
    Path("old.pt2").write_text("before")
    cell = key_of(finished, "baseline", final=False)
    result = metaprune("export", finished, cell, "--format", "torch-export", "--out", "old.pt2")
    assert result.exit_code == 1
    reason = {
        "raises": "cannot be written as torch-export (NotImplementedError: no such operator)",
        "garbage": "written as torch-export does not run",
        "other weights": "written as torch-export computes something else",
        "other shape": "its output is (1, 2, 5), not (1, 10)",
    }[damage]
    assert reason in result.stderr
    assert [(path.name, path.read_text()) for path in Path().iterdir()] == [("old.pt2", "before")]


def test_a_full_disk_leaves_nothing(vgg: nn.Module, monkeypatch: pytest.MonkeyPatch) -> None:
    def full(self: Path, content: bytes) -> None:
        self.touch()
        raise OSError(28, "No space left on device")

    monkeypatch.setattr(Path, "write_bytes", full)
    description = Description(ModelConfig(name="vgg11_bn", width=0.125).model_dump(mode="json"), 1, 10, 1)
    with pytest.raises(OSError, match=r"'a.safetensors' cannot be written \(No space left on device\)"):
        export(vgg, description, (1, 32, 32), "safetensors", Path("a.safetensors"))
    assert list(Path().iterdir()) == []


@pytest.mark.parametrize("name", ["torch-export", "onnx"])
def test_residual_networks_keep_their_batch_free(name: str, resnet: nn.Module) -> None:
    description = Description({}, 1, 10, 1)
    difference = export(resnet, description, (1, 32, 32), name, Path("resnet"))
    network = run_by_its_own_library(name, Path("resnet"))
    images = torch.randn(7, 1, 32, 32)
    torch.testing.assert_close(network(images), resnet(images), rtol=1e-4, atol=1e-4)
    assert difference < 1e-3


def test_a_network_for_a_single_batch_size_is_refused() -> None:
    class Single(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.linear = nn.Linear(4, 3)

        def forward(self, x: Tensor) -> Tensor:
            return self.linear(x.reshape(2, 4))

    with pytest.raises(ExportError, match="cannot be written as torch-export"):
        export(Single(), Description({}, 1, 3, 15), (1, 2, 2), "torch-export", Path("single.pt2"))
    assert list(Path().iterdir()) == []


def test_differences_that_are_no_number_are_seen() -> None:
    difference, largest = compare(lambda x: x, lambda x: x + float("nan"), (1, 2, 2))
    assert difference != difference
    assert largest > 0


def test_a_device_is_not_replaced_by_a_file(finished: Path) -> None:
    result = metaprune("export", finished, key_of(finished, "pruned"), "--format", "safetensors", "--out", "/dev/full")
    assert result.exit_code == 2
    assert "'/dev/full' is no ordinary file" in result.stderr
    assert Path("/dev/full").is_char_device()
