"""Made-up images, and compensation on them that needs no image of the training set."""

import copy
from typing import NoReturn

import pytest
import torch
from torch import nn

from tests.conftest import with_statistics
from workloads.compression.calls import output_moments
from workloads.compression.compensation.synthetic import COLOURS, RANGE, made_up, surrogate
from workloads.compression.compress import Sources, compress, score
from workloads.config import CalibrationConfig, CompressionConfig
from workloads.networks.models import resnet10
from workloads.structure.network import Network

KINDS = ["dead-leaves", "pink-noise", "mixed"]
SYNTHETIC = CalibrationConfig(images="synthetic", count=48)
SHAPE = (3, 16, 16)


@pytest.fixture
def photographs() -> torch.Tensor:
    """What stands for the training set: other images than those that are made up."""
    return made_up("pink-noise", 96, SHAPE, 77).flip(2) * 0.7 + 0.4


@pytest.fixture
def network(photographs: torch.Tensor) -> Network:
    """A network whose batch-norms know the training set."""
    torch.manual_seed(0)
    model = with_statistics(resnet10(width=0.125))
    for module in model.modules():
        if isinstance(module, nn.BatchNorm2d):
            module.momentum = None
            module.reset_running_stats()
    with torch.no_grad():
        model.train()(photographs)
    return Network.prepared(model.eval(), torch.zeros(1, *SHAPE))


@pytest.fixture
def no_real_image() -> Sources:
    def refuse(count: int = 0) -> NoReturn:
        raise AssertionError("an image of the training set was asked for")

    return Sources(torch.zeros(1, *SHAPE), batches=refuse, images=refuse, calibration=refuse)


@pytest.mark.parametrize("kind", KINDS)
@pytest.mark.parametrize("shape", [SHAPE, (1, 12, 20)])
def test_made_up_images_are_standardised_and_depend_on_the_seed_alone(kind: str, shape: tuple[int, ...]) -> None:
    images = made_up(kind, 33, shape, 5)
    assert images.shape == (33, *shape)
    assert images.abs().max() <= RANGE
    assert images.mean((0, 2, 3)).abs().max() < 0.1
    assert (images.std((0, 2, 3)) - 1).abs().max() < 0.15
    assert torch.equal(images, made_up(kind, 33, shape, 5))
    assert not torch.equal(images, made_up(kind, 33, shape, 6))


@pytest.mark.parametrize("kind", KINDS)
def test_made_up_images_are_smooth_and_grey_more_than_coloured(kind: str) -> None:
    images = made_up(kind, 64, (3, 32, 32), 0)
    assert (images[..., 1:] - images[..., :-1]).square().mean() < 0.5 * 2 * images.var()
    correlation = torch.corrcoef(images.movedim(1, 0).flatten(1))
    assert correlation[0, 1] > 0.5
    assert COLOURS.shape == (3, 3)


def test_the_surrogate_makes_of_made_up_images_what_batch_norm_knew(network: Network) -> None:
    found = surrogate(network, SYNTHETIC, torch.zeros(1, *SHAPE), 0)
    assert sum(map(len, found.images)) == 48
    reached = output_moments(found.network.model, network.statistics, found.images)
    for layer, (mean, deviation) in network.statistics.items():
        torch.testing.assert_close(reached[layer][0][0].float(), mean, rtol=0.05, atol=0.05)
        torch.testing.assert_close(reached[layer][1][0].float(), deviation, rtol=0.05, atol=0.05)


def test_gains_are_undone_without_a_trace(network: Network) -> None:
    found = surrogate(network, SYNTHETIC, torch.zeros(1, *SHAPE), 0)
    images = torch.randn(4, *SHAPE)
    back = Network(copy.deepcopy(found.network.model), network.structure, network.statistics)
    assert not torch.allclose(back.model(images), network.model(images), rtol=1e-2)
    found.undo(back, {})
    torch.testing.assert_close(back.model(images), network.model(images), rtol=1e-3, atol=1e-3)


def test_a_surrogate_is_made_once_for_all_groups_and_anew_for_other_weights(network: Network) -> None:
    example = torch.zeros(1, *SHAPE)
    first = surrogate(network, SYNTHETIC, example, 0)
    assert surrogate(network, SYNTHETIC, example, 0) is first
    assert surrogate(network, SYNTHETIC, example, 1) is not first
    again = surrogate(network, SYNTHETIC, example, 0)
    with torch.no_grad():
        next(iter(network.model.parameters())).mul_(1.1)
    assert surrogate(network, SYNTHETIC, example, 0) is not again


