"""Modules under the names that they had in version 0.1, for code that imports them so.

`from workloads.groups import Maps` finds `Maps` in `workloads.structure.groups`, where it is now.
"""

import importlib
import sys
from collections.abc import Mapping, Sequence
from importlib.abc import Loader, MetaPathFinder
from importlib.machinery import ModuleSpec
from types import ModuleType
from typing import Any

WORKLOADS = {
    "alignment": ("fusion.alignment",),
    "augmentation": ("data.augmentation",),
    "checkpoints": ("networks.checkpoints",),
    "clustering": ("compression.clustering",),
    "criteria": ("compression.criteria",),
    "criteria.gradient": ("compression.criteria.gradient",),
    "criteria.independence": ("compression.criteria.independence",),
    "criteria.magnitude": ("compression.criteria.magnitude",),
    "datasets": ("data.datasets", "data.builtin", "data.parquet", "data.image_folder", "data.roots"),
    "errors": ("messages",),
    "evaluation": ("measuring.evaluation",),
    "exporting": ("networks.exporting",),
    "groups": ("structure.groups", "structure.layers", "structure.batch_norm", "compression.pairings"),
    "landscape": ("measuring.landscape",),
    "methods": ("compression.methods",),
    "methods.fusing": ("compression.methods.fusing",),
    "methods.reconstructing": ("compression.methods.reconstructing",),
    "methods.selecting": ("compression.methods.selecting",),
    "models": ("networks.models",),
    "precision": ("measuring.precision",),
    "repair": ("compression.repair", "compression.calls"),
    "samples": ("data.samples", "data.decoding", "data.cache"),
    "snapshots": ("training.snapshots",),
    "splits": ("data.splits",),
    "tracing": ("structure.finding",),
    "transport": ("compression.transport",),
}
ORCHESTRATOR = {
    "driver": ("running.driver", "running.connection"),
    "experiment": ("settings.experiment",),
    "facts": ("planning.facts",),
    "plan": ("planning.plan", "planning.building"),
    "progress": ("running.progress",),
    "schema": ("storage.schema",),
    "store": ("storage.store",),
}


class MovedModules(MetaPathFinder, Loader):
    """Makes a module for each old name; it looks its attributes up where they are now.

    Args:
        package: `workloads` or `orchestrator`.
        homes: by old name, the modules that hold what the old one held.
    """

    def __init__(self, package: str, homes: Mapping[str, Sequence[str]]):
        self.homes = {f"{package}.{old}": [f"{package}.{new}" for new in homes[old]] for old in homes}

    def find_spec(
        self, name: str, path: Sequence[str] | None = None, target: ModuleType | None = None
    ) -> ModuleSpec | None:
        """A spec for an old name; None for every other."""
        if name not in self.homes:
            return None
        holds_others = any(other.startswith(f"{name}.") for other in self.homes)
        return ModuleSpec(name, self, is_package=holds_others)

    def exec_module(self, module: ModuleType) -> None:
        """Let the module find its attributes in the new ones."""
        homes = self.homes[module.__name__]
        module.__doc__ = f"The old name of {' and '.join(homes)}."

        def __getattr__(name: str) -> Any:
            if name.startswith("__"):  # asked for by those who look at all modules, while others are being imported
                raise AttributeError(f"module '{module.__name__}' has no attribute '{name}'")
            for home in homes:
                found = importlib.import_module(home)
                if hasattr(found, name):
                    return getattr(found, name)
            raise AttributeError(f"module '{module.__name__}' is now {' and '.join(homes)}, which has no '{name}'")

        module.__dict__["__getattr__"] = __getattr__


def keep_old_names(package: str, homes: Mapping[str, Sequence[str]]) -> None:
    """Let the old names of a package's modules be imported."""
    sys.meta_path.append(MovedModules(package, homes))
