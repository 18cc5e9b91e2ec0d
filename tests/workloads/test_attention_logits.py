"""Queries and keys that are narrowed by least squares: what becomes of the logits of attention."""

import pytest
import torch
from torch import nn
from torch.nn import functional as F

from tests.workloads.test_attention import NETWORKS, Biased, Transformer
from workloads.compression.calls import run_tapped
from workloads.compression.compensation.attention_logits import bases, turned
from workloads.compression.compress import Sources, compress
from workloads.config import CompressionConfig
from workloads.structure.groups import PRODUCER, Group
from workloads.structure.layers import get_layer
from workloads.structure.network import Network

IMAGES = torch.randn(48, 3, 16, 16, generator=torch.Generator().manual_seed(0))
SOURCES = Sources(IMAGES[:1], images=[IMAGES])


def first_of_queries_and_keys(network: Network) -> Group:
    return next(group for group in network.structure.groups if group.kind == "query-key")


def narrowed(network: Network, repair: str) -> nn.Module:
    """With half of the dimensions of queries and keys."""
    config = CompressionConfig(sparsity=0.5, group=first_of_queries_and_keys(network).number, repair=repair)
    return compress(network, config, SOURCES).model


@torch.no_grad()
def test_the_leading_dimensions_of_turned_factors_bring_the_logits_as_near_as_any_do() -> None:
    generator = torch.Generator().manual_seed(0)
    mixing = torch.randn(2, 6, 6, generator=generator, dtype=torch.float64)
    Q, K = torch.randn(2, 50, 6, generator=generator, dtype=torch.float64) @ mixing + 1
    A, B = bases(Q.T @ Q, K.T @ K)
    torch.testing.assert_close(A @ B.T, torch.eye(6, dtype=torch.float64))
    least = torch.linalg.svdvals(Q @ K.T).square().flip(0).cumsum(0).flip(0)
    for m in range(1, 6):
        error = (Q @ K.T - Q @ A[:, :m] @ (K @ B[:, :m]).T).square().sum()
        torch.testing.assert_close(error, least[m], rtol=1e-3, atol=0)


@pytest.mark.parametrize("case", ["torch", "packed and fused", "grouped queries", "relative positions"])
@torch.no_grad()
def test_dimensions_that_are_there_twice_are_not_missed(case: str) -> None:
    network = Network.prepared(NETWORKS[case][0](), IMAGES[:1])
    group = first_of_queries_and_keys(network)
    generator = torch.Generator().manual_seed(1)
    for member in group.on(PRODUCER):
        layer = get_layer(network.model, member.layer)
        layer.weight[member.index[3:]] = 2 * layer.weight[member.index[:3]]
        layer.bias[member.index[3:]] = 2 * layer.bias[member.index[:3]]
        if member.layer.endswith(("k", "key", "k_proj")):  # of what all keys have in common, a softmax takes no note
            layer.bias[member.index] += 5 * torch.randn(member.index.shape, generator=generator)
    plain, solved = (narrowed(network, repair) for repair in ("none", "least-squares"))
    expected, scale = network.model(IMAGES), network.model(IMAGES).std()
    assert (solved(IMAGES) - expected).abs().max() < 1e-2 * scale < 0.1 * (plain(IMAGES) - expected).abs().max()


@torch.no_grad()
def test_logits_are_nearer_than_those_of_the_most_important_dimensions() -> None:
    network = Network.prepared(NETWORKS["torch"][0](), IMAGES[:1])
    new = torch.randn(16, 3, 16, 16, generator=torch.Generator().manual_seed(1))

    def weights(narrow: nn.Module) -> torch.Tensor:
        """Of attention, (images, heads, tokens, tokens)."""
        made: dict[str, torch.Tensor] = {}
        taps = {f"attn.{x}_proj": lambda call, layer, output: made.update({call.layer: output.clone()}) for x in "qk"}
        run_tapped(narrow, new, outputs=taps)
        q, k = (made[f"attn.{x}_proj"].unflatten(2, (4, -1)).transpose(1, 2) for x in "qk")
        return (q @ k.mT * q.shape[-1] ** -0.5).softmax(-1)

    wanted = weights(network.model)
    plain, solved = ((weights(narrowed(network, repair)) - wanted).norm() for repair in ("none", "least-squares"))
    assert solved < 0.7 * plain


class Rectified(Biased):
    """Attention of rectified queries and keys, whose dimensions cannot be mixed."""

    def __init__(self) -> None:
        super().__init__(24, 4, 17)

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        q, k, v = (layer(x).unflatten(2, (-1, self.head_dim)).transpose(1, 2) for layer in (self.q, self.k, self.v))
        return self.o((F.relu(q) @ F.relu(k).mT / 17 @ v).transpose(1, 2).flatten(2))


@torch.no_grad()
def test_dimensions_that_cannot_be_mixed_are_chosen_as_ever() -> None:
    torch.manual_seed(0)
    network = Network.prepared(Transformer(Rectified()).eval(), IMAGES[:1])
    group = first_of_queries_and_keys(network)
    assert group.factors
    assert turned(network, [group.number], [IMAGES], IMAGES[:1]) == (network, frozenset())
    assert narrowed(network, "least-squares")(IMAGES).isfinite().all()
