"""The user's own criteria and methods change nothing of what comes after them, whatever they do."""

import random
import sys
from collections.abc import Callable

import numpy as np
import pytest
import torch
from torch import Tensor, nn

from workloads.compression.compress import Sources, compress, score
from workloads.compression.criteria import CRITERIA
from workloads.compression.criteria.magnitude import l1
from workloads.compression.pairings import Pairings
from workloads.config import CompressionConfig, ModelConfig
from workloads.isolation import SETTINGS, isolated
from workloads.networks.models import build
from workloads.structure.groups import Group, Maps
from workloads.structure.network import Network

IMAGES = torch.randn(8, 1, 32, 32, generator=torch.Generator().manual_seed(0))
BATCHES = [(IMAGES, torch.arange(8) % 10)]
SOURCES = Sources(IMAGES[:1], batches=BATCHES, images=[IMAGES])


@pytest.fixture
def network(vgg: nn.Module) -> Network:
    return Network.prepared(vgg, IMAGES[:1])


def first(model: nn.Module, kind: type[nn.Module] = nn.Conv2d) -> nn.Module:
    return next(module for module in model.modules() if isinstance(module, kind))


def silence(model: nn.Module) -> None:
    with torch.no_grad():
        first(model).weight[0] = 0


def silence_behind_autograds_back(model: nn.Module) -> None:
    first(model).weight.data.zero_()
    first(model, nn.BatchNorm2d).running_mean.numpy()[:] = 7


def replace_a_layer(model: nn.Module) -> None:
    model.get_submodule("features").register_module("0", nn.Identity())


def keep_a_hook(model: nn.Module) -> None:
    first(model).register_forward_hook(lambda module, inputs, output: output * 0)


SLIPS_ON_NETWORKS: list[Callable[[nn.Module], object]] = [
    silence,
    silence_behind_autograds_back,
    replace_a_layer,
    keep_a_hook,
    lambda model: model.train()(IMAGES),
    lambda model: model.requires_grad_(False),
    lambda model: model.double(),
    lambda model: first(model).register_buffer("mask", torch.zeros(1)),
    lambda model: nn.functional.cross_entropy(model(IMAGES), BATCHES[0][1]).backward(),
]
SLIPS_ON_THE_PROCESS: list[Callable[[], object]] = [
    lambda: (torch.manual_seed(1), random.seed(1), np.random.seed(1)),
    lambda: (torch.rand(3), random.random(), np.random.rand(3)),
    lambda: torch.set_num_threads(2),
    lambda: torch.set_default_dtype(torch.float64),
    lambda: torch.set_default_device("meta"),
    lambda: torch.set_grad_enabled(False),
    lambda: torch.inference_mode().__enter__(),
    lambda: torch.autocast("cpu", torch.bfloat16).__enter__(),
    lambda: torch.set_autocast_enabled("cpu", True),
    lambda: torch.set_autocast_dtype("cpu", torch.float16),
    lambda: torch.set_autocast_cache_enabled(False),
    lambda: torch.use_deterministic_algorithms(True, warn_only=True),
    lambda: torch.autograd.set_detect_anomaly(True),
    lambda: torch.set_float32_matmul_precision("medium"),
    lambda: setattr(torch.backends.cudnn, "allow_tf32", False),
    lambda: setattr(torch.backends, "fp32_precision", "ieee"),
    lambda: setattr(torch.backends.mkldnn, "enabled", False),
    lambda: torch.backends.mha.set_fastpath_enabled(False),
    lambda: np.seterr(all="raise"),
    lambda: nn.modules.module.register_module_forward_hook(lambda module, inputs, output: output * 0),
    lambda: nn.modules.module.register_module_module_registration_hook(lambda module, name, child: nn.Identity()),
]


def process() -> list[str]:
    """Everything that belongs to the process, as text."""
    modules = vars(nn.modules.module)
    hooks = [len(found) for name, found in modules.items() if name.startswith("_global_") and isinstance(found, dict)]
    states = (torch.is_grad_enabled(), torch.is_inference_mode_enabled())
    values = [read() for read, _ in SETTINGS]
    return [str(v.tolist() if isinstance(v, Tensor) else v) for v in (*values, *hooks, *states)]


