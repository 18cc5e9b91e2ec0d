"""What tasks reserve of a machine or cluster: `resources` in an experiment."""

import ast
import pkgutil
from collections.abc import Iterator
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

from pydantic import Field, create_model, model_validator

from workloads.config import Config, Count, Positive

STAGES = Path(__file__).parents[1] / "stages"


class TaskConfig(Config):
    """What Ray reserves for one task."""

    cpus: Annotated[float, Field(gt=0)] = 1
    """CPU cores, and threads that PyTorch uses; divided among the workers of a training, each of which gets one at
    least."""
    gpus: Annotated[float, Field(ge=0)] | None = None
    """GPUs, or a share of one; null takes a whole one to train and a quarter for everything else, where the cluster has
    GPUs. A training on several is divided among as many workers."""
    time_limit: Annotated[float, Field(gt=0)] | None = None
    """Seconds that a stage may take before it counts as failed; null is no limit."""
    memory: Annotated[float, Field(gt=0)] | None = None
    """Memory in GiB that a task may need: no more tasks start on a node than have room there; null asks for none. It is
    divided among the workers of a training."""

    @property
    def processes(self) -> int:
        """How many processes work on a stage together."""
        return 1

    @property
    def cpus_each(self) -> float:
        """CPU cores of each of them."""
        return self.cpus if self.processes == 1 else max(1.0, self.cpus / self.processes)


class TrainingTaskConfig(TaskConfig):
    """What Ray reserves for a training, by one process or by several that divide each batch."""

    workers: Positive | None = None
    """Processes that train the network together, each on its part of every batch and with a GPU of its own; null is one
    for each of `gpus`. With `gpus: 0` they train on CPUs."""

    @model_validator(mode="after")
    def _consistent(self) -> "TrainingTaskConfig":
        gpus = self.gpus or 0
        if gpus > 1 and gpus != int(gpus):
            raise ValueError(f"gpus is {gpus:g}: a training takes a share of one GPU, or a whole number of them")
        if self.workers is not None and gpus and gpus != self.workers and max(gpus, self.workers) > 1:
            raise ValueError(
                f"gpus is {gpus:g} and workers is {self.workers}, but each worker has a GPU of its own: leave one of "
                f"the two out"
            )
        return self

    @property
    def processes(self) -> int:
        """How many processes work on a stage together."""
        return self.workers or max(1, int(self.gpus or 1))


class AllTasksConfig(Config):
    """Settings for the tasks of all kinds; each kind of stage has a `TaskConfig` of its own beside them."""

    window: Positive | None = None
    """Tasks submitted at a time; null is four for each CPU core of the cluster, at least 16."""
    snapshot_every: Count = 10
    """Epochs after which a training leaves a snapshot in the run, to go on from if its worker dies; 0 leaves none."""
    retries: Count = 3
    """Times that Ray starts a task again whose worker or node died."""

    def task(self, kind: str) -> TaskConfig:
        """What tasks of a kind such as `fine-tune` reserve."""
        found: TaskConfig = getattr(self, kind.replace("-", "_"))
        return found


def task_fields() -> Iterator[tuple[str, Any]]:
    """A setting for each kind of stage, which are the modules of `orchestrator.stages`.

    Their names, their first lines and whether they train (`lesson` of their `KIND`) are read without importing them,
    as they load PyTorch.
    """
    for module in pkgutil.iter_modules([str(STAGES)]):
        source = (STAGES / f"{module.name}.py").read_text(encoding="utf-8")
        tree = ast.parse(source)
        about = (ast.get_docstring(tree) or "").partition("\n")[0]
        trains = any(isinstance(node, ast.keyword) and node.arg == "lesson" for node in ast.walk(tree))
        config = TrainingTaskConfig if trains else TaskConfig
        yield module.name, (config, Field(config(), description=about))


if TYPE_CHECKING:
    ResourcesConfig = AllTasksConfig
else:
    ResourcesConfig = create_model("ResourcesConfig", __base__=AllTasksConfig, **dict(task_fields()))
    ResourcesConfig.__doc__ = "What the tasks of each kind of stage reserve, and how many are submitted at a time."
