"""One layer on its way to new weights: it looks at its calls in both networks, then it is solved."""

from typing import Any

import torch
from torch import Tensor

from workloads.compression.calls import by_channel
from workloads.compression.compensation.passes import Seen
from workloads.compression.compensation.plan import LayerPlan
from workloads.compression.compensation.sums import (
    ALL,
    CHUNK,
    RIDGES,
    Products,
    Windows,
    is_product,
    made_rows,
    on,
    wide,
)
from workloads.config import LeastSquaresConfig
from workloads.structure.layers import along_outputs, resize, selected

ROWS = 60_000  # of a layer's inputs that are looked at, where there are more,
ROWS_AN_UNKNOWN = 8  # but at least so many for each number that is solved for
CHANNEL_ROWS = 40_000
CHANNEL_RIDGES = (3.0, 1.0, 0.3, 0.1, 0.03, 1e-2, 1e-3, 1e-4, 1e-5)
MOST_UNKNOWNS = 8192  # of a layer; one with more keeps its kernels, for which channels are mapped
SAME = 1e-2  # relative error up to which an output is what the weight makes of the inputs; bfloat16 has 8 digits


def is_solvable(plan: LayerPlan, call: Seen) -> bool:
    """Whether a layer's output in the original is the product of its weight and its inputs, plus its bias."""
    layer = plan.original
    if not is_product(layer) or call.output is None:
        return False
    windows = Windows(layer, call.input)
    rows, made = windows.rows(slice(0, 1), None), made_rows(layer, call.output, slice(0, 1), None)
    if rows.shape[1] != len(made):
        return False
    product = (rows @ as_groups(wide(layer.weight), windows.groups).mT).movedim(0, 1).flatten(1)
    expected = product if layer.bias is None else product + layer.bias.to(product)
    return bool((expected - made).norm() <= SAME * made.norm())


