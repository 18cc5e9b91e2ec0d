"""Queries and keys, turned so that their dimensions come in the order in which the attention logits need them.

Inside a head, queries Q and keys K (tokens, d) meet in QKᵀ and nowhere else. Whatever invertible matrix A multiplies Q
from the right, no logit changes if its inverse transposed, B, multiplies K. For every m, one such pair makes the first
m dimensions the best that m dimensions can do: over all pairs of a query and a key of the calibration images,

    ‖QKᵀ − QA'(KB')ᵀ‖² = ‖(QᵀQ)^½ (I − A'B'ᵀ) (KᵀK)^½‖²

is least where A' and B', the first m columns, hold the leading singular vectors of (QᵀQ)^½ (KᵀK)^½ (Eckart and Young
1936). Several heads of queries that meet the same keys share A: what they sum up to counts. A softmax takes no note of
what all keys have in common, so keys are taken about their mean where that is so.

Of a group of queries and keys, least squares therefore keep the leading m dimensions of the turned network, whichever
ones criterion and method would choose. (CORP, arXiv 2602.05243, fits a map of the chosen ones to the same logits.)

Many attentions record one width for queries, keys and values, which then are one group. There values V and the weight O
of what reads them meet in ZO, where Z are values as attention mixes them, and are turned likewise.
"""

from collections import defaultdict
from collections.abc import Callable, Collection, Iterator, Sequence
from typing import NamedTuple

import torch
from torch import Tensor, nn

from workloads.compression.calls import Call, Tap, by_channel, run_tapped
from workloads.compression.compensation.sums import on
from workloads.compression.covariances import digest
from workloads.compression.remembered import Remembered
from workloads.structure.copying import changing, copied
from workloads.structure.groups import ADDED, CONSUMER, PRODUCER, Group, Member
from workloads.structure.layers import get_layer, resize
from workloads.structure.network import Network
from workloads.structure.trial import Trial, running_eagerly

FLOOR = 1e-6
"""What is added to moments, as a share of their mean diagonal, so that dimensions without a use have an inverse."""
Change = Callable[[nn.Module, Group], None]


class Turned(NamedTuple):
    """A network with the outputs of another one, and the numbers of the groups whose dimensions are in order."""

    network: Network
    numbers: frozenset[int]


_last: Remembered[Turned] = Remembered()


def turned(
    network: Network, numbers: Sequence[int], images: Sequence[Tensor], example: Tensor, apart: Collection[str] = ()
) -> Turned:
    """The network with its queries and keys turned.

    Args:
        network: batch-norm merged; not changed.
        numbers: of the groups that are narrowed.
        images: batches (B, C, H, W) for which the logits are to be right; none turn nothing.
        example: (1, C, H, W), to try out whether turning changes the outputs; where it does, nothing is turned.
        apart: layers whose channels must stay apart.
    """
    layers_apart = {*apart, *network.structure.silent}
    groups = [network.structure.groups[number] for number in numbers]
    groups = [group for group in groups if group.factors and layers_apart.isdisjoint(group.layers)]
    if not groups or not images:
        return Turned(network, frozenset())
    key = digest(images), tuple(group.number for group in groups)
    return _last.get(network.model, key, lambda: made_turned(network, groups, images, example))


@torch.no_grad()
def made_turned(network: Network, groups: Sequence[Group], images: Sequence[Tensor], example: Tensor) -> Turned:
    """The same, made anew."""
    generator = torch.Generator().manual_seed(0)
    with running_eagerly():
        trial = Trial(network.model, example)
        free = unaffected(trial, groups, lambda model, group: turn(model, group, any_bases(group, generator)))
        about_mean = {
            group.number for group in unaffected(trial, free, lambda model, group: shift_keys(model, group, generator))
        }
    if not free:
        return Turned(network, frozenset())
    model = copied(network.model)
    for factors in measured(network, free, images):
        turn(model, factors.group, factors.bases(model, about_mean=factors.group.number in about_mean))
    return Turned(network._replace(model=model), frozenset(group.number for group in free))


