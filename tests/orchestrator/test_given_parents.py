"""Networks given as files are fused: their planning, their rows, and what is refused."""

from pathlib import Path
from typing import Any

import pytest
import torch
from safetensors.torch import save_file

from orchestrator import Experiment
from orchestrator.planning.building import make_plan
from orchestrator.planning.context import as_run_anywhere
from orchestrator.planning.facts import gather
from orchestrator.running.driver import run
from orchestrator.running.progress import NoProgress
from reports import load
from reports.page.report import write_report
from tests.conftest import TINY, with_statistics
from tests.workloads.test_fusing_attention import EVERYTHING, disguised, trained
from workloads.config import BarrierConfig, FusionConfig, ModelConfig, SplitsConfig
from workloads.data import datasets
from workloads.fusion import fuse
from workloads.measuring.evaluation import evaluate
from workloads.networks import checkpoints, weights
from workloads.networks.models import build
from workloads.structure.network import Network

WIDTHS = (0.09375, 0.0625, 0.0625)


@pytest.fixture(scope="module")
def files(tmp_path_factory: pytest.TempPathFactory) -> list[str]:
    """Three networks, the first one half as wide again as the others."""
    folder = tmp_path_factory.mktemp("parents")
    for seed, width in enumerate(WIDTHS):
        torch.manual_seed(seed)
        model = with_statistics(
            build(ModelConfig(name="vgg11_bn", width=width), channels=1, classes=10, seed=seed), seed
        )
        save_file(model.state_dict(), folder / f"{seed}.safetensors")
    return [str(folder / f"{seed}.safetensors") for seed in range(len(WIDTHS))]


def experiment(files: list[str], **settings: Any) -> Experiment:
    model = {"name": "vgg11_bn", "width": 0.0625, "checkpoints": files}
    base = {**TINY, "model": model, "pipelines": ["fuse"], "pruning": {"groups": [0], "sparsities": [0.5]}}
    return Experiment.model_validate({**base, **settings})


