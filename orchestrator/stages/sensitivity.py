"""Measures what a network loses as one group becomes narrower, for searches, on images that nothing else is shown."""

from orchestrator.worker.compressing import compression_config, curve_as_bytes, search_sources, widths_before
from orchestrator.worker.kind import SHARE_OF_GPU, Kind, Made
from orchestrator.worker.task import Task
from orchestrator.worker.work import Work
from workloads.compression.allocation.sensitivity import curve_through, measured_losses


def make(task: Task, work: Work) -> Made:
    """A row with the losses at all widths, and the curve through them for the searches that read it."""
    base, description = task.merged(work.inputs[0])
    config = compression_config(work)
    assert config.group is not None
    group = base.structure.groups[config.group]
    before = widths_before(base, description)[group.number]
    losses = measured_losses(base, config, search_sources(task, work, description), [group], [before])[group.number]
    row = {
        "of_group": group.number,
        "layer": group.layers[0],
        "neurons": before,
        "widths": list(losses),
        "losses": list(losses.values()),
    }
    return Made(None, {"sensitivities": [row]}, leaves=curve_as_bytes(curve_through(group.size, losses)))


KIND = Kind(code_version=1, make=make, gpus=SHARE_OF_GPU, tables=("sensitivities",))
