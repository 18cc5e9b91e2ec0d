"""Sends the stages of a plan to Ray as tasks, a bounded number at a time, and follows them until none can run."""

import time
from collections import Counter
from collections.abc import Callable, Collection, Mapping, Sequence
from dataclasses import replace
from typing import Any

import ray

from orchestrator.planning.context import task_config
from orchestrator.planning.plan import Plan, Stage
from orchestrator.running import progress as progress_views
from orchestrator.running.frontier import Frontier
from orchestrator.running.lease import Lease
from orchestrator.settings.experiment import Experiment
from orchestrator.storage.store import StorageError, Store
from orchestrator.worker.hardware import SEES_ALL_GPUS
from orchestrator.worker.records import failure
from orchestrator.worker.training_progress import reached
from orchestrator.worker.work import Context, Outcome, Work
from workloads.messages import first_line

Body = Callable[[Sequence[Work], Context], list[Outcome]]
POLL_SECONDS = 1.0
LOOK_SECONDS = 10.0
WHOLE_GPUS = ("train", "fine-tune")
SHARE_OF_GPU = 0.25


class Dispatcher:
    """Sends stages to Ray and takes note of how they end.

    Args:
        context: what the tasks of the run have in common.
        body: what a task does.

    Attributes:
        done: stages done that were not done before.
        failed: first line of the error by stage key.
        postponed: stages that ran out of memory; when nothing else is left, each runs once more with a node to itself.
    """

    def __init__(
        self,
        experiment: Experiment,
        plan: Plan,
        store: Store,
        frontier: Frontier,
        context: Context,
        view: progress_views.Progress,
        lease: Lease,
        body: Body,
    ):
        self.experiment, self.plan, self.store, self.frontier = experiment, plan, store, frontier
        self.context, self.view, self.lease, self.body = context, view, lease, body
        self.done = 0
        self.failed: dict[str, str] = {}
        self.postponed: list[Stage] = []
        self.recorded, self.failures = store.done(), store.failed()
        self.read = {key for stage in plan.stages.values() for key in stage.inputs}
        self.in_flight: dict[ray.ObjectRef[list[Outcome]], list[Stage]] = {}
        self.alone: set[ray.ObjectRef[list[Outcome]]] = set()
        self.making_again: set[str] = set()
        self.made_again: set[str] = set()
        self.waited: set[tuple[str, str]] = set()
        self.tasks: dict[tuple[str, float], Any] = {}
        self.lacking: set[str] = set()
        self.looked = float("-inf")
        self.reached: Collection[tuple[int, int]] = ()
        self.nodes: list[dict[str, float]] = []
        self.cpus = self.gpus = 0.0
        self.window = 0

    def loop(self) -> None:
        """Submit and collect until nothing is ready or running; nothing is left running where that is cut short."""
        told = float("-inf")
        try:
            while self.frontier or self.in_flight or self.postponed:
                self.look()
                self.fill()
                if time.monotonic() - told >= POLL_SECONDS:
                    told = time.monotonic()
                    running = self.running()
                    self.view.training(self.reached)
                    self.view.running(running)
                    self.lease.renew(running)
                if not self.in_flight:
                    time.sleep(POLL_SECONDS)
                    continue
                finished, _ = ray.wait(list(self.in_flight), num_returns=1, timeout=POLL_SECONDS)
                for reference in finished:
                    self.collect(reference)
        finally:
            for reference in self.in_flight:
                ray.cancel(reference, force=True)
            self.lacks("nodes", False)

    def look(self) -> None:
        """See now and then what the cluster has, which may grow and shrink, and how far trainings are."""
        if time.monotonic() - self.looked < LOOK_SECONDS:
            return
        self.nodes = [node["Resources"] for node in ray.nodes() if node["Alive"]]
        self.cpus, self.gpus = (sum(node.get(name, 0.0) for node in self.nodes) for name in ("CPU", "GPU"))
        self.window = self.experiment.resources.window or max(16, 4 * int(self.cpus))
        if self.lacks("nodes", not self.cpus, "the cluster has no node for tasks yet: waiting for one"):
            ask_for_cpus(1)
            return
        self.looked = time.monotonic()
        for kind in {batch[0].kind for batch in self.in_flight.values()}:
            wanted = self.reserved(kind)
            told = ", ".join(f"{amount:g} {name}" for name, amount in wanted.items() if amount)
            self.lacks(
                kind,
                not any(fits(node, wanted) for node in self.nodes),
                f"no node has what a task of kind {kind} reserves ({told}): waiting for one; "
                f"resources.{kind.replace('-', '_')} in the experiment says how much that is",
            )
        flying = [stage.key for batch in self.in_flight.values() for stage in batch if stage.kind in WHOLE_GPUS]
        self.reached = reached(self.store, flying).values() if flying else ()

    def lacks(self, what: str, lacking: bool, text: str = "") -> bool:
        """Whether something is lacking, which is told when it begins to."""
        if lacking and what not in self.lacking:
            self.lacking.add(what)
            self.view.note(text)
        if not lacking and what in self.lacking:
            self.lacking.remove(what)
            if what == "nodes":
                ask_for_cpus(0)
        return lacking

    def fill(self) -> None:
        """Submit what is ready as far as the window goes; where nothing is, what was postponed."""
        if not self.cpus:
            return
        while self.frontier and len(self.in_flight) < self.window:
            self.submit(self.frontier.pop(max(1, int(self.cpus))))
        if not self.in_flight:
            for stage in self.postponed:
                self.submit([stage], alone=True)
            self.postponed.clear()

    def running(self) -> Counter[str]:
        """Stages that workers are busy with, by kind: of the oldest tasks in flight, those that fit the nodes."""
        free, kinds = [dict(node) for node in self.nodes], Counter[str]()
        for batch in self.in_flight.values():
            wanted = self.reserved(batch[0].kind)
            node = next((node for node in free if fits(node, wanted)), None)
            if node is not None:
                kinds[batch[0].kind] += 1
                for name, amount in wanted.items():
                    node[name] = node.get(name, 0.0) - amount
        return kinds

    def reserved(self, kind: str) -> dict[str, float]:
        """What a task of this kind takes of a node: CPU, GPU, and memory in bytes, under Ray's names."""
        task = task_config(self.experiment, kind)
        default = (1.0 if kind in WHOLE_GPUS else SHARE_OF_GPU) if self.gpus else 0.0
        gpus = default if task.gpus is None else task.gpus
        return {"CPU": task.cpus, "GPU": gpus, "memory": int((task.memory or 0) * 2**30)}

    def submit(self, batch: list[Stage], *, alone: bool = False) -> None:
        """Send stages of one kind to Ray as one task, with a node to itself where it shall be alone."""
        kind = batch[0].kind
        work = [
            Work(s.kind, s.key, s.parameters, s.inputs, s.labels, s.key in self.read, s.key not in self.recorded)
            for s in batch
        ]
        reserved = self.reserved(kind)
        limit = task_config(self.experiment, kind).time_limit
        context = replace(self.context, threads=max(1, int(reserved["CPU"])), time_limit=limit)
        cpus = self.whole_node(reserved) if alone else reserved["CPU"]
        task = self.task(kind).options(name=f"{kind} {batch[0].key}", num_cpus=cpus)
        reference = task.remote(work, context)
        self.in_flight[reference] = batch
        if alone:
            self.alone.add(reference)

    def whole_node(self, reserved: dict[str, float]) -> float:
        """The CPUs of the largest node that has room for this reservation."""
        return max((node["CPU"] for node in self.nodes if fits(node, reserved)), default=reserved["CPU"])

    def task(self, kind: str) -> Any:
        """The remote function for stages of a kind; workers serve many tasks, those with a GPU too."""
        reserved = self.reserved(kind)
        name = kind, reserved["GPU"]
        if name not in self.tasks:
            options: dict[str, Any] = {"num_cpus": reserved["CPU"], "num_gpus": reserved["GPU"]}
            # Ray itself would end a worker with its first task that used a GPU.
            options |= {"max_retries": self.experiment.resources.retries, "max_calls": 0}
            if reserved["GPU"]:
                options["runtime_env"] = SEES_ALL_GPUS
            if reserved["memory"]:
                options["memory"] = reserved["memory"]
            self.tasks[name] = ray.remote(**options)(self.body)
        return self.tasks[name]

    def collect(self, reference: ray.ObjectRef[list[Outcome]]) -> None:
        """Take note of what a task reports; of one that died for good, each stage runs by itself, then has failed."""
        batch = self.in_flight.pop(reference)
        try:
            outcomes: list[Outcome] = ray.get(reference)
        except ray.exceptions.RayError as error:
            if isinstance(cause := getattr(error, "cause", None), StorageError):
                raise cause from None
            if isinstance(error, ray.exceptions.OutOfMemoryError) and reference not in self.alone:
                self.postponed += batch
                return
            if len(batch) > 1:
                for stage in batch:
                    self.submit([stage])
                return
            outcomes = self.died(batch, error)
        for stage, outcome in zip(batch, outcomes, strict=True):
            if outcome.short_of_memory and reference not in self.alone:
                self.failures.add(stage.key)
                self.postponed.append(stage)
            else:
                self.note(stage, outcome)

    def died(self, batch: list[Stage], error: Exception) -> list[Outcome]:
        """The outcomes of a task that could not report any, after its failures are written down."""
        for stage in batch:
            row = {**stage.labels, "cell": stage.key, **failure(stage.kind, error)}
            self.store.write_rows("failures", stage.key, [row])
        return [Outcome(stage.key, 0.0, first_line(error)) for stage in batch]

    def note(self, stage: Stage, outcome: Outcome) -> None:
        """Take note of how one stage ended."""
        if outcome.error is not None:
            self.failures.add(stage.key)
            if not (outcome.lost and self.make_again(outcome.lost, stage)):
                self.failed[stage.key] = outcome.error
                self.view.finished(stage.kind, stage.key, stage.cost, f"{outcome.error} ({stage.place})")
                self.view.dropped(self.frontier.block(stage.key))
            return
        if stage.key in self.failures:
            self.store.delete("results", "failures", f"{stage.key}.parquet")
            self.failures.remove(stage.key)
        if stage.key in self.making_again:
            self.making_again.remove(stage.key)
        else:
            self.done += 1
            self.view.finished(stage.kind, stage.key, stage.cost, None)
        self.recorded.add(stage.key)
        self.frontier.finish(stage.key)

    def make_again(self, lost: str, reader: Stage) -> bool:
        """Run a stage again whose network is gone or damaged, then its reader; False where that was tried before."""
        if (lost, reader.key) in self.waited or lost in self.failed:
            return False
        self.waited.add((lost, reader.key))
        if lost not in self.made_again:
            self.view.note(f"the network of {lost}, which {reader.kind} {reader.key} reads, is lost: making it again")
            self.made_again.add(lost)
            self.making_again.add(lost)
            self.frontier.wait(lost, ())
        self.frontier.wait(reader.key, [lost] if lost in self.making_again else [])
        return True


def ask_for_cpus(number: int) -> None:
    """Let an autoscaling cluster have at least so many, whatever waits for them."""
    from ray.autoscaler.sdk import request_resources  # here, as a local run never needs it

    request_resources(num_cpus=number)


def fits(node: Mapping[str, float], wanted: Mapping[str, float]) -> bool:
    """Whether a node has all the resources that a task wants."""
    return all(node.get(name, 0.0) >= amount for name, amount in wanted.items())
