"""What channel tracing follows: every kind of layer and wrapper, in networks that use them as people do."""

import copy
from collections.abc import Callable

import pytest
import torch
from torch import Tensor, nn
from torch.nn import functional as F
from torchvision.ops import FrozenBatchNorm2d

from tests.workloads.layers import (
    IMAGES,
    Cast,
    ConvAct,
    LayerNorm2d,
    LayerScale,
    NormAct,
    ResponseNorm,
    SamePadding,
    SelectiveKernels,
    ShapedScale,
    SplitAttention,
    SqueezeExcite,
    Standardised,
    net,
)
from workloads.compression.compress import Sources, compress
from workloads.config import KINDS, CompressionConfig
from workloads.networks.checkpoints import Description, dumps, fit, loads
from workloads.structure.finding import trace
from workloads.structure.groups import CONSUMER, PRODUCER, Maps, apply
from workloads.structure.layers import get_layer
from workloads.structure.network import Network

EXACT: dict[str, tuple[Callable[[], nn.Module], int]] = {
    "batch-norm with an activation": (lambda: net(NormAct(16)), 16),
    "synchronised batch-norm": (lambda: net(nn.SyncBatchNorm(16)), 16),
    "frozen batch-norm": (lambda: net(FrozenBatchNorm2d(16)), 16),
    "convolution with padding": (lambda: net(SamePadding(16, 16, 3)), 16),
    "convolution with an activation": (lambda: net(ConvAct(16, 16, 3)), 16),
    "linear layer with a cast": (lambda: nn.Sequential(*net()[:-1], Cast(12, 8), nn.ReLU(), nn.Linear(8, 5)), 16),
    "layer scale": (lambda: net(LayerScale(16)), 16),
    "factors in a shape that their module records": (lambda: net(ShapedScale(16)), 16),
    "squeeze-and-excite": (lambda: net(SqueezeExcite(16)), 16),
    "selective kernels": (lambda: net(SelectiveKernels(16)), 16),
    "split attention": (lambda: net(SplitAttention(16)), 16),
    "depthwise convolution": (lambda: net(nn.Conv2d(16, 16, 3, groups=16)), 16),
    "transposed convolution": (lambda: net(nn.ConvTranspose2d(16, 16, 3)), 16),
    "group norm": (lambda: net(nn.GroupNorm(8, 16)), 8),
    "instance norm": (lambda: net(nn.InstanceNorm2d(16, affine=True)), 16),
    "instance norm with statistics": (lambda: net(nn.InstanceNorm2d(16, affine=True, track_running_stats=True)), 16),
    "PReLU": (lambda: net(nn.PReLU(16)), 16),
    "channel shuffle": (lambda: net(nn.ChannelShuffle(2)), 8),
    "bilinear upsampling": (lambda: net(nn.Upsample(scale_factor=2, mode="bilinear")), 16),
}


