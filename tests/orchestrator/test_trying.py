"""`plan` tries out what a run will do: what would fail after hours fails before anything starts."""

from pathlib import Path

import pytest
import torch
from rich.console import Console

from orchestrator import Experiment, printing
from orchestrator.planning.building import make_plan
from orchestrator.planning.facts import gather
from tests.conftest import TINY

OWN = """\
import torch
from torch import nn

from workloads.structure.groups import Maps


def nothing(model, group):
    return None


def raises(model, group):
    raise KeyError("k")


def by_original(model, group, original):
    return torch.ones(group.size)


def flat(pairings, importance, m):
    return torch.eye(pairings.size)[:m]


def none_net(*, in_channels=3, num_classes=10):
    return None


def no_config():
    return None


class CutOff(nn.Module):
    def __init__(self, channels, classes):
        super().__init__()
        self.wide, self.small, self.fc = nn.Conv2d(channels, 8, 3), nn.Conv2d(8, 4, 3), nn.Linear(4, classes)

    def forward(self, x):
        return self.fc(self.small(self.wide(x).relu().detach()).relu().mean((2, 3)))


def cut_off(*, in_channels=3, num_classes=10):
    return CutOff(in_channels, num_classes)


def stops(model, group):
    raise SystemExit(3)


class Textless(Exception):
    def __str__(self):
        raise RuntimeError("none")


def textless(model, group):
    raise Textless


def odd_text(model, group):
    raise ValueError("caf\\udce9")


def lacking(config):
    raise KeyError("q")


class Silent(nn.Conv2d):
    def forward(self, x):
        return None


def silent(*, in_channels=3, num_classes=10):
    return Silent(in_channels, num_classes, 1)


class Leaving(nn.Conv2d):
    def forward(self, x):
        raise SystemExit(3)


def leaving(*, in_channels=3, num_classes=10):
    return Leaving(in_channels, num_classes, 1)


class Auxiliary(nn.Sequential):
    def forward(self, x):
        logits = super().forward(x)
        return {"parts": [logits]} if self.training else logits


def auxiliary(*, in_channels=3, num_classes=10):
    layers = nn.Conv2d(in_channels, 8, 3), nn.ReLU(), nn.Conv2d(8, 8, 3), nn.ReLU()
    return Auxiliary(*layers, nn.AdaptiveAvgPool2d(1), nn.Flatten(), nn.Linear(8, num_classes))


class Counting(nn.Module):
    def __init__(self):
        super().__init__()
        self.register_buffer("seen", torch.zeros(()))

    def forward(self, x):
        self.seen += len(x)
        return x


def counting(*, in_channels=3, num_classes=10):
    return nn.Sequential(*auxiliary(in_channels=in_channels, num_classes=num_classes), Counting())


class Deciding(nn.Module):
    def forward(self, x):
        return 2 * x if float(x.detach().sum()) > 0 else x


def plain(*, in_channels=3, num_classes=10):
    return nn.Sequential(*auxiliary(in_channels=in_channels, num_classes=num_classes))


def deciding(*, in_channels=3, num_classes=10):
    return nn.Sequential(*auxiliary(in_channels=in_channels, num_classes=num_classes), Deciding())


def frozen(*, in_channels=3, num_classes=10):
    return auxiliary(in_channels=in_channels, num_classes=num_classes).requires_grad_(False).eval()
"""


