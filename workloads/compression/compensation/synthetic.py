"""Made-up images, and the original as if it had been trained on such.

Images of noise or of discs and boxes have the colours and spectrum of photographs, but not what a network looks for in
them: its layers make other means and deviations of them than of the images that it learned from. A batch-norm remembers
the latter. So every layer of the original is given a gain and an offset a channel with which made-up images lead to
what batch-norm knew; the narrowed network is solved against *that* network, and gains and offsets are taken out of it
again. No image of the training set is needed. A network without batch-norm is solved on made-up images as they are.
"""

from collections.abc import Mapping, Sequence
from typing import NamedTuple

import torch
from torch import Tensor

from workloads.compression.compensation.plan import output_maps
from workloads.compression.remembered import Remembered
from workloads.compression.repair import match_statistics
from workloads.config import CalibrationConfig
from workloads.structure.copying import copied
from workloads.structure.groups import Maps
from workloads.structure.layers import along_outputs, get_layer, made_dim, resize
from workloads.structure.network import Network

BATCH = 64
LEAVES = 40  # at most, in an image
SOLID = 0.6  # share of leaves that are discs; the others are boxes
RANGE = 2.5  # deviations from the mean that pixels stay within
# What photographs vary in most: luminance, red against blue, green against magenta (principal axes of natural colours).
COLOURS = torch.tensor([[1.0, 0.6, 0.35], [1.0, 0.0, -0.35], [1.0, -0.6, 0.35]])


