"""The experiment: every setting with its default."""

import re
from collections.abc import Collection, Iterable, Mapping, Sequence
from pathlib import Path
from typing import Annotated, Any, Literal

import yaml
from pydantic import AfterValidator, BeforeValidator, Field, ValidationError, model_validator

from orchestrator.settings.reading import read_settings, read_text
from orchestrator.settings.resources import ResourcesConfig
from orchestrator.settings.sentences import first_problem
from orchestrator.storage.store import checked_uri
from workloads.allocations import allocation_label
from workloads.config import (
    BarrierConfig,
    Choice,
    ChoiceConfig,
    Config,
    DatasetConfig,
    FineTuningConfig,
    FusionConfig,
    LandscapeConfig,
    MeasuringConfig,
    ModelConfig,
    Positive,
    Repair,
    SplitsConfig,
    TrainingConfig,
)
from workloads.scope import Ratio, ScopeConfig

Pipeline = Literal["whole-data", "fap", "paf", "fuse"]


def _groups(value: Any) -> Any:
    def numbers(given: Any) -> bool:
        return isinstance(given, (list, tuple)) and bool(given) and all(type(v) is int and v >= 0 for v in given)

    if value in ("each", "all"):
        return value
    if not isinstance(value, (list, tuple)) or not value or not all(numbers(v) or numbers([v]) for v in value):
        raise ValueError(
            "should be 'each', 'all' or a list of group numbers such as [0, 3], each pruned alone, or of lists such as "
            "[[0, 1], [3]], each pruned together"
        )
    sets = [sorted({*v}) if isinstance(v, (list, tuple)) else [v] for v in value]
    return tuple(numbers[0] if len(numbers) == 1 else tuple(numbers) for numbers in sets)


def _several(value: Any) -> Any:
    return [value] if isinstance(value, (str, Mapping, Config)) else value


Fusions = Annotated[tuple[FusionConfig, ...], Field(min_length=1), BeforeValidator(_several)]


class PruningConfig(ScopeConfig):
    """One grid of pruning."""

    mode: Literal["data-free", "fine-tuned"] = "data-free"
    """`data-free` measures right after pruning; `fine-tuned` prunes in steps with training in between."""
    pipelines: tuple[Pipeline, ...] | None = None
    """Pipelines of this grid; null is the experiment's."""
    fusion: Fusions | None = None
    """Fusions of this grid's FaP, PaF and `fuse`; null is the experiment's."""
    groups: Annotated[Literal["each", "all"] | tuple[int | tuple[int, ...], ...], BeforeValidator(_groups)] = "each"
    """`each` group alone, `all` in sequence from the output backwards, or these: numbers, each group alone, or lists of
    numbers, each set of groups together."""
    sparsities: Annotated[tuple[Ratio, ...], Field(min_length=1)] = (0.1, 0.2, 0.3, 0.4, 0.5, 0.6, 0.7)
    """Shares to remove; of a grid of `all` groups also mappings with a share for each group, by its number or by the
    names of layers, such as `{0: 0.3, "layer1.*": 0.7}`, where the others stay whole."""
    criteria: Annotated[tuple[Choice, ...], Field(min_length=1)] = (ChoiceConfig(name="l1"),)
    """Importance criteria (`metaprune list criteria`)."""
    methods: Annotated[tuple[Choice, ...], Field(min_length=1)] = (
        ChoiceConfig(name="conventional"),
        ChoiceConfig(name="intra-fusion"),
    )
    """Compression methods (`metaprune list methods`)."""
    repair: Annotated[tuple[Repair, ...], Field(min_length=1), BeforeValidator(_several)] = ("none",)
    """What is done for the layers around what was pruned, each with every criterion and method: `none`; repair of the
    activations' mean and deviation, `data-free` from the weights alone or on the `data` of 512 training images; or
    `least-squares`, which solves the layers again, also as a mapping with its options."""
    steps: Positive = 4
    """Pruning steps to the target when fine-tuned; data-free pruning is always one step."""
    output_distances: bool = False
    """Whether the distances of the outputs to those before pruning are kept for every test image (not for PaF)."""
    importances: bool = False
    """Whether the scores of every neuron before pruning are kept, for grids of single groups."""
    landscape: LandscapeConfig | None = None
    """Accuracy over the planes through the unpruned network and those of the first and of each further method;
    data-free grids of whole-data and FaP."""

    @property
    def named_groups(self) -> list[int]:
        """The numbers of all groups that `groups` names."""
        if isinstance(self.groups, str):
            return []
        return [number for each in self.groups for number in (each if isinstance(each, tuple) else (each,))]

    @model_validator(mode="after")
    def _consistent(self) -> "PruningConfig":
        together = self.groups == "all" or all(isinstance(each, tuple) for each in self.groups)
        if self.allocation != "uniform" and not together:
            raise ValueError(
                f"allocation is {allocation_label(self.allocation)}, which spreads a sparsity over several groups: set "
                f"groups to all, or to lists such as [[0, 1, 2]]"
            )
        if any(isinstance(sparsity, Mapping) for sparsity in self.sparsities):
            if self.groups != "all":
                raise ValueError("sparsities has a mapping, which names groups itself: set groups to all")
            if self.sparsity_of != "neurons" or self.allocation != "uniform":
                raise ValueError(
                    "sparsities has a mapping of groups' shares of neurons: leave sparsity_of and allocation as they "
                    "are, or give numbers"
                )
        if self.landscape and (self.mode != "data-free" or len(self.methods) < 2):
            raise ValueError("a landscape is a plane through two methods' networks: give two, and mode data-free")
        return self


