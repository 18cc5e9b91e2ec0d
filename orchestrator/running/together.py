"""A training that several workers share: how it gets its place in the cluster, and how its processes end together.

The driver sends one task, as for every stage, into a placement group with a bundle for each worker. That task takes
nothing of the cluster. It starts the processes that do the work, one a bundle, and follows them:

- The first one does the stage, as a task alone would; what it reports is what the task reports. The others train along.
- One that fails ends all. The one that failed first has written down why.
- One that dies, or whose node does, ends all, and they start again from the last snapshot, as often as Ray would start
  a task again.

Each process ends with its training, so that nothing is left of what joined it to the others.
"""

import contextlib
import time
from collections.abc import Sequence
from dataclasses import dataclass, replace
from typing import Any, TypeAlias

import ray
from ray.util.placement_group import PlacementGroup, placement_group
from ray.util.scheduling_strategies import PlacementGroupSchedulingStrategy

from orchestrator.running.cluster import Cluster, fits
from orchestrator.running.remote import RemoteBody, end_running
from orchestrator.running.tasks import Attempt, OutOfTime, prepared
from orchestrator.stages import kinds
from orchestrator.storage.store import Store
from orchestrator.worker.hardware import SEES_ALL_GPUS
from orchestrator.worker.learning import learn
from orchestrator.worker.meeting import PartnerFailed, failed_together, opened_meeting_place
from orchestrator.worker.task import Task
from orchestrator.worker.work import Context, Member, Outcome, Work

Reference: TypeAlias = "ray.ObjectRef[list[Outcome]]"
POLL_SECONDS = 1.0
LEAVE_SECONDS = 8.0  # for the snapshot of a training that is interrupted; the driver waits a little longer
LATE_SECONDS = 120.0  # that a process may be late to notice that its time is over
ALL_END_SECONDS = 30.0  # in which the others have to end after one has failed


def reserve(cluster: Cluster, kind: str) -> PlacementGroup:
    """A bundle for each process of a training: all on one node where any is large enough, else on few."""
    bundle = {name: amount for name, amount in cluster.reserved(kind).items() if amount}
    count = cluster.processes(kind)
    whole = {name: amount * count for name, amount in bundle.items()}
    on_one = any(fits(node, whole) for node in cluster.nodes)
    group: PlacementGroup = placement_group([bundle] * count, strategy="STRICT_PACK" if on_one else "PACK")
    return group


def within(group: PlacementGroup, bundle: int) -> dict[str, Any]:
    """The options of a Ray task that runs in a bundle."""
    strategy = PlacementGroupSchedulingStrategy(group, placement_group_bundle_index=bundle)
    return {"scheduling_strategy": strategy}


def train_along(batch: Sequence[Work], context: Context) -> list[Outcome]:
    """What all processes but the first do: train, and leave the network to that one."""
    store = prepared(context)
    attempts = [Attempt(work, store, context) for work in batch]
    for attempt in attempts:
        with attempt.step():
            task, lesson = Task(context), kinds()[attempt.work.kind].lesson
            assert lesson is not None
            learn(task, attempt.work, lesson(task, attempt.work))
    return [attempt.outcome for attempt in attempts]


