"""CHIP's channel independence: the published loop (a nuclear norm for every image and channel) against one
decomposition for every image.

    python benchmarks/chip.py [--images 4] [--runs 3] [--threads 1]

Prints medians of n runs side by side, with hardware and versions. The loop runs in float32 as published, the other
always in float64; both are compared with the loop in float64, by the largest relative difference of a score.
"""

import argparse
import platform
import sys
from collections.abc import Callable

import torch
from measuring import median_seconds
from torch import Tensor

from orchestrator.environment import processor
from workloads.criteria.independence import independence

SHAPES = ((64, 32, 32), (128, 16, 16), (256, 8, 8), (512, 4, 4), (512, 2, 2))


def published(maps: Tensor) -> Tensor:
    """A nuclear norm of each feature map, less one for each channel set to zero: (k, c, p) to (k, c)."""
    scores = maps.new_empty(maps.shape[:2])
    for image, whole in enumerate(maps):
        norm = torch.linalg.matrix_norm(whole, ord="nuc")
        for channel in range(len(whole)):
            without = whole.clone()
            without[channel] = 0
            scores[image, channel] = norm - torch.linalg.matrix_norm(without, ord="nuc")
    return scores


def feature_maps(images: int, channels: int, positions: int) -> Tensor:
    """Maps whose channels resemble each other: random mixtures of components of falling strength, float32."""
    generator = torch.Generator().manual_seed(0)
    rank = min(channels, positions)
    mixtures = torch.randn(channels, rank, generator=generator) / torch.arange(1, rank + 1)
    return mixtures @ torch.randn(images, rank, positions, generator=generator)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--images", type=int, default=4)
    parser.add_argument("--runs", type=int, default=3)
    parser.add_argument("--threads", type=int, default=1)
    options = parser.parse_args()
    torch.set_num_threads(options.threads)
    versions = f"Python {platform.python_version()}, torch {torch.__version__}, {sys.platform}"
    print(
        f"{processor()}, {options.threads} thread{'s' * (options.threads > 1)}, {versions}, n = {options.runs}, medians"
    )
    print(f"milliseconds an image, {options.images} images; difference from the loop in float64")
    print(f"{'feature map':>12} {'loop':>9} {'identity':>9} {'ratio':>7} {'loop differs':>13} {'identity differs':>17}")
    for channels, height, width in SHAPES:
        maps = feature_maps(options.images, channels, height * width)
        exact = published(maps.double())

        def measured(scores: Callable[[Tensor], Tensor], maps: Tensor = maps) -> float:
            return 1000 * median_seconds(lambda: scores(maps), options.runs) / options.images

        def difference(scores: Tensor, exact: Tensor = exact) -> float:
            return float(((scores - exact) / exact).abs().max())

        loop, ours = measured(published), measured(independence)
        print(
            f"{f'{channels}x{height}x{width}':>12} {loop:>9.1f} {ours:>9.2f} {loop / ours:>7.0f} "
            f"{difference(published(maps)):>13.0e} {difference(independence(maps)):>17.0e}"
        )


if __name__ == "__main__":
    main()
