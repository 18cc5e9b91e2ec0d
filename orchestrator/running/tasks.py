"""What a Ray task does: run a batch of stages, store what they made, report how each ended."""

import contextlib
import functools
import hashlib
import os
import signal
import socket
import sys
import time
import traceback
from collections.abc import Callable, Iterator, Sequence
from datetime import UTC, datetime
from types import FrameType

import ray
import torch

from orchestrator.stages import kinds
from orchestrator.storage.store import StorageError, Store
from orchestrator.worker.code import check_same_code
from orchestrator.worker.hardware import settle
from orchestrator.worker.kind import Made, Rows
from orchestrator.worker.learning import snapshot_place
from orchestrator.worker.measuring import measured, measured_together
from orchestrator.worker.meeting import PartnerFailed
from orchestrator.worker.networks import LostNetwork, forget_networks
from orchestrator.worker.records import failure, recorded_environment, timing
from orchestrator.worker.task import Task
from orchestrator.worker.work import Context, Outcome, Work
from workloads.isolation import process_kept
from workloads.measuring.evaluation import Measurement
from workloads.messages import first_line, is_from_outside, message
from workloads.networks import checkpoints

MEASURED_TOGETHER = 16  # networks in memory at a time
GRACE_SECONDS = 30.0  # after which a stage that goes on beyond its time is interrupted again
MOST_INTERRUPTS = 3


class OutOfTime(Exception):
    """A stage took longer than it may; not an OSError, which a store would take for one of its own."""


def execute(batch: Sequence[Work], context: Context) -> list[Outcome]:
    """Run the stages of one task and write what they made; the rows in `timings` come last and make them done.

    A stage that raises becomes a row in `failures`; the others of the task go on. One that has such a row already (the
    driver removes them before it sends a task) has ended an earlier worker with this task: it has failed.

    Raises:
        OtherCodeError: this node runs other code than the driver.
        StorageError: the run cannot be written to, or is not the one that the driver sees.
    """
    store = prepared(context)
    task = functools.cache(lambda: Task(context))  # made within the first stage, which fails where the data is gone
    failed_before = store.failed()
    attempts = [Attempt(work, store, context) for work in batch if work.key in failed_before]
    for attempt in attempts:
        attempt.recall_failure()
    fresh = [work for work in batch if work.key not in failed_before]
    for start in range(0, len(fresh), MEASURED_TOGETHER):
        attempts += attempted(fresh[start : start + MEASURED_TOGETHER], task, store, context)
    write_rows(attempts, store, recorded_environment(context.store))
    for attempt in attempts:
        if kinds()[attempt.work.kind].trains and attempt.error is None:
            store.delete(*snapshot_place(attempt.work.key))
    if torch.cuda.is_initialized():
        torch.cuda.empty_cache()  # for the other processes on this GPU
    outcomes = {attempt.work.key: attempt.outcome for attempt in attempts}
    return [outcomes[work.key] for work in batch]


def prepared(context: Context) -> Store:
    """The store of a run, after this process is ready for its tasks.

    Raises:
        OtherCodeError, StorageError: as of `execute`.
    """
    for path in context.import_paths:
        if path not in sys.path:
            sys.path.append(path)
    check_same_code(context.code, socket.gethostname())
    if settle(context.threads):
        forget_networks()
    store = Store(context.store)
    check_same_store(store, context)
    return store


def check_same_store(store: Store, context: Context) -> None:
    """Make sure that this node sees the files of the run that its driver sees.

    Raises:
        StorageError: it does not.
    """
    if context.witness and not store.exists(context.witness):
        raise StorageError(
            f"node {socket.gethostname()} does not see the run in '{store.uri}', which its driver does: give --out as "
            f"a folder that all nodes share, or as a URI"
        )


def write_rows(attempts: Sequence["Attempt"], store: Store, environment: str) -> None:
    """Write the rows of all stages of a task, one file a table; `timings` comes last, as it makes stages done."""
    tables: Rows = {}
    for attempt in attempts:
        labels = {**attempt.work.labels, "cell": attempt.work.key, "environment": environment}
        for table, rows in attempt.rows.items():
            tables.setdefault(table, []).extend({**labels, **row} for row in rows)
    timings = tables.pop("timings", [])
    shard = hashlib.sha256(" ".join(row["cell"] for row in timings).encode()).hexdigest()[:20]
    for table, rows in (*tables.items(), ("timings", timings)):
        if rows:
            store.write_rows(table, shard, rows)


def attempted(batch: Sequence[Work], task: Callable[[], Task], store: Store, context: Context) -> list["Attempt"]:
    """Make the networks of all stages, measure them together, then keep those that others read."""
    started = []
    for work in batch:
        attempt = Attempt(work, store, context)
        started.append(attempt)
        with attempt.step(), attempt.limit():
            attempt.made = kinds()[work.kind].make(task(), work)
    measure_together(started, task, context)
    for attempt in started:
        if attempt.made:
            with attempt.step():
                with attempt.limit():
                    made = measured(task(), attempt.work, attempt.made, attempt.test)
                if attempt.work.keep and made.network:
                    store.write_network(attempt.work.key, checkpoints.dumps(*made.network))
                elif attempt.work.keep and made.leaves is not None:
                    store.write_network(attempt.work.key, made.leaves)
                attempt.rows = made.rows
        attempt.end()
    return started


