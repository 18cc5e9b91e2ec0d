"""torchvision's attention in shifted windows (Swin, Swin V2), with layers that run by themselves."""

import math
from collections.abc import Callable, Sequence
from typing import Any

import torch
from torch import Tensor, nn
from torch.nn import functional as F

LARGEST_SCALE = math.log(100.0)
MASKED = -100.0


class OpenedWindowAttention(nn.Module):
    """What `ShiftedWindowAttention` and its version 2 compute, for any number of heads and of dimensions inside them.

    torchvision's own modules hand the weights of their layers to a function, which takes the width of a head, and the
    scale that follows from it, from the width of what it reads.

    Attributes:
        q_proj, k_proj, v_proj, out_proj: linear layers.
        num_heads: heads.
        window_size, shift_size: height and width in tokens.
    """

    relative_position_index: Tensor
    relative_coords_table: Tensor
    cpb_mlp: nn.Module

    def __init__(self, attention: Any, linear: Callable[..., nn.Linear]):
        super().__init__()
        self.num_heads, self.window_size, self.shift_size = (
            attention.num_heads,
            attention.window_size,
            attention.shift_size,
        )
        self.attention_dropout, self.dropout = attention.attention_dropout, attention.dropout
        qkv = attention.qkv
        biases = (None,) * 3 if qkv.bias is None else qkv.bias.chunk(3)
        q, k, v = zip(qkv.weight.chunk(3), biases, strict=True)
        self.is_cosine = hasattr(attention, "logit_scale")  # version 2, in which keys have no bias
        self.q_proj, self.v_proj = linear(*q), linear(*v)
        self.k_proj = linear(k[0], None if self.is_cosine else k[1])
        self.out_proj = linear(attention.proj.weight, attention.proj.bias)
        self.register_buffer("relative_position_index", attention.relative_position_index.clone())
        if self.is_cosine:
            self.logit_scale, self.cpb_mlp = attention.logit_scale, attention.cpb_mlp
            self.register_buffer("relative_coords_table", attention.relative_coords_table.clone())
        else:
            self.relative_position_bias_table = attention.relative_position_bias_table
        self.train(attention.training)

    def forward(self, x: Tensor) -> Tensor:
        """(images, height, width, channels) to the same shape."""
        height, width = x.shape[1:3]
        rows, columns = self.window_size
        x = F.pad(x, (0, 0, 0, -width % columns, 0, -height % rows))
        padded = x.shape[1:3]
        shift = [
            0 if size >= extent else step
            for size, extent, step in zip(self.window_size, padded, self.shift_size, strict=True)
        ]
        if any(shift):
            x = x.roll((-shift[0], -shift[1]), (1, 2))
        windows = x.unflatten(2, (-1, columns)).unflatten(1, (-1, rows)).transpose(2, 3)
        places = windows.shape[1:3]
        mask = self.mask(padded, shift, x) if any(shift) else None
        made: Tensor = self.attend(windows.flatten(3, 4).flatten(1, 2), mask)
        made = F.dropout(self.out_proj(made), self.dropout, self.training)
        made = made.unflatten(2, (rows, columns)).unflatten(1, places).transpose(2, 3).flatten(3, 4).flatten(1, 2)
        if any(shift):
            made = made.roll((shift[0], shift[1]), (1, 2))
        made = made[:, :height, :width].contiguous()
        return made

    def attend(self, x: Tensor, mask: Tensor | None) -> Tensor:
        """Attention inside each window: (images, windows, tokens, channels)."""
        layers = (self.q_proj, self.k_proj, self.v_proj)
        q, k, v = (layer(x).unflatten(3, (self.num_heads, -1)).transpose(2, 3) for layer in layers)
        if self.is_cosine:
            q = F.normalize(q, dim=-1) * self.logit_scale.clamp(max=LARGEST_SCALE).exp()
            logits = q @ F.normalize(k, dim=-1).transpose(-1, -2)
        else:
            logits = q @ k.transpose(-1, -2) / math.sqrt(q.shape[-1])
        logits = logits + self.bias()
        if mask is not None:
            logits = logits + mask
        weights = F.dropout(logits.softmax(-1), self.attention_dropout, self.training)
        made: Tensor = (weights @ v).transpose(2, 3).flatten(3)
        return made

    def bias(self) -> Tensor:
        """(heads, tokens, tokens) of the relative positions."""
        if self.is_cosine:
            table = 16 * self.cpb_mlp(self.relative_coords_table).flatten(0, 2).sigmoid()
        else:
            table = self.relative_position_bias_table
        tokens = self.window_size[0] * self.window_size[1]
        bias: Tensor = table[self.relative_position_index.flatten()].unflatten(0, (tokens, tokens))
        return bias.permute(2, 0, 1)

    def mask(self, padded: Sequence[int], shift: Sequence[int], x: Tensor) -> Tensor:
        """(windows, 1, tokens, tokens) what keeps tokens apart that were not neighbours before the shift."""
        bands = []
        for extent, size, step in zip(padded, self.window_size, shift, strict=True):
            place = torch.arange(extent, device=x.device)
            bands.append((place >= extent - size).int() + (place >= extent - step).int() if step else 0 * place)
        regions = 3 * bands[0][:, None] + bands[1][None, :]
        rows, columns = self.window_size
        regions = regions.unflatten(1, (-1, columns)).unflatten(0, (-1, rows)).transpose(1, 2).flatten(2).flatten(0, 1)
        apart = regions[:, :, None] != regions[:, None, :]
        return torch.zeros(apart.shape, dtype=x.dtype, device=x.device).masked_fill(apart, MASKED).unsqueeze(1)


def is_windowed(module: nn.Module) -> bool:
    """Whether a module is torchvision's attention in windows."""
    kind = type(module)
    names = ("ShiftedWindowAttention", "ShiftedWindowAttentionV2")
    return kind.__module__ == "torchvision.models.swin_transformer" and kind.__name__ in names
