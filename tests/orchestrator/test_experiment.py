from pathlib import Path

import pytest
import yaml
from pydantic import BaseModel

from orchestrator import Experiment
from orchestrator.settings.reading import built_in

MINIMAL = "name: mine\ndataset: {name: digits}\nmodel: {name: vgg11_bn}\n"


@pytest.fixture
def write(tmp_path: Path):
    def write(text: str) -> Path:
        path = tmp_path / "experiment.yaml"
        path.write_text(text)
        return path

    return write


def test_defaults_are_the_papers(write) -> None:
    experiment = Experiment.load(write(MINIMAL))
    assert experiment.training.epochs == 300
    assert experiment.training.learning_rate == 0.05
    assert experiment.fine_tuning.learning_rate == 0.01
    assert experiment.pruning[0].sparsities == (0.1, 0.2, 0.3, 0.4, 0.5, 0.6, 0.7)
    assert [method.label for method in experiment.pruning[0].methods] == ["conventional", "intra-fusion"]


def test_the_resolved_experiment_reads_back_as_the_same(write) -> None:
    for name in built_in():
        experiment = Experiment.load(name)
        assert Experiment.load(write(experiment.to_yaml())) == experiment


def test_overrides(write) -> None:
    path = write(MINIMAL)
    experiment = Experiment.load(path, ["model.width=0.5", "training.epochs=3", "pruning.methods=[{name: l, p: 2}]"])
    assert experiment.models[0].width == 0.5
    assert experiment.training.epochs == 3
    assert experiment.pruning[0].methods[0].label == "l(p=2)"


def test_an_override_without_a_number_goes_to_every_grid_and_model() -> None:
    experiment = Experiment.load("quickstart", ["pruning.sparsities=[0.25]", "model.width=0.25", "pruning.1.steps=3"])
    assert [grid.sparsities for grid in experiment.pruning] == [(0.25,), (0.25,)]
    assert [model.width for model in experiment.models] == [0.25, 0.25]
    assert experiment.pruning[1].steps == 3


SCALES = """
scales:
  small:
    dataset: {name: digits, size: 32}
    model.width: 0.25
    training.epochs: 3
  tiny: {seeds: [1]}
"""


