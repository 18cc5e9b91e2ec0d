"""What a Ray task does: run a batch of stages one after the other, store what they made, report how each ended."""

import contextlib
import functools
import hashlib
import signal
import sys
import time
from collections.abc import Callable, Iterator, Sequence
from datetime import UTC, datetime
from types import FrameType
from typing import Any

from orchestrator.hardware import settle
from orchestrator.records import failure, first_line, recorded_environment, timing
from orchestrator.stages import LostNetwork, Worker, forget_networks, snapshot_place
from orchestrator.store import StorageError, Store
from orchestrator.work import Context, Outcome, Work
from workloads import checkpoints

Rows = dict[str, list[dict[str, Any]]]


def execute(batch: Sequence[Work], context: Context) -> list[Outcome]:
    """Run the stages of one task and write what they made; the rows in `timings` come last and make them done.

    A stage that raises becomes a row in `failures`; the others of the task go on.

    Raises:
        StorageError: the run cannot be written to.
    """
    for path in context.import_paths:
        if path not in sys.path:
            sys.path.append(path)
    if settle(context.threads):
        forget_networks()
    store = Store(context.store)
    environment = recorded_environment(context.store)
    worker = functools.cache(lambda: Worker(context))
    tables: Rows = {}
    outcomes = []
    for work in batch:
        outcome, rows = attempt(work, worker, store, context)
        outcomes.append(outcome)
        for table, made in rows.items():
            labels = {**work.labels, "cell": work.key, "environment": environment}
            tables.setdefault(table, []).extend({**labels, **row} for row in made)
    timings = tables.pop("timings", [])
    shard = hashlib.sha256(" ".join(row["cell"] for row in timings).encode()).hexdigest()[:20]
    for table, labelled in (*tables.items(), ("timings", timings)):
        if labelled:
            store.write_rows(table, shard, labelled)
    for work, outcome in zip(batch, outcomes, strict=True):
        if work.kind in ("train", "fine-tune") and outcome.error is None:
            store.delete(*snapshot_place(work.key))
    return outcomes


def attempt(work: Work, worker: Callable[[], Worker], store: Store, context: Context) -> tuple[Outcome, Rows]:
    """Run one stage and keep its network or its failure; its rows by table."""
    started, clock = datetime.now(UTC), time.perf_counter()
    try:
        with time_limit(context.time_limit):
            output = worker().run(work)
        if work.keep and output.network:
            store.write_network(work.key, checkpoints.dumps(*output.network))
    except StorageError:
        raise
    except Exception as error:
        lost = error.key if isinstance(error, LostNetwork) else None
        row = {**work.labels, "cell": work.key, "environment": recorded_environment(store.uri)}
        store.write_rows("failures", work.key, [{**row, **failure(work.kind, error)}])
        return Outcome(work.key, time.perf_counter() - clock, first_line(error), lost), {}
    seconds = time.perf_counter() - clock
    timings = [timing(work.kind, started, seconds, context.threads)]
    return Outcome(work.key, seconds), {**output.rows, "timings": timings} if work.record else {}


@contextlib.contextmanager
def time_limit(seconds: float | None) -> Iterator[None]:
    """Interrupt what runs longer; None lets it run.

    Raises:
        TimeoutError: the time was over.
    """
    if seconds is None:
        yield
        return

    def over(signum: int, frame: FrameType | None) -> None:
        raise TimeoutError(f"the stage took longer than its time_limit of {seconds:g} s")

    before = signal.signal(signal.SIGALRM, over)
    signal.setitimer(signal.ITIMER_REAL, seconds)
    try:
        yield
    finally:
        signal.setitimer(signal.ITIMER_REAL, 0)
        signal.signal(signal.SIGALRM, before)
