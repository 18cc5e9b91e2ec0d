"""Reads a published network from its checkpoint file, or from a hub."""

from orchestrator.worker.hardware import device
from orchestrator.worker.kind import SHARE_OF_GPU, Kind, Made
from orchestrator.worker.task import Task, without_code
from orchestrator.worker.work import Work
from workloads.config import ModelConfig
from workloads.networks import checkpoints, weights
from workloads.networks.hubs.names import published, state_for
from workloads.networks.models import build


def make(task: Task, work: Work) -> Made:
    """The network, if its weights are still those that were planned with."""
    config = ModelConfig(**without_code(work.parameters["model"]))
    channels, classes = task.dataset.shape[0], task.dataset.classes
    model = build(config, channels=channels, classes=len(classes))
    if config.from_hub:
        origin, digest = f"the published weights of {config.name}", published(config).digest
        state = state_for(config, channels=channels, classes=classes)
    else:
        origin = task.context.checkpoints[work.parameters["checkpoint"]]
        state, digest = weights.read_state(origin), weights.file_digest(origin)
    if digest != work.parameters["checkpoint"]:
        raise ValueError(f"model.checkpoint '{origin}' is not the same here that it was when the run was planned")
    checkpoints.load_state(model, state, origin, any_width=True)  # planned as fitting
    model.to(device()).eval()
    return Made((model, task.describe(model, config)))


KIND = Kind(
    code_version=2, make=make, gpus=SHARE_OF_GPU, tables=("evaluations",), reads=("dataset", "model", "measuring")
)
