"""Both networks pass over the images layer by layer, and what the original makes is shared."""

import threading
from dataclasses import replace

import pytest
import torch
from torch import nn

from tests.workloads.solvable import (
    COUNT,
    NETWORKS,
    AddsItsInput,
    images_of_noise,
    residual,
    seeded,
)
from workloads.compression.compensation import Originals, passes, solving
from workloads.compression.compensation.originals import KEPT
from workloads.compression.compensation.summands import IMAGES, course_of
from workloads.compression.compensation.sums import FOLDS
from workloads.compression.compress import Sources, compress
from workloads.config import CompressionConfig
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
