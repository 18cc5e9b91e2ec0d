"""PyTorch's attention with the weights of queries, keys and values as layers of their own, which can be narrowed."""

import math
from typing import Any

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from workloads.structure.windows import OpenedWindowAttention, is_windowed


class OpenedAttention(nn.Module):
    """What `nn.MultiheadAttention` computes, for any number of heads and of dimensions inside them.

    PyTorch's own module keeps the weights of queries, keys and values as one parameter and takes the width of what its
    heads make together to be that of what it reads, so that neither heads nor channels could be removed.

    Attributes:
        q_proj, k_proj, v_proj, out_proj: linear layers.
        num_heads: heads.
        batch_first: whether images come before tokens.
        dropout: share of the attention that is dropped in training.
    """

    in_proj_bias = None  # PyTorch's transformer layers look at these three before they take a way of their own
    in_proj_weight = None
    _qkv_same_embed_dim = False

    def __init__(self, attention: nn.MultiheadAttention):
        super().__init__()
        self.num_heads, self.dropout = attention.num_heads, attention.dropout
        self.batch_first = attention.batch_first
        if attention.in_proj_weight is not None:
            weights = attention.in_proj_weight.chunk(3)
        else:
            weights = (attention.q_proj_weight, attention.k_proj_weight, attention.v_proj_weight)
        biases = (None,) * 3 if attention.in_proj_bias is None else attention.in_proj_bias.chunk(3)
        self.q_proj, self.k_proj, self.v_proj = (linear(*pair) for pair in zip(weights, biases, strict=True))
        self.out_proj = linear(attention.out_proj.weight, attention.out_proj.bias)
        self.train(attention.training)

    def forward(
        self,
        query: Tensor,
        key: Tensor,
        value: Tensor,
        key_padding_mask: Tensor | None = None,
        need_weights: bool = True,
        attn_mask: Tensor | None = None,
        average_attn_weights: bool = True,
        is_causal: bool = False,
    ) -> tuple[Tensor, Tensor | None]:
        """See `nn.MultiheadAttention.forward`."""
        batched = query.ndim == 3
        tensors = [query, key, value] if batched else [each.unsqueeze(0) for each in (query, key, value)]
        if batched and not self.batch_first:
            tensors = [each.transpose(0, 1) for each in tensors]
        layers = (self.q_proj, self.k_proj, self.v_proj)
        q, k, v = (self.by_head(layer(each)) for layer, each in zip(layers, tensors, strict=True))
        mask = self.mask(attn_mask, key_padding_mask, q)
        dropout = self.dropout if self.training else 0.0
        weights = None
        if need_weights:
            logits = q @ k.transpose(-1, -2) / math.sqrt(q.shape[-1])
            weights = (logits if mask is None else logits + mask).softmax(-1)
            made = F.dropout(weights, dropout) @ v
            weights = weights.mean(1) if average_attn_weights else weights
            weights = weights if batched else weights.squeeze(0)
        else:
            made = F.scaled_dot_product_attention(q, k, v, mask, dropout)
        made = self.out_proj(made.transpose(1, 2).flatten(2))
        if batched and not self.batch_first:
            made = made.transpose(0, 1)
        return (made if batched else made.squeeze(0)), weights

    def by_head(self, tensor: Tensor) -> Tensor:
        """(images, tokens, channels) as (images, heads, tokens, dimensions)."""
        apart: Tensor = tensor.unflatten(2, (self.num_heads, -1)).transpose(1, 2)
        return apart

    def mask(self, attn_mask: Tensor | None, key_padding_mask: Tensor | None, q: Tensor) -> Tensor | None:
        """What is added to the logits (images, heads, tokens, tokens); true in a mask means to leave out."""
        total: Tensor | None = None
        if attn_mask is not None and attn_mask.ndim == 3:
            attn_mask = attn_mask.unflatten(0, (-1, attn_mask.shape[0] // q.shape[0]))
        if key_padding_mask is not None:
            key_padding_mask = key_padding_mask.view(-1, 1, 1, key_padding_mask.shape[-1])
        for mask in (attn_mask, key_padding_mask):
            if mask is None:
                continue
            if mask.dtype == torch.bool:
                mask = torch.zeros_like(mask, dtype=q.dtype).masked_fill(mask, -math.inf)
            total = mask if total is None else total + mask
        return total


def linear(weight: Tensor, bias: Tensor | None) -> nn.Linear:
    """A layer with copies of these, which take gradients as the originals do."""
    layer = nn.Linear(1, 1, bias=bias is not None, device="meta")
    layer.out_features, layer.in_features = weight.shape
    layer.weight = nn.Parameter(weight.detach().clone(), requires_grad=weight.requires_grad)
    if bias is not None:
        layer.bias = nn.Parameter(bias.detach().clone(), requires_grad=bias.requires_grad)
    return layer


def can_be_opened(module: nn.Module) -> bool:
    """Whether a module is PyTorch's own attention, without extra keys and values, or torchvision's in windows."""
    plain = type(module) is nn.MultiheadAttention and module.bias_k is None and not module.add_zero_attn
    return plain or is_windowed(module)


def opened(model: nn.Module) -> nn.Module:
    """The network with PyTorch's and torchvision's attentions replaced, in place, by such that can be narrowed."""
    if can_be_opened(model):
        return opened_attention(model)
    known: dict[nn.Module, nn.Module] = {}
    for module in list(model.modules()):
        for name, child in list(module.named_children()):
            if can_be_opened(child):
                known.setdefault(child, opened_attention(child))
                setattr(module, name, known[child])
    return model


def opened_attention(module: Any) -> nn.Module:
    """One attention with layers of their own for queries, keys and values."""
    return OpenedWindowAttention(module, linear) if is_windowed(module) else OpenedAttention(module)
