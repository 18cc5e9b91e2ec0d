"""The points of a grid for one network, and what those share that differ in sparsity alone."""

import itertools
from collections.abc import Iterator, Mapping
from dataclasses import dataclass, replace
from functools import cached_property
from typing import Any

from orchestrator.planning.facts import ModelFacts
from orchestrator.settings.experiment import PruningConfig
from workloads.allocations import allocation_label
from workloads.config import DEFAULT_KINDS, ChoiceConfig, Repair, ScopeConfig, repair_label
from workloads.scope import groups_label, ratios_of


@dataclass(frozen=True, eq=False)
class Variant:
    """What the points of a grid share that differ in sparsity alone."""

    group: int | None
    groups: tuple[int, ...] | None
    """Those that are pruned together, where they are neither one nor all."""
    ratios: Mapping[int, float]
    """The share of each group, where it has one of its own."""
    criterion: ChoiceConfig
    method: ChoiceConfig
    repair: Repair
    scope: ScopeConfig
    kinds: str
    """Of the group, or of those that the network has and the grid means."""

    @cached_property
    def labels(self) -> dict[str, Any]:
        """Its coordinates, as they stand in results."""
        return {
            "group": self.group,
            "groups": groups_label(self.groups, self.ratios) if self.groups else None,
            "criterion": self.criterion.label,
            "method": self.method.label,
            "repair": repair_label(self.repair),
            **self.scope.model_dump(exclude={"kinds", "ignore"}),
            "allocation": allocation_label(self.scope.allocation),
            "kinds": self.kinds,
        }

    @property
    def name(self) -> str:
        """The method, with its repair."""
        return (
            self.method.label if self.repair == "none" else f"{self.method.label}, {repair_label(self.repair)} repair"
        )

    @cached_property
    def is_plain(self) -> bool:
        """Whether the sparsity asked for is that of every group's neurons."""
        return self.scope == ScopeConfig(order=self.scope.order, kinds=self.scope.kinds) and not self.ratios


@dataclass(frozen=True)
class Cell:
    """One point of a grid."""

    variant: Variant
    sparsity: float
    """Share to remove; of groups with shares of their own, that of all their neurons."""

    def shares(self, sparsity: float) -> float | dict[str, float]:
        """What is removed on the way to the target, for a key: as the cell has it when `sparsity` is its own."""
        if not self.variant.ratios:
            return sparsity
        part = sparsity / self.sparsity if self.sparsity else 0.0
        return {str(number): round(ratio * part, 12) for number, ratio in self.variant.ratios.items()}

    def planned_sparsity(self, sparsity: float) -> float | None:
        """The neuron sparsity that a plan can state; None where it is known only once the network is pruned."""
        return sparsity if self.variant.is_plain else None


def cells_of(grid: PruningConfig, network: ModelFacts) -> Iterator[Cell]:
    """Every point of a grid, those that share a variant one after the other."""
    for group, groups, scope in _scopes(grid, network):
        numbers = [group] if group is not None else groups
        kinds = network.those_of(scope.kinds) if numbers is None else dict.fromkeys(map(network.kind, numbers))
        for criterion, method, repair in itertools.product(grid.criteria, grid.methods, grid.repair):
            variant = Variant(group, groups, {}, criterion, method, repair, scope, ", ".join(kinds))
            for sparsity in grid.sparsities:
                if isinstance(sparsity, Mapping):
                    yield _with_ratios(variant, sparsity, grid, network)
                else:
                    yield Cell(variant, sparsity)


def _with_ratios(variant: Variant, given: Mapping[int | str, float], grid: PruningConfig, network: ModelFacts) -> Cell:
    """The cell in which groups lose shares of their own; one group's share is its sparsity."""
    ignored = network.left_alone(grid.ignore)
    ratios = {number: share for number, share in ratios_of(given, network.names).items() if number not in ignored}
    kinds = ", ".join(dict.fromkeys(map(network.kind, ratios)))
    variant = replace(variant, kinds=kinds, scope=variant.scope.model_copy(update={"kinds": DEFAULT_KINDS}))
    if len(ratios) == 1:
        ((number, share),) = ratios.items()
        return Cell(replace(variant, group=number, groups=None), share)
    gone = sum(network.widths[number] * share for number, share in ratios.items())
    mean = round(gone / sum(network.widths[number] for number in ratios), 4)
    return Cell(replace(variant, group=None, groups=tuple(ratios), ratios=ratios), mean)


def _scopes(
    grid: PruningConfig, network: ModelFacts
) -> Iterator[tuple[int | None, tuple[int, ...] | None, ScopeConfig]]:
    """What a grid prunes at a time: a group, or several, or all, which is neither; and what of its scope matters."""
    settings = {name: getattr(grid, name) for name in ScopeConfig.model_fields}
    del settings["ignore"]
    among = network.numbers(grid.kinds)
    ignored = network.left_alone(grid.ignore)
    left = tuple(number for number in among if number not in ignored)
    if grid.groups == "all" and left == tuple(among):
        if network.those_of(grid.kinds) == network.those_of(DEFAULT_KINDS):
            del settings["kinds"]
        yield None, None, ScopeConfig(**settings)
        return
    del settings["kinds"]  # what a group is made of does not depend on which others, that may not exist, are meant
    scope = ScopeConfig(**settings)
    if isinstance(grid.groups, tuple):
        for each in grid.groups:
            yield (None, each, scope) if isinstance(each, tuple) else (each, None, scope)
    elif grid.groups == "each" or len(left) == 1:
        for number in left:
            yield number, None, scope
    else:
        yield None, left, scope
