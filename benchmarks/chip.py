"""CHIP's channel independence: the published loop (a nuclear norm for every image and channel) against one
decomposition for every image.

    python benchmarks/chip.py [--images 4] [--runs 3] [--threads 1] [--out chip.parquet]

The loop runs in float32 as published, the other
always in float64; both are compared with the loop in float64, by the largest relative difference of a score.
"""

from functools import partial

import torch
from measuring import Table, announce, machine, parser, side_by_side, write
from torch import Tensor

from workloads.compression.criteria.independence import independence

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
    arguments = parser(__doc__, "chip.parquet")
    arguments.add_argument("--images", type=int, default=4)
    options = arguments.parse_args()
    torch.set_num_threads(options.threads)
    conditions = machine("torch") | {name: getattr(options, name) for name in ("threads", "images", "runs")}
    announce(conditions)
    table = Table("An image's scores, and the largest relative difference from the loop in float64")
    for channels, height, width in SHAPES:
        maps = feature_maps(options.images, channels, height * width)
        ways = {"loop": partial(published, maps), "metaprune": partial(independence, maps)}
        taken = side_by_side(ways, options.runs)
        exact = published(maps.double())
        differences = {name: float(((scores() - exact) / exact).abs().max()) for name, scores in ways.items()}
        table.add(
            channels=channels,
            map=f"{height}x{width}",
            **{f"{name} (ms)": 1000 * seconds / options.images for name, seconds in taken.items()},
            ratio=taken["loop"] / taken["metaprune"],
            **{f"{name} differs by": difference for name, difference in differences.items()},
        )
    write(options.out, conditions, table)


if __name__ == "__main__":
    main()
