"""From an experiment to its stages: a pure function, without files and without Ray."""

from collections.abc import Iterator, Sequence
from itertools import combinations
from typing import Any, NamedTuple

from orchestrator.planning.applied import AppliedSettings, dotted
from orchestrator.planning.cells import Cell, Variant, cells_of
from orchestrator.planning.facts import Facts
from orchestrator.planning.plan import Plan
from orchestrator.settings.experiment import Experiment, PruningConfig
from workloads.allocations import GreedyConfig, SensitivityConfig
from workloads.config import (
    Config,
    FusionConfig,
    LandscapeConfig,
    ModelConfig,
    Repair,
    ScopeConfig,
    SplitsConfig,
)
from workloads.data.splits import subset_count, subset_share


def make_plan(experiment: Experiment, facts: Facts) -> Plan:
    """The stages of every model, seed, grid and pipeline."""
    plan = Plan()
    for model in experiment.models:
        for seed in experiment.seeds:
            builder = _Builder(plan, experiment, facts, model, seed)
            for grid in experiment.pruning:
                for pipeline in grid.pipelines or experiment.pipelines:
                    builder.add(grid, pipeline)
    return plan


def changed(config: Config, *without: str) -> dict[str, Any]:
    """The settings that differ from their defaults, for a key."""
    return config.model_dump(mode="json", exclude_defaults=True, exclude=set(without))


def repair_key(repair: Repair) -> Any:
    """A repair for a key: its name, or what differs from the defaults."""
    return repair if isinstance(repair, str) else {"name": repair.name, **changed(repair)}


def scope_key(scope: ScopeConfig) -> dict[str, Any]:
    """A scope for a key: what differs from the defaults, a search with its name."""
    settings = changed(scope)
    if not isinstance(scope.allocation, str):
        settings["allocation"] = {"name": scope.allocation.name, **changed(scope.allocation)}
    return settings


