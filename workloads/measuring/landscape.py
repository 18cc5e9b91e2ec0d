"""Slices of weight space: the plane through three networks, pruned ones at the width of the original (Fig. 6)."""

import copy
from collections.abc import Mapping, Sequence

import torch
from torch import Tensor, nn

from workloads.structure.groups import PRODUCER, THROUGH
from workloads.structure.layers import WEIGHTED, get_layer, made_dim, resize
from workloads.structure.network import Network


@torch.no_grad()
def embedded(narrow: Network, wide: Network, places: Mapping[int, Sequence[int]]) -> nn.Module:
    """A pruned network at the width of the one it came from: it computes the same, what was removed is zero.

    Args:
        narrow: the pruned network, batch-norm merged.
        wide: the one it came from, likewise.
        places: by number of a narrowed group, the pairings of `wide` whose places its pairings take.
    """
    model = copy.deepcopy(wide.model)
    numbers = channel_numbers(narrow, wide, places)
    for name, value in narrow.model.state_dict().items():
        if value.ndim == 0:
            continue
        path, _, attribute = name.rpartition(".")
        layer = get_layer(model, path)
        whole = getattr(layer, attribute)
        whole = value.new_zeros(layer.weight.shape[made_dim(layer)]) if whole is None else whole.clone()
        if isinstance(layer, WEIGHTED):
            whole.zero_()
        channels = [numbers.get((path, attribute, dim), torch.arange(size)) for dim, size in enumerate(value.shape)]
        whole[torch.meshgrid(*channels, indexing="ij")] = value
        resize(layer, attribute, whole)
    return model


def channel_numbers(
    narrow: Network, wide: Network, places: Mapping[int, Sequence[int]]
) -> dict[tuple[str, str, int], Tensor]:
    """Which channels of `wide` those of `narrow` are, by layer, parameter or buffer, and its dimension."""
    sides: dict[tuple[str, str, int], list[tuple[Tensor, Tensor, Tensor]]] = {}
    for small, large in zip(narrow.structure.groups, wide.structure.groups, strict=True):
        chosen = torch.as_tensor(places.get(large.number, range(large.size)))
        for member, origin in zip(small.members, large.members, strict=True):
            found = member.index.flatten(), origin.index[chosen].flatten(), origin.index.flatten()
            for parameter, dim in member.tensors(wide.model):
                sides.setdefault((member.layer, parameter, dim), []).append(found)
            if member.side in (PRODUCER, THROUGH):  # the narrow network may have a bias where the wide one has none
                sides.setdefault((member.layer, "bias", 0), sides[member.layer, member.parameter, member.axis])
    numbers = {}
    for (layer, parameter, dim), parts in sides.items():
        channels, taken, all_taken = (torch.cat(part) for part in zip(*parts, strict=True))
        of_bias = parameter == "bias" and isinstance(get_layer(wide.model, layer), WEIGHTED)
        name, along = ("weight", made_dim(get_layer(wide.model, layer))) if of_bias else (parameter, dim)
        sizes = (getattr(get_layer(network.model, layer), name).shape[along] for network in (narrow, wide))
        number = torch.empty(next(sizes), dtype=torch.int64)
        number[channels] = taken
        number[others(channels, len(number))] = others(all_taken, next(sizes))
        numbers[layer, parameter, dim] = number
    return numbers


def others(channels: Tensor, size: int) -> Tensor:
    """The numbers below `size` that are not among `channels`."""
    rest = torch.ones(size, dtype=torch.bool)
    rest[channels] = False
    return rest.nonzero().flatten()


class Plane:
    """The plane through three networks of equal shapes, in the space of their parameters.

    Attributes:
        corners: (3, 2) float64 where the networks lie: the first at the origin, the second to its right.
    """

    def __init__(self, models: Sequence[nn.Module]):
        """Lay the plane.

        Raises:
            ValueError: the three networks lie on a line.
        """
        self.states = [model.state_dict() for model in models]
        self.model = copy.deepcopy(models[0])
        points = [torch.cat([p.detach().flatten().double().cpu() for p in model.parameters()]) for model in models]
        right, up = points[1] - points[0], points[2] - points[0]
        width = right.norm()
        along = float(up @ right / width)
        height = (up - right * (along / width)).norm()
        self.corners = torch.tensor([[0.0, 0.0], [float(width), 0.0], [along, float(height)]], dtype=torch.float64)
        if not torch.isfinite(self.corners).all() or height <= 1e-9 * max(float(width), float(up.norm())):
            raise ValueError("the three networks lie on a line: there is no plane through them")

    def grid(self, size: int, margin: float) -> tuple[Tensor, Tensor]:
        """x and y, (size,) each: the extent of the corners, widened on every side by `margin` of it."""
        low, high = self.corners.min(0).values, self.corners.max(0).values
        reach = margin * (high - low)
        ends = zip(low - reach, high + reach, strict=True)
        x, y = (torch.linspace(float(a), float(b), size, dtype=torch.float64) for a, b in ends)
        return x, y

    @torch.no_grad()
    def network(self, x: float, y: float) -> nn.Module:
        """The network at a point, the same module for every point."""
        up = y / self.corners[2, 1]
        right = (x - up * self.corners[2, 0]) / self.corners[1, 0]
        shares = torch.stack([1 - right - up, right, up])
        state = self.model.state_dict()
        for name, value in state.items():
            if value.is_floating_point():
                parts = torch.stack([other[name].to(value) for other in self.states])
                value.copy_(torch.einsum("k,k...->...", shares.to(parts), parts))
            if name.endswith("running_var"):
                value.clamp_(min=0)
        return self.model
