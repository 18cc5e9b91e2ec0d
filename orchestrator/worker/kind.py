"""What a kind of stage is. Each module of `orchestrator.stages` defines one, as `KIND`."""

from collections.abc import Callable, Hashable, Mapping
from dataclasses import dataclass, field
from typing import Any, Protocol

from torch import Tensor, nn

from orchestrator.worker.task import Task
from orchestrator.worker.work import Work
from workloads.config import TrainingConfig
from workloads.networks.checkpoints import Description
from workloads.training.objectives import Objective

WHOLE_GPU, SHARE_OF_GPU = 1.0, 0.25
Rows = dict[str, list[dict[str, Any]]]


class StageLike(Protocol):
    """A planned stage, or the same one on its way to a worker."""

    @property
    def key(self) -> str: ...
    @property
    def parameters(self) -> Mapping[str, Any]: ...
    @property
    def inputs(self) -> tuple[str, ...]: ...


@dataclass(frozen=True)
class Made:
    """What a stage made.

    Attributes:
        network: None where the stage only compares networks.
        rows: by table; a network without one in `evaluations` is yet to be measured.
        columns: of `evaluations` that say more of how the network was made.
        leaves: what it leaves for others that read it, where that is no network.
    """

    network: tuple[nn.Module, Description] | None
    rows: Rows = field(default_factory=dict)
    columns: Mapping[str, Any] = field(default_factory=dict)
    leaves: bytes | None = None

    @property
    def unmeasured(self) -> bool:
        """Whether there is a network that is yet to be measured."""
        return self.network is not None and "evaluations" not in self.rows


@dataclass(frozen=True)
class Lesson:
    """What a stage trains and how: all that the processes need that train a network together.

    Attributes:
        model: before it.
        pool: numbers of the training images.
        seed: of their order and augmentation.
        objective: what it brings down; None is the cross entropy of the labels.
    """

    model: nn.Module
    config: TrainingConfig
    pool: Tensor
    seed: int
    objective: Objective | None = None


def by_itself(stage: StageLike) -> Hashable:
    """Share a task with no other stage."""
    return stage.key


@dataclass(frozen=True)
class Kind:
    """A kind of stage.

    Attributes:
        code_version: enters the keys of its stages. Raise it when the code changes what a stage computes: results are
            then made again.
        make: what a stage does: from its parameters and input networks, the network that it makes or the rows.
        gpus: share of a GPU that a task takes where the cluster has GPUs and the experiment says nothing.
        tables: where the rows of its stages go, beside `timings` and `failures`.
        reads: the parts of the experiment that its result depends on, beside those of its inputs and what a grid says.
        shares_task: stages of the kind with equal values run in one task, which loads their inputs once.
        lesson: what it trains, where it learns in epochs and leaves snapshots, from which an interrupted stage goes on.
    """

    code_version: int
    make: Callable[[Task, Work], Made]
    gpus: float
    tables: tuple[str, ...]
    reads: tuple[str, ...] = ()
    shares_task: Callable[[StageLike], Hashable] = by_itself
    lesson: Callable[[Task, Work], Lesson] | None = None

    @property
    def trains(self) -> bool:
        """Whether it learns in epochs."""
        return self.lesson is not None