def test_a_runs_experiment_finds_its_files_from_any_folder(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    (model,) = as_run_anywhere(experiment(["a.safetensors", "sub/b.safetensors"])).models
    assert model.checkpoints == (str(tmp_path / "a.safetensors"), str(tmp_path / "sub/b.safetensors"))
    alone = {"name": "vgg11_bn", "checkpoint": "a.safetensors"}
    (model,) = as_run_anywhere(experiment([], model=alone, pipelines=["whole-data"])).models
    assert model.checkpoint == str(tmp_path / "a.safetensors")
    assert model.checkpoints is None


@pytest.mark.slow
def test_fused_parents_and_their_own_accuracies_are_rows(files: list[str], tmp_path: Path, local_ray: None) -> None:
    folding = {"method": {"name": "folding", "by": "incoming"}, "repair": "data-free"}
    asked = experiment(files, pipelines=["fuse", "fap", "paf"], fusion=[{"alignment": "weights"}, folding])
    result = run(asked, out=tmp_path / "run", progress=NoProgress())
    assert result.complete, result.failed
    frame, digests = load(tmp_path / "run"), [weights.file_digest(path) for path in files]
    parents = frame[frame["stage"] == "baseline"].sort_values("training_data")
    assert parents["training_data"].tolist() == ["parent-1", "parent-2", "parent-3"]
    assert parents["parents"].tolist() == digests
    assert parents["parameters"].is_monotonic_decreasing
    fused = frame[(frame["stage"] == "fused") & (frame["pipeline"] == "fuse")]
    assert sorted(fused["fusion"]) == ["folding(by=incoming); repair=data-free", "weights"]
    assert set(fused["parents"]) == {", ".join(digests)}
    assert fused["final"].all()
    assert set(fused["parameters"]) == {parents["parameters"].min()}
    assert (frame[frame["stage"] != "baseline"]["weight_sparsity"] >= 0).all()
    assert set(frame[frame["final"]]["pipeline"]) == {"fuse", "fap", "paf"}
    dataset = datasets.load(asked.dataset)
    models = [checkpoints_of(path, dataset.shape[0]) for path in files]
    for model, accuracy in zip(models, parents["accuracy"], strict=True):
        assert evaluate(model, dataset).accuracy == accuracy
    write_report(tmp_path / "run", tmp_path / "report")
    assert "parents, fused by folding(by=incoming)" in (tmp_path / "report" / "index.html").read_text()


def checkpoints_of(path: str, channels: int) -> torch.nn.Module:
    model = build(ModelConfig(name="vgg11_bn", width=0.0625), channels=channels, classes=10)
    checkpoints.load_state(model, weights.read_state(path), path, any_width=True)
    return model.eval()


@pytest.mark.slow
def test_one_run_with_files_is_what_the_library_computes_by_hand(
    files: list[str], tmp_path: Path, local_ray: None
) -> None:
    """The stage sees the same images, which are drawn from the training set with the seed."""
    asked = experiment(files[1:], fusion={"alignment": "weights", "repair": False})
    assert run(asked, out=tmp_path / "run", progress=NoProgress()).complete
    frame = load(tmp_path / "run")
    dataset = datasets.load(asked.dataset)
    generator = torch.Generator().manual_seed(0)
    chosen = dataset.train_pool[torch.randperm(len(dataset.train_pool), generator=generator)[:200]]
    batches = list(dataset.batches("train", 200, indices=chosen))
    models = [checkpoints_of(path, dataset.shape[0]) for path in files[1:]]
    images = [images for images, _ in batches]
    fused = fuse(models, images=images, config=FusionConfig(alignment="weights", repair=False))
    assert frame[frame["stage"] == "fused"]["loss"].tolist() == pytest.approx([evaluate(fused, dataset).loss], rel=1e-5)


def test_transformers_given_as_files_are_fused_and_stored(tmp_path: Path, local_ray: None) -> None:
    """A transformer and the same in disguise; both are pruned and fused, and fused and pruned."""
    config = ModelConfig(name="vit_cifar", width=0.125, options={"depth": 1})
    network = Network.prepared(trained(build(config, channels=1, classes=10)), torch.zeros(1, 1, 32, 32))
    paths = [str(tmp_path / f"{number}.safetensors") for number in range(2)]
    for model, path in zip((network.model, disguised(network, EVERYTHING).model), paths, strict=True):
        save_file({name: tensor.contiguous() for name, tensor in model.state_dict().items()}, path)
    settings = {**config.model_dump(exclude_defaults=True), "checkpoints": paths}
    grid = {"groups": [0], "sparsities": [0.5], "methods": ["conventional"]}
    fusions = [{"repair": False}, {"alignment": "none", "repair": False}]
    grids = [{**grid, "fusion": fusions[0]}, {"pipelines": ["fuse"], "fusion": fusions[1]}]
    barrier = {"points": 3, "samples": 20}
    asked = experiment(paths, model=settings, pipelines=["fuse", "fap"], pruning=grids, barrier=barrier)
    result = run(asked, out=tmp_path / "run", progress=NoProgress())
    assert result.complete, result.failed
    frame = load(tmp_path / "run")
    plain = frame["fusion"].fillna("").str.startswith("none")
    losses = frame[frame["stage"].isin(["baseline", "fused"]) & ~plain]["loss"]
    assert losses.tolist() == pytest.approx([losses.iloc[0]] * 3, rel=1e-3)
    lines = load(tmp_path / "run", "barriers")
    assert lines["share"].tolist() == [0, 0.5, 1] * 2
    assert set(lines["training_data"]) == {"parent-1, parent-2"}
    middle = lines[lines["share"] == 0.5].set_index("fusion")["excess"].abs()
    assert middle.filter(like="activations").tolist() == pytest.approx([0], abs=1e-3)
    assert middle.filter(like="none").item() > 0.01
    report = write_report(tmp_path / "run", tmp_path / "report", only=["barriers-figure", "barriers"])
    assert {"barriers.csv", "barriers-vit_cifar-w0.125.png"} <= set(report.files)


def test_plans_start_from_the_files_and_train_nothing(files: list[str]) -> None:
    fap = experiment(files, pipelines=["fuse", "fap", "paf"], seeds=[0, 1])
    plan = make_plan(fap, gather(fap))
    assert plan.count() == {"load": 3, "fuse": 2 + 2 * 2, "compress": 2 * 2 + 3 * 2}
    one = make_plan(experiment(files[:2]), gather(experiment(files[:2])))
    assert one.count() == {"load": 2, "fuse": 1}
    assert one.cells == 1
    assert set(one.stages) & set(plan.stages) == {key for key, stage in one.stages.items() if stage.kind == "load"}


def test_split_models_are_fused_and_measured_alone() -> None:
    asked = Experiment.model_validate({**TINY, "pipelines": ["fuse"], "fusion": [{}, {"method": "activation-folding"}]})
    plan = make_plan(asked, gather(asked))
    assert plan.count() == {"train": 2, "fuse": 2}
    lines = asked.model_copy(update={"barrier": BarrierConfig(), "splits": (SplitsConfig(folds=4),)})
    assert make_plan(lines, gather(lines)).count() == {"train": 6, "fuse": 2, "barrier": 6 * 5 / 2}


@pytest.mark.parametrize(
    ("settings", "problem"),
    [
        ({"pipelines": ["whole-data"]}, "model.checkpoints are the parents of a fusion, but whole-data"),
        ({"model": {"name": "vgg11_bn", "checkpoints": ["a"]}}, "at least 2"),
        ({"model": {"name": "vgg11_bn", "checkpoints": ["a"] * 9}}, "at most 8"),
        ({"model": {"name": "vgg11_bn", "checkpoint": "a", "checkpoints": ["a", "b"]}}, "give one"),
        ({"fusion": {"method": "folding", "alignment": "weights"}}, "aligns nothing, and alignment weights"),
        ({"fusion": {"criterion": "l2"}}, "criterion l2 but no method"),
        ({"fusion": {"repair": "data-free"}}, "repair is data-free, which follows a method"),
        ({"pipelines": ["fap"], "barrier": {}}, "a barrier is measured .*: add fuse to pipelines"),
        ({"fusion": {"method": "folding"}, "barrier": {}}, "every fusion has a method, which aligns nothing"),
        ({"barrier": {"points": 2}}, "barrier.points|points"),
    ],
)
def test_settings_that_do_not_fit_are_refused(settings: dict[str, Any], problem: str) -> None:
    with pytest.raises(ValueError, match=problem):
        experiment(["a", "b"], **settings)


def test_equal_repairs_have_equal_keys() -> None:
    written = (
        [FusionConfig(repair=repair) for repair in (True, "data")],
        [FusionConfig(repair=r) for r in (False, "none")],
    )
    assert [one == other for one, other in written] == [True, True]
    assert FusionConfig(method="folding").repair_of_method == "data"
    assert FusionConfig(method="folding", repair=False).repair_of_method == "none"


class Softened(torch.nn.Module):
    """A layer whose channels a softmax mixes."""

    def __init__(self) -> None:
        super().__init__()
        self.stem, self.mixed = torch.nn.Conv2d(1, 8, 3), torch.nn.Conv2d(8, 8, 1)
        self.after, self.head = torch.nn.Conv2d(8, 8, 1), torch.nn.Linear(8, 10)

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        x = self.mixed(self.stem(x).relu()).softmax(1)
        return self.head(self.after(x).relu().mean((2, 3)))


def softened(*, num_classes: int, in_channels: int) -> torch.nn.Module:
    """For digits alone."""
    return Softened()


@pytest.mark.parametrize("pipeline", ["fuse", "fap", "paf"])
def test_a_plan_refuses_neurons_that_would_be_averaged_unaligned(pipeline: str) -> None:
    model = {"name": f"{__name__}:softened"}
    asked = {**TINY, "model": model, "pipelines": [pipeline]}
    with pytest.raises(ValueError, match=r"fusion 'activations' cannot fuse networks of model .*'mixed': .*softmax"):
        gather(Experiment.model_validate(asked))
    gather(Experiment.model_validate({**asked, "pipelines": ["whole-data"]}))
    gather(Experiment.model_validate({**asked, "fusion": {"alignment": "none"}}))


def test_a_plan_names_the_file_that_does_not_fit(files: list[str], tmp_path: Path) -> None:
    other = tmp_path / "other.safetensors"
    save_file(build(ModelConfig(name="resnet10", width=0.0625), channels=1, classes=10).state_dict(), other)
    with pytest.raises(ValueError, match=r"other.safetensors' does not fit the model: it lacks"):
        gather(experiment([*files[:2], str(other)]))
    state = weights.read_state(files[0])
    state["features.0.weight"] = state["features.0.weight"][:-1].clone()
    save_file(state, other)
    with pytest.raises(ValueError, match=r"the network in '.*other.safetensors' does not run"):
        gather(experiment([*files[:2], str(other)]))
    with pytest.raises(ValueError, match="different widths cannot be averaged without an alignment"):
        gather(experiment(files, fusion={"alignment": "none"}))
