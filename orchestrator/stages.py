"""What one stage does: read its inputs from the store, call workloads, write results. Runs inside a Ray task."""

import contextlib
import copy
import functools
import hashlib
import json
import sys
import time
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from datetime import UTC, datetime
from typing import Any, ClassVar

import torch
from torch import Tensor, nn

from orchestrator.environment import environment
from orchestrator.records import failure, first_line, recorded_environment, timing
from orchestrator.store import Store
from workloads import checkpoints, datasets
from workloads.checkpoints import Description
from workloads.compression import Network, Sources, compress, score
from workloads.config import (
    CompressionConfig,
    DatasetConfig,
    FineTuningConfig,
    FusionConfig,
    ModelConfig,
    SplitsConfig,
    TrainingConfig,
)
from workloads.evaluation import Measurement, accuracy, evaluate, latency, mac_count, parameter_count
from workloads.fusion import fuse
from workloads.groups import Pairings
from workloads.models import build
from workloads.samples import Dataset
from workloads.snapshots import Epoch, Snapshot
from workloads.splits import Part, samples_of, subsets
from workloads.tracing import trace
from workloads.training import train

CRITERION_BATCHES = 5
CRITERION_BATCH_SIZE = 128
CALIBRATION_IMAGES = 512
LATENCY_BATCHES = (1, 64)


@dataclass(frozen=True)
class Work:
    """A stage on its way to a worker.

    Attributes:
        kind, key, parameters, inputs, labels: of the stage.
        keep: whether the network is stored, because another stage reads it.
        record: whether rows are written; not where they are there and only the network has to be made again.
    """

    kind: str
    key: str
    parameters: Mapping[str, Any]
    inputs: tuple[str, ...]
    labels: Mapping[str, Any]
    keep: bool
    record: bool


@dataclass(frozen=True)
class Context:
    """What all tasks of a run share.

    Attributes:
        store: URI of the run.
        dataset: settings of the data set, JSON.
        checkpoints: path of the checkpoint file by its digest.
        threads: CPU threads of the task.
        import_paths: folders where the user's own modules are found.
        snapshot_every: epochs between two snapshots of a training.
    """

    store: str
    dataset: str
    checkpoints: Mapping[str, str]
    threads: int
    import_paths: tuple[str, ...] = ()
    snapshot_every: int = 0


@dataclass(frozen=True)
class Outcome:
    """What a worker reports of a stage: done, or the first line of what went wrong."""

    key: str
    seconds: float
    error: str | None = None


@dataclass
class Output:
    """What a stage made: a network, and rows by table."""

    model: nn.Module
    description: Description
    evaluations: list[dict[str, Any]] = field(default_factory=list)
    epochs: list[dict[str, Any]] = field(default_factory=list)
    splits: list[dict[str, Any]] = field(default_factory=list)


@functools.lru_cache(maxsize=4)
def stored_network(uri: str, key: str) -> tuple[nn.Module, Description]:
    """A network from the store, on this worker's device; shared, so copy before changing it."""
    content, origin = Store(uri).read_network(key)
    model, description = checkpoints.loads(content, origin)
    return model.to(device()), description


@functools.lru_cache(maxsize=2)
def merged_network(uri: str, key: str, shape: tuple[int, int, int]) -> tuple[Network, Description]:
    """The same with batch-norm merged, and its groups."""
    model, description = stored_network(uri, key)
    return Network.prepared(model, torch.zeros(1, *shape, device=device())), description


def device() -> torch.device:
    """The GPU that Ray assigned, or the CPU."""
    return torch.device("cuda" if torch.cuda.is_available() else "cpu")


