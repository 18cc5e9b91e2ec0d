"""Benchmarks of model compression: train, fuse by optimal transport, prune over grids, fine-tune, measure, report.

    from metaprune import Experiment, run, load

    result = run(Experiment.load("quickstart"))
    frame = load(result.run)

Or one network, without any experiment: `Network.prepared`, `compress`, `fuse`.
"""

import importlib
import importlib.metadata
from typing import TYPE_CHECKING, Any

from metaprune import _packages

_packages.find_own_packages_first()

if TYPE_CHECKING:
    from orchestrator.running.driver import run
    from orchestrator.settings.experiment import Experiment
    from reports import load
    from workloads.compression import Sources, compress
    from workloads.config import CompressionConfig, FusionConfig
    from workloads.fusion import fuse
    from workloads.networks.folders import from_pretrained
    from workloads.structure.network import Network

    __version__: str

__all__ = [
    "CompressionConfig",
    "Experiment",
    "FusionConfig",
    "Network",
    "Sources",
    "__version__",
    "compress",
    "from_pretrained",
    "fuse",
    "load",
    "run",
]

_HOMES = {
    "CompressionConfig": "workloads.config",
    "Experiment": "orchestrator.settings.experiment",
    "FusionConfig": "workloads.config",
    "Network": "workloads.structure.network",
    "Sources": "workloads.compression",
    "compress": "workloads.compression",
    "from_pretrained": "workloads.networks.folders",
    "fuse": "workloads.fusion",
    "load": "reports",
    "run": "orchestrator.running.driver",
}


def __getattr__(name: str) -> Any:
    # Loaded when asked for, so that reading results needs neither Ray nor PyTorch.
    if name == "__version__":
        return importlib.metadata.version("metaprune")
    if name not in _HOMES:
        raise AttributeError(f"module 'metaprune' has no attribute '{name}'")
    with _packages.searched_last(_packages.users_folders()):
        return getattr(importlib.import_module(_HOMES[name]), name)


def __dir__() -> list[str]:
    return sorted(__all__)
