"""What has to be known about data, networks and the user's own code before a plan can be made."""

from dataclasses import dataclass
from typing import Any

import torch
from torch import nn

from orchestrator.settings.experiment import Experiment
from workloads.compression import criteria, methods
from workloads.compression.criteria import CRITERIA
from workloads.compression.methods import METHODS
from workloads.config import ModelConfig
from workloads.data import datasets
from workloads.measuring.evaluation import parameter_count
from workloads.measuring.latency import latency
from workloads.messages import first_line
from workloads.networks import checkpoints, models
from workloads.plugins import check_options, code_version, draws, lookup
from workloads.structure.finding import trace

ESTIMATE_SECONDS = 0.05


@dataclass(frozen=True)
class ModelFacts:
    """A network for the experiment's data.

    Attributes:
        widths: pairings of each group, in the paper's order.
        parameters: weights and biases.
        checkpoint: digest of the checkpoint file, or None.
        seconds_per_image: of a forward pass on one core of this machine, for estimates.
        kept: (layer, reason) for each group that cannot be pruned.
    """

    widths: tuple[int, ...]
    parameters: int
    checkpoint: str | None
    seconds_per_image: float
    kept: tuple[tuple[str, str], ...] = ()


@dataclass(frozen=True)
class Facts:
    """Everything that `plan` needs besides the experiment.

    Attributes:
        train, test: numbers of images in use.
        fingerprint: of the data set's files.
        models: by label.
        code: digests of the modules that define the user's own functions, by name.
        drawing: criteria and methods that draw, be it numbers or images: they depend on the seed.
    """

    train: int
    test: int
    fingerprint: str
    models: dict[str, ModelFacts]
    code: dict[str, str]
    drawing: frozenset[str] = frozenset()


def gather(experiment: Experiment) -> Facts:
    """Look at the data set's files, build and trace the networks, find the criteria and methods.

    Raises:
        ValueError, FileNotFoundError: one sentence on what is missing or does not fit together.
    """
    dataset = datasets.load(experiment.dataset)
    code = {
        name: digest
        for registry, kind, name in _functions(experiment)
        if (digest := code_version(registry, name, kind)) is not None
    }
    for grid in experiment.pruning:
        for criterion in grid.criteria:
            function = lookup(CRITERIA, criterion.name, "criterion")
            check_options(function, criterion.options, f"criterion '{criterion.name}'", criteria.GIVEN)
        for method in grid.methods:
            function = lookup(METHODS, method.name, "method")
            check_options(function, method.options, f"method '{method.name}'", methods.GIVEN)
    networks = {m.label: _model_facts(m, dataset.shape, len(dataset.classes)) for m in experiment.models}
    for grid in experiment.pruning:
        for label, network in networks.items():
            if isinstance(grid.groups, tuple) and max(grid.groups) >= len(network.widths):
                raise ValueError(
                    f"pruning.groups names group {max(grid.groups)}, but model '{label}' has groups 0 to "
                    f"{len(network.widths) - 1}"
                )
    return Facts(
        train=len(dataset.train_pool),
        test=len(dataset.test_pool),
        fingerprint=dataset.fingerprint,
        models=networks,
        code=code,
        drawing=frozenset(
            name
            for registry, kind, name in _functions(experiment)
            if kind in ("criterion", "method") and draws(lookup(registry, name, kind))
        ),
    )


def _functions(experiment: Experiment) -> list[tuple[dict[str, Any], str, str]]:
    found: list[tuple[dict[str, Any], str, str]] = [(datasets.DATASETS, "dataset", experiment.dataset.name)]
    found += [(models.MODELS, "model", model.name) for model in experiment.models]
    for grid in experiment.pruning:
        found += [(CRITERIA, "criterion", criterion.name) for criterion in grid.criteria]
        found += [(METHODS, "method", method.name) for method in grid.methods]
    return found


def _model_facts(config: ModelConfig, shape: tuple[int, int, int], classes: int) -> ModelFacts:
    model = models.build(config, channels=shape[0], classes=classes).eval()
    example = torch.zeros(1, *shape)
    try:
        with torch.inference_mode():
            logits = model(example)
    except Exception as error:
        raise ValueError(
            f"model '{config.name}' fails on an image of {' × '.join(map(str, shape))} (channels, height, width) "
            f"({first_line(error)}): if it needs another size, set dataset.size"
        ) from error
    if isinstance(logits, torch.Tensor) and logits.shape != (1, classes):
        raise ValueError(
            f"model '{config.name}' gives outputs of shape {tuple(logits.shape)} for an image, but has to give (1, "
            f"{classes}), one a class: its function gets the number as num_classes"
        )
    digest = None
    if config.checkpoint:
        state = checkpoints.read_state(config.checkpoint)
        checkpoints.load_state(model, state, config.checkpoint)
        digest = checkpoints.file_digest(config.checkpoint)
    try:
        structure = trace(model, example)
    except Exception as error:
        raise ValueError(f"model '{config.name}' cannot be pruned: {error}") from error
    return ModelFacts(
        widths=tuple(group.size for group in structure.groups),
        parameters=parameter_count(model),
        checkpoint=digest,
        seconds_per_image=_forward_seconds(model, shape),
        kept=structure.kept,
    )


def _forward_seconds(model: nn.Module, shape: tuple[int, int, int], images: int = 8) -> float:
    threads = torch.get_num_threads()
    torch.set_num_threads(1)
    try:
        return latency(model, shape, images, ESTIMATE_SECONDS).milliseconds / 1000 / images
    finally:
        torch.set_num_threads(threads)