@pytest.mark.parametrize("case", EXACT)
@torch.no_grad()
def test_layers_are_followed_and_removing_channels_is_not_reading_them(case: str) -> None:
    build, size = EXACT[case]
    model = build().eval()
    network = Network.prepared(model, IMAGES[:1])
    group = next(group for group in network.structure.groups if "0" in group.layers)
    assert network.structure.kept == ()
    assert group.size == size
    torch.testing.assert_close(network.model(IMAGES), model(IMAGES), rtol=1e-4, atol=1e-5)
    stay = torch.randperm(size, generator=torch.Generator().manual_seed(1))[: size // 2 + 1]
    gone = [number for number in range(size) if number not in stay]
    ignoring = copy.deepcopy(network.model)
    for member in group.on(CONSUMER):
        get_layer(ignoring, member.layer).weight.index_fill_(member.axis, member.index[gone].flatten(), 0)
    selection = torch.eye(size)[stay]
    removing = copy.deepcopy(network.model)
    apply(removing, group, Maps(selection, selection))
    torch.testing.assert_close(removing(IMAGES), ignoring(IMAGES), rtol=1e-4, atol=1e-5)
    removing.train()(IMAGES).sum()


@pytest.mark.parametrize("module", [SelectiveKernels, SplitAttention])
def test_the_branches_of_a_channel_go_together(module: Callable[[int], nn.Module]) -> None:
    structure = trace(net(module(16)), IMAGES[:1])
    (branches,) = (group for group in structure.groups if "1.select" in group.layers)
    assert branches.size == 16
    made = {member.layer: member.index for member in branches.on(PRODUCER)}
    assert made["1.select"].shape == (16, 2)


@torch.no_grad()
def test_a_module_that_returns_an_activation_is_not_repaired_as_if_it_were_linear() -> None:
    structure = trace(net(ConvAct(16, 16, 3)), IMAGES[:1])
    assert structure.opaque == {"1"}


NORMED: dict[str, tuple[Callable[[], nn.Module], str]] = {
    "layer norm over channels": (lambda: net(LayerNorm2d(16)), "normalized_shape"),
    "group norm over all channels": (lambda: net(nn.GroupNorm(1, 16)), "num_channels"),
    "global response norm": (lambda: net(ResponseNorm(16)), ""),
}


@pytest.mark.parametrize("case", NORMED)
@torch.no_grad()
def test_channels_with_a_norm_over_them_are_pruned_only_where_they_are_asked_for(case: str) -> None:
    build, attribute = NORMED[case]
    network = Network.prepared(build(), IMAGES[:1])
    assert [group.kind for group in network.structure.groups] == ["channels", "residual"]
    by_default = compress(network, CompressionConfig(sparsity=0.5), Sources(IMAGES[:1]))
    assert [group.size for group in by_default.structure.groups] == [6, 16]
    pruned = compress(network, CompressionConfig(sparsity=0.5, kinds="all"), Sources(IMAGES[:1]))
    assert [group.size for group in pruned.structure.groups] == [6, 8]
    assert pruned.model(IMAGES).isfinite().all()
    if attribute:
        assert getattr(pruned.model[1], attribute) in (8, (8,))


def test_a_network_without_groups_of_the_chosen_kinds_is_refused_with_a_sentence() -> None:
    network = Network.prepared(net(), IMAGES[:1])
    with pytest.raises(ValueError, match="no group of kind residual, but of kind channels: set kinds"):
        compress(network, CompressionConfig(sparsity=0.5, kinds="residual"), Sources(IMAGES[:1]))


class Tokens(nn.Module):
    """Patches with a class token, register tokens and learned positions, and an MLP as in vision transformers."""

    def __init__(self) -> None:
        super().__init__()
        self.patches = nn.Conv2d(3, 16, 4, 4)
        self.cls = nn.Parameter(torch.randn(1, 1, 16))
        self.registers = nn.Parameter(torch.randn(1, 2, 16))
        self.positions = nn.Parameter(torch.randn(1, 12, 16))
        self.norm1, self.up, self.down = nn.LayerNorm(16), nn.Linear(16, 24), nn.Linear(24, 16)
        self.norm2, self.head = nn.LayerNorm(16), nn.Linear(16, 5)

    def forward(self, x: Tensor) -> Tensor:
        x = self.patches(x).flatten(2).transpose(1, 2)
        tokens = [part.expand(len(x), -1, -1) for part in (self.cls, self.registers)]
        x = torch.cat([*tokens, x], 1) + self.positions
        x = x + self.down(F.gelu(self.up(self.norm1(x))))
        return self.head(self.norm2(x)[:, :2].mean(1))


def test_tokens_and_positions_belong_to_the_residual_stream() -> None:
    structure = trace(Tokens(), IMAGES[:1])
    hidden, residual = structure.groups
    assert (hidden.kind, hidden.layers, hidden.size) == ("hidden", ("up",), 24)
    assert (residual.kind, residual.layers, residual.size) == ("residual", ("patches", "down"), 16)
    own = [(member.parameter, member.side) for member in residual.members if member.layer == ""]
    assert own == [("cls", "added"), ("registers", "added"), ("positions", "added")]
    assert structure.kept == ()


def test_attention_of_a_fixed_number_of_heads_stays_with_a_reason_and_the_stream_around_it_is_followed() -> None:
    class Block(Tokens):
        def __init__(self) -> None:
            super().__init__()
            self.qkv, self.out = nn.Linear(16, 48), nn.Linear(16, 16)

        def forward(self, x: Tensor) -> Tensor:
            x = self.patches(x).flatten(2).transpose(1, 2) + self.positions[:, :9]
            q, k, v = self.qkv(self.norm1(x)).unflatten(2, (3, 2, 8)).permute(2, 0, 3, 1, 4)
            x = x + self.out(F.scaled_dot_product_attention(q, k, v).transpose(1, 2).flatten(2))
            return self.head(self.norm2(x).mean(1))

    structure = trace(Block(), IMAGES[:1])
    assert [(group.kind, group.layers) for group in structure.groups] == [("residual", ("patches", "out"))]
    ((layer, reason),) = structure.kept
    assert layer == "qkv"
    assert reason.startswith("the network does not run with some of its channels removed (unflatten: Provided sizes")


class Words(nn.Module):
    """Reads numbers of words."""

    def __init__(self) -> None:
        super().__init__()
        self.words, self.mix, self.head = nn.Embedding(20, 8), nn.Linear(8, 6), nn.Linear(6, 3)

    def forward(self, x: Tensor) -> Tensor:
        return self.head(self.mix(self.words(x)).relu().mean(1))


@torch.no_grad()
def test_whole_numbers_as_inputs_and_embeddings() -> None:
    words = torch.arange(20).view(2, 10)
    model = Words().eval()
    structure = trace(model, words[:1])
    assert [group.layers for group in structure.groups] == [("mix",), ("words",)]
    selection = torch.eye(8)[:3]
    apply(model, structure.groups[1], Maps(selection, selection))
    assert model.words.embedding_dim == 3
    assert model(words).shape == (2, 3)


class Casting(nn.Module):
    """Casts its input to a fixed format."""

    def __init__(self, dtype: torch.dtype = torch.float32):
        super().__init__()
        self.body, self.dtype = net().to(dtype), dtype

    def forward(self, x: Tensor) -> Tensor:
        return self.body(x.to(self.dtype) / 4)


@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16])
def test_a_cast_to_a_fixed_format_does_not_keep_channels_from_being_pruned(dtype: torch.dtype) -> None:
    structure = trace(Casting(dtype), IMAGES[:1].to(dtype))
    assert [group.size for group in structure.groups] == [12, 16]


