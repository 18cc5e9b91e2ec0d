"""What a hub gives with the weights of a network: labels, preprocessing, licence."""

import functools
import hashlib
import importlib
import os
from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any

import torch
from torch import Tensor, nn


@dataclass(frozen=True)
class Preprocessing:
    """How images were prepared for a network when it was trained; None is not known.

    Attributes:
        size: height and width in pixels.
        resize: shorter side before the centre is cut out.
        mean, std: a channel, of pixels in [0, 1].
    """

    size: int | None = None
    resize: int | None = None
    mean: tuple[float, ...] | None = None
    std: tuple[float, ...] | None = None


@dataclass(frozen=True)
class Published:
    """Weights that somebody published.

    Attributes:
        state: state dict, floating-point tensors as float32.
        labels: for each output of the network, the names that it goes by; empty where they are not known.
        preprocessing: of its images.
        licence: of the weights, as its publisher names it; empty where that is not known.
        revision: which of what was published, such as a commit of the Hub or a tag; empty where that is not known.
    """

    state: Mapping[str, Tensor]
    labels: tuple[tuple[str, ...], ...] = ()
    preprocessing: Preprocessing = field(default_factory=Preprocessing)
    licence: str = ""
    revision: str = ""

    @functools.cached_property
    def digest(self) -> str:
        """16 hexadecimal digits over names, types, shapes and values."""
        total = hashlib.sha256()
        for name in sorted(self.state):
            tensor = self.state[name].contiguous()
            total.update(f"{name} {tensor.dtype} {tuple(tensor.shape)} ".encode())
            total.update(tensor.reshape(-1).view(torch.uint8).numpy().tobytes())
        return total.hexdigest()[:16]


def library(name: str) -> Any:
    """A library that networks come from.

    Raises:
        ValueError: it is not installed.
    """
    try:
        return importlib.import_module(name)
    except ImportError as error:
        raise ValueError(f"the models of {name} need the package '{name}': pip install {name}") from error


def float_state(network: nn.Module) -> dict[str, Tensor]:
    """The state dict of a network, floating-point tensors as float32."""
    state = network.state_dict()
    return {name: value.detach().float() if value.is_floating_point() else value for name, value in state.items()}


def cache_of_the_hub() -> str:
    """The folder in which huggingface_hub keeps what it downloads."""
    home = os.environ.get("HF_HOME", "~/.cache/huggingface")
    return os.environ.get("HF_HUB_CACHE") or f"{home}/hub"
