"""Solving the layers of a narrowed network again, on small networks where the right answer is known."""

import threading
from collections.abc import Callable
from dataclasses import replace
from itertools import pairwise

import pytest
import torch
from torch import nn

from workloads.compression.calls import run_tapped
from workloads.compression.compensation import Originals, passes, solving
from workloads.compression.compensation.originals import KEPT
from workloads.compression.compensation.refining import Refinement
from workloads.compression.compensation.summands import IMAGES, course_of
from workloads.compression.compensation.sums import ALL, FOLDS, Windows, made_rows
from workloads.compression.compensation.views import with_views
from workloads.compression.compress import Sources, compress
from workloads.config import CompressionConfig, LeastSquaresConfig
from workloads.networks.models import BasicBlock
from workloads.networks.vit import VisionTransformer
from workloads.structure.network import Network

COUNT = 64


@pytest.fixture
def images() -> torch.Tensor:
    return torch.randn(COUNT, 3, 12, 12, generator=torch.Generator().manual_seed(0))


@pytest.fixture
def sources(images: torch.Tensor) -> Sources:
    return Sources(images[:1], images=[images])


def seeded(make: Callable[[], nn.Module]) -> nn.Module:
    torch.manual_seed(3)
    model = make()
    for module in model.modules():
        if isinstance(module, nn.BatchNorm2d):
            module.running_mean.data.normal_(0, 0.2)
            module.running_var.data.uniform_(0.5, 1.5)
    return model.eval()


def convolutions(first: nn.Module, second: nn.Module, width: int = 8) -> nn.Module:
    end = [nn.ReLU(), nn.AdaptiveAvgPool2d(1), nn.Flatten(), nn.Linear(width, 5)]
    return nn.Sequential(first, nn.ReLU(), second, *end)


def residual() -> nn.Module:
    return nn.Sequential(
        nn.Conv2d(3, 8, 3, padding=1),
        nn.BatchNorm2d(8),
        nn.ReLU(),
        BasicBlock(8, 8, 1),
        BasicBlock(8, 16, 2),
        nn.AdaptiveAvgPool2d(1),
        nn.Flatten(),
        nn.Linear(16, 5),
    )


class Tokens(nn.Module):
    """A residual stream of tokens with a norm and an MLP."""

    def __init__(self) -> None:
        super().__init__()
        self.embed, self.norm = nn.Conv2d(3, 16, 4, stride=4), nn.LayerNorm(16)
        self.up, self.down, self.last = nn.Linear(16, 24), nn.Linear(24, 16), nn.Linear(16, 5)

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        x = self.embed(x).flatten(2).transpose(1, 2)
        x = x + self.down(nn.functional.gelu(self.up(self.norm(x))))
        return self.last(x.mean(1))


class Twice(nn.Module):
    """A layer that runs twice in a pass."""

    def __init__(self) -> None:
        super().__init__()
        self.first, self.again = nn.Conv2d(3, 8, 3, padding=1), nn.Conv2d(8, 8, 3, padding=1)
        self.last = nn.Linear(8, 5)

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        x = self.first(x).relu()
        return self.last(self.again(self.again(x).relu()).relu().mean((2, 3)))


def depthwise() -> nn.Module:
    return nn.Sequential(
        nn.Conv2d(3, 8, 1),
        nn.ReLU(),
        nn.Conv2d(8, 8, 3, padding=1, groups=8),
        nn.ReLU(),
        nn.Conv2d(8, 8, 1),
        nn.ReLU(),
        nn.AdaptiveAvgPool2d(1),
        nn.Flatten(),
        nn.Linear(8, 5),
    )


NETWORKS: dict[str, Callable[[], nn.Module]] = {
    "convolutions": lambda: convolutions(nn.Conv2d(3, 8, 3), nn.Conv2d(8, 8, 3, stride=2, dilation=2, padding=2)),
    "reflected": lambda: convolutions(
        nn.Conv2d(3, 8, 3, bias=False), nn.Conv2d(8, 8, (3, 1), padding="same", padding_mode="reflect")
    ),
    "transposed": lambda: convolutions(nn.Conv2d(3, 8, 3), nn.ConvTranspose2d(8, 8, 2, stride=2)),
    "flattened": lambda: nn.Sequential(nn.Conv2d(3, 8, 3, stride=3), nn.ReLU(), nn.Flatten(), nn.Linear(128, 5)),
    "residual": residual,
    "tokens": Tokens,
    "twice": Twice,
    "depthwise": depthwise,
}


