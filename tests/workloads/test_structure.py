"""Finding groups: networks that must not be pruned where they cannot be."""

import copy

import pytest
import torch
from torch import Tensor, nn
from torch.nn import functional as F

from workloads.structure.finding import trace
from workloads.structure.groups import PRODUCER, THROUGH, Maps, apply
from workloads.structure.rules import RULES
from workloads.structure.trial import ignore


class Net(nn.Module):
    """Two convolutions and a classifier with a function of the user's between them."""

    def __init__(self, between, read: int = 8, made: int = 8):
        super().__init__()
        self.first, self.second = nn.Conv2d(1, made, 3), nn.Conv2d(read, 6, 1)
        self.head = nn.Linear(6, 3)
        self.between = between
        self.scale = nn.Parameter(torch.ones(made, 1, 1))

    def forward(self, x: Tensor) -> Tensor:
        x = self.between(self, self.first(x).relu())
        return self.head(self.second(x).relu().mean((2, 3)))


def spread(net: Net, x: Tensor) -> Tensor:
    return x[:, :1] * x


REFUSED = {
    "softmax over channels": (lambda net, x: x.softmax(1), 8, "mixes its channels (_softmax)"),
    "a running sum": (lambda net, x: x.cumsum(1), 8, "mixes its channels (cumsum)"),
    "a mean over channels": (lambda net, x: x.mean(1, keepdim=True), 1, "no layer reads its channels one by one"),
    "a constant a channel": (lambda net, x: x * torch.ones(8, 1, 1), 8, "combines it with a tensor of fixed size"),
    "a slice of fixed size": (lambda net, x: x[:, :5], 5, "does not use every channel of the group equally often"),
    "a view of fixed size": (
        lambda net, x: x.view(-1, 2, 4, 4, 4).flatten(1, 2),
        8,
        "does not run with some of its",
    ),
    "a roll by a fixed number": (
        lambda net, x: x.roll(3, 1),
        8,
        "the network gives other outputs with",
    ),
    "the number of channels": (
        lambda net, x: x / x.shape[1],
        8,
        "the network gives other outputs with",
    ),
    "a channel that is special": (lambda net, x: x + x[0, 0, 0, 0].item(), 8, "takes values out of it"),
    "pooling over channels": (lambda net, x: F.avg_pool3d(x[:, None], (2, 1, 1))[:, 0], 4, "mixes its channels"),
    "one channel on all": (spread, 8, "spreads it over other channels"),
    "positions as channels": (lambda net, x: x.flatten(2).transpose(1, 2)[..., None], 16, "differ from place to place"),
}


def test_the_operations_that_are_followed_have_the_names_that_pytorch_gives_them() -> None:
    assert [name for name in RULES if not hasattr(torch.ops.aten, name)] == []


@pytest.mark.parametrize("case", REFUSED)
def test_what_is_not_understood_stays_as_it_is(case: str) -> None:
    between, read, reason = REFUSED[case]
    structure = trace(Net(between, read), torch.randn(1, 1, 6, 6))
    assert [group.layers for group in structure.groups] == [("second",)]
    ((layer, told),) = structure.kept
    assert layer == "first"
    assert reason in told


