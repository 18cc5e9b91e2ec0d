"""Which networks can be fused: those of one architecture, with every neuron in a group that can be aligned."""

from collections.abc import Sequence

from torch import nn

from workloads.config import FusionConfig
from workloads.fusion.heads import roles
from workloads.structure.groups import PRODUCER, THROUGH, Structure

MOST_NAMED = 3
ONLY_ONE = "there is only one"
"""The reason for which what has no order is in no group."""


def check_fusable(models: Sequence[nn.Module], structures: Sequence[Structure], config: FusionConfig) -> None:
    """Refuse networks that a fusion would average neuron by neuron without having aligned them.

    Args:
        models: at least two.
        structures: theirs.
        config: how they are to be fused.

    Raises:
        ValueError: there are fewer than two, they are not of one architecture, or some of their neurons are in no
            group. Names these.
    """
    if len(models) < 2:
        raise ValueError(f"a fusion is of two networks or more, not of {len(models)}")
    for number, (model, structure) in enumerate(zip(models[1:], structures[1:], strict=True), start=2):
        if reason := disagreement(models[0], model, structures[0], structure):
            raise ValueError(f"network {number} cannot be fused with network 1: {reason}")
    if config.method is None and config.alignment == "none":
        if len({tuple(group.size for group in structure.groups) for structure in structures}) > 1:
            raise ValueError(
                "networks of different widths cannot be averaged without an alignment: set fusion.alignment"
            )
        return
    if config.method is None:
        check_heads(structures)
    for structure in structures:
        if left := structure.kept if config.method else unaligned(structure):
            named = "; ".join(f"'{layer or 'the network'}': {reason}" for layer, reason in left[:MOST_NAMED])
            more = f" (and {len(left) - MOST_NAMED} more)" if len(left) > MOST_NAMED else ""
            raise ValueError(
                f"the networks cannot be fused, since some of their neurons cannot be aligned: {named}{more}; "
                f"alignment 'none' averages them as they stand"
            )


def check_heads(structures: Sequence[Structure]) -> None:
    """Refuse attentions of different numbers of heads, or of dimensions inside them, which are assigned one to one."""
    for groups in zip(*(structure.groups for structure in structures), strict=True):
        sizes = {(each.size, *(member.index.shape for part in each.inside for member in part)) for each in groups}
        if groups[0].kind in ("heads", "query-key") and len(sizes) > 1:
            raise ValueError(
                f"the networks cannot be fused: group {groups[0].number} ({groups[0].kind}, '{groups[0].layers[0]}') "
                f"has {' and '.join(map(str, sorted({each.size for each in groups})))} of them, and they go one to one"
            )


def unaligned(structure: Structure) -> Sequence[tuple[str, str]]:
    """(layer, reason) for what mixes neurons and no alignment of the groups reaches."""
    left = [(layer, reason) for layer, reason in structure.kept if not reason.endswith(ONLY_ONE)]
    kinds = {group.kind for group in structure.groups}
    for group in structure.groups:
        if group.kind == "heads" and roles(group) is None and not {"query-key", "value-output"} <= kinds:
            left.append((group.layers[0], "the dimensions inside its heads are in no group"))
        if group.loose:
            count = max(member.index.shape[1] for member in group.on(PRODUCER, THROUGH))
            left.append((group.layers[0], f"{count} of its channels are one pairing, in an order of their own"))
    return left


def disagreement(one: nn.Module, other: nn.Module, structure: Structure, others: Structure) -> str | None:
    """Why two networks are not of one architecture, apart from how many neurons their groups have; None if they are."""
    shapes, of_other = ({name: tensor.shape for name, tensor in model.state_dict().items()} for model in (one, other))
    names = {name for name in shapes.keys() ^ of_other.keys() if not is_bias(name)}
    if names:
        return f"only one of them has '{min(names)}'"
    for name in shapes.keys() & of_other.keys():
        if len(shapes[name]) != len(of_other[name]):
            return f"'{name}' has {len(shapes[name])} dimensions in one of them and {len(of_other[name])} in the other"
    if groups_of(structure) != groups_of(others):
        return f"their groups differ: {len(structure.groups)} and {len(others.groups)}, or other layers in one of them"
    held = {
        (f"{member.layer}.{name}".removeprefix("."), dim)
        for group in structure.groups
        for member in group.members
        for name, dim in member.tensors(one)
    }
    for name in sorted(shapes.keys() & of_other.keys()):
        for dim, (size, others_size) in enumerate(zip(shapes[name], of_other[name], strict=True)):
            if size != others_size and (name, dim) not in held:
                return f"'{name}' is {tuple(shapes[name])} in one of them and {tuple(of_other[name])} in the other"
    return None


def is_bias(name: str) -> bool:
    """Whether a name of the state dict is that of a bias, which merging batch-norm may add to one network alone."""
    return name.rpartition(".")[2] == "bias"


def groups_of(structure: Structure) -> list[tuple[str, list[tuple[str, str, str, int]]]]:
    """What the groups of networks of one architecture have in common."""
    return [
        (group.kind, [(member.layer, member.side, member.parameter, member.axis) for member in group.members])
        for group in structure.groups
    ]