def made_up(kind: str, count: int, shape: Sequence[int], seed: int) -> Tensor:
    """(count, C, H, W) float32 images, each channel of mean 0 and deviation 1 over all of them.

    Args:
        kind: `dead-leaves`, `pink-noise` or `mixed`, both in turn.
        count: how many.
        shape: (C, H, W).
        seed: which ones.
    """
    generator = torch.Generator().manual_seed(seed)
    if kind == "pink-noise":
        images = pink_noise(count, shape, generator)
    elif kind == "dead-leaves":
        images = dead_leaves(count, shape, generator)
    else:
        half = -(-count // 2)
        both = pink_noise(half, shape, generator), dead_leaves(half, shape, generator)
        images = torch.stack([standardised(part) for part in both], 1).flatten(0, 1)[:count]
    return standardised(images).clamp(-RANGE, RANGE)


def standardised(images: Tensor) -> Tensor:
    """With mean 0 and deviation 1 a channel over all images and pixels."""
    mean, deviation = images.mean((0, 2, 3), keepdim=True), images.std((0, 2, 3), keepdim=True)
    return (images - mean) / deviation.clamp(min=1e-6)


def coloured(amounts: Tensor) -> Tensor:
    """(…, C, H, W) of amounts along the axes of natural colours; other than three channels stay as they are."""
    return torch.einsum("ck,...khw->...chw", COLOURS, amounts) if amounts.shape[-3] == 3 else amounts


def pink_noise(count: int, shape: Sequence[int], generator: torch.Generator, fall: float = 1.2) -> Tensor:
    """Noise whose amplitude falls with frequency as f^−fall, as that of photographs does (Field 1987)."""
    channels, height, width = shape
    rows, columns = torch.fft.fftfreq(2 * height), torch.fft.rfftfreq(2 * width)
    frequency = (rows[:, None].square() + columns.square()).sqrt().clamp(min=1 / (2 * max(height, width)))
    white = torch.randn(count, channels, 2 * height, 2 * width, generator=generator)
    noise = torch.fft.irfft2(torch.fft.rfft2(white) / frequency**fall, s=(2 * height, 2 * width))
    noise = noise[..., :height, :width]  # a part of what repeats itself does not
    return standardised(coloured(noise / noise.std()))


def dead_leaves(count: int, shape: Sequence[int], generator: torch.Generator) -> Tensor:
    """Discs and boxes that cover each other, of sizes r with density r⁻² (Lee et al. 2001), shaded and with texture."""
    _, height, width = shape
    size = max(height, width)

    def uniform(low: float, high: float, *sizes: int) -> Tensor:
        return low + (high - low) * torch.rand(count, *sizes, generator=generator)

    images = 0.7 * pink_noise(count, shape, generator, 1.5)
    texture = pink_noise(count, shape, generator, 0.9)
    smallest, largest = size / 16, size / 1.6
    radii = (smallest / uniform(1e-3, 1.0, LEAVES)).clamp(max=largest)
    leaves = torch.randint(LEAVES // 4, LEAVES + 1, (count, 1), generator=generator)
    radii = radii.masked_fill(torch.arange(LEAVES) >= leaves, 0).sort(1, descending=True).values
    down, across = torch.meshgrid(torch.arange(float(height)), torch.arange(float(width)), indexing="ij")
    for radius in radii.T.reshape(LEAVES, count, 1, 1):
        x = across - uniform(-size / 8, size * 9 / 8, 1, 1)
        y = down - uniform(-size / 8, size * 9 / 8, 1, 1)
        angle = uniform(0, torch.pi, 1, 1)
        along, other = x * angle.cos() + y * angle.sin(), y * angle.cos() - x * angle.sin()
        scale = radius.clamp(min=1e-6)
        u, v = along / scale, other / (scale * uniform(0.4, 1.0, 1, 1))
        distance = torch.where(uniform(0, 1, 1, 1) < SOLID, (u.square() + v.square()).sqrt(), u.abs().maximum(v.abs()))
        mask = ((1 - distance) * radius + 0.5).clamp(0, 1) * (radius > 0)
        strength = torch.tensor([1.0, 0.8, 0.6]) if shape[0] == 3 else torch.ones(shape[0])
        amounts = torch.randn(count, shape[0], 1, 1, generator=generator) * strength[:, None, None]
        shades = 0.25 * torch.randn(count, 2, 1, 1, generator=generator)
        shade = shades[:, 0] * u + shades[:, 1] * v
        mask, shade = mask.unsqueeze(1), shade.unsqueeze(1)
        fill = coloured(amounts) + shade + 0.25 * uniform(0, 1, 1, 1, 1) * texture.roll(1 + int(radius[0] * 7), 0)
        images = images * (1 - mask) + fill * mask
    return standardised(images)


class Surrogate(NamedTuple):
    """A network that stands for the original, and images on which it does.

    Attributes:
        network: the original with other gains and offsets of its layers.
        images: batches (B, C, H, W).
        gains: by layer, what its outputs were multiplied by and then increased by.
    """

    network: Network
    images: list[Tensor]
    gains: Mapping[str, tuple[Tensor, Tensor]]

    @torch.no_grad()
    def undo(self, narrowed: Network, maps: Mapping[int, Maps]) -> None:
        """Take the gains and offsets out of what maps made of the network, in place."""
        shares = output_maps(self.network, maps).shares
        for name, (gain, offset) in self.gains.items():
            layer = get_layer(narrowed.model, name)
            if name in shares:
                gain, offset = (shares[name].to(part) @ part for part in (gain, offset))
            resize(layer, "weight", layer.weight / along_outputs(layer, gain))
            resize(layer, "bias", (layer.bias - offset) / gain)


_last: Remembered[Surrogate] = Remembered()


def surrogate(base: Network, config: CalibrationConfig, example: Tensor, seed: int) -> Surrogate:
    """A network that made-up images lead through the statistics that batch-norm knew of the original.

    Args:
        base: the original, batch-norm merged.
        config: which images.
        example: (1, C, H, W), for shape, device and precision.
        seed: of the images.
    """
    key = config.kind, config.count, tuple(example.shape), str(example.device), seed
    return _last.get(base.model, key, lambda: made_surrogate(base, config, example, seed))


@torch.no_grad()
def made_surrogate(base: Network, config: CalibrationConfig, example: Tensor, seed: int) -> Surrogate:
    """The same, made anew."""
    images = list(made_up(config.kind, config.count, example.shape[1:], seed).to(example).split(BATCH))
    model = copied(base.model)
    known = {name: parts for name, parts in base.statistics.items() if name not in base.structure.opaque}
    wanted = {name: (mean.double().cpu()[None], size.double().cpu()[None]) for name, (mean, size) in known.items()}
    if wanted:
        match_statistics(model, wanted, images)
    gains = {}
    for name in wanted:
        before, after = get_layer(base.model, name), get_layer(model, name)
        sizes = [layer.weight.movedim(made_dim(layer), 0).flatten(1).norm(dim=1) for layer in (before, after)]
        gain = torch.where(sizes[0] > 0, sizes[1] / sizes[0], 1.0)
        gains[name] = gain, after.bias - gain * (0 if before.bias is None else before.bias)
    return Surrogate(Network(model, base.structure, base.statistics), images, gains)
