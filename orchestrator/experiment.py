"""The experiment: every setting with its default, read from YAML with overrides."""

import json
import re
import sys
from collections.abc import Iterable, Iterator, Mapping
from importlib import resources
from pathlib import Path
from typing import Annotated, Any, Literal, get_args

import yaml
from pydantic import AfterValidator, BaseModel, BeforeValidator, Field, ValidationError, model_validator

from orchestrator.store import without_credentials
from workloads.config import (
    Config,
    Count,
    DatasetConfig,
    FineTuningConfig,
    FusionConfig,
    LandscapeConfig,
    ModelConfig,
    Positive,
    Repair,
    ScopeConfig,
    SplitsConfig,
    TrainingConfig,
)
from workloads.registry import nearest

Pipeline = Literal["whole-data", "fap", "paf"]
Sparsity = Annotated[float, Field(ge=0, lt=1)]


def _choice(value: Any) -> Any:
    if isinstance(value, str):
        return {"name": value}
    if isinstance(value, Mapping) and "name" in value and "options" not in value:
        return {"name": value["name"], "options": {k: v for k, v in value.items() if k != "name"}}
    return value


class ChoiceConfig(Config):
    """A criterion or method: its name, or a mapping of `name` and options."""

    name: str
    """Registered name or `package.module:function`."""
    options: dict[str, Any] = Field(default_factory=dict)
    """Keyword arguments of the function."""

    @property
    def label(self) -> str:
        """Name and options, as they stand in results."""
        name = self.name.rpartition(":")[2]
        options = ", ".join(f"{key}={value}" for key, value in sorted(self.options.items()))
        return f"{name}({options})" if options else name


Choice = Annotated[ChoiceConfig, BeforeValidator(_choice)]


def _groups(value: Any) -> Any:
    numbers = isinstance(value, (list, tuple)) and value and all(type(v) is int and v >= 0 for v in value)
    if value not in ("each", "all") and not numbers:
        raise ValueError("should be 'each', 'all' or a list of group numbers such as [0, 3]")
    return value


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
    """Fusions of this grid's FaP and PaF; null is the experiment's."""
    groups: Annotated[Literal["each", "all"] | tuple[int, ...], BeforeValidator(_groups)] = "each"
    """`each` group alone, `all` in sequence from the output backwards, or these groups, each alone."""
    sparsities: tuple[Sparsity, ...] = (0.1, 0.2, 0.3, 0.4, 0.5, 0.6, 0.7)
    """Shares of neurons to remove."""
    criteria: tuple[Choice, ...] = (ChoiceConfig(name="l1"),)
    """Importance criteria (`metaprune list criteria`)."""
    methods: tuple[Choice, ...] = (ChoiceConfig(name="conventional"), ChoiceConfig(name="intra-fusion"))
    """Compression methods (`metaprune list methods`)."""
    repair: Annotated[tuple[Repair, ...], BeforeValidator(_several)] = ("none",)
    """Repairs of the activations' mean and deviation, each with every method: none, data-free (from the weights
    alone), data (on 512 training images)."""
    steps: Positive = 4
    """Pruning steps to the target when fine-tuned; data-free pruning is always one step."""
    output_distances: bool = False
    """Whether the distances of the outputs to those before pruning are kept for every test image (not for PaF)."""
    importances: bool = False
    """Whether the scores of every neuron before pruning are kept, for grids of single groups."""
    landscape: LandscapeConfig | None = None
    """Accuracy over the planes through the unpruned network and those of the first and of each further method;
    data-free grids of whole-data and FaP."""

    @model_validator(mode="after")
    def _one_threshold_needs_all_groups(self) -> "PruningConfig":
        if self.allocation == "global" and self.groups != "all":
            raise ValueError("allocation is global, one threshold over the network: set groups to all")
        if self.landscape and (self.mode != "data-free" or len(self.methods) < 2):
            raise ValueError("a landscape is a plane through two methods' networks: give two, and mode data-free")
        return self


