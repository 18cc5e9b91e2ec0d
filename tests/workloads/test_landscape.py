"""Pruned networks at full width, and the plane through three networks."""

import pytest
import torch

from workloads.compression.compress import Sources, compress
from workloads.config import CompressionConfig, ModelConfig
from workloads.measuring.landscape import Plane, embedded
from workloads.networks.models import build
from workloads.structure.network import Network


def pruned(base: Network, example: torch.Tensor, method: str, group: int | None = None, **settings: object) -> Network:
    config = CompressionConfig(sparsity=0.5, method={"name": method}, group=group, **settings)
    return compress(base, config, Sources(example, images=lambda: [example]))


@pytest.mark.parametrize("method", ["conventional", "intra-fusion", "folding", "reconstruction"])
@pytest.mark.parametrize("network", ["vgg", "resnet"])
def test_an_embedded_network_computes_the_same(request: pytest.FixtureRequest, network: str, method: str) -> None:
    example = torch.randn(4, 1, 32, 32, generator=torch.Generator().manual_seed(0))
    base = Network.prepared(request.getfixturevalue(network), example[:1])
    narrow = pruned(base, example, method)
    wide = embedded(narrow, base, narrow.places)
    torch.testing.assert_close(wide(example), narrow.model(example), rtol=1e-4, atol=1e-4)
    shapes = {name: tensor.shape for name, tensor in base.model.state_dict().items()}
    assert {name: tensor.shape for name, tensor in wide.state_dict().items() if name in shapes} == shapes


@pytest.mark.parametrize(
    "name", ["mobilenet_v2", pytest.param("densenet121", marks=pytest.mark.slow), "shufflenet_v2_x0_5"]
)
def test_it_does_through_concatenations_and_grouped_convolutions(name: str) -> None:
    example = torch.randn(2, 3, 64, 64, generator=torch.Generator().manual_seed(0))
    model = build(ModelConfig(name=f"torchvision.models:{name}"), channels=3, classes=10).eval()
    base = Network.prepared(model, example[:1])
    narrow = pruned(base, example, "intra-fusion", group=len(base.structure.groups) // 2)
    wide = embedded(narrow, base, narrow.places)
    torch.testing.assert_close(wide(example), narrow.model(example), rtol=1e-3, atol=1e-4)


def test_conventionally_pruned_weights_stay_in_their_places(vgg: torch.nn.Module) -> None:
    example = torch.zeros(1, 1, 32, 32)
    base = Network.prepared(vgg, example)
    narrow = pruned(base, example, "conventional", group=0)
    wide = embedded(narrow, base, narrow.places).get_parameter("features.25.weight")
    whole = base.model.get_parameter("features.25.weight")
    kept = wide.flatten(1).abs().sum(1) > 0
    assert int(kept.sum()) == len(whole) // 2
    assert torch.equal(wide[kept], whole[kept])


def test_the_plane_goes_through_its_networks(vgg: torch.nn.Module) -> None:
    example = torch.randn(4, 1, 32, 32, generator=torch.Generator().manual_seed(0))
    base = Network.prepared(vgg, example[:1])
    models = [base.model]
    for method in ("conventional", "intra-fusion"):
        narrow = pruned(base, example, method)
        models.append(embedded(narrow, base, narrow.places))
    plane = Plane(models)
    parameters = [torch.cat([p.detach().flatten().double() for p in model.parameters()]) for model in models]
    for one in range(3):
        for other in range(3):
            wanted = (parameters[one] - parameters[other]).norm()
            assert (plane.corners[one] - plane.corners[other]).norm() == pytest.approx(float(wanted), rel=1e-9)
    for (x, y), model in zip(plane.corners.tolist(), models, strict=True):
        torch.testing.assert_close(plane.network(x, y)(example), model(example), rtol=1e-4, atol=1e-4)
    x, y = plane.grid(5, margin=0.5)
    low, high = plane.corners.min(0).values, plane.corners.max(0).values
    for values, a, b in zip((x, y), low, high, strict=True):
        torch.testing.assert_close(values[[0, 2, 4]], torch.stack([1.5 * a - 0.5 * b, (a + b) / 2, 1.5 * b - 0.5 * a]))


def test_there_is_no_plane_through_a_line(vgg: torch.nn.Module) -> None:
    with pytest.raises(ValueError, match="lie on a line"):
        Plane([vgg, vgg, vgg])