def test_channels_that_change_their_order_are_followed() -> None:
    """A channel shuffle of sizes taken from the activation, as an odd number of channels breaks it, is refused."""

    def halves(net: Net, x: Tensor) -> Tensor:
        return torch.cat([x[:, x.shape[1] // 2 :], x[:, : x.shape[1] // 2]], 1)

    structure = trace(Net(halves), torch.randn(1, 1, 6, 6))
    assert structure.kept[0][1].startswith("the network gives other outputs")


@pytest.mark.parametrize("pixels", [32, 64])
def test_the_memory_format_makes_no_difference(vgg: nn.Module, resnet: nn.Module, pixels: int) -> None:
    for model in (vgg, resnet):
        images = torch.randn(1, 1, pixels, pixels)
        expected = trace(model, images)
        found = trace(model.to(memory_format=torch.channels_last), images)
        assert [group.layers for group in found.groups] == [group.layers for group in expected.groups]
        assert found.kept == expected.kept == ()


def test_concatenation_keeps_groups_apart() -> None:
    class Joined(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.a, self.b, self.norm = nn.Conv2d(1, 4, 1), nn.Conv2d(1, 6, 1), nn.BatchNorm2d(10)
            self.head = nn.Linear(10, 2)

        def forward(self, x: Tensor) -> Tensor:
            return self.head(self.norm(torch.cat([self.a(x), self.b(x)], 1)).relu().mean((2, 3)))

    model = Joined().eval()
    structure = trace(model, torch.randn(1, 1, 2, 2))
    assert [(group.layers, group.size) for group in structure.groups] == [(("b",), 6), (("a",), 4)]
    assert structure.normalised == ()
    assert structure.groups[0].members[1].index.flatten().tolist() == [4, 5, 6, 7, 8, 9]
    after = structure.narrowed(1, 1)
    assert after.groups[0].members[1].index.flatten().tolist() == [1, 2, 3, 4, 5, 6]


class Widening(nn.Module):
    """As ReXNet's blocks: a shortcut to the first channels of a layer alone, whose number is recorded."""

    def __init__(self, read: int, made: int) -> None:
        super().__init__()
        self.read, self.conv, self.norm = read, nn.Conv2d(read, made, 3, padding=1), nn.BatchNorm2d(made)

    def forward(self, x: Tensor) -> Tensor:
        y = self.norm(self.conv(x))
        return torch.cat([y[:, : self.read] + x, y[:, self.read :]], 1)


def test_channels_that_get_a_shortcut_are_pruned_apart_from_those_that_get_none() -> None:
    torch.manual_seed(0)
    head = nn.Sequential(nn.AdaptiveAvgPool2d(1), nn.Flatten(), nn.Linear(14, 3))
    model = nn.Sequential(nn.Conv2d(1, 6, 1), nn.ReLU(), Widening(6, 10), Widening(10, 14), head).eval()
    images = torch.randn(3, 1, 8, 8)
    structure = trace(model, images[:1])
    assert structure.kept == ()
    assert sorted(group.size for group in structure.groups) == [4, 4, 6]
    ignoring = copy.deepcopy(model)
    for group in structure.groups:
        stay = torch.arange(group.size)[1::2]
        ignore(ignoring, group, stay)
        selection = torch.eye(group.size)[stay]
        apply(model, structure.groups[group.number], Maps(selection, selection))
        structure = structure.narrowed(group.number, len(stay))
    assert [block.read for block in (model[2], model[3])] == [3, 5]
    torch.testing.assert_close(model(images), ignoring(images))


def test_grouped_convolutions_are_pruned_by_their_groups() -> None:
    layers = [nn.Conv2d(1, 6, 1), nn.ReLU(), nn.Conv2d(6, 12, 3, groups=3), nn.ReLU(), nn.Flatten(), nn.Linear(48, 2)]
    model = nn.Sequential(*layers).eval()
    images = torch.randn(4, 1, 4, 4)
    (group,) = trace(model, images[:1]).groups
    assert group.size == 3
    assert {m.side: m.index.shape for m in group.members if m.side in (PRODUCER, THROUGH)} == {
        PRODUCER: (3, 2),
        THROUGH: (3, 4),
    }
    with torch.no_grad():
        model[5].weight.view(2, 3, 16)[:, 1] = 0
    expected = model(images)
    selection = torch.eye(3)[[0, 2]]
    apply(model, group, Maps(selection, selection))
    grouped = model[2]
    assert isinstance(grouped, nn.Conv2d)
    assert (grouped.groups, grouped.in_channels, grouped.out_channels) == (2, 4, 8)
    torch.testing.assert_close(model(images), expected)


def test_a_weight_of_two_layers_stays_as_it_is() -> None:
    layers = [nn.Conv2d(1, 4, 1), nn.Conv2d(4, 4, 1), nn.Conv2d(4, 4, 1), nn.Conv2d(4, 6, 1), nn.Flatten()]
    tied = nn.Sequential(*layers, nn.Linear(24, 2))
    tied[2].weight = tied[1].weight
    structure = trace(tied, torch.randn(1, 1, 2, 2))
    assert [group.layers for group in structure.groups] == [("3",)]
    assert structure.kept[0] == ("2", "layer '2' shares its weight")


def test_batch_norms_of_shared_layers_and_over_tokens_are_not_merged() -> None:
    class Tokens(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.embed, self.norm, self.mix = nn.Linear(5, 6), nn.BatchNorm1d(6), nn.Linear(6, 4)
            self.head = nn.Linear(4, 2)

        def forward(self, x: Tensor) -> Tensor:
            return self.head(self.mix(self.norm(self.embed(x[:, 0]))).relu().mean(1))

    structure = trace(Tokens(), torch.randn(1, 1, 6, 5))
    assert structure.normalised == ()
    assert [group.layers for group in structure.groups] == [("mix",), ("embed",)]

    layers = [nn.Conv2d(1, 4, 1), nn.Conv2d(4, 4, 1), nn.BatchNorm2d(4), nn.Conv2d(4, 4, 1), nn.BatchNorm2d(4)]
    tied = nn.Sequential(*layers, nn.Conv2d(4, 6, 1), nn.Flatten(), nn.Linear(24, 2))
    tied[3].weight = tied[1].weight
    assert trace(tied, torch.randn(1, 1, 2, 2)).normalised == ()


def test_tracing_leaves_everything_as_it_was(resnet: nn.Module) -> None:
    before = {name: tensor.clone() for name, tensor in resnet.state_dict().items()}
    state = torch.get_rng_state()
    hooks = [(len(module._forward_hooks), len(module._forward_pre_hooks)) for module in resnet.modules()]
    example = torch.zeros(1, 1, 32, 32)
    trace(resnet, example)
    assert torch.equal(torch.get_rng_state(), state)
    assert not example.any()
    assert all(torch.equal(tensor, before[name]) for name, tensor in resnet.state_dict().items())
    assert hooks == [(len(module._forward_hooks), len(module._forward_pre_hooks)) for module in resnet.modules()]
    resnet(torch.randn(2, 1, 32, 32)).sum().backward()


def test_a_layer_that_is_called_on_two_activations_ties_them() -> None:
    class Siamese(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.a, self.b, self.both, self.head = (nn.Conv2d(n, m, 1) for n, m in ((1, 8), (1, 8), (8, 6), (6, 2)))

        def forward(self, x: Tensor) -> Tensor:
            return self.head(self.both(self.a(x).relu()) + self.both(self.b(x).relu())).mean((2, 3))

    assert [group.layers for group in trace(Siamese(), torch.randn(1, 1, 2, 2)).groups] == [("both",), ("a", "b")]


def test_channels_that_are_added_in_two_orders_go_together() -> None:
    net, images = Net(lambda net, x: x + x.flip(1)).eval(), torch.randn(3, 1, 6, 6)
    group = trace(net, images[:1]).groups[1]
    assert group.members[0].index.tolist() == [[0, 7], [1, 6], [2, 5], [3, 4]]
    with torch.no_grad():
        net.second.weight[:, [1, 6]] = 0
    expected = net(images)
    selection = torch.eye(4)[[0, 2, 3]]
    apply(net, group, Maps(selection, selection))
    torch.testing.assert_close(net(images), expected)


def test_a_network_without_anything_to_prune_is_refused_by_the_layer() -> None:
    norm = nn.Sequential(nn.Conv2d(1, 4, 1), nn.Softmax(1), nn.Flatten(), nn.Linear(16, 2))
    message = r"none of its layers can be pruned \('0': layer '1' \(Softmax\) mixes its channels"
    with pytest.raises(ValueError, match=message):
        trace(norm, torch.randn(1, 1, 2, 2))


def test_a_network_that_returns_no_tensor_is_refused() -> None:
    class Two(nn.Module):
        def forward(self, x: Tensor) -> tuple[Tensor, Tensor]:
            return x, x

    with pytest.raises(ValueError, match="returns tuple, not a tensor of logits"):
        trace(Two(), torch.randn(1, 1, 2, 2))