class TaskConfig(Config):
    """What Ray reserves for one task."""

    cpus: Annotated[float, Field(gt=0)] = 1
    """CPU cores, and threads that PyTorch uses."""
    gpus: Annotated[float, Field(ge=0)] | None = None
    """GPUs, or a share of one; null takes what suits the kind where the cluster has GPUs."""
    time_limit: Annotated[float, Field(gt=0)] | None = None
    """Seconds that a stage may take before it counts as failed; null is no limit."""
    memory: Annotated[float, Field(gt=0)] | None = None
    """Memory in GiB that a task may need: no more tasks start on a node than have room there; null asks for none."""


class ResourcesConfig(Config):
    """What each kind of stage needs, and how many tasks are in flight."""

    train: TaskConfig = TaskConfig()
    """Training from scratch; a whole GPU by default."""
    fine_tune: TaskConfig = TaskConfig()
    """Fine-tuning; a whole GPU by default."""
    fuse: TaskConfig = TaskConfig()
    """Fusing models; a quarter of a GPU by default."""
    compress: TaskConfig = TaskConfig()
    """Pruning and measuring; a quarter of a GPU by default."""
    load: TaskConfig = TaskConfig()
    """Reading and measuring a checkpoint; a quarter of a GPU by default."""
    importances: TaskConfig = TaskConfig()
    """Importances; a quarter of a GPU by default."""
    distances: TaskConfig = TaskConfig()
    """Output distances; a quarter of a GPU by default."""
    landscape: TaskConfig = TaskConfig()
    """Rows of landscapes; a quarter of a GPU by default."""
    window: Positive | None = None
    """Tasks submitted at a time; null is four for each CPU core of the cluster, at least 16."""
    snapshot_every: Count = 10
    """Epochs after which a training leaves a snapshot in the run, to go on from if its worker dies; 0 leaves none."""
    retries: Count = 3
    """Times that Ray starts a task again whose worker or node died."""


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
    """The data set."""
    models: Annotated[tuple[ModelConfig, ...], Field(min_length=1)]
    """The networks; `model: {...}` stands for a list of one."""
    seeds: Annotated[tuple[int, ...], Field(min_length=1)] = (0,)
    """Everything is repeated for each seed: initial weights, splits, order of images."""
    training: TrainingConfig = TrainingConfig()
    """How models are trained from scratch."""
    splits: Annotated[tuple[SplitsConfig, ...], Field(min_length=1), BeforeValidator(_several)] = (SplitsConfig(),)
    """How the training set is cut for FaP and PaF: a mapping, or a list of them, with each of which these are run."""
    pipelines: Annotated[tuple[Pipeline, ...], Field(min_length=1)] = ("whole-data",)
    """`whole-data`: train, prune. `fap`: train on splits, fuse, prune. `paf`: train on splits, prune, fuse."""
    fusion: Fusions = (FusionConfig(),)
    """How split models are fused: a mapping, or a list of them, with each of which FaP and PaF are run."""
    pruning: Annotated[tuple[PruningConfig, ...], Field(min_length=1), BeforeValidator(_several)] = (PruningConfig(),)
    """Grids of pruning: a mapping, or a list of them."""
    fine_tuning: FineTuningConfig = FineTuningConfig()
    """How models are retrained after pruning or fusion."""
    resources: ResourcesConfig = ResourcesConfig()
    """What tasks reserve."""
    storage: str | None = None
    """Folder or URI of the run; null is `runs/<name>`; `--out` overrides it."""

    @model_validator(mode="before")
    @classmethod
    def _normalise(cls, value: Any) -> Any:
        if not isinstance(value, Mapping):
            raise ValueError("an experiment is a mapping of settings such as name, dataset and model")
        value = dict(value)
        if "model" in value:
            if "models" in value:
                raise ValueError("give either model or models, not both")
            value["models"] = [value.pop("model")]
        return value

    @model_validator(mode="after")
    def _consistent(self) -> "Experiment":
        if self.storage:
            without_credentials(self.storage)
        from_splits = {p for grid in self.pruning for p in grid.pipelines or self.pipelines} & {"fap", "paf"}
        for model in self.models:
            if model.checkpoint and from_splits:
                raise ValueError(
                    f"model.checkpoint replaces training, but {' and '.join(sorted(from_splits))} train their own "
                    f"split models: remove the checkpoint, or leave only whole-data in pipelines"
                )
        if self.fine_tuning.epochs == 0 and any(grid.mode == "fine-tuned" for grid in self.pruning):
            raise ValueError("fine_tuning.epochs is 0, but a grid of pruning has mode fine-tuned: use mode data-free")
        for part in ("criteria", "methods"):
            named: dict[str, ChoiceConfig] = {}
            for choice in (choice for grid in self.pruning for choice in getattr(grid, part)):
                if named.setdefault(choice.label, choice) != choice:
                    raise ValueError(
                        f"pruning.{part} has two different functions named '{choice.label}': results could not tell "
                        f"them apart"
                    )
        for part, labels in (
            ("models", [model.label for model in self.models]),
            ("splits", [f"{splits.folds} {splits.label}" for splits in self.splits]),
            ("fusion", [fusion.label for fusion in self.fusion]),
        ):
            if len(set(labels)) < len(labels):
                raise ValueError(f"{part} has the same twice ({', '.join(labels)}): results could not tell them apart")
        return self

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
        return cls.from_yaml(*_read(source), overrides)

    @classmethod
    def from_yaml(cls, text: str, origin: str, overrides: Iterable[str] = ()) -> "Experiment":
        """Read an experiment from YAML, for instance what `to_yaml` wrote; `origin` stands in errors.

        Raises:
            ValueError: as `load` does.
        """
        settings = _settings(text, origin)
        changes = [_change(override) for override in overrides]
        _scale(settings, dict(changes).get("scale"), origin)
        for key, value in changes:
            if key != "scale":
                _set(settings, key, value, f"--set {key}")
        try:
            return cls.model_validate(settings)
        except ValidationError as error:
            raise ValueError(f"{origin}: {' '.join(_sentence(error, settings).split())}") from error

    def to_yaml(self) -> str:
        """The complete experiment, every default written out."""
        return yaml.safe_dump(self.model_dump(mode="json"), sort_keys=False, allow_unicode=True)


