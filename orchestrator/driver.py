"""Runs a plan on Ray: what is missing, in the order of the longest path, a bounded number of tasks at a time."""

import functools
import heapq
import itertools
import logging
import os
import socket
import sys
from collections import Counter
from collections.abc import Iterable
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import ray

from orchestrator import progress as progress_views
from orchestrator.experiment import Experiment, TaskConfig, make_importable
from orchestrator.facts import Facts, gather
from orchestrator.hardware import SEES_ALL_GPUS
from orchestrator.plan import Plan, Stage, make_plan
from orchestrator.records import failure, first_line
from orchestrator.stages import Context, Outcome, Work, execute
from orchestrator.store import Store
from workloads.config import DatasetConfig

BATCH_STAGES = 64
BATCH_SECONDS = 30.0
POLL_SECONDS = 1.0
WHOLE_GPUS = ("train", "fine-tune")
SHARE_OF_GPU = 0.25


@dataclass(frozen=True)
class Result:
    """How a run ended.

    Attributes:
        run: folder or URI of the run.
        stages: in the plan.
        before: done when the run began.
        done: stages done in this run.
        failed: first line of the error by stage key.
        blocked: stages that wait for a failed one.
    """

    run: str
    stages: int
    before: int
    done: int
    failed: dict[str, str] = field(default_factory=dict)
    blocked: int = 0

    @property
    def complete(self) -> bool:
        """Whether every stage is done."""
        return self.before + self.done == self.stages


def run(
    experiment: Experiment | str | Path,
    *,
    out: str | Path | None = None,
    address: str | None = None,
    progress: progress_views.Progress | None = None,
    overrides: Iterable[str] = (),
) -> Result:
    """Run what is missing of an experiment; what is done stays as it is.

    Args:
        experiment: an `Experiment`, the name of a built-in one or the path of a YAML file.
        out: folder or URI of the run; None is the experiment's `storage`, or `runs/<name>`.
        address: `local` starts Ray here, `auto` or `HOST:PORT` joins a cluster; None is `RAY_ADDRESS` or `local`.
        progress: where to tell how far it is; None is the terminal.
        overrides: `key=value` settings, where `experiment` is a name or path.

    Raises:
        ValueError, FileNotFoundError, ConnectionError: bad input; nothing was written.
    """
    if not isinstance(experiment, Experiment):
        make_importable(experiment)
        experiment = Experiment.load(experiment, overrides)
    facts = gather(experiment)
    return run_plan(experiment, facts, make_plan(experiment, facts), out=out, address=address, progress=progress)


def run_folder(experiment: Experiment, out: str | Path | None = None) -> str:
    """Where a run of the experiment lives; a local folder as an absolute path."""
    chosen = str(out or experiment.storage or Path("runs") / experiment.name)
    return chosen if "://" in chosen else str(Path(chosen).expanduser().absolute())


def run_plan(
    experiment: Experiment,
    facts: Facts,
    plan: Plan,
    *,
    out: str | Path | None = None,
    address: str | None = None,
    progress: progress_views.Progress | None = None,
) -> Result:
    """Run what is missing of a plan; see `run`."""
    store = Store(run_folder(experiment, out))
    pending = missing(plan, store)
    before = len(plan.stages) - len(pending)
    if not pending:
        write_plan(store, experiment, plan)
        return Result(store.uri, len(plan.stages), before, 0)
    view = progress or progress_views.for_terminal()
    started_here = connect(address)
    try:
        if started_here:
            check_fits(experiment, plan)
        write_plan(store, experiment, plan)
        driver = Driver(experiment, facts, plan, store, pending, view)
        todo = [plan.stages[key] for key in pending]
        view.start(plan.count(), plan.count() - Counter(s.kind for s in todo), sum(s.cost for s in todo))
        try:
            driver.loop()
        finally:
            view.stop()
    finally:
        if started_here:
            ray.shutdown()
    blocked = len(pending) - driver.done - len(driver.failed)
    return Result(store.uri, len(plan.stages), before, driver.done, driver.failed, blocked)


def missing(plan: Plan, store: Store) -> set[str]:
    """Stages that have to run: without results, or whose network is gone and needed by one that has to run."""
    done, networks = store.done(), store.network_keys()
    pending: set[str] = set()
    needed: set[str] = set()
    for stage in reversed(plan.stages.values()):
        if stage.key not in done or (stage.key in needed and stage.key not in networks):
            pending.add(stage.key)
            needed.update(stage.inputs)
    return pending


