"""What has to be known about data, networks and the user's own code before a plan can be made."""

import copy
from collections.abc import Collection, Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field, replace

import torch
from torch import nn

from orchestrator.planning.fusing import fusions, try_fusions
from orchestrator.planning.trying import try_out
from orchestrator.settings.experiment import Experiment, PruningConfig
from orchestrator.tracking.trackers import trackers_of
from workloads.config import ModelConfig
from workloads.data import datasets
from workloads.data.samples import Dataset
from workloads.fusion.fuse import by_width
from workloads.measuring.evaluation import parameter_count
from workloads.measuring.latency import latency
from workloads.messages import first_line
from workloads.networks import checkpoints, weights
from workloads.networks.exporting import why_not_exportable
from workloads.networks.hubs.names import published, state_for
from workloads.networks.models import build
from workloads.plugins import CRITERION, DATASET, METHOD, MODEL, Plugin
from workloads.scope import GroupNames, matches, meant, ranges, ratios_of
from workloads.structure.finding import trace
from workloads.structure.groups import Structure

ESTIMATE_SECONDS = 0.05


@dataclass(frozen=True)
class ModelFacts:
    """A network for the experiment's data.

    Attributes:
        widths: pairings of each group, in the paper's order.
        parameters: weights and biases.
        checkpoint: digest of the checkpoint file or of the published weights, or None.
        parents: digests of the files of the networks that are fused, where these are given.
        published: revision and licence of published weights, as far as they are known.
        seconds_per_image: of a forward pass on one core of this machine, for estimates.
        kept: (layer, reason) for each group that cannot be pruned.
        kinds: of the groups.
        not_exportable: why torch.export cannot express what the experiment makes of it; None where it can, or where
            nobody asked.
        layers: that make each group.
        others: further layers, which patterns can name although they make no group.
    """

    widths: tuple[int, ...]
    parameters: int
    checkpoint: str | None
    seconds_per_image: float
    kept: tuple[tuple[str, str], ...] = ()
    kinds: tuple[str, ...] = ()
    parents: tuple[str, ...] = ()
    published: Mapping[str, str] = field(default_factory=dict)
    not_exportable: str | None = None
    layers: tuple[tuple[str, ...], ...] = ()
    others: tuple[str, ...] = ()

    @property
    def names(self) -> list[GroupNames]:
        """What patterns can name each group by."""
        layers = self.layers or ((),) * len(self.widths)
        return [GroupNames(self.kind(number), layers[number]) for number in range(len(self.widths))]

    def left_alone(self, patterns: Iterable[str]) -> set[int]:
        """The groups that patterns mean."""
        return {number for pattern in patterns for number in meant(pattern, self.names)}

    def knows(self, pattern: str) -> bool:
        """Whether a pattern means a group or matches a layer."""
        return bool(meant(pattern, self.names)) or any(matches(pattern, layer) for layer in self.others)

    def those_of(self, kinds: Collection[str]) -> list[str]:
        """Which of some kinds the network has groups of."""
        return [kind for kind in kinds if not self.kinds or kind in self.kinds]

    def numbers(self, kinds: Collection[str]) -> list[int]:
        """The groups of some kinds; all of them where kinds are not known."""
        return [number for number in range(len(self.widths)) if not self.kinds or self.kinds[number] in kinds]

    def kind(self, number: int) -> str:
        """The kind of a group."""
        return self.kinds[number] if self.kinds else "channels"


@dataclass(frozen=True)
class Facts:
    """Everything that `plan` needs besides the experiment.

    Attributes:
        train, test: numbers of images in use.
        fingerprint: of the data set's files.
        models: by label.
        code: digests of the modules that define the user's own functions, by name.
        drawing: criteria and methods that draw, be it numbers or images: they depend on the seed.
        dataset: name of the data set in results; empty is that of its function.
        notes: sentences on what of the data is left out or read otherwise than it stands, and which patterns match
            nothing in some networks.
        published: revision and licence of the data set, as far as they are known, by their columns in `settings`.
        measured_on: what of the data set is measured on, for whoever plans a run.
    """

    train: int
    test: int
    fingerprint: str
    models: dict[str, ModelFacts]
    code: dict[str, str]
    drawing: frozenset[str] = frozenset()
    dataset: str = ""
    notes: tuple[str, ...] = ()
    published: Mapping[str, str] = field(default_factory=dict)
    measured_on: str = ""


