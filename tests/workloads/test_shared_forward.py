"""Networks that begin alike: measured together as each by itself, to the last bit, with the common part run once."""

import copy
import dataclasses
from collections.abc import Callable

import pytest
import torch
import torchvision
from torch import Tensor, nn

from tests.conftest import with_statistics
from workloads.compression.compress import Sources, compress
from workloads.config import CompressionConfig
from workloads.data.samples import Dataset, Samples
from workloads.measuring.evaluation import evaluate, evaluate_together
from workloads.structure.network import Network

BATCH = 40


@pytest.fixture
def coloured(digits: Dataset) -> Dataset:
    """Digits with three channels."""
    images = digits.test.images.repeat(1, 3, 1, 1)
    test = Samples(digits.test.labels, (3, 32, 32), images)
    return dataclasses.replace(digits, train=test, test=test, mean=digits.mean * 3, std=digits.std * 3)


def pruned(model: nn.Module, shape: tuple[int, ...], group: int | None) -> list[nn.Module]:
    """The network without any and with fewer neurons of a group, or of all, by two methods."""
    example = torch.zeros(1, *shape)
    network = Network.prepared(model, example)
    configs = [
        CompressionConfig(group=group, sparsity=sparsity, method={"name": method})
        for sparsity in (0.0, 0.3, 0.6)
        for method in ("conventional", "intra-fusion")
    ]
    return [compress(network, config, Sources(example)).model for config in configs]


def first_convolution(model: nn.Module) -> nn.Module:
    return next(module for module in model.modules() if isinstance(module, nn.Conv2d))


def runs_of_the_first_layer(models: list[nn.Module], measure: Callable[[], object]) -> int:
    """How often the networks' first convolutions run while `measure` is called."""
    count = 0

    def counted(*_: object) -> None:
        nonlocal count
        count += 1

    hooks = [first_convolution(model).register_forward_hook(counted) for model in models]
    measure()
    for hook in hooks:
        hook.remove()
    return count


def assert_equal_together_and_alone(models: list[nn.Module], dataset: Dataset, *, shared: bool) -> None:
    together = evaluate_together(models, dataset, BATCH)
    alone = [evaluate(model, dataset, BATCH) for model in models]
    for one, other in zip(together, alone, strict=True):
        assert dataclasses.replace(one, seconds=0) == dataclasses.replace(other, seconds=0)
    assert len({measurement.loss for measurement in alone}) > 1, "the networks differ"

    tried = 1 + len(models)  # on the example, together and alone
    batches = -(-len(dataset.test_pool) // BATCH)
    runs = runs_of_the_first_layer(models, lambda: evaluate_together(models, dataset, BATCH))
    assert (runs == tried + batches) if shared else (runs >= len(models) * batches)


@pytest.mark.parametrize("group", [0, 5])
@pytest.mark.parametrize("name", ["vgg", "resnet"])
def test_the_papers_networks(request: pytest.FixtureRequest, digits: Dataset, name: str, group: int) -> None:
    models = pruned(request.getfixturevalue(name), digits.shape, group)
    assert_equal_together_and_alone(models, digits, shared=True)


def test_one_of_torchvisions_networks(coloured: Dataset) -> None:
    torch.manual_seed(0)
    model = with_statistics(torchvision.models.mobilenet_v3_small(num_classes=10))
    assert_equal_together_and_alone(pruned(model, coloured.shape, 3), coloured, shared=True)


def test_networks_with_nothing_in_common(vgg: nn.Module, digits: Dataset) -> None:
    models = pruned(vgg, digits.shape, None)[2:]
    assert_equal_together_and_alone(models, digits, shared=False)


def test_one_network(vgg: nn.Module, digits: Dataset) -> None:
    (measured,) = evaluate_together([vgg], digits)
    assert dataclasses.replace(measured, seconds=0) == dataclasses.replace(evaluate(vgg, digits), seconds=0)


class Small(nn.Module):
    """Two convolutions and a classifier, with something between the convolutions that is hard to split."""

    def __init__(self, between: Callable[[Tensor, nn.Module], Tensor]):
        super().__init__()
        self.first, self.second = nn.Conv2d(1, 4, 3, stride=2), nn.Conv2d(4, 4, 1)
        self.between = between
        self.classifier = nn.Linear(4, 10)

    def forward(self, x: Tensor) -> Tensor:
        return self.classifier(self.between(self.first(x), self.second).mean((2, 3)))


def branching(x: Tensor, second: nn.Module) -> Tensor:
    """What `torch.fx` cannot trace."""
    return second(x) if x.mean() > 0 else second(-x)


def different_on_symbols(x: Tensor, second: nn.Module) -> Tensor:
    """What `torch.fx` traces wrongly."""
    return second(x) if isinstance(x, Tensor) else second(-x)


def changing_in_place(x: Tensor, second: nn.Module) -> Tensor:
    """What spoils the common values for the next network."""
    return x.mul_(second(x).sigmoid())


@pytest.mark.parametrize("between", [branching, different_on_symbols, changing_in_place])
def test_networks_that_cannot_be_split(digits: Dataset, between: Callable[[Tensor, nn.Module], Tensor]) -> None:
    torch.manual_seed(0)
    models = [Small(between) for _ in range(3)]
    for model in models[1:]:
        model.first, model.classifier = copy.deepcopy(models[0].first), copy.deepcopy(models[0].classifier)
    assert_equal_together_and_alone(models, digits, shared=False)
