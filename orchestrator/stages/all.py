"""What one stage does: read its inputs from the store, call workloads, write results. Runs inside a Ray task."""

import contextlib
import copy
import functools
import json
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field, replace
from typing import Any

import torch
from torch import Tensor, nn

from orchestrator.storage.store import Store
from orchestrator.worker.hardware import device
from orchestrator.worker.rows import distance_row, epoch_row, evaluation_row, landscape_rows, split_rows
from orchestrator.worker.training_progress import EpochsTold
from orchestrator.worker.work import Context, Work
from workloads.compression.compress import Sources, compress, score
from workloads.compression.pairings import Pairings
from workloads.config import (
    CompressionConfig,
    DatasetConfig,
    FineTuningConfig,
    FusionConfig,
    LandscapeConfig,
    MeasuringConfig,
    ModelConfig,
    SplitsConfig,
    TrainingConfig,
)
from workloads.data import datasets
from workloads.data.samples import Dataset
from workloads.data.splits import Part, samples_of, subsets
from workloads.fusion.fuse import fuse
from workloads.measuring.evaluation import Measurement, accuracy, evaluate, evaluate_together, logits, parameter_count
from workloads.measuring.landscape import Plane, embedded
from workloads.measuring.precision import resolved
from workloads.networks import checkpoints
from workloads.networks.checkpoints import Description
from workloads.networks.models import build
from workloads.structure.finding import trace
from workloads.structure.network import Network
from workloads.training.loop import train
from workloads.training.snapshots import Epoch, Snapshot

CRITERION_BATCHES = 5
CRITERION_BATCH_SIZE = 128
CALIBRATION_IMAGES = 512


class LostNetwork(Exception):
    """The network that a stage left is gone or damaged: the stage has to run again.

    Attributes:
        key: of the stage.
    """

    def __init__(self, key: str, reason: Exception):
        super().__init__(f"the network of stage {key} is lost: {reason}")
        self.key = key


@dataclass(frozen=True)
class Output:
    """What a stage made: rows by table, none before its network is measured, and a network unless it only compares."""

    network: tuple[nn.Module, Description] | None
    rows: dict[str, list[dict[str, Any]]] = field(default_factory=dict)


@functools.lru_cache(maxsize=4)
def stored_network(uri: str, key: str) -> tuple[nn.Module, Description]:
    """A network from the store, on this worker's device; shared, so copy before changing it.

    Raises:
        LostNetwork: it is gone or damaged.
    """
    try:
        model, description = checkpoints.loads(*Store(uri).read_network(key))
    except (FileNotFoundError, checkpoints.DamagedNetwork) as error:
        raise LostNetwork(key, error) from error
    return model.to(device()), description


@functools.lru_cache(maxsize=2)
def merged_network(uri: str, key: str, shape: tuple[int, int, int]) -> tuple[Network, Description]:
    """The same with batch-norm merged, and its groups."""
    model, description = stored_network(uri, key)
    return Network.prepared(model, torch.zeros(1, *shape, device=device())), description


@functools.lru_cache(maxsize=1)
def stored_plane(uri: str, keys: tuple[str, ...], shape: tuple[int, int, int]) -> Plane:
    """The plane through a network from the store and two that were pruned from it."""
    original, *pruned = (merged_network(uri, key, shape) for key in keys)
    models = [
        embedded(network, original[0], {int(number): chosen for number, chosen in description.places.items()})
        for network, description in pruned
    ]
    return Plane([original[0].model, *models])


def forget_networks() -> None:
    """Drop the networks that this process keeps on a GPU."""
    for kept in (stored_plane, merged_network, stored_network):
        kept.cache_clear()
    torch.cuda.empty_cache()