class Worker:
    """Runs the stages of one task.

    Attributes:
        latencies: columns of measured time by the shape of a network, for all tasks of the process.
    """

    latencies: ClassVar[dict[tuple[Any, ...], dict[str, float]]] = {}

    def __init__(self, context: Context):
        self.context = context
        config = DatasetConfig(**json.loads(context.dataset))
        self.dataset: Dataset = datasets.load(config)
        self.augmentation = config.augmentation
        self.scored: dict[tuple[Any, ...], tuple[Pairings, Tensor]] = {}

    def run(self, work: Work) -> Output:
        """The output of one stage."""
        kinds: dict[str, Callable[[Work], Output]] = {
            "train": self.train,
            "load": self.load,
            "fuse": self.fuse,
            "compress": self.compress,
            "fine-tune": self.fine_tune,
        }
        return kinds[work.kind](work)

    def training_batches(self, work: Work, count: int, size: int) -> list[tuple[Tensor, Tensor]]:
        """`count` batches of normalised training images, the same for every stage with the same seed."""
        generator = torch.Generator().manual_seed(work.parameters.get("seed", 0))
        pool = self.dataset.train_pool
        chosen = pool[torch.randperm(len(pool), generator=generator)[: count * size]]
        return list(self.dataset.batches("train", size, device(), chosen))

    def evaluation(
        self, model: nn.Module, description: Description, test: Measurement, epoch: int, work: Work
    ) -> dict[str, Any]:
        """The columns of `evaluations` that a measured network fills."""
        parameters = parameter_count(model)
        planned = work.labels["neuron_sparsity"]
        return {
            "epoch": epoch,
            "neuron_sparsity": self.neuron_sparsity(model, description, work) if planned is None else planned,
            "weight_sparsity": 1 - parameters / description.parameters,
            "parameters": parameters,
            "macs": mac_count(model, self.dataset.shape),
            "accuracy": test.accuracy,
            "accuracy_top5": test.accuracy_top5,
            "loss": test.loss,
            "seconds": test.seconds,
            **self.latency(model, description),
            "device": environment()["gpu"] or environment()["processor"],
        }

    def neuron_sparsity(self, model: nn.Module, description: Description, work: Work) -> float:
        """The share of pairings that were removed from the pruned group, or from all."""
        widths = [group.size for group in trace(model, torch.zeros(1, *self.dataset.shape, device=device())).groups]
        group = work.labels["group"]
        pruned = slice(None) if group is None else slice(group, group + 1)
        return 1 - sum(widths[pruned]) / sum(description.widths[pruned])

    def latency(self, model: nn.Module, description: Description) -> dict[str, float]:
        """The columns of measured time; networks of equal layers and widths share one measurement."""
        widths = tuple((name, tuple(tensor.shape)) for name, tensor in model.state_dict().items())
        settings = json.dumps(description.model, sort_keys=True)
        shape = settings, widths, self.dataset.shape, torch.get_num_threads()
        if shape not in self.latencies:
            self.latencies[shape] = {f"latency_{n}": latency(model, self.dataset.shape, n) for n in LATENCY_BATCHES}
        return self.latencies[shape]

    def measured(self, model: nn.Module, description: Description, work: Work) -> Output:
        """A network and its measurement before any epoch."""
        row = self.evaluation(model, description, evaluate(model, self.dataset), 0, work)
        return Output(model, description, [row])

    def trained(self, model: nn.Module, description: Description, history: list[Epoch], work: Work) -> Output:
        """A network and the rows of its training."""
        output = Output(model, description)
        for epoch in history:
            row = {
                "epoch": epoch.epoch,
                "learning_rate": epoch.learning_rate,
                "train_loss": epoch.train_loss,
                "train_accuracy": epoch.train_accuracy,
                "seconds": epoch.seconds,
            }
            if epoch.test:
                row |= {"test_loss": epoch.test.loss, "test_accuracy": epoch.test.accuracy}
            output.epochs.append(row)
        last = history[-1].test if history else evaluate(model, self.dataset)
        assert last is not None
        output.evaluations.append(self.evaluation(model, description, last, len(history), work))
        return output

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
        output.splits = [
            {
                "part": number,
                "start": part.start,
                "end": part.end,
                "samples": labels[part.samples].bincount(minlength=len(self.dataset.classes)).tolist(),
            }
            for number, part in enumerate(parts)
        ]
        return output

    def learn(self, work: Work, model: nn.Module, config: TrainingConfig, pool: Tensor) -> list[Epoch]:
        """Train a network in place, from the snapshot on that a lost worker left."""
        store, place = Store(self.context.store), snapshot_place(work.key)
        start = None
        if store.exists(*place):
            with contextlib.suppress(ValueError):
                start = Snapshot.loads(store.read(*place))
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
        )

    def load(self, work: Work) -> Output:
        """A published network from its checkpoint file."""
        path = self.context.checkpoints[work.parameters["checkpoint"]]
        config = ModelConfig(**without_code(work.parameters["model"]))
        model = build(config, channels=self.dataset.shape[0], classes=len(self.dataset.classes))
        checkpoints.load_state(model, checkpoints.read_state(path), path)
        model.to(device()).eval()
        return self.measured(model, self.describe(model, config), work)

    def fuse(self, work: Work) -> Output:
        """One network from several."""
        config = FusionConfig(**work.parameters["fusion"])
        parents = [merged_network(self.context.store, key, self.dataset.shape) for key in work.inputs]
        batches = self.training_batches(work, 1, config.samples)
        models = [network.model for network, _ in parents]
        accuracies = [accuracy(model, batches) for model in models]
        images = [images for images, _ in batches]
        fused = fuse(models, [network.structure for network, _ in parents], images, config, accuracies)
        return self.measured(fused, parents[0][1], work)

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
        config = CompressionConfig(**settings)
        sources = Sources(
            example=torch.zeros(1, *self.dataset.shape, device=device()),
            batches=lambda: self.training_batches(work, CRITERION_BATCHES, CRITERION_BATCH_SIZE),
            images=lambda: self.calibration_images(work),
            seed=work.parameters.get("seed", 0),
            method_seed=stage_seed(work.key),
        )

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
        return self.measured(pruned.model, description, work)

    def calibration_images(self, work: Work) -> list[Tensor]:
        """Unlabelled training images, the same for every stage with the same seed."""
        batches = self.training_batches(work, 1, CALIBRATION_IMAGES)
        return [part for images, _ in batches for part in images.split(CRITERION_BATCH_SIZE)]


