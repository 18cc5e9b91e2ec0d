"""Networks are found by the names of hubs, with their weights, labels and preprocessing, without reaching any."""

from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
import ray
import torch
from torch import nn

from orchestrator import Experiment
from orchestrator.planning.preprocessing import with_preprocessing
from orchestrator.running.driver import run
from orchestrator.running.progress import NoProgress
from reports import load
from tests.workloads.pictures import picture
from workloads.config import ModelConfig
from workloads.data import datasets
from workloads.measuring.evaluation import evaluate
from workloads.networks import checkpoints
from workloads.networks.hubs import names
from workloads.networks.hubs.published import Preprocessing
from workloads.networks.models import build
from workloads.plugins import MODEL

SQUEEZE = "squeezenet1_1"


@pytest.fixture(autouse=True)
def offline(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> Iterator[None]:
    """No hub can be reached, and no cache but an empty one is there."""

    def refuse(*args: Any, **kwargs: Any) -> None:
        raise OSError("no network")

    monkeypatch.setenv("HF_HUB_OFFLINE", "1")
    monkeypatch.setattr("urllib.request.urlopen", refuse)
    monkeypatch.setenv("TORCH_HOME", str(tmp_path))
    names._published.cache_clear()
    yield
    names._published.cache_clear()


def weights_of_torchvision(folder: Path) -> dict[str, torch.Tensor]:
    """Weights of a network where torchvision keeps what it has downloaded."""
    from torchvision import models

    torch.manual_seed(1)
    state = models.get_model(SQUEEZE).state_dict()
    file = folder / "hub/checkpoints" / models.get_model_weights(SQUEEZE).DEFAULT.url.rpartition("/")[2]
    file.parent.mkdir(parents=True)
    torch.save(state, file)
    return state


def loaded(config: ModelConfig, classes: list[str]) -> nn.Module:
    """The network for a data set's classes, with its published weights."""
    model = build(config, channels=3, classes=len(classes))
    checkpoints.load_state(model, names.state_for(config, channels=3, classes=classes), config.name)
    return model.eval()


def test_weights_of_torchvision_come_from_its_cache_with_the_outputs_of_the_data_sets_classes(tmp_path: Path) -> None:
    state = weights_of_torchvision(tmp_path)
    config = ModelConfig(name=f"torchvision:{SQUEEZE}", weights="IMAGENET1K_V1")
    found = names.published(config)
    assert found.preprocessing == Preprocessing(224, 256, (0.485, 0.456, 0.406), (0.229, 0.224, 0.225))
    assert found.revision == "IMAGENET1K_V1"
    model = loaded(config, ["goldfish", "great_white_shark", "Tench"])
    assert isinstance(model, nn.Module)
    assert torch.equal(model.get_parameter("classifier.1.weight"), state["classifier.1.weight"][[1, 2, 0]])
    assert torch.equal(model.get_parameter("classifier.1.bias"), state["classifier.1.bias"][[1, 2, 0]])
    assert torch.equal(model.get_parameter("features.0.weight"), state["features.0.weight"])


def test_weights_that_cannot_be_had_are_refused_with_the_place_for_them(tmp_path: Path) -> None:
    with pytest.raises(ValueError, match=rf"cannot be had \(.*\): put https://.*pth at '{tmp_path}/hub/checkpoints/"):
        names.published(ModelConfig(name=f"torchvision:{SQUEEZE}", pretrained=True))


@pytest.mark.parametrize(
    ("settings", "sentence"),
    [
        ({"name": "torchvision:resnt18"}, r"has no classifier 'resnt18'; did you mean 'resnet18'\?"),
        ({"name": f"torchvision:{SQUEEZE}", "weights": "V9"}, "has no weights 'V9': it has IMAGENET1K_V1, DEFAULT"),
        (
            {"name": "resnet18"},
            "are for the models of timm, torchvision, hf, such as 'timm:resnet18': give model.checkpoint",
        ),
    ],
)
def test_names_of_weights_that_do_not_exist_are_refused(settings: dict[str, Any], sentence: str) -> None:
    with pytest.raises(ValueError, match=sentence):
        names.published(ModelConfig(**{"pretrained": True, **settings}))


def test_one_start_alone_is_given() -> None:
    with pytest.raises(ValueError, match="has checkpoint and pretrained: give one of checkpoint, a network's file"):
        ModelConfig(name="timm:resnet18", checkpoint="a.safetensors", pretrained=True)


def test_a_hubs_network_is_built_for_the_data_set_and_known_by_its_source() -> None:
    model = build(ModelConfig(name=f"torchvision:{SQUEEZE}"), channels=3, classes=7)
    assert model.eval()(torch.zeros(1, 3, 64, 64)).shape == (1, 7)
    with pytest.raises(ValueError, match=r"takes images of 3 channels, not 1: set dataset.channels to 3"):
        build(ModelConfig(name=f"torchvision:{SQUEEZE}"), channels=1, classes=7)
    plugin = MODEL.plugin(f"torchvision:{SQUEEZE}")
    assert not plugin.own
    assert plugin.code == MODEL.plugin(f"torchvision:{SQUEEZE[:-1]}0").code  # both are in one module
    assert plugin.code != MODEL.plugin("torchvision:resnet18").code
    assert ModelConfig(name="hf:someone/a-network").name_in_results == "a-network"


@pytest.mark.parametrize(
    ("labels", "classes", "rows"),
    [
        ((("cat", "tabby"), ("dog",)), ["dog", "cat"], [1, 0]),
        ((("cat", "tabby"), ("dog",)), ["Tabby", "dog"], None),
        ((("golden retriever",), ("dog",), ("cat",)), ["cat", "golden_retriever"], [2, 0]),
        ((("cat",), ("dog",)), ["0", "1"], None),
        ((), ["a", "b", "c"], None),
    ],
)
def test_outputs_are_matched_by_the_names_of_classes(
    labels: tuple[tuple[str, ...], ...], classes: list[str], rows: list[int] | None
) -> None:
    assert names.rows_of(labels, classes, "it") == rows


@pytest.mark.parametrize(
    ("labels", "classes"),
    [
        ((("cat",), ("dog",)), ["cat", "fish"]),
        ((("cat",), ("dog",), ("fish",)), ["0", "1"]),
        ((("cat", "tabby"), ("dog",)), ["cat", "tabby"]),
    ],
)
def test_classes_that_a_network_does_not_know_are_refused(
    labels: tuple[tuple[str, ...], ...], classes: list[str]
) -> None:
    with pytest.raises(
        ValueError, match=r"know \d classes \(cat, dog.*name its classes as they do, or leave pretrained"
    ):
        names.rows_of(labels, classes, "it")


def test_a_folder_as_timm_writes_it_is_read(tmp_path: Path) -> None:
    timm = pytest.importorskip("timm", reason="timm is not installed")
    model = timm.create_model("test_resnet", num_classes=3, in_chans=3)
    timm.models.save_for_hf(model, tmp_path / "it", model_config={"label_names": ["cat", "dog", "bird"]})
    config = ModelConfig(name=f"timm:local-dir:{tmp_path / 'it'}", pretrained=True)
    assert torch.equal(loaded(config, ["bird", "cat"]).get_parameter("fc.weight"), model.fc.weight[[2, 0]])
    known = model.pretrained_cfg
    assert names.published(config).preprocessing.mean == tuple(known["mean"])
    assert config.name_in_results == "it"
    with pytest.raises(ValueError, match=r"timm has no model 'resnt18'; did you mean 'resnet18'\?"):
        build(ModelConfig(name="timm:resnt18"), channels=3, classes=2)
    with pytest.raises(ValueError, match=r"cannot be had .*let this machine reach the Hub once"):
        names.published(ModelConfig(name="timm:resnet18.a1_in1k", pretrained=True))
    assert names.hub_model("timm:create_model") is None


def test_a_folder_as_transformers_writes_it_is_read(tmp_path: Path) -> None:
    transformers = pytest.importorskip("transformers", reason="transformers is not installed")
    labels = {0: "tabby, tabby cat", 1: "dog"}
    config = transformers.ResNetConfig(
        embedding_size=8, hidden_sizes=[8], depths=[1], layer_type="basic", id2label=labels
    )
    model = transformers.AutoModelForImageClassification.from_config(config).eval()
    model.save_pretrained(tmp_path / "it")
    transformers.ConvNextImageProcessor(
        size={"shortest_edge": 32}, crop_pct=0.875, image_mean=[0.1, 0.2, 0.3]
    ).save_pretrained(tmp_path / "it")
    ours = ModelConfig(name=f"hf:{tmp_path / 'it'}", pretrained=True)
    again = loaded(ours, ["dog", "tabby cat"])
    images = torch.randn(2, 3, 32, 32)
    torch.testing.assert_close(again(images), model(images).logits[:, [1, 0]])
    found = names.published(ours).preprocessing
    assert (found.size, found.resize, found.mean) == (32, 36, (0.1, 0.2, 0.3))
    with pytest.raises(ValueError, match=r"'hf:nobody/nothing' cannot be had .*or give 'hf:FOLDER'"):
        build(ModelConfig(name="hf:nobody/nothing"), channels=3, classes=2)


def folder_of_images(root: Path) -> str:
    """Images of three of ImageNet's classes, by their words."""
    for part, count in (("train", 8), ("test", 4)):
        for number, label in enumerate(("goldfish", "great white shark", "tench")):
            (root / part / label).mkdir(parents=True)
            for image in range(count):
                picture(100 * number + image, (70, 90)).save(root / part / label / f"{image}.png")
    return str(root)


def experiment(root: str, **settings: Any) -> Experiment:
    return Experiment.model_validate(
        {
            "name": "published",
            "dataset": {"name": "image-folder", "root": root, "size": 64},
            "model": {"name": f"torchvision:{SQUEEZE}", "pretrained": True},
            "pruning": {"groups": [0], "sparsities": [0.5]},
            **settings,
        }
    )


def test_a_published_networks_preprocessing_is_the_data_sets_default(tmp_path: Path) -> None:
    weights_of_torchvision(tmp_path)
    root = folder_of_images(tmp_path / "images")
    dataset = with_preprocessing(experiment(root, dataset={"name": "image-folder", "root": root})).dataset
    assert (dataset.size, dataset.resize, dataset.mean) == (224, 256, (0.485, 0.456, 0.406))
    own = {"name": "image-folder", "root": root, "size": 64, "mean": (0, 0, 0)}
    dataset = with_preprocessing(experiment(root, dataset=own)).dataset
    assert (dataset.size, dataset.resize, dataset.mean, dataset.std) == (64, None, (0, 0, 0), (0.229, 0.224, 0.225))
    trained = experiment(root, model={"name": f"torchvision:{SQUEEZE}"})
    assert with_preprocessing(trained) is trained


@pytest.mark.slow
def test_a_run_starts_from_published_weights_and_says_which(tmp_path: Path) -> None:
    ray.shutdown()  # one that runs already has another TORCH_HOME
    weights_of_torchvision(tmp_path)
    settings = experiment(folder_of_images(tmp_path / "images"))
    report = run(settings, out=tmp_path / "run", progress=NoProgress())
    assert not report.failed
    frame = load(tmp_path / "run")
    assert set(frame["stage"]) == {"baseline", "pruned"}
    assert '"model.revision": "IMAGENET1K_V1"' in frame["settings"].iloc[0]
    model = loaded(settings.models[0], ["goldfish", "great white shark", "tench"])
    dataset = datasets.load(with_preprocessing(settings).dataset)
    baseline = frame[frame["stage"] == "baseline"]["accuracy"].item()
    assert baseline == pytest.approx(evaluate(model, dataset).accuracy)
