"""Which stages of a plan can run now: those whose inputs are there, the longest path to the end first."""

import heapq
import itertools
from collections import deque
from collections.abc import Collection, Hashable

from orchestrator.planning.plan import Plan, Stage

BATCH_STAGES = 64
BATCH_SECONDS = 30.0, 240.0
SHARES = 4


class Frontier:
    """The stages that have yet to run, in the order in which they can.

    Args:
        plan: all stages.
        pending: keys of those that have to run.
        skipped: keys of those among them that shall not run; what depends on them is blocked.

    Attributes:
        unsent: estimated seconds of the stages that can still run and are in no task yet.
    """

    def __init__(self, plan: Plan, pending: Collection[str], skipped: Collection[str] = ()):
        self.stages, self.priorities = plan.stages, plan.priorities()
        self.waiting: dict[str, int] = {}
        self.readers: dict[str, list[str]] = {}
        self.batches: dict[tuple[str, Hashable], deque[Stage]] = {}
        self.queue: list[tuple[float, int, tuple[str, Hashable]]] = []
        self.order = itertools.count()
        self.blocked: set[str] = set()
        self.unsent = 0.0
        for stage in plan.stages.values():
            if stage.key in pending and stage.key not in skipped:
                self.unsent += stage.cost
                self.wait(stage.key, [key for key in stage.inputs if key in pending])
        for key in skipped:
            self.block(key)

    def wait(self, key: str, inputs: Collection[str]) -> None:
        """Let a stage run as soon as these inputs are done; at once where there are none."""
        if not inputs:
            self.make_ready(self.stages[key])
            return
        self.waiting[key] = len(inputs)
        for read in inputs:
            self.readers.setdefault(read, []).append(key)

    def make_ready(self, stage: Stage) -> None:
        """Queue a stage together with others of its batch."""
        if stage.batch not in self.batches:
            self.batches[stage.batch] = deque()
            heapq.heappush(self.queue, (-self.priorities[stage.key], next(self.order), stage.batch))
        self.batches[stage.batch].append(stage)

    def __bool__(self) -> bool:
        return bool(self.queue)

    def pop(self, workers: int) -> list[Stage]:
        """The most urgent stages, as many as make a task.

        Networks of one task share what they have in common when they are measured, so tasks are large while much is
        left for each worker, and become small towards the end, so that all workers are busy until then.
        """
        least, most = BATCH_SECONDS
        limit = min(max(self.unsent / (SHARES * workers), least), most)
        _, _, name = heapq.heappop(self.queue)
        stages = self.batches[name]
        batch = [stages.popleft()]
        seconds = batch[0].cost
        while stages and len(batch) < BATCH_STAGES and seconds + stages[0].cost <= limit:
            batch.append(stages.popleft())
            seconds += batch[-1].cost
        self.unsent -= seconds
        if stages:
            heapq.heappush(self.queue, (-self.priorities[stages[0].key], next(self.order), name))
        else:
            del self.batches[name]
        return batch

    def block(self, key: str) -> float:
        """Block every stage that depends on this one; the estimated seconds of those that are newly blocked."""
        found, unseen = 0.0, [key]
        while unseen:
            for reader in self.readers.get(unseen.pop(), ()):
                if reader not in self.blocked:
                    self.blocked.add(reader)
                    found += self.stages[reader].cost
                    unseen.append(reader)
        self.unsent -= found
        return found

    def finish(self, key: str) -> None:
        """Let the stages run that waited for this one alone."""
        for reader in self.readers.pop(key, ()):
            self.waiting[reader] -= 1
            if not self.waiting[reader]:
                del self.waiting[reader]
                self.make_ready(self.stages[reader])