def gather(experiment: Experiment, exports: bool = False) -> Facts:
    """Look at the data set's files, build and trace the networks, find the criteria and methods, and try all of it.

    Args:
        exports: try torch.export too, on a narrowed network of each model, which takes about a second each.

    Raises:
        ValueError, FileNotFoundError: one sentence on what is missing or does not fit together.
    """
    trackers_of(experiment.tracking)
    dataset = datasets.load(experiment.dataset)
    plugins = all_plugins(experiment)
    networks: dict[str, ModelFacts] = {}
    for config in experiment.models:
        parents = networks_of(config, dataset)
        model, structure = anchor(parents)
        label = config.name_in_results
        networks[label] = facts_of(config, model, structure, dataset)
        try_fusions(experiment, config, parents, dataset)
        for grid in experiment.pruning_grids:
            check_groups(grid, label, networks[label])
        made = try_out(experiment, config, model, structure, dataset)
        if exports:
            networks[label] = replace(networks[label], not_exportable=why_not_exportable(made, dataset.shape))
    return Facts(
        train=len(dataset.train_pool),
        test=len(dataset.test_pool),
        fingerprint=dataset.fingerprint,
        models=networks,
        code={plugin.name: code for plugin in plugins if (code := plugin.code) is not None},
        drawing=frozenset(plugin.name for plugin in plugins if plugin.draws),
        dataset=dataset.label,
        notes=tuple(f"{dataset.label}: {note}" for note in dataset.notes) + tuple(unmatched(experiment, networks)),
        published={f"dataset.{name}": value for name, value in dataset.published.items()},
        measured_on=dataset.measured_on,
    )


def structures(experiment: Experiment) -> Iterator[tuple[str, Structure]]:
    """The groups of each network of an experiment, with its label.

    Raises:
        ValueError: a network cannot be built, or has none.
    """
    dataset = datasets.load(experiment.dataset)
    for config in experiment.models:
        parents = networks_of(config, dataset)
        yield config.name_in_results, anchor(parents)[1]


def all_plugins(experiment: Experiment) -> list[Plugin]:
    """Every data set, model, criterion and method that an experiment names, with its options checked.

    Raises:
        ValueError: one does not exist, or does not take what it gets.
    """
    found = [DATASET.plugin(experiment.dataset.name)]
    found += [MODEL.plugin(model.name, model.options) for model in experiment.models]
    for grid in experiment.pruning:
        found += [CRITERION.plugin(choice.name, choice.options) for choice in grid.criteria]
        found += [METHOD.plugin(choice.name, choice.options) for choice in grid.methods]
    for fusion in fusions(experiment):
        if fusion.method:
            found += [METHOD.plugin(fusion.method.name, fusion.method.options)]
            found += [CRITERION.plugin(fusion.criterion.name, fusion.criterion.options)]
    return found


def networks_of(config: ModelConfig, dataset: Dataset) -> list[tuple[nn.Module, Structure]]:
    """The network with its groups; where the model has several checkpoints, those of all of them.

    Raises:
        ValueError: see `built` and `traced`.
    """
    models = [built(config, dataset, path) for path in config.checkpoints or (config.checkpoint,)]
    return [(model, traced(config, model, dataset)) for model in models]


def anchor(parents: Sequence[tuple[nn.Module, Structure]]) -> tuple[nn.Module, Structure]:
    """Of several networks the one that the others are fused onto."""
    first, *_ = by_width([structure for _, structure in parents])
    return parents[first]


def built(config: ModelConfig, dataset: Dataset, checkpoint: str | None) -> nn.Module:
    """The network with the weights of a checkpoint if there is one, in evaluation mode.

    Raises:
        ValueError: it is none, does not run on the data set's images, or does not give one output a class.
    """
    shape, classes = dataset.shape, len(dataset.classes)
    model = build(config, channels=shape[0], classes=classes)
    before = copy.deepcopy(model.state_dict())
    try:
        with torch.inference_mode():
            logits = model.eval()(torch.zeros(1, *shape))
    except (Exception, SystemExit) as error:  # own code may also try to end the process
        raise ValueError(
            f"model '{config.name}' fails on an image of {' × '.join(map(str, shape))} (channels, height, width) "
            f"({first_line(error)}): if it needs another size, set dataset.size"
        ) from error
    if not isinstance(logits, torch.Tensor):
        raise ValueError(
            f"model '{config.name}' returns {type(logits).__name__} for an image: it has to return a tensor of logits"
        )
    if logits.shape != (1, classes):
        raise ValueError(
            f"model '{config.name}' gives outputs of shape {tuple(logits.shape)} for an image, but has to give (1, "
            f"{classes}), one a class: its function gets the number as num_classes"
        )
    for name, tensor in model.state_dict().items():
        if not torch.equal(tensor, before[name]) and not bool(tensor.isnan().any()):
            raise ValueError(
                f"model '{config.name}' changes its '{name}' whenever it runs, so that what it gives depends on what "
                f"ran before: let it do so in training mode alone (if self.training: ...)"
            )
    origin = checkpoint or f"the published weights of {config.name}"
    if checkpoint or config.from_hub:
        state = (
            weights.read_state(checkpoint)
            if checkpoint
            else state_for(config, channels=shape[0], classes=dataset.classes)
        )
        checkpoints.load_state(model, state, origin, any_width=bool(config.checkpoints))
        try:
            with torch.inference_mode():
                model(torch.zeros(1, *shape))
        except Exception as error:
            raise ValueError(f"the network in '{origin}' does not run: {first_line(error)}") from error
    return model


