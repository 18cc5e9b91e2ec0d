"""Methods that solve for the consumers on a few unlabelled images."""

from collections.abc import Sequence
from dataclasses import replace
from typing import Literal

import torch
from torch import Tensor, nn

from workloads.compression.calls import Call, by_channel, run_tapped
from workloads.compression.methods.fusing import folding, fusion_preserving, intra_fusion
from workloads.compression.methods.selecting import conventional
from workloads.compression.pairings import Pairings
from workloads.structure.batch_norm import Statistics
from workloads.structure.copying import copied
from workloads.structure.groups import CONSUMER, Group, Maps, Member, apply
from workloads.structure.layers import get_layer, moved_up, resize

PRODUCING = {"conventional": conventional, "intra-fusion": intra_fusion, "fusion-preserving": fusion_preserving}


def reconstruction(
    pairings: Pairings,
    importance: Tensor,
    m: int,
    *,
    model: nn.Module,
    group: Group,
    original: tuple[nn.Module, Group],
    images: Sequence[Tensor],
    statistics: Statistics,
    producing: Literal["conventional", "intra-fusion", "fusion-preserving", "folding"] = "conventional",
    ridge: float = 1e-3,
) -> Maps:
    """Least squares for each consumer's inputs, after He et al. (2017) and Luo et al. (2017), who fit its outputs.

    For each consuming layer, in the order in which they run, Q and shift minimise ‖A − (A'Q + shift)‖² + λ‖Q‖², where
    A are its inputs in the original network and A' those it gets once P and the consumers before it are in place.

    Args:
        pairings, importance, m: as for every method.
        model: the network as it is, batch-norm merged; not changed.
        group: the group in it.
        original: the network before any of its groups was compressed, and the group in that.
        images: normalised batches, without labels.
        statistics: of the producing layers' outputs, for folding.
        producing: method that gives P.
        ridge: λ as a share of the mean variance of the inputs A'.
    """
    if producing == "folding":
        pair = folding(pairings, importance, m, model=model, group=group, statistics=statistics)
    else:
        pair = PRODUCING[producing](pairings, importance, m)
    compressed = copied(model)
    apply(compressed, group, pair)
    consumers = {member.layer: member for member in group.on(CONSUMER)}
    order = running_order(model, list(consumers), images[0][:1])
    maps, shifts = {}, {}
    for layer in order:
        pattern = next(member for member in original[1].on(CONSUMER) if member.layer == layer)
        moments, slots = Moments(m, pairings.size), consumers[layer].index
        narrow = Member(layer, CONSUMER, moved_up(slots[:m], slots[m:].flatten()))
        for batch in images:
            moments.add(inputs_of(compressed, narrow, batch), inputs_of(original[0], pattern, batch))
        maps[layer], shifts[layer] = moments.solve(ridge)
        sides = tuple(member for member in group.members if member.layer == layer)
        put_back(compressed, model, layer)
        solved = replace(pair, Q={layer: maps[layer]}, shift={layer: shifts[layer]})
        apply(compressed, Group(group.number, group.size, sides), solved)
    return replace(pair, Q=maps, shift=shifts)


class Moments:
    """Sums from which the least squares of m inputs onto n targets are solved, float64."""

    def __init__(self, m: int, n: int):
        self.count = 0
        self.sums = torch.zeros(m, dtype=torch.float64), torch.zeros(n, dtype=torch.float64)
        self.within = torch.zeros(m, m, dtype=torch.float64)
        self.across = torch.zeros(m, n, dtype=torch.float64)

    def add(self, inputs: Tensor, targets: Tensor) -> None:
        """Rows of inputs (s, m) and targets (s, n)."""
        inputs, targets = inputs.double(), targets.double()
        self.count += len(inputs)
        for total, part in zip(self.sums, (inputs.sum(0), targets.sum(0)), strict=True):
            total += part.cpu()
        self.within += (inputs.T @ inputs).cpu()
        self.across += (inputs.T @ targets).cpu()

    def solve(self, ridge: float) -> tuple[Tensor, Tensor]:
        """Q (m, n) and shift (n,)."""
        mean_in, mean_out = (total / self.count for total in self.sums)
        within = self.within / self.count - torch.outer(mean_in, mean_in)
        across = self.across / self.count - torch.outer(mean_in, mean_out)
        penalty = ridge * within.diagonal().mean().clamp(min=torch.finfo(torch.float32).tiny)
        Q = torch.linalg.solve(within + penalty * torch.eye(len(within), dtype=torch.float64), across)
        return Q.float(), (mean_out - mean_in @ Q).float()


@torch.inference_mode()
def inputs_of(model: nn.Module, member: Member, batch: Tensor) -> Tensor:
    """What a consumer reads of a group, as (images and positions, pairings), all of its calls one after the other."""
    seen: list[Tensor] = []

    def record(call: Call, layer: nn.Module, tensor: Tensor) -> None:
        seen.append(by_channel(layer, tensor)[:, member.index.flatten()])

    run_tapped(model, batch, inputs={member.layer: record})
    channels = torch.cat(seen)
    return channels.reshape(len(channels), *member.index.shape).movedim(2, 1).reshape(-1, len(member.index))


@torch.inference_mode()
def running_order(model: nn.Module, layers: Sequence[str], batch: Tensor) -> list[str]:
    """The layers in the order in which they first run."""
    order: dict[str, None] = {}

    def record(call: Call, layer: nn.Module, tensor: Tensor) -> None:
        order[call.layer] = None

    run_tapped(model, batch, inputs=dict.fromkeys(layers, record))
    return list(order)


def put_back(model: nn.Module, source: nn.Module, name: str) -> None:
    """Give a layer, which may have several names, the weights and widths of that of another network."""
    layer, original = get_layer(model, name), get_layer(source, name)
    for attribute, tensor in (*original.named_parameters(recurse=False), *original.named_buffers(recurse=False)):
        resize(layer, attribute, tensor.detach().clone())
    if original.bias is None:
        layer.bias = None
