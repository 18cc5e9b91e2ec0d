"""Criteria against formulas and direct computations on networks small enough for them."""

import copy

import pytest
import torch
from torch import Tensor, nn

from tests.workloads.ranked import COUPLED, Coupled, group_between, numbers, six_images, two_layers
from workloads.compression.criteria import CRITERIA, importance, independence
from workloads.compression.criteria.eliminating import order_of_elimination
from workloads.compression.criteria.magnitude import relative
from workloads.plugins import CRITERION
from workloads.structure.batch_norm import merge_batch_norm
from workloads.structure.finding import trace
from workloads.structure.groups import CONSUMER, PRODUCER, Group
from workloads.structure.layers import get_layer


@pytest.fixture
def batch() -> tuple[Tensor, Tensor]:
    return six_images()


@pytest.mark.parametrize("criterion", ["hessian", "chip", "taylor"])
def test_an_image_that_is_not_a_number_is_an_error(criterion: str, batch: tuple[Tensor, Tensor]) -> None:
    batch[0][2, 0, 0, 0] = torch.nan
    with pytest.raises(ValueError, match=rf"criterion '{criterion}' gave scores for group \d+ that are not finite"):
        importance(criterion, Coupled().eval(), COUPLED, batches=[batch])


@pytest.mark.parametrize("criterion", ["hessian", "chip", "synflow", "fpgm", "bn-scale"])
def test_a_single_pairing_has_a_finite_score(criterion: str) -> None:
    model, group = two_layers(width=1)
    model[0].bias.data.fill_(10)
    batches = [(numbers(6, 4).float(), torch.arange(6) % 3)]
    statistics = {"0": (torch.zeros(1), torch.ones(1))}
    scores = importance(criterion, model, group, batches=batches, example=torch.zeros(1, 4), statistics=statistics)
    assert scores.item() == pytest.approx(0 if criterion == "fpgm" else 1)


def test_only_criteria_that_look_at_data_need_batches() -> None:
    looking = {name for name in CRITERIA if "batches" in CRITERION.plugin(name).asks}
    assert looking == {"taylor", "hessian", "chip"}


# --- synflow


def test_synflow_is_conserved_through_every_layer() -> None:
    torch.manual_seed(2)
    model = nn.Sequential(
        nn.Conv2d(2, 4, 3, bias=False),
        nn.ReLU(inplace=True),
        nn.Conv2d(4, 6, 3, stride=2, bias=False),
        nn.ReLU(inplace=True),
        nn.AdaptiveAvgPool2d(1),
        nn.Flatten(),
        nn.Linear(6, 3, bias=False),
    ).eval()
    before = copy.deepcopy(model.state_dict())
    example = torch.full((1, 2, 9, 9), -3.0)
    positive = copy.deepcopy(model)
    for parameter in positive.parameters():
        parameter.data.abs_()
    flow = positive(torch.ones_like(example)).sum()
    flow.backward()
    for layer in (0, 2, 6):
        weight = positive[layer].weight
        torch.testing.assert_close((weight * weight.grad).sum(), flow)
    for producer, consumer, size in (("0", "2", 4), ("2", "6", 6)):
        group = group_between((producer, PRODUCER), (consumer, CONSUMER), size=size)
        weight = positive[int(producer)].weight
        # What flows into a channel flows out of it, so that the mean over the two layers is that of each.
        expected = (weight * weight.grad).flatten(1).sum(1)
        scores = importance("synflow", model, group, example=example)
        torch.testing.assert_close(scores, relative(expected).detach())
    assert all(torch.equal(tensor, before[name]) for name, tensor in model.state_dict().items())
    assert all(parameter.grad is None for parameter in model.parameters())


def test_synflow_survives_depth_and_batch_norms_that_stay() -> None:
    torch.manual_seed(3)
    layers = [nn.Sequential(nn.Linear(64, 64), nn.ReLU()) for _ in range(60)]
    model = nn.Sequential(*layers, nn.BatchNorm1d(64), nn.Linear(64, 2)).eval()
    model[-2].running_mean.fill_(1e6)
    for layer in layers:
        layer[0].weight.data.mul_(8)
    positive = copy.deepcopy(model)
    for parameter in positive.parameters():
        parameter.data.abs_()
    assert positive(torch.ones(1, 64)).isinf().any()
    group = group_between(("0.0", PRODUCER), ("1.0", CONSUMER), size=64)
    scores = importance("synflow", model, group, example=torch.zeros(1, 64))
    assert (scores > 0).all()
    assert model[-2].running_mean.eq(1e6).all()


# --- fpgm and bn-scale


