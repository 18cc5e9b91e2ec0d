"""Aligning attention: heads by what they compute, then the dimensions inside each by the best invertible map.

A head scores a pair of tokens by xᵀQᵀK y and moves OV y. Whatever invertible map multiplies Q from the left, if its
inverse transposed multiplies K, neither changes; likewise for V and O. So heads are compared by the products QᵀK and
OV, in which the basis inside a head does not show, and the basis is settled afterwards, head by head. Biases are one
more column of the weights.
"""

from collections.abc import Sequence
from typing import NamedTuple

import torch
from torch import Tensor, nn

from workloads.structure.groups import Group, Member, Structure
from workloads.structure.layers import get_layer

SMALLEST = 1e-6
"""Singular value of a product, as a share of the largest, up to which its maps are taken to be orthogonal alone."""
SETTLED = 1e-4
"""By how much a map may differ from the identity and count as none."""


class Role(NamedTuple):
    """What the heads have of one of their four weights.

    Attributes:
        layer: the name of the layer.
        channels: (heads, dimensions) of it.
        dim: the dimension of its weight along which they lie.
    """

    layer: str
    channels: Tensor
    dim: int


class Roles(NamedTuple):
    """The queries, keys, values and outputs of one attention; dimension i of a head is the same in q and k, v and o."""

    q: Role
    k: Role
    v: Role
    o: Role


def roles(group: Group) -> Roles | None:
    """The weights of the heads of a group, if their dimensions are free; None if something else depends on these."""
    if len(group.inside) != 2:
        return None
    found = [[role for member in members for role in by_head(group, member)] for members in group.inside]
    return Roles(*found[0], *found[1]) if [len(each) for each in found] == [2, 2] else None


def by_head(group: Group, member: Member) -> list[Role]:
    """What a member (dimensions, slots) holds of each head, divided where it has several dimensions of the same."""
    whole = next(each for each in group.members if each.place == member.place)
    heads = torch.empty(int(whole.index.max()) + 1, dtype=torch.int64)
    heads[whole.index] = torch.arange(group.size)[:, None].expand_as(whole.index)
    of_slot = heads[member.index[0]]
    parts = [member.index[:, of_slot == head] for head in range(group.size)]
    count = parts[0].shape[1]
    return [Role(member.layer, torch.stack([part[:, n] for part in parts]), member.axis) for n in range(count)]


def weights(model: nn.Module, role: Role) -> Tensor:
    """(heads, dimensions, inputs) float64, for queries, keys and values with their biases; outputs are transposed."""
    layer = get_layer(model, role.layer)
    found = layer.weight.detach().movedim(role.dim, 0).flatten(1)
    bias = getattr(layer, "bias", None)
    if role.dim == 0 and bias is not None:
        found = torch.cat([found, bias.detach()[:, None]], 1)
    rows: Tensor = found[role.channels.to(found.device)]
    return rows.double().cpu()


def head_cost(anchor: nn.Module, other: nn.Module, pair: tuple[Group, Group]) -> Tensor:
    """(heads of other, heads of anchor) float64: minus the cosines between products QᵀK, and between products OV."""
    each = [roles(group) for group in pair]
    assert each[0] is not None
    assert each[1] is not None
    cost = torch.zeros(pair[1].size, pair[0].size, dtype=torch.float64)
    for left, right in (("q", "k"), ("v", "o")):
        a = [weights(anchor, getattr(each[0], name)) for name in (left, right)]
        b = [weights(other, getattr(each[1], name)) for name in (left, right)]
        size = inner(b, b).diagonal().sqrt()[:, None] * inner(a, a).diagonal().sqrt()[None]
        cost -= inner(b, a) / size.clamp(min=torch.finfo(size.dtype).tiny)
    return cost


def inner(one: Sequence[Tensor], other: Sequence[Tensor]) -> Tensor:
    """(heads, heads) inner products of the products LᵀR of each pair of heads, without making these."""
    left, right = (torch.einsum("hid,gjd->hgij", a, b) for a, b in zip(one, other, strict=True))
    return (left * right).sum((2, 3))


