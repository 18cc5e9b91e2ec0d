"""Solving the layers of a narrowed network again, on small networks where the right answer is known."""

from itertools import pairwise

import pytest
import torch
from torch import nn

from tests.workloads.solvable import COUNT, NETWORKS, convolutions, error, images_of_noise, residual, seeded
from workloads.compression.calls import run_tapped
from workloads.compression.compensation import solving
from workloads.compression.compensation.refining import Refinement
from workloads.compression.compensation.summands import course_of
from workloads.compression.compensation.sums import ALL, Windows, made_rows
from workloads.compression.compress import Sources, compress
from workloads.config import CompressionConfig
from workloads.networks.vit import VisionTransformer
from workloads.structure.network import Network


@pytest.fixture
def images() -> torch.Tensor:
    return images_of_noise()


@pytest.fixture
def sources(images: torch.Tensor) -> Sources:
    return Sources(images[:1], images=[images])


@pytest.fixture(params=NETWORKS)
def network(request: pytest.FixtureRequest, images: torch.Tensor) -> Network:
    return Network.prepared(seeded(NETWORKS[request.param]), images[:1])


@pytest.mark.parametrize("method", ["conventional", "folding", "intra-fusion"])
def test_solving_again_brings_every_network_nearer_to_the_original(
    network: Network, sources: Sources, images: torch.Tensor, method: str
) -> None:
    plain, solved = (
        compress(network, CompressionConfig(sparsity=0.5, method=method, repair=repair, kinds="all"), sources)
        for repair in ("none", "least-squares")
    )
    assert error(network, solved, images) < 0.7 * error(network, plain, images)
    shapes = [[tuple(p.shape) for p in each.model.parameters() if p.ndim > 1] for each in (plain, solved)]
    assert shapes[0] == shapes[1]


def test_nothing_changes_where_nothing_is_pruned(network: Network, sources: Sources, images: torch.Tensor) -> None:
    solved = compress(network, CompressionConfig(sparsity=0, repair="least-squares"), sources)
    assert error(network, solved, images) < 1e-10
    none, plain = (
        compress(network, CompressionConfig(sparsity=0.5, group=0, repair=repair), sources)
        for repair in ({"name": "least-squares", "images": 0}, "none")
    )
    assert all(map(torch.equal, none.model.parameters(), plain.model.parameters()))


@pytest.mark.parametrize("kernels", ["full", "pointwise"])
def test_a_neuron_that_is_there_twice_is_not_missed(images: torch.Tensor, sources: Sources, kernels: str) -> None:
    model = seeded(lambda: convolutions(nn.Conv2d(3, 8, 3), nn.Conv2d(8, 8, 3)))
    with torch.no_grad():
        for parameter in model[0].parameters():
            parameter[4:] = parameter[:4]
    network = Network.prepared(model, images[:1])
    config = {"sparsity": 0.5, "group": 1, "criterion": f"{__name__}:later_half"}
    plain, solved = (
        compress(network, CompressionConfig(**config, repair=repair), sources)
        for repair in ("none", {"name": "least-squares", "kernels": kernels})
    )
    assert error(network, solved, images) < 1e-6 < 0.1 < error(network, plain, images)


def later_half(model: nn.Module, group: object) -> torch.Tensor:
    return torch.arange(8.0)


class TwoBranches(nn.Module):
    """Two layers that read the same and are added."""

    def __init__(self) -> None:
        super().__init__()
        self.first, self.one, self.other = nn.Conv2d(3, 16, 3), nn.Conv2d(16, 8, 1), nn.Conv2d(16, 8, 3, padding=1)
        self.act, self.last = nn.ReLU(), nn.Linear(8, 5)

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        x = self.first(x).relu()
        return self.last(self.act(self.one(x) + self.other(x)).mean((2, 3)))


