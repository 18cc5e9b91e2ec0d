"""Measures one row of points in the plane through a network and two that were pruned from it."""

from collections.abc import Hashable

from orchestrator.worker.kind import SHARE_OF_GPU, Kind, Made, StageLike
from orchestrator.worker.measuring import precision
from orchestrator.worker.networks import kept_in_process, merged_network
from orchestrator.worker.rows import landscape_rows
from orchestrator.worker.task import Task
from orchestrator.worker.work import Work
from workloads.config import LandscapeConfig
from workloads.measuring.landscape import Plane, embedded


@kept_in_process(maxsize=1)
def stored_plane(uri: str, keys: tuple[str, ...], shape: tuple[int, int, int]) -> Plane:
    """The plane through a network from the store and two that were pruned from it."""
    original, *pruned = (merged_network(uri, key, shape) for key in keys)
    models = [
        embedded(network, original[0], {int(number): chosen for number, chosen in description.places.items()})
        for network, description in pruned
    ]
    return Plane([original[0].model, *models])


def make(task: Task, work: Work) -> Made:
    """A row of `landscapes` for each point."""
    plane = stored_plane(task.context.store, work.inputs, task.dataset.shape)
    config = LandscapeConfig(**work.parameters["landscape"])
    rows = landscape_rows(plane, config, work.parameters["row"], task.dataset, precision(work))
    return Made(None, {"landscapes": rows})


def shares_task(stage: StageLike) -> Hashable:
    """Rows of the same plane."""
    return stage.inputs


KIND = Kind(code_version=1, make=make, gpus=SHARE_OF_GPU, tables=("landscapes",), shares_task=shares_task)