@pytest.fixture(autouse=True)
def _own_code(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    (tmp_path / "own_functions.py").write_text(OWN)
    (tmp_path / "own_exit.py").write_text("raise SystemExit(3)\n")
    (tmp_path / "torch.py").write_text("def rank(model, group): ...\n")
    monkeypatch.syspath_prepend(str(tmp_path))


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        (
            {"pruning": {"groups": [0], "criteria": ["l1", "own_functions:nothing"]}},
            "criterion 'own_functions:nothing' cannot rank group 0 of model 'vgg11_bn': .* gave NoneType",
        ),
        (
            {"pruning": {"groups": [0], "criteria": ["own_functions:raises"]}},
            "criterion 'own_functions:raises' cannot rank group 0 of model 'vgg11_bn': KeyError: 'k'",
        ),
        (
            {"pruning": {"groups": [0], "criteria": ["own_functions:by_original"]}},
            "criterion 'own_functions:by_original' asks for 'original', which no criterion is given",
        ),
        (
            {"pruning": {"methods": ["own_functions:flat"], "repair": "data"}},
            "method 'own_functions:flat' with repair 'data' cannot compress group .* it has to return .*Maps",
        ),
        (
            {"pruning": {"criteria": ["own_functions:stops"]}},
            r"criterion 'own_functions:stops' cannot rank .* tries to end the process \(sys.exit\)",
        ),
        ({"model": {"name": "own_functions:none_net"}}, "model 'own_functions:none_net' gave NoneType"),
        ({"model": {"name": "own_functions:auxiliary"}}, "cannot be trained: in training mode it returns dict"),
        ({"model": {"name": "own_functions:frozen"}}, "cannot be trained"),
        (
            {"model": {"name": "own_functions:cut_off"}, "pruning": {"criteria": ["l1", "hessian"]}},
            "criterion 'hessian' cannot rank group 1 of .*: no gradient reaches the layers 'wide'",
        ),
        ({"model": {"name": "own_functions:counting"}}, "changes its '7.seen' whenever it runs"),
        (
            {
                "model": {"name": "vit_cifar", "width": 0.1, "options": {"depth": 1}},
                "pruning": {"methods": ["conventional", "intra-fusion"]},
            },
            "method 'intra-fusion' averages neurons, which has no meaning for groups of kind heads",
        ),
        (
            {"model": {"name": "own_functions:silent"}},
            "'own_functions:silent' returns NoneType for an image",
        ),
        ({"model": {"name": "own_functions:leaving"}}, "'own_functions:leaving' fails on an image of .*SystemExit: 3"),
        ({"model": {"name": "os:system"}}, "model 'os:system' needs its option 'command'"),
        ({"model": {"name": "own_exit:net"}}, r"'own_exit:net': the module cannot be imported \(SystemExit: 3\)"),
        (
            {"pruning": {"criteria": ["torch:rank"]}},
            "torch.py' has the name of a module of Python's or an installed",
        ),
        ({"pruning": {"criteria": ["own_functions:textless"]}}, "Textless: it has a text that cannot be shown"),
        ({"pruning": {"criteria": ["own_functions:odd_text"]}}, r"caf\\udce9"),
        ({"dataset": {"name": "own_functions:no_config"}}, r"has to take \(config\)"),
        ({"dataset": {"name": "own_functions:lacking"}}, r"dataset 'own_functions:lacking' fails \(KeyError: 'q'\)"),
        ({"dataset": {"name": "os:system"}}, r"dataset 'os:system' fails \(TypeError: "),
        (
            {"dataset": {"name": "digits", "size": 100000}},
            "of 1 × 100000 × 100000 values take .* GiB, but this",
        ),
    ],
)
def test_what_would_fail_in_the_run_is_refused_by_the_plan(changes: dict, message: str) -> None:
    with pytest.raises(ValueError, match=message):
        gather(Experiment.model_validate(TINY | changes))


def test_a_fresh_networks_batch_norms_are_no_obstacle(tiny: Experiment) -> None:
    """They are as if they were empty, but will not be once the network is trained."""
    pruning = {"groups": [0], "sparsities": [0.5], "criteria": ["bn-scale"]}
    assert gather(Experiment.model_validate(TINY | {"pruning": pruning})).models


def test_trying_leaves_random_numbers_as_they_were(tiny: Experiment) -> None:
    torch.manual_seed(5)
    expected = torch.rand(3)
    torch.manual_seed(5)
    gather(tiny)
    assert torch.equal(torch.rand(3), expected)


def test_a_network_that_cannot_be_exported_is_no_obstacle_but_named_where_asked_for(capfd) -> None:
    """Exporting is a later step, which safetensors can always do."""
    models = [{"name": "own_functions:deciding"}, {"name": "own_functions:plain"}]
    changes = {"models": models, "pruning": {"groups": [0], "sparsities": [0.5]}}
    experiment = Experiment.model_validate({key: value for key, value in TINY.items() if key != "model"} | changes)
    facts = gather(experiment, exports=True).models
    assert "data-dependent" in facts["deciding"].not_exportable
    assert facts["plain"].not_exportable is None
    assert capfd.readouterr() == ("", "")
    assert gather(experiment).models["deciding"].not_exportable is None


def test_a_plan_says_which_networks_cannot_be_exported_and_what_trainings_share(
    capsys, monkeypatch: pytest.MonkeyPatch
) -> None:
    changes = {"model": {"name": "own_functions:deciding"}, "resources": {"train": {"gpus": 2, "cpus": 8}}}
    experiment = Experiment.model_validate(TINY | changes)
    facts = gather(experiment, exports=True)
    monkeypatch.setattr(printing, "console", Console(highlight=False, soft_wrap=True))
    printing.show_plan(make_plan(experiment, facts), facts, experiment.resources)
    printed = capsys.readouterr().out
    assert "deciding: the run can make its networks, but `metaprune export` can write them as safetensors alone, " in (
        printed
    )
    assert "train: 2 workers share each training, on 2 GPUs; together they take 8 CPUs." in printed


@pytest.mark.parametrize(("of", "word"), [("weights", "weight"), ("macs", "MAC")])
def test_a_budget_that_cannot_be_reached_is_refused_with_what_can(of: str, word: str) -> None:
    pruning = {"groups": [0, [1, 2]], "sparsities": [0.1, 0.9], "sparsity_of": of}
    experiment = Experiment.model_validate({**TINY, "pruning": pruning})
    message = (
        rf"model 'vgg11_bn', pruning.sparsities: a {word} sparsity of 0\.9 cannot be reached .* at most 0\.\d+ can"
    )
    with pytest.raises(ValueError, match=message):
        gather(experiment)
