"""What of a network is pruned, how much of it, and how that is spread, as validated settings; imports no torch."""

from collections.abc import Collection, Mapping, Sequence
from fnmatch import fnmatchcase
from typing import Annotated, Any, Literal, NamedTuple, get_args

from pydantic import AfterValidator, BeforeValidator, Discriminator, Field, Tag

from workloads.allocations import Allocation
from workloads.validated import Config, Positive

Kind = Literal["channels", "hidden", "residual", "heads", "query-key", "value-output"]
KINDS: tuple[Kind, ...] = get_args(Kind)
DEFAULT_KINDS: tuple[Kind, ...] = ("channels", "hidden", "heads")

Sparsity = Annotated[float, Field(ge=0, lt=1)]


class GroupNames(NamedTuple):
    """What patterns can name a group by: its kind, and the layers that make it."""

    kind: str
    layers: Collection[str]


def matches(pattern: str, layer: str) -> bool:
    """Whether a glob means a layer, or a module that the layer is in: `layer4` and `layer4.*` mean `layer4.0.conv1`."""
    parts = layer.split(".")
    return any(fnmatchcase(".".join(parts[:depth]), pattern) for depth in range(1, len(parts) + 1))


def meant(pattern: str, groups: Sequence[GroupNames]) -> list[int]:
    """The numbers of the groups that a pattern means: those of a kind by its name, else those that a layer which
    matches makes."""
    if pattern in KINDS and any(group.kind == pattern for group in groups):
        return [number for number, group in enumerate(groups) if group.kind == pattern]
    return [number for number, group in enumerate(groups) if any(matches(pattern, layer) for layer in group.layers)]


def _number_if_digits(key: Any) -> Any:
    return int(key) if isinstance(key, str) and key.isdecimal() else key


def _by_number(ratios: dict[int | str, float]) -> dict[int | str, float]:
    """Group numbers as numbers, which JSON has no keys of."""
    if not ratios:
        raise ValueError("should name groups by number or by the names of their layers: {0: 0.3, layer1.*: 0.7}")
    named = {_number_if_digits(key): value for key, value in ratios.items()}
    if any(isinstance(key, int) and key < 0 for key in named):
        raise ValueError(f"should have group numbers from 0 on, not {min(k for k in named if isinstance(k, int))}")
    return named


Ratio = Annotated[
    Annotated[Sparsity, Tag("tag-number")]
    | Annotated[dict[int | str, Sparsity], AfterValidator(_by_number), Tag("tag-groups")],
    Discriminator(lambda value: "tag-groups" if isinstance(value, Mapping) else "tag-number"),
]
"""A share to remove, or one for each group by its number or by the names of its layers; the others stay whole."""


def ratios_of(given: Mapping[int | str, float], groups: Sequence[GroupNames]) -> dict[int, float]:
    """The share to remove of each group that is named, in the order of the groups.

    Raises:
        ValueError: a number or a name is of no group, or a group is named twice.
    """
    found: dict[int, float] = {}
    for name, ratio in given.items():
        numbers = meant(name, groups) if isinstance(name, str) else [name]
        if isinstance(name, int) and name >= len(groups):
            raise ValueError(f"names group {name}, but there are groups 0 to {len(groups) - 1}")
        if not numbers:
            raise ValueError(f"names '{name}', which is no layer that makes a group: see `metaprune groups`")
        for number in numbers:
            if number in found:
                raise ValueError(f"gives group {number} two sparsities, {found[number]:g} and {ratio:g} ('{name}')")
            found[number] = ratio
    return dict(sorted(found.items()))


def ranges(numbers: Collection[int]) -> str:
    """`0-2, 5`: numbers in ascending order, consecutive ones as a range."""
    runs: list[list[int]] = []
    for number in sorted(numbers):
        if runs and number == runs[-1][-1] + 1:
            runs[-1].append(number)
        else:
            runs.append([number])
    return ", ".join(str(run[0]) if len(run) == 1 else f"{run[0]}-{run[-1]}" for run in runs)


def groups_label(numbers: Collection[int], ratios: Mapping[int, float] | None = None) -> str:
    """How groups that are pruned together stand in results: `0-2, 5`, or `0: 0.3, 3: 0.7` where each has a share."""
    return ", ".join(f"{number}: {ratio:g}" for number, ratio in ratios.items()) if ratios else ranges(numbers)


def labelled_groups(label: str) -> list[int]:
    """The numbers in such a label."""
    found: list[int] = []
    for part in label.split(", "):
        first, _, last = part.partition(":")[0].partition("-")
        found += range(int(first), int(last or first) + 1)
    return found


def _kinds(value: Any) -> Any:
    return KINDS if value == "all" else [value] if isinstance(value, str) else value


def _patterns(value: Any) -> Any:
    return [value] if isinstance(value, str) else value


class ScopeConfig(Config):
    """What a sparsity refers to, and how it is spread over the network."""

    kinds: Annotated[tuple[Kind, ...], Field(min_length=1), BeforeValidator(_kinds)] = DEFAULT_KINDS
    """Kinds of groups that `each` and `all` mean: `channels`, `hidden` units between linear layers, `residual`
    channels, over which a norm is taken, `heads` of attention, dimensions inside all heads of queries and keys
    (`query-key`) or of values (`value-output`); or `all` of them."""
    ignore: Annotated[tuple[Annotated[str, Field(min_length=1)], ...], BeforeValidator(_patterns)] = ()
    """Groups that stay whole: globs of the names of layers that make them, or of modules around these (`layer4`,
    `*.conv2`), or kinds of groups."""
    sparsity_of: Literal["neurons", "weights", "macs", "latency"] = "neurons"
    """Sparsity is a share of neurons, or of the whole network: of its `weights`, of the multiplications (`macs`) of an
    image, or of the time of a forward pass of one image (`latency`), measured where the task runs. Then neurons go
    until it is reached."""
    allocation: Allocation = "uniform"
    """How a sparsity is spread over several groups: `uniform` removes the same share of each, `global` sets one
    threshold on the scores of all, `isomorphic` one for each class of groups of equal structure. The others search
    widths, and are mappings where they have options: `elimination` by what removal is estimated to cost the network's
    answer, per weight, multiplication or millisecond saved; `sensitivity` the best ones by what each group alone is
    measured to lose; `greedy` step by step, each from the group that is measured to lose least."""
    order: Literal["output-first", "input-first"] = "output-first"
    """Which groups come first when all are pruned, each in the network that the ones before have left."""
    round_to: Positive = 1
    """Groups keep a multiple of this many neurons, rounded up; hardware likes 8 or 32."""
