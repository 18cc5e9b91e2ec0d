"""The rows that tell of a stage besides its results: when and where it ran, why it failed, in which environment."""

import functools
import os
import traceback
from collections.abc import Iterable
from datetime import UTC, datetime
from typing import Any

import ray

from orchestrator.storage.store import Store
from orchestrator.worker.environment import environment
from workloads.messages import printable, text_of


def recorded_environment(uri: str) -> str:
    """The key of this worker's environment, after its row is in the store."""
    key = str(environment()["environment"])
    record_once(uri, key)
    return key


@functools.cache
def record_once(uri: str, key: str) -> None:
    """Write the present environment unless this process has done so."""
    Store(uri).write_rows("environments", key, [environment()])


def failure(kind: str, error: BaseException) -> dict[str, Any]:
    """The columns of `failures` that an exception fills."""
    return {
        "kind": kind,
        "error": type(error).__name__,
        "message": text_of(error),
        "traceback": printable("".join(traceback.format_exception(error))),
        "failed": datetime.now(UTC),
        "final": False,
    }


def timing(
    kind: str, started: datetime, seconds: float, workers: int, threads: int, tables: Iterable[str]
) -> dict[str, Any]:
    """The columns of `timings` that a finished stage fills."""
    connected = ray.is_initialized()
    return {
        "kind": kind,
        "started": started,
        "finished": datetime.now(UTC),
        "seconds": seconds,
        "node": ray.get_runtime_context().get_node_id() if connected else None,
        "worker": os.getpid(),
        "workers": workers,
        "gpus": ",".join(str(gpu) for gpu in ray.get_gpu_ids()) if connected else "",
        "threads": threads,
        "tables": sorted(tables),
    }
