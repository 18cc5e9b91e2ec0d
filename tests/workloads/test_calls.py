"""What layers read and make, call by call: layers that run several times, and rows that are not images."""

import copy

import pytest
import torch
from torch import Tensor, nn
from torch.nn import functional as F
from torchvision.models.swin_transformer import PatchMergingV2, SwinTransformer, SwinTransformerBlockV2

from workloads.compression.calls import (
    Call,
    ImageRows,
    by_channel,
    by_image,
    image_rows,
    output_moments,
    per_image,
    run_tapped,
)
from workloads.compression.compress import Sources, compress, score
from workloads.compression.criteria.independence import independence
from workloads.compression.repair import match_statistics, mismatch
from workloads.config import CompressionConfig, FusionConfig
from workloads.fusion.alignment import align
from workloads.fusion.fuse import average, fuse
from workloads.structure.groups import Group, Maps, apply
from workloads.structure.layers import get_layer
from workloads.structure.network import Network

IMAGES = torch.randn(30, 3, 12, 12, generator=torch.Generator().manual_seed(0))
LABELS = torch.arange(30) % 5


class Recurrent(nn.Module):
    """A residual convolution that runs several times."""

    def __init__(self, calls: int):
        super().__init__()
        self.calls = calls
        self.a, self.b, self.h = nn.Conv2d(3, 16, 3, padding=1), nn.Conv2d(16, 16, 3, padding=1), nn.Linear(16, 5)

    def forward(self, x: Tensor) -> Tensor:
        y = self.a(x).relu()
        for _ in range(self.calls):
            y = y + self.b(y.relu())
        return self.h(y.mean((2, 3)))


class Pyramid(nn.Module):
    """One head with two names on maps of three sizes, and a layer that is given its input by name."""

    def __init__(self) -> None:
        super().__init__()
        self.a, self.b, self.c = nn.Conv2d(3, 8, 3), nn.Conv2d(8, 8, 3, stride=2), nn.Conv2d(8, 8, 3)
        self.head, self.last = nn.Conv2d(8, 12, 1), nn.Linear(12, 5)
        self.same = self.head

    def forward(self, x: Tensor) -> Tensor:
        one = self.a(x).relu()
        two = self.b(input=one).relu()
        three = self.c(two).relu()
        maps = self.head(one), self.same(two), self.head(three)
        return self.last(sum(part.relu_().mean((2, 3)) for part in maps))


NETWORKS = {"recurrent": lambda: Recurrent(8), "twice": lambda: Recurrent(2), "pyramid": Pyramid}


@pytest.fixture(params=NETWORKS)
def network(request: pytest.FixtureRequest) -> Network:
    torch.manual_seed(0)
    return Network.prepared(NETWORKS[request.param](), IMAGES[:1])


def assert_same_function(one: nn.Module, other: nn.Module) -> None:
    with torch.no_grad():
        torch.testing.assert_close(one(IMAGES), other(IMAGES), rtol=1e-4, atol=1e-5)


@pytest.mark.parametrize("alignment", ["activations", "weights", "none"])
def test_fusing_a_network_with_its_own_copy_changes_nothing(network: Network, alignment: str) -> None:
    models = [network.model, copy.deepcopy(network.model)]
    fused = fuse(models, [network.structure] * 2, [IMAGES], FusionConfig(alignment=alignment))
    assert_same_function(fused, network.model)


def test_repair_on_data_of_what_lost_nothing_changes_nothing(network: Network) -> None:
    config = CompressionConfig(sparsity=0, repair="data")
    assert_same_function(compress(network, config, Sources(IMAGES[:1], images=[IMAGES])).model, network.model)


