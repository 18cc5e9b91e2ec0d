"""Layers and wrappers as libraries and people write them, and a small network around one."""

import torch
from torch import Tensor, nn
from torch.nn import functional as F
from torchvision.ops import FrozenBatchNorm2d

IMAGES = torch.randn(3, 3, 12, 12, generator=torch.Generator().manual_seed(0))


class NormAct(nn.BatchNorm2d):
    """As timm's BatchNormAct2d: normalises and applies an activation."""

    def forward(self, x: Tensor) -> Tensor:
        return F.batch_norm(x, self.running_mean, self.running_var, self.weight, self.bias, False, 0.1, self.eps).relu()


class SamePadding(nn.Conv2d):
    """As timm's Conv2dSame: pads, then convolves."""

    def forward(self, x: Tensor) -> Tensor:
        return F.conv2d(F.pad(x, (1, 1, 1, 1)), self.weight, self.bias)


class Standardised(nn.Conv2d):
    """As timm's ScaledStdConv2d: standardises its weight whenever it runs."""

    def __init__(self, *sizes: int):
        super().__init__(*sizes)
        self.gain = nn.Parameter(torch.rand(self.out_channels, 1, 1, 1))

    def forward(self, x: Tensor) -> Tensor:
        weight = self.weight.reshape(1, self.out_channels, -1)
        weight = F.batch_norm(weight, None, None, weight=self.gain.view(-1), training=True, momentum=0.0)
        return F.conv2d(x, weight.reshape_as(self.weight), self.bias)


class ConvAct(nn.Conv2d):
    """A convolution whose module returns an activation."""

    def forward(self, x: Tensor) -> Tensor:
        return super().forward(x).relu()


class Cast(nn.Linear):
    """As timm's Linear: casts its parameters."""

    def forward(self, x: Tensor) -> Tensor:
        return F.linear(x, self.weight.to(x.dtype), self.bias.to(x.dtype))


class LayerScale(nn.Module):
    """ConvNeXt's: a factor a channel."""

    def __init__(self, channels: int):
        super().__init__()
        self.gamma = nn.Parameter(torch.rand(channels, 1, 1))

    def forward(self, x: Tensor) -> Tensor:
        return x * self.gamma


class ShapedScale(nn.Module):
    """PoolFormer's: it records the shape in which its factors are applied."""

    def __init__(self, channels: int):
        super().__init__()
        self.shape = (channels, 1, 1)
        self.scale = nn.Parameter(torch.rand(channels))

    def forward(self, x: Tensor) -> Tensor:
        return x * self.scale.view(self.shape)


class SqueezeExcite(nn.Module):
    """A gate a channel, from all of them."""

    def __init__(self, channels: int):
        super().__init__()
        self.down, self.up = nn.Conv2d(channels, 4, 1), nn.Conv2d(4, channels, 1)

    def forward(self, x: Tensor) -> Tensor:
        return x * self.up(self.down(x.mean((2, 3), keepdim=True)).relu()).sigmoid()


class LayerNorm2d(nn.LayerNorm):
    """Over the channels of an image."""

    def forward(self, x: Tensor) -> Tensor:
        x = x.permute(0, 2, 3, 1)
        return F.layer_norm(x, self.normalized_shape, self.weight, self.bias, self.eps).permute(0, 3, 1, 2)


class ResponseNorm(nn.Module):
    """ConvNeXt V2's global response norm."""

    def __init__(self, channels: int):
        super().__init__()
        self.weight, self.bias = nn.Parameter(torch.rand(channels)), nn.Parameter(torch.rand(channels))

    def forward(self, x: Tensor) -> Tensor:
        size = x.norm(p=2, dim=(2, 3), keepdim=True)
        size = size / (size.mean(1, keepdim=True) + 1e-6)
        return x + torch.addcmul(self.bias.view(1, -1, 1, 1), self.weight.view(1, -1, 1, 1), x * size)


class SelectiveKernels(nn.Module):
    """As Li et al. (2019): branches are weighed against each other, channel by channel, and added."""

    def __init__(self, channels: int):
        super().__init__()
        self.branches = nn.ModuleList(nn.Conv2d(channels, channels, size, padding=size // 2) for size in (1, 3))
        self.squeeze, self.select = nn.Conv2d(channels, 8, 1), nn.Conv2d(8, 2 * channels, 1)

    def forward(self, x: Tensor) -> Tensor:
        x = torch.stack([branch(x) for branch in self.branches], 1)
        weights = self.select(self.squeeze(x.sum(1).mean((2, 3), keepdim=True)).relu())
        return (x * weights.view(len(x), 2, -1, 1, 1).softmax(1)).sum(1)


class SplitAttention(nn.Module):
    """As Zhang et al. (2020), with one convolution for the branches."""

    def __init__(self, channels: int):
        super().__init__()
        self.both, self.select = nn.Conv2d(channels, 2 * channels, 1), nn.Conv2d(channels, 2 * channels, 1)

    def forward(self, x: Tensor) -> Tensor:
        y = self.both(x).relu()
        y = y.reshape(len(y), 2, y.shape[1] // 2, *y.shape[2:])
        weights = self.select(y.sum(dim=1).mean((2, 3), keepdim=True))
        weights = weights.view(len(y), 1, 2, -1).transpose(1, 2).softmax(dim=1).reshape(len(y), 2, -1, 1, 1)
        return (y * weights).sum(dim=1).contiguous()


def net(*middle: nn.Module, made: int = 16) -> nn.Module:
    """Two convolutions with something between them, and a classifier."""
    torch.manual_seed(0)
    tail = [nn.Conv2d(made, 12, 3), nn.ReLU(), nn.AdaptiveAvgPool2d(1), nn.Flatten(), nn.Linear(12, 5)]
    model = nn.Sequential(nn.Conv2d(3, 16, 3), *middle, nn.ReLU(), *tail)
    for module in model.modules():
        if isinstance(module, (nn.modules.batchnorm._BatchNorm, FrozenBatchNorm2d)) and module.running_var is not None:
            module.running_var.uniform_(0.5, 1.5)
            module.running_mean.normal_()
    return model.eval()