class Special(nn.Module):
    """Treats some channels by their place."""

    def __init__(self, channels: int, mix: Callable[[Tensor], Tensor]):
        super().__init__()
        self.first, self.second, self.head = nn.Conv2d(3, channels, 1), nn.Conv2d(channels, 6, 1), nn.Linear(6, 5)
        self.mix = mix
        with torch.no_grad():  # the special channel is not an important one
            self.first.weight[-1] /= 10
            self.second.weight[:, -1] /= 10

    def forward(self, x: Tensor) -> Tensor:
        return self.head(self.second(self.mix(self.first(x))).relu().mean((2, 3)))


def last_is_a_gate(y: Tensor) -> Tensor:
    return torch.cat([y[:, :-1].relu(), 3 * y[:, -1:]], 1)


def leading_eighth_is_shifted(y: Tensor) -> Tensor:
    return torch.cat([y[:, : y.shape[1] // 8].roll(1, 2), y[:, y.shape[1] // 8 :]], 1)


def unequal_parts(y: Tensor) -> Tensor:
    return torch.cat([y[:, : y.shape[1] // 4].relu(), y[:, y.shape[1] // 4 :].tanh()], 1)


@pytest.mark.parametrize("width", [16, 32, 48, 64, 100, 128, 256])
@pytest.mark.parametrize("mix", [last_is_a_gate, leading_eighth_is_shifted, unequal_parts])
def test_channels_that_are_singled_out_by_their_place_stay(mix: Callable[[Tensor], Tensor], width: int) -> None:
    structure = trace(Special(width, mix), IMAGES[:1])
    assert [group.layers for group in structure.groups] == [("second",)]
    assert structure.kept[0][0] == "first"


class Attention(nn.Module):
    """Softmax over positions, channel by channel."""

    def forward(self, x: Tensor) -> Tensor:
        return x.flatten(2).softmax(-1).view(x.shape)


def test_a_softmax_over_positions_leaves_channels_alone() -> None:
    assert trace(net(Attention()), IMAGES[:1]).kept == ()


def test_a_structure_prints_its_groups_and_what_is_kept() -> None:
    model = net(nn.Conv2d(16, 16, 1), nn.Softmax(1))
    text = str(trace(model, IMAGES[:1]))
    header, first, second, _, count, kept = text.splitlines()
    assert header.split() == ["group", "kind", "size", "weights", "MACs", "made", "by", "read", "by"]
    assert first.split() == ["0", "channels", "12", "72.2%", first.split()[4], "4", "8"]
    assert second.split()[:3] == ["1", "channels", "16"]
    assert count == "1 stay as they are:"
    assert kept == "  1: layer '2' (Softmax) mixes its channels (_softmax)"


def test_shares_say_what_would_go_with_a_group() -> None:
    structure = trace(net(), IMAGES[:1])
    weights = 3 * 16 * 9 + 16 * 12 * 9 + 12 * 5
    macs = 3 * 16 * 9 * 100 + 16 * 12 * 9 * 64 + 12 * 5
    line = str(structure).splitlines()[1].split()
    assert line[3] == f"{(16 * 12 * 9 + 12 * 5) / weights:.1%}"
    assert line[4] == f"{(16 * 12 * 9 * 64 + 12 * 5) / macs:.1%}"


def test_the_kinds_are_what_settings_may_name() -> None:
    assert CompressionConfig(sparsity=0.5, kinds="all").kinds == KINDS
    assert CompressionConfig(sparsity=0.5, kinds="hidden").kinds == ("hidden",)


@torch.no_grad()
def test_convolutions_that_standardise_their_weights_keep_the_standardised_ones() -> None:
    model = net(Standardised(16, 16, 3))
    network = Network.prepared(model, IMAGES[:1])
    torch.testing.assert_close(network.model(IMAGES), model(IMAGES))
    assert [group.size for group in network.structure.groups] == [12, 16, 16]
    assert network.structure.kept == ()
    narrow = compress(network, CompressionConfig(sparsity=0.5), Sources(IMAGES[:1])).model
    description = Description({"name": f"{__name__}:with_standardised_weights"}, 3, 5, 1)
    again, _ = loads(dumps(copy.deepcopy(narrow), description), "the network")
    assert narrow(IMAGES).shape == (3, 5)
    assert torch.equal(again(IMAGES), narrow(IMAGES))


def with_standardised_weights(num_classes: int = 5) -> nn.Module:
    """A network as a model's function builds it."""
    return net(Standardised(16, 16, 3))


@pytest.mark.parametrize("case", [*EXACT, *NORMED])
@torch.no_grad()
def test_a_narrowed_network_is_built_again_from_its_weights_alone(case: str) -> None:
    build = {**EXACT, **NORMED}[case][0]
    network = Network.prepared(build().eval(), IMAGES[:1])
    pruned = compress(network, CompressionConfig(sparsity=0.5, kinds="all"), Sources(IMAGES[:1])).model
    again = build().eval()
    fit(again, pruned.state_dict())
    again.load_state_dict(pruned.state_dict())
    torch.testing.assert_close(again(IMAGES), pruned(IMAGES))


class WithoutBias(nn.Conv2d):
    """A convolution that does not look at its bias."""

    def forward(self, x: Tensor) -> Tensor:
        return F.conv2d(x, self.weight)


@torch.no_grad()
def test_a_batch_norm_is_not_merged_into_a_layer_that_would_not_use_its_bias() -> None:
    model = net(
        WithoutBias(16, 16, 3, bias=False), nn.BatchNorm2d(16), nn.ReLU(), nn.Conv2d(16, 16, 1), nn.BatchNorm2d(16)
    )
    network = Network.prepared(model, IMAGES[:1])
    assert network.structure.normalised == (("4", "5"),)
    torch.testing.assert_close(network.model(IMAGES), model(IMAGES), rtol=1e-4, atol=1e-5)
