"""Sends the stages of a plan to Ray as tasks, a bounded number at a time, and follows them until none can run.

    frontier --pop--> submit --> Ray --> collect --> ledger --> frontier

The frontier knows which stages can run, the cluster what there is to run them on, the ledger how they ended.
"""

import contextlib
import time
from collections.abc import Sequence
from dataclasses import replace
from typing import Any

import ray
from ray.util.placement_group import PlacementGroup, remove_placement_group

from orchestrator.planning.plan import Stage
from orchestrator.running.cluster import Cluster
from orchestrator.running.frontier import Frontier
from orchestrator.running.lease import Lease
from orchestrator.running.ledger import Ledger
from orchestrator.running.local_ray import LocalRay
from orchestrator.running.progress import Progress
from orchestrator.running.remote import Body, end_running, in_worker
from orchestrator.running.together import Together, reserve, train_along, within
from orchestrator.settings.experiment import Experiment
from orchestrator.stages import kinds
from orchestrator.storage.store import StorageError, Store
from orchestrator.worker.code import OtherCodeError
from orchestrator.worker.hardware import SEES_ALL_GPUS
from orchestrator.worker.training_progress import epochs_reached
from orchestrator.worker.work import Context, Outcome, Work
from workloads.messages import message

MACHINE_ERRORS = (ray.exceptions.LocalRayletDiedError, ray.exceptions.OwnerDiedError)
POLL_SECONDS = 1.0
LOOK_SECONDS = 10.0
SNAPSHOT_SECONDS = 10.0


