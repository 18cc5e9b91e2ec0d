"""Compressing a whole network: one group, or all in sequence, by one criterion and method."""

from collections.abc import Callable, Mapping, Sequence
from typing import Any, Literal

import torch
from torch import Tensor, nn

from workloads.compression.budgets import (
    Budget,
    LatencyBudget,
    MacBudget,
    NeuronBudget,
    SparsityOf,
    WeightBudget,
    fitted,
    floors,
)
from workloads.compression.calls import output_moments
from workloads.compression.choosing import check_patterns, chosen_groups, group_names, left_alone
from workloads.compression.compensation import compensate
from workloads.compression.compensation.attention_logits import turned
from workloads.compression.compensation.synthetic import Surrogate, surrogate
from workloads.compression.compensation.views import with_views
from workloads.compression.criteria import Batch, importance
from workloads.compression.group_sizes import size_after, structure_class, unreachable, widths
from workloads.compression.methods import maps
from workloads.compression.pairings import Pairings
from workloads.compression.repair import (
    match_statistics,
    narrowed_statistics,
    repaired_layers,
    with_corrected_variance,
)
from workloads.compression.sources import Sources as Sources
from workloads.compression.sources import made
from workloads.config import ChoiceConfig, CompressionConfig, LeastSquaresConfig, as_choice
from workloads.measuring.evaluation import parameter_count
from workloads.plugins import CRITERION, METHOD
from workloads.scope import ratios_of
from workloads.structure.batch_norm import Statistics
from workloads.structure.copying import copied
from workloads.structure.groups import Group, Maps, apply
from workloads.structure.network import Network

BY_SCORES = ("global", "isomorphic")
"""Allocations that set thresholds on scores, which then have to be those of the whole network."""


def score(
    network: Network, number: int, criterion: ChoiceConfig | str | Mapping[str, Any], sources: Sources
) -> tuple[Pairings, Tensor]:
    """A group's weights and the importance of its pairings by a criterion, given as in an experiment."""
    criterion = ChoiceConfig.model_validate(as_choice(criterion))
    plugin = CRITERION.plugin(criterion.name, criterion.options)
    pairings = Pairings(network.model, network.structure.groups[number])
    images: Sequence[Tensor] = []
    if plugin.calibration is not None and plugin.calibration.synthetic:
        network, images, _ = surrogate(network, plugin.calibration, sources.example, sources.seed)
    elif "images" in plugin.asks:
        images = sources.shown(plugin.calibration)
    scores = importance(
        criterion.name,
        network.model,
        network.structure.groups[number],
        batches=made(sources.batches) if "batches" in plugin.asks else [],
        images=images,
        seed=sources.seed,
        example=sources.example,
        statistics=network.statistics,
        options=criterion.options,
    )
    return pairings, scores


def compress(
    base: Network,
    config: CompressionConfig,
    sources: Sources,
    *,
    originals: Sequence[int] | None = None,
    parameters: int | None = None,
    scored: Callable[[int], tuple[Pairings, Tensor]] | None = None,
    sizes: Mapping[int, int] | None = None,
    unpruned: nn.Module | None = None,
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
        unpruned: the network before any pruning, for sparsities of multiplications and time; None: `base`.

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
        budget_of(config.sparsity_of, base, sources, parameters, unpruned),
    )


def budget_of(
    sparsity_of: SparsityOf,
    base: Network,
    sources: Sources,
    parameters: int | None = None,
    unpruned: nn.Module | None = None,
) -> Budget | None:
    """What a sparsity is a share of; None for neurons. Arguments as for `compress`."""
    if sparsity_of == "weights":
        return WeightBudget(base, parameters or base.parameters or parameter_count(base.model))
    if sparsity_of == "macs":
        return MacBudget(base, sources.example, unpruned or base.model)
    if sparsity_of == "latency":
        return LatencyBudget(base, sources.measured, unpruned or base.model)
    return None


