"""What tasks reserve of a machine or cluster: `resources` in an experiment."""

import ast
import pkgutil
from collections.abc import Iterator
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

from pydantic import Field, create_model

from workloads.config import Config, Count, Positive

STAGES = Path(__file__).parents[1] / "stages"


class TaskConfig(Config):
    """What Ray reserves for one task."""

    cpus: Annotated[float, Field(gt=0)] = 1
    """CPU cores, and threads that PyTorch uses."""
    gpus: Annotated[float, Field(ge=0)] | None = None
    """GPUs, or a share of one; null takes a whole one to train and a quarter for everything else, where the cluster has
    GPUs."""
    time_limit: Annotated[float, Field(gt=0)] | None = None
    """Seconds that a stage may take before it counts as failed; null is no limit."""
    memory: Annotated[float, Field(gt=0)] | None = None
    """Memory in GiB that a task may need: no more tasks start on a node than have room there; null asks for none."""


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

    Their names and first lines are read without importing them, as they load PyTorch.
    """
    for module in pkgutil.iter_modules([str(STAGES)]):
        source = (STAGES / f"{module.name}.py").read_text(encoding="utf-8")
        about = (ast.get_docstring(ast.parse(source)) or "").partition("\n")[0]
        yield module.name, (TaskConfig, Field(TaskConfig(), description=about))


if TYPE_CHECKING:
    ResourcesConfig = AllTasksConfig
else:
    ResourcesConfig = create_model("ResourcesConfig", __base__=AllTasksConfig, **dict(task_fields()))
    ResourcesConfig.__doc__ = "What the tasks of each kind of stage reserve, and how many are submitted at a time."
