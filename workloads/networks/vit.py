"""A small vision transformer for small images."""

import torch
from torch import Tensor, nn
from torch.nn import functional as F

PATCH, DEPTH, HEADS, MLP_RATIO = 4, 6, 6, 2
WIDTH = 192


class Attention(nn.Module):
    """Self-attention of tokens (B, N, width), with a layer each for queries, keys and values."""

    def __init__(self, width: int, heads: int):
        super().__init__()
        self.num_heads = heads
        self.q_proj, self.k_proj, self.v_proj = (nn.Linear(width, width) for _ in range(3))
        self.out_proj = nn.Linear(width, width)

    def forward(self, x: Tensor) -> Tensor:
        layers = (self.q_proj, self.k_proj, self.v_proj)
        q, k, v = (layer(x).unflatten(2, (self.num_heads, -1)).transpose(1, 2) for layer in layers)
        made: Tensor = self.out_proj(F.scaled_dot_product_attention(q, k, v).transpose(1, 2).flatten(2))
        return made


class Block(nn.Module):
    """Attention and an MLP, each behind a layer norm and beside a shortcut (Dosovitskiy et al. 2021)."""

    def __init__(self, width: int, heads: int, hidden: int):
        super().__init__()
        self.norm1, self.attention = nn.LayerNorm(width), Attention(width, heads)
        self.norm2, self.fc1, self.fc2 = nn.LayerNorm(width), nn.Linear(width, hidden), nn.Linear(hidden, width)

    def forward(self, x: Tensor) -> Tensor:
        x = x + self.attention(self.norm1(x))
        made: Tensor = x + self.fc2(F.gelu(self.fc1(self.norm2(x))))
        return made


class VisionTransformer(nn.Module):
    """Patches, a class token, learned positions, blocks, and a linear classifier of the class token.

    Input (B, in_channels, image_size, image_size); output (B, num_classes) logits.
    State dict: `patches, cls_token, positions, blocks.N.{norm1,attention.*,norm2,fc1,fc2}, norm, head`.
    """

    def __init__(self, in_channels: int, num_classes: int, image_size: int, width: int, heads: int, depth: int):
        super().__init__()
        self.patches = nn.Conv2d(in_channels, width, PATCH, PATCH)
        tokens = (image_size // PATCH) ** 2 + 1
        self.cls_token = nn.Parameter(torch.zeros(1, 1, width))
        self.positions = nn.Parameter(0.02 * torch.randn(1, tokens, width))
        self.blocks = nn.Sequential(*(Block(width, heads, MLP_RATIO * width) for _ in range(depth)))
        self.norm, self.head = nn.LayerNorm(width), nn.Linear(width, num_classes)

    def forward(self, x: Tensor) -> Tensor:
        x = self.patches(x).flatten(2).transpose(1, 2)
        x = torch.cat([self.cls_token.expand(x.shape[0], -1, -1), x], 1) + self.positions
        logits: Tensor = self.head(self.norm(self.blocks(x))[:, 0])
        return logits


def vit_cifar(
    *, in_channels: int = 3, num_classes: int = 10, width: float = 1.0, image_size: int = 32, depth: int = DEPTH
) -> nn.Module:
    """A vision transformer for small images, of 6 blocks of 6 heads, width 192 (Dosovitskiy et al. 2021)."""
    of_head = max(1, round(WIDTH * width / HEADS))
    return VisionTransformer(in_channels, num_classes, image_size, HEADS * of_head, HEADS, depth)
