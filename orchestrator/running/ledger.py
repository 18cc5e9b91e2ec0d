"""How the stages of a run ended, and the networks that have to be made again because they are lost."""

from collections.abc import Iterable

from orchestrator.planning.plan import Plan, Stage
from orchestrator.running.frontier import Frontier
from orchestrator.running.progress import Progress
from orchestrator.storage.store import Store
from orchestrator.worker.records import failure
from orchestrator.worker.work import Outcome
from workloads.messages import first_line


class Ledger:
    """Records how stages end, shows it to the user, and releases or blocks the stages that depend on them.

    Attributes:
        done_now: stages done in this run that were not done before.
        failed_now: first line of the error by stage key.
        has_rows: keys of the stages whose rows are in the store.
        has_failure: keys of the stages with a row in `failures`.
    """

    def __init__(self, plan: Plan, store: Store, frontier: Frontier, progress: Progress):
        self.store, self.frontier, self.progress = store, frontier, progress
        self.done_now = 0
        self.failed_now: dict[str, str] = {}
        self.has_rows, self.has_failure = store.done(), store.failed()
        self.read_by_others = {key for stage in plan.stages.values() for key in stage.inputs}
        self.rebuilds = Rebuilds(frontier, progress)

    def record(self, stage: Stage, outcome: Outcome) -> None:
        """Record how one stage ended."""
        if outcome.error is None:
            self.done(stage)
        else:
            self.has_failure.add(stage.key)
            rebuilt = (
                outcome.lost and outcome.lost not in self.failed_now and self.rebuilds.wait_for(outcome.lost, stage)
            )
            if not rebuilt:
                self.failed(stage, outcome.error)

    def done(self, stage: Stage) -> None:
        """A stage is done: release what waited for it."""
        self.forget_failures([stage])
        if not self.rebuilds.finished(stage.key):
            self.done_now += 1
            self.progress.finished(stage.kind, stage.key, stage.cost, None)
        self.has_rows.add(stage.key)
        self.frontier.finish(stage.key)

    def forget_failures(self, stages: Iterable[Stage]) -> None:
        """Remove what stages have left in `failures`: they are done, or run once more."""
        for stage in stages:
            if stage.key in self.has_failure:
                self.store.delete("results", "failures", f"{stage.key}.parquet")
                self.has_failure.remove(stage.key)

    def failed(self, stage: Stage, error: str) -> None:
        """A stage has failed: block what depends on it."""
        self.failed_now[stage.key] = error
        self.progress.finished(stage.kind, stage.key, stage.cost, f"{error} ({stage.place})")
        self.progress.dropped(self.frontier.block(stage.key))

    def died(self, stages: Iterable[Stage], error: Exception) -> list[Outcome]:
        """The outcomes of stages whose task could not report any, after their failures are written down."""
        outcomes = []
        for stage in stages:
            row = {**stage.labels, "cell": stage.key, **failure(stage.kind, error)}
            self.store.write_rows("failures", stage.key, [row])
            self.has_failure.add(stage.key)
            outcomes.append(Outcome(stage.key, 0.0, first_line(error)))
        return outcomes


class Rebuilds:
    """Stages that run again because the network that they left is gone or damaged.

    Each network is made again at most once in a run, and each reader waits for the same one at most once, so that a
    store that loses everything ends a run instead of keeping it busy for ever.
    """

    def __init__(self, frontier: Frontier, progress: Progress):
        self.frontier, self.progress = frontier, progress
        self.under_way: set[str] = set()
        self.begun: set[str] = set()
        self.requests: set[tuple[str, str]] = set()

    def wait_for(self, lost: str, reader: Stage) -> bool:
        """Let the reader of a lost network run once that is made again; False where this was tried before."""
        if (lost, reader.key) in self.requests:
            return False
        self.requests.add((lost, reader.key))
        if lost not in self.begun:
            self.progress.note(
                f"the network of {lost}, which {reader.kind} {reader.key} reads, is lost: making it again"
            )
            self.begun.add(lost)
            self.under_way.add(lost)
            self.frontier.wait(lost, ())
        self.frontier.wait(reader.key, [lost] if lost in self.under_way else [])
        return True

    def finished(self, key: str) -> bool:
        """Whether a stage that is done now was one that ran again."""
        if key not in self.under_way:
            return False
        self.under_way.remove(key)
        return True