def test_fpgm_lets_go_of_duplicates_and_of_the_centre() -> None:
    model = nn.Sequential(nn.Linear(2, 5), nn.Linear(5, 2))
    group = group_between(("0", PRODUCER), ("1", CONSUMER), size=5)
    corners = torch.tensor([[3.0, 0.0], [0.0, 0.0], [-3.0, 0.0], [0.0, 4.0], [0.0, -4.0]])
    model[0].weight.data.copy_(corners)
    scores = importance("fpgm", model, group)
    assert scores.argmin() == 1
    expected = torch.tensor([3 + 6 + 10, 14, 3 + 6 + 10, 4 + 8 + 10, 4 + 8 + 10])
    torch.testing.assert_close(scores, expected / expected.mean(dtype=torch.float32))
    model[0].weight.data[:] = torch.tensor([5.0, 5.0])
    assert torch.equal(importance("fpgm", model, group), torch.zeros(5))
    model[0].weight.data[4] = 0
    scores = importance("fpgm", model, group)
    assert scores[:4].unique().numel() == 1
    assert scores.argmax() == 4


def test_bn_scale_is_the_mean_deviation_of_the_layers_that_have_one() -> None:
    model = Coupled().eval()
    gamma = torch.tensor([0.5, -2.0, 0.0, 1.0])
    one = {"right": (torch.zeros(4), gamma)}
    torch.testing.assert_close(importance("bn-scale", model, COUPLED, statistics=one), relative(gamma.abs()))
    both = {**one, "left": (torch.zeros(4), torch.tensor([1.0, 0.0, 3.0, 1.0]))}
    expected = relative(torch.tensor([1.5, 2.0, 3.0, 2.0]))
    torch.testing.assert_close(importance("bn-scale", model, COUPLED, statistics=both), expected)


def test_bn_scale_without_batch_norm_is_refused() -> None:
    with pytest.raises(ValueError, match=r"no batch-norm scale for layer 'left' of group 0: .*use another criterion"):
        importance("bn-scale", Coupled().eval(), COUPLED, statistics={"head": (torch.zeros(3), torch.ones(3))})


# --- chip


def plainly(maps: Tensor) -> Tensor:
    """The definition, a decomposition for each channel: (k, c, p) to (k, c)."""
    whole = torch.linalg.matrix_norm(maps, ord="nuc")
    columns = []
    for channel in range(maps.shape[1]):
        without = maps.clone()
        without[:, channel] = 0
        columns.append(whole - torch.linalg.matrix_norm(without, ord="nuc"))
    return torch.stack(columns, 1)


REPEATED = torch.tensor([0, 0, 1, 2, 2, 2, 3, 4])
FALLING = torch.logspace(0, -4, 40, dtype=torch.float64).unsqueeze(1)


@pytest.mark.parametrize(
    "matrix",
    [
        pytest.param(numbers(7, 30), id="wide"),
        pytest.param(numbers(30, 7), id="tall"),
        pytest.param(numbers(9, 9), id="square"),
        pytest.param(numbers(12, 3) @ numbers(3, 25, seed=1), id="wide of rank 3"),
        pytest.param(numbers(25, 3) @ numbers(3, 12, seed=1), id="tall of rank 3"),
        pytest.param(numbers(5, 20)[REPEATED], id="wide with duplicates"),
        pytest.param(numbers(5, 4)[REPEATED], id="tall with duplicates"),
        pytest.param(numbers(40, 60) * FALLING, id="wide with small rows"),
        pytest.param(numbers(40, 20) * FALLING, id="tall with small rows"),
        pytest.param(numbers(16, 64) * 0.01 + 1, id="nearly constant"),
        pytest.param(numbers(1, 9), id="one channel"),
        pytest.param(numbers(9, 1), id="one position"),
        pytest.param(numbers(1, 1), id="one number"),
        pytest.param(numbers(6, 8) * 1e-30, id="tiny"),
        pytest.param(numbers(6, 8) * 1e30, id="huge"),
    ],
)
def test_independence_is_the_difference_of_nuclear_norms(matrix: Tensor) -> None:
    maps = torch.stack([matrix, -2 * matrix.flip(0)])
    torch.testing.assert_close(independence.independence(maps), plainly(maps), rtol=1e-6, atol=0)


@pytest.mark.parametrize("shape", [(6, 20), (20, 6)])
def test_empty_channels_have_no_independence(shape: tuple[int, int]) -> None:
    maps = torch.stack([numbers(*shape), torch.zeros(shape, dtype=torch.float64)])
    maps[0, 2:4] = 0
    scores = independence.independence(maps)
    assert torch.equal(scores[0, 2:4], torch.zeros(2, dtype=torch.float64))
    assert (scores[0, [0, 1, 4, 5]] > 0).all()
    assert torch.equal(scores[1], torch.zeros(shape[0], dtype=torch.float64))


def test_independence_in_parts_is_the_same(monkeypatch: pytest.MonkeyPatch) -> None:
    maps = numbers(5, 4, 9)
    whole = independence.independence(maps)
    monkeypatch.setattr(independence, "CHUNK", 1)
    torch.testing.assert_close(independence.independence(maps), whole)


def test_chip_averages_over_images_and_coupled_layers(batch: tuple[Tensor, Tensor]) -> None:
    model = Coupled().eval()
    images, _ = batch
    with torch.no_grad():
        layers = [plainly(layer(images).double().flatten(2)).mean(0) for layer in (model.left, model.right)]
    expected = relative(torch.stack(layers).mean(0)).float()
    torch.testing.assert_close(importance("chip", model, COUPLED, batches=[batch]), expected, rtol=1e-5, atol=0)
    parts = [(part, label) for part, label in zip(images.split(4), batch[1].split(4), strict=True)]
    torch.testing.assert_close(importance("chip", model, COUPLED, batches=parts), expected, rtol=1e-5, atol=0)