def unaffected(trial: Trial, groups: Sequence[Group], change: Change) -> list[Group]:
    """The groups that can be changed so without a trace in the outputs, which are tried out."""

    def leaves_no_trace(some: Sequence[Group]) -> bool:
        with changing(trial.model) as model:
            for group in some:
                change(model, group)
            return trial.difference(model, trial.expected, "its queries and keys changed") is None

    return list(groups) if leaves_no_trace(groups) else [group for group in groups if leaves_no_trace([group])]


def any_bases(group: Group, generator: torch.Generator) -> dict[int, Tensor]:
    """For each factor, the transposed of a random A or its B."""
    rotation = torch.linalg.qr(torch.randn(group.size, group.size, generator=generator, dtype=torch.float64)).Q
    scale = torch.linspace(0.5, 2, group.size, dtype=torch.float64)[:, None]
    count = 1 + max(int(factor.max()) for factor in group.factors)
    return {factor: rotation * scale if factor % 2 == 0 else rotation / scale for factor in range(count)}


def turn(model: nn.Module, group: Group, matrices: dict[int, Tensor]) -> None:
    """Multiply the dimensions of each factor by its matrix (d, d), in place."""
    for member, factors in zip(group.members, group.factors, strict=True):
        layer = get_layer(model, member.layer)
        for name, dim in member.tensors(model):
            tensor = getattr(layer, name)
            along = tensor.detach().clone().movedim(dim, 0)
            for index, factor in zip(member.index.T, factors.tolist(), strict=True):
                places = index.to(along.device)
                rows = along[places]
                matrix = matrices[factor].to(rows.device)
                along[places] = (matrix @ rows.reshape(len(rows), -1).to(matrix)).reshape(rows.shape).to(rows)
            resize(layer, name, along.movedim(0, dim).contiguous())


def shift_keys(model: nn.Module, group: Group, generator: torch.Generator) -> None:
    """Add a constant to what makes keys, in place."""
    for member, factors in zip(group.members, group.factors, strict=True):
        layer, keys = get_layer(model, member.layer), member.index[:, factors % 2 == 1].flatten()
        if member.side == PRODUCER and len(keys):
            bias = layer.weight.new_zeros(layer.weight.shape[member.axis]) if layer.bias is None else layer.bias
            constant = torch.randn(len(keys), generator=generator).to(bias)
            resize(layer, "bias", bias.detach().index_add(0, keys.to(bias.device), constant))


class Sums:
    """Of the rows of a factor: how many there are, their sum (d,) and that of their products (d, d); float64."""

    def __init__(self, size: int):
        self.count = 0
        self.total = torch.zeros(size, dtype=torch.float64)
        self.products = torch.zeros(size, size, dtype=torch.float64)

    def add(self, rows: Tensor) -> None:
        """Add (rows, d)."""
        self.count += len(rows)
        self.total += rows.sum(0).cpu()
        self.products += (rows.T @ rows).cpu()

    def moment(self, offset: Tensor | None) -> Tensor:
        """(d, d) mean products once a constant (d,) is added; None for the one that takes the mean away."""
        mean = self.total / self.count
        offset = -mean if offset is None else offset
        cross = torch.outer(mean, offset)
        return self.products / self.count + cross + cross.T + torch.outer(offset, offset)