def test_a_gain_and_an_offset_that_all_calls_want_are_found(network: Network) -> None:
    wanted = output_moments(network.model, [layer for g in network.structure.groups for layer in g.layers], [IMAGES])
    spoilt = copy.deepcopy(network.model)
    with torch.no_grad():
        for layer in {"b", "head"} & wanted.keys():
            get_layer(spoilt, layer).weight.mul_(0.8)
            get_layer(spoilt, layer).bias.add_(0.02)
    before = output_moments(spoilt, wanted, [IMAGES])
    match_statistics(spoilt, wanted, [IMAGES])
    after = output_moments(spoilt, wanted, [IMAGES])
    as_they_are = {name: (torch.ones(()), torch.zeros(())) for name in wanted}
    assert mismatch(wanted, after, as_they_are) < 1e-3 * mismatch(wanted, before, as_they_are)


def test_repair_never_leaves_the_statistics_of_repeated_layers_worse(network: Network) -> None:
    names = [layer for group in network.structure.groups for layer in group.layers]
    wanted = output_moments(network.model, names, [IMAGES])
    several = {name: (torch.ones(()), torch.zeros(())) for name in names if len(wanted[name][0]) > 1}
    for seed in range(5):
        generator = torch.Generator().manual_seed(seed)
        other = copy.deepcopy(network.model)
        with torch.no_grad():
            for name in several:
                weight = get_layer(other, name).weight
                weight.copy_(torch.randn(weight.shape, generator=generator) * weight.std())
        before = mismatch(wanted, output_moments(other, names, [IMAGES]), several)
        match_statistics(other, {name: wanted[name] for name in several}, [IMAGES])
        assert mismatch(wanted, output_moments(other, names, [IMAGES]), several) <= before * 1.001


def test_moments_are_kept_for_each_call() -> None:
    model, seen = Recurrent(3).eval(), []
    moments = output_moments(model, ["a", "b"], [IMAGES[:10], IMAGES[10:]])
    run_tapped(
        model, IMAGES, outputs={"b": lambda call, layer, output: seen.append(by_channel(layer, output).double())}
    )
    assert [len(part) for part in moments["a"]] == [1, 1]
    torch.testing.assert_close(moments["b"][0], torch.stack([part.mean(0) for part in seen]), check_dtype=False)
    torch.testing.assert_close(moments["b"][1], torch.stack([p.std(0, correction=0) for p in seen]), check_dtype=False)


def permuted(network: Network) -> nn.Module:
    other = copy.deepcopy(network.model)
    for group in network.structure.groups:
        order = torch.eye(group.size)[torch.randperm(group.size, generator=torch.Generator().manual_seed(1))]
        apply(other, group, Maps(order, order))
    return other


def test_activations_of_all_calls_align_a_permuted_copy(network: Network) -> None:
    other = permuted(network)
    aligned = align(network.model, other, (network.structure,) * 2, [IMAGES], FusionConfig(alignment="activations"))
    for name, tensor in aligned.state_dict().items():
        torch.testing.assert_close(tensor, network.model.state_dict()[name])
    assert not torch.allclose(average([network.model, other])(IMAGES), network.model(IMAGES), atol=1e-3)


class Late(nn.Module):
    """Neurons that differ in the first call of their layer only, in which one kind of image alone has any input."""

    def __init__(self) -> None:
        super().__init__()
        self.a, self.h = nn.Conv2d(3, 6, 1), nn.Linear(6, 5)

    def forward(self, x: Tensor) -> Tensor:
        return self.h((self.a(x).relu() + self.a(torch.zeros_like(x)).relu()).mean((2, 3)))


def test_activations_of_the_last_call_alone_do_not_decide() -> None:
    torch.manual_seed(0)
    model = Late()
    nn.init.ones_(model.a.bias)  # all that the last call sees
    network = Network.prepared(model, IMAGES[:1])
    other = permuted(network)
    config = FusionConfig(alignment="activations")
    aligned = align(network.model, other, (network.structure,) * 2, [IMAGES], config)
    torch.testing.assert_close(aligned.a.weight, network.model.a.weight)