@torch.no_grad()
def align_inside(anchor: nn.Module, other: nn.Module, pair: tuple[Group, Group]) -> bool:
    """Bring the dimensions inside the heads of `other`, in place, to the basis of those of the anchor.

    Returns:
        Whether any of them moved.
    """
    each = [roles(group) for group in pair]
    assert each[0] is not None
    assert each[1] is not None
    moved = False
    for left, right in (("q", "k"), ("v", "o")):
        sides = getattr(each[1], left), getattr(each[1], right)
        a = [weights(anchor, getattr(each[0], name)) for name in (left, right)]
        b = [weights(other, side) for side in sides]
        for head in range(pair[0].size):
            maps = best_maps(a[0][head], a[1][head], b[0][head], b[1][head])
            moved = moved or not torch.allclose(maps[0], torch.eye(len(maps[0]), dtype=torch.float64), atol=SETTLED)
            for side, matrix in zip(sides, maps, strict=True):
                change_basis(get_layer(other, side.layer), side, head, matrix)
    return moved


def best_maps(left_a: Tensor, right_a: Tensor, left_b: Tensor, right_b: Tensor) -> tuple[Tensor, Tensor]:
    """T and its inverse transposed, which bring L_b to T·L_b, near L_a, and R_b to T⁻ᵀ·R_b, near R_a.

    Both products are first written with factors of equal size, which are unique up to a rotation; the rotation is the
    best one (orthogonal Procrustes), and the way back from equal factors is the anchor's.
    """
    known_a, known_b = balanced(left_a, right_a), balanced(left_b, right_b)
    if known_a is None or known_b is None:
        rotation = nearest_rotation(left_a @ left_b.T + right_a @ right_b.T)
        return rotation, rotation
    rotation = nearest_rotation(
        known_a @ left_a @ (known_b @ left_b).T + inverse(known_a) @ right_a @ (inverse(known_b) @ right_b).T
    )
    T = torch.linalg.solve(known_a, rotation @ known_b)
    return T, inverse(T)


def inverse(matrix: Tensor) -> Tensor:
    """The inverse, transposed."""
    inverted: Tensor = torch.linalg.inv(matrix)
    return inverted.T


def balanced(left: Tensor, right: Tensor) -> Tensor | None:
    """B (d, d) so that B·L and B⁻ᵀ·R have equal, diagonal inner products; None where the product LᵀR lacks rank d.

    With LᵀR = U·S·Vᵀ they are √S·Uᵀ and √S·Vᵀ.
    """
    (_, outer), (_, other) = (torch.linalg.qr(side.T) for side in (left, right))
    if len(outer) < len(left) or len(other) < len(left):
        return None
    U, S, _ = torch.linalg.svd(outer @ other.T)
    if not bool(S[-1] > SMALLEST * S[0]):
        return None
    # Lᵀ is Q·outer with an orthogonal Q, and B·L has to be √S·Uᵀ·Qᵀ.
    solved: Tensor = torch.linalg.solve(outer, U * S.sqrt())
    return solved.T


def nearest_rotation(product: Tensor) -> Tensor:
    """The orthogonal matrix with the largest inner product with a square one."""
    U, _, Vh = torch.linalg.svd(product)
    rotation: Tensor = U @ Vh
    return rotation


def change_basis(layer: nn.Module, role: Role, head: int, matrix: Tensor) -> None:
    """Multiply the channels of one head of a layer by a square matrix, in place."""
    index = role.channels[head]
    for name in ("weight", "bias") if role.dim == 0 else ("weight",):
        tensor = getattr(layer, name, None)
        if tensor is not None:
            along = tensor.detach().movedim(role.dim, 0)
            places = index.to(along.device)
            rows = along[places]
            along[places] = (
                (matrix.to(rows) @ rows.flatten(1)).reshape(rows.shape) if rows.ndim > 1 else matrix.to(rows) @ rows
            )


def settled(structure: Structure) -> set[int]:
    """Numbers of the groups of dimensions that are aligned with the heads that they are inside of."""
    places = [
        {member.place for member in group.members}
        for group in structure.groups
        if group.kind == "heads" and roles(group) is not None
    ]
    return {
        group.number
        for group in structure.groups
        if group.kind in ("query-key", "value-output")
        and any({member.place for member in group.members} <= held for held in places)
    }
