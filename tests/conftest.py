"""Settings, small networks and the local Ray that several test modules share."""

import gc
import warnings
from collections.abc import Iterator
from contextlib import ExitStack
from pathlib import Path

import pytest
import ray
import torch

from orchestrator import Experiment
from orchestrator.running import local_ray as running_here
from orchestrator.storage.schema import SCHEMAS
from workloads.config import DatasetConfig, ModelConfig
from workloads.data.datasets import load
from workloads.data.samples import Dataset
from workloads.networks.models import build


@pytest.fixture(autouse=True)
def _one_thread() -> None:
    torch.set_num_threads(1)


@pytest.fixture(scope="session")
def _ray_ends() -> Iterator[None]:
    yield
    end_ray()


@pytest.fixture(scope="module")
def local_ray(_ray_ends: None) -> None:
    """A Ray of two CPUs in this process. Modules share it, since workers take seconds to import PyTorch."""
    if not ray.is_initialized():
        start_ray()


its_end = ExitStack()


def start_ray() -> None:
    """Start a Ray of two CPUs in this process, with the present environment, in place of one that runs."""
    end_ray()
    its_end.enter_context(running_here.local_ray(cpus=2))


def end_ray() -> None:
    """End this process's Ray, if it has one."""
    with warnings.catch_warnings():
        warnings.simplefilter("ignore", ResourceWarning)  # Ray lets go of processes before the last has ended
        its_end.close()
        ray.shutdown()
        gc.collect()


@pytest.fixture(scope="session")
def digits() -> Dataset:
    """Digits at 32×32 pixels, 300 to learn and 100 to test."""
    return load(DatasetConfig(name="digits", size=32, augmentation=("crop",), train_samples=300, test_samples=100))


@pytest.fixture
def vgg() -> torch.nn.Module:
    """A narrow VGG11-BN whose batch-norms have statistics of their own."""
    return with_statistics(build(ModelConfig(name="vgg11_bn", width=0.125), channels=1, classes=10))


@pytest.fixture
def resnet() -> torch.nn.Module:
    """A narrow ResNet18, likewise."""
    return with_statistics(build(ModelConfig(name="resnet18", width=0.125), channels=1, classes=10))


def with_statistics(model: torch.nn.Module, seed: int = 0) -> torch.nn.Module:
    """Random affine parameters and statistics for every batch-norm, in evaluation mode."""
    generator = torch.Generator().manual_seed(seed)
    for module in model.modules():
        if isinstance(module, torch.nn.BatchNorm2d):
            for tensor in (module.weight, module.running_var):
                tensor.data.uniform_(0.5, 1.5, generator=generator)
            for tensor in (module.bias, module.running_mean):
                tensor.data.normal_(0, 0.2, generator=generator)
    return model.eval()


def memory() -> tuple[float, float]:
    """Share of this machine's memory in use, and GiB in all."""
    lines = (line.split() for line in Path("/proc/meminfo").read_text().splitlines())
    found = {name: int(words[0]) for name, *words in lines}
    return 1 - found["MemAvailable:"] / found["MemTotal:"], found["MemTotal:"] / 2**20


# What two runs of one experiment may differ in: how long things took, and where.
MEASURED_TIMES = [
    "seconds",
    *(field.name for field in SCHEMAS["evaluations"] if field.name.startswith("latency")),
]
TINY = {
    "name": "tiny",
    "dataset": {"name": "digits", "size": 32, "augmentation": ["crop"], "train_samples": 200, "test_samples": 60},
    "model": {"name": "vgg11_bn", "width": 0.0625},
    "training": {"epochs": 1, "batch_size": 50, "schedule": "constant", "learning_rate": 0.02},
    "pipelines": ["whole-data"],
    "pruning": {"groups": [0, 1], "sparsities": [0.3, 0.5]},
    "fine_tuning": {"epochs": 1, "step_epochs": 0, "batch_size": 50, "schedule": "constant"},
}


@pytest.fixture
def tiny() -> Experiment:
    """An experiment that runs in seconds."""
    return Experiment.model_validate(TINY)