def make_importable(source: str | Path) -> None:
    """Let the user's own modules be found in the current folder and beside the experiment's file."""
    for folder in (Path.cwd(), Path(source).absolute().parent):
        if str(folder) not in sys.path:
            sys.path.append(str(folder))


def built_in() -> dict[str, str]:
    """Names of the experiments that come with metaprune, with the comment on their first line."""
    folder = resources.files("orchestrator") / "experiments"
    found = {}
    for entry in sorted(folder.iterdir(), key=lambda e: e.name):
        if entry.name.endswith(".yaml"):
            first = entry.read_text(encoding="utf-8").partition("\n")[0]
            found[entry.name.removesuffix(".yaml")] = first.lstrip("# ")
    return found


def _read(source: str | Path) -> tuple[str, str]:
    path = Path(source)
    if path.suffix in (".yaml", ".yml"):
        if not path.is_file():
            raise FileNotFoundError(f"experiment file '{path}' does not exist")
        text, origin = path.read_text(encoding="utf-8"), str(path)
    elif str(source) in built_in():
        text, origin = (
            (resources.files("orchestrator") / "experiments" / f"{source}.yaml").read_text("utf-8"),
            str(source),
        )
    else:
        names = built_in()
        raise FileNotFoundError(
            f"no built-in experiment '{source}'{nearest(str(source), names)} "
            f"Built in: {', '.join(names)}; your own is given as a path that ends in .yaml"
        )
    return text, origin


def _settings(text: str, origin: str) -> dict[str, Any]:
    try:
        settings = yaml.safe_load(text)
    except yaml.YAMLError as error:
        raise ValueError(f"{origin} is not valid YAML: {' '.join(str(error).split())}") from error
    if not isinstance(settings, dict):
        raise ValueError(f"{origin} must be a mapping of settings such as name, dataset and model")
    return settings


def _change(override: str) -> tuple[str, Any]:
    """Key and value of `key=value`."""
    key, equals, text = override.partition("=")
    override = " ".join(override.split())
    if not equals or not key.strip():
        raise ValueError(f"--set {override}: write key=value, for instance --set training.epochs=10")
    try:
        return key.strip(), yaml.safe_load(text)
    except yaml.YAMLError as error:
        raise ValueError(f"--set {override}: the value is not valid YAML") from error


