"""Runs a plan on Ray: what is missing, in the order of the longest path, a bounded number of tasks at a time."""

from collections import Counter
from collections.abc import Iterable
from dataclasses import dataclass, field, replace
from pathlib import Path

from orchestrator.planning.building import make_plan
from orchestrator.planning.context import as_run_anywhere, shared_context
from orchestrator.planning.facts import Facts, gather
from orchestrator.planning.plan import Plan
from orchestrator.planning.preprocessing import with_preprocessing
from orchestrator.running import progress as progress_views
from orchestrator.running.connection import check_fits, connected
from orchestrator.running.dispatch import Dispatcher
from orchestrator.running.frontier import Frontier
from orchestrator.running.lease import BusyError, Lease
from orchestrator.running.ledger import Ledger
from orchestrator.running.remote import Body
from orchestrator.running.signals import terminable
from orchestrator.running.tasks import execute
from orchestrator.settings.experiment import Experiment
from orchestrator.settings.reading import make_importable
from orchestrator.storage.compaction import TABLES, compact
from orchestrator.storage.store import EXPERIMENT, StorageError, Store, local_folder
from orchestrator.tracking.processes import Trackers
from orchestrator.worker.code import code_in_use


class StoppedError(RuntimeError):
    """A run that had begun cannot go on; what is done is kept."""


@dataclass(frozen=True)
class RunSummary:
    """How a run ended.

    Attributes:
        run: folder or URI of the run.
        stages: in the plan.
        before: done when the run began.
        done: stages done in this run.
        failed: first line of the error by stage key.
        failed_before: stages that failed in an earlier run and were not tried again.
        blocked: stages that wait for a failed one.
    """

    run: str
    stages: int
    before: int
    done: int
    failed: dict[str, str] = field(default_factory=dict)
    failed_before: int = 0
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
    retry_failed: bool = False,
) -> RunSummary:
    """Run what is missing of an experiment; what is done stays as it is.

    Args:
        experiment: an `Experiment`, the name of a built-in one or the path of a YAML file.
        out: folder or URI of the run; None is the experiment's `storage`, or `runs/<name>`.
        address: `local` starts Ray here, `auto` or `HOST:PORT` joins a cluster; None is `RAY_ADDRESS` or `local`.
        progress: where to tell how far it is; None is the terminal.
        overrides: `key=value` settings, where `experiment` is a name or path.
        retry_failed: also run stages that failed in an earlier run.

    Raises:
        ValueError, FileNotFoundError, ConnectionError: bad input; nothing was written.
        BusyError: another process drives the run; nothing was written.
        StorageError: the run cannot be written to, or is gone; what is done is kept.
        StoppedError: another process took the run over, a file of it is damaged, or the cluster is gone; likewise.
    """
    if not isinstance(experiment, Experiment):
        make_importable(experiment)
        experiment = Experiment.load(experiment, overrides)
    experiment = with_preprocessing(experiment)
    facts = gather(experiment)
    plan = make_plan(experiment, facts)
    view = progress or progress_views.for_terminal()
    for note in facts.notes:
        view.note(note)
    with Trackers(experiment.tracking) as trackers:
        result = run_plan(
            experiment,
            facts,
            plan,
            out=out,
            address=address,
            progress=view,
            retry_failed=retry_failed,
            trackers=trackers,
        )
        trackers.end("finished" if result.complete else "failed")
        return result


def run_folder(experiment: Experiment, out: str | Path | None = None) -> str:
    """Where a run of the experiment lives; a local folder as an absolute path.

    Raises:
        ValueError: it would be in the copy of the working folder that `ray job submit` makes and Ray deletes.
    """
    chosen = str(out or experiment.storage or Path("runs") / experiment.name)
    if "://" in chosen:
        return chosen
    folder = local_folder(chosen)
    if "working_dir_files" in folder.parts:
        raise ValueError(
            f"'{chosen}' is in Ray's copy of the working folder, which it deletes: give --out as a URI or as "
            "the whole path of a folder that all nodes share"
        )
    return str(folder)


def run_plan(
    experiment: Experiment,
    facts: Facts,
    plan: Plan,
    *,
    out: str | Path | None = None,
    address: str | None = None,
    progress: progress_views.Progress | None = None,
    retry_failed: bool = False,
    body: Body = execute,
    trackers: Trackers | None = None,
) -> RunSummary:
    """Run what is missing of a plan, with `body` as what a task does; see `run`.

    Args:
        trackers: begin with the run, and are left to whoever calls to end.
    """
    trackers = trackers or Trackers(())
    store = Store(run_folder(experiment, out))
    pending = missing(plan, store)
    before = len(plan.stages) - len(pending)
    failed = set() if retry_failed else store.failed() & pending
    frontier = Frontier(plan, pending, failed)
    if mine := store.holds_others_files():
        raise ValueError(
            f"'{store.uri}' is no run and holds '{mine}': give --out as a new or an empty folder, so that nothing of "
            f"yours is overwritten"
        )
    view = progress or progress_views.for_terminal()
    lease = Lease(store)
    lease.check(view.note)
    if not frontier:
        try:
            with lease.held():
                write_plan(store, experiment, plan)
                trackers.start(store, view.note)
                tidy(store, lease)
        except StorageError as error:
            view.note(f"nothing is missing, and the run stays as it is: {error}")
        return RunSummary(store.uri, len(plan.stages), before, 0, {}, len(failed), len(frontier.waiting))
    with terminable(), connected(address) as local_ray:
        if local_ray:
            check_fits(experiment, plan)
        with lease.held():
            write_plan(store, experiment, plan)
            trackers.start(store, view.note)
            context = replace(shared_context(experiment, facts, store), witness=EXPERIMENT, code=dict(code_in_use()))
            ledger = Ledger(plan, store, frontier, view)
            dispatcher = Dispatcher(experiment, store, frontier, ledger, context, view, lease, body, local_ray)
            view.start(plan.count(), plan.count() - Counter(plan.stages[key].kind for key in pending), frontier.unsent)
            try:
                dispatcher.loop()
                tidy(store, lease)
                check_whole(store, ledger.has_rows)
            except (BusyError, ConnectionError, ValueError) as error:
                raise StoppedError(str(error)) from error
            finally:
                view.stop()
    return RunSummary(
        store.uri, len(plan.stages), before, ledger.done_now, ledger.failed_now, len(failed), len(frontier.waiting)
    )


def tidy(store: Store, lease: Lease) -> None:
    """Merge the small files of the run's tables."""
    for table in TABLES:
        compact(store, table, lambda: lease.renew({}))


def check_whole(store: Store, recorded: set[str]) -> None:
    """Make sure that the rows of all stages that are said to be done are there.

    Raises:
        StorageError: names the folder and how many are not.
    """
    store.check_there()
    if gone := recorded - store.done():
        raise StorageError(
            f"the results of {len(gone)} stages that were done are not in '{store.path('results')}', where all nodes "
            f"have to write"
        )


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
    store.write(as_run_anywhere(experiment).to_yaml().encode(), EXPERIMENT)
    rows = ({**s.labels, "cell": s.key, "kind": s.kind, "inputs": s.inputs} for s in plan.stages.values())
    store.write_rows("plan", "plan", rows)