@pytest.fixture(params=NETWORKS)
def network(request: pytest.FixtureRequest, images: torch.Tensor) -> Network:
    return Network.prepared(seeded(NETWORKS[request.param]), images[:1])


@torch.inference_mode()
def error(network: Network, smaller: Network, images: torch.Tensor) -> float:
    wanted = network.model(images)
    return float((smaller.model(images) - wanted).square().mean() / wanted.var(0).mean())


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


def test_waiting_passes_and_repeated_ones_give_the_same(
    network: Network, sources: Sources, images: torch.Tensor, monkeypatch: pytest.MonkeyPatch
) -> None:
    config = CompressionConfig(sparsity=0.5, repair="least-squares")
    waiting = compress(network, config, sources)
    monkeypatch.setattr(solving, "MEMORY", 0)
    repeated = compress(network, config, sources)
    for one, other in zip(waiting.model.parameters(), repeated.model.parameters(), strict=True):
        torch.testing.assert_close(one, other, rtol=1e-4, atol=1e-5)


def test_waiting_passes_wait_where_they_can(network: Network, images: torch.Tensor) -> None:
    layers = [layer for group in network.structure.groups for layer in group.layers]
    course = course_of(network.model, layers, images[:2])
    sides = passes.Side(network.model, course, after=True), passes.Side(network.model, course, after=False)
    once = "again" not in layers
    assert isinstance(passes.passes_over(*sides, [images], solving.MEMORY), passes.Lockstep) is once
    assert isinstance(passes.passes_over(*sides, [images], 1000), passes.Rerunning)
    assert course.bytes_per_image >= 3 * 12 * 12 * 4


def test_images_count_with_their_own_memory_where_they_are_a_part_of_many(images: torch.Tensor) -> None:
    model = seeded(residual)
    course, alone = (course_of(model, ["0", "7"], part) for part in (images[:2], images[:2].clone()))
    assert course.bytes_per_image == alone.bytes_per_image