@dataclass(frozen=True)
class Together:
    """The body of a task whose training several processes share.

    Attributes:
        first: what the first process does, the whole stage.
        others: what the others do.
        bundle: what each takes, under Ray's names.
        count: of the processes.
        retries: times that all start again after one has died.
    """

    first: RemoteBody
    others: RemoteBody
    bundle: dict[str, float]
    count: int
    retries: int

    def __call__(self, batch: Sequence[Work], context: Context) -> list[Outcome]:
        """How the stage ended."""
        (work,) = batch
        attempt = Attempt(work, Store(context.store), context)
        try:
            return [self.tried(work, context)]
        except (ray.exceptions.RayError, OutOfTime) as error:
            with attempt.step():
                raise error
        return [attempt.outcome]

    def tried(self, work: Work, context: Context) -> Outcome:
        """How the stage ended, after as many starts as the deaths of processes asked for."""
        for _ in range(self.retries):
            try:
                return self.outcome(work, context)
            except ray.exceptions.OutOfMemoryError:
                raise
            except ray.exceptions.RayError:
                # What the others wrote down of it follows from the death of the one.
                Store(context.store).delete("results", "failures", f"{work.key}.parquet")
        return self.outcome(work, context)

    def outcome(self, work: Work, context: Context) -> Outcome:
        """How the stage ends when the processes start now.

        Raises:
            ray.exceptions.RayError: one of them died.
            StorageError, OtherCodeError: as of a stage alone.
            OutOfTime: they go on beyond the time of the stage.
        """
        place = opened_meeting_place()
        processes = self.start(work, context, (place.host, place.port))
        try:
            self.follow(processes, context.time_limit)
            if failed_together(place):
                ray.wait(processes, num_returns=self.count, timeout=ALL_END_SECONDS)
            return verdict(processes)
        except KeyboardInterrupt:
            with contextlib.suppress(Exception):  # Ray may have ended, too
                ray.cancel(processes[0])  # it leaves a snapshot
                ray.wait(processes[:1], timeout=LEAVE_SECONDS)
            raise
        finally:
            end_running(processes)

    def start(self, work: Work, context: Context, address: tuple[str, int]) -> list[Reference]:
        """The processes, as what they will report, the first one first."""
        options: dict[str, Any] = {"num_cpus": self.bundle["CPU"], "num_gpus": self.bundle.get("GPU", 0)}
        options |= {"memory": self.bundle.get("memory"), "max_retries": 0, "max_calls": 1}
        if options["num_gpus"]:
            options["runtime_env"] = SEES_ALL_GPUS
        group = ray.util.get_current_placement_group()
        assert group is not None  # the driver has sent this task into it
        found = []
        for number in range(self.count):
            body = self.others if number else self.first
            name = f"{work.kind} {work.key}, {number + 1} of {self.count}"
            function = ray.remote(**options)(body.function).options(name=name, **within(group, number))
            member = Member(number, self.count, address)
            found.append(body.submit(function, [work], replace(context, member=member)))
        return found

    def follow(self, processes: Sequence[Reference], limit: float | None) -> None:
        """Wait until the first process has ended, or any has failed or died."""
        until = None if limit is None else time.monotonic() + limit + LATE_SECONDS
        running = list(processes)
        while processes[0] in running:
            ended, running = ray.wait(running, timeout=POLL_SECONDS)  # an interrupt is heeded in between
            if any(failed(each) for each in ended):
                return
            if until is not None and time.monotonic() > until:
                raise OutOfTime(f"the stage took longer than its time_limit of {limit:g} s, and does not end")


def failed(process: Reference) -> bool:
    """Whether a process that has ended has not done what it should."""
    try:
        return any(outcome.error for outcome in ray.get(process))
    except ray.exceptions.RayError:
        return True


def verdict(processes: Sequence[Reference]) -> Outcome:
    """What the processes that have ended say of the stage.

    Raises:
        ray.exceptions.RayError: one of them died, whatever the others report of it.
        StorageError, OtherCodeError: one of them cannot work with the run.
    """
    ended, _ = ray.wait(list(processes), num_returns=len(processes), timeout=0)
    outcomes: list[Outcome] = []
    raised: list[BaseException] = []
    for process in (process for process in processes if process in ended):
        try:
            reported: list[Outcome] = ray.get(process)
            outcomes += reported
        except ray.exceptions.RayTaskError as error:
            raised.append(error.cause)
    causes = [error for error in raised if not isinstance(error, PartnerFailed)]
    failures = [outcome for outcome in outcomes if outcome.error]
    if causes or not outcomes:
        raise (causes or raised)[0]
    return (failures or outcomes)[0]
