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
from typing import Any

import torch

from orchestrator.stages.all import LostNetwork, Output, Worker, forget_networks, snapshot_place
from orchestrator.storage.store import StorageError, Store
from orchestrator.worker.hardware import settle
from orchestrator.worker.records import failure, recorded_environment, timing
from orchestrator.worker.work import Context, Outcome, Work
from workloads.measuring.evaluation import Measurement
from workloads.messages import first_line
from workloads.networks import checkpoints

Rows = dict[str, list[dict[str, Any]]]
LOST_DEVICE = getattr(torch, "AcceleratorError", ())  # what PyTorch 2.8 and later raise once CUDA's context is lost
MEASURED_TOGETHER = 16  # networks in memory at a time


class OutOfTime(Exception):
    """A stage took longer than it may; not an OSError, which a store would take for one of its own."""


def execute(batch: Sequence[Work], context: Context) -> list[Outcome]:
    """Run the stages of one task and write what they made; the rows in `timings` come last and make them done.

    A stage that raises becomes a row in `failures`; the others of the task go on.

    Raises:
        StorageError: the run cannot be written to, or is not the one that the driver sees.
    """
    for path in context.import_paths:
        if path not in sys.path:
            sys.path.append(path)
    if settle(context.threads):
        forget_networks()
    store = Store(context.store)
    if context.witness and not store.exists(context.witness):
        raise StorageError(
            f"node {socket.gethostname()} does not see the run in '{store.uri}', which its driver does: give --out as "
            f"a folder that all nodes share, or as a URI"
        )
    environment = recorded_environment(context.store)
    worker = functools.cache(lambda: Worker(context))
    tables: Rows = {}
    outcomes = []
    for start in range(0, len(batch), MEASURED_TOGETHER):
        for attempt in attempted(batch[start : start + MEASURED_TOGETHER], worker, store, context):
            outcomes.append(attempt.outcome)
            for table, made in attempt.rows.items():
                labels = {**attempt.work.labels, "cell": attempt.work.key, "environment": environment}
                tables.setdefault(table, []).extend({**labels, **row} for row in made)
    timings = tables.pop("timings", [])
    shard = hashlib.sha256(" ".join(row["cell"] for row in timings).encode()).hexdigest()[:20]
    for table, labelled in (*tables.items(), ("timings", timings)):
        if labelled:
            store.write_rows(table, shard, labelled)
    for work, outcome in zip(batch, outcomes, strict=True):
        if work.kind in ("train", "fine-tune") and outcome.error is None:
            store.delete(*snapshot_place(work.key))
    if torch.cuda.is_initialized():
        torch.cuda.empty_cache()  # for the other processes on this GPU
    return outcomes


def attempted(batch: Sequence[Work], worker: Callable[[], Worker], store: Store, context: Context) -> list["Attempt"]:
    """Make the networks of all stages, measure them together, then keep those that others read."""
    started = []
    for work in batch:
        attempt = Attempt(work, store, context)
        started.append(attempt)
        with attempt.step(), attempt.limit():
            attempt.output = worker().make(work)
    measure_together(started, worker, context)
    for attempt in started:
        if attempt.output:
            with attempt.step():
                with attempt.limit():
                    output = worker().measured(attempt.work, attempt.output, attempt.test)
                if attempt.work.keep and output.network:
                    store.write_network(attempt.work.key, checkpoints.dumps(*output.network))
                attempt.rows = output.rows
        attempt.end()
    return started


def measure_together(attempts: Sequence["Attempt"], worker: Callable[[], Worker], context: Context) -> None:
    """Measure networks that are yet to be measured; where that fails, each is left to be measured by itself."""
    outputs = {attempt: attempt.output for attempt in attempts if attempt.output and not attempt.output.rows}
    if len(outputs) < 2:
        return
    limit = context.time_limit and context.time_limit * len(outputs)
    with contextlib.suppress(Exception), time_limit(limit):
        tests = worker().tests(list(outputs.values()), next(iter(outputs)).work)
        for attempt, test in zip(outputs, tests, strict=True):
            attempt.test = test
            attempt.seconds += test.seconds


class Attempt:
    """A stage on its way, in steps, until it is done or one of them fails.

    Attributes:
        seconds: wall clock of its steps, and its share of the measurement with others.
        output: what it made; None before that and after the last step.
        test: how its network was measured with others, if it was.
        rows: by table, once it is done.
        error, lost, short_of_memory: as in its outcome.
    """

    def __init__(self, work: Work, store: Store, context: Context):
        self.work, self.store, self.context = work, store, context
        self.started, self.seconds = datetime.now(UTC), 0.0
        self.output: Output | None = None
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
        """Take the time of a block; an error in it becomes a row in `failures`.

        Raises:
            StorageError: the run cannot be written to.
        """
        clock = time.perf_counter()
        try:
            yield
        except StorageError:
            raise
        except Exception as error:
            self.short_of_memory = isinstance(error, torch.OutOfMemoryError)
            if isinstance(error, LOST_DEVICE) and not self.short_of_memory:
                traceback.print_exc()
                os._exit(1)  # nothing more can run in this process; Ray tries the task again in another
            self.lost = error.key if isinstance(error, LostNetwork) else None
            self.error = first_line(error)
            row = {**self.work.labels, "cell": self.work.key, "environment": recorded_environment(self.store.uri)}
            self.store.write_rows("failures", self.work.key, [{**row, **failure(self.work.kind, error)}])
        finally:
            self.seconds += time.perf_counter() - clock

    def limit(self) -> contextlib.AbstractContextManager[None]:
        """What is left of the stage's time."""
        return time_limit(self.context.time_limit, self.seconds)

    def end(self) -> None:
        """Let go of the network; the rows of a stage that is done get that of its timing, if they are wanted."""
        self.output = None
        if self.error is None:
            tables = [table for table, rows in self.rows.items() if rows]
            timings = [timing(self.work.kind, self.started, self.seconds, self.context.threads, tables)]
            self.rows = {**self.rows, "timings": timings} if self.work.record else {}


@contextlib.contextmanager
def time_limit(seconds: float | None, spent: float = 0.0) -> Iterator[None]:
    """Interrupt what runs longer than this less the seconds spent before, and again where it goes on nevertheless.

    None lets it run.

    Raises:
        OutOfTime: the time was over.
    """
    if seconds is None:
        yield
        return

    def over(signum: int, frame: FrameType | None) -> None:
        raise OutOfTime(f"the stage took longer than its time_limit of {seconds:g} s")

    before = signal.signal(signal.SIGALRM, over)
    signal.setitimer(signal.ITIMER_REAL, max(seconds - spent, 0.001), seconds)
    try:
        yield
    finally:
        signal.setitimer(signal.ITIMER_REAL, 0)
        signal.signal(signal.SIGALRM, before)