def write_plan(store: Store, experiment: Experiment, plan: Plan) -> None:
    """Leave the resolved experiment and its stages in the run; results that belong to no stage are not reported."""
    store.write(experiment.to_yaml().encode(), "experiment.yaml")
    rows = [{**s.labels, "cell": s.key, "kind": s.kind, "inputs": s.inputs} for s in plan.stages.values()]
    store.write_rows("plan", "plan", rows)


def connect(address: str | None) -> bool:
    """Connect to Ray unless that is done; whether a local Ray was started that has to be stopped.

    Raises:
        ConnectionError: there is no cluster at the address.
    """
    if ray.is_initialized():
        return False
    chosen = address or os.environ.get("RAY_ADDRESS") or "local"
    quiet: dict[str, Any] = {"logging_level": logging.ERROR, "log_to_driver": False}
    if chosen != "local":
        try:
            check_reachable(chosen)
            ray.init(address=chosen, **quiet)
        except (OSError, ValueError, RuntimeError, ray.exceptions.AuthenticationError) as error:
            raise ConnectionError(
                f"no Ray cluster answers at --address {chosen} ({str(error).partition(chr(10))[0]}): start one with "
                f"`ray start --head`, give this node its token in ~/.ray/auth_token or RAY_AUTH_TOKEN, or leave the "
                f"option out to run on this machine alone"
            ) from error
        return False
    os.environ.setdefault("RAY_USAGE_STATS_ENABLED", "0")
    ray.init(address="local", include_dashboard=False, object_store_memory=256 * 1024**2, **quiet)
    return True


def check_reachable(address: str) -> None:
    """Fail at once where nothing listens at HOST:PORT; Ray itself would try for minutes.

    Raises:
        OSError: the host or port does not answer.
        ValueError: neither `auto` nor HOST:PORT.
    """
    if address == "auto":
        return
    host, _, port = address.removeprefix("ray://").rpartition(":")
    if not host or not port.isdigit():
        raise ValueError("an address is auto, local or HOST:PORT")
    socket.create_connection((host, int(port)), timeout=10).close()


def located(dataset: DatasetConfig) -> DatasetConfig:
    """The data set with its root as an absolute path, since workers run in folders of their own."""
    if dataset.root is None:
        return dataset
    return dataset.model_copy(update={"root": str(Path(dataset.root).expanduser().absolute())})


def shared_context(experiment: Experiment, facts: Facts, store: Store) -> dict[str, Any]:
    """What the `Context` of every task of a run has in common: all but the threads."""
    return {
        "store": store.uri,
        "dataset": located(experiment.dataset).model_dump_json(),
        "checkpoints": {
            facts.models[m.label].checkpoint: str(Path(m.checkpoint).expanduser().absolute())
            for m in experiment.models
            if m.checkpoint
        },
        "snapshot_every": experiment.resources.snapshot_every,
        "import_paths": (os.getcwd(), *(path for path in sys.path if path)),
    }


def check_fits(experiment: Experiment, plan: Plan) -> None:
    """Refuse tasks that this machine could never run; a cluster may still grow, so there Ray waits for a node.

    Raises:
        ValueError: names the setting and what there is.
    """
    machine = ray.cluster_resources()
    for kind in plan.count():
        task = task_config(experiment, kind)
        for name, wanted, there, unit in (
            ("cpus", task.cpus, machine.get("CPU", 0.0), "CPUs"),
            ("gpus", task.gpus, machine.get("GPU", 0.0), "GPUs"),
            ("memory", task.memory, machine["memory"] / 2**30, "GiB for tasks"),
        ):
            if wanted is not None and wanted > there:
                setting = f"resources.{kind.replace('-', '_')}.{name}"
                raise ValueError(f"'{setting}' is {wanted:g}, but this machine has {there:.4g} {unit}")


def task_config(experiment: Experiment, kind: str) -> TaskConfig:
    """What the experiment says of the tasks of a kind."""
    return getattr(experiment.resources, kind.replace("-", "_"))