def as_groups(weight: Tensor, groups: int) -> Tensor:
    """A weight as (groups, outputs, unknowns)."""
    return weight.reshape(groups, len(weight) // groups, -1)


def mapped(rows: Tensor, matrix: Tensor | None) -> Tensor:
    """Rows of n channels as a map (m, n) makes them, m of them; as they are where it is None."""
    if matrix is None:
        return rows
    chosen = selected(matrix)
    return rows @ matrix.to(rows).T if chosen is None else rows[:, chosen.to(rows.device)]


class Target:
    """What a layer is to make: the original's outputs as the map makes them, less what is added to them anyway.

    Averages of unlike neurons vary less than these do. They are given the mean and deviation that their members have
    in the mean, as REPAIR (Jordan et al. 2023) does.
    """

    def __init__(self, plan: LayerPlan, original: Seen, changed: Seen):
        self.plan = plan
        self.takes_over = original.summand is not None and changed.summand is not None
        self.count = 0
        self.sums: list[Tensor] = []

    def rows(self, original: Seen, changed: Seen, images: slice, chosen: Tensor | None) -> tuple[Tensor, Tensor | None]:
        """(rows, m) targets, and what is to be taken from them, at the places that `Windows` names so."""
        layer, minus = self.plan.layer, None
        assert original.output is not None
        goal = made_rows(layer, original.output, images, chosen)
        if self.takes_over and original.summand is not None and changed.summand is not None:
            goal = goal + made_rows(layer, original.summand, images, chosen)
            minus = made_rows(layer, changed.summand, images, chosen)
        target = mapped(goal, self.plan.made)
        if self.plan.shares is not None:
            self.count += len(goal)
            moments = [x.sum(0, dtype=torch.float64) for x in (goal, goal.square(), target, target.square())]
            self.sums = [a + b for a, b in zip(self.sums, moments, strict=True)] if self.sums else moments
        return target, minus

    def correction(self, outputs: int) -> tuple[Tensor, Tensor]:
        """Gain and offset of the targets, each (m,) float64 on the CPU."""
        gain, offset = torch.ones(outputs, dtype=torch.float64), torch.zeros(outputs, dtype=torch.float64)
        if self.plan.shares is None or not self.count:
            return gain, offset
        mean, square, target, target_square = (total.cpu() / self.count for total in self.sums)
        deviation = (square - mean.square()).clamp(min=0).sqrt()
        reached = (target_square - target.square()).clamp(min=0).sqrt()
        shares = self.plan.shares.double()
        wanted = shares @ deviation
        gain = torch.where(reached > 1e-6 * wanted, wanted / reached, 1.0)
        return gain, shares @ mean - gain * target


class Rebiased:
    """A layer that keeps the weights that the maps made, and gets a bias with which its outputs' means are right.

    Such are transposed convolutions, and classes that do something else than multiply their inputs by their weight.
    """

    def __init__(
        self, plan: LayerPlan, config: LeastSquaresConfig, original: Seen, changed: Seen, batches: int, seed: int
    ):
        self.plan, self.target = plan, Target(plan, original, changed)
        self.count, self.missed = 0, torch.zeros(1, dtype=torch.float64)

    def look(self, fold: int, original: Seen, changed: Seen) -> None:
        """Take note of a call on one batch."""
        layer = self.plan.layer
        made = type(layer).forward(layer, changed.input)  # not by a call, at which a pass would stop
        target, minus = self.target.rows(original, changed, ALL, None)
        missed = target - made_rows(layer, made, ALL, None) - (0 if minus is None else minus)
        self.count, self.missed = self.count + len(missed), self.missed + missed.double().sum(0).cpu()

    def finish(self) -> None:
        """Give the layer its bias."""
        layer = self.plan.layer
        missed = (self.missed / max(1, self.count)).to(layer.weight)
        resize(layer, "bias", missed if layer.bias is None else layer.bias + missed)


class Resolved:
    """A layer that is solved by least squares: a linear one, or a convolution, in groups or not.

    Args:
        plan: what is known of it.
        config: whole kernels or maps of channels.
        original, changed: its first call in both networks.
        batches: how many will be looked at.
        seed: of the places that are, where there are too many.
        again: whether the weights that the layer has are already for the inputs that it gets.
    """

    def __init__(
        self,
        plan: LayerPlan,
        config: LeastSquaresConfig,
        original: Seen,
        changed: Seen,
        batches: int,
        seed: int,
        *,
        again: bool = False,
    ):
        self.plan, self.batches = plan, batches
        self.target = Target(plan, original, changed)
        self.generator = torch.Generator().manual_seed(seed)
        layer, device = plan.layer, changed.input.device
        windows = Windows(layer, changed.input)
        self.whole = config.kernels == "full" and windows.unknowns <= MOST_UNKNOWNS
        targets = len(layer.weight) // windows.groups * (1 + self.target.takes_over)
        self.products = Products(windows.groups, windows.unknowns, targets, device, means_only=not self.whole)
        self.channels: Products | None = None
        if windows.groups == 1 and not again:
            sizes = [rows.shape[1] for rows in self.channel_rows(original.input, changed.input)]
            if max(sizes) <= MOST_UNKNOWNS:
                self.channels = Products(1, sizes[1], sizes[0], device)

    # Looking

    def look(self, fold: int, original: Seen, changed: Seen) -> None:
        """Add a call on one batch to the sums."""
        windows = Windows(self.plan.layer, changed.input)
        chosen = self.chosen(windows)
        places = windows.places if chosen is None else len(chosen)
        step = max(1, CHUNK // (windows.unknowns * windows.groups * places))
        for start in range(0, len(windows), step):
            part = slice(start, start + step)
            target, minus = self.target.rows(original, changed, part, chosen)
            targets = [in_groups(each, windows.groups) for each in (target, minus) if each is not None]
            self.products.add(fold, windows.rows(part, chosen), torch.cat(targets, 2))
        if self.channels is not None:
            before, now = self.channel_rows(original.input, changed.input)
            wanted = max(1, CHANNEL_ROWS // self.batches)
            if len(now) > wanted:
                some = torch.randint(len(now), (wanted,), generator=self.generator).to(now.device)
                before, now = before[some], now[some]
            self.channels.add(fold, wide(now).unsqueeze(0), wide(before).unsqueeze(0))

    def chosen(self, windows: Windows) -> Tensor | None:
        """The places of each image that are looked at; None where all are."""
        rows = max(ROWS, ROWS_AN_UNKNOWN * windows.unknowns) // self.batches
        wanted = max(1, rows // len(windows))
        if windows.places <= wanted:
            return None
        return torch.randperm(windows.places, generator=self.generator)[:wanted].to(windows.windows.device)

    def channel_rows(self, before: Tensor, now: Tensor) -> tuple[Tensor, Tensor]:
        """What both networks' layers read as (rows, channels), or as (rows, pairings) where these have several."""
        rows = by_channel(self.plan.original, before), by_channel(self.plan.layer, now)
        if self.plan.slots is None:
            return rows
        found = [each[:, slots].movedim(2, 1).flatten(0, 1) for each, slots in zip(rows, self.plan.slots, strict=True)]
        return found[0], found[1]

    # Solving

    def finish(self) -> None:
        """Give the layer its weight and bias."""
        layer, products = self.plan.layer, self.products
        groups = products.inputs[0].shape[0]
        correction = self.target.correction(len(layer.weight))
        gain, offset = (part.to(on(layer.weight.device)) for part in correction)
        weight = self.prior().double().to(gain.device)
        prior = as_groups(weight if self.channels is None else weight * along_outputs(layer, gain), groups)

        def residuals(moments: Any) -> Any:
            corrected = moments.of(gain.view(groups, -1), offset.view(groups, -1), minus=self.target.takes_over)
            return corrected.less(prior)

        if self.whole:
            change, bias = products.solved(RIDGES, residuals)
            prior = prior + change.mT
        else:
            bias = residuals(products.moments(products.folds)).targets
        resize(layer, "weight", prior.reshape(layer.weight.shape).to(layer.weight))
        resize(layer, "bias", bias.flatten().to(layer.weight))

    def prior(self) -> Tensor:
        """The original's weight for the inputs that there are now and the outputs that are to be made.

        Each of the original's input channels is seen as what a ridge makes of the present ones, at the same place.
        """
        layer, weight = self.plan.layer, wide(self.plan.original.weight)
        if self.channels is None:
            return wide(layer.weight)
        slots = self.plan.slots
        by_slot = weight.unsqueeze(2) if slots is None else weight[:, slots[0]]  # (outputs, n, r, …)
        flat = by_slot.movedim(1, 0).flatten(1).double()
        weighting = (flat @ flat.T).to(self.channels.inputs[0])
        matrix, _ = self.channels.solved(CHANNEL_RIDGES, lambda moments: moments, weighting)
        carried = torch.einsum("on...,mn->om...", by_slot, matrix[0].to(by_slot))
        found = wide(layer.weight).new_zeros(len(weight), *layer.weight.shape[1:])
        if slots is None:
            found.copy_(carried.squeeze(2))
        else:
            found[:, slots[1].flatten()] = carried.flatten(1, 2)
        made = self.plan.made
        return found if made is None else mapped(found.flatten(1).T, made).T.reshape(layer.weight.shape)


def in_groups(rows: Tensor, groups: int) -> Tensor:
    """(rows, channels) as (groups, rows, channels of a group)."""
    return rows.view(len(rows), groups, -1).movedim(1, 0)
