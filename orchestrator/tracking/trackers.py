"""The trackers that there are, and those that an experiment names."""

import importlib.util
import inspect
from collections.abc import Iterable, Mapping
from types import MappingProxyType

from orchestrator.tracking.interface import Tracker
from orchestrator.tracking.mlflow import MLflow
from orchestrator.tracking.tensorboard import TensorBoard
from orchestrator.tracking.wandb import Wandb
from workloads.config import ChoiceConfig
from workloads.plugins import Plugin, PluginKind

TRACKERS: Mapping[str, type[Tracker]] = MappingProxyType({"mlflow": MLflow, "tensorboard": TensorBoard, "wandb": Wandb})
"""By name, which is also that of the package that they import and of the extra that brings it."""
TRACKER = PluginKind(name="tracker", built_in="orchestrator.tracking.trackers:TRACKERS")
METHODS = tuple(name for name, _ in inspect.getmembers(Tracker, inspect.isfunction) if not name.startswith("_"))


def trackers_of(choices: Iterable[ChoiceConfig]) -> list[Plugin]:
    """The trackers of an experiment, ready to be made.

    Raises:
        ValueError: there is none of a name, it lacks a method or an option, or its package is not installed.
    """
    found = []
    for choice in choices:
        plugin = TRACKER.plugin(choice.name, choice.options)
        if lacking := [name for name in METHODS if not callable(getattr(plugin.function, name, None))]:
            raise ValueError(
                f"{plugin.where} has no method {', '.join(lacking)}: a tracker is a class with {', '.join(METHODS)}"
            )
        if choice.name in TRACKERS and importlib.util.find_spec(choice.name) is None:
            raise ValueError(
                f"{plugin.where} needs a package that is not installed: install metaprune's extra `{choice.name}`, or "
                f"`python -m pip install {choice.name}`, or leave it out of tracking"
            )
        found.append(plugin)
    return found