def test_pairings_of_several_channels_have_their_sum(batch: tuple[Tensor, Tensor]) -> None:
    model = Coupled().eval()
    statistics = {"left": (torch.zeros(4), torch.tensor([1.0, 2.0, 3.0, 4.0]))}
    single = group_between(("left", PRODUCER), ("head", CONSUMER), size=4)
    paired = group_between(("left", PRODUCER), ("head", CONSUMER), size=2, r=2)
    for criterion in ("chip", "bn-scale"):
        scores = [importance(criterion, model, g, batches=[batch], statistics=statistics) for g in (single, paired)]
        torch.testing.assert_close(scores[0].view(2, 2).sum(1) / 2, scores[1])


def test_a_residual_network_gets_scores_from_all(resnet: nn.Module) -> None:
    structure = trace(resnet, torch.zeros(1, 1, 32, 32))
    norms = dict(structure.normalised)
    statistics = {
        layer: (get_layer(resnet, norm).bias.detach().clone(), get_layer(resnet, norm).weight.detach().abs())
        for layer, norm in norms.items()
    }
    merge_batch_norm(resnet, structure)
    batches = [(numbers(8, 1, 32, 32).float(), torch.arange(8))]
    for group in structure.groups:
        for criterion in ("chip", "hessian", "synflow", "fpgm", "bn-scale"):
            scores = importance(
                criterion, resnet, group, batches=batches, example=torch.zeros(1, 1, 32, 32), statistics=statistics
            )
            assert scores.mean().item() == pytest.approx(1, rel=1e-5)
            assert scores.unique().numel() > 1


def backward(model: nn.Module, group: Group) -> Tensor:
    """A criterion as one may write it: it trains a little and leaves gradients behind."""
    model.train()
    model(torch.ones(2, 4)).square().sum().backward()
    gradient = get_layer(model, "0").weight.grad
    assert gradient is not None
    return gradient.abs().sum(1)


def test_a_criterion_finds_no_gradients_of_another_and_leaves_none() -> None:
    model, group = two_layers()
    first, second = (importance(f"{__name__}:backward", model, group) for _ in range(2))
    assert torch.equal(first, second)
    assert all(parameter.grad is None for parameter in model.parameters())
    assert not model.training


@pytest.mark.parametrize("criterion", ["l1", "l2", "linf", "lamp"])
def test_depthwise_weights_count(criterion: str) -> None:
    torch.manual_seed(0)
    layers = [nn.Conv2d(2, 6, 1), nn.Conv2d(6, 6, 3, groups=6), nn.Conv2d(6, 2, 1)]
    model = nn.Sequential(*layers).eval()
    (group,) = trace(model, torch.zeros(1, 2, 8, 8)).groups
    options = {"restore_order": True} if criterion == "lamp" else {}
    before = importance(criterion, model, group, options=options)
    with torch.no_grad():
        layers[1].weight[0] *= 10
    after = importance(criterion, model, group, options=options)
    assert after[0] / after[1:].mean() > before[0] / before[1:].mean()


def test_elimination_goes_by_what_the_others_cannot_make_up_for() -> None:
    torch.manual_seed(0)
    activations = torch.randn(4000, 6, dtype=torch.float64)
    activations[:, 4] = activations[:, 0] + activations[:, 1]
    activations[:, 5] *= 0.1
    covariance, weights = torch.cov(activations.T), torch.eye(6, dtype=torch.float64)
    order = order_of_elimination(covariance, weights)
    assert sorted(order.tolist()) == list(range(6))
    assert order.argsort()[0] in (0, 1, 4)  # one of three that know each other goes at no cost at all
    assert order.argsort()[1] == 5


@pytest.mark.parametrize("steps", [1024, 4])
def test_elimination_is_greedy_least_squares(steps: int, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("workloads.compression.criteria.eliminating.STEPS", steps)
    monkeypatch.setattr("workloads.compression.criteria.eliminating.RIDGE", 1e-12)
    torch.manual_seed(1)
    activations = torch.randn(300, 12, dtype=torch.float64) @ torch.randn(12, 12, dtype=torch.float64)
    activations -= activations.mean(0)
    readers = torch.randn(12, 5, dtype=torch.float64)
    order = order_of_elimination(activations.T @ activations / 300, readers @ readers.T)

    def cost(kept: list[int]) -> float:
        known = activations[:, kept]
        wanted = activations @ readers
        return float((wanted - known @ torch.linalg.lstsq(known, wanted).solution).square().sum())

    left = list(range(12))
    if steps == 1024:
        for gone in order.argsort().tolist()[:-1]:
            costs = {neuron: cost([other for other in left if other != neuron]) for neuron in left}
            assert costs[gone] == pytest.approx(min(costs.values()), rel=1e-6)
            left.remove(gone)
    else:
        half = order.argsort()[6:].tolist()
        assert cost(half) < cost(list(range(6)))
