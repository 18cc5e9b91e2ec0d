"""The sums from which a layer is solved by least squares, and their solution with a ridge.

A row of inputs is what one place of the layer's output is made of: a window of a convolution, the features of a token.
Rows go into sums of products and are forgotten, batch by batch, so that memory does not grow with the number of images.
Products are taken in the network's precision, float32 at least, and added up in float64.
"""

import math
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from workloads.compression.calls import channel_dim
from workloads.structure.layers import TRANSPOSED

FOLDS = 4  # of the batches, of which
HELD_OUT = 2  # are each left out once, to choose the ridge
RIDGES = (10.0, 1.0, 1e-1, 1e-2, 1e-3, 1e-4, 1e-5)  # shares of the mean variance of the inputs
CAUTION = 0.3  # by which the chosen ridge is multiplied, as all images know more than those of the other folds
SINGLE = 512  # unknowns from which on ridges are compared in float32
CHUNK = 2**23  # numbers of a block of rows
ALL = slice(None)


def is_product(layer: nn.Module) -> bool:
    """Whether a layer's output may be a product of its weight and its inputs."""
    return isinstance(layer, (nn.Conv1d, nn.Conv2d, nn.Conv3d, nn.Linear)) and not isinstance(layer, TRANSPOSED)


def wide(tensor: Tensor) -> Tensor:
    """The tensor in float32 at least."""
    return tensor if tensor.dtype in (torch.float32, torch.float64) else tensor.float()


