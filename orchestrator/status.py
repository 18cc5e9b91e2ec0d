"""What of a run is done, running, failed and missing, and why."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass

import pandas as pd

from orchestrator.running.lease import Holder, holder
from orchestrator.storage.store import Store
from orchestrator.worker.training_progress import epochs_reached


@dataclass(frozen=True)
class Count:
    """How many stages of a kind there are."""

    kind: str
    done: int
    running: int
    failed: int
    planned: int

    @property
    def missing(self) -> int:
        """Neither of the others."""
        return self.planned - self.done - self.running - self.failed


@dataclass(frozen=True)
class Status:
    """How far a run is.

    Attributes:
        counts: by kind, in the order of the plan.
        driver: the process that drives it now; None where there is none.
        epochs: by key, the epoch that a training has reached and how many it will have.
        failures: stages that failed and were not done since: cell, kind, error and message.
    """

    counts: Sequence[Count]
    driver: Holder | None
    epochs: Mapping[str, tuple[int, int]]
    failures: pd.DataFrame


def status_of(run: str) -> Status:
    """How far the run in a folder or at a URI is.

    Raises:
        FileNotFoundError: there is no run, or none that has begun.
        ValueError: a file of it is damaged.
    """
    store = Store(run)
    if not store.exists("results"):
        raise FileNotFoundError(f"'{run}' is not a run: it has no folder 'results'")
    planned = store.read_table("plan", ["cell", "kind"]).to_pandas()
    if planned.empty:
        raise FileNotFoundError(f"'{run}' is not a run: no stage is in its table 'plan'")
    done, driver = store.done(), holder(store)
    is_done = planned["cell"].isin(done)
    failures = store.read_table("failures", ["cell", "kind", "error", "message"]).to_pandas()
    failures = failures[failures["cell"].isin(planned["cell"]) & ~failures["cell"].isin(done)]
    failures = failures.drop_duplicates("cell").reset_index(drop=True)
    stages = planned.assign(done=is_done, failed=planned["cell"].isin(failures["cell"]))
    active = driver.running if driver else {}
    counts = []
    for kind, count in (
        stages.groupby("kind", sort=False).agg({"done": "sum", "failed": "sum", "cell": "size"}).iterrows()
    ):
        ended, failed, every = map(int, count)
        counts.append(Count(str(kind), ended, min(active.get(str(kind), 0), every - ended - failed), failed, every))
    epochs = epochs_reached(store, planned.loc[~is_done, "cell"].tolist()) if driver else {}
    return Status(counts, driver, epochs, failures)