def results(network: Network) -> list[Tensor]:
    """What built-in criteria and methods make of a network."""
    group = len(network.structure.groups) - 1
    scores = [score(network, group, {"name": name}, SOURCES)[1] for name in ("l1", "taylor", "hessian", "chip")]
    config = CompressionConfig(sparsity=0.5, group=group, method={"name": "reconstruction"}, repair="data")
    with torch.no_grad():
        return [*scores, network.model(IMAGES), compress(network, config, SOURCES).model(IMAGES)]


def unchanged(network: Network, slip: Callable[[], object]) -> None:
    before, settings = results(network), process()
    frozen = [parameter.requires_grad for parameter in network.model.parameters()]
    slip()
    assert process() == settings
    assert not network.model.training
    assert [parameter.requires_grad for parameter in network.model.parameters()] == frozen
    assert all(map(torch.equal, results(network), before))


class Slip:
    """The slip that the criterion and the method below make."""

    made: Callable[..., object] = staticmethod(lambda *given: None)


def criterion(model: nn.Module, group: Group, *, batches: list, statistics: dict, example: Tensor) -> Tensor:
    scores = torch.arange(float(group.size))
    Slip.made(model, group, batches, statistics, example)
    return scores


def method(
    pairings: Pairings, importance: Tensor, m: int, *, model: nn.Module, original: tuple, images: list, statistics: dict
) -> Maps:
    matrix = torch.eye(pairings.size)[:m]
    Slip.made(pairings, importance, model, original, images, statistics)
    return Maps(matrix, matrix)


CRITERION, METHOD = ({"name": f"{__name__}:{function.__name__}"} for function in (criterion, method))


def run_criterion(network: Network) -> None:
    group = network.structure.groups[-1]
    scores = score(network, group.number, CRITERION, SOURCES)[1]
    assert scores.tolist() == list(range(group.size))


def run_method(network: Network) -> None:
    compress(network, CompressionConfig(sparsity=0.5, method=METHOD), SOURCES)


