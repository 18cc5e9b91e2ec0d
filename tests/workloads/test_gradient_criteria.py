"""Criteria that follow gradients: their formulas, and what networks do to gradients on the way."""

from dataclasses import replace

import pytest
import torch
from torch import Tensor, nn
from torch.nn import functional as F
from torch.utils.checkpoint import checkpoint

from tests.workloads.ranked import COUPLED, Coupled, group_between, numbers, singles, six_images, two_layers
from workloads.compression.criteria import importance
from workloads.compression.criteria.magnitude import relative
from workloads.structure.groups import CONSUMER, PRODUCER


def test_hessian_is_the_formula_on_a_linear_model() -> None:
    model = nn.Sequential(nn.Linear(4, 5), nn.Linear(5, 3)).eval()
    group = group_between(("0", PRODUCER), ("1", CONSUMER), size=5)
    inputs, labels = numbers(7, 4).float(), torch.arange(7) % 3
    hidden = model[0](inputs)
    slopes = hidden * ((F.softmax(model[1](hidden), 1) - F.one_hot(labels, 3)) @ model[1].weight)
    expected = 0.5 * slopes.square().mean(0)
    scores = importance("hessian", model, group, batches=[(inputs, labels)])
    torch.testing.assert_close(scores, relative(expected).detach())


def test_hessian_sums_coupled_layers_and_positions_before_it_squares() -> None:
    batch, model = six_images(), Coupled().eval()
    expected = torch.zeros(4)
    for image, label in singles(*batch):
        gate = torch.ones(4, 1, 1, requires_grad=True)
        (slope,) = torch.autograd.grad(F.cross_entropy(model(image, gate), label), gate)
        expected += slope.flatten().square()
    scores = importance("hessian", model, COUPLED, batches=[batch])
    torch.testing.assert_close(scores, relative(expected), rtol=1e-4, atol=1e-6)
    torch.testing.assert_close(importance("hessian", model, COUPLED, batches=singles(*batch)), scores)


@pytest.mark.parametrize("folded", [False, True])
def test_hessian_knows_the_samples_behind_tokens(folded: bool) -> None:
    class Tokens(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.up, self.down = nn.Linear(4, 6), nn.Linear(6, 3)

        def forward(self, tokens: Tensor) -> Tensor:
            rows = tokens.flatten(0, 1) if folded else tokens
            return self.down(F.gelu(self.up(rows))).view(len(tokens), -1, 3).mean(1)

    model = Tokens().eval()
    group = group_between(("up", PRODUCER), ("down", CONSUMER), size=6)
    tokens, labels = numbers(5, 7, 4).float(), torch.arange(5) % 3
    together = importance("hessian", model, group, batches=[(tokens, labels)])
    torch.testing.assert_close(together, importance("hessian", model, group, batches=singles(tokens, labels)))
    chips = [importance("chip", model, group, batches=b) for b in ([(tokens, labels)], singles(tokens, labels))]
    torch.testing.assert_close(*chips)


def test_hessian_works_on_frozen_weights_and_leaves_no_gradients() -> None:
    model, group = two_layers()
    batches = [(numbers(6, 4).float(), torch.arange(6) % 3)]
    free = importance("hessian", model, group, batches=batches)
    assert all(parameter.grad is None for parameter in model.parameters())
    assert torch.equal(importance("hessian", model.requires_grad_(False), group, batches=batches), free)


class Checkpointed(nn.Module):
    """A layer that runs twice, in a part whose activations are computed again on the way back, or are kept."""

    def __init__(self, again: bool):
        super().__init__()
        torch.manual_seed(0)
        self.again, self.body, self.fc = again, nn.Linear(4, 4), nn.Linear(4, 3)

    def part(self, x: Tensor) -> Tensor:
        return self.body(self.body(x).relu()).relu()  # type: ignore[no-any-return]

    def forward(self, x: Tensor) -> Tensor:
        return self.fc(checkpoint(self.part, x, use_reentrant=False) if self.again else self.part(x))  # type: ignore[no-any-return]


@pytest.mark.parametrize("criterion", ["taylor", "hessian", "chip"])
def test_activations_that_are_computed_again_change_nothing(criterion: str) -> None:
    group = group_between(("body", PRODUCER), ("body", CONSUMER), ("fc", CONSUMER), size=4)
    batches = [(numbers(6, 4).float(), torch.arange(6) % 3)]
    scores = [importance(criterion, Checkpointed(again).eval(), group, batches=batches) for again in (True, False)]
    torch.testing.assert_close(*scores)


@pytest.mark.parametrize("criterion", ["taylor", "hessian"])
def test_no_gradient_gives_zero_scores(criterion: str) -> None:
    model, group = two_layers()
    with torch.no_grad():
        model[2].weight.zero_()
    batches = [(numbers(6, 4).float(), torch.arange(6) % 3)]
    assert torch.equal(importance(criterion, model, group, batches=batches), torch.zeros(5))


class Routed(nn.Module):
    """Two layers, of which an image takes one; what comes before them may be cut off from the loss."""

    def __init__(self, cut: bool):
        super().__init__()
        torch.manual_seed(0)
        self.cut, self.body, self.fc = cut, nn.Linear(4, 5), nn.Linear(5, 3)
        self.experts = nn.ModuleList(nn.Linear(5, 5) for _ in range(2))

    def forward(self, x: Tensor) -> Tensor:
        with torch.set_grad_enabled(not self.cut and torch.is_grad_enabled()):
            y = self.body(x).relu()
        return self.fc(self.experts[int(len(x) == 1)](y).relu())  # type: ignore[no-any-return]


@pytest.mark.parametrize("criterion", ["taylor", "hessian"])
def test_what_the_network_cuts_off_from_the_loss_is_not_ranked_by_gradients(criterion: str) -> None:
    group = group_between(("body", PRODUCER), ("experts.0", CONSUMER), ("experts.1", CONSUMER), size=5)
    group = replace(group, members=group.members[:1]) if criterion == "taylor" else group
    batches = [(numbers(6, 4).float(), torch.arange(6) % 3)]
    with pytest.raises(ValueError, match=r"no gradient reaches the layers 'body': the network cuts it off"):
        importance(criterion, Routed(cut=True).eval(), group, batches=batches)


def test_a_layer_that_no_image_goes_to_has_a_gradient_of_zero() -> None:
    model = Routed(cut=False).eval()
    group = group_between(("body", PRODUCER), ("experts.0", CONSUMER), ("experts.1", CONSUMER), size=5)
    batches = [(numbers(6, 4).float(), torch.arange(6) % 3)]
    scores = importance("taylor", model, group, batches=batches)
    of_used = importance("taylor", model, replace(group, members=group.members[:2]), batches=batches)
    torch.testing.assert_close(scores, of_used)