@pytest.mark.parametrize("memory", [KEPT, 600_000, 0], ids=["all", "some", "none"])
def test_the_cells_of_a_grid_share_what_the_original_makes(
    images: torch.Tensor, monkeypatch: pytest.MonkeyPatch, memory: int
) -> None:
    ran: list[nn.Module] = []
    run = passes.Pass.run

    def counted(self: passes.Pass) -> None:
        ran.append(self.side.model)
        run(self)

    monkeypatch.setattr(passes.Pass, "run", counted)
    network = Network.prepared(seeded(residual), images[:1])
    originals = Originals(memory)

    def cells(kept: Originals | None) -> list[Network]:
        sources = Sources(images[:1], images=[images], originals=kept)
        return [
            compress(network, CompressionConfig(sparsity=sparsity, repair=repair), sources)
            for sparsity in (0.5, 0.25)
            for repair in ("least-squares", {"name": "least-squares", "images": COUNT // 2})
        ]

    shared = cells(originals)
    runs = ran.count(network.model)
    assert originals.size <= memory
    alone = cells(None)
    assert all(
        torch.equal(one, other)
        for pair in zip(shared, alone, strict=True)
        for one, other in zip(*(network.model.parameters() for network in pair), strict=True)
    )
    once, always = 2 * FOLDS, 4 * FOLDS  # batches of all images and of half of them
    assert runs == {KEPT: once, 0: always}.get(memory, runs)
    assert once <= runs <= always
    assert ran.count(network.model) == runs + always


def test_what_the_original_made_is_forgotten_once_its_weights_change(sources: Sources, images: torch.Tensor) -> None:
    network = Network.prepared(seeded(residual), images[:1])
    config = CompressionConfig(sparsity=0.5, repair="least-squares")
    keeping = replace(sources, originals=Originals())
    compress(network, config, keeping)
    with torch.no_grad():
        network.model[0].weight.mul_(1.1)
    kept, anew = (compress(network, config, each) for each in (keeping, sources))
    assert all(map(torch.equal, kept.model.parameters(), anew.model.parameters()))


def test_a_pass_that_fails_is_an_error_and_leaves_no_thread(images: torch.Tensor) -> None:
    network = Network.prepared(seeded(residual), images[:1])
    smaller = compress(network, CompressionConfig(sparsity=0.5), Sources(images[:1]))
    layers = ["0", "7"]
    course = course_of(network.model, layers, images[:2])
    before = threading.active_count()
    with passes.Side(network.model, course, after=True) as one, passes.Side(smaller.model, course, after=False) as two:
        batches = [images, images[:, :2]]
        running = passes.Lockstep(passes.waiting_passes(one, batches), two, batches)
        with pytest.raises(ValueError, match="ended before all layers ran"):
            list(running.at("0"))
        running.close()
    assert threading.active_count() == before
    assert not network.model[0]._forward_hooks
    assert not smaller.model[0]._forward_pre_hooks


def test_summands_are_known_by_the_operations_of_a_pass(images: torch.Tensor) -> None:
    network = Network.prepared(seeded(residual), images[:1])
    layers = [name for name, module in network.model.named_modules() if isinstance(module, nn.Conv2d)]
    course = course_of(network.model, layers, images[:2])
    with_shortcut, without = ("4.shortcut.0", "3.conv2")
    assert {call.layer for call in course.summands} == {with_shortcut, without}
    plain = course_of(nn.Sequential(AddsItsInput()).eval(), ["0.layer"], images[:2])
    assert list(plain.summands.values()) == [IMAGES]


class AddsItsInput(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.layer = nn.Conv2d(3, 3, 1)

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        return self.layer(x) + x


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


def test_views_of_an_image_follow_each_other_and_mirror_or_move_it() -> None:
    images = torch.arange(2 * 8 * 8.0).view(2, 1, 8, 8)
    found = with_views([images[:1], images[1:]], ["mirrored", "shifted"], seed=0)
    assert [len(batch) for batch in found] == [4, 4]
    for batch, image in zip(found, images, strict=True):
        assert torch.equal(batch[0], image)
        assert torch.equal(batch[1], image.flip(2))
        for number in (0, 1):
            padded = nn.functional.pad(batch[number : number + 1], (1, 1, 1, 1), mode="reflect")[0]
            moved = [padded[:, i : i + 8, j : j + 8] for i in range(3) for j in range(3)]
            assert any(torch.equal(batch[2 + number], each) for each in moved)
    assert with_views([images], [], seed=0)[0].equal(images)


def test_views_stand_for_more_images() -> None:
    def mirrored(images: torch.Tensor) -> list[torch.Tensor]:
        return [torch.stack([images, images.flip(3)], 1).flatten(0, 1)]

    images = torch.randn(COUNT, 3, 12, 12, generator=torch.Generator().manual_seed(0))
    network = Network.prepared(seeded(residual), images[:1])
    views, given, without = (
        compress(network, CompressionConfig(sparsity=0.5, repair=repair), Sources(images[:1], images=shown))
        for repair, shown in (
            ({"name": "least-squares", "views": ["mirrored"]}, [images]),
            ("least-squares", mirrored(images)),
            ("least-squares", [images]),
        )
    )
    assert all(map(torch.equal, views.model.parameters(), given.model.parameters()))
    assert not all(map(torch.equal, views.model.parameters(), without.model.parameters()))


@pytest.mark.parametrize(
    ("settings", "message"),
    [
        ({"images": "synthetic", "views": ["mirrored"]}, "of made-up ones there may be more: raise count"),
        ({"views": ["mirrored", "mirrored"]}, "views has mirrored twice"),
    ],
)
def test_views_that_give_nothing_new_are_refused(settings: dict[str, object], message: str) -> None:
    with pytest.raises(ValueError, match=message):
        CompressionConfig(sparsity=0.5, repair={"name": "least-squares", **settings})


def test_views_stand_in_the_label() -> None:
    config = LeastSquaresConfig(images=128, views=("mirrored", "shifted"))
    assert config.label == "least-squares(images=128, views=mirrored+shifted)"