def in_order(sizes: Mapping[int, int], order: Literal["output-first", "input-first"]) -> dict[int, int]:
    """Sizes by number of the group, in the order in which the groups are narrowed."""
    return dict(sorted(sizes.items(), reverse=order == "input-first"))


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
        method = METHOD.plugin(config.method.name, config.method.options)
        self.batches: Sequence[Batch] = made(sources.batches) if "batches" in method.asks else []
        self.images: Sequence[Tensor] = sources.shown(method.calibration) if "images" in method.asks else []
        self.original: Statistics = {}
        self.wanted: Statistics = {}
        self.maps: dict[int, Maps] = {}
        self.turned: frozenset[int] = frozenset()
        self.solving = config.repair if isinstance(config.repair, LeastSquaresConfig) else None
        self.surrogate: Surrogate | None = None
        self.calibration: Sequence[Tensor] = []
        if self.solving is not None and self.solving.synthetic:
            self.surrogate = surrogate(base, self.solving, sources.example, sources.seed)
            self.calibration = self.surrogate.images
        elif self.solving is not None:
            images = self.given(sources.shown(self.solving), needed=self.solving.images != 0)
            self.calibration = with_views(images, self.solving.views, sources.seed)
        elif config.repair == "data":
            self.calibration = self.given(made(sources.images))
            layers = repaired_layers(base.structure.of_kinds(config.kinds))
            self.original = output_moments(base.model, layers, self.calibration)

    def given(self, images: Sequence[Tensor], *, needed: bool = True) -> Sequence[Tensor]:
        """The images that a repair looks at."""
        if needed and not images:
            name = self.config.repair if self.solving is None else self.solving.name
            raise ValueError(f"repair '{name}' needs unlabelled images: give them as `images`")
        return images

    def run(self, originals: Sequence[int], budget: Budget | None) -> Network:
        """Bring every group to its size.

        Which layers gain a bias from the method or the repair is known afterwards only; if these weigh so much that a
        sparsity of weights is missed, all is done again with them in the count.
        """
        config, groups = self.config, self.base.structure.groups
        if len(originals) != len(groups):
            raise ValueError(f"the network has {len(groups)} groups that can be pruned, but once had {len(originals)}")
        check_patterns(self.base.structure, config.ignore)
        if isinstance(config.sparsity, Mapping):
            self.narrow_by_ratios(config.sparsity, originals)
            return self.network
        numbers = chosen_groups(self.base.structure, config)
        while True:
            sizes = self.sizes([groups[number] for number in numbers], [originals[n] for n in numbers], budget)
            self.narrow_all(numbers, sizes, order=self.direction)
            if not isinstance(budget, WeightBudget) or config.sparsity == 0:
                return self.network
            gained = set(without_bias(self.base.model)) - set(without_bias(self.network.model))
            reached = 1 - parameter_count(self.network.model) / budget.parameters
            if reached >= config.sparsity:
                return self.network
            if gained <= budget.gaining:
                raise ValueError(f"a weight sparsity of {config.sparsity:g} is missed: {reached:.4f} is reached")
            budget.gain(gained)

    def sizes(self, groups: Sequence[Group], originals: Sequence[int], budget: Budget | None) -> list[int]:
        """The widths of the groups that are pruned, as the allocation spreads the sparsity."""
        config = self.config
        if not isinstance(config.allocation, str):
            from workloads.compression.allocation import allocate  # here, as searches compress networks too

            counted = budget or NeuronBudget(self.base, originals)
            found = allocate(self.base, config, self.sources, groups=groups, originals=originals, budget=counted)
            return list(found.sizes.values())
        assert isinstance(config.sparsity, float)
        by_scores = config.allocation in BY_SCORES
        isomorphic = config.allocation == "isomorphic"
        return widths(
            groups,
            originals,
            config.sparsity,
            budget=budget,
            round_to=config.round_to,
            scores=[self.scored(group.number)[1] for group in groups] if by_scores else None,
            classes=[structure_class(self.base.model, group) for group in groups] if isomorphic else None,
        )

    def narrow_by_ratios(self, given: Mapping[int | str, float], originals: Sequence[int]) -> None:
        """Bring the groups that are named to sizes of their own."""
        groups, names = self.base.structure.groups, group_names(self.base.structure)
        try:
            ratios = ratios_of(given, names)
        except ValueError as error:
            raise ValueError(f"sparsity {error}") from error
        numbers = sorted(ratios.keys() - left_alone(self.base.structure, self.config.ignore))
        sizes = [
            fitted(groups[number], size_after(originals[number], ratios[number]), self.config.round_to)
            for number in numbers
        ]
        self.narrow_all(numbers, sizes, order=self.direction)

    @property
    def direction(self) -> int:
        """1 from the last group on to the first before the output, −1 the other way."""
        return -1 if self.config.order == "input-first" else 1

    def narrow_all(self, numbers: Sequence[int], sizes: Sequence[int], order: int) -> None:
        """Bring groups of the base to these sizes, one after the other (−1: from the last on), and repair it."""
        base, groups = self.base, self.base.structure.groups
        start = base if self.surrogate is None else self.surrogate.network
        if self.solving is not None:
            narrower = [number for number, m in zip(numbers, sizes, strict=True) if m < groups[number].size]
            apart = () if self.surrogate is None else self.surrogate.gains  # what is undone there is of single channels
            start, self.turned = turned(start, narrower, self.calibration, self.sources.example, apart)
        self.network = Network(copied(start.model), base.structure, base.statistics)
        self.wanted, self.maps = self.original, {}
        for number, m in list(zip(numbers, sizes, strict=True))[::order]:
            if m < groups[number].size:
                self.narrow(number, m)
        if self.wanted:
            match_statistics(self.network.model, self.wanted, self.calibration)
        if self.solving is not None:
            sources, images = self.sources, self.calibration
            compensate(
                start, self.network, self.maps, images, self.solving, seed=sources.seed, originals=sources.originals
            )
        if self.surrogate is not None:
            self.surrogate.undo(self.network, self.maps)

    def narrow(self, number: int, m: int) -> None:
        """Bring one group to m pairings.

        Criterion and method look at the network as it is; where layers will be solved again, at the original, as what
        an uncompensated one makes on the way says little about what becomes of it.
        """
        config = self.config
        seen = self.network if self.solving is None else self.base
        model, structure, statistics = seen.model, seen.structure, seen.statistics
        group = structure.groups[number]
        if config.allocation in BY_SCORES or structure is self.base.structure:
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
                "original": self.original_of(number, group),
                "images": self.images,
                "batches": self.batches,
                "example": self.sources.example,
            },
        )
        if config.repair == "data-free" and isinstance(pair.Q, Tensor):  # what was solved knows what is produced
            pair = with_corrected_variance(model, group, statistics, pair)
        if number in self.turned:
            leading = torch.eye(m, group.size)
            pair = Maps(leading, leading)
        self.maps[number] = pair
        model, structure, statistics, places, _ = self.network
        group = structure.groups[number]
        apply(model, group, pair)
        model.train().eval()  # some modules keep what follows from weights until they are trained
        self.wanted = narrowed_statistics(self.wanted, group, pair)
        self.network = Network(
            model,
            structure.narrowed(number, m),
            narrowed_statistics(statistics, group, pair),
            {**places, number: pair.places},
        )

    def original_of(self, number: int, group: Group) -> tuple[nn.Module, Group]:
        """The network before any compression and the group in that; as it is now, if another kind of group has taken
        some of the group's channels, such as whole heads those of dimensions."""
        before = self.base.structure.groups[number]
        shapes = [[member.index.shape for member in each.members] for each in (before, group)]
        return (self.base.model, before) if shapes[0] == shapes[1] else (self.network.model, group)


def without_bias(model: nn.Module) -> list[str]:
    """Names of the layers that could have a bias and have none."""
    return [name for name, layer in model.named_modules() if ("bias", None) in layer._parameters.items()]


def check_reach(base: Network, config: CompressionConfig, sources: Sources) -> None:
    """Make sure that a sparsity of weights or multiplications can be reached.

    Raises:
        ValueError: it cannot; names the largest that can.
    """
    if isinstance(config.sparsity, Mapping) or config.sparsity_of not in ("weights", "macs"):
        return
    budget = budget_of(config.sparsity_of, base, sources)
    assert budget is not None
    groups = [base.structure.groups[number] for number in chosen_groups(base.structure, config)]
    least = 0.0 if isinstance(config.allocation, str) else config.allocation.least
    most = 1 - budget.left(floors(groups, [group.size for group in groups], least, config.round_to))
    if most < config.sparsity:
        raise ValueError(unreachable(budget, config.sparsity, [group.number for group in groups], most))