def _check_different(part: str, labels: Sequence[str], remedy: str) -> None:
    if len(set(labels)) < len(labels):
        raise ValueError(f"{part} has the same twice ({', '.join(labels)}): results could not tell them apart{remedy}")


def _check_start(model: ModelConfig, pipelines: Collection[str]) -> None:
    """Refuse pipelines that do not begin with what a model's checkpoints are."""
    fusing = sorted(set(pipelines) - {"whole-data"})
    if (model.checkpoint or model.from_hub) and fusing:
        setting = "checkpoint" if model.checkpoint else "pretrained"
        raise ValueError(
            f"model.{setting} replaces training, but {' and '.join(fusing)} train their own split models: give "
            f"model.checkpoints, the parents to fuse, or leave only whole-data in pipelines"
        )
    if model.checkpoints and "whole-data" in pipelines:
        raise ValueError(
            "model.checkpoints are the parents of a fusion, but whole-data starts from one network: give "
            "model.checkpoint, or set pipelines to fap, paf or fuse"
        )


def _check_workers(training: TrainingConfig, workers: int, part: str) -> None:
    """Refuse trainings that several workers cannot share as one would do them."""
    stage = {"training": "train", "fine_tuning": "fine_tune"}[part]
    if training.batch_size < workers:
        raise ValueError(
            f"{part}.batch_size is {training.batch_size}, fewer images than the {workers} workers that divide them "
            f"(resources.{stage}): give larger batches, or fewer workers"
        )
    if workers > 1 and isinstance(training, FineTuningConfig) and training.features:
        raise ValueError(
            f"{part}.features compares all images of a batch, so its batches are not divided: leave it out, or give "
            f"resources.{stage} one worker"
        )


def _safe_name(name: str) -> str:
    if not re.fullmatch(r"[A-Za-z0-9][A-Za-z0-9._-]*", name):
        raise ValueError("may have letters, digits, '.', '_' and '-' only, and starts with a letter or digit")
    return name