def measure_together(attempts: Sequence["Attempt"], task: Callable[[], Task], context: Context) -> None:
    """Measure networks that are yet to be measured; where that fails, each is left to be measured by itself."""
    unmeasured = {attempt: attempt.made for attempt in attempts if attempt.made and attempt.made.unmeasured}
    if len(unmeasured) < 2:
        return
    limit = context.time_limit and context.time_limit * len(unmeasured)
    with contextlib.suppress(Exception, SystemExit), process_kept(), time_limit(limit):
        tests = measured_together(task(), list(unmeasured.values()), next(iter(unmeasured)).work)
        for attempt, test in zip(unmeasured, tests, strict=True):
            attempt.test = test
            attempt.seconds += test.seconds


class Attempt:
    """A stage on its way, in steps, until it is done or one of them fails.

    Attributes:
        seconds: wall clock of its steps, and its share of the measurement with others.
        made: what it made; None before that and after the last step.
        test: how its network was measured with others, if it was.
        rows: by table, once it is done.
        error, lost, short_of_memory: as in its outcome.
    """

    def __init__(self, work: Work, store: Store, context: Context):
        self.work, self.store, self.context = work, store, context
        self.started, self.seconds = datetime.now(UTC), 0.0
        self.made: Made | None = None
        self.test: Measurement | None = None
        self.rows: Rows = {}
        self.error: str | None = None
        self.lost: str | None = None
        self.short_of_memory = False

    @property
    def outcome(self) -> Outcome:
        """How it ended."""
        return Outcome(self.work.key, self.seconds, self.error, self.lost, self.short_of_memory)

    @contextlib.contextmanager
    def step(self) -> Iterator[None]:
        """Take the time of a block, after which the process is as before; an error in it becomes a row in `failures`.

        Raises:
            StorageError: the run cannot be written to.
            PartnerFailed: another process has written down what failed.
        """
        clock = time.perf_counter()
        try:
            with process_kept():  # own networks and data sets run within, whatever they do
                yield
        except (StorageError, PartnerFailed):
            raise
        except (Exception, SystemExit) as error:  # own code may also try to end the process
            if is_from_outside(error):
                raise
            self.short_of_memory = isinstance(error, torch.OutOfMemoryError | ray.exceptions.OutOfMemoryError)
            if isinstance(error, torch.AcceleratorError) and not self.short_of_memory:
                traceback.print_exc()
                os._exit(1)  # nothing more can run in this process; Ray tries the task again in another
            self.lost = error.key if isinstance(error, LostNetwork) else None
            self.error = first_line(error)
            self.write_failure(error)
        finally:
            self.seconds += time.perf_counter() - clock

    def write_failure(self, error: BaseException) -> None:
        """Leave a row in `failures`."""
        row = {**self.work.labels, "cell": self.work.key, "environment": recorded_environment(self.store.uri)}
        self.store.write_rows("failures", self.work.key, [{**row, **failure(self.work.kind, error)}])

    def recall_failure(self) -> None:
        """Take over what an earlier worker has written into `failures`."""
        (row,) = self.store.read_shards("failures", [f"{self.work.key}.parquet"], ["error", "message"]).to_pylist()
        self.error = f"{row['error']}: {message(row['message'])}"

    def limit(self) -> contextlib.AbstractContextManager[None]:
        """What is left of the stage's time; one that cannot be interrupted ends this worker."""

        def end_worker(error: OutOfTime) -> None:
            self.write_failure(error)
            os._exit(1)  # Ray sends the task to another worker, which finds the row

        return time_limit(self.context.time_limit, self.seconds, end_worker)

    def end(self) -> None:
        """Let go of the network; the rows of a stage that is done get that of its timing, if they are wanted."""
        self.made = None
        if self.error is None:
            tables = [table for table, rows in self.rows.items() if rows]
            member, threads = self.context.member, self.context.threads
            workers = 1 if member is None else member.count
            timings = [timing(self.work.kind, self.started, self.seconds, workers, threads, tables)]
            self.rows = {**self.rows, "timings": timings} if self.work.record else {}


@contextlib.contextmanager
def time_limit(
    seconds: float | None, spent: float = 0.0, stuck: Callable[[OutOfTime], object] = lambda error: None
) -> Iterator[None]:
    """Interrupt what runs longer than this less the seconds spent before, and again where it goes on nevertheless.

    None lets it run.

    Args:
        stuck: called once the block has gone on after several interrupts, because it catches every exception.

    Raises:
        OutOfTime: the time was over.
    """
    if seconds is None:
        yield
        return
    interrupts = 0

    def over(signum: int, frame: FrameType | None) -> None:
        nonlocal interrupts
        interrupts += 1
        error = OutOfTime(f"the stage took longer than its time_limit of {seconds:g} s")
        if interrupts > MOST_INTERRUPTS:
            stuck(error)
        raise error

    before = signal.signal(signal.SIGALRM, over)
    signal.setitimer(signal.ITIMER_REAL, max(seconds - spent, 0.001), min(seconds, GRACE_SECONDS))
    try:
        yield
    finally:
        signal.setitimer(signal.ITIMER_REAL, 0)
        signal.signal(signal.SIGALRM, before)
