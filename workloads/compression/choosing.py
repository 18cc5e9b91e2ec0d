"""Which groups of a network a compression narrows: by kind, by number, and by the names of their layers."""

from collections.abc import Sequence

from workloads.config import CompressionConfig
from workloads.scope import GroupNames, matches, meant, ranges
from workloads.structure.groups import Structure


def group_names(structure: Structure) -> list[GroupNames]:
    """What patterns can name the groups by, in their order."""
    return [GroupNames(group.kind, group.layers) for group in structure.groups]


def left_alone(structure: Structure, patterns: Sequence[str]) -> set[int]:
    """The numbers of the groups that patterns mean."""
    names = group_names(structure)
    return {number for pattern in patterns for number in meant(pattern, names)}


def check_patterns(structure: Structure, patterns: Sequence[str]) -> None:
    """Make sure that every pattern means a group or matches a layer.

    Raises:
        ValueError: one does not.
    """
    names = group_names(structure)
    for pattern in patterns:
        if not meant(pattern, names) and not any(matches(pattern, layer) for layer in structure.sizes):
            raise ValueError(f"ignore has '{pattern}', which is neither a layer of the network nor a kind of group")


def chosen_groups(structure: Structure, config: CompressionConfig) -> list[int]:
    """The numbers of the groups that a compression narrows.

    Raises:
        ValueError: there are none, or a number is of none.
    """
    groups = structure.groups
    numbers = [group.number for group in groups if group.kind in config.kinds]
    if config.group is not None or config.groups is not None:
        numbers = [config.group] if config.group is not None else sorted({*(config.groups or ())})
        if numbers[-1] >= len(groups):
            raise ValueError(f"the network has groups 0 to {len(groups) - 1}, and no group {numbers[-1]}")
    elif not numbers:
        found = ", ".join(sorted({group.kind for group in groups}))
        raise ValueError(
            f"the network has no group of kind {' or '.join(config.kinds)}, but of kind {found}: set kinds"
        )
    ignored = left_alone(structure, config.ignore)
    if ignored.issuperset(numbers):
        raise ValueError(f"nothing is left to prune: ignore means all of groups {ranges(numbers)}")
    return [number for number in numbers if number not in ignored]