def without_code(settings: Mapping[str, Any]) -> dict[str, Any]:
    """Model settings from a key, less the digest of the user's own code."""
    return {name: value for name, value in settings.items() if name != "code"}


def snapshot_place(key: str) -> tuple[str, str]:
    """Where the snapshot of a stage's training lies in the store."""
    return "snapshots", f"{key}.safetensors"


def stage_seed(key: str) -> int:
    """The seed of all random numbers of a stage."""
    return int(key[:12], 16)


def execute(batch: Sequence[Work], context: Context) -> list[Outcome]:
    """Run the stages of one task and write what they made; the rows in `timings` come last and make them done.

    A stage that raises becomes a row in `failures`; the others of the task go on.
    """
    for path in context.import_paths:
        if path not in sys.path:
            sys.path.append(path)
    torch.set_num_threads(context.threads)
    store = Store(context.store)
    provenance = {"environment": recorded_environment(context.store)}
    rows: dict[str, list[dict[str, Any]]] = {"evaluations": [], "epochs": [], "splits": [], "timings": []}
    outcomes = []
    worker = None
    for work in batch:
        labels = {**work.labels, "cell": work.key, **provenance}
        started, clock = datetime.now(UTC), time.perf_counter()
        try:
            worker = worker or Worker(context)
            output = worker.run(work)
            if work.keep:
                store.write_network(work.key, checkpoints.dumps(output.model, output.description))
        except Exception as error:
            outcomes.append(Outcome(work.key, time.perf_counter() - clock, first_line(error)))
            store.write_rows("failures", work.key, [{**labels, **failure(work.kind, error)}])
            continue
        seconds = time.perf_counter() - clock
        outcomes.append(Outcome(work.key, seconds))
        if not work.record:
            continue
        rows["evaluations"] += [{**labels, **row} for row in output.evaluations]
        rows["epochs"] += [{**labels, **row, "final": False} for row in output.epochs]
        rows["splits"] += [{**labels, **row} for row in output.splits]
        rows["timings"].append({**labels, **timing(work.kind, started, seconds, context.threads)})
    shard = hashlib.sha256(" ".join(row["cell"] for row in rows["timings"]).encode()).hexdigest()[:20]
    for table, written in rows.items():
        if written:
            store.write_rows(table, shard, written)
    for outcome in outcomes:
        if outcome.error is None:
            store.delete("results", "failures", f"{outcome.key}.parquet")
            store.delete(*snapshot_place(outcome.key))
    return outcomes