def _scale(settings: dict[str, Any], scale: Any, origin: str) -> None:
    """Make the changes that the file lists under `scales` for this scale; none for None."""
    scales = settings.pop("scales", {})
    if not isinstance(scales, Mapping) or not all(isinstance(changes, Mapping) for changes in scales.values()):
        raise ValueError(f"{origin}: 'scales' maps names such as small to changes, keys with dots as for --set")
    if scale is None:
        return
    if not scales:
        raise ValueError(f"{origin} has no scales: leave --set scale={scale} out")
    if scale not in scales:
        raise ValueError(f"{origin} has no scale '{scale}'{nearest(str(scale), scales)} It has: {', '.join(scales)}")
    settings["name"] = f"{settings.get('name')}-{scale}"
    for key, value in scales[scale].items():
        _set(settings, str(key), value, f"{origin}: scales.{scale}.{key}")


def _set(settings: dict[str, Any], key: str, value: Any, place: str) -> None:
    path = key.split(".")
    if path[0] in ("model", "models") and path[0] not in settings and {"model", "models"} & settings.keys():
        path[0] = "models" if path[0] == "model" else "model"
    _assign(settings, path, value, place)


def _assign(target: Any, path: list[str], value: Any, place: str) -> None:
    first, rest = path[0], path[1:]
    if isinstance(target, list):
        if not first.isdigit():
            for item in target:
                _assign(item, path, value, place)
        elif int(first) >= len(target):
            raise ValueError(f"{place}: the list has {len(target)} items, numbered from 0")
        elif rest:
            _assign(target[int(first)], rest, value, place)
        else:
            target[int(first)] = value
    elif isinstance(target, dict):
        if rest:
            if target.get(first) is None:
                target[first] = {}
            _assign(target[first], rest, value, place)
        else:
            target[first] = value
    else:
        raise ValueError(f"{place}: '{target}' has no setting '{first}'")


def _sentence(error: ValidationError, settings: Mapping[str, Any]) -> str:
    """The first problem as one sentence that names key, value and what is allowed."""
    problems = error.errors(include_url=False)
    problem = problems[0]
    location = [
        part for part in problem["loc"] if isinstance(part, int) or not str(part).startswith(("literal[", "tuple["))
    ]
    key = ".".join(_as_written(location, settings))
    more = f" (and {len(problems) - 1} more)" if len(problems) > 1 else ""
    if problem["type"] == "extra_forbidden":
        allowed = _fields(Experiment, location[:-1])
        return f"unknown key '{key}'{nearest(str(location[-1]), allowed)} Allowed: {', '.join(allowed)}{more}"
    if problem["type"] == "missing":
        return f"the key '{key}' is missing{more}"
    reason = problem["msg"].removeprefix("Value error, ").removeprefix("Input ")
    if not key:
        return f"{reason}{more}"
    if isinstance(problem["input"], Mapping):
        return f"'{key}': {reason}{more}"
    return f"'{key}' is {json.dumps(problem['input'], default=str, ensure_ascii=False)}: it {reason}{more}"


def _as_written(location: list[Any], settings: Any) -> Iterator[str]:
    """A place in the validated experiment as the user wrote it, without the number of an only item."""
    for part in location:
        if part == "models" and isinstance(settings, Mapping) and "model" in settings:
            part = "model"
        if isinstance(part, int) and not isinstance(settings, list):
            continue
        try:
            settings = settings[part]
        except (KeyError, IndexError, TypeError):
            settings = None
        yield str(part)


def _fields(model: type[BaseModel], location: list[Any]) -> list[str]:
    """Names of the settings at a place in the experiment."""
    for part in location:
        if isinstance(part, str):
            model = next(_models(model.model_fields[part].annotation))
    own = model.__annotations__
    names = sorted(model.model_fields, key=lambda name: name not in own)
    return [("model" if name == "models" else name) for name in names] if model is Experiment else names


def _models(annotation: Any) -> Iterator[type[BaseModel]]:
    if isinstance(annotation, type) and issubclass(annotation, BaseModel):
        yield annotation
    for argument in get_args(annotation):
        yield from _models(argument)
