"""A group's weights as criteria and methods see them."""

import functools

import torch
from torch import Tensor, nn

from workloads.compression.transport import pairwise_distances
from workloads.structure.groups import CONSUMER, PRODUCER, THROUGH, Group
from workloads.structure.layers import get_layer, rows


class Pairings:
    """The weights of a group's n pairings, one row each, as criteria and methods see them.

    Attributes:
        incoming: (n, d_in) weights that produce the activation, all producing layers side by side.
        bias: (n, k) biases of the k producing layers that have one.
        outgoing: (n, d_out) weights that consume the activation, all consuming layers side by side; d_out is 0 for
            queries and keys, which are consumed by each other.
    """

    def __init__(self, model: nn.Module, group: Group):
        producers = [(get_layer(model, member.layer), member) for member in group.on(PRODUCER, THROUGH)]
        incoming = [rows(layer.weight, member.axis, member.index) for layer, member in producers]
        bias = [
            rows(layer.bias, 0, member.index) for layer, member in producers if getattr(layer, "bias", None) is not None
        ]
        outgoing = [
            rows(get_layer(model, member.layer).weight, member.axis, member.index) for member in group.on(CONSUMER)
        ]
        self.size = group.size
        self.incoming = torch.cat(incoming, 1).detach()
        self.bias = torch.cat(bias, 1).detach() if bias else self.incoming.new_zeros(group.size, 0)
        self.outgoing = torch.cat(outgoing, 1).detach() if outgoing else self.incoming.new_zeros(group.size, 0)
        self._distances: dict[float, Tensor] = {}

    @functools.cached_property
    def directions(self) -> Tensor:
        """(n, d_in + d_out): incoming and outgoing weights, without biases, scaled to unit l2 norm."""
        vectors = torch.cat([self.incoming, self.outgoing], 1)
        units: Tensor = vectors / vectors.norm(dim=1, keepdim=True).clamp(min=torch.finfo(vectors.dtype).tiny)
        return units

    def distances(self, p: float) -> Tensor:
        """(n, n) l_p distances between the directions of all pairings, computed once."""
        if p not in self._distances:
            self._distances[p] = pairwise_distances(self.directions, p)
        return self._distances[p]
