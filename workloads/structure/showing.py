"""A structure in words: what its groups are, how much of the network they hold, and what stays and why."""

from collections.abc import Sequence
from math import prod

from workloads.structure.groups import CONSUMER, PRODUCER, THROUGH, Group, Structure

MOST_LAYERS = 3


def shown(structure: Structure) -> str:
    """A line for each group and for each layer that stays."""
    rows = [("group", "kind", "size", "weights", "MACs", "made by", "read by")]
    for group in structure.groups:
        weights, macs = shares(structure, group)
        readers = [member.layer for member in group.on(CONSUMER)]
        rows.append(
            (
                str(group.number),
                group.kind,
                str(group.size),
                f"{weights:.1%}",
                f"{macs:.1%}",
                listed(group.layers),
                listed(readers),
            )
        )
    widths = [max(len(row[column]) for row in rows) for column in range(len(rows[0]))]
    lines = [
        "  ".join(
            cell.rjust(width) if 1 < column < 5 or column == 0 else cell.ljust(width)
            for column, (cell, width) in enumerate(zip(row, widths, strict=True))
        ).rstrip()
        for row in rows
    ]
    if structure.kept:
        lines += ["", f"{len(structure.kept)} stay as they are:"]
        lines += [f"  {layer or 'the network'}: {reason}" for layer, reason in structure.kept]
    return "\n".join(lines)


def listed(layers: Sequence[str]) -> str:
    """The first names and how many more there are."""
    names = list(dict.fromkeys(layers))
    more = f" and {len(names) - MOST_LAYERS} more" if len(names) > MOST_LAYERS else ""
    return ", ".join(names[:MOST_LAYERS]) + more


def shares(structure: Structure, group: Group) -> tuple[float, float]:
    """What a group holds of the weights of all layers, and of their multiplications: what would go without it.

    A weight that two groups hold, one at its input and one at its output, counts for both.
    """
    held: dict[str, dict[int, int]] = {}
    for member in group.on(PRODUCER, THROUGH, CONSUMER):
        held.setdefault(member.layer, {})[member.axis] = member.index.numel()
    weights = {layer: prod(size.shape) for layer, size in structure.sizes.items()}
    parts = {
        layer: weights[layer] - prod(n - lost.get(dim, 0) for dim, n in enumerate(structure.sizes[layer].shape))
        for layer, lost in held.items()
    }
    positions = {layer: size.positions for layer, size in structure.sizes.items()}
    all_weights = sum(weights.values()) or 1
    all_macs = sum(count * positions[layer] for layer, count in weights.items()) or 1
    macs = sum(count * positions[layer] for layer, count in parts.items())
    return sum(parts.values()) / all_weights, macs / all_macs
