"""How a sparsity is spread over the groups of a network, as validated settings; imports no torch."""

from collections.abc import Mapping
from typing import Annotated, Any, ClassVar, Literal

from pydantic import BeforeValidator, Discriminator, Field, Tag

from workloads.calibration import CalibrationConfig
from workloads.validated import Config, Positive, by_name, labelled

Share = Annotated[float, Field(gt=0, le=1)]


class EliminationConfig(CalibrationConfig):
    """Widths by what losing neurons costs once the layers that read them are solved again, in all groups together."""

    measures: ClassVar[bool] = False
    """Whether the search compresses networks as its cells do, so that it depends on their settings."""

    name: Literal["elimination"] = "elimination"
    """Which allocation it is."""
    least: Share = 0.1
    """Share of its neurons that each group keeps at least."""

    @property
    def label(self) -> str:
        """The name and every setting that is not the default, as in results."""
        return labelled(self, "name")


class MeasuredConfig(Config):
    """A search that measures what copies of the network lose, compressed as its cells are."""

    measures: ClassVar[bool] = True

    name: str
    """Which allocation it is."""
    images: Positive = 512
    """How many unlabelled training images losses are measured on, at most."""
    least: Share = 0.1
    """Share of its neurons that each group keeps at least."""

    @property
    def label(self) -> str:
        """The name and every setting that is not the default, as in results."""
        return labelled(self, "name")

    @property
    def looked_at(self) -> int:
        """How many images there are, at most."""
        return self.images


class SensitivityConfig(MeasuredConfig):
    """The best widths at the budget, by what each group alone is measured to lose at a few widths."""

    name: Literal["sensitivity"] = "sensitivity"
    """Which allocation it is."""
    points: Positive = 6
    """At how many widths each group is measured, evenly from its own down to the least."""


class GreedyConfig(MeasuredConfig):
    """Widths step by step: each step narrows the one group that loses least, as measured."""

    name: Literal["greedy"] = "greedy"
    """Which allocation it is."""
    step: Share = 0.05
    """Share of the budget that each step removes."""

    def before(self, sparsity: float, done: float = 0.0) -> float | None:
        """The sparsity that the step before the last one ends at, on the way to a target; None where one step will do.

        Args:
            sparsity: the target.
            done: what was removed before the search began.
        """
        last = round((-(-sparsity // self.step) - 1) * self.step, 12)
        if last >= sparsity - 1e-9:  # as quotients are rounded
            last = round(last - self.step, 12)
        return last if last > done + 1e-9 else None


SIMPLE_ALLOCATIONS = ("uniform", "global", "isomorphic")
SEARCHED = ("elimination", "sensitivity", "greedy")


def _allocation_tag(value: Any) -> str:
    name = value if isinstance(value, str) else value["name"] if isinstance(value, Mapping) else value.name
    return f"tag-{name}" if name in SEARCHED else "tag-name"


Searched = EliminationConfig | SensitivityConfig | GreedyConfig
Allocation = Annotated[
    Annotated[Literal["uniform", "global", "isomorphic"], Tag("tag-name")]
    | Annotated[EliminationConfig, Tag("tag-elimination")]
    | Annotated[SensitivityConfig, Tag("tag-sensitivity")]
    | Annotated[GreedyConfig, Tag("tag-greedy")],
    Discriminator(_allocation_tag),
    BeforeValidator(lambda value: by_name(value, SIMPLE_ALLOCATIONS, SEARCHED)),
]


def allocation_label(allocation: Allocation) -> str:
    """An allocation as it stands in results, with the options that are no defaults."""
    return allocation if isinstance(allocation, str) else allocation.label
