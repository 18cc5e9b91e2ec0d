"""Compressing a whole network: one group, or all in sequence, by one criterion and method."""

import copy
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any, TypeVar

from torch import Tensor, nn

from workloads.compression.calls import output_moments
from workloads.compression.criteria import Batch, importance
from workloads.compression.group_sizes import widths
from workloads.compression.methods import maps
from workloads.compression.pairings import Pairings
from workloads.compression.repair import (
    match_statistics,
    narrowed_statistics,
    repaired_layers,
    with_corrected_variance,
)
from workloads.config import ChoiceConfig, CompressionConfig, as_choice
from workloads.measuring.evaluation import parameter_count
from workloads.plugins import CRITERION, METHOD
from workloads.structure.batch_norm import Statistics
from workloads.structure.groups import apply
from workloads.structure.network import Network

T = TypeVar("T")


@dataclass(frozen=True)
class Sources:
    """What criteria and methods may look at.

    Attributes:
        example: (1, C, H, W), for its shape and device.
        batches: labelled training batches for criteria, or a function that returns them.
        images: unlabelled training batches for methods and repair, likewise.
        seed: of criteria that draw.
        method_seed: of methods that draw.
    """

    example: Tensor
    batches: Callable[[], Sequence[Batch]] | Sequence[Batch] = ()
    images: Callable[[], Sequence[Tensor]] | Sequence[Tensor] = ()
    seed: int = 0
    method_seed: int = 0


def made(values: Callable[[], Sequence[T]] | Sequence[T]) -> Sequence[T]:
    """The values, or those that the function returns."""
    return values() if callable(values) else values


def score(
    network: Network, number: int, criterion: ChoiceConfig | str | Mapping[str, Any], sources: Sources
) -> tuple[Pairings, Tensor]:
    """A group's weights and the importance of its pairings by a criterion, given as in an experiment."""
    group = network.structure.groups[number]
    criterion = ChoiceConfig.model_validate(as_choice(criterion))
    asks = CRITERION.plugin(criterion.name, criterion.options).asks
    scores = importance(
        criterion.name,
        network.model,
        group,
        batches=made(sources.batches) if "batches" in asks else [],
        images=made(sources.images) if "images" in asks else [],
        seed=sources.seed,
        example=sources.example,
        statistics=network.statistics,
        options=criterion.options,
    )
    return Pairings(network.model, group), scores


def compress(
    base: Network,
    config: CompressionConfig,
    sources: Sources,
    *,
    originals: Sequence[int] | None = None,
    parameters: int | None = None,
    scored: Callable[[int], tuple[Pairings, Tensor]] | None = None,
    sizes: Mapping[int, int] | None = None,
) -> Network:
    """A narrower copy of the network.

    Args:
        base: the network; not changed.
        config: what to remove, how to choose it, and what becomes of it.
        sources: images and seeds.
        originals: pairings of each group before any pruning, which sparsity refers to; None: as they are.
        parameters: of the network before any pruning, for sparsities of weights; None: before batch-norm was merged.
        scored: weights and scores of a group of `base`, in place of `score`, for instance from a cache.
        sizes: in place of a sparsity, how many pairings groups keep, in the order in which they are narrowed.

    Raises:
        ValueError: options that a function does not have, images that it lacks, a weight sparsity that cannot be
            reached, or scores and maps that are no such.
    """
    compression = _Compression(base, config, sources, scored)
    if sizes is not None:
        compression.narrow_all(list(sizes), list(sizes.values()), order=1)
        return compression.network
    return compression.run(
        originals or [group.size for group in base.structure.groups],
        parameters or base.parameters or parameter_count(base.model),
    )


