"""What goes to a worker and comes back: small values that name stages, never networks."""

import hashlib
import json
from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any


@dataclass(frozen=True)
class Work:
    """A stage on its way to a worker.

    Attributes:
        kind, key, parameters, inputs, labels: of the stage.
        keep: whether the network is stored, because another stage reads it.
        record: whether rows are written; not where they are there and only the network has to be made again.
    """

    kind: str
    key: str
    parameters: Mapping[str, Any]
    inputs: tuple[str, ...]
    labels: Mapping[str, Any]
    keep: bool
    record: bool


@dataclass(frozen=True)
class Member:
    """One of several worker processes that train a network together.

    Attributes:
        number: 0, 1, …; the first one does all else that its stage does.
        count: of them.
        address: IP address and port where they find each other.
    """

    number: int
    count: int
    address: tuple[str, int]


@dataclass(frozen=True)
class Context:
    """What the tasks of a run share, but for threads, time and who trains together.

    Attributes:
        store: URI of the run.
        dataset: settings of the data set, JSON.
        checkpoints: path of the checkpoint file by its digest.
        threads: CPU threads of the task.
        import_paths: folders where the user's own modules are found.
        snapshot_every: epochs between two snapshots of a training.
        time_limit: seconds that a stage may take; None is no limit.
        witness: a file of the run that the driver has left, by which a node knows that it sees the same store.
        code: what the driver runs, see `orchestrator.worker.code`; empty is not compared.
        member: which of the processes this is that train together; None trains alone.
    """

    store: str
    dataset: str
    checkpoints: Mapping[str, str]
    threads: int = 1
    import_paths: tuple[str, ...] = ()
    snapshot_every: int = 0
    time_limit: float | None = None
    witness: str | None = None
    code: Mapping[str, str] = field(default_factory=dict)
    member: Member | None = None


@dataclass(frozen=True)
class Outcome:
    """How a stage ended.

    Attributes:
        key: of the stage.
        seconds: wall clock.
        error: first line of what went wrong; None where it is done.
        lost: key of the input whose network is gone or damaged, where that is what went wrong.
        short_of_memory: whether a GPU had too little memory for it beside others.
    """

    key: str
    seconds: float
    error: str | None = None
    lost: str | None = None
    short_of_memory: bool = False


def stage_seed(key: str) -> int:
    """The seed of a stage's own random numbers, such as those of a method that draws."""
    return int(key[:12], 16)


def seed_of(*parts: Any) -> int:
    """A seed that depends on these JSON values alone.

    Trainings draw from it, so that those that are compared start from the same weights and see the images in the same
    order, whatever else their stages differ in.
    """
    text = json.dumps(parts, sort_keys=True)
    return int(hashlib.sha256(text.encode()).hexdigest()[:12], 16)