@pytest.mark.parametrize("method", ["conventional", "folding"])
def test_no_image_of_the_training_set_is_asked_for(
    network: Network, photographs: torch.Tensor, no_real_image: Sources, method: str
) -> None:
    settings = {"images": "synthetic", "count": 96, "kind": "dead-leaves"}
    errors = {}
    for name, repair in (("none", "none"), ("synthetic", {"name": "least-squares", **settings})):
        criterion = {"name": "elimination", **settings}
        config = CompressionConfig(sparsity=0.5, criterion=criterion, method=method, repair=repair)
        with torch.inference_mode():
            wanted = network.model(photographs)
            made = compress(network, config, no_real_image).model(photographs)
        errors[name] = float((made - wanted).square().mean() / wanted.var(0).mean())
    assert errors["synthetic"] < 0.8 * errors["none"]


def test_a_network_without_batch_norm_is_solved_on_made_up_images_as_they_are(no_real_image: Sources) -> None:
    torch.manual_seed(0)
    layers = [nn.Conv2d(3, 12, 3), nn.ReLU(), nn.Conv2d(12, 12, 3), nn.ReLU(), nn.AdaptiveAvgPool2d(1), nn.Flatten()]
    network = Network.prepared(nn.Sequential(*layers, nn.Linear(12, 5)), torch.zeros(1, *SHAPE))
    found = surrogate(network, SYNTHETIC, torch.zeros(1, *SHAPE), 0)
    assert not found.gains
    assert all(map(torch.equal, found.network.model.parameters(), network.model.parameters()))
    config = CompressionConfig(sparsity=0.5, repair={"name": "least-squares", "images": "synthetic", "count": 48})
    assert compress(network, config, no_real_image).model(torch.randn(2, *SHAPE)).isfinite().all()


def test_criteria_that_ask_for_images_get_as_many_as_their_option_says(network: Network) -> None:
    images = torch.randn(40, *SHAPE, generator=torch.Generator().manual_seed(1))
    sources = Sources(images[:1], images=[images[:20], images[20:]])

    def scores(criterion: object) -> torch.Tensor:
        return score(network, 0, criterion, sources)[1]  # type: ignore[arg-type]

    some = scores({"name": "elimination", "images": 24})
    first = Sources(images[:1], images=[images[:20], images[20:24]])
    assert torch.equal(some, score(network, 0, "elimination", first)[1])
    assert not torch.equal(some, scores("elimination"))
    assert not torch.equal(some, scores({"name": "elimination", "images": "synthetic", "count": 24}))


@pytest.mark.parametrize(
    ("criterion", "message"),
    [
        ({"name": "elimination", "images": 0}, "option 'images' of criterion 'elimination' is 0: give a number"),
        ({"name": "elimination", "images": "some"}, "option 'images' of criterion 'elimination' is 'some': it should"),
        ({"name": "elimination", "image": 3}, "criterion 'elimination' has no option 'image'"),
        ({"name": "elimination", "images": 3, "kind": "mixed"}, "kind belong to images: synthetic"),
        ({"name": "l1", "images": 3}, "criterion 'l1' has no option 'images'"),
    ],
)
def test_images_that_cannot_be_are_refused(network: Network, criterion: dict, message: str) -> None:
    with pytest.raises(ValueError, match=message):
        score(network, 0, criterion, Sources(torch.zeros(1, *SHAPE), images=[torch.zeros(4, *SHAPE)]))


def test_methods_take_a_number_of_images_but_no_made_up_ones(network: Network) -> None:
    images = torch.randn(40, *SHAPE, generator=torch.Generator().manual_seed(1))

    def solved(method: dict, given: torch.Tensor) -> list[torch.Tensor]:
        config = CompressionConfig(sparsity=0.5, group=0, method=method)
        return list(compress(network, config, Sources(images[:1], images=[given])).model.parameters())

    some = solved({"name": "reconstruction", "images": 24}, images)
    assert all(map(torch.equal, some, solved({"name": "reconstruction"}, images[:24])))
    with pytest.raises(ValueError, match="option 'images' of method 'reconstruction' is 'synthetic': give a number"):
        solved({"name": "reconstruction", "images": "synthetic"}, images)