class Driver:
    """Submits the stages of a plan as tasks and follows them until none can run any more."""

    def __init__(
        self,
        experiment: Experiment,
        facts: Facts,
        plan: Plan,
        store: Store,
        pending: set[str],
        view: progress_views.Progress,
    ):
        self.experiment, self.plan, self.store, self.view = experiment, plan, store, view
        self.done = 0
        self.failed: dict[str, str] = {}
        self.priorities = plan.priorities()
        self.waits_for = {key: set(plan.stages[key].inputs) & pending for key in plan.stages if key in pending}
        self.readers: dict[str, list[str]] = {}
        for key, inputs in self.waits_for.items():
            for read in inputs:
                self.readers.setdefault(read, []).append(key)
        self.recorded = store.done()
        self.read = {key for stage in plan.stages.values() for key in stage.inputs}
        self.ready: dict[tuple, list[str]] = {}
        self.queue: list[tuple[float, int, tuple]] = []
        self.order = itertools.count()
        self.in_flight: dict[ray.ObjectRef, list[Stage]] = {}
        for key, inputs in self.waits_for.items():
            if not inputs:
                self.make_ready(plan.stages[key])
        cluster = ray.cluster_resources()
        self.cpus, self.gpus = cluster.get("CPU", 0.0), cluster.get("GPU", 0.0)
        self.window = experiment.resources.window or max(16, 4 * int(self.cpus))
        self.context = shared_context(experiment, facts, store)

    def make_ready(self, stage: Stage) -> None:
        """Queue a stage whose inputs are there, together with others of its batch."""
        if stage.batch not in self.ready:
            self.ready[stage.batch] = []
            heapq.heappush(self.queue, (-self.priorities[stage.key], next(self.order), stage.batch))
        self.ready[stage.batch].append(stage.key)

    def loop(self) -> None:
        """Submit and collect until nothing is ready or running."""
        while self.queue or self.in_flight:
            while self.queue and len(self.in_flight) < self.window:
                self.submit()
            self.view.running(self.running())
            finished, _ = ray.wait(list(self.in_flight), num_returns=1, timeout=POLL_SECONDS)
            for reference in finished:
                self.collect(reference)

    def running(self) -> Counter[str]:
        """Stages that workers are busy with, by kind: of the oldest tasks in flight, as many as fit the cluster."""
        cpus, gpus, kinds = self.cpus, self.gpus, Counter[str]()
        for batch in self.in_flight.values():
            reserved = self.reserved(batch[0].kind)
            cpus, gpus = cpus - reserved["num_cpus"], gpus - reserved["num_gpus"]
            if cpus < 0 or gpus < 0:
                break
            kinds[batch[0].kind] += 1
        return kinds

    def reserved(self, kind: str) -> dict[str, float]:
        """What a task of this kind takes of the cluster."""
        task = task_config(self.experiment, kind)
        default = (1.0 if kind in WHOLE_GPUS else SHARE_OF_GPU) if self.gpus else 0.0
        return {"num_cpus": task.cpus, "num_gpus": default if task.gpus is None else task.gpus}

    def submit(self) -> None:
        """Send the most urgent batch to Ray."""
        _, _, name = heapq.heappop(self.queue)
        stages = [self.plan.stages[key] for key in self.ready.pop(name)]
        sums = itertools.accumulate(stage.cost for stage in stages)
        size = max(1, min(BATCH_STAGES, sum(seconds <= BATCH_SECONDS for seconds in sums)))
        batch = stages[:size]
        for stage in stages[size:]:
            self.make_ready(stage)
        kind = batch[0].kind
        work = [
            Work(s.kind, s.key, s.parameters, s.inputs, s.labels, s.key in self.read, s.key not in self.recorded)
            for s in batch
        ]
        context = Context(**self.context, threads=max(1, int(self.reserved(kind)["num_cpus"])))
        task = self.task(kind).options(name=f"{kind} {batch[0].key}")
        self.in_flight[task.remote(work, context)] = batch

    @functools.cache  # noqa: B019 - a driver lives as long as its run
    def task(self, kind: str) -> Any:
        """The remote function for stages of a kind; workers serve many tasks, those with a GPU too."""
        options: dict[str, Any] = {**self.reserved(kind), "max_retries": self.experiment.resources.retries}
        # Ray itself would end a worker with its first task that used a GPU.
        options["max_calls"] = 0
        if options["num_gpus"]:
            options["runtime_env"] = SEES_ALL_GPUS
        if memory := task_config(self.experiment, kind).memory:
            options["memory"] = int(memory * 2**30)
        return ray.remote(**options)(execute)

    def collect(self, reference: ray.ObjectRef) -> None:
        """Take note of what a task reports; a task that died for good counts as failed."""
        batch = self.in_flight.pop(reference)
        try:
            outcomes: list[Outcome] = ray.get(reference)
        except ray.exceptions.RayError as error:
            outcomes = [Outcome(stage.key, 0.0, first_line(error)) for stage in batch]
            for stage in batch:
                row = {**stage.labels, "cell": stage.key, **failure(stage.kind, error)}
                self.store.write_rows("failures", stage.key, [row])
        for outcome in outcomes:
            stage = self.plan.stages[outcome.key]
            self.view.finished(stage.kind, stage.key, stage.cost, outcome.error)
            if outcome.error is not None:
                self.failed[stage.key] = outcome.error
                continue
            self.done += 1
            for reader in self.readers.get(stage.key, ()):
                self.waits_for[reader].discard(stage.key)
                if not self.waits_for[reader]:
                    self.make_ready(self.plan.stages[reader])