def test_the_last_summand_takes_over_what_the_other_has_lost(
    sources: Sources, images: torch.Tensor, monkeypatch: pytest.MonkeyPatch
) -> None:
    network = Network.prepared(seeded(TwoBranches), images[:1])
    number = next(group.number for group in network.structure.groups if "one" in group.layers)
    config = CompressionConfig(sparsity=0.5, repair="least-squares")

    def after_the_sum(model: nn.Module) -> torch.Tensor:
        seen: list[torch.Tensor] = []
        with torch.inference_mode():
            run_tapped(model, images, inputs={"act": lambda call, layer, given: seen.append(given.clone())})
        return seen[0]

    def missed() -> float:
        solved = compress(network, config, sources)
        wanted = after_the_sum(network.model)[:, solved.places[number]]
        return float((after_the_sum(solved.model) - wanted).square().mean())

    with_sums = missed()
    monkeypatch.setattr(solving, "common", lambda course, other: course.__class__(course.calls, {}, 1.0))
    assert with_sums < 0.95 * missed()


@pytest.mark.parametrize(
    "layer",
    [
        nn.Conv2d(4, 6, 3, padding=1),
        nn.Conv2d(4, 6, (3, 2), stride=(2, 1), dilation=(1, 2), padding=(2, 0), groups=2),
        nn.Conv1d(4, 6, 3, padding="same", padding_mode="circular"),
        nn.Conv3d(4, 6, 2, stride=2),
        nn.Linear(4, 6),
    ],
)
def test_windows_times_the_weight_are_what_the_layer_makes(layer: nn.Module) -> None:
    shape = {nn.Linear: (5, 7, 4), nn.Conv1d: (5, 4, 9), nn.Conv3d: (5, 4, 4, 5, 6)}.get(type(layer), (5, 4, 8, 9))
    given = torch.randn(shape)
    made = layer(given)
    windows = Windows(layer, given)
    chosen = torch.tensor([3, 0])
    weight = layer.weight.reshape(windows.groups, 6 // windows.groups, -1)
    for places in (None, chosen):
        rows = windows.rows(slice(None), places)
        expected = (rows @ weight.mT).movedim(0, 1).flatten(1) + layer.bias
        found = made_rows(layer, made, slice(None), places)
        torch.testing.assert_close(found, expected, rtol=1e-4, atol=1e-5)


@pytest.mark.parametrize("dtype", [torch.float64, torch.bfloat16])
def test_networks_in_other_precisions_keep_theirs(images: torch.Tensor, dtype: torch.dtype) -> None:
    network = Network.prepared(seeded(residual).to(dtype), images[:1].to(dtype))
    sources = Sources(images[:1].to(dtype), images=[images.to(dtype)])
    solved = compress(network, CompressionConfig(sparsity=0.5, repair="least-squares"), sources)
    assert {parameter.dtype for parameter in solved.model.parameters()} == {dtype}
    assert solved.model(images.to(dtype)).isfinite().all()


def test_without_images_there_is_nothing_to_solve_on(images: torch.Tensor) -> None:
    network = Network.prepared(seeded(residual), images[:1])
    with pytest.raises(ValueError, match="repair 'least-squares' needs unlabelled images: give them as `images`"):
        compress(network, CompressionConfig(sparsity=0.5, repair="least-squares"), Sources(images[:1]))


def test_as_many_images_are_looked_at_as_asked_for(images: torch.Tensor) -> None:
    network = Network.prepared(seeded(residual), images[:1])
    config = CompressionConfig(sparsity=0.5, repair={"name": "least-squares", "images": 20})
    some = compress(network, config, Sources(images[:1], images=[images[:16], images[16:]]))
    same = compress(network, config, Sources(images[:1], calibration=lambda count: [images[:16], images[16:count]]))
    other = compress(network, config, Sources(images[:1], images=[images[20:]]))
    assert all(map(torch.equal, some.model.parameters(), same.model.parameters()))
    assert not all(map(torch.equal, some.model.parameters(), other.model.parameters()))


def test_more_images_are_better(images: torch.Tensor) -> None:
    network = Network.prepared(seeded(residual), images[:1])
    many = torch.randn(512, 3, 12, 12, generator=torch.Generator().manual_seed(1))
    errors = [
        error(
            network,
            compress(
                network,
                CompressionConfig(sparsity=0.5, repair={"name": "least-squares", "images": count}),
                Sources(images[:1], images=[many]),
            ),
            images,
        )
        for count in (4, 64, 512)
    ]
    assert all(more < fewer for fewer, more in pairwise(errors))


@pytest.mark.parametrize("memory", [solving.MEMORY, 0], ids=["waiting", "repeated"])
@pytest.mark.parametrize("name", ["convolutions", "residual", "flattened", "tokens", "twice"])
def test_refining_fits_every_chain_better_to_what_its_end_is_to_make(
    name: str, memory: int, monkeypatch: pytest.MonkeyPatch
) -> None:
    losses: list[tuple[float, float]] = []
    fit = Refinement.fit

    def measured(self: Refinement, layer: str, targets: dict[int, torch.Tensor]) -> dict[int, torch.Tensor]:
        chain = self.chains[layer]
        first, second = (self.plans[each].layer for each in (chain.producer, layer))
        inputs = dict(self.inputs[chain.producer])

        def loss() -> float:
            return sum(
                float((made_rows(second, second(chain.run(first(inputs[n]))), ALL, None) - targets[n]).square().mean())
                for n in targets
            )

        before = loss()
        found = fit(self, layer, targets)
        losses.append((before, loss()))
        return found

    monkeypatch.setattr(solving, "MEMORY", memory)
    monkeypatch.setattr(Refinement, "fit", measured)
    images = torch.randn(128, 3, 12, 12, generator=torch.Generator().manual_seed(0))
    network = Network.prepared(seeded(NETWORKS[name]), images[:1])
    config = CompressionConfig(sparsity=0.5, repair={"name": "least-squares", "refine": 10})
    made = compress(network, config, Sources(images[:1], images=[images]))
    assert len(losses) == {"convolutions": 2, "residual": 2, "flattened": 1, "tokens": 1, "twice": 0}[name]
    assert all(after < before for before, after in losses)
    assert made.model(images).isfinite().all()


def test_chains_lead_from_one_layer_to_the_next_and_nowhere_else(images: torch.Tensor) -> None:
    model = seeded(residual)
    layers = [name for name, module in model.named_modules() if isinstance(module, (nn.Conv2d, nn.Linear))]
    chains = course_of(model, layers, images).chains
    assert {consumer: chain.producer for consumer, chain in chains.items()} == {
        "3.conv2": "3.conv1",
        "4.conv2": "4.conv1",
    }
    outputs: list[torch.Tensor] = []
    inputs: list[torch.Tensor] = []
    with torch.no_grad():
        run_tapped(
            model,
            images,
            inputs={"4.conv2": lambda call, layer, given: inputs.append(given.clone())},
            outputs={"4.conv1": lambda call, layer, made: outputs.append(made.clone())},
        )
        torch.testing.assert_close(chains["4.conv2"].run(outputs[0]), inputs[0])


def test_batches_are_even_where_they_have_to_be() -> None:
    images = [torch.zeros(100, 1), torch.zeros(31, 1)]
    assert [len(batch) for batch in solving.batched(images, even=False)] == [33, 33, 33, 1, 31]
    assert [len(batch) for batch in solving.batched(images, even=True)] == [32, 32, 32, 32]
    assert [len(batch) for batch in solving.batched([torch.zeros(2, 1)], even=True)] == [1, 1]
    assert solving.batched([], even=True) == []


@pytest.mark.parametrize("kind", ["hidden", "heads", "query-key", "value-output", "residual", "all"])
def test_groups_of_transformers_are_solved_whatever_their_kind(kind: str) -> None:
    torch.manual_seed(0)
    images = torch.randn(COUNT, 3, 12, 12)
    network = Network.prepared(VisionTransformer(3, 5, 12, width=24, heads=4, depth=2).eval(), images[:1])
    plain, solved = (
        compress(
            network,
            CompressionConfig(sparsity=0.5, kinds=kind, repair=repair),
            Sources(images[:1], images=[images]),
        )
        for repair in ("none", "least-squares")
    )
    assert error(network, solved, images) < error(network, plain, images)
