"""Groups of attention: whole heads, and dimensions of queries and keys or of values inside all of them."""

import copy
from collections import Counter
from collections.abc import Callable
from pathlib import Path

import pytest
import torch
from torch import Tensor, nn
from torch.nn import functional as F
from torchvision.models import SwinTransformer, VisionTransformer
from torchvision.models.swin_transformer import PatchMergingV2, SwinTransformerBlockV2

from workloads.compression.compress import Sources, compress
from workloads.compression.pairings import Pairings
from workloads.config import KINDS, CompressionConfig
from workloads.networks.checkpoints import Description, dumps, loads
from workloads.networks.exporting import export
from workloads.structure.attention import OpenedAttention, opened
from workloads.structure.finding import trace
from workloads.structure.groups import CONSUMER, PRODUCER, Group, Maps, apply
from workloads.structure.layers import get_layer
from workloads.structure.network import Network
from workloads.structure.trial import ignore
from workloads.structure.windows import OpenedWindowAttention

IMAGES = torch.randn(3, 3, 16, 16, generator=torch.Generator().manual_seed(0))
ATTENTION = ("heads", "query-key", "value-output")


class Packed(nn.Module):
    """As timm's: one layer for queries, keys and values, and the width of the heads together from what they read."""

    def __init__(self, width: int, heads: int, fused: bool):
        super().__init__()
        self.num_heads, self.scale, self.fused = heads, (width // heads) ** -0.5, fused
        self.qkv, self.proj = nn.Linear(width, 3 * width), nn.Linear(width, width)

    def forward(self, x: Tensor) -> Tensor:
        B, N, C = x.shape
        q, k, v = self.qkv(x).reshape(B, N, 3, self.num_heads, C // self.num_heads).permute(2, 0, 3, 1, 4).unbind(0)
        if self.fused:
            x = F.scaled_dot_product_attention(q, k, v)
        else:
            x = (q * self.scale @ k.transpose(-2, -1)).softmax(-1) @ v
        return self.proj(x.transpose(1, 2).reshape(B, N, C))


class Grouped(nn.Module):
    """As Hugging Face's: layers apart, fewer heads of keys and values than of queries, and all sizes recorded."""

    def __init__(self, width: int, heads: int, key_heads: int):
        super().__init__()
        self.num_attention_heads, self.num_key_value_heads = heads, key_heads
        self.num_key_value_groups = heads // key_heads
        self.attention_head_size = width // heads
        self.all_head_size = width
        of_keys = key_heads * self.attention_head_size
        self.query, self.key, self.value = nn.Linear(width, width), nn.Linear(width, of_keys), nn.Linear(width, of_keys)
        self.output = nn.Linear(width, width)

    def forward(self, x: Tensor) -> Tensor:
        def by_head(tensor: Tensor) -> Tensor:
            return tensor.view(*tensor.shape[:2], -1, self.attention_head_size).transpose(1, 2)

        q, k, v = by_head(self.query(x)), by_head(self.key(x)), by_head(self.value(x))
        k, v = (each.repeat_interleave(self.num_key_value_groups, 1) for each in (k, v))
        weights = (q @ k.transpose(-1, -2) / self.attention_head_size**0.5).softmax(-1)
        return self.output((weights @ v).transpose(1, 2).reshape(*x.shape[:2], self.all_head_size))


class Biased(nn.Module):
    """As BEiT's and Swin's: a learned bias for each head and relative position."""

    def __init__(self, width: int, heads: int, tokens: int):
        super().__init__()
        self.num_heads, self.head_dim = heads, width // heads
        self.q, self.k, self.v, self.o = (nn.Linear(width, width) for _ in range(4))
        self.relative_position_bias_table = nn.Parameter(torch.randn(2 * tokens - 1, heads))
        places = torch.arange(tokens)
        self.register_buffer("relative_position_index", places[:, None] - places[None, :] + tokens - 1)

    def forward(self, x: Tensor) -> Tensor:
        q, k, v = (layer(x).unflatten(2, (-1, self.head_dim)).transpose(1, 2) for layer in (self.q, self.k, self.v))
        bias = self.relative_position_bias_table[self.relative_position_index.view(-1)]
        bias = bias.view(x.shape[1], x.shape[1], -1).permute(2, 0, 1).unsqueeze(0)
        weights = (q * self.head_dim**-0.5 @ k.transpose(-2, -1) + bias).softmax(-1)
        return self.o((weights @ v).transpose(1, 2).flatten(2))


class TorchAttention(nn.MultiheadAttention):
    """PyTorch's own, of the class itself once it is built."""

    def __new__(cls, width: int, heads: int) -> nn.MultiheadAttention:  # type: ignore[misc]
        return nn.MultiheadAttention(width, heads, batch_first=True)


class Transformer(nn.Module):
    """Patches of 4 × 4 pixels, a class token, one block of attention and an MLP."""

    def __init__(self, attention: nn.Module, width: int = 24):
        super().__init__()
        self.patches = nn.Conv2d(3, width, 4, 4)
        self.cls, self.positions = nn.Parameter(torch.randn(1, 1, width)), nn.Parameter(torch.randn(1, 17, width))
        self.norm1, self.attn, self.norm2 = nn.LayerNorm(width), attention, nn.LayerNorm(width)
        self.up, self.down, self.norm = nn.Linear(width, 32), nn.Linear(32, width), nn.LayerNorm(width)
        self.head = nn.Linear(width, 5)

    def forward(self, x: Tensor) -> Tensor:
        x = self.patches(x).flatten(2).transpose(1, 2)
        x = torch.cat([self.cls.expand(x.shape[0], -1, -1), x], 1) + self.positions
        y = self.norm1(x)
        y = self.attn(y, y, y)[0] if isinstance(self.attn, (nn.MultiheadAttention, OpenedAttention)) else self.attn(y)
        x = x + y
        return self.head(self.norm(x + self.down(F.gelu(self.up(self.norm2(x)))))[:, 0])


def transformer(kind: str = "torch", num_classes: int = 5) -> nn.Module:
    """One of the networks of these tests, as a model's function builds it."""
    attention: Callable[[], nn.Module] = {
        "torch": lambda: nn.MultiheadAttention(24, 4, batch_first=True),
        "packed": lambda: Packed(24, 4, fused=False),
        "packed and fused": lambda: Packed(24, 4, fused=True),
        "grouped queries": lambda: Grouped(24, 4, 2),
        "as many heads as dimensions": lambda: Grouped(16, 4, 4),
        "relative positions": lambda: Biased(24, 4, 17),
    }[kind]
    torch.manual_seed(0)
    return Transformer(attention(), 16 if kind == "as many heads as dimensions" else 24).eval()


def vit(num_classes: int = 5) -> nn.Module:
    """torchvision's."""
    torch.manual_seed(0)
    model = VisionTransformer(16, 4, 2, 4, 24, 32, num_classes=num_classes)
    nn.init.normal_(model.heads.head.weight)
    return model.eval()


def swin(version: int = 1, num_classes: int = 5) -> nn.Module:
    """torchvision's, with windows that are shifted."""
    torch.manual_seed(0)
    newer = {"block": SwinTransformerBlockV2, "downsample_layer": PatchMergingV2} if version == 2 else {}
    return SwinTransformer([2, 2], 16, [1, 2], [2, 4], [4, 4], num_classes=num_classes, **newer).eval()


NETWORKS: dict[str, tuple[Callable[[], nn.Module], Counter[str]]] = {
    "torch": (lambda: transformer("torch"), Counter({"heads": 1, "query-key": 1, "value-output": 1})),
    "packed": (lambda: transformer("packed"), Counter({"heads": 1, "query-key": 1})),
    "packed and fused": (lambda: transformer("packed and fused"), Counter({"heads": 1, "query-key": 1})),
    "grouped queries": (lambda: transformer("grouped queries"), Counter({"heads": 1, "query-key": 1})),
    "as many heads as dimensions": (
        lambda: transformer("as many heads as dimensions"),
        Counter({"heads": 1, "query-key": 1}),
    ),
    "relative positions": (lambda: transformer("relative positions"), Counter({"heads": 1, "query-key": 1})),
    "torchvision's ViT": (vit, Counter({"heads": 2, "query-key": 2, "value-output": 2})),
    "torchvision's Swin": (lambda: swin(1), Counter({"heads": 3, "query-key": 3, "value-output": 3})),
    "torchvision's Swin V2": (lambda: swin(2), Counter({"heads": 3, "value-output": 3})),
}


def prepared(case: str) -> tuple[nn.Module, Network]:
    """A network of these tests and its groups."""
    model = NETWORKS[case][0]()
    return model, Network.prepared(model, IMAGES[:1])


@pytest.mark.parametrize("case", NETWORKS)
@torch.no_grad()
def test_attention_has_groups_of_heads_and_of_dimensions(case: str) -> None:
    model, network = prepared(case)
    found = Counter(group.kind for group in network.structure.groups if group.kind in ATTENTION)
    assert found == NETWORKS[case][1]
    assert [group.kind for group in network.structure.groups].count("residual") in (1, 2)
    torch.testing.assert_close(network.model(IMAGES), model(IMAGES))
    order = [KINDS.index(group.kind) for group in network.structure.groups if group.kind != "hidden"]
    assert order == sorted(order)


@pytest.mark.parametrize("case", NETWORKS)
@torch.no_grad()
def test_removing_heads_and_dimensions_is_not_reading_them(case: str) -> None:
    _, network = prepared(case)
    for group in network.structure.groups:
        if group.kind in ATTENTION:
            stay = torch.randperm(group.size, generator=torch.Generator().manual_seed(1))[: group.size // 2]
            ignoring, removing = copy.deepcopy(network.model), copy.deepcopy(network.model)
            ignore(ignoring, group, stay)
            selection = torch.eye(group.size)[stay]
            apply(removing, group, Maps(selection, selection))
            torch.testing.assert_close(removing(IMAGES), ignoring(IMAGES), rtol=1e-4, atol=1e-5)
            assert not torch.allclose(removing(IMAGES), network.model(IMAGES), rtol=1e-5, atol=1e-6)


@pytest.mark.parametrize("case", NETWORKS)
@torch.no_grad()
def test_kinds_that_overlap_are_removed_one_after_the_other_as_if_they_were_not_read(case: str) -> None:
    _, network = prepared(case)
    kinds = ("hidden", *ATTENTION)
    narrow = compress(network, CompressionConfig(sparsity=0.5, kinds=kinds), Sources(IMAGES[:1]))
    ignoring, structure = copy.deepcopy(network.model), network.structure
    for group in structure.groups:
        if group.kind in kinds and group.number in narrow.places:
            ignore(ignoring, group, narrow.places[group.number])
    torch.testing.assert_close(narrow.model(IMAGES), ignoring(IMAGES), rtol=1e-4, atol=1e-5)


@pytest.mark.parametrize("case", NETWORKS)
@torch.no_grad()
def test_nothing_changes_at_sparsity_zero(case: str) -> None:
    _, network = prepared(case)
    same = compress(network, CompressionConfig(sparsity=0.0, kinds=KINDS), Sources(IMAGES[:1]))
    assert torch.equal(same.model(IMAGES), network.model(IMAGES))


@pytest.mark.parametrize(
    ("builder", "options"),
    [
        ("transformer", {"kind": "torch"}),
        ("transformer", {"kind": "packed"}),
        ("transformer", {"kind": "grouped queries"}),
        ("transformer", {"kind": "relative positions"}),
        ("vit", {}),
        ("swin", {"version": 1}),
        ("swin", {"version": 2}),
    ],
    ids=str,
)
def test_a_narrowed_network_runs_learns_is_stored_and_exported(builder: str, options: dict, tmp_path: Path) -> None:
    model = globals()[builder](**options)
    network = Network.prepared(model, IMAGES[:1])
    narrow = compress(network, CompressionConfig(sparsity=0.5, kinds="all"), Sources(IMAGES[:1])).model
    before, after = (sum(parameter.numel() for parameter in each.parameters()) for each in (model, narrow))
    assert after < 0.45 * before
    description = Description({"name": f"{__name__}:{builder}", "options": options}, 3, 5, before)
    again, _ = loads(dumps(narrow, description), "the network")
    for images in (IMAGES, IMAGES[:1]):
        assert narrow(images).shape == (len(images), 5)
        assert torch.equal(again(images), narrow(images))
    copied = copy.deepcopy(narrow).train()
    F.cross_entropy(copied(IMAGES), torch.tensor([0, 1, 2])).backward()
    assert all(parameter.grad is not None for parameter in copied.parameters())
    assert export(narrow, description, (3, 16, 16), "torch-export", tmp_path / "narrow.pt2") < 1e-5
    twice = Network.prepared(again, IMAGES[:1]).structure  # as where pruning goes on in steps
    assert [group.kind for group in twice.groups] == [group.kind for group in network.structure.groups]


@pytest.mark.parametrize("method", ["folding", "fusion-preserving", "neuron-merging"])
@torch.no_grad()
def test_equal_dimensions_of_values_merge_without_a_trace(method: str) -> None:
    model = opened(transformer("torch"))
    attention = model.attn
    for head in range(4):  # half of each head's dimensions are there twice
        start = head * 6
        for parameter in (attention.v_proj.weight, attention.v_proj.bias):
            parameter[start + 3 : start + 6] = parameter[start : start + 3]
    network = Network.prepared(model, IMAGES[:1])
    group = next(group for group in network.structure.groups if group.kind == "value-output")
    config = CompressionConfig(sparsity=0.5, group=group.number, method=method)
    scored = Pairings(network.model, group), torch.tensor([2.0] * 3 + [1.0] * 3)
    narrow = compress(network, config, Sources(IMAGES[:1]), scored=lambda number: scored)
    assert narrow.model.attn.v_proj.out_features == 12
    torch.testing.assert_close(narrow.model(IMAGES), model(IMAGES), rtol=1e-4, atol=1e-5)


@torch.no_grad()
def test_equal_heads_merge_without_a_trace() -> None:
    model = opened(transformer("torch"))
    for layer in (model.attn.q_proj, model.attn.k_proj, model.attn.v_proj):
        for parameter in (layer.weight, layer.bias):
            parameter[12:] = parameter[:12]
    network = Network.prepared(model, IMAGES[:1])
    group = next(group for group in network.structure.groups if group.kind == "heads")
    config = CompressionConfig(sparsity=0.5, group=group.number, method="neuron-merging")
    scored = Pairings(network.model, group), torch.tensor([2.0, 2.0, 1.0, 1.0])
    narrow = compress(network, config, Sources(IMAGES[:1]), scored=lambda number: scored)
    assert narrow.model.attn.num_heads == 2
    torch.testing.assert_close(narrow.model(IMAGES), model(IMAGES), rtol=1e-4, atol=1e-5)


@pytest.mark.parametrize("kind", ["heads", "query-key"])
@pytest.mark.parametrize("method", ["folding", {"name": "reconstruction", "producing": "intra-fusion"}], ids=str)
def test_averaging_heads_or_queries_and_keys_is_refused_with_a_sentence(kind: str, method: object) -> None:
    _, network = prepared("torch")
    config = CompressionConfig(sparsity=0.5, kinds=kind, method=method)
    with pytest.raises(ValueError, match=f"averages neurons, which has no meaning for groups of kind {kind}"):
        compress(network, config, Sources(IMAGES[:1], images=[IMAGES]))


@pytest.mark.parametrize("method", ["neuron-merging", "reconstruction"])
@pytest.mark.parametrize("criterion", ["taylor", "hessian", "chip", "l1"])
def test_other_methods_and_criteria_take_every_kind_of_every_network(criterion: str, method: str) -> None:
    for case in ("torch", "torchvision's Swin"):
        _, network = prepared(case)
        sources = Sources(IMAGES[:1], batches=[(IMAGES, torch.tensor([0, 1, 2]))], images=[IMAGES])
        config = CompressionConfig(sparsity=0.5, kinds="all", criterion=criterion, method=method)
        assert compress(network, config, sources).model(IMAGES).isfinite().all()


@pytest.mark.parametrize("need_weights", [True, False])
@pytest.mark.parametrize("batch_first", [True, False])
@pytest.mark.parametrize("masked", ["no", "attn", "padding"])
@torch.no_grad()
def test_opened_attention_computes_what_pytorchs_does(need_weights: bool, batch_first: bool, masked: str) -> None:
    torch.manual_seed(0)
    plain = nn.MultiheadAttention(12, 3, batch_first=batch_first, kdim=8, vdim=10).eval()
    nn.init.normal_(plain.in_proj_bias)
    attention = opened(copy.deepcopy(plain))
    assert isinstance(attention, OpenedAttention)
    query, key, value = torch.randn(2, 5, 12), torch.randn(2, 7, 8), torch.randn(2, 7, 10)
    if not batch_first:
        query, key, value = (each.transpose(0, 1) for each in (query, key, value))
    masks: dict[str, Tensor] = {}
    if masked == "attn":
        masks["attn_mask"] = torch.ones(5, 7).triu(3).bool()
    if masked == "padding":
        masks["key_padding_mask"] = torch.tensor([[False] * 7, [False] * 4 + [True] * 3])
    expected = plain(query, key, value, need_weights=need_weights, **masks)
    found = attention(query, key, value, need_weights=need_weights, **masks)
    torch.testing.assert_close(found, expected)


@pytest.mark.parametrize("version", [1, 2])
@torch.no_grad()
def test_opened_windows_compute_what_torchvisions_do_where_they_are_padded_and_shifted(version: int) -> None:
    model = swin(version).features[3]
    for parameter in model.parameters():
        nn.init.normal_(parameter, std=0.2)
    x = torch.randn(2, 10, 7, 32)
    expected = model(x)
    found = opened(copy.deepcopy(model))
    assert sum(isinstance(module, OpenedWindowAttention) for module in found.modules()) == 2
    torch.testing.assert_close(found(x), expected)


def test_pytorchs_transformer_layers_run_with_opened_attention() -> None:
    torch.manual_seed(0)
    plain = nn.TransformerEncoder(nn.TransformerEncoderLayer(12, 2, 16, batch_first=True), 2).eval()
    x = torch.randn(2, 5, 12)
    with torch.no_grad():
        torch.testing.assert_close(opened(copy.deepcopy(plain))(x), plain(x))


def test_a_norm_over_the_dimensions_of_queries_keeps_them_but_not_the_heads() -> None:
    class Normed(Packed):
        def __init__(self) -> None:
            super().__init__(24, 4, fused=True)
            self.q_norm, self.k_norm = nn.LayerNorm(6), nn.LayerNorm(6)
            self.head_dim = 6

        def forward(self, x: Tensor) -> Tensor:
            B, N, _ = x.shape
            q, k, v = self.qkv(x).reshape(B, N, 3, self.num_heads, self.head_dim).permute(2, 0, 3, 1, 4).unbind(0)
            x = F.scaled_dot_product_attention(self.q_norm(q), self.k_norm(k), v)
            return self.proj(x.transpose(1, 2).flatten(2))

    structure = trace(Transformer(Normed()).eval(), IMAGES[:1])
    assert [group.kind for group in structure.groups if group.kind in ATTENTION] == ["heads"]
    assert ("attn.qkv", "query-key: a norm or a mean is taken over them") in structure.kept


def sides(group: Group) -> set[tuple[str, str]]:
    """Layers of a group, and what they do with it."""
    return {(member.layer, member.side) for member in group.members}


def test_groups_of_attention_hold_the_layers_that_make_and_read_them() -> None:
    _, network = prepared("torch")
    heads, query_key, value_output = [group for group in network.structure.groups if group.kind in ATTENTION]
    made = {(f"attn.{name}_proj", PRODUCER) for name in "qkv"}
    assert sides(heads) == made | {("attn.out_proj", CONSUMER)}
    assert sides(query_key) == {("attn.q_proj", PRODUCER), ("attn.k_proj", PRODUCER)}
    assert sides(value_output) == {("attn.v_proj", PRODUCER), ("attn.out_proj", CONSUMER)}
    assert (heads.size, query_key.size, value_output.size) == (4, 6, 6)
    assert get_layer(network.model, "attn.q_proj").weight.requires_grad