class Dispatcher:
    """Keeps workers busy with what can run.

    Args:
        context: what the tasks of the run have in common.
        body: what a task does.
        local_ray: what the run is on, if this process has started it.

    Attributes:
        in_flight: stages by the task that they were sent in, oldest first.
        alone: the tasks among these that have a node to themselves.
        bundles: by task, what is set aside for a training that several workers share.
        postponed: stages that ran out of memory; when nothing else is left, each runs once more, alone.
    """

    def __init__(
        self,
        experiment: Experiment,
        store: Store,
        frontier: Frontier,
        ledger: Ledger,
        context: Context,
        progress: Progress,
        lease: Lease,
        body: Body,
        local_ray: LocalRay | None = None,
    ):
        self.resources, self.store, self.frontier, self.ledger = experiment.resources, store, frontier, ledger
        self.context, self.progress, self.lease = context, progress, lease
        self.cluster = Cluster(experiment, progress, local_ray)
        self.body, self.along = in_worker(body), in_worker(train_along)
        self.in_flight: dict[ray.ObjectRef[Any], list[Stage]] = {}
        self.alone: set[ray.ObjectRef[Any]] = set()
        self.bundles: dict[ray.ObjectRef[Any], PlacementGroup] = {}
        self.postponed: list[Stage] = []
        self.remote_functions: dict[tuple[str, float], Any] = {}
        self.looked = float("-inf")

    def loop(self) -> None:
        """Submit and collect until nothing is ready or running; nothing is left running where that is cut short."""
        shown = float("-inf")
        try:
            while self.frontier or self.in_flight or self.postponed:
                self.cluster.check()
                self.look()
                self.fill()
                if time.monotonic() - shown >= POLL_SECONDS:
                    shown = time.monotonic()
                    self.show()
                if not self.in_flight:
                    time.sleep(POLL_SECONDS)
                    continue
                finished, _ = ray.wait(list(self.in_flight), num_returns=1, timeout=POLL_SECONDS)
                for reference in finished:
                    self.collect(reference)
        except KeyboardInterrupt:
            self.let_trainings_leave_snapshots()
            raise
        finally:
            self.end_tasks()
            self.cluster.let_go()

    def let_trainings_leave_snapshots(self) -> None:
        """Interrupt the trainings, and wait a little until each has stored what it was after its last epoch."""
        learning = [reference for reference, stages in self.in_flight.items() if kinds()[stages[0].kind].trains]
        with contextlib.suppress(Exception):  # Ray may have ended, too
            for reference in learning:
                # It raises KeyboardInterrupt in the worker, which tells those that it has started.
                ray.cancel(reference, recursive=False)
            if learning:
                ray.wait(learning, num_returns=len(learning), timeout=SNAPSHOT_SECONDS)

    def end_tasks(self) -> None:
        """Cancel what still runs."""
        end_running(list(self.in_flight))
        for reference in self.in_flight:
            self.release(reference)

    def release(self, reference: "ray.ObjectRef[Any]") -> None:
        """Give back what was set aside for a training that several workers share."""
        if group := self.bundles.pop(reference, None):
            with contextlib.suppress(Exception):  # Ray may have ended, too
                remove_placement_group(group)

    def look(self) -> None:
        """See now and then what the cluster has and how far trainings are; often while it has nothing."""
        if time.monotonic() - self.looked < LOOK_SECONDS:
            return
        if self.cluster.look({stages[0].kind for stages in self.in_flight.values()}):
            self.looked = time.monotonic()
            learning = [s.key for stages in self.in_flight.values() for s in stages if kinds()[s.kind].trains]
            self.progress.training(epochs_reached(self.store, learning).values() if learning else ())

    def show(self) -> None:
        """Say what runs, to the user and in the lease."""
        running = self.cluster.at_work(stages[0].kind for stages in self.in_flight.values())
        self.progress.running(running)
        self.lease.renew(running)

    def fill(self) -> None:
        """Submit what is ready as far as the window goes; where nothing is, what was postponed."""
        if not self.cluster.cpus:
            return
        while self.frontier and len(self.in_flight) < self.cluster.window:
            self.submit(self.frontier.pop(max(1, int(self.cluster.cpus))))
        if not self.in_flight:
            for stage in self.postponed:
                self.submit([stage], alone=True)
            self.postponed.clear()

    def submit(self, stages: list[Stage], *, alone: bool = False) -> None:
        """Send stages of one kind to Ray as one task, with a node to itself where it shall be alone."""
        kind = stages[0].kind
        self.ledger.forget_failures(stages)
        reserved = self.cluster.reserved(kind)
        limit = self.resources.task(kind).time_limit
        context = replace(self.context, threads=max(1, int(reserved["CPU"])), time_limit=limit)
        if self.cluster.processes(kind) > 1:
            reference = self.submit_together(stages, context)
        else:
            reference = self.submit_alone(stages, context, alone)
        self.in_flight[reference] = stages
        if alone:
            self.alone.add(reference)

    def submit_together(self, stages: list[Stage], context: Context) -> "ray.ObjectRef[Any]":
        """Send a training that several workers share, into a placement group of its own."""
        kind, retries = stages[0].kind, self.resources.retries
        count, bundle = self.cluster.processes(kind), self.cluster.reserved(kind)
        group = reserve(self.cluster, kind)
        shared = in_worker(Together(self.body, self.along, bundle, count, retries))
        options = {"name": f"{kind} {stages[0].key}", **within(group, 0)}
        function = ray.remote(num_cpus=0, max_retries=retries, max_calls=0)(shared.function).options(**options)
        reference = shared.submit(function, self.work(stages), context)
        self.bundles[reference] = group
        return reference

    def submit_alone(self, stages: list[Stage], context: Context, whole_node: bool) -> "ray.ObjectRef[Any]":
        """Send stages that one worker does."""
        kind = stages[0].kind
        reserved = self.cluster.reserved(kind)
        cpus = self.cluster.largest_node_for(reserved) if whole_node else reserved["CPU"]
        function = self.remote_function(kind).options(name=f"{kind} {stages[0].key}", num_cpus=cpus)
        return self.body.submit(function, self.work(stages), context)

    def work(self, stages: Sequence[Stage]) -> list[Work]:
        """What a worker gets to know of stages."""
        keep, recorded = self.ledger.read_by_others, self.ledger.has_rows
        return [
            Work(s.kind, s.key, s.parameters, s.inputs, s.labels, keep=s.key in keep, record=s.key not in recorded)
            for s in stages
        ]

    def remote_function(self, kind: str) -> Any:
        """The function that Ray calls for stages of a kind; workers serve many tasks, those with a GPU too."""
        reserved = self.cluster.reserved(kind)
        name = kind, reserved["GPU"]
        if name not in self.remote_functions:
            options: dict[str, Any] = {"num_cpus": reserved["CPU"], "num_gpus": reserved["GPU"]}
            # Ray itself would end a worker with its first task that used a GPU.
            options |= {"max_retries": self.resources.retries, "max_calls": 0}
            if reserved["GPU"]:
                options["runtime_env"] = SEES_ALL_GPUS
            if reserved["memory"]:
                options["memory"] = reserved["memory"]
            self.remote_functions[name] = ray.remote(**options)(self.body.function)
        return self.remote_functions[name]

    def collect(self, reference: "ray.ObjectRef[Any]") -> None:
        """Record what a task reports; of one that died for good, each stage runs by itself, then has failed."""
        stages = self.in_flight.pop(reference)
        self.release(reference)
        try:
            outcomes: list[Outcome] = ray.get(reference)
        except ray.exceptions.RayError as error:
            if isinstance(cause := getattr(error, "cause", None), StorageError):
                self.store.check_there()  # what a node says of a run that is gone is beside the point
                raise cause from None
            if isinstance(cause, OtherCodeError):
                raise ConnectionError(str(cause)) from None
            self.cluster.check()  # which says more than Ray's own error
            if isinstance(error, MACHINE_ERRORS) or not self.cluster.answers():
                # No stage is to blame for what happened to Ray; the rows of those that were running would say so.
                raise ConnectionError(f"Ray has ended while the run went on ({message(error)})") from error
            if isinstance(error, ray.exceptions.OutOfMemoryError) and reference not in self.alone:
                self.postponed += stages
                return
            if len(stages) > 1:
                for stage in stages:
                    self.submit([stage])
                return
            outcomes = self.ledger.died(stages, error)
        for stage, outcome in zip(stages, outcomes, strict=True):
            if outcome.short_of_memory and reference not in self.alone:
                self.ledger.has_failure.add(stage.key)
                self.postponed.append(stage)
            else:
                self.ledger.record(stage, outcome)
