"""What a model's name means where it names a network of a hub, and its published weights for a data set's classes."""

import functools
import hashlib
import importlib.util
import json
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any, Protocol

from torch import Tensor, nn

from workloads.config import ModelConfig
from workloads.networks.hubs.published import Published
from workloads.networks.models import build

HUBS = {
    "timm": "workloads.networks.hubs.of_timm",
    "torchvision": "workloads.networks.hubs.of_torchvision",
    "hf": "workloads.networks.hubs.of_hugging_face",
}
"""The module of each hub, by what stands before the colon of a model's name."""

SUMMARIES = {
    "torchvision:NAME": "A classifier of torchvision, such as torchvision:resnet50.",
    "timm:NAME": "A network of timm, such as timm:vit_tiny_patch16_224; needs the package timm.",
    "hf:OWNER/NAME, hf:FOLDER": "An image classifier of transformers, on the Hub or in a folder; needs the package.",
}
"""What names of hubs look like, for `metaprune list models`."""


class Hub(Protocol):
    """What the module of a hub has to offer."""

    def build(self, name: str, num_classes: int, in_channels: int, options: dict[str, Any]) -> nn.Module:
        """The network of this name with random weights."""

    def published(self, name: str, weights: str | None, options: dict[str, Any]) -> Published:
        """Its weights, `weights` of them where there are several."""

    def source(self, name: str) -> str:
        """What defines the network: source code, and its configuration."""


@dataclass(frozen=True)
class HubModel:
    """A network of a hub: called like a model's function, it builds the network with random weights.

    Attributes:
        hub: `timm`, `torchvision` or `hf`.
        name: of the network there.
    """

    hub: str
    name: str

    def __call__(self, *, num_classes: int, in_channels: int = 3, **options: Any) -> nn.Module:
        """The network with random weights."""
        return self.module.build(self.name, num_classes, in_channels, options)

    @property
    def module(self) -> Hub:
        """The functions of its hub."""
        found: Any = importlib.import_module(HUBS[self.hub])
        hub: Hub = found
        return hub

    @property
    def digest(self) -> str:
        """16 hexadecimal digits over what defines the network."""
        return hashlib.sha256(self.module.source(self.name).encode()).hexdigest()[:16]


def hub_model(name: str) -> HubModel | None:
    """The network that a model's name means, where it is one of a hub: `timm:resnet18`, `hf:microsoft/resnet-18`."""
    hub, _, of_hub = name.partition(":")
    if hub not in HUBS or not of_hub:
        return None
    if importlib.util.find_spec(hub) and callable(getattr(importlib.import_module(hub), of_hub, None)):
        return None  # such as `timm:create_model`, or a function in a file of the user's that is called hf.py
    return HubModel(hub, of_hub)


@functools.lru_cache(maxsize=2)
def _published(name: str, weights: str | None, options: str) -> Published:
    found = hub_model(name)
    if found is None:
        raise ValueError(
            f"model '{name}' has pretrained or weights, which are for the models of {', '.join(HUBS)}, such as "
            f"'timm:resnet18': give model.checkpoint"
        )
    return found.module.published(found.name, weights, json.loads(options))


def published(config: ModelConfig) -> Published:
    """The published weights that a model is to start from.

    Raises:
        ValueError: there are none, or they cannot be had; says where to put which file.
    """
    return _published(config.name, config.weights, json.dumps(config.options, sort_keys=True))


def state_for(config: ModelConfig, *, channels: int, classes: Sequence[str]) -> dict[str, Tensor]:
    """The published weights, with the outputs for a data set's classes in its order.

    Raises:
        ValueError: the network does not know the classes, or see `published`.
    """
    found = published(config)
    rows = rows_of(found.labels, classes, config.name)
    state = dict(found.state)
    if rows is None:
        return state
    sizes = [
        {name: tuple(tensor.shape) for name, tensor in build(config, channels=channels, classes=n).state_dict().items()}
        for n in (len(found.labels), len(found.labels) + 1)
    ]
    for name in state:
        if sizes[0].get(name) != sizes[1].get(name):
            state[name] = state[name][rows]
    return state


def rows_of(labels: Sequence[Sequence[str]], classes: Sequence[str], model: str) -> list[int] | None:
    """For each class of a data set the output that stands for it; None is all of them, in their order.

    Args:
        labels: for each output of a network the names that it goes by; empty where they are not known.

    Raises:
        ValueError: some of the classes are not among the outputs.
    """
    numbers = {_plain(name): number for number, names in reversed(list(enumerate(labels))) for name in names}
    found = [numbers.get(_plain(name)) for name in classes]
    rows = [number for number in found if number is not None]
    if len(rows) == len(classes) == len(set(rows)):
        return None if rows == list(range(len(labels))) else rows
    if len(labels) in (0, len(classes)) and not rows:
        return None  # their names say nothing of each other, so that the numbers have to agree
    lacking = [name for name, number in zip(classes, found, strict=True) if number is None]
    known = ", ".join(names[0] for names in labels[:3])
    raise ValueError(
        f"the published weights of model '{model}' know {len(labels)} classes ({known}, ...), but not "
        f"{', '.join(map(repr, lacking[:3]))} of the data set: name its classes as they do, or leave "
        f"pretrained and weights out and train"
    )


def _plain(name: str) -> str:
    return " ".join(name.casefold().replace("_", " ").replace("-", " ").split())