class Factors:
    """The queries and keys of a group, and values where these go with them, as calibration images make them."""

    def __init__(self, group: Group):
        self.group = group
        self.sums: dict[int, Sums] = defaultdict(lambda: Sums(group.size))

    def members(self, *sides: str) -> Iterator[tuple[Member, list[int]]]:
        """The members on some sides, with the factors of their columns."""
        for member, factors in zip(self.group.members, self.group.factors, strict=True):
            if member.side in sides:
                yield member, factors.tolist()

    @property
    def readers(self) -> set[int]:
        """The factors that are weights of what reads values."""
        return {factor for _, factors in self.members(CONSUMER) for factor in factors}

    def add(self, layer: str, side: str, values: Tensor) -> None:
        """Add what a layer makes, or reads if it is on the side of consumers, (rows, channels)."""
        for member, factors in self.members(side):
            if member.layer == layer:
                for index, factor in zip(member.index.T, factors, strict=True):
                    some = values[:, index.to(values.device)].to(on(values.device), torch.float64)
                    if side == CONSUMER:
                        self.sums[factor ^ 1].add(some)
                    elif factor ^ 1 not in self.readers:
                        self.sums[factor].add(some)

    def bases(self, model: nn.Module, *, about_mean: bool) -> dict[int, Tensor]:
        """For each factor the transposed of its A or B; keys are taken about their mean, or about zero."""
        added, weights = self.added(model), self.weights(model)
        found: dict[int, Tensor] = {}
        for factor in [factor for factor in self.sums if factor % 2 == 0]:
            if factor + 1 in weights:  # the bias of what reads values makes up for their mean
                moments = self.sums[factor].moment(None), weights[factor + 1]
            else:
                offset = None if about_mean else added[factor + 1]
                moments = self.sums[factor].moment(added[factor]), self.sums[factor + 1].moment(offset)
            A, B = bases(*moments)
            found |= {factor: A.T, factor + 1: B.T}
        return found

    def added(self, model: nn.Module) -> dict[int, Tensor]:
        """By factor, (d,) constants that are added to what layers make."""
        found: dict[int, Tensor] = defaultdict(lambda: torch.zeros(self.group.size, dtype=torch.float64))
        for member, factors in self.members(ADDED):
            vector = getattr(get_layer(model, member.layer), member.parameter).detach().double().cpu().flatten()
            for index, factor in zip(member.index.T, factors, strict=True):
                found[factor] = found[factor] + vector[index]
        return found

    def weights(self, model: nn.Module) -> dict[int, Tensor]:
        """By factor that is a weight, (d, d) products OᵀO."""
        found: dict[int, Tensor] = defaultdict(lambda: torch.zeros(self.group.size, self.group.size).double())
        for member, factors in self.members(CONSUMER):
            weight = get_layer(model, member.layer).weight.detach().double().cpu().movedim(member.axis, 0).flatten(1)
            for index, factor in zip(member.index.T, factors, strict=True):
                found[factor] = found[factor] + weight[index] @ weight[index].T
        return found


def measured(network: Network, groups: Sequence[Group], images: Sequence[Tensor]) -> list[Factors]:
    """The factors of groups, from a pass over the images."""
    found = [Factors(group) for group in groups]

    def look_for(side: str) -> dict[str, Tap]:
        def tap(call: Call, layer: nn.Module, tensor: Tensor) -> None:
            for factors in found:
                factors.add(call.layer, side, by_channel(layer, tensor))

        return {member.layer: tap for factors in found for member, _ in factors.members(side)}

    with torch.inference_mode():
        for batch in images:
            run_tapped(network.model, batch, inputs=look_for(CONSUMER), outputs=look_for(PRODUCER))
    return found


def bases(queries: Tensor, keys: Tensor) -> tuple[Tensor, Tensor]:
    """A and B (d, d) with ABᵀ = I whose first m columns bring the logits as near as m dimensions can, for every m.

    Both turned factors have the singular values of (QᵀQ)^½ (KᵀK)^½ as their mean products.

    Args:
        queries, keys: (d, d) mean products QᵀQ and KᵀK, or those of other factors.
    """
    queries, keys = (each + FLOOR * floor_of(each) for each in (queries, keys))
    values, axes = torch.linalg.eigh(keys)
    values = values.clamp(min=FLOOR * float(values.mean()) / 2)
    root, inverse = axes * values.sqrt() @ axes.T, axes / values.sqrt() @ axes.T
    squares, vectors = torch.linalg.eigh(root @ queries @ root)
    scale = squares.clamp(min=torch.finfo(squares.dtype).eps * float(squares[-1])) ** 0.25
    return (root @ vectors / scale).flip(1), (inverse @ vectors * scale).flip(1)


def floor_of(products: Tensor) -> Tensor:
    """The mean diagonal of products (d, d) on the diagonal; 1 where there is none."""
    mean = products.diagonal().mean()
    return torch.eye(len(products), dtype=products.dtype) * torch.where(mean > 0, mean, 1.0)