def test_reconstruction_reads_what_layers_get_before_anything_overwrites_it() -> None:
    class Overwriting(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.a, self.b, self.h = nn.Conv2d(3, 8, 3, padding=1), nn.Conv2d(8, 8, 1), nn.Linear(8, 5)

        def forward(self, x: Tensor) -> Tensor:
            y = self.a(x).relu()
            z = self.b(input=y)
            y.mul_(0)
            return self.h((z + y).relu().mean((2, 3)))

    torch.manual_seed(0)
    network = Network.prepared(Overwriting(), IMAGES[:1])
    twins = network.model
    for group in network.structure.groups:
        pairs = torch.eye(group.size)[torch.arange(group.size) // 2 * 2]
        apply(twins, group, Maps(pairs, pairs))
    method = {"name": "reconstruction", "options": {"ridge": 1e-8, "producing": "folding"}}
    config = CompressionConfig(sparsity=0.5, method=method)
    assert_same_function(compress(network, config, Sources(IMAGES[:1], images=[IMAGES])).model, twins)


def test_a_module_with_two_names_is_reconstructed_under_both() -> None:
    class TwoNames(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.a, self.b, self.h = nn.Conv2d(3, 8, 3), nn.Conv2d(8, 8, 3), nn.Linear(8, 5)
            self.c = self.b

        def forward(self, x: Tensor) -> Tensor:
            return self.h(self.c(self.b(self.a(x).relu()).relu()).relu().mean((2, 3)))

    torch.manual_seed(0)
    network = Network.prepared(TwoNames(), IMAGES[:1])
    twins, (group,) = network.model, network.structure.groups
    pairs = torch.eye(8)[torch.arange(8) // 2 * 2]
    apply(twins, group, Maps(pairs, pairs))
    method = {"name": "reconstruction", "options": {"ridge": 1e-8, "producing": "folding"}}
    pruned = compress(network, CompressionConfig(sparsity=0.5, method=method), Sources(IMAGES[:1], images=[IMAGES]))
    assert pruned.model.c is pruned.model.b
    assert_same_function(pruned.model, twins)


class Encoder(nn.Module):
    """A transformer's layer on patches; its inner rows are images first, tokens first, or folded into one dimension."""

    def __init__(self, rows: str):
        super().__init__()
        self.rows = rows
        self.embed, self.up, self.down = nn.Conv2d(3, 8, 4, stride=4), nn.Linear(8, 16), nn.Linear(16, 8)
        self.start, self.head = nn.Parameter(torch.randn(1, 1, 8)), nn.Linear(8, 5)

    def forward(self, x: Tensor) -> Tensor:
        x = self.embed(x).flatten(2).mT
        x = torch.cat([self.start.expand(len(x), 1, 8), x], 1)  # a token that no image changes
        y = x if self.rows.startswith("images") else x.transpose(0, 1)
        if self.rows.endswith("folded"):
            y = self.down(self.up(y.flatten(0, 1)).relu()).view(y.shape)
        else:
            y = self.down(self.up(y).relu())
        y = y if self.rows.startswith("images") else y.transpose(0, 1)
        return self.head((x + y).mean(1))


LAYOUTS = {"images": ImageRows(0, 1), "tokens": ImageRows(1, 1)} | {
    "images folded": ImageRows(0, 10),
    "tokens folded": ImageRows(0, 1),
}


def encoder(rows: str) -> Network:
    torch.manual_seed(0)
    return Network.prepared(Encoder(rows), IMAGES[:1])


@pytest.mark.parametrize("rows", LAYOUTS)
@pytest.mark.parametrize("criterion", ["hessian", "chip"])
def test_criteria_are_the_same_wherever_the_images_are(rows: str, criterion: str) -> None:
    plain, other = encoder("images"), encoder(rows)
    assert image_rows(other.model, ["up"], IMAGES) == {Call("up", 0): LAYOUTS[rows]}
    number = next(group.number for group in plain.structure.groups if group.layers == ("up",))
    sources = Sources(IMAGES[:1], batches=[(IMAGES[:20], LABELS[:20]), (IMAGES[20:], LABELS[20:])])
    found, expected = (score(each, number, {"name": criterion}, sources)[1] for each in (other, plain))
    torch.testing.assert_close(found, expected, rtol=1e-4, atol=1e-5)


def gate_by_hand(model: nn.Module, group: Group) -> Tensor:
    """Mean squared slope of each image's loss as a pairing's outputs are scaled, by finite differences."""
    model, step = copy.deepcopy(model).double(), 1e-4
    slopes = torch.zeros(len(IMAGES), group.size, dtype=torch.float64)
    for pairing in range(group.size):
        for sign in (1, -1):
            scaled = copy.deepcopy(model)
            for member in group.on("producer"):
                layer = get_layer(scaled, member.layer)
                with torch.no_grad():
                    layer.weight[member.index[pairing]] *= 1 + sign * step
                    if layer.bias is not None:
                        layer.bias[member.index[pairing]] *= 1 + sign * step
            with torch.no_grad():
                losses = F.cross_entropy(scaled(IMAGES.double()), LABELS, reduction="none")
            slopes[:, pairing] += sign * losses / (2 * step)
    scores = slopes.square().sum(0)
    return (scores / scores.mean()).float()


class Shared(nn.Module):
    """A table that is the same for every image, made by layers that see none, as a position bias."""

    def __init__(self) -> None:
        super().__init__()
        self.register_buffer("places", torch.randn(1, 9, 2, generator=torch.Generator().manual_seed(3)))
        self.up, self.down, self.embed = nn.Linear(2, 10), nn.Linear(10, 8), nn.Conv2d(3, 8, 4, stride=4)
        self.head = nn.Linear(8, 5)

    def forward(self, x: Tensor) -> Tensor:
        bias = self.down(self.up(2 * self.places).relu()).mT.unflatten(2, (3, 3))
        return self.head((self.embed(x) + bias).relu().mean((2, 3)))


def test_hessian_is_the_mean_square_slope_of_each_images_loss() -> None:
    torch.manual_seed(0)
    networks = [Network.prepared(Shared(), IMAGES[:1]), encoder("tokens"), Network.prepared(Recurrent(3), IMAGES[:1])]
    sources = Sources(IMAGES[:1], batches=[(IMAGES, LABELS)])
    for network in networks:
        for group in network.structure.groups:
            found = score(network, group.number, {"name": "hessian"}, sources)[1]
            torch.testing.assert_close(found, gate_by_hand(network.model, group), rtol=2e-3, atol=1e-4)


def test_chip_of_layers_that_run_often_or_see_no_image_is_by_definition() -> None:
    torch.manual_seed(0)
    shared, recurrent = (Network.prepared(model, IMAGES[:1]) for model in (Shared(), Recurrent(3)))
    sources = Sources(IMAGES[:1], batches=[(IMAGES[:4], LABELS[:4])])
    number = next(group.number for group in shared.structure.groups if group.layers == ("up",))
    expected = independence(shared.model.up(2 * shared.model.places).mT)[0].float()
    found = score(shared, number, {"name": "chip"}, sources)[1]
    torch.testing.assert_close(found, (expected / expected.mean()).detach(), rtol=1e-4, atol=1e-5)

    (group,) = recurrent.structure.groups
    maps: dict[str, list[Tensor]] = {"a": [], "b": []}
    taps = dict.fromkeys(maps, lambda call, layer, output: maps[call.layer].append(output.flatten(2)))
    with torch.no_grad():
        run_tapped(recurrent.model, IMAGES[:4], outputs=taps)
    means = [torch.stack([independence(part).mean(0) for part in maps[layer]]).mean(0) for layer in group.layers]
    expected = torch.stack(means).mean(0).float()
    found = score(recurrent, 0, {"name": "chip"}, sources)[1]
    torch.testing.assert_close(found, expected / expected.mean(), rtol=1e-4, atol=1e-5)


@pytest.mark.parametrize("batch_first", [False, True])
@pytest.mark.parametrize("criterion", ["hessian", "chip", "taylor"])
def test_pytorchs_own_encoder_layer(batch_first: bool, criterion: str) -> None:
    class Tokens(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.embed = nn.Conv2d(3, 8, 4, stride=4)
            self.layer = nn.TransformerEncoderLayer(8, 2, 16, dropout=0.0, batch_first=batch_first)
            self.head = nn.Linear(8, 5)

        def forward(self, x: Tensor) -> Tensor:
            x = self.embed(x).flatten(2).mT
            x = self.layer(x) if batch_first else self.layer(x.transpose(0, 1)).transpose(0, 1)
            return self.head(x.mean(1))

    torch.manual_seed(0)
    network = Network.prepared(Tokens(), IMAGES[:1])
    number = next(group.number for group in network.structure.groups if group.layers == ("layer.linear1",))
    alone = Sources(
        IMAGES[:1], batches=[(image[None], label[None]) for image, label in zip(IMAGES, LABELS, strict=True)]
    )
    together = Sources(IMAGES[:1], batches=[(IMAGES, LABELS)])
    one, all_images = (score(network, number, {"name": criterion}, sources)[1] for sources in (alone, together))
    torch.testing.assert_close(one, all_images, rtol=2e-3, atol=1e-4)
    assert one.max() > 0


def test_swin_v2_whose_position_bias_sees_no_image() -> None:
    torch.manual_seed(0)
    sizes = {"embed_dim": 12, "depths": [2, 2], "num_heads": [2, 2], "window_size": [4, 4], "num_classes": 5}
    model = SwinTransformer([4, 4], **sizes, block=SwinTransformerBlockV2, downsample_layer=PatchMergingV2)
    nn.init.normal_(model.head.weight)
    images = torch.randn(5, 3, 64, 64)
    network = Network.prepared(model, images[:1])
    number = next(g.number for g in network.structure.groups if "cpb_mlp" in g.layers[0])
    config = {"sparsity": 0.5, "group": number}
    for criterion in ("hessian", "chip"):
        sources = Sources(images[:1], batches=[(images, torch.arange(5))])
        pruned = compress(network, CompressionConfig(**config, criterion=criterion), sources)
        assert pruned.structure.groups[number].size < network.structure.groups[number].size
        assert score(network, number, {"name": criterion}, sources)[1].max() > 0


def test_values_of_images_are_spread_and_gathered_alike() -> None:
    layer, conv = nn.Linear(4, 7), nn.Conv2d(4, 7, 1)
    values = torch.randn(3, 7)
    for module, shape, rows in (
        (layer, (3, 7), ImageRows(0, 1)),
        (layer, (5, 3, 7), ImageRows(1, 1)),
        (layer, (12, 5, 7), ImageRows(0, 4)),
        (layer, (5, 24, 7), ImageRows(1, 2)),
        (conv, (3, 7, 2, 2), ImageRows(0, 1)),
        (conv, (6, 7, 2, 2), ImageRows(0, 1)),
        (conv, (2, 7, 3, 4), ImageRows(2, 1)),
    ):
        spread = per_image(values, module, torch.zeros(shape), rows).expand(shape)
        gathered = by_image(module, spread, 3, rows)
        assert torch.equal(gathered, values[:, None].expand(gathered.shape))
    assert by_image(conv, torch.zeros(7, 2, 2), 1, None).shape == (1, 4, 7)
    assert per_image(values[:1], conv, torch.zeros(7, 2, 2), None).shape == (7, 1, 1)


def test_images_that_cannot_be_told_from_each_other_come_alone() -> None:
    class Mixing(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.a, self.h = nn.Conv2d(3, 4, 1), nn.Linear(4, 5)

        def forward(self, x: Tensor) -> Tensor:
            return self.h(self.a(x - x.mean(0)).mean((2, 3)))

    assert image_rows(Mixing(), ["a"], IMAGES) is None
    assert image_rows(Shared(), ["up"], IMAGES) is None
    assert image_rows(Shared(), ["embed"], IMAGES) == {Call("embed", 0): ImageRows(0, 1)}


def test_a_layer_that_does_not_run_is_an_error() -> None:
    model = Recurrent(0)
    with pytest.raises(ValueError, match="layer 'b' did not run on these images"):
        output_moments(model, ["a", "b"], [IMAGES])
    with pytest.raises(ValueError, match="layer 'b' did not run on these images"):
        run_tapped(model, IMAGES, inputs={"b": lambda *seen: None})
