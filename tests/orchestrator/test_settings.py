"""Settings as people write them: what they mean, or one sentence."""

from pathlib import Path

import pytest

from orchestrator import Experiment
from orchestrator.settings.loader import load_yaml
from workloads.config import TrainingConfig


@pytest.mark.parametrize(
    ("text", "value"),
    [
        ("010", 10),
        ("0o10", 8),
        ("0x10", 16),
        ("1_000", 1000),
        ("-3", -3),
        ("1e-3", 0.001),
        ("2.", 2.0),
        (".5", 0.5),
        ("1:30", "1:30"),
        ("no", "no"),
        ("2026-01-01", "2026-01-01"),
        ("true", True),
        ("null", None),
        ("'010'", "010"),
        ("1.2.3", "1.2.3"),
    ],
)
def test_values_are_what_people_mean(text: str, value: object) -> None:
    loaded = load_yaml(f"key: {text}", "mine.yaml")["key"]
    assert (loaded, type(loaded)) == (value, type(value))


def load(tmp_path: Path, text: str, *overrides: str) -> Experiment:
    path = tmp_path / "e.yaml"
    path.write_text(text)
    return Experiment.load(path, overrides)


USUAL = "name: e\ndataset: digits\nmodel: resnet10\n"


def test_names_alone_stand_for_mappings(tmp_path: Path) -> None:
    experiment = load(tmp_path, USUAL)
    assert experiment.dataset.name == "digits"
    assert [model.name for model in experiment.models] == ["resnet10"]
    listed = load(tmp_path, "name: e\ndataset: digits\nmodels: [resnet10, {name: vgg11_bn, width: 0.5}]\n")
    assert [model.name_in_results for model in listed.models] == ["resnet10", "vgg11_bn-w0.5"]


def test_variants_of_one_model_are_told_apart_by_their_labels(tmp_path: Path) -> None:
    plain = "name: e\ndataset: digits\nmodels: [{name: resnet10}, {name: resnet10, options: {a: 1}%s}]\n"
    listed = load(tmp_path, plain % ", label: other")
    assert [model.name_in_results for model in listed.models] == ["resnet10", "other"]
    with pytest.raises(ValueError, match=r"models has the same twice \(resnet10, resnet10\).*give each a label"):
        load(tmp_path, plain % "")


@pytest.mark.parametrize(
    ("added", "sentence"),
    [
        ("seeds: [0]\nseeds: [1]\n", r"\.yaml, line \d+: the key 'seeds' stands twice$"),
        ("training: {epochs: 1, epochs: 2}\n", r"\.yaml, line \d+: the key 'epochs' stands twice$"),
        ("seeds: [0\n", r"\.yaml is not valid YAML, line \d+: while parsing a flow sequence, expected ',' or '\]'"),
        ("seeds: \0\n", r"\.yaml is not valid YAML: special characters are not allowed \(character \d+\)$"),
        ("seeds: 3\n", r"'seeds' is 3: it should be a list, such as \[3\]$"),
        ("training: {epochs: true}\n", "'training': epochs is true: it is no switch, give a value$"),
        ("pruning: {sparsities: []}\n", r"'pruning.sparsities' is \[\]: it should have at least 1 item, not 0$"),
        ("training: 3\n", "'training' is 3: it should be a mapping of settings$"),
        ("training: {epochs: 1:30}\n", "'training.epochs' is \"1:30\": it should be a valid integer"),
    ],
)
def test_what_nobody_means_is_refused_in_one_sentence(tmp_path: Path, added: str, sentence: str) -> None:
    with pytest.raises(ValueError, match=sentence) as refused:
        load(tmp_path, USUAL + added)
    assert "\n" not in str(refused.value)


def test_switches_take_truth_values() -> None:
    assert TrainingConfig(nesterov=True).nesterov