def traced(config: ModelConfig, model: nn.Module, dataset: Dataset) -> Structure:
    """The groups of the network.

    Raises:
        ValueError: there are none that can be pruned.
    """
    try:
        checkpoints.ties(model)
    except ValueError as error:
        raise ValueError(f"model '{config.name}' cannot be stored: {error}") from error
    try:
        return trace(model, torch.zeros(1, *dataset.shape))
    except (Exception, SystemExit) as error:
        raise ValueError(f"model '{config.name}' cannot be pruned: {error}") from error


def facts_of(config: ModelConfig, model: nn.Module, structure: Structure, dataset: Dataset) -> ModelFacts:
    """What the plan needs to know of a network."""
    of_hub = published(config) if config.from_hub else None
    known = {"model.revision": of_hub.revision, "model.licence": of_hub.licence} if of_hub else {}
    return ModelFacts(
        widths=tuple(group.size for group in structure.groups),
        parameters=parameter_count(model),
        checkpoint=of_hub.digest if of_hub else weights.file_digest(config.checkpoint) if config.checkpoint else None,
        parents=tuple(weights.file_digest(path) for path in config.checkpoints or ()),
        seconds_per_image=forward_seconds(model, dataset.shape),
        kept=structure.kept,
        kinds=tuple(group.kind for group in structure.groups),
        published={name: value for name, value in known.items() if value},
        layers=tuple(group.layers for group in structure.groups),
        others=tuple(structure.sizes),
    )


def check_groups(grid: PruningConfig, label: str, network: ModelFacts) -> None:
    """Refuse a grid that names groups, or kinds of groups, that a network does not have, or that leaves none to prune.

    Raises:
        ValueError: names them and what there is.
    """
    count = len(network.widths)
    numbers = grid.named_groups
    if numbers and max(numbers) >= count:
        raise ValueError(f"pruning.groups names group {max(numbers)}, but model '{label}' has groups 0 to {count - 1}")
    if not network.numbers(grid.kinds):
        raise ValueError(
            f"pruning.kinds is {', '.join(grid.kinds)}, but the groups of model '{label}' are of kind "
            f"{', '.join(sorted(set(network.kinds)))}"
        )
    ignored = network.left_alone(grid.ignore)
    if both := ignored.intersection(numbers):
        raise ValueError(
            f"pruning.groups names group {min(both)} of model '{label}', which pruning.ignore leaves alone: remove it "
            f"from one of the two"
        )
    if ignored.issuperset(network.numbers(grid.kinds)):
        raise ValueError(
            f"pruning.ignore leaves nothing of model '{label}' to prune: it means groups {ranges(ignored)}"
        )
    for sparsity in grid.sparsities:
        if isinstance(sparsity, Mapping):
            try:
                ratios = ratios_of(sparsity, network.names)
            except ValueError as error:
                raise ValueError(f"pruning.sparsities {error}; model '{label}'") from error
            if ignored.issuperset(ratios):
                raise ValueError(
                    f"pruning.sparsities gives shares to groups {ranges(ratios)} of model '{label}', which "
                    f"pruning.ignore leaves alone"
                )


def unmatched(experiment: Experiment, networks: Mapping[str, ModelFacts]) -> Iterator[str]:
    """A sentence for each pattern of `ignore` that matches nothing in some of the networks.

    Raises:
        ValueError: one matches nothing in any of them.
    """
    for pattern in dict.fromkeys(pattern for grid in experiment.pruning for pattern in grid.ignore):
        without = [label for label, network in networks.items() if not network.knows(pattern)]
        sentence = f"pruning.ignore has '{pattern}', which is neither a layer nor a kind of group of {listed(without)}"
        if len(without) == len(networks):
            raise ValueError(f"{sentence}: `metaprune groups` names them")
        if without:
            yield sentence


def listed(labels: Sequence[str]) -> str:
    """`'a' and 'b'`."""
    return " and ".join(f"'{label}'" for label in labels)


def forward_seconds(model: nn.Module, shape: tuple[int, int, int], images: int = 8) -> float:
    """Seconds of a forward pass of one image on one core."""
    threads = torch.get_num_threads()
    torch.set_num_threads(1)
    try:
        return latency(model, shape, images, ESTIMATE_SECONDS).milliseconds / 1000 / images
    finally:
        torch.set_num_threads(threads)