class Worker:
    """Runs the stages of one task."""

    def __init__(self, context: Context):
        self.context = context
        config = DatasetConfig(**json.loads(context.dataset))
        self.dataset: Dataset = datasets.load(config)
        self.augmentation = config.augmentation
        self.scored: dict[tuple[Any, ...], tuple[Pairings, Tensor]] = {}
        self.outputs: dict[str, Tensor] = {}

    def run(self, work: Work) -> Output:
        """The whole output of one stage."""
        return self.measured(work, self.make(work))

    def make(self, work: Work) -> Output:
        """The output of one stage; its network is yet to be measured, unless it was trained."""
        kinds: dict[str, Callable[[Work], Output]] = {
            "train": self.train,
            "load": self.load,
            "fuse": self.fuse,
            "compress": self.compress,
            "fine-tune": self.fine_tune,
            "importances": self.importances,
            "distances": self.distances,
            "landscape": self.landscape,
        }
        return kinds[work.kind](work)

    def training_batches(self, work: Work, count: int, size: int) -> list[tuple[Tensor, Tensor]]:
        """`count` batches of normalised training images, the same for every stage with the same seed."""
        generator = torch.Generator().manual_seed(work.parameters.get("seed", 0))
        pool = self.dataset.train_pool
        chosen = pool[torch.randperm(len(pool), generator=generator)[: count * size]]
        return list(self.dataset.batches("train", size, device(), chosen))

    def tests(self, outputs: Sequence[Output], work: Work) -> list[Measurement]:
        """The measurements of networks that were made from the same one, together; `work` is of one of them."""
        models = [output.network[0] for output in outputs if output.network]
        return evaluate_together(models, self.dataset, precision=measuring(work).precision)

    def measured(self, work: Work, output: Output, test: Measurement | None = None) -> Output:
        """The output with the row of its network, for which it is measured unless `test` is given."""
        if output.rows or output.network is None:
            return output
        model, description = output.network
        precision = measuring(work).precision
        test = test or evaluate(model, self.dataset, precision=precision)
        store = Store(self.context.store)
        row = evaluation_row(store, model, description, self.dataset, test, 0, precision, work.labels)
        return replace(output, rows={"evaluations": [row]})

    def trained(self, model: nn.Module, description: Description, history: list[Epoch], work: Work) -> Output:
        """A network and the rows of its training."""
        precision = resolved(work.parameters["training"].get("precision", "auto"), device())
        test = history[-1].test if history else evaluate(model, self.dataset)
        assert test is not None
        store = Store(self.context.store)
        row = evaluation_row(store, model, description, self.dataset, test, len(history), "float32", work.labels)
        epochs = [epoch_row(epoch, precision) | {"final": False} for epoch in history]
        return Output((model, description), {"evaluations": [row], "epochs": epochs})

    def describe(self, model: nn.Module, config: ModelConfig) -> Description:
        """What is remembered of a network before any pruning."""
        example = torch.zeros(1, *self.dataset.shape, device=next(model.parameters()).device)
        return Description(
            model=config.model_dump(mode="json", exclude={"checkpoint"}),
            channels=self.dataset.shape[0],
            classes=len(self.dataset.classes),
            parameters=parameter_count(model),
            widths=tuple(group.size for group in trace(model, example).groups),
        )

    def train(self, work: Work) -> Output:
        """A model trained from scratch on all data or on one part of it."""
        settings = work.parameters
        config = ModelConfig(**without_code(settings["model"]))
        seed = stage_seed(work.key)
        model = build(config, channels=self.dataset.shape[0], classes=len(self.dataset.classes), seed=seed)
        model.to(device())
        pool = self.dataset.train_pool
        labels = self.dataset.train.labels[pool]
        parts: list[Part] = []
        if "splits" in settings:
            parts = subsets(labels, SplitsConfig(**settings["splits"]), settings["seed"])[settings["subset"]]
            pool = pool[samples_of(parts)]
        training = TrainingConfig(**settings["training"])
        history = self.learn(work, model, training, pool)
        output = self.trained(model, self.describe(model, config), history, work)
        output.rows["splits"] = split_rows(parts, labels, len(self.dataset.classes))
        return output

    def learn(self, work: Work, model: nn.Module, config: TrainingConfig, pool: Tensor) -> list[Epoch]:
        """Train a network in place, from the snapshot on that a lost worker left."""
        store, place = Store(self.context.store), snapshot_place(work.key)
        told = EpochsTold(store, work.key, config.epochs)
        start = None
        with contextlib.suppress(FileNotFoundError, ValueError):
            start = Snapshot.loads(store.read(*place))
        try:
            return train(
                model,
                self.dataset,
                config,
                seed=stage_seed(work.key),
                indices=pool,
                augmentation=self.augmentation,
                start=start,
                snapshot_every=self.context.snapshot_every,
                on_snapshot=lambda snapshot: store.write(snapshot.dumps(), *place),
                on_epoch=told,
            )
        finally:
            told.forget()

    def load(self, work: Work) -> Output:
        """A published network from its checkpoint file."""
        path = self.context.checkpoints[work.parameters["checkpoint"]]
        if checkpoints.file_digest(path) != work.parameters["checkpoint"]:
            raise ValueError(f"model.checkpoint '{path}' is not the file here that it was when the run was planned")
        config = ModelConfig(**without_code(work.parameters["model"]))
        model = build(config, channels=self.dataset.shape[0], classes=len(self.dataset.classes))
        checkpoints.load_state(model, checkpoints.read_state(path), path)
        model.to(device()).eval()
        return Output((model, self.describe(model, config)))

    def fuse(self, work: Work) -> Output:
        """One network from several."""
        config = FusionConfig(**work.parameters["fusion"])
        parents = [merged_network(self.context.store, key, self.dataset.shape) for key in work.inputs]
        batches = self.training_batches(work, 1, config.samples)
        models = [network.model for network, _ in parents]
        accuracies = [accuracy(model, batches) for model in models]
        images = [images for images, _ in batches]
        fused = fuse(models, [network.structure for network, _ in parents], images, config, accuracies)
        return Output((fused, replace(parents[0][1], places={})))

    def fine_tune(self, work: Work) -> Output:
        """A network after more epochs on all data."""
        model, description = stored_network(self.context.store, work.inputs[0])
        model = copy.deepcopy(model)
        config = FineTuningConfig(**work.parameters["training"])
        history = self.learn(work, model, config, self.dataset.train_pool)
        return self.trained(model, description, history, work)

    def compress(self, work: Work) -> Output:
        """A network with one group, or all in sequence, made narrower."""
        base, description = merged_network(self.context.store, work.inputs[0], self.dataset.shape)
        settings = {name: work.parameters[name] for name in CompressionConfig.model_fields if name in work.parameters}
        settings |= {part: without_code(settings[part]) for part in ("criterion", "method")}
        config = CompressionConfig(**settings)
        sources = self.sources(work)

        def scored(number: int) -> tuple[Pairings, Tensor]:
            criterion = json.dumps(config.criterion, sort_keys=True)
            shared = work.inputs, number, criterion, sources.seed
            if shared not in self.scored:
                if config.allocation == "uniform":
                    self.scored.clear()
                self.scored[shared] = score(base, number, config.criterion, sources)
            return self.scored[shared]

        pruned = compress(
            base, config, sources, originals=description.widths, parameters=description.parameters, scored=scored
        )
        places = {str(number): chosen.tolist() for number, chosen in pruned.places.items()}
        return Output((pruned.model, replace(description, places=places)))

    def importances(self, work: Work) -> Output:
        """The scores of a group's neurons."""
        base, _ = merged_network(self.context.store, work.inputs[0], self.dataset.shape)
        _, scores = score(base, work.parameters["group"], work.parameters["criterion"], self.sources(work))
        return Output(None, {"importances": [{"scores": scores.tolist()}]})

    def sources(self, work: Work) -> Sources:
        """What the criterion and the method of a stage may look at."""
        return Sources(
            example=torch.zeros(1, *self.dataset.shape, device=device()),
            batches=lambda: self.training_batches(work, CRITERION_BATCHES, CRITERION_BATCH_SIZE),
            images=lambda: self.calibration_images(work),
            seed=work.parameters.get("seed", 0),
            method_seed=stage_seed(work.key),
        )

    def distances(self, work: Work) -> Output:
        """How far the outputs of a network are from those of the one that it came from."""
        base, other = work.inputs
        if base not in self.outputs:
            self.outputs[base] = logits(stored_network(self.context.store, base)[0], self.dataset)
        row = distance_row(self.outputs[base], logits(stored_network(self.context.store, other)[0], self.dataset))
        return Output(None, {"output_distances": [row]})

    def landscape(self, work: Work) -> Output:
        """One row of the plane through a network and two that were pruned from it."""
        plane = stored_plane(self.context.store, work.inputs, self.dataset.shape)
        config = LandscapeConfig(**work.parameters["landscape"])
        rows = landscape_rows(plane, config, work.parameters["row"], self.dataset, measuring(work).precision)
        return Output(None, {"landscapes": rows})

    def calibration_images(self, work: Work) -> list[Tensor]:
        """Unlabelled training images, the same for every stage with the same seed."""
        batches = self.training_batches(work, 1, CALIBRATION_IMAGES)
        return [part for images, _ in batches for part in images.split(CRITERION_BATCH_SIZE)]


def without_code(settings: Mapping[str, Any]) -> dict[str, Any]:
    """What a key says of a model, criterion or method, less the digest of the user's own code."""
    return {name: value for name, value in settings.items() if name != "code"}


def measuring(work: Work) -> MeasuringConfig:
    """How the network of a stage is measured."""
    return MeasuringConfig(**work.parameters.get("measuring", {}))


def snapshot_place(key: str) -> tuple[str, str]:
    """Where the snapshot of a stage's training lies in the store."""
    return "snapshots", f"{key}.safetensors"


def stage_seed(key: str) -> int:
    """The seed of all random numbers of a stage."""
    return int(key[:12], 16)