class _Builder:
    """Adds the stages of one model and seed."""

    def __init__(self, plan: Plan, experiment: Experiment, facts: Facts, model: ModelConfig, seed: int):
        self.plan, self.experiment, self.facts = plan, experiment, facts
        self.model, self.seed = model, seed
        self.of_model = facts.models[model.name_in_results]
        self.applied = AppliedSettings(experiment, facts, model)
        self.variants: dict[Variant, _ForKeys] = {}
        where = ("root", "stream", "label", "revision", "configuration")  # the fingerprint knows the content
        self.data = {**changed(experiment.dataset, *where), "fingerprint": facts.fingerprint}
        self.data |= self.code(experiment.dataset.name)
        measuring = changed(experiment.measuring)
        self.measured = {"dataset": self.data, **({"measuring": measuring} if measuring else {})}
        self.labels = {
            "experiment": experiment.name,
            "model": model.name_in_results,
            "dataset": facts.dataset or experiment.dataset.name.rpartition(":")[2],
            "seed": seed,
            "neuron_sparsity": 0.0,
            "final": False,
        }

    def code(self, name: str) -> dict[str, str]:
        """The digest of the user's own code under this name, where it is that."""
        return {"code": self.facts.code[name]} if name in self.facts.code else {}

    def add_stage(
        self,
        kind: str,
        parameters: dict[str, Any],
        inputs: tuple[str, ...],
        labels: dict[str, Any],
        cost: float,
        **more: Any,
    ) -> str:
        """Add a stage, its settings and those of its inputs in its labels; its key.

        Args:
            more: settings that are neither coordinates nor in a section of the experiment that the kind reads.
        """
        made_from = [self.plan.stages[key].labels["settings"] for key in inputs]
        settings = self.applied.text(kind, made_from, {**labels.get("settings", {}), **more})
        return self.plan.add(kind, parameters, inputs, {**labels, "settings": settings}, cost)

    def seconds(self, train_images: float, test_images: float) -> float:
        """Estimated seconds on one core; a training step counts as three forward passes."""
        return self.of_model.seconds_per_image * (3 * train_images + test_images)

    def whole(self) -> str:
        """The model trained on everything, or read from its checkpoint."""
        labels = {**self.labels, "pipeline": "whole-data", "training_data": "whole", "stage": "baseline"}
        if self.of_model.checkpoint:
            return self.load(self.of_model.checkpoint, labels)
        return self.train({}, 1.0, labels)

    def load(self, checkpoint: str, labels: dict[str, Any]) -> str:
        """The network that a file holds, by the file's digest."""
        network = changed(self.model, "checkpoint", "checkpoints", "label") | self.code(self.model.name)
        parameters = {**self.measured, "model": network, "checkpoint": checkpoint}
        of_file = {"model.checkpoint": checkpoint, **self.of_model.published}
        return self.add_stage("load", parameters, (), labels, self.seconds(0, self.facts.test), **of_file)

    def families(self) -> Iterator[tuple[list[str], dict[str, Any]]]:
        """What is fused: the parents of each fusion, and the labels of what comes of them.

        The models of every way to cut the training set; or, where the model has checkpoints, the networks in these.
        """
        if self.of_model.parents:
            digests = self.of_model.parents
            labels = {**self.labels, "parents": ", ".join(digests)}
            own = {**self.labels, "stage": "baseline"}
            yield (
                [
                    self.load(digest, {**own, "training_data": f"parent-{number}", "parents": digest})
                    for number, digest in enumerate(digests, start=1)
                ],
                labels,
            )
            return
        for splits in self.experiment.splits:
            yield self.split_models(splits), {**self.labels, "folds": splits.folds, "split": splits.label}

    def split_models(self, splits: SplitsConfig) -> list[str]:
        """The models trained on parts of the training set."""
        labels = {**self.labels, "folds": splits.folds, "split": splits.label, "stage": "baseline"}
        share = subset_share(splits)
        return [
            self.train(
                {"splits": changed(splits), "subset": subset},
                share,
                {**labels, "training_data": f"subset-{subset + 1}"},
            )
            for subset in range(subset_count(splits))
        ]

    def train(self, subset: dict[str, Any], share: float, labels: dict[str, Any]) -> str:
        training = self.experiment.training
        parameters = {
            "dataset": self.data,
            "model": changed(self.model, "checkpoints", "label") | self.code(self.model.name),
            "training": changed(training),
            "seed": self.seed,
            **subset,
        }
        cost = training.epochs * self.seconds(share * self.facts.train, self.facts.test / training.evaluate_every)
        return self.add_stage("train", parameters, (), labels, cost)

    def fine_tune(
        self, key: str, teachers: Sequence[str], epochs: int, labels: dict[str, Any], final: bool = False
    ) -> str:
        """Add a fine-tuning stage and return its key; with 0 epochs return `key`.

        Args:
            teachers: the networks that it was made from, for distillation.
        """
        if epochs == 0:
            return key
        config = self.experiment.fine_tuning
        settings = changed(config, "epochs", "step_epochs") | {"epochs": epochs}
        parameters = {"dataset": self.data, "training": settings, "seed": self.seed}
        labels = {**labels, "stage": "fine-tuned", "final": final}
        images: float = min(config.images or self.facts.train, self.facts.train)
        inputs: tuple[str, ...] = (key,)
        if config.objective == "distillation":
            inputs, images = (key, *teachers), images * (1 + len(teachers) / 3)  # a third of a step: one forward pass
        cost = epochs * self.seconds(images, self.facts.test / config.evaluate_every)
        return self.add_stage("fine-tune", parameters, inputs, labels, cost)

    def add_barriers(self, models: list[str], fusion: FusionConfig, labels: dict[str, Any]) -> None:
        """Measure the line between any two models, if the experiment asks for it and the fusion aligns them."""
        barrier = self.experiment.barrier
        if barrier is None or fusion.method is not None:
            return
        parameters = {**self.measured, "fusion": changed(fusion), "barrier": changed(barrier), "seed": self.seed}
        images = barrier.points * min(barrier.samples or self.facts.test, self.facts.test)
        cost = self.seconds(0, images + (barrier.points if fusion.repair else 1) * 2 * fusion.samples)
        labels = {**labels, "fusion": fusion.label, "stage": "compared"}
        for pair in combinations(models, 2):
            ends = [self.plan.stages[key].labels for key in pair]
            both = {
                name: ", ".join(end[name] for end in ends)
                for name in ("training_data", "parents")
                if all(name in end for end in ends)
            }
            self.add_stage("barrier", parameters, pair, {**labels, **both}, cost, **dotted("barrier", barrier))

    def fuse(self, keys: list[str], fusion: FusionConfig, labels: dict[str, Any], final: bool = False) -> str:
        settings, own = changed(fusion), dict[str, str]()
        if fusion.method:
            for part, choice in (("criterion", fusion.criterion), ("method", fusion.method)):
                if part in settings:
                    settings[part] |= self.code(choice.name)
                own |= self.applied.of_choice(f"fusion.{part}", choice)
            if "repair" in settings and not isinstance(fusion.repair, bool):
                settings["repair"] = repair_key(fusion.repair)
        parameters = {**self.measured, "fusion": settings, "seed": self.seed}
        labels = {**labels, "fusion": fusion.label, "stage": "fused", "final": final}
        return self.add_stage("fuse", parameters, tuple(keys), labels, self.seconds(0, self.facts.test + 1000), **own)

    def compress(
        self, key: str, cell: Cell, sparsity: float, labels: dict[str, Any], final: bool = False, done: float = 0.0
    ) -> str:
        """Add a stage that makes a network narrower; `done` is the sparsity that it has already."""
        variant = self.of_variant(cell.variant)
        parameters = {**self.measured, "sparsity": cell.shares(sparsity), **variant.parameters}
        searched = not isinstance(cell.variant.scope.allocation, str)
        inputs = (key, self.allocate(key, cell.variant, sparsity, labels, done)) if searched else (key,)
        labels = {**labels, "stage": "pruned", "neuron_sparsity": cell.planned_sparsity(sparsity), "final": final}
        return self.add_stage("compress", parameters, inputs, labels, self.seconds(0, self.facts.test), **variant.own)

    def allocate(self, key: str, variant: Variant, sparsity: float, labels: dict[str, Any], done: float) -> str:
        """The search for the widths of a cell: whatever its criterion, method and repair are, unless the search
        compresses networks with these."""
        search = variant.scope.allocation
        assert not isinstance(search, str)
        ordered = isinstance(search, GreedyConfig)
        scope = variant.scope if ordered else variant.scope.model_copy(update={"order": ScopeConfig().order})
        parameters = {
            "dataset": self.data,
            "seed": self.seed,
            "sparsity": sparsity,
            **({} if variant.groups is None else {"groups": list(variant.groups)}),
            **self.of_trials(variant),
            **scope_key(scope),
        }
        others = () if search.measures else ("criterion", "method", "repair")
        labels = {**labels, **dict.fromkeys(others), "order": variant.scope.order if ordered else None}
        labels |= {"stage": "allocated", "neuron_sparsity": None, "final": False}
        numbers = sorted({*(variant.groups or self.of_model.numbers(variant.scope.kinds))})
        inputs, images = [key], search.looked_at
        if isinstance(search, SensitivityConfig):
            inputs += [self.sensitivity(key, variant, number, labels) for number in numbers]
            images *= 2  # what was found, and equal shares
        elif isinstance(search, GreedyConfig):
            before = search.before(sparsity, done)
            if before is not None:
                inputs.append(self.allocate(key, variant, before, {**labels, "target_sparsity": before}, done))
            images *= len(numbers)
        own = self.of_variant(variant).own if search.measures else {}
        return self.add_stage("allocate", parameters, tuple(inputs), labels, self.seconds(images, 0), **own)

    def sensitivity(self, key: str, variant: Variant, number: int, labels: dict[str, Any]) -> str:
        """What one group loses as it becomes narrower, whatever the budget is."""
        search = variant.scope.allocation
        assert isinstance(search, SensitivityConfig)
        scope = ScopeConfig(allocation=search, round_to=variant.scope.round_to)
        parameters = {
            "dataset": self.data,
            "seed": self.seed,
            "group": number,
            **self.of_trials(variant),
            **scope_key(scope),
        }
        kind = self.of_model.kind(number)
        labels = {
            **labels,
            "group": number,
            "groups": None,
            "kinds": kind,
            "sparsity_of": None,
            "target_sparsity": None,
        }
        cost = search.points * self.seconds(0, search.looked_at)
        return self.add_stage("sensitivity", parameters, (key,), labels, cost, **self.of_variant(variant).own)

    def of_trials(self, variant: Variant) -> dict[str, Any]:
        """What a search that compresses networks depends on beside the scope: how the cell compresses them."""
        search = variant.scope.allocation
        assert not isinstance(search, str)
        parameters = self.of_variant(variant).parameters
        names = ("criterion", "method", "repair") if search.measures else ()
        return {name: parameters[name] for name in names if name in parameters}

    def of_variant(self, variant: Variant) -> "_ForKeys":
        """What all stages of a variant have in their keys and settings; worked out once, as grids have many."""
        if variant not in self.variants:
            code = self.code(variant.criterion.name), self.code(variant.method.name)
            draws = {variant.criterion.name, variant.method.name} & self.facts.drawing
            parameters = {
                "criterion": changed(variant.criterion) | code[0],
                "method": changed(variant.method) | code[1],
                **({"seed": self.seed} if draws or variant.repair not in ("none", "data-free") else {}),
                **({} if variant.group is None else {"group": variant.group}),
                **({} if variant.groups is None or variant.ratios else {"groups": list(variant.groups)}),
                **({} if variant.repair == "none" else {"repair": repair_key(variant.repair)}),
                **scope_key(variant.scope),
            }
            choices = ("criterion", variant.criterion), ("method", variant.method)
            own = {name: value for choice in choices for name, value in self.applied.of_choice(*choice).items()}
            self.variants[variant] = _ForKeys(parameters, own)
        return self.variants[variant]

    def in_steps(self, base: str, cell: Cell, steps: int, labels: dict[str, Any]) -> str:
        """Prune to the target in equal steps with fine-tuning after each."""
        key, sparsity = base, 0.0
        for step in range(1, steps + 1):
            done, sparsity = sparsity, round(cell.sparsity * step / steps, 12)
            cell_labels = {**labels, "step": step, "neuron_sparsity": cell.planned_sparsity(sparsity)}
            key = self.compress(key, cell, sparsity, cell_labels, done=done)
            key = self.fine_tune(key, (base,), self.experiment.fine_tuning.step_epochs, cell_labels)
        return key

    def add(self, grid: PruningConfig, pipeline: str) -> None:
        """Add the stages of one grid in one pipeline."""
        if pipeline == "whole-data":
            self.add_from(self.whole(), grid, {**self.labels, "pipeline": pipeline})
            return
        for models, family in self.families():
            labels = {**family, "pipeline": pipeline}
            for fusion in grid.fusion or self.experiment.fusion:
                if pipeline == "fuse":
                    self.fuse(models, fusion, labels, final=True)
                    self.add_barriers(models, fusion, labels)
                else:
                    add = self.add_fap if pipeline == "fap" else self.add_paf
                    add(models, fusion, grid, labels)

    def epochs(self, grid: PruningConfig) -> int:
        """Epochs of retraining at the intermediate and at the last point of FaP and PaF."""
        return self.experiment.fine_tuning.epochs if grid.mode == "fine-tuned" else 0

    def cells(self, grid: PruningConfig, labels: dict[str, Any]) -> Iterator[tuple[Cell, dict[str, Any]]]:
        """The cells of a grid, each with the labels of what ends it."""
        settings: dict[str, Any] = {"pruning.mode": grid.mode}
        if grid.mode == "fine-tuned":
            settings["pruning.steps"] = grid.steps
        for cell in cells_of(grid, self.of_model):
            planned = cell.planned_sparsity(cell.sparsity)
            point = {"target_sparsity": cell.sparsity, "neuron_sparsity": planned, "settings": settings}
            yield cell, {**labels, **cell.variant.labels, **point}

    def add_from(self, base: str, grid: PruningConfig, labels: dict[str, Any]) -> None:
        """Prune one network, with what training is still due, and compare what comes out."""
        epochs = self.epochs(grid) * (2 if labels["pipeline"] == "whole-data" else 1)
        first: dict[tuple[Any, ...], tuple[str, str]] = {}
        for cell, cell_labels in self.cells(grid, labels):
            if grid.mode == "fine-tuned":
                key = self.in_steps(base, cell, grid.steps, cell_labels)
                key = self.fine_tune(key, (base,), epochs, cell_labels, final=True)
            else:
                key = self.compress(base, cell, cell.sparsity, cell_labels, final=True)
            if grid.output_distances:
                self.add_distances((base, key), cell_labels)
            if grid.importances and cell.variant.group is not None:
                self.add_importances(base, cell.variant, labels)
            if grid.landscape and cell.sparsity:
                point = cell.variant.group, cell.variant.criterion.label, cell.sparsity
                against, reference = first.setdefault(point, (cell.variant.name, key))
                if reference != key:
                    landscape = {**cell_labels, "stage": "compared", "against": against}
                    self.add_landscape(grid.landscape, (base, reference, key), landscape)

    def add_distances(self, keys: tuple[str, ...], labels: dict[str, Any]) -> None:
        cost = self.seconds(0, 2 * self.facts.test)
        self.add_stage("distances", {"dataset": self.data}, keys, {**labels, "stage": "compared"}, cost)

    def add_importances(self, key: str, of: Variant, labels: dict[str, Any]) -> None:
        criterion = self.of_variant(of).parameters["criterion"]
        parameters = {"dataset": self.data, "criterion": criterion, "group": of.group, "seed": self.seed}
        coordinates = {"group": of.group, "criterion": of.criterion.label, "stage": "compared"}
        own = self.applied.of_choice("criterion", of.criterion)
        self.add_stage("importances", parameters, (key,), {**labels, **coordinates}, self.seconds(1000, 0), **own)

    def add_landscape(self, config: LandscapeConfig, keys: tuple[str, ...], labels: dict[str, Any]) -> None:
        """Measure a plane row by row."""
        images = min(config.samples or self.facts.test, self.facts.test)
        for row in range(config.size):
            parameters = {**self.measured, "landscape": changed(config), "row": row}
            plane = dotted("pruning.landscape", config)
            self.add_stage("landscape", parameters, keys, labels, self.seconds(0, config.size * images), **plane)

    def add_fap(self, models: list[str], fusion: FusionConfig, grid: PruningConfig, labels: dict[str, Any]) -> None:
        """Fuse the split models, then prune."""
        fused = self.fuse(models, fusion, labels)
        labels = {**labels, "fusion": fusion.label}
        self.add_from(self.fine_tune(fused, models, self.epochs(grid), labels), grid, labels)

    def add_paf(self, models: list[str], fusion: FusionConfig, grid: PruningConfig, labels: dict[str, Any]) -> None:
        """Prune each split model, then fuse."""
        epochs = self.epochs(grid)
        for cell, cell_labels in self.cells(grid, labels):
            parents = []
            for model in models:
                own = self.plan.stages[model].labels
                subset = {**cell_labels, **{name: own[name] for name in ("training_data", "parents") if name in own}}
                if grid.mode == "fine-tuned":
                    pruned = self.in_steps(model, cell, grid.steps, subset)
                else:
                    pruned = self.compress(model, cell, cell.sparsity, subset)
                parents.append(self.fine_tune(pruned, (model,), epochs, subset))
            fused = self.fuse(parents, fusion, cell_labels, final=epochs == 0)
            self.fine_tune(fused, models, epochs, {**cell_labels, "fusion": fusion.label}, final=True)


class _ForKeys(NamedTuple):
    """What stages of a variant have in common: parameters, and settings that their labels do not tell."""

    parameters: dict[str, Any]
    own: dict[str, Any]
