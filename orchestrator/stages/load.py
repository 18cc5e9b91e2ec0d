"""Reads a published network from its checkpoint file."""

from orchestrator.worker.hardware import device
from orchestrator.worker.kind import SHARE_OF_GPU, Kind, Made
from orchestrator.worker.task import Task, without_code
from orchestrator.worker.work import Work
from workloads.config import ModelConfig
from workloads.networks import checkpoints
from workloads.networks.models import build


def make(task: Task, work: Work) -> Made:
    """The network, if the file is still the one that was planned with."""
    path = task.context.checkpoints[work.parameters["checkpoint"]]
    if checkpoints.file_digest(path) != work.parameters["checkpoint"]:
        raise ValueError(f"model.checkpoint '{path}' is not the file here that it was when the run was planned")
    config = ModelConfig(**without_code(work.parameters["model"]))
    model = build(config, channels=task.dataset.shape[0], classes=len(task.dataset.classes))
    checkpoints.load_state(model, checkpoints.read_state(path), path, any_width=True)  # planned as fitting
    model.to(device()).eval()
    return Made((model, task.describe(model, config)))


KIND = Kind(
    code_version=2, make=make, gpus=SHARE_OF_GPU, tables=("evaluations",), reads=("dataset", "model", "measuring")
)