@pytest.mark.parametrize("slip", SLIPS_ON_NETWORKS)
def test_what_own_code_does_to_a_network_reaches_no_other_result(
    network: Network, slip: Callable, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(Slip, "made", lambda model, *others: slip(model))
    unchanged(network, lambda: run_criterion(network))
    monkeypatch.setattr(Slip, "made", lambda pairings, importance, model, original, *others: slip(original[0]))
    unchanged(network, lambda: run_method(network))


@pytest.mark.parametrize("slip", SLIPS_ON_THE_PROCESS)
def test_what_own_code_does_to_the_process_is_put_back(
    network: Network, slip: Callable, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(Slip, "made", lambda *given: slip())
    unchanged(network, lambda: run_criterion(network))


def test_what_own_code_does_before_it_fails_is_put_back_too(network: Network, monkeypatch: pytest.MonkeyPatch) -> None:
    def fail(model: nn.Module, *others: object) -> None:
        silence(model)
        torch.set_default_dtype(torch.float64)
        raise RuntimeError("the user's own mistake")

    def run() -> None:
        with pytest.raises(RuntimeError, match="the user's own mistake"):
            run_criterion(network)

    monkeypatch.setattr(Slip, "made", fail)
    unchanged(network, run)


def test_images_labels_scores_weights_and_groups_that_own_code_changes_are_copies(
    network: Network, monkeypatch: pytest.MonkeyPatch
) -> None:
    images, labels = IMAGES.clone(), BATCHES[0][1].clone()

    def spoil_inputs(model: nn.Module, group: Group, batches: list, statistics: dict, example: Tensor) -> None:
        batches[0][0].zero_()
        batches[0][1].fill_(3)
        batches.clear()
        example.fill_(9)
        for mean, _ in statistics.values():
            mean.zero_()
        statistics.clear()
        for member in group.members:
            member.index.flip(0).zero_()
            member.index.zero_()

    monkeypatch.setattr(Slip, "made", spoil_inputs)
    unchanged(network, lambda: run_criterion(network))

    pairings, scores = score(network, 1, {"name": "l1"}, SOURCES)
    known = pairings.incoming.clone(), pairings.directions.clone(), pairings.distances(1.0).clone(), scores.clone()

    def spoil_weights(pairings: Pairings, importance: Tensor, *others: object) -> None:
        for tensor in (pairings.incoming, pairings.outgoing, pairings.directions, pairings.distances(1.0), importance):
            tensor.sub_(1)

    monkeypatch.setattr(Slip, "made", spoil_weights)
    config = CompressionConfig(sparsity=0.5, group=1, method=METHOD)
    unchanged(network, lambda: compress(network, config, SOURCES, scored=lambda number: (pairings, scores)))
    found = pairings.incoming, pairings.directions, pairings.distances(1.0), scores
    assert all(map(torch.equal, found, known))
    assert torch.equal(IMAGES, images)
    assert torch.equal(BATCHES[0][1], labels)


def test_scores_do_not_follow_a_tensor_that_own_code_keeps(network: Network, monkeypatch: pytest.MonkeyPatch) -> None:
    kept = torch.ones(network.structure.groups[0].size)
    monkeypatch.setattr(f"{__name__}.criterion", lambda model, group: kept)
    scores = score(network, 0, CRITERION, SOURCES)[1]
    kept.zero_()
    assert scores.min() == 1


def test_own_code_draws_the_same_whatever_ran_before() -> None:
    def draw() -> list[float]:
        return [*torch.rand(2).tolist(), random.random(), float(np.random.rand())]

    first_time = isolated(draw, "criterion 'draw'", 5)()
    torch.rand(7)
    random.random()
    assert isolated(draw, "criterion 'draw'", 5)() == first_time
    assert isolated(draw, "criterion 'draw'", 6)() != first_time


def test_registered_functions_are_given_what_they_ask_for_itself(
    network: Network, monkeypatch: pytest.MonkeyPatch
) -> None:
    seen: list[nn.Module] = []

    def record(model: nn.Module, group: Group) -> Tensor:
        seen.append(model)
        return l1(model, group)

    monkeypatch.setitem(CRITERIA, "record", record)
    score(network, 0, {"name": "record"}, SOURCES)
    monkeypatch.setattr(f"{__name__}.criterion", record)
    score(network, 0, CRITERION, SOURCES)
    assert [model is network.model for model in seen] == [True, False]


def test_what_a_models_function_does_to_the_process_is_put_back(monkeypatch: pytest.MonkeyPatch) -> None:
    for slip in SLIPS_ON_THE_PROCESS:

        def model(*, num_classes: int, slip: Callable[[], object] = slip) -> nn.Module:
            slip()
            return nn.Linear(3, 3)

        monkeypatch.setattr(f"{__name__}.model", model, raising=False)
        before = process()
        build(ModelConfig(name=f"{__name__}:model"), channels=3, classes=3)
        assert process() == before


def test_what_cannot_be_copied_is_an_error_that_names_the_function() -> None:
    import threading

    with pytest.raises(ValueError, match=r"what criterion 'mine' is given cannot be copied \(TypeError: cannot pickle"):
        isolated(lambda lock: None, "criterion 'mine'")(threading.Lock())


def test_a_worker_that_is_ended_from_outside_blames_no_function() -> None:
    def ended() -> None:
        error = SystemExit(1)
        vars(error)["ray_terminate_msg"] = "The process receives a SIGTERM."  # as Ray's own handler raises it
        raise error

    with pytest.raises(SystemExit):
        isolated(ended, "criterion 'own:ended'")()
    with pytest.raises(RuntimeError, match=r"tries to end the process \(sys.exit\)"):
        isolated(sys.exit, "criterion 'own:leaves'")()
