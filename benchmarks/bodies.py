"""What tasks do in benchmarks/orchestration.py: nothing, or sleep. Loads without PyTorch."""

import hashlib
import os
import time
from collections.abc import Sequence
from pathlib import Path

from orchestrator.storage.store import Store
from orchestrator.worker.work import Context, Outcome, Work


def nothing(batch: Sequence[Work], context: Context) -> list[Outcome]:
    """Only write down that the stages are done, as every task does."""
    shard = hashlib.sha256(" ".join(work.key for work in batch).encode()).hexdigest()[:20]
    Store(context.store).write_rows("timings", shard, [{**work.labels, "cell": work.key} for work in batch])
    return [Outcome(work.key, 0.0) for work in batch]


def sleep(batch: Sequence[Work], context: Context) -> list[Outcome]:
    """Sleep as long as each stage says, then write down that they are done."""
    for work in batch:
        time.sleep(work.parameters["seconds"])
    return nothing(batch, context)


def meet(folder: str, workers: int) -> None:
    """Let a worker load this module, and keep it until so many others have."""
    Path(folder, str(os.getpid())).touch()
    while len(os.listdir(folder)) < workers:
        time.sleep(0.2)