class Windows:
    """The rows of a layer's inputs at some places of its output.

    Args:
        layer: a convolution or a linear layer.
        given: what it reads.
    """

    def __init__(self, layer: Any, given: Tensor):
        self.groups = self.dims = 1
        if isinstance(layer, nn.Linear):
            self.windows = given.reshape(1, -1, given.shape[-1])  # all rows are places of one image
            return
        self.groups, self.dims = layer.groups, len(layer.kernel_size)
        if given.ndim == self.dims + 1:
            given = given.unsqueeze(0)
        mode = "constant" if layer.padding_mode == "zeros" else layer.padding_mode
        given = F.pad(given, layer._reversed_padding_repeated_twice, mode=mode)
        sizes, strides = [], []
        for dim, (kernel, stride, dilation) in enumerate(
            zip(layer.kernel_size, layer.stride, layer.dilation, strict=True), start=2
        ):
            sizes.append((given.shape[dim] - dilation * (kernel - 1) - 1) // stride + 1)
            strides.append(given.stride(dim) * stride)
        inner = [given.stride(dim) * dilation for dim, dilation in enumerate(layer.dilation, start=2)]
        self.windows = given.as_strided(
            (len(given), *sizes, given.shape[1], *layer.kernel_size),
            (given.stride(0), *strides, given.stride(1), *inner),
            given.storage_offset(),
        )

    def __len__(self) -> int:
        return len(self.windows)

    @property
    def places(self) -> int:
        """How many places of an image's output there are."""
        return math.prod(self.windows.shape[1 : 1 + self.dims])

    @property
    def unknowns(self) -> int:
        """Inputs of one output."""
        return math.prod(self.windows.shape[1 + self.dims :]) // self.groups

    def rows(self, images: slice, chosen: Tensor | None) -> Tensor:
        """(groups, rows, unknowns) of some images at the chosen places, or at all."""
        windows = self.windows[images]
        if chosen is None:
            windows = windows.flatten(1, self.dims)
        else:
            places: tuple[slice | Tensor, ...] = ALL, *unravelled(chosen, windows.shape[1 : 1 + self.dims])
            windows = windows[places]
        found: Tensor = wide(windows.reshape(-1, self.groups, self.unknowns).movedim(1, 0))
        return found


def unravelled(places: Tensor, shape: Sequence[int]) -> list[Tensor]:
    """Coordinates of places that are numbered from the first to the last."""
    found: list[Tensor] = []
    for size in reversed(shape):
        found.insert(0, places % size)
        places = places // size
    return found


def made_rows(layer: nn.Module, made: Tensor, images: slice, chosen: Tensor | None) -> Tensor:
    """(rows, channels) of what a layer makes, or of what it is added to, where `Windows.rows` gives its inputs."""
    channels = channel_dim(layer)
    if channels == -1:
        rows = made.reshape(-1, made.shape[-1])
        return wide(rows if chosen is None else rows[chosen])
    if made.ndim == -channels:
        made = made.unsqueeze(0)
    flat = made[images].flatten(2)
    flat = flat if chosen is None else flat[:, :, chosen]
    return wide(flat.movedim(1, -1).reshape(-1, made.shape[1]))


def add_to(total: Tensor, part: Tensor) -> None:
    """Add in float64, in place; a copy in float64 would cost more than the sum."""
    total += part.to(total.device)


def on(device: torch.device) -> torch.device:
    """Where sums are kept: beside the network if that has float64."""
    return device if device.type in ("cpu", "cuda") else torch.device("cpu")


class Products:
    """Sums of products of inputs with each other and with targets, by fold, for each of a layer's groups.

    Args:
        groups, unknowns, targets: sizes; `targets` are those of one group.
        device: of the rows.
        means_only: whether means are all that is asked for.
    """

    def __init__(self, groups: int, unknowns: int, targets: int, device: torch.device, *, means_only: bool = False):
        def zeros(*sizes: int) -> list[Tensor]:
            return [torch.zeros(sizes, dtype=torch.float64, device=on(device)) for _ in range(FOLDS)]

        self.means_only = means_only
        self.counts = [0] * FOLDS
        self.within = zeros(groups, *([0, 0] if means_only else [unknowns, unknowns]))
        self.across = zeros(groups, *([0, 0] if means_only else [unknowns, targets]))
        self.inputs, self.made = zeros(groups, unknowns), zeros(groups, targets)

    def add(self, fold: int, rows: Tensor, targets: Tensor) -> None:
        """Add (groups, rows, unknowns) and (groups, rows, targets)."""
        self.counts[fold] += rows.shape[1]
        add_to(self.inputs[fold], rows.sum(1))
        add_to(self.made[fold], targets.sum(1))
        if not self.means_only:
            add_to(self.within[fold], rows.mT @ rows)
            add_to(self.across[fold], rows.mT @ targets)

    def moments(self, folds: Sequence[int]) -> "Moments":
        """Means and covariances over some folds."""
        count = max(1, sum(self.counts[fold] for fold in folds))

        def total(parts: list[Tensor]) -> Tensor:
            found = parts[folds[0]].clone()
            for fold in folds[1:]:
                found += parts[fold]
            return found.div_(count)

        inputs, made = total(self.inputs), total(self.made)
        within, across = total(self.within), total(self.across)
        if not self.means_only:
            within.baddbmm_(inputs.unsqueeze(2), inputs.unsqueeze(1), alpha=-1)
            across.baddbmm_(inputs.unsqueeze(2), made.unsqueeze(1), alpha=-1)
        return Moments(within, across, inputs, made)

    @property
    def folds(self) -> list[int]:
        """Those that have rows."""
        return [fold for fold, count in enumerate(self.counts) if count]

    def solved(
        self, ridges: Sequence[float], taken: Callable[["Moments"], "Moments"], weighting: Tensor | None = None
    ) -> tuple[Tensor, Tensor]:
        """The solution (groups, unknowns, targets) and offset (groups, targets) with the ridge of cross-validation.

        Args:
            ridges: as shares of the mean variance of the inputs.
            taken: what is done to all moments before.
            weighting: (targets, targets) M of the error eᵀMe by which the ridge is chosen; None is the identity.
        """
        folds = self.folds
        held = folds[:HELD_OUT] if len(folds) > 1 else []
        train = [taken(self.moments([other for other in folds if other != fold])) for fold in held]
        share = CAUTION * best_ridge(train, [taken(self.moments([fold])) for fold in held], ridges, weighting)
        everything = taken(self.moments(folds))
        while (solution := everything.ridge(share)) is None:
            share *= 10
        return solution, everything.offset(solution)


@dataclass(frozen=True)
class Moments:
    """Means and covariances of inputs and targets, for each group of a layer.

    Attributes:
        within: (groups, unknowns, unknowns).
        across: (groups, unknowns, targets).
        inputs: (groups, unknowns) means.
        targets: (groups, targets) means.
    """

    within: Tensor
    across: Tensor
    inputs: Tensor
    targets: Tensor

    def of(self, gain: Tensor, offset: Tensor, *, minus: bool) -> "Moments":
        """With targets that are gained and offset, each (groups, targets), less as many others that follow them."""
        size = gain.shape[1]
        across = self.across[:, :, :size] * gain.unsqueeze(1) if self.across.numel() else self.across
        targets = self.targets[:, :size] * gain + offset
        if minus:
            across = across - self.across[:, :, size:] if self.across.numel() else self.across
            targets = targets - self.targets[:, size:]
        return Moments(self.within, across, self.inputs, targets)

    def less(self, weights: Tensor) -> "Moments":
        """With what weights (groups, targets, unknowns) already make taken from the targets."""
        weights = weights.to(self.within)
        return Moments(
            self.within,
            self.across - self.within @ weights.mT if self.across.numel() else self.across,
            self.inputs,
            self.targets - (weights @ self.inputs.unsqueeze(2)).squeeze(2),
        )

    def ridge(self, share: float, *, single: bool = False) -> Tensor | None:
        """(groups, unknowns, targets) with the least squares plus the ridge; None where rounding spoils them.

        Args:
            share: the ridge, of the mean variance of the inputs.
            single: in float32.
        """
        scale = self.within.diagonal(dim1=1, dim2=2).mean(1).clamp(min=torch.finfo(torch.float32).tiny)
        dtype = torch.float32 if single else torch.float64
        matrix = self.within.to(dtype, copy=True)
        matrix.diagonal(dim1=1, dim2=2).add_((share * scale).to(dtype).unsqueeze(1))
        factor, failed = torch.linalg.cholesky_ex(matrix)
        if bool(failed.any()):
            return None
        return torch.cholesky_solve(self.across.to(dtype), factor)

    def offset(self, solution: Tensor) -> Tensor:
        """(groups, targets) constants that a solution needs beside it."""
        means = self.inputs.unsqueeze(1).to(solution) @ solution
        return self.targets - means.squeeze(1).to(self.targets)

    def error(self, solution: Tensor, offset: Tensor, weighting: Tensor | None = None) -> float:
        """The mean squared error of a solution here, less that of no solution at all.

        Args:
            weighting: (targets, targets) M of the error eᵀMe; None is the identity.
        """
        within, across = self.within.to(solution), self.across.to(solution)
        changed = within @ solution - 2 * across
        missed = (self.offset(solution) - offset).to(solution)
        if weighting is None:
            return float((solution * changed).sum() + missed.square().sum())
        squares = solution.mT @ changed + missed.unsqueeze(2) * missed.unsqueeze(1)
        return float((squares * weighting.to(squares)).sum())


def best_ridge(
    train: Sequence[Moments], held: Sequence[Moments], ridges: Sequence[float], weighting: Tensor | None = None
) -> float:
    """The ridge with the least error on what was held out; they are tried from the largest on until it grows."""
    least, best = math.inf, ridges[len(ridges) // 2]
    if not held:
        return best
    single = train[0].within.shape[1] > SINGLE
    for share in ridges:
        error = 0.0
        for known, new in zip(train, held, strict=True):
            solution = known.ridge(share, single=single)
            error += math.inf if solution is None else new.error(solution, known.offset(solution), weighting)
        if error >= least:
            break
        least, best = error, share
    return best
