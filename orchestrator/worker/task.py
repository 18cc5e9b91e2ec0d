"""What the stages of one Ray task share: the data set, images drawn from it, and values that several of them need."""

import json
from collections.abc import Mapping
from typing import Any

import torch
from torch import Tensor, nn

from orchestrator.storage.store import Store
from orchestrator.worker.hardware import device
from orchestrator.worker.latencies import latencies
from orchestrator.worker.networks import merged_network, stored_network
from orchestrator.worker.work import Context, Work, stage_seed
from workloads.compression import Sources
from workloads.compression.budgets import narrowed_copy
from workloads.compression.compensation import Originals
from workloads.config import CalibrationConfig, DatasetConfig, ModelConfig
from workloads.data import datasets
from workloads.data.samples import Dataset
from workloads.measuring.evaluation import parameter_count
from workloads.networks.checkpoints import Description
from workloads.networks.models import build
from workloads.structure.finding import trace
from workloads.structure.network import Network

CRITERION_BATCHES = 5
CRITERION_BATCH_SIZE = 128
CALIBRATION_IMAGES = 512


class Task:
    """The surroundings of the stages of one task.

    Attributes:
        context: what the driver says to all tasks.
        dataset: the experiment's data set.
        augmentation: of training batches.
        memory: values that stages leave for later ones of the task, by a name of their own.
        loaded: training images that the stage at hand has looked at.
    """

    def __init__(self, context: Context):
        self.context = context
        config = DatasetConfig(**json.loads(context.dataset))
        self.dataset: Dataset = datasets.load(config)
        self.augmentation = config.augmentation
        self.memory: dict[Any, Any] = {}
        self.loaded = 0

    def network(self, key: str) -> tuple[nn.Module, Description]:
        """The network that a stage left; shared, so copy it before you change it."""
        return stored_network(self.context.store, key)

    def merged(self, key: str) -> tuple[Network, Description]:
        """The same with batch-norm merged, and its groups; shared likewise."""
        return merged_network(self.context.store, key, self.dataset.shape)

    def first_images(self, work: Work, count: int | None) -> Tensor:
        """Numbers of training images, the same for every stage with the same seed; None is all, in their order."""
        pool = self.dataset.train_pool
        if count is None:
            return pool
        generator = torch.Generator().manual_seed(work.parameters.get("seed", 0))
        return pool[torch.randperm(len(pool), generator=generator)[:count]]

    def training_batches(self, work: Work, count: int, size: int) -> list[tuple[Tensor, Tensor]]:
        """`count` batches of normalised training images, the same for every stage with the same seed."""
        chosen = self.first_images(work, count * size)
        self.loaded = max(self.loaded, len(chosen))
        return list(self.dataset.batches("train", size, device(), chosen))

    def calibration_images(self, work: Work, count: int = CALIBRATION_IMAGES) -> list[Tensor]:
        """Unlabelled training images, the same for every stage with the same seed; fewer are the first of more."""
        batches = self.training_batches(work, 1, count)
        return [part for images, _ in batches for part in images.split(CRITERION_BATCH_SIZE)]

    def held_back_images(self, work: Work, count: int) -> list[Tensor]:
        """Unlabelled training images for searches: those that calibration would take last, half of all at most."""
        pool = self.dataset.train_pool
        generator = torch.Generator().manual_seed(work.parameters.get("seed", 0))
        chosen = pool[torch.randperm(len(pool), generator=generator)[-min(count, len(pool) // 2) :]]
        return [images for images, _ in self.dataset.batches("train", CRITERION_BATCH_SIZE, device(), chosen)]

    def sources(self, work: Work) -> Sources:
        """What the criterion and the method of a stage may look at."""
        return Sources(
            example=torch.zeros(1, *self.dataset.shape, device=device()),
            batches=lambda: self.training_batches(work, CRITERION_BATCHES, CRITERION_BATCH_SIZE),
            images=lambda: self.calibration_images(work),
            seed=work.parameters.get("seed", 0),
            method_seed=stage_seed(work.key),
            calibration=lambda count: self.calibration_images(work, count),
            originals=self.memory.setdefault("originals", Originals()),
        )

    def calibration(self, *settings: CalibrationConfig | None) -> str:
        """Which images a stage has looked at, in words; `settings` are those of its criterion and repair."""
        config = DatasetConfig(**json.loads(self.context.dataset))
        found = []
        if self.loaded:
            held_out = "" if config.held_out is None else f", less the held-out {config.held_out:g}"
            found.append(f"{self.loaded} of the {len(self.dataset.train_pool)} images of {config.train}{held_out}")
        made_up = dict.fromkeys((each.kind, each.count) for each in settings if each is not None and each.synthetic)
        found += [f"{count} made-up images ({kind})" for kind, count in made_up]
        return " and ".join(found) or "none"

    def milliseconds(self, model: nn.Module, description: Description) -> float:
        """The time of a forward pass of one image, measured once in a run for all networks of these widths."""
        found = latencies(Store(self.context.store), model, description, self.dataset.shape)
        return float(found["latency_1"])

    def unpruned(self, base: Network, description: Description) -> nn.Module:
        """A network of the widths that one had before any pruning, for what it costs.

        Raises:
            ValueError: what is built by its name has other widths.
        """
        if tuple(group.size for group in base.structure.groups) == description.widths:
            return base.model
        model = build(ModelConfig(**description.model), channels=description.channels, classes=description.classes)
        network = Network.prepared(model.to(device()), torch.zeros(1, *self.dataset.shape, device=device()))
        sizes = dict(enumerate(description.widths))
        if any(group.size < sizes.get(group.number, group.size) for group in network.structure.groups):
            raise ValueError(
                "the network had other widths before any pruning than its class builds: what it cost is lost"
            )
        return narrowed_copy(network, sizes)

    def describe(self, model: nn.Module, config: ModelConfig) -> Description:
        """What is remembered of a network before any pruning."""
        example = torch.zeros(1, *self.dataset.shape, device=next(model.parameters()).device)
        return Description(
            model=config.architecture,
            channels=self.dataset.shape[0],
            classes=len(self.dataset.classes),
            parameters=parameter_count(model),
            widths=tuple(group.size for group in trace(model, example).groups),
        )


def without_code(settings: Mapping[str, Any]) -> dict[str, Any]:
    """What a key says of a model, criterion or method, less the digest of the user's own code."""
    return {name: value for name, value in settings.items() if name != "code"}