class Experiment(Config):
    """What to train, fuse, prune, fine-tune and measure.

    `Experiment(name=..., dataset=..., models=[...])` or `Experiment.load("quickstart")`.
    """

    name: Annotated[str, AfterValidator(_safe_name)]
    """Name in results, and of the default output folder `runs/<name>`."""
    dataset: DatasetConfig
    """The data set; a name alone stands for a mapping with this `name`."""
    models: Annotated[tuple[ModelConfig, ...], Field(min_length=1)]
    """The networks; also written `model`, of which one needs no list. A name alone stands for a mapping with it."""
    seeds: Annotated[tuple[Annotated[int, Field(ge=0, lt=2**63)], ...], Field(min_length=1)] = (0,)
    """Everything is repeated for each seed: initial weights, splits, order of images."""
    training: TrainingConfig = TrainingConfig()
    """How models are trained from scratch."""
    splits: Annotated[tuple[SplitsConfig, ...], Field(min_length=1), BeforeValidator(_several)] = (SplitsConfig(),)
    """How the training set is cut for FaP and PaF: a mapping, or a list of them, with each of which these are run."""
    pipelines: Annotated[tuple[Pipeline, ...], Field(min_length=1)] = ("whole-data",)
    """`whole-data`: train, prune. `fap`: train on splits, fuse, prune. `paf`: train on splits, prune, fuse. `fuse`:
    train on splits, fuse. Where the model has `checkpoints`, these stand for the split models."""
    fusion: Fusions = (FusionConfig(),)
    """How split models are fused: a mapping, or a list of them, with each of which FaP, PaF and `fuse` are run."""
    barrier: BarrierConfig | None = None
    """Loss and accuracy along the straight line between any two networks that the pipeline `fuse` fuses, for each of
    its fusions that aligns; `{}` takes the defaults."""
    pruning: Annotated[tuple[PruningConfig, ...], Field(min_length=1), BeforeValidator(_several)] = (PruningConfig(),)
    """Grids of pruning: a mapping, or a list of them."""
    fine_tuning: FineTuningConfig = FineTuningConfig()
    """How models are retrained after pruning or fusion."""
    measuring: MeasuringConfig = MeasuringConfig()
    """How networks are measured."""
    resources: ResourcesConfig = ResourcesConfig()
    """What tasks reserve."""
    storage: str | None = None
    """Folder or URI of the run; null is `runs/<name>`; `--out` overrides it."""
    tracking: Annotated[tuple[Choice, ...], BeforeValidator(_several)] = ()
    """Trackers that follow the run: `mlflow`, `tensorboard`, `wandb` or your own `file:Class`, with options."""

    @model_validator(mode="before")
    @classmethod
    def _normalise(cls, value: Any) -> Any:
        if not isinstance(value, Mapping):
            raise ValueError("an experiment is a mapping of settings such as name, dataset and model")
        value = dict(value)
        if "model" in value:
            if "models" in value:
                raise ValueError("give either model or models, not both")
            given = value.pop("model")
            value["models"] = given if isinstance(given, (list, tuple)) else [given]
        if isinstance(value.get("models"), str):
            value["models"] = [value["models"]]
        if isinstance(value.get("models"), (list, tuple)):
            value["models"] = [{"name": model} if isinstance(model, str) else model for model in value["models"]]
        if isinstance(value.get("dataset"), str):
            value["dataset"] = {"name": value["dataset"]}
        return value

    @model_validator(mode="after")
    def _consistent(self) -> "Experiment":
        if self.storage:
            checked_uri(self.storage)
        pipelines = {pipeline for grid in self.pruning for pipeline in grid.pipelines or self.pipelines}
        for model in self.models:
            _check_start(model, pipelines)
        self._check_barrier()
        if self.fine_tuning.epochs == 0 and any(grid.mode == "fine-tuned" for grid in self.pruning):
            raise ValueError("fine_tuning.epochs is 0, but a grid of pruning has mode fine-tuned: use mode data-free")
        tuning = self.fine_tuning
        if tuning.warmup_epochs >= tuning.step_epochs > 0 and any(grid.mode == "fine-tuned" for grid in self.pruning):
            raise ValueError(
                f"fine_tuning.warmup_epochs is {tuning.warmup_epochs} of {tuning.step_epochs} step_epochs: the rate "
                f"would never fall; give fewer"
            )
        _check_workers(self.training, self.resources.task("train").processes, "training")
        _check_workers(tuning, self.resources.task("fine-tune").processes, "fine_tuning")
        for part in ("criteria", "methods"):
            named: dict[str, ChoiceConfig] = {}
            for choice in (choice for grid in self.pruning for choice in getattr(grid, part)):
                if named.setdefault(choice.label, choice) != choice:
                    raise ValueError(
                        f"pruning.{part} has two different functions named '{choice.label}': results could not tell "
                        f"them apart"
                    )
        for part, labels in (
            ("models", [model.name_in_results for model in self.models]),
            ("splits", [f"{splits.folds} {splits.label}" for splits in self.splits]),
            ("fusion", [fusion.label for fusion in self.fusion]),
            ("tracking", [tracker.label for tracker in self.tracking]),
        ):
            _check_different(part, labels, "; give each a label" if part == "models" else "")
        return self

    @property
    def pruning_grids(self) -> list[PruningConfig]:
        """The grids that are pruned by: those of some other pipeline than `fuse`, in which they play no part."""
        return [grid for grid in self.pruning if {*(grid.pipelines or self.pipelines)} - {"fuse"}]

    def _check_barrier(self) -> None:
        """Refuse a barrier where nothing is fused by aligning."""
        grids = [grid for grid in self.pruning if "fuse" in (grid.pipelines or self.pipelines)]
        if self.barrier and not grids:
            raise ValueError("a barrier is measured between the networks of the pipeline fuse: add fuse to pipelines")
        if self.barrier and all(fusion.method for grid in grids for fusion in grid.fusion or self.fusion):
            raise ValueError(
                "a barrier lies between aligned networks, but every fusion has a method, which aligns nothing: add "
                "one with an alignment, such as {alignment: none, repair: false}"
            )

    @classmethod
    def load(cls, source: str | Path, overrides: Iterable[str] = ()) -> "Experiment":
        """Read a built-in experiment by name or a YAML file by path.

        Args:
            source: `quickstart`, or `my/experiment.yaml`.
            overrides: `key=value` with dots between keys, values in YAML: `pruning.sparsities=[0.5, 0.9]`. A list is
                entered by number (`models.0.width`) or, without one, in every item.

        Raises:
            FileNotFoundError: no such built-in name or file.
            ValueError: one sentence that names the key, the value and what is allowed.
        """
        return cls.from_yaml(*read_text(source), overrides)

    @classmethod
    def from_yaml(cls, text: str, origin: str, overrides: Iterable[str] = ()) -> "Experiment":
        """Read an experiment from YAML, for instance what `to_yaml` wrote; `origin` stands in errors.

        Raises:
            ValueError: as `load` does.
        """
        settings = read_settings(text, origin, overrides)
        try:
            return cls.model_validate(settings)
        except ValidationError as error:
            raise ValueError(f"{origin}: {first_problem(error, settings, cls)}") from error

    def to_yaml(self) -> str:
        """The complete experiment, every default written out."""
        return yaml.safe_dump(self.model_dump(mode="json"), sort_keys=False, allow_unicode=True)
