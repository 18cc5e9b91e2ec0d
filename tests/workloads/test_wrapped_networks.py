"""Networks that come wrapped, compiled or with weights of their own: those inside are followed, or a part is named."""

import copy
from collections.abc import Callable

import pytest
import torch
from torch import Tensor, nn
from torch.nn import functional as F
from torch.nn.utils import parametrizations

from tests.workloads.layers import IMAGES, net
from workloads.structure.finding import trace
from workloads.structure.network import Network


def test_layers_whose_weights_cannot_be_followed_are_named() -> None:
    parametrized = net()
    parametrizations.weight_norm(parametrized[0])
    ((name, reason),) = trace(parametrized, IMAGES[:1]).kept
    assert (name, reason) == ("0", "layer '0' (ParametrizedConv2d) computes its weight from other tensors")


@pytest.mark.filterwarnings("ignore:.*torch.jit.*")
def test_scripted_networks_and_parts_are_named() -> None:
    part = net()
    part[0] = torch.jit.script(part[0])
    assert trace(part, IMAGES[:1]).kept == (("0", "layer '0' is compiled by TorchScript"),)
    with pytest.raises(ValueError, match="compiled by TorchScript: give the module that it was made from"):
        Network.prepared(torch.jit.script(net()), IMAGES[:1])


class OwnWeight(nn.Module):
    """Keeps a weight itself, in no layer."""

    def __init__(self, middle: int):
        super().__init__()
        self.conv, self.mixing = nn.Conv2d(3, 8, 3), nn.Parameter(torch.ones(middle, 8))
        self.fc = nn.Linear(middle, 5)

    def forward(self, x: Tensor) -> Tensor:
        return self.fc(F.linear(self.conv(x).mean((2, 3)), self.mixing))  # type: ignore[no-any-return]


def test_the_networks_own_weights_are_named() -> None:
    with pytest.raises(
        ValueError, match=r"the network: the network itself keeps its weight under another name \(mixing"
    ):
        trace(OwnWeight(6), IMAGES[:1])


@pytest.mark.parametrize("wrap", [torch.compile, nn.DataParallel])
def test_wrapped_networks_are_those_inside(wrap: Callable[[nn.Module], nn.Module]) -> None:
    network = Network.prepared(wrap(net()), IMAGES[:1])
    assert type(network.model) is nn.Sequential
    assert [group.layers for group in network.structure.groups] == [("2",), ("0",)]


class Tagged(Tensor):
    """A subclass of tensors, as data sets of torchvision give them."""


def test_an_example_of_a_subclass_of_tensor_loses_no_groups() -> None:
    assert len(trace(net(), IMAGES[:1].as_subclass(Tagged)).groups) == 2


class Output(dict):
    """As Hugging Face's ModelOutput."""

    @property
    def logits(self) -> Tensor:
        return self["logits"]


@pytest.mark.parametrize(
    "wrap", [lambda y: {"out": y}, lambda y: Output(logits=y), lambda y: (y, y.sum()), lambda y: [y]]
)
def test_logits_are_found_in_what_networks_return(wrap: Callable[[Tensor], object]) -> None:
    class Wrapping(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.body = net()

        def forward(self, x: Tensor) -> object:
            return wrap(self.body(x))

    network = Network.prepared(Wrapping(), IMAGES[:1])
    assert len(network.structure.groups) == 2
    torch.testing.assert_close(network.model(IMAGES), net()(IMAGES))
    assert isinstance(copy.deepcopy(network.model)(IMAGES), Tensor)
