"""The straight line between two networks, and the barrier on it."""

import pytest
import torch
from torch import Tensor, nn
from torch.nn import functional as F

from tests.workloads.test_fusion import permuted
from workloads.config import FusionConfig, ModelConfig
from workloads.fusion import Line, above_line, fuse
from workloads.networks.models import build
from workloads.structure.network import Network

IMAGES = torch.randn(32, 1, 32, 32, generator=torch.Generator().manual_seed(4))
PLAIN = FusionConfig(alignment="none", repair=False)
SHARES = (0, 0.25, 0.5, 0.75, 1)


@pytest.fixture
def twins(vgg: nn.Module) -> list[Network]:
    """A network, and the same with its neurons in another order."""
    one = Network.prepared(vgg, IMAGES[:1])
    return [one, one._replace(model=permuted(one.model, one.structure, 1))]


def logits(line: Line) -> list[Tensor]:
    with torch.no_grad():
        return [line.network(share)(IMAGES) for share in SHARES]


@pytest.mark.parametrize("alignment", ["weights", "activations", "weight-matching"])
def test_alignment_takes_the_barrier_between_twins_away(twins: list[Network], alignment: str) -> None:
    expected = twins[0].model(IMAGES)
    labels = expected.argmax(1)
    barriers = []
    for config in (PLAIN, FusionConfig(alignment=alignment, repair=False)):
        losses = [F.cross_entropy(found, labels).item() for found in logits(Line(twins, IMAGES, config))]
        barriers.append(max(above_line(SHARES, losses)))
    assert barriers[0] > 0.03
    assert barriers[1] == pytest.approx(0, abs=1e-4)


@pytest.mark.parametrize("config", [PLAIN, FusionConfig(alignment="weights"), FusionConfig()])
def test_a_line_begins_and_ends_with_its_networks_and_has_their_fusion_in_the_middle(
    twins: list[Network], config: FusionConfig
) -> None:
    other = Network.prepared(build(ModelConfig(name="vgg11_bn", width=0.125), channels=1, classes=10, seed=1), IMAGES)
    first, *_, last = found = logits(Line([twins[0], other], IMAGES, config))
    torch.testing.assert_close(first, twins[0].model(IMAGES))
    torch.testing.assert_close(last, other.model(IMAGES), rtol=1e-3, atol=1e-4)
    fused = fuse([twins[0], other], images=IMAGES, config=config)
    torch.testing.assert_close(found[2], fused(IMAGES), rtol=1e-3, atol=1e-4)


def test_a_line_from_a_wide_network_ends_with_the_narrow_one() -> None:
    wide, narrow = (
        Network.prepared(build(ModelConfig(name="vgg11_bn", width=width), channels=1, classes=10), IMAGES[:1])
        for width in (0.0625, 0.03125)
    )
    line = Line([wide, narrow], IMAGES, FusionConfig(alignment="weights", repair=False))
    torch.testing.assert_close(logits(line)[-1], narrow.model(IMAGES))
    other_way = Line([narrow, wide], IMAGES, FusionConfig(alignment="weights", repair=False))
    torch.testing.assert_close(logits(line), logits(other_way)[::-1])


def test_values_are_compared_with_the_straight_line_between_the_ends() -> None:
    assert above_line([0, 0.5, 1], [1.0, 4.0, 3.0]) == [0.0, 2.0, 0.0]


def test_what_is_no_line_is_refused(twins: list[Network]) -> None:
    with pytest.raises(ValueError, match="through two networks, not through 3"):
        Line([*twins, twins[0]], IMAGES)
    with pytest.raises(ValueError, match="a fusion by folding aligns nothing, so that there is no line"):
        Line(twins, IMAGES, FusionConfig(method="folding"))
    with pytest.raises(ValueError, match="give `images`"):
        Line(twins)