class _Compression:
    """A network on its way to being narrower."""

    def __init__(
        self,
        base: Network,
        config: CompressionConfig,
        sources: Sources,
        scored: Callable[[int], tuple[Pairings, Tensor]] | None,
    ):
        self.base, self.config, self.sources = base, config, sources
        self.network = base
        self.scored = scored or (lambda number: score(base, number, config.criterion, sources))
        CRITERION.plugin(config.criterion.name, config.criterion.options)
        asks = METHOD.plugin(config.method.name, config.method.options).asks
        self.batches: Sequence[Batch] = made(sources.batches) if "batches" in asks else []
        self.images: Sequence[Tensor] = []
        if config.repair == "data" or "images" in asks:
            self.images = made(sources.images)
        if config.repair == "data" and not self.images:
            raise ValueError("repair 'data' needs unlabelled images: give them as `images`")
        self.original: Statistics = {}
        if config.repair == "data":
            layers = repaired_layers(base.structure.of_kinds(config.kinds))
            self.original = output_moments(base.model, layers, self.images)
        self.wanted = self.original

    def run(self, originals: Sequence[int], parameters: int) -> Network:
        """Bring every group to its size.

        Which layers gain a bias from the method or the repair is known afterwards only; if these weigh so much that a
        sparsity of weights is missed, all is done again with them in the count.
        """
        config, groups = self.config, self.base.structure.groups
        if len(originals) != len(groups):
            raise ValueError(f"the network has {len(groups)} groups that can be pruned, but once had {len(originals)}")
        numbers = [group.number for group in groups if group.kind in config.kinds]
        if config.group is not None:
            numbers = [config.group]
        if not numbers:
            found = ", ".join(sorted({group.kind for group in groups}))
            raise ValueError(
                f"the network has no group of kind {' or '.join(config.kinds)}, but of kind {found}: set kinds"
            )
        scores = [self.scored(number)[1] for number in numbers] if config.allocation == "global" else None
        gaining: set[str] = set()
        while True:
            sizes = widths(
                self.base.model,
                self.base.structure,
                numbers,
                [originals[number] for number in numbers],
                config.sparsity,
                of=config.sparsity_of,
                parameters=parameters,
                gaining=gaining,
                round_to=config.round_to,
                scores=scores,
            )
            self.narrow_all(numbers, sizes, order=-1 if config.order == "input-first" else 1)
            gained = set(without_bias(self.base.model)) - set(without_bias(self.network.model))
            reached = 1 - parameter_count(self.network.model) / parameters
            if config.sparsity_of == "neurons" or config.sparsity == 0 or reached >= config.sparsity:
                return self.network
            if gained <= gaining:
                raise ValueError(f"a weight sparsity of {config.sparsity:g} is missed: {reached:.4f} is reached")
            gaining |= gained

    def narrow_all(self, numbers: Sequence[int], sizes: Sequence[int], order: int) -> None:
        """Bring groups of the base to these sizes, one after the other (−1: from the last on), and repair it."""
        base, groups = self.base, self.base.structure.groups
        self.network = Network(copy.deepcopy(base.model), base.structure, base.statistics)
        self.wanted = self.original
        for number, m in list(zip(numbers, sizes, strict=True))[::order]:
            if m < groups[number].size:
                self.narrow(number, m)
        if self.wanted:
            match_statistics(self.network.model, self.wanted, self.images)

    def narrow(self, number: int, m: int) -> None:
        """Bring one group to m pairings."""
        config, (model, structure, statistics, places, _) = self.config, self.network
        group = structure.groups[number]
        if config.allocation == "global" or structure is self.base.structure:
            pairings, scores = self.scored(number)
        else:
            pairings, scores = score(self.network, number, config.criterion, self.sources)
        pair = maps(
            config.method.name,
            pairings,
            scores,
            m,
            seed=self.sources.method_seed,
            options=config.method.options,
            context={
                "model": model,
                "group": group,
                "statistics": statistics,
                "original": (self.base.model, self.base.structure.groups[number]),
                "images": self.images,
                "batches": self.batches,
                "example": self.sources.example,
            },
        )
        if config.repair == "data-free" and isinstance(pair.Q, Tensor):  # what was solved knows what is produced
            pair = with_corrected_variance(model, group, statistics, pair)
        apply(model, group, pair)
        self.wanted = narrowed_statistics(self.wanted, group, pair)
        self.network = Network(
            model,
            structure.narrowed(number, m),
            narrowed_statistics(statistics, group, pair),
            {**places, number: pair.places},
        )


def without_bias(model: nn.Module) -> list[str]:
    """Names of the layers that could have a bias and have none."""
    return [name for name, layer in model.named_modules() if layer._parameters.get("bias", layer) is None]