def test_a_scale_changes_what_it_lists_and_the_name(write) -> None:
    plain = Experiment.load(write(MINIMAL))
    path = write(MINIMAL + SCALES)
    assert Experiment.load(path) == plain
    small = Experiment.load(path, ["scale=small", "training.epochs=5"])
    assert (small.name, small.models[0].width, small.training.epochs) == ("mine-small", 0.25, 5)
    assert small.dataset.size == 32
    assert Experiment.load(path, ["name=other", "scale=tiny"]).name == "other"
    with pytest.raises(ValueError, match=r"has no scale 'smal'; did you mean 'small'\? It has: small, tiny"):
        Experiment.load(path, ["scale=smal"])
    with pytest.raises(ValueError, match="'scales' maps names such as small to changes"):
        Experiment.load(write(MINIMAL + "scales: [small]\n"))


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("sparsitys: [0.5]", r"unknown key 'pruning.sparsitys'; did you mean 'sparsities'\? Allowed: mode, pipelines"),
        ("sparsities: [0.5, 1.5]", r"'pruning.sparsities.1' is 1.5: it should be less than 1"),
        ("sparsities: [-0.1]", r"'pruning.sparsities.0' is -0.1: it should be greater than or equal to 0"),
        ("mode: datafree", r"'pruning.mode' is \"datafree\": it should be 'data-free' or 'fine-tuned'"),
        ("groups: some", r"'pruning.groups' is \"some\": it should be 'each', 'all' or a list of group numbers"),
        ("groups: [-1]", r"'pruning.groups' is \[-1\]: it should be 'each', 'all' or a list"),
        (
            "repair: [all]",
            r"'pruning.repair.0' is \"all\": it should be 'none', 'data-free', 'data' or 'least-squares'",
        ),
        (
            "repair: {name: data, images: 3}",
            r"'pruning.repair.*' is .*'data' has no options: leave out images|'data' has no",
        ),
        ("repair: {name: least-squares, image: 3}", r"unknown key 'pruning.repair.image'; did you mean 'images'\?"),
        ("repair: {name: least-squares, images: -1}", r"'pruning.repair.images' is -1: it should be"),
        ("repair: {name: least-squares, kind: mixed}", r"kind belong to images: synthetic; here images is 512"),
        (
            "allocation: global",
            r"allocation is global, which spreads a sparsity over several groups: set groups to all",
        ),
        ("round_to: 0", r"'pruning.round_to' is 0: it should be greater than 0"),
        ("sparsity_of: weight", r"'pruning.sparsity_of' is \"weight\": it should be 'neurons', 'weights', 'macs'"),
        ("landscape: {size: 1}", r"'pruning.landscape.size' is 1: it should be greater than or equal to 2"),
        ("{landscape: {}, methods: [conventional]}", "a landscape is a plane through two methods' networks"),
        ("fusion: {alignment: weight}", r"'pruning.fusion.alignment' is \"weight\": it should be 'activations'"),
        ("fusion: [{samples: 0}]", r"'pruning.fusion.0.samples' is 0: it should be greater than 0"),
        (
            "pipelines: [whole]",
            r"'pruning.pipelines.0' is \"whole\": it should be 'whole-data', 'fap', 'paf' or 'fuse'",
        ),
    ],
)
def test_bad_pruning_is_one_clear_sentence(write, text: str, message: str) -> None:
    with pytest.raises(ValueError, match=message) as caught:
        Experiment.load(write(MINIMAL + f"pruning:\n  {text}\n"))
    assert "\n" not in str(caught.value)


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("name: a\nmodel: {name: b}", "the key 'dataset' is missing"),
        (MINIMAL + "sedes: [1]", r"unknown key 'sedes'; did you mean 'seeds'\?"),
        (MINIMAL + "splits: {folds: 3}", "folds is 3: it must be even"),
        (MINIMAL + "training: {learning_rate: 0}", "'training.learning_rate' is 0: it should be greater than 0"),
        (MINIMAL + "models: [{name: resnet18}]", "give either model or models, not both"),
        (MINIMAL.replace("mine", "../escape"), "'name' is \"../escape\": it may have letters"),
        (
            MINIMAL.replace("{name: vgg11_bn}", "{name: vgg11_bn, widht: 1}"),
            "unknown key 'model.widht'; did you mean 'width'",
        ),
        (MINIMAL + "seeds: []", "'seeds' is"),
        (MINIMAL.replace("}", "", 1), "is not valid YAML"),
        ("just text", "must be a mapping"),
        ("", "must be a mapping"),
        (MINIMAL + "fine_tuning: {epochs: 0}\npruning: {mode: fine-tuned}", "fine_tuning.epochs is 0"),
        (MINIMAL.replace("11_bn", "11_bn, checkpoint: a") + "pipelines: [fap]", "model.checkpoint replaces training"),
        (
            MINIMAL.replace("model: {name: vgg11_bn}", "models: [{name: resnet18}, {name: resnet18}]"),
            "models has the same twice",
        ),
        (MINIMAL + 'pruning: {criteria: [l1, "mine:l1"]}', "two different functions named 'l1'"),
        (
            MINIMAL + "splits: {share: 0.7}",
            "mode is unions and share 0.7: overlapping stretches need a share, others none",
        ),
        (MINIMAL + "fusion: [{}, {samples: 200}]", r"fusion has the same twice \(activations, activations\)"),
        (MINIMAL + "fusion: {weihgts: equal}", r"unknown key 'fusion.weihgts'; did you mean 'weights'"),
        (MINIMAL + "splits: {folds: 26}", "'splits.folds' is 26: it should be less than or equal to 12"),
    ],
)
def test_bad_experiments_are_one_clear_sentence(write, text: str, message: str) -> None:
    with pytest.raises(ValueError, match=message) as caught:
        Experiment.load(write(text))
    assert "\n" not in str(caught.value)


@pytest.mark.parametrize(
    ("override", "message"),
    [
        ("training.epochs", "write key=value"),
        ("training.epochs=[", "not valid YAML"),
        ("models.7.width=1", "the list has 2 items"),
        ("name.first=1", "'quickstart' has no setting 'first'"),
        ("training.epoch=1", r"unknown key 'training.epoch'; did you mean 'epochs'\?"),
    ],
)
def test_bad_overrides(override: str, message: str) -> None:
    with pytest.raises(ValueError, match=message):
        Experiment.load("quickstart", [override])


def test_missing_experiments() -> None:
    with pytest.raises(FileNotFoundError, match=r"no built-in experiment 'quikstart'; did you mean 'quickstart'\?"):
        Experiment.load("quikstart")
    with pytest.raises(FileNotFoundError, match=r"experiment file 'no\.yaml' does not exist"):
        Experiment.load("no.yaml")


def test_yaml_cannot_run_code(write) -> None:
    with pytest.raises(ValueError, match="not valid YAML"):
        Experiment.load(write("name: !!python/object/apply:os.system ['true']"))


def test_every_setting_is_documented() -> None:
    def undocumented(model: type[BaseModel]) -> list[str]:
        return [f"{model.__name__}.{name}" for name, field in model.model_fields.items() if not field.description]

    from orchestrator.settings import experiment
    from workloads import config

    models = [m for module in (experiment, config) for m in vars(module).values() if isinstance(m, type)]
    assert [name for m in models if hasattr(m, "model_fields") for name in undocumented(m)] == []


def test_built_in_experiments_say_what_they_are() -> None:
    assert all(len(about) > 20 for about in built_in().values())
    assert yaml.safe_load(Experiment.load("quickstart").to_yaml())["name"] == "quickstart"


def test_model_takes_a_list_too() -> None:
    settings = {"name": "two", "dataset": {"name": "digits"}, "model": [{"name": "vgg11_bn"}, {"name": "resnet18"}]}
    assert [model.name for model in Experiment.model_validate(settings).models] == ["vgg11_bn", "resnet18"]
